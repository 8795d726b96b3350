-- Coupons that were not used in time, and whose postings do not say so yet, the earliest first, reserved for a minute.
-- $1 how many
WITH moment AS MATERIALIZED (
  SELECT service_clock() AS now
),
due AS (
  SELECT k.account_id, k.coupon_id FROM coupon_open AS k
  WHERE k.expire_time <= (SELECT now FROM moment)
    AND (k.sweep_until IS NULL OR k.sweep_until <= (SELECT now FROM moment))
  ORDER BY k.expire_time
  LIMIT $1
  FOR UPDATE SKIP LOCKED
)
UPDATE coupon_open AS k SET sweep_until = (SELECT now FROM moment) + interval '1 minute'
FROM due
WHERE k.account_id = due.account_id AND k.coupon_id = due.coupon_id
RETURNING k.account_id, k.coupon_id,
          EXISTS (SELECT FROM redemption AS q
                  WHERE q.account_id = k.account_id AND q.redemption_id = k.coupon_id) AS redeemed,
          greatest(k.expire_time, k.create_time) AS expired_since
