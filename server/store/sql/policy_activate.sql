-- Lets revisions govern from a moment on, all or none: none if the policy set is not of the version that was checked, or the
-- moment has come too near. Without a moment: for all time, which only the first of a platform's may. One statement by
-- itself, so that it is seen long before the moment comes. $4 version of the set  $5 actor or null  $6 note or null. Returns
-- the activations, if there were any.
WITH checked AS (
  UPDATE policy_set SET version = version + 1 WHERE version = $4::bigint
  RETURNING service_clock() AS now
),
wanted AS MATERIALIZED (
  SELECT w.platform, w.revision, w.effective_time,
         (SELECT max(activation) FROM policy_activation AS a WHERE a.platform = w.platform) AS last
  FROM :wanted(platform text, revision integer, effective_time timestamptz) AS w
)
INSERT INTO policy_activation (platform, activation, revision, effective_time, create_time, actor, note)
SELECT w.platform, coalesce(w.last, 0) + 1, w.revision, coalesce(w.effective_time, '-infinity'), checked.now, $5::text,
       $6::text
FROM checked
CROSS JOIN wanted AS w
WHERE NOT EXISTS (
  SELECT FROM wanted AS each
  WHERE CASE WHEN each.effective_time IS NULL THEN each.last IS NOT NULL
             ELSE checked.now + interval '5 seconds' > each.effective_time END)
RETURNING platform, activation
