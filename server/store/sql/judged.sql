-- The newest judged requests of a window, newest first; of a platform, those among ten times as many. With a label where
-- $5 says after how long a silence an approved request is honest.
-- $1 from  $2 to, exclusive  $3 platform, or null  $4 how many  $5 interval, or null
SELECT n.create_time, n.receipt -> 'features' AS features, n.receipt -> 'score' AS score, known.label
FROM (
  SELECT c.account_id, c.request_id, c.method, c.create_time, c.receipt FROM command AS c
  WHERE c.method IN ('Recycle', 'Reactivate') AND c.create_time >= $1 AND c.create_time < $2
  ORDER BY c.create_time DESC
  LIMIT 10 * $4::bigint
) AS n
LEFT JOIN LATERAL (
  SELECT l.label
  FROM (
    SELECT CASE n.method
             WHEN 'Recycle' THEN (
               SELECT r.recycling_id FROM recycling AS r
               WHERE r.account_id = n.account_id AND r.create_time = n.create_time AND r.request_id = n.request_id)
             ELSE (n.receipt #>> '{recycling,recycling_id}')::uuid END AS recycling_id,
           coalesce((SELECT e.outcome = 'APPROVED' FROM risk_event AS e
                     WHERE e.account_id = n.account_id AND e.event_time = n.create_time
                       AND e.request_id = n.request_id), false) AS approved
  ) AS made
  CROSS JOIN LATERAL request_label(n.account_id, made.recycling_id, made.approved, n.create_time, $5::interval,
                                   service_clock()) AS l
) AS known ON $5::interval IS NOT NULL
WHERE $3::text IS NULL OR n.receipt #>> '{card,platform}' = $3
ORDER BY n.create_time DESC
LIMIT $4
