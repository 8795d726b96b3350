-- An account's postings in its wallet, newest first, older than the one named by (before_time, before_id). One request may
-- leave several, so each has an id made of its key.
-- $1 account id  $2 before_time  $3 before_id  $4 how many  $5 platform, or null  $6 unit, or null  $7 kind, or null
SELECT p.*
FROM (
  SELECT md5(request_id::text || '/' || platform || '/' || unit)::uuid AS posting_id, request_id, kind, platform, unit,
         amount, recycling_id, redemption_id, create_time
  FROM posting
  WHERE account_id = $1 AND ledger = 'WALLET' AND create_time <= $2
    AND ($5::text IS NULL OR platform = $5) AND ($6::text IS NULL OR unit = $6) AND ($7::text IS NULL OR kind = $7)
) AS p
WHERE (p.create_time, p.posting_id) < ($2, $3::uuid)
ORDER BY p.create_time DESC, p.posting_id DESC
LIMIT $4
