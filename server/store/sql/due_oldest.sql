-- Since when the oldest item of each kind has been due, or null where nothing is: what the sweeper has to catch up with.
WITH moment AS MATERIALIZED (
  SELECT service_clock() AS now
),
oldest (kind, due_time) AS (
  SELECT 'HOLD', (SELECT v.hold_until FROM review AS v WHERE v.state = 'OPEN' ORDER BY v.hold_until LIMIT 1)
  UNION ALL
  SELECT 'EXPIRY', (
    SELECT coalesce(c.expire_time, c.activate_by_time) FROM card AS c
    WHERE c.state IN ('ISSUED', 'ACTIVE') AND c.hold_until IS NULL
      AND c.expired_bound IS DISTINCT FROM coalesce(c.expire_time, c.activate_by_time)
    ORDER BY coalesce(c.expire_time, c.activate_by_time) LIMIT 1)
  UNION ALL
  SELECT 'RECYCLE', (
    SELECT min(first.expired_bound + first.wait)
    FROM (
      SELECT p.platform, coalesce((p.document #>> '{trigger,wait_after_expiry_days}')::integer, 0) * interval '24 hours'
               AS wait
      FROM moment, policy_revision AS p
      WHERE p.document #>> '{trigger,automatic}' = 'true'
        AND p.revision = (SELECT q.revision FROM policy_activation AS q
                      WHERE q.platform = p.platform AND q.effective_time <= moment.now
                      ORDER BY q.effective_time DESC, q.activation DESC LIMIT 1)
    ) AS automatic
    CROSS JOIN LATERAL (
      SELECT c.expired_bound, automatic.wait FROM card AS c
      WHERE c.platform = automatic.platform AND c.state IN ('ISSUED', 'ACTIVE') AND c.hold_until IS NULL
        AND c.expired_bound = coalesce(c.expire_time, c.activate_by_time)
      ORDER BY c.expired_bound LIMIT 1
    ) AS first)
  UNION ALL
  SELECT 'WINDOW', (
    SELECT c.waits_until FROM card AS c
    WHERE c.state = 'RECYCLED' AND c.hold_until IS NULL
      AND coalesce(c.waits_until, '-infinity'::timestamptz) > '-infinity'::timestamptz
    ORDER BY coalesce(c.waits_until, '-infinity'::timestamptz) LIMIT 1)
  UNION ALL
  SELECT 'COUPON', (SELECT k.expire_time FROM coupon_open AS k ORDER BY k.expire_time LIMIT 1)
)
SELECT oldest.kind, greatest(moment.now - oldest.due_time, interval '0') AS lag FROM oldest, moment
