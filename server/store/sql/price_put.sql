-- Keeps the price of a period, once, and a while before the period begins, so that nobody decides in it without.
-- $1 platform  $2 tier  $3, $4 from and until
-- $5 policy revision  $6 demand  $7 supply  $8 waiting  $9 prior bonus  $10 bonus
INSERT INTO price (platform, tier, from_time, until_time, policy_revision, demand, supply, waiting, prior_bonus, bonus,
                   create_time)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, clock.now
FROM (SELECT service_clock() AS now) AS clock
WHERE clock.now + interval '5 seconds' < $3::timestamptz
ON CONFLICT DO NOTHING
