-- Gives a review to a reviewer for a while: the one named, or the most pressing that nobody has: held cards by the end of
-- their hold, then settlements, which can wait, by age. What another is just claiming, or whose account a command is just
-- changing, is passed over. The account is claimed as well, since a verdict is decided upon who has the review. Returns no
-- row where there is none to give, or the reviewer has enough: a reviewer's claims must not run at the same time, since
-- they do not see each other.
-- $1 review id, or null  $2 reviewer  $3 for how long  $4 platform, or null for any: only where no review is named
-- $5 how many a reviewer may have
WITH moment AS MATERIALIZED (
  SELECT service_clock() AS now
),
others AS MATERIALIZED (
  SELECT count(*) AS claims
  FROM review AS v, moment
  WHERE v.claimed_by = $2 AND v.state = 'OPEN' AND v.claim_until > moment.now
    AND (v.hold_until IS NULL OR v.hold_until > moment.now) AND v.review_id IS DISTINCT FROM $1
),
named AS (
  SELECT v.account_id, v.review_id
  FROM review AS v JOIN account AS a ON a.account_id = v.account_id, moment, others
  WHERE v.review_id = $1 AND v.state = 'OPEN' AND (v.hold_until IS NULL OR v.hold_until > moment.now)
    AND (v.claim_until IS NULL OR v.claim_until <= moment.now OR v.claimed_by = $2)
    AND others.claims < $5
  FOR UPDATE OF v, a SKIP LOCKED
),
next AS (
  SELECT v.account_id, v.review_id
  FROM review AS v JOIN account AS a ON a.account_id = v.account_id, moment, others
  WHERE $1::uuid IS NULL AND v.state = 'OPEN' AND (v.hold_until IS NULL OR v.hold_until > moment.now)
    AND (v.claim_until IS NULL OR v.claim_until <= moment.now) AND ($4::text IS NULL OR v.platform = $4)
    AND others.claims < $5
  ORDER BY v.hold_until, v.create_time, v.review_id
  LIMIT 1
  FOR UPDATE OF v, a SKIP LOCKED
),
chosen AS (
  SELECT account_id, review_id FROM named UNION ALL SELECT account_id, review_id FROM next
),
account_claimed AS (
  UPDATE account AS a SET version = a.version + 1 FROM chosen WHERE a.account_id = chosen.account_id
)
UPDATE review AS v
SET claimed_by = $2, claim_until = moment.now + $3::interval, version = v.version + 1
FROM chosen, moment
WHERE v.account_id = chosen.account_id AND v.review_id = chosen.review_id
RETURNING v AS review, moment.now AS now
