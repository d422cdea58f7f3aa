-- What the sender says to the store. `waiting` rows are those of the partial index mail_recipient_ready.

-- name: lanes
-- A step from lane to lane along the index, however many rows wait in each.
WITH RECURSIVE found (lane) AS (
    SELECT * FROM (
        SELECT lane FROM mail_recipient WHERE state IN ('queued', 'deferred', 'unknown') ORDER BY lane LIMIT 1)
    UNION ALL
    SELECT (
        SELECT next.lane FROM mail_recipient AS next
        WHERE next.state IN ('queued', 'deferred', 'unknown') AND next.lane > found.lane ORDER BY next.lane LIMIT 1)
    FROM found WHERE found.lane IS NOT NULL)
SELECT lane FROM found WHERE lane IS NOT NULL;

-- name: next_rank
SELECT * FROM (
    SELECT priority, state FROM mail_recipient
    WHERE state IN ('queued', 'deferred', 'unknown') AND lane = :lane AND priority = :priority AND state > :state
    ORDER BY state LIMIT 1)
UNION ALL
SELECT * FROM (
    SELECT priority, state FROM mail_recipient
    WHERE state IN ('queued', 'deferred', 'unknown') AND lane = :lane AND priority > :priority
    ORDER BY priority, state LIMIT 1)
LIMIT 1;

-- name: next_due_at
SELECT due_at FROM mail_recipient
WHERE state IN ('queued', 'deferred', 'unknown') AND lane = :lane AND priority = :priority AND state = :state
ORDER BY due_at LIMIT 1;

-- name: claim
-- The mails of the first rows in turn, each with all its recipients that are due, so that they share a transaction.
UPDATE mail_recipient SET state = 'sending', claim = :claim, attempts = attempts + 1, updated_at = :now
WHERE id IN (
    SELECT id FROM mail_recipient
    WHERE mail_id IN (
            SELECT mail_id FROM (
                SELECT mail_id FROM mail_recipient
                WHERE state IN ('queued', 'deferred', 'unknown')
                    AND lane = :lane AND priority = :priority AND state = :state AND due_at <= :now
                ORDER BY due_at, id LIMIT :mails))
        AND lane = :lane AND +priority = :priority AND +state = :state AND due_at <= :now
    ORDER BY id LIMIT :recipients)
RETURNING id, mail_id, address, attempts, failures;

-- name: messages
SELECT mail_message.id, sender, size_bytes, eight_bit, long_lines, created_at, expires_at,
    CASE WHEN size_bytes <= :most_bytes
        THEN (SELECT body FROM mail_body WHERE mail_id = mail_message.id AND part = 0) END
FROM json_each(:ids) CROSS JOIN mail_message ON mail_message.id = json_each.value;

-- name: body_part
SELECT body FROM mail_body WHERE mail_id = ? AND part = ?;

-- name: settle
UPDATE mail_recipient
SET state = given.state, failures = given.failures, unknowns = unknowns + given.unknown, due_at = given.due_at,
    answer = given.answer, updated_at = :now
FROM (
    SELECT value ->> 0 AS id, value ->> 1 AS claim, value ->> 2 AS state, value ->> 3 AS failures,
        value ->> 4 AS unknown, value ->> 5 AS due_at, value ->> 6 AS answer
    FROM json_each(:results)) AS given
WHERE mail_recipient.id = given.id AND mail_recipient.claim = given.claim AND +mail_recipient.state = 'sending'
RETURNING mail_recipient.id;

-- name: claimed
SELECT id, mail_id, claim, failures FROM mail_recipient WHERE state = 'sending' AND claim BETWEEN ? AND ?;

-- name: expire
UPDATE mail_recipient SET state = 'expired', updated_at = :now,
    answer = CASE answer WHEN '' THEN :answer ELSE answer END
WHERE id IN (
    SELECT mail_recipient.id FROM mail_recipient JOIN mail_message ON mail_message.id = mail_id
    WHERE state IN ('queued', 'deferred', 'unknown') AND lane = :lane AND priority = :priority AND state = :state
        AND due_at <= :now AND expires_at <= :now
    LIMIT :most)
RETURNING id, mail_id, address, attempts, answer;

