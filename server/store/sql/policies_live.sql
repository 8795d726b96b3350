-- The version of the policy set, and each revision that was ever activated, of every platform; `superseded`: since when
-- another governs in its place, null while it governs or is still to.
WITH moment AS MATERIALIZED (
  SELECT service_clock() AS now
),
reign AS (
  SELECT platform, revision, effective_time,
         lead(effective_time) OVER (PARTITION BY platform ORDER BY effective_time, activation) AS ended
  FROM policy_activation
)
SELECT s.version, r.platform, r.revision,
       CASE WHEN bool_or(r.ended IS NULL OR r.ended > moment.now) THEN NULL ELSE max(r.ended) END AS superseded
FROM policy_set AS s
CROSS JOIN moment
LEFT JOIN reign AS r ON true
GROUP BY s.version, r.platform, r.revision
