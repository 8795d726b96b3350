-- Cards whose bound has passed without an event that tells so, the earliest first, reserved for a minute: no two servers
-- take the same, and what one leaves undone comes up again. $1 how many
WITH moment AS MATERIALIZED (
  SELECT service_clock() AS now
),
due AS (
  SELECT c.account_id, c.card_id FROM card AS c
  WHERE c.state IN ('ISSUED', 'ACTIVE') AND c.hold_until IS NULL
    AND c.expired_bound IS DISTINCT FROM coalesce(c.expire_time, c.activate_by_time)
    AND coalesce(c.expire_time, c.activate_by_time) <= (SELECT now FROM moment)
    AND (c.sweep_until IS NULL OR c.sweep_until <= (SELECT now FROM moment))
  ORDER BY coalesce(c.expire_time, c.activate_by_time)
  LIMIT $1
  FOR UPDATE SKIP LOCKED
)
UPDATE card AS c SET sweep_until = (SELECT now FROM moment) + interval '1 minute'
FROM due
WHERE c.account_id = due.account_id AND c.card_id = due.card_id
RETURNING c AS card