-- name: late
SELECT mail_id, address, attempts FROM mail_recipient JOIN mail_message ON mail_message.id = mail_id
WHERE state IN ('queued', 'deferred', 'unknown') AND lane = :lane AND priority = :priority AND state = :state
    AND created_at < :before AND NOT warned
LIMIT :most;

-- name: due_now
-- A pause lasts an hour at most: a time further ahead was written under a wrong clock.
UPDATE mail_recipient SET due_at = :now
WHERE state IN ('queued', 'deferred', 'unknown') AND lane = :lane AND priority = :priority AND state = :state
    AND state <> 'queued' AND due_at > :limit AND due_at < :never;

-- name: free_unknown
UPDATE mail_recipient SET due_at = :now
WHERE state IN ('queued', 'deferred', 'unknown') AND lane = :lane AND state = 'unknown' AND due_at >= :never;

-- name: relane_rows
SELECT mail_recipient.id, sender, address FROM mail_recipient JOIN mail_message ON mail_message.id = mail_id
WHERE state IN ('queued', 'deferred', 'unknown') AND lane = :lane AND mail_recipient.id > :after
ORDER BY mail_recipient.id LIMIT :most;

-- name: relane
UPDATE mail_recipient SET lane = ? WHERE id = ?;

-- name: note_lane
INSERT OR REPLACE INTO mail_lane (lane, problem, until, since) VALUES (?, ?, ?, ?);

-- name: forget_lane
DELETE FROM mail_lane WHERE lane = ?;

-- name: meta
SELECT value FROM mail_meta WHERE name = ?;

-- name: set_meta
INSERT OR REPLACE INTO mail_meta (name, value) VALUES (?, ?);

-- name: add_meta
INSERT INTO mail_meta (name, value) VALUES (:name, :by) ON CONFLICT (name) DO UPDATE SET value = value + :by;

-- name: reported
SELECT mail_message.id, sender, message_id, created_at, expires_at, size_bytes, warned,
    coalesce((SELECT substr(body, 1, :most) FROM mail_body WHERE mail_id = mail_message.id AND part = 0), x'')
FROM json_each(:ids) CROSS JOIN mail_message ON mail_message.id = json_each.value;

-- name: set_warned
UPDATE mail_message SET warned = 1 WHERE id = ?;

-- name: reports_since
SELECT count(*) FROM mail_message CROSS JOIN mail_recipient ON mail_id = mail_message.id
WHERE bounce_of IS NOT NULL AND created_at > ? AND address = ?;

-- name: outbox_waits
SELECT 1 FROM mail_outbox WHERE state IS NULL LIMIT 1;

-- name: outbox_rows
-- Texts come as bytes: one that is not UTF-8 must not hide the other rows.
SELECT id, CAST(template AS BLOB), CAST(sender AS BLOB), CAST(recipient AS BLOB), CAST(data AS BLOB), CAST(subject AS BLOB),
    CAST(body_text AS BLOB), CAST(body_html AS BLOB), priority, send_at, expires, CAST(identifier AS BLOB)
FROM mail_outbox WHERE state IS NULL ORDER BY id LIMIT :most;

-- name: outbox_taken
UPDATE mail_outbox SET state = 'queued', error = NULL WHERE id = ? AND state IS NULL RETURNING id;

-- name: outbox_mail
UPDATE mail_outbox SET mail_id = :mail_id WHERE id = :id;

-- name: outbox_bad
UPDATE mail_outbox SET state = 'failed', error = :error WHERE id = :id AND state IS NULL;

-- name: outbox_follow
-- The row follows its mail: open as long as a recipient is, else what became of the unluckiest.
UPDATE mail_outbox SET
    state = CASE
        WHEN EXISTS (
            SELECT 1 FROM mail_recipient AS r
            WHERE r.mail_id = mail_outbox.mail_id AND r.state NOT IN ('sent', 'failed', 'expired', 'cancelled'))
        THEN 'queued'
        ELSE coalesce(
            (SELECT state FROM mail_recipient AS r WHERE r.mail_id = mail_outbox.mail_id AND r.state <> 'sent' LIMIT 1), 'sent')
        END,
    error = (SELECT nullif(answer, '') FROM mail_recipient AS r WHERE r.mail_id = mail_outbox.mail_id AND r.state <> 'sent' LIMIT 1)
WHERE mail_id IN (SELECT value FROM json_each(:ids));

-- name: forget_lanes
DELETE FROM mail_lane;
