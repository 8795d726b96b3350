-- The newest judged requests of a window, newest first; of a platform, those among ten times as many. With a label where
-- $5 says after how long a silence an approved request is honest.
-- $1 from  $2 to, exclusive  $3 platform, or null  $4 how many  $5 interval, or null
SELECT n.create_time, n.receipt -> 'features' AS features, n.receipt -> 'score' AS score, known.label
FROM (
  SELECT c.account_id, c.request_id, c.create_time, c.receipt FROM command AS c
  WHERE c.method IN ('Recycle', 'Reactivate') AND c.create_time >= $1 AND c.create_time < $2
  ORDER BY c.create_time DESC
  LIMIT 10 * $4::bigint
) AS n
LEFT JOIN LATERAL (
  SELECT l.label
  FROM risk_event AS e
  CROSS JOIN LATERAL request_label(e.account_id, e.recycling_id, e.request_id, e.outcome = 'APPROVED', e.event_time,
                                   $5::interval, service_clock()) AS l
  WHERE e.account_id = n.account_id AND e.event_time = n.create_time AND e.request_id = n.request_id
    AND e.outcome IS NOT NULL
) AS known ON $5::interval IS NOT NULL
WHERE $3::text IS NULL OR n.receipt #>> '{card,platform}' = $3
ORDER BY n.create_time DESC
LIMIT $4
