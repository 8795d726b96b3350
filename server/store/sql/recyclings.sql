-- Recyclings of an account, newest first, older than the one named by (before_time, before_id).
-- $1 account id  $2 before_time  $3 before_id  $4 how many
SELECT r AS recycling, service_clock() AS now FROM recycling AS r
WHERE r.account_id = $1 AND (r.create_time, r.recycling_id) < ($2, $3)
ORDER BY r.create_time DESC, r.recycling_id DESC
LIMIT $4
