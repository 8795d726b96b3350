-- Ends the list entry in force that has this id. $1 entry id  $2 id of the end  $3 actor  $4 reason
-- Returns the entry and when it was ended, null when another did so at the same moment; no row when it is not in force.
WITH moment AS MATERIALIZED (
  SELECT service_clock() AS now
),
wanted AS MATERIALIZED (
  SELECT e.*, moment.now
  FROM moment
  JOIN list_entry AS e ON e.entry_id = $1::uuid AND e.operation = 'PUT'
  WHERE (e.expire_time IS NULL OR moment.now < e.expire_time)
    AND NOT EXISTS (
      SELECT FROM list_entry AS n
      WHERE n.subject_kind = e.subject_kind AND n.subject = e.subject AND n.list = e.list AND n.version > e.version)
),
ended AS (
  INSERT INTO list_entry (entry_id, list, subject_kind, subject, version, operation, actor, reason, create_time)
  SELECT $2::uuid, list, subject_kind, subject, version + 1, 'DELETE', $3::text, $4::text, now FROM wanted
  ON CONFLICT DO NOTHING
  RETURNING create_time
)
SELECT w.entry_id, w.list, w.subject_kind, w.subject, w.version, w.expire_time, w.actor, w.reason, w.create_time,
       ended.create_time AS next_time, 'DELETE' AS next_operation, $3 AS next_actor, $4 AS next_reason
FROM wanted AS w LEFT JOIN ended ON true
