-- name: add_account
INSERT INTO imap_account (name) VALUES (?) ON CONFLICT (name) DO NOTHING;
-- name: account
SELECT key, demoted, present_until, debug_until, asked, done FROM imap_account WHERE name = ?;
-- name: accounts
SELECT key, name, present_until, debug_until, asked, done FROM imap_account;
-- name: all_accounts
SELECT a.key, a.name, a.mode, a.state, a.kind, a.problem, a.until, a.synced_at, a.demoted, a.present_until, a.debug_until,
    (SELECT count(*) FROM imap_folder f WHERE f.account = a.key),
    (SELECT coalesce(sum(held), 0) FROM imap_folder f WHERE f.account = a.key) FROM imap_account a ORDER BY a.name;
-- name: account_state
UPDATE imap_account SET mode = ?, state = ?, kind = ?, problem = ?, until = ?, synced_at = max(synced_at, ?) WHERE key = ?;
-- name: demote
UPDATE imap_account SET demoted = ? WHERE key = ?;
-- name: present
UPDATE imap_account SET present_until = ? WHERE name = ?;
-- name: debug
UPDATE imap_account SET debug_until = ? WHERE name = ?;
-- name: debug_all
UPDATE imap_account SET debug_until = ?;
-- name: ask
UPDATE imap_account SET asked = asked + 1 WHERE name = ? RETURNING asked;
-- name: answered
UPDATE imap_account SET done = max(done, ?) WHERE key = ?;
-- name: progress
SELECT done, kind, problem, key FROM imap_account WHERE name = ?;
-- name: folders
SELECT id, name, delimiter, path, epoch, uidnext, modseq, messages, held, mailbox_id, synced_at, full_at, mtime_ns, epochs, held
    FROM imap_folder WHERE account = ? ORDER BY name;
-- name: folders_counted
SELECT id, name, delimiter, path, epoch, uidnext, modseq, messages, held, mailbox_id, synced_at, full_at, mtime_ns, epochs,
    (SELECT count(*) FROM imap_message m WHERE m.folder = f.id AND m.epoch = f.epoch) FROM imap_folder f WHERE account = ? ORDER BY name;
-- name: add_folder
INSERT INTO imap_folder (account, name, delimiter, path, mailbox_id) VALUES (?, ?, ?, ?, ?) RETURNING id;
-- name: rename_folder
UPDATE imap_folder SET name = ?, delimiter = ?, path = ?, modseq = 0 WHERE id = ?;
-- name: delete_folder
DELETE FROM imap_folder WHERE id = ?;
-- name: delete_messages
DELETE FROM imap_message WHERE folder = ?;
-- name: delete_poison
DELETE FROM imap_poison WHERE folder = ?;
-- name: settle
UPDATE imap_folder SET epoch = :epoch, uidnext = :uidnext, modseq = :modseq, messages = :messages, mailbox_id = :mailbox_id,
    synced_at = :synced_at, full_at = :full_at, mtime_ns = :mtime_ns, epochs = :epochs,
    held = (SELECT count(*) FROM imap_message WHERE folder = :id AND epoch = :epoch) WHERE id = :id;
-- name: settle_quick
UPDATE imap_folder SET uidnext = :uidnext, modseq = :modseq, messages = :messages, mailbox_id = :mailbox_id,
    synced_at = :synced_at, full_at = :full_at, mtime_ns = :mtime_ns, epochs = :epochs, held = :held WHERE id = :id;
-- name: distrust
UPDATE imap_folder SET uidnext = 0, modseq = 0 WHERE id = ?;
-- name: unsettle
UPDATE imap_folder SET epoch = ?, epochs = ?, uidnext = 0, modseq = 0 WHERE id = ?;
-- name: uids
SELECT uid FROM imap_message WHERE folder = ? AND epoch = ? AND uid >= ? ORDER BY uid;
-- name: messages
SELECT uid, size_bytes, date, flags, digest, identity FROM imap_message
    WHERE folder = ? AND epoch = ? AND uid BETWEEN ? AND ? ORDER BY uid;
-- name: old_messages
SELECT epoch, uid, size_bytes, date, flags, digest, identity FROM imap_message WHERE folder = ?1 AND epoch < ?2
    UNION ALL SELECT epoch, uid, size_bytes, date, flags, digest, identity FROM imap_message WHERE folder = ?1 AND epoch > ?2;
-- name: has_old
SELECT 1 FROM imap_message WHERE folder = ?1 AND (epoch < ?2 OR epoch > ?2) LIMIT 1;
-- name: add_message
INSERT OR REPLACE INTO imap_message (folder, epoch, uid, size_bytes, date, flags, digest, identity) VALUES (?, ?, ?, ?, ?, ?, ?, ?);
-- name: set_flags
UPDATE imap_message SET flags = ? WHERE folder = ? AND epoch = ? AND uid = ?;
-- name: mark_anew
UPDATE imap_message SET date = ?, flags = ?, identity = coalesce(?, identity) WHERE folder = ? AND epoch = ? AND uid = ?;
-- name: drop_message
DELETE FROM imap_message WHERE folder = ? AND epoch = ? AND uid = ?;
-- name: same_content
SELECT f.path, m.epoch, m.uid, m.size_bytes, m.date, m.flags FROM imap_message m JOIN imap_folder f ON f.id = m.folder
    WHERE m.date = ? AND m.size_bytes = ? AND m.digest = ? AND f.account = ? LIMIT 1;
