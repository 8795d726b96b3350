-- One policy revision as it stands. $1 platform  $2 revision; the newest when null.
WITH moment AS MATERIALIZED (
  SELECT service_clock() AS now
)
SELECT p.platform, p.revision, p.document::text AS document, p.document_sha256, p.create_time,
       coalesce(p.actor, '') AS actor, coalesce(p.note, '') AS note,
       'v' || newest.revision || '.' || newest.activation AS etag,
       CASE WHEN latest.effective_time IS NULL THEN 'DRAFT'
            WHEN p.revision = governs.revision THEN 'IN_FORCE'
            WHEN latest.effective_time > moment.now THEN 'SCHEDULED'
            ELSE 'SUPERSEDED' END AS state,
       CASE WHEN latest.effective_time IS NOT NULL THEN greatest(latest.effective_time, '0001-01-01 00:00:00Z') END
         AS effective_time
FROM policy_revision AS p
CROSS JOIN moment
LEFT JOIN LATERAL (
  SELECT effective_time FROM policy_activation
  WHERE platform = p.platform AND revision = p.revision
  ORDER BY activation DESC LIMIT 1
) AS latest ON true
LEFT JOIN LATERAL (
  SELECT revision FROM policy_activation
  WHERE platform = p.platform AND effective_time <= moment.now
  ORDER BY effective_time DESC, activation DESC LIMIT 1
) AS governs ON true
CROSS JOIN LATERAL (
  SELECT (SELECT max(revision) FROM policy_revision WHERE platform = p.platform) AS revision,
         (SELECT coalesce(max(activation), 0) FROM policy_activation WHERE platform = p.platform) AS activation
) AS newest
WHERE p.platform = $1::text AND p.revision = coalesce($2::integer, newest.revision)
