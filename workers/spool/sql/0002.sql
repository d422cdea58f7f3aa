-- Schema 2. Times are Unix seconds. All names begin with mail_: the database may be the application's own.

ALTER TABLE mail_message RENAME TO mail_message_1;
ALTER TABLE mail_body RENAME TO mail_body_1;
ALTER TABLE mail_recipient RENAME TO mail_recipient_1;

-- schema: the number of the last migration; routing: what `lane` was computed from; flush: grows when everything shall
-- be tried at once; pruned_STATE and pruned_unknowns: what was counted in rows that are gone.
CREATE TABLE mail_meta (
    name   TEXT PRIMARY KEY,
    value
) WITHOUT ROWID;

-- A worker that may hold claims (leases). A claim's number is owner << 32 plus a count of its own.
CREATE TABLE mail_owner (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: claims hang on it
    host        TEXT NOT NULL,
    boot_id     TEXT NOT NULL,                      -- of that host, random(4)
    pid_space   INTEGER NOT NULL,                   -- inode of its PID namespace
    pid         INTEGER NOT NULL,
    started     INTEGER NOT NULL,                   -- in clock ticks after boot, proc(5)
    expires_at  REAL NOT NULL                       -- CLOCK_BOOTTIME
);

CREATE TABLE mail_message (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: names in the Maildir hang on it
    sender      TEXT NOT NULL,                      -- '' is the null sender
    message_id  TEXT NOT NULL,
    size_bytes  INTEGER NOT NULL,
    eight_bit   INTEGER NOT NULL DEFAULT 0,         -- has bytes over 127
    long_lines  INTEGER NOT NULL DEFAULT 0,         -- has lines over 998 octets
    created_at  REAL NOT NULL,
    expires_at  REAL NOT NULL,
    identifier  TEXT,                               -- the same one is queued once
    bounce_of   INTEGER,                            -- the mail that this one tells about
    warned      INTEGER NOT NULL DEFAULT 0          -- its sender was told of the delay
);
CREATE UNIQUE INDEX mail_message_identifier ON mail_message (identifier) WHERE identifier IS NOT NULL;
CREATE INDEX mail_message_bounce ON mail_message (created_at) WHERE bounce_of IS NOT NULL;

-- Apart from the row, so that lists and claims don't read past bodies; in parts, so that none is ever whole in memory.
CREATE TABLE mail_body (
    mail_id  INTEGER NOT NULL REFERENCES mail_message (id),
    part     INTEGER NOT NULL,
    body     BLOB NOT NULL,
    PRIMARY KEY (mail_id, part)
);

CREATE TABLE mail_recipient (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    mail_id     INTEGER NOT NULL REFERENCES mail_message (id),
    address     TEXT NOT NULL,
    lane        TEXT NOT NULL,                -- the relay that it goes to, by its name in mail.toml
    state       TEXT NOT NULL CHECK (state IN
        ('queued', 'sending', 'sent', 'deferred', 'held', 'failed', 'expired', 'cancelled', 'unknown')),
    priority    INTEGER NOT NULL,             -- 0 goes first, 9 last
    due_at      REAL NOT NULL,                -- 0: as soon as may be, in order of age
    attempts    INTEGER NOT NULL DEFAULT 0,   -- claims, never set back
    failures    INTEGER NOT NULL DEFAULT 0,   -- attempts that count for the pause before the next
    unknowns    INTEGER NOT NULL DEFAULT 0,   -- attempts cut off behind the final dot: possible duplicates
    claim       INTEGER NOT NULL DEFAULT 0,   -- the fencing number of the last claim
    answer      TEXT NOT NULL DEFAULT '',
    updated_at  REAL NOT NULL
);

-- The trouble of a lane, kept by the sender for those who ask why.
CREATE TABLE mail_lane (
    lane        TEXT PRIMARY KEY,
    problem     TEXT NOT NULL,
    until       REAL NOT NULL,
    since       REAL NOT NULL
) WITHOUT ROWID;

-- The public way in for SQL: insert a row in a transaction of your own. The last three columns are the sender's.
CREATE TABLE mail_outbox (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    template    TEXT,
    sender      TEXT,
    recipient   TEXT NOT NULL,
    data        TEXT,                         -- JSON, for the template
    subject     TEXT,
    body_text   TEXT,
    body_html   TEXT,
    priority    INTEGER,
    send_at     REAL,
    expires     REAL,
    identifier  TEXT,
    created_at  REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0),
    mail_id     INTEGER,
    state       TEXT,
    error       TEXT
);
CREATE INDEX mail_outbox_new ON mail_outbox (id) WHERE state IS NULL;
CREATE INDEX mail_outbox_mail ON mail_outbox (mail_id) WHERE mail_id IS NOT NULL;

INSERT INTO mail_message (id, sender, message_id, size_bytes, created_at, expires_at, eight_bit)
    SELECT id, sender, message_id, size_bytes, created_at, expires_at, 1 FROM mail_message_1;
INSERT INTO mail_body (mail_id, part, body) SELECT mail_id, 0, body FROM mail_body_1;
-- A claim of schema 1 counts as past the final dot: whether it was is written for its own sender only.
INSERT INTO mail_recipient (id, mail_id, address, lane, state, priority, due_at, attempts, failures, unknowns, answer, updated_at)
    SELECT id, mail_id, address, '', CASE state WHEN 'sending' THEN 'unknown' ELSE state END, 5,
        CASE state WHEN 'queued' THEN 0 ELSE due_at END, attempts, failures, unknowns + (state = 'sending'), answer, updated_at
    FROM mail_recipient_1;
-- Numbers of mails that were deleted are not used again either.
DELETE FROM sqlite_sequence WHERE name IN ('mail_message', 'mail_recipient');
INSERT INTO sqlite_sequence (name, seq)
    SELECT replace(name, '_1', ''), seq FROM sqlite_sequence WHERE name IN ('mail_message_1', 'mail_recipient_1');
DROP TABLE mail_recipient_1;
DROP TABLE mail_body_1;
DROP TABLE mail_message_1;

CREATE INDEX mail_recipient_mail ON mail_recipient (mail_id);
-- These three share out all rows but those that are sent, so that nothing grows slower with what was sent before.
CREATE INDEX mail_recipient_ready ON mail_recipient (lane, priority, state, due_at)
    WHERE state IN ('queued', 'deferred', 'unknown');
CREATE INDEX mail_recipient_sending ON mail_recipient (claim) WHERE state = 'sending';
CREATE INDEX mail_recipient_rest ON mail_recipient (state) WHERE state IN ('held', 'failed', 'expired', 'cancelled');
