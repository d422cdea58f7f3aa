-- Schema 1 of the spool (PRAGMA user_version = 1). Times are Unix seconds.
-- All names begin with mail_: the database may one day be the application's own.

CREATE TABLE mail_message (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: names in the Maildir hang on it
    sender      TEXT NOT NULL,                      -- '' is the null sender
    message_id  TEXT NOT NULL,
    size_bytes  INTEGER NOT NULL,
    created_at  REAL NOT NULL,
    expires_at  REAL NOT NULL
);

-- Apart from the row, so that lists and claims don't read past bodies. Gone once all recipients are sent.
CREATE TABLE mail_body (
    mail_id  INTEGER PRIMARY KEY REFERENCES mail_message (id),
    body     BLOB NOT NULL
);

CREATE TABLE mail_recipient (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    mail_id     INTEGER NOT NULL REFERENCES mail_message (id),
    address     TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('queued', 'sending', 'sent', 'deferred', 'failed', 'expired', 'unknown')),
    attempts    INTEGER NOT NULL DEFAULT 0,   -- claims, never set back
    failures    INTEGER NOT NULL DEFAULT 0,   -- attempts that count for the pause before the next
    unknowns    INTEGER NOT NULL DEFAULT 0,   -- attempts cut off behind the final dot: possible duplicates
    due_at      REAL NOT NULL,
    past_dot    INTEGER NOT NULL DEFAULT 0,   -- the final dot of the attempt in hand may be out
    boot_id     TEXT NOT NULL DEFAULT '',     -- of the host when it was claimed
    answer      TEXT NOT NULL DEFAULT '',
    updated_at  REAL NOT NULL
);

CREATE INDEX mail_recipient_mail ON mail_recipient (mail_id);
CREATE INDEX mail_recipient_due ON mail_recipient (state, due_at) WHERE state NOT IN ('sent', 'failed', 'expired');
