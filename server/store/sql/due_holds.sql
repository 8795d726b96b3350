-- Holds that have lapsed and are not recorded as such, the earliest first, reserved for a minute: no two servers take the
-- same, and what one leaves undone comes up again. $1 how many
WITH moment AS MATERIALIZED (
  SELECT service_clock() AS now
),
due AS (
  SELECT v.account_id, v.review_id FROM review AS v
  WHERE v.state = 'OPEN' AND v.hold_until <= (SELECT now FROM moment)
    AND (v.sweep_until IS NULL OR v.sweep_until <= (SELECT now FROM moment))
  ORDER BY v.hold_until
  LIMIT $1
  FOR UPDATE SKIP LOCKED
)
UPDATE review AS v SET sweep_until = (SELECT now FROM moment) + interval '1 minute'
FROM due
WHERE v.account_id = due.account_id AND v.review_id = due.review_id
RETURNING v AS review
