-- Cards that wait in vain, since the time in which they could come back is over, the earliest first, reserved for a minute.
-- `waits_until` only says where to look: it is never later than the end of the window, and may be older or missing; then it
-- is computed here. $1 how many are looked at
WITH moment AS MATERIALIZED (
  SELECT service_clock() AS now
),
candidate AS (
  SELECT c.account_id, c.card_id, c.tier, c.live_recycling_id FROM card AS c
  WHERE c.state = 'RECYCLED' AND c.hold_until IS NULL
    AND coalesce(c.waits_until, '-infinity'::timestamptz) <= (SELECT now FROM moment)
    AND (c.sweep_until IS NULL OR c.sweep_until <= (SELECT now FROM moment))
  ORDER BY coalesce(c.waits_until, '-infinity'::timestamptz)
  LIMIT $1
  FOR UPDATE SKIP LOCKED
),
found AS (
  SELECT candidate.account_id, candidate.card_id,
         coalesce(r.create_time
                  + coalesce(p.document #>> ARRAY['tiers', candidate.tier, 'window_days'],
                             p.document #>> '{reactivation,window_days}')::integer * interval '24 hours'
                  + r.window_moved_us * interval '1 microsecond', 'infinity'::timestamptz) AS window_end
  FROM candidate
  LEFT JOIN recycling AS r
    ON r.account_id = candidate.account_id AND r.recycling_id = candidate.live_recycling_id
  LEFT JOIN policy_revision AS p ON p.platform = r.platform AND p.revision = r.policy_revision
),
looked_at AS (
  UPDATE card AS c
  SET waits_until = found.window_end,
      sweep_until = CASE WHEN found.window_end <= (SELECT now FROM moment)
                         THEN (SELECT now FROM moment) + interval '1 minute' END
  FROM found
  WHERE c.account_id = found.account_id AND c.card_id = found.card_id
  RETURNING c AS card, found.window_end <= (SELECT now FROM moment) AS is_due
)
SELECT CASE WHEN is_due THEN card END AS card FROM looked_at
