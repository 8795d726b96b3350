-- Whether the price of a period is yet to be made, and the newest before it. $1 platform  $2 tier  $3 beginning of the period
SELECT EXISTS (SELECT FROM price WHERE platform = $1 AND tier = $2 AND from_time = $3) AS made,
       (SELECT bonus FROM price WHERE platform = $1 AND tier = $2 AND from_time < $3
        ORDER BY from_time DESC LIMIT 1) AS prior_bonus
