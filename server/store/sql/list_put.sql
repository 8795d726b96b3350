-- Adds the next version of what a list says of a subject, unless it expires too early or another than the wanted version is
-- in force. $1 entry id  $2 list  $3 subject kind  $4 subject  $5 expire time or null  $6 actor  $7 reason
-- $8 etag wanted, or empty. Returns the moment, the etag in force (or null), and the new version, null when none was added.
WITH moment AS MATERIALIZED (
  SELECT service_clock() AS now
),
newest AS MATERIALIZED (
  SELECT e.version, e.operation = 'PUT' AND (e.expire_time IS NULL OR moment.now < e.expire_time) AS in_force
  FROM moment
  CROSS JOIN LATERAL (
    SELECT version, operation, expire_time FROM list_entry
    WHERE subject_kind = $3::text AND subject = $4::bytea AND list = $2::text
    ORDER BY version DESC LIMIT 1
  ) AS e
),
before AS MATERIALIZED (
  SELECT moment.now, coalesce(newest.version, 0) AS version, CASE WHEN newest.in_force THEN 'v' || newest.version END AS etag
  FROM moment LEFT JOIN newest ON true
),
added AS (
  INSERT INTO list_entry (entry_id, list, subject_kind, subject, version, operation, expire_time, actor, reason,
                          create_time)
  SELECT $1::uuid, $2, $3, $4, before.version + 1, 'PUT', $5::timestamptz, $6::text, $7::text, before.now
  FROM before
  WHERE ($5 IS NULL OR before.now < $5) AND ($8::text = '' OR $8 IS NOT DISTINCT FROM before.etag)
  ON CONFLICT DO NOTHING
  RETURNING version
)
SELECT before.now, before.etag, added.version FROM before LEFT JOIN added ON true
