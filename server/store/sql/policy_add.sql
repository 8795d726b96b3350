-- Adds a policy document as its platform's next revision, a draft, unless it is the newest already. $1 platform  $2 document
-- $3 its SHA-256  $4 etag wanted, or empty  $5 actor  $6 note or null. Returns the revision
-- that has the document, null when another request came first.
WITH newest AS MATERIALIZED (
  SELECT coalesce(max(p.revision), 0) AS revision,
         (SELECT document_sha256 FROM policy_revision WHERE platform = $1::text ORDER BY revision DESC LIMIT 1) AS sha256,
         'v' || max(p.revision) || '.' ||
         (SELECT coalesce(max(activation), 0) FROM policy_activation WHERE platform = $1) AS etag
  FROM policy_revision AS p WHERE p.platform = $1
),
added AS (
  INSERT INTO policy_revision (platform, revision, document, document_sha256, effective_time, create_time, actor, note)
  SELECT $1, revision + 1, $2::jsonb, $3::bytea, 'infinity', service_clock(), $5::text, $6::text
  FROM newest
  WHERE sha256 IS DISTINCT FROM $3 AND ($4::text = '' OR etag = $4)
  ON CONFLICT DO NOTHING
  RETURNING revision
)
SELECT CASE WHEN newest.sha256 = $3 THEN newest.revision ELSE added.revision END AS revision
FROM newest LEFT JOIN added ON true
