-- What is said to the store when a mail is accepted.

-- name: last_mail_id
SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'mail_message'), 0);

-- name: with_identifier
SELECT id FROM mail_message WHERE identifier = ?;

-- name: add_message
INSERT INTO mail_message
    (id, sender, message_id, size_bytes, eight_bit, long_lines, created_at, expires_at, identifier, bounce_of)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: add_body
INSERT INTO mail_body (mail_id, part, body) VALUES (?, ?, ?);

-- name: add_recipient
INSERT INTO mail_recipient (mail_id, address, lane, state, priority, due_at, updated_at)
VALUES (?, ?, ?, 'queued', ?, ?, ?);