-- name: same_identity
SELECT f.path, m.epoch, m.uid, m.size_bytes, m.date, m.flags, m.digest FROM imap_message m JOIN imap_folder f ON f.id = m.folder
    WHERE m.identity = ? AND m.date = ? AND f.account = ? LIMIT 1;
-- name: poison
SELECT uid, tries, next_try, why FROM imap_poison WHERE folder = ? AND epoch = ? ORDER BY uid;
-- name: add_poison
INSERT INTO imap_poison (folder, epoch, uid, why, tries, since, next_try) VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6)
    ON CONFLICT (folder, epoch, uid) DO UPDATE SET why = ?4, tries = tries + 1, next_try = ?6;
-- name: poison_due
SELECT DISTINCT p.folder FROM imap_poison p JOIN imap_folder f ON f.id = p.folder
    WHERE f.account = ? AND p.epoch = f.epoch AND p.next_try <= ?;
-- name: drop_poison
DELETE FROM imap_poison WHERE folder = ? AND epoch = ? AND uid = ?;
-- name: all_poison
SELECT f.account, f.name, p.uid, p.why, p.tries, p.since, p.next_try FROM imap_poison p JOIN imap_folder f ON f.id = p.folder
    WHERE p.epoch = f.epoch ORDER BY f.account, f.name, p.uid;
-- name: outgoing
SELECT state, spool_seq, sent_epoch, sent_uidnext FROM imap_outgoing WHERE account = ? AND digest = ?;
-- name: outgoing_open
SELECT digest FROM imap_outgoing WHERE account = ? AND state IN ('queued', 'moving');
-- name: add_outgoing
INSERT INTO imap_outgoing (account, digest, state, spool_seq, at) VALUES (?, ?, 'intent', ?, ?);
-- name: outgoing_state
UPDATE imap_outgoing SET state = ? WHERE account = ? AND digest = ?;
-- name: outgoing_moves
UPDATE imap_outgoing SET state = 'moving', sent_epoch = ?, sent_uidnext = ? WHERE account = ? AND digest = ?;
-- name: outbox
SELECT p.uid, p.size_bytes, p.date, p.digest, p.why, coalesce(o.state, ''), coalesce(o.spool_seq, 0) FROM imap_outbox p
    LEFT JOIN imap_outgoing o ON o.account = p.account AND o.digest = p.digest
    WHERE p.account = ? AND p.folder = ? AND p.epoch = ?;
-- name: add_outbox
INSERT OR REPLACE INTO imap_outbox (account, folder, epoch, uid, size_bytes, date, digest, why) VALUES (?, ?, ?, ?, ?, ?, ?, ?);
-- name: drop_outbox
DELETE FROM imap_outbox WHERE account = ? AND folder = ? AND epoch = ? AND uid = ?;
-- name: drop_outbox_but
DELETE FROM imap_outbox WHERE account = ?1 AND (folder <> ?2 OR epoch <> ?3);
-- name: unsendable
SELECT folder, uid, why FROM imap_outbox WHERE account = ? AND why <> '' ORDER BY folder, uid;
-- name: delimiters
SELECT DISTINCT delimiter FROM imap_folder WHERE account = ?;
-- name: held
SELECT held FROM imap_folder WHERE id = ?;
-- name: messages_after
SELECT epoch, uid, size_bytes, date, flags, digest, identity FROM imap_message
    WHERE folder = ?1 AND (epoch, uid) > (?2, ?3) ORDER BY epoch, uid LIMIT 5000;
-- name: highest
SELECT max(uid) FROM imap_message WHERE folder = ? AND epoch = ?;
-- name: poison_count
SELECT count(*) FROM imap_poison p JOIN imap_folder f ON f.id = p.folder WHERE f.account = ? AND p.epoch = f.epoch;
-- name: check_account
SELECT key, name, mode, state, kind, problem, until, synced_at, demoted, present_until, debug_until, asked, done
    FROM imap_account LIMIT 0;
-- name: check_folder
SELECT id, account, name, delimiter, path, epoch, uidnext, modseq, messages, held, mailbox_id, synced_at, full_at, mtime_ns, epochs
    FROM imap_folder LIMIT 0;
-- name: check_message
SELECT folder, epoch, uid, size_bytes, date, flags, digest, identity FROM imap_message LIMIT 0;
-- name: check_poison
SELECT folder, epoch, uid, why, tries, since, next_try FROM imap_poison LIMIT 0;
-- name: check_outgoing
SELECT o.account, o.digest, state, spool_seq, sent_epoch, sent_uidnext, at, folder, epoch, uid, size_bytes, date, why
    FROM imap_outgoing o, imap_outbox LIMIT 0;
