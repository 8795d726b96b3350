-- How often an account has taken each offer in the last 30 days. $1 account id  $2 platform, or null for all
SELECT platform, offer_id, count(*)::integer AS taken FROM redemption
WHERE account_id = $1 AND ($2::text IS NULL OR platform = $2)
  AND create_time > service_clock() - interval '720 hours'
GROUP BY platform, offer_id
