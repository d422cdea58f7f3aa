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
