-- What an account holds; a coupon that has expired is not held, whether its posting says so yet or not. $1 account id
WITH moment AS MATERIALIZED (
  SELECT service_clock() AS now
)
SELECT (SELECT json_agg(held ORDER BY held.platform, held.unit)
        FROM (
          SELECT w.platform, w.unit, w.amount - CASE WHEN w.unit = 'COUPON' THEN (
                   SELECT count(*) FROM coupon_open AS o
                   WHERE o.account_id = w.account_id AND o.platform = w.platform AND o.expire_time <= moment.now)
                 ELSE 0 END AS amount
          FROM wallet_balance AS w WHERE w.account_id = $1
        ) AS held WHERE held.amount > 0) AS balances,
       (SELECT json_agg(k) FROM (
          SELECT k.coupon_id, k.platform, k.basis_points, k.max_discount_minor, k.expire_time FROM coupon AS k
          WHERE k.account_id = $1 AND k.expire_time > moment.now
          ORDER BY k.create_time DESC, k.coupon_id DESC LIMIT 100) AS k) AS coupons
FROM moment
