-- The statements of store.py, by name.

-- name: add_message
INSERT INTO mail_message (sender, message_id, size_bytes, created_at, expires_at) VALUES (?, ?, ?, ?, ?);

-- name: add_body
INSERT INTO mail_body (mail_id, body) VALUES (?, ?);

-- name: add_recipient
INSERT INTO mail_recipient (mail_id, address, state, due_at, updated_at) VALUES (?, ?, 'queued', ?, ?);

-- name: next_due
-- Fresh mail first, then by age. A time due too far ahead was written under a wrong clock: it is due now.
SELECT mail_id FROM mail_recipient
WHERE state = :state AND state NOT IN ('sent', 'failed', 'expired') AND (due_at <= :now OR due_at > :now + 3600)
ORDER BY due_at LIMIT 1;

-- name: claim
UPDATE mail_recipient SET state = 'sending', attempts = attempts + 1, past_dot = 0, boot_id = :boot_id, updated_at = :now
WHERE id IN (
    SELECT id FROM mail_recipient
    WHERE mail_id = :mail_id AND state IN ('queued', 'deferred', 'unknown') AND (due_at <= :now OR due_at > :now + 3600)
    ORDER BY id LIMIT :most)
RETURNING id, address, attempts, failures;

-- name: message
SELECT sender, created_at, expires_at, body FROM mail_message JOIN mail_body ON mail_id = id WHERE id = ?;

-- name: note_past_dot
UPDATE mail_recipient SET past_dot = 1 WHERE id = ?;

-- name: settle
UPDATE mail_recipient SET state = ?, failures = ?, unknowns = unknowns + ?, due_at = ?, answer = ?, updated_at = ?, past_dot = 0
WHERE id = ?;

-- name: drop_sent_body
DELETE FROM mail_body
WHERE mail_id = :mail_id AND NOT EXISTS (SELECT 1 FROM mail_recipient WHERE mail_id = :mail_id AND state <> 'sent');

-- name: recover_unknown
-- After a reboot a note past the dot may be lost, so every claim counts as past it.
UPDATE mail_recipient SET state = 'unknown', unknowns = unknowns + 1, due_at = :now, updated_at = :now, past_dot = 0,
    answer = 'the sender ended behind the final dot'
WHERE state = 'sending' AND (past_dot = 1 OR boot_id <> :boot_id);

-- name: recover_unsent
-- Deferred, due now: should a mail be what ended the sender, fresh mail is tried before it.
UPDATE mail_recipient SET state = 'deferred', due_at = :now, updated_at = :now, answer = 'the sender ended before the final dot'
WHERE state = 'sending';

-- name: expire
UPDATE mail_recipient SET state = 'expired', answer = :answer, updated_at = :now
WHERE state IN ('queued', 'deferred', 'unknown') AND state NOT IN ('sent', 'failed', 'expired')
    AND mail_id IN (SELECT id FROM mail_message WHERE expires_at <= :now)
RETURNING mail_id, address;

-- name: next_due_at
SELECT min(due_at) FROM mail_recipient
WHERE state IN ('queued', 'deferred', 'unknown') AND state NOT IN ('sent', 'failed', 'expired');

-- name: count_unsent
SELECT count(*) FROM mail_recipient
WHERE state IN ('queued', 'sending', 'deferred', 'unknown') AND state NOT IN ('sent', 'failed', 'expired');

-- name: recipients
SELECT mail_id, sender, address, state, attempts, unknowns, due_at, answer, message_id, size_bytes, created_at
FROM mail_recipient JOIN mail_message ON mail_message.id = mail_id
WHERE state <> 'sent' OR :all
ORDER BY mail_recipient.id;
