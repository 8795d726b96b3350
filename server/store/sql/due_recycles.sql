-- Expired cards that the policy in force has the service recycle by itself, and whose wait is over, the earliest first,
-- reserved for a minute. $1 how many
WITH moment AS MATERIALIZED (
  SELECT service_clock() AS now
),
automatic AS MATERIALIZED (
  SELECT p.platform,
         moment.now - coalesce((p.document #>> '{trigger,wait_after_expiry_days}')::integer, 0) * interval '24 hours'
           AS expired_by
  FROM moment, policy_revision AS p
  WHERE p.document #>> '{trigger,automatic}' = 'true'
    AND p.revision = (SELECT q.revision FROM policy_activation AS q
                      WHERE q.platform = p.platform AND q.effective_time <= moment.now
                      ORDER BY q.effective_time DESC, q.activation DESC LIMIT 1)
),
due AS (
  SELECT found.account_id, found.card_id
  FROM automatic
  CROSS JOIN LATERAL (
    SELECT c.account_id, c.card_id FROM card AS c
    WHERE c.platform = automatic.platform AND c.state IN ('ISSUED', 'ACTIVE') AND c.hold_until IS NULL
      AND c.expired_bound = coalesce(c.expire_time, c.activate_by_time)
      AND c.expired_bound <= automatic.expired_by
      AND (c.sweep_until IS NULL OR c.sweep_until <= (SELECT now FROM moment))
    ORDER BY c.expired_bound
    LIMIT $1
    FOR UPDATE SKIP LOCKED
  ) AS found
  LIMIT $1
)
UPDATE card AS c SET sweep_until = (SELECT now FROM moment) + interval '1 minute'
FROM due
WHERE c.account_id = due.account_id AND c.card_id = due.card_id
RETURNING c AS card
