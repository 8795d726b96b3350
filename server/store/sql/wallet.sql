-- What an account holds. $1 account id
SELECT (SELECT json_agg(json_build_object('platform', w.platform, 'unit', w.unit, 'amount', w.amount)
                        ORDER BY w.platform, w.unit)
        FROM wallet_balance AS w WHERE w.account_id = $1 AND w.amount > 0) AS balances,
       (SELECT json_agg(k) FROM (
          SELECT k.coupon_id, k.platform, k.basis_points, k.max_discount_minor, k.expire_time FROM coupon AS k
          WHERE k.account_id = $1 ORDER BY k.create_time DESC, k.coupon_id DESC LIMIT 100) AS k) AS coupons
