-- What the commands for people ask the store. Rows not sent are found by the three partial indexes.

-- name: count_unsent
SELECT
    (SELECT count(*) FROM mail_recipient WHERE state IN ('queued', 'deferred', 'unknown'))
    + (SELECT count(*) FROM mail_recipient WHERE state = 'sending');

-- name: recipients
SELECT mail_id, sender, address, state, attempts, unknowns, due_at, answer, message_id, size_bytes, created_at,
    mail_recipient.id AS id, lane, priority, expires_at
FROM mail_recipient JOIN mail_message ON mail_message.id = mail_id
WHERE mail_recipient.id IN (
    SELECT id FROM mail_recipient WHERE state IN ('queued', 'deferred', 'unknown')
    UNION ALL SELECT id FROM mail_recipient WHERE state = 'sending'
    UNION ALL SELECT id FROM mail_recipient WHERE state IN ('held', 'failed', 'expired', 'cancelled'))
ORDER BY mail_recipient.id;

-- name: all_recipients
SELECT mail_id, sender, address, state, attempts, unknowns, due_at, answer, message_id, size_bytes, created_at,
    mail_recipient.id AS id, lane, priority, expires_at
FROM mail_recipient JOIN mail_message ON mail_message.id = mail_id
ORDER BY mail_recipient.id;

-- name: change
-- What people do by hand. `ids`, `to` and `states` are JSON lists; null chooses all.
UPDATE mail_recipient SET state = :state, updated_at = :now,
    due_at = CASE WHEN :at_once OR due_at >= 9e15 THEN 0 ELSE due_at END,
    failures = CASE WHEN :at_once THEN 0 ELSE failures END
WHERE id IN (
    SELECT id FROM mail_recipient
    WHERE state IN (SELECT value FROM json_each(:states))
        AND (:ids IS NULL OR mail_id IN (SELECT value FROM json_each(:ids)))
        AND (:to IS NULL OR lower(address) IN (SELECT lower(value) FROM json_each(:to))))
RETURNING mail_id;

-- name: give_time
-- A mail that is tried again by hand gets its time anew, as far as that is over.
UPDATE mail_message SET expires_at = :expires_at
WHERE expires_at < :now AND id IN (SELECT value FROM json_each(:ids));

-- name: chosen
SELECT DISTINCT mail_id FROM mail_recipient
WHERE state IN (SELECT value FROM json_each(:states))
    AND (:ids IS NULL OR mail_id IN (SELECT value FROM json_each(:ids)))
    AND (:to IS NULL OR lower(address) IN (SELECT lower(value) FROM json_each(:to)));

-- name: count_gone
-- Rows that are taken away stay in the books; what was never sent counts as cancelled then.
INSERT INTO mail_meta (name, value)
    SELECT 'gone_' || CASE WHEN state IN ('queued', 'deferred', 'held', 'unknown') THEN 'cancelled' ELSE state END, count(*)
    FROM mail_recipient WHERE mail_id IN (SELECT value FROM json_each(:ids)) GROUP BY 1
ON CONFLICT (name) DO UPDATE SET value = value + excluded.value;

-- name: count_gone_unknowns
INSERT INTO mail_meta (name, value)
    SELECT 'gone_unknowns', coalesce(sum(unknowns), 0)
    FROM mail_recipient WHERE mail_id IN (SELECT value FROM json_each(:ids))
ON CONFLICT (name) DO UPDATE SET value = value + excluded.value;

-- name: delete_recipients
DELETE FROM mail_recipient WHERE mail_id IN (SELECT value FROM json_each(:ids));

-- name: delete_bodies
DELETE FROM mail_body WHERE mail_id IN (SELECT value FROM json_each(:ids));

-- name: delete_messages
DELETE FROM mail_message WHERE id IN (SELECT value FROM json_each(:ids)) RETURNING id;

-- name: over
-- Mails whose recipients are all final, and have been for long.
SELECT id FROM mail_message
WHERE id > :after AND created_at < :before AND NOT EXISTS (
    SELECT 1 FROM mail_recipient
    WHERE mail_id = mail_message.id AND (
        updated_at >= :before OR state NOT IN ('sent', 'failed', 'expired', 'cancelled')))
ORDER BY id LIMIT :most;

-- name: delete_outbox
DELETE FROM mail_outbox WHERE mail_id IN (SELECT value FROM json_each(:ids));

-- name: message
SELECT id, sender, message_id, size_bytes, created_at, expires_at, identifier, bounce_of, warned
FROM mail_message WHERE id = ?;

-- name: recipients_of
SELECT mail_id, sender, address, state, attempts, unknowns, due_at, answer, message_id, size_bytes, created_at,
    mail_recipient.id AS id, lane, priority, expires_at
FROM mail_recipient JOIN mail_message ON mail_message.id = mail_id
WHERE mail_id = ? ORDER BY mail_recipient.id;

-- name: ahead
-- How many are due before a recipient in its lane.
SELECT count(*) FROM mail_recipient
WHERE state IN ('queued', 'deferred', 'unknown') AND lane = :lane AND due_at <= :now
    AND (priority < :priority OR (priority = :priority AND id < :id AND state = 'queued'));

-- name: lane_troubles
SELECT lane, problem, until, since FROM mail_lane;

-- name: states
SELECT state, count(*), sum(unknowns), min(updated_at) FROM mail_recipient GROUP BY state;

-- name: waiting
SELECT lane, count(*), sum(due_at <= :now) FROM mail_recipient
WHERE state IN ('queued', 'deferred', 'unknown') GROUP BY lane;

-- name: oldest
SELECT min(created_at) FROM mail_recipient JOIN mail_message ON mail_message.id = mail_id
WHERE state IN ('queued', 'deferred', 'unknown');

-- name: sent_since
SELECT count(*) FROM mail_recipient WHERE state = 'sent' AND updated_at > ?;

-- name: gone
SELECT substr(name, 6), value FROM mail_meta WHERE name LIKE 'gone\_%' ESCAPE '\';

-- name: flush
UPDATE mail_recipient SET due_at = 0
WHERE state IN ('queued', 'deferred', 'unknown') AND state <> 'queued' AND due_at < 9e15;
