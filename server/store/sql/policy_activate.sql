-- Lets a revision govern from a moment on, unless the policy set is not of the version that was checked, or the moment has
-- come too near. $1 platform  $2 revision  $3 effective time  $4 version of the set  $5 actor  $6 note or null. Returns the
-- number of the activation, if there was one.
WITH checked AS (
  UPDATE policy_set SET version = version + 1 WHERE version = $4::bigint
  RETURNING service_clock() AS now
)
INSERT INTO policy_activation (platform, activation, revision, effective_time, create_time, actor, note)
SELECT $1::text, (SELECT coalesce(max(activation), 0) + 1 FROM policy_activation WHERE platform = $1), $2::integer,
       $3::timestamptz, checked.now, $5::text, $6::text
FROM checked
WHERE checked.now + interval '5 seconds' <= $3
RETURNING activation
