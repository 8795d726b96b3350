-- How many reviews a reviewer has claimed, as of now.
-- $1 reviewer
SELECT count(*) AS claims
FROM review AS v
WHERE v.claimed_by = $1 AND v.state = 'OPEN' AND v.claim_until > service_clock()
  AND (v.hold_until IS NULL OR v.hold_until > service_clock())
