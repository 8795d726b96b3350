-- Adds a policy document as its platform's next revision, in force at once (a trigger activates it), unless it is the
-- newest already: then it is activated at once if it never was, and else left as it is. A platform's first revision is in
-- force for all time. $1 platform  $2 document  $3 its SHA-256. Returns the newest revision.
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
),
activated AS (
  INSERT INTO policy_activation (platform, activation, revision, effective_time, create_time)
  SELECT $1::text, (SELECT coalesce(max(activation), 0) + 1 FROM policy_activation WHERE platform = $1), revision,
         service_clock(), service_clock()
  FROM newest
  WHERE sha256 = $3
    AND NOT EXISTS (SELECT FROM policy_activation AS a WHERE a.platform = $1 AND a.revision = newest.revision)
)
SELECT coalesce((SELECT revision FROM added), (SELECT revision FROM newest)) AS revision
