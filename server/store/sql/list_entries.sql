-- List entries, newest first, put before the position (before_time, before_id), each with what came after it.
-- $1 list or null  $2 subject kind or null  $3 subject or null  $4 whether only those in force  $5 before_time
-- $6 before_id  $7 how many. What is about one subject is found by the subject, all else by the time.
WITH moment AS MATERIALIZED (
  SELECT service_clock() AS now
)
SELECT e.entry_id, e.list, e.subject_kind, e.subject, e.version, e.expire_time, e.actor, e.reason, e.create_time,
       n.create_time AS next_time, n.operation AS next_operation, n.actor AS next_actor, n.reason AS next_reason
FROM (
  (SELECT * FROM list_entry
   WHERE $3::bytea IS NULL AND operation = 'PUT' AND (create_time, entry_id) < ($5::timestamptz, $6::uuid)
   ORDER BY create_time DESC, entry_id DESC)
  UNION ALL
  (SELECT * FROM list_entry
   WHERE subject_kind = $2::text AND subject = $3 AND operation = 'PUT'
     AND (create_time, entry_id) < ($5, $6)
   ORDER BY create_time DESC, entry_id DESC)
) AS e
CROSS JOIN moment
LEFT JOIN list_entry AS n
  ON n.subject_kind = e.subject_kind AND n.subject = e.subject AND n.list = e.list AND n.version = e.version + 1
WHERE ($1::text IS NULL OR e.list = $1) AND ($2 IS NULL OR e.subject_kind = $2)
  AND (NOT $4::boolean OR (n.version IS NULL AND (e.expire_time IS NULL OR moment.now < e.expire_time)))
ORDER BY e.create_time DESC, e.entry_id DESC
LIMIT $7
