-- Schema 1 of imap-sync. Times are Unix seconds. All of it can be made anew from the files' names and the servers.

CREATE TABLE imap_meta (
    name   TEXT PRIMARY KEY,
    value
) WITHOUT ROWID;

-- What is known of an account; how it stands is written by the worker, what is asked of it by commands.
CREATE TABLE imap_account (
    key            INTEGER PRIMARY KEY AUTOINCREMENT,
    name           TEXT NOT NULL UNIQUE,
    mode           TEXT NOT NULL DEFAULT 'none',     -- notify, idle, poll
    state          TEXT NOT NULL DEFAULT 'waiting',  -- in step, syncing, waiting, paused
    kind           TEXT NOT NULL DEFAULT '',         -- of the problem: network, auth, tls, secret, disk, server
    problem        TEXT NOT NULL DEFAULT '',
    until          REAL NOT NULL DEFAULT 0,          -- when it is tried again
    synced_at      REAL NOT NULL DEFAULT 0,
    demoted        TEXT NOT NULL DEFAULT '',         -- extensions in which the server contradicted itself
    present_until  REAL NOT NULL DEFAULT 0,
    debug_until    REAL NOT NULL DEFAULT 0,
    asked          INTEGER NOT NULL DEFAULT 0,       -- passes asked for by a command, and done
    done           INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE imap_folder (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    account     INTEGER NOT NULL REFERENCES imap_account (key),
    name        BLOB NOT NULL,                   -- as the server writes it
    delimiter   BLOB,
    path        TEXT NOT NULL,                   -- the folder on disk, below the account's
    epoch       INTEGER NOT NULL DEFAULT 0,      -- UIDVALIDITY; 0: never opened
    uidnext     INTEGER NOT NULL DEFAULT 0,      -- all below is here, gone, or known as poison
    modseq      INTEGER NOT NULL DEFAULT 0,      -- all changes up to here are known; moves together with uidnext
    messages    INTEGER NOT NULL DEFAULT 0,      -- on the server when it was last in step
    held        INTEGER NOT NULL DEFAULT 0,      -- rows of this epoch
    mailbox_id  BLOB,
    synced_at   REAL NOT NULL DEFAULT 0,
    full_at     REAL NOT NULL DEFAULT 0,
    mtime_ns    INTEGER NOT NULL DEFAULT 0,      -- of cur, as we left it
    epochs      INTEGER NOT NULL DEFAULT 0,      -- changes of UIDVALIDITY in a row
    UNIQUE (account, name),
    UNIQUE (account, path)
);

CREATE TABLE imap_message (
    folder      INTEGER NOT NULL REFERENCES imap_folder (id),
    epoch       INTEGER NOT NULL,
    uid         INTEGER NOT NULL,
    size_bytes  INTEGER NOT NULL,
    date        INTEGER NOT NULL,                -- INTERNALDATE
    flags       TEXT NOT NULL,                   -- with keywords, sorted, spaces between
    digest      BLOB,                            -- blake2b-128 of the content; NULL when it was found by its name
    identity    BLOB,                            -- EMAILID or X-GM-MSGID
    PRIMARY KEY (folder, epoch, uid)
) WITHOUT ROWID;
-- A content that is here already is found by these; by time first, since what arrives together lies together.
CREATE INDEX imap_message_content ON imap_message (date, size_bytes, digest);
CREATE INDEX imap_message_identity ON imap_message (identity) WHERE identity IS NOT NULL;

CREATE TABLE imap_poison (
    folder      INTEGER NOT NULL REFERENCES imap_folder (id),
    epoch       INTEGER NOT NULL,
    uid         INTEGER NOT NULL,
    why         TEXT NOT NULL,
    tries       INTEGER NOT NULL,
    since       REAL NOT NULL,
    next_try    REAL NOT NULL,
    PRIMARY KEY (folder, epoch, uid)
) WITHOUT ROWID;

-- Letters of the outbox folders, by Message-ID with content. Kept for ever: each is queued in smtp-spool once.
CREATE TABLE imap_outgoing (
    account       INTEGER NOT NULL,
    digest        BLOB NOT NULL,
    state         TEXT NOT NULL,                 -- intent, queued, moving, over
    spool_seq     INTEGER NOT NULL,              -- the spool's last mail when the intent was written: ours has a higher number
    sent_epoch    INTEGER NOT NULL DEFAULT 0,    -- UIDVALIDITY and UIDNEXT of the sent folder before the move
    sent_uidnext  INTEGER NOT NULL DEFAULT 0,
    at            REAL NOT NULL,
    PRIMARY KEY (account, digest)
) WITHOUT ROWID;
CREATE INDEX imap_outgoing_open ON imap_outgoing (account) WHERE state IN ('queued', 'moving');

-- Messages that lie in the outbox folders: what each is, or why it is not sent.
CREATE TABLE imap_outbox (
    account     INTEGER NOT NULL,
    folder      BLOB NOT NULL,                   -- its name as the server writes it
    epoch       INTEGER NOT NULL,
    uid         INTEGER NOT NULL,
    size_bytes  INTEGER NOT NULL,
    date        INTEGER NOT NULL,
    digest      BLOB,                            -- NULL when it was never looked into
    why         TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (account, folder, epoch, uid)
) WITHOUT ROWID;
