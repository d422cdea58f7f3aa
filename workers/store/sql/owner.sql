-- The owners of leases, see leases.py.

-- name: register
INSERT INTO PREFIX_owner (host, boot_id, pid_space, pid, started, expires_at) VALUES (?, ?, ?, ?, ?, ?) RETURNING id;

-- name: renew
UPDATE PREFIX_owner SET expires_at = ? WHERE id = ? RETURNING id;

-- name: find
SELECT id FROM PREFIX_owner WHERE id = ?;

-- name: all
SELECT id, host, boot_id, pid_space, pid, started, expires_at FROM PREFIX_owner ORDER BY id;

-- name: forget
DELETE FROM PREFIX_owner WHERE id = ?;
