-- What imap-sync asks about mail that it has queued from outbox folders.

-- name: is_open
-- Whether the mail of an identifier has recipients whose state is not final.
SELECT 1 FROM mail_message JOIN mail_recipient ON mail_id = mail_message.id
WHERE identifier = ? AND state NOT IN ('sent', 'failed', 'expired', 'cancelled') LIMIT 1;

-- name: held_since
-- How many mails there are with numbers above one.
SELECT count(*) FROM mail_message WHERE id > ?;
