-- Adds a policy document as its platform's next revision, in force at once (a trigger activates it), unless it is the
-- newest already. A platform's
-- first revision is in force for all time. $1 platform  $2 document  $3 its SHA-256. Returns the revision in force.
WITH newest AS (
  SELECT max(revision) AS revision,
         (SELECT document_sha256 FROM policy_revision WHERE platform = $1 ORDER BY revision DESC LIMIT 1) AS sha256
  FROM policy_revision WHERE platform = $1
),
added AS (
  INSERT INTO policy_revision (platform, revision, document, document_sha256, effective_time)
  SELECT $1, coalesce(revision, 0) + 1, $2::jsonb, $3,
         CASE WHEN revision IS NULL THEN '-infinity' ELSE service_clock() END
  FROM newest WHERE sha256 IS DISTINCT FROM $3
  RETURNING revision
)
SELECT coalesce((SELECT revision FROM added), (SELECT revision FROM newest)) AS revision
