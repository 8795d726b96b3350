-- Reviews of all accounts, oldest first, younger than the one named by (after_time, after_id).
-- $1 states as stored  $2 the state wanted as of now, or null for any  $3 platform, or null  $4 after_time  $5 after_id
-- $6 how many
WITH moment AS MATERIALIZED (
  SELECT service_clock() AS now
)
SELECT found.review, moment.now
FROM moment, unnest($1::text[]) AS stored (state)
CROSS JOIN LATERAL (
  SELECT v AS review, v.create_time, v.review_id FROM review AS v
  WHERE v.state = stored.state AND (v.create_time, v.review_id) > ($4::timestamptz, $5::uuid)
    AND ($3::text IS NULL OR v.platform = $3)
    AND ($2::text IS NULL OR $2 = CASE WHEN v.state <> 'OPEN' THEN v.state
                                       WHEN v.hold_until <= moment.now THEN 'EXPIRED'
                                       WHEN v.claim_until > moment.now THEN 'CLAIMED' ELSE 'OPEN' END)
  ORDER BY v.create_time, v.review_id
  LIMIT $6
) AS found
ORDER BY found.create_time, found.review_id
LIMIT $6
