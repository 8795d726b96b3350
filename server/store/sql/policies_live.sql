-- The version of the policy set, and each revision that governed, governs or is to, of every platform; `superseded`: since
-- when another governs in its place, null while it governs or is still to; `planned`: whether it is to. What was activated
-- in its place for the very same moment leaves an activation without any time to govern.
WITH moment AS MATERIALIZED (
  SELECT service_clock() AS now
),
reign AS (
  SELECT platform, revision, effective_time,
         lead(effective_time) OVER (PARTITION BY platform ORDER BY effective_time, activation) AS ended
  FROM policy_activation
)
SELECT s.version, r.platform, r.revision,
       CASE WHEN bool_or(r.ended IS NULL OR r.ended > moment.now) THEN NULL ELSE max(r.ended) END AS superseded,
       coalesce(bool_or(r.effective_time > moment.now), false) AS planned
FROM policy_set AS s
CROSS JOIN moment
LEFT JOIN reign AS r ON r.ended IS NULL OR r.ended > r.effective_time
GROUP BY s.version, r.platform, r.revision
