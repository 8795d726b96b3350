-- What the market of a tier was like. $1 platform  $2 tier  $3, $4 from and until
SELECT count(*) FILTER (WHERE e.kind IN ('ISSUED', 'REACTIVATED')) AS demand,
       count(*) FILTER (WHERE e.kind = 'RECYCLED') AS supply,
       (SELECT count(*) FROM card WHERE platform = $1 AND tier = $2 AND state = 'RECYCLED') AS waiting
FROM card_event AS e
JOIN card AS c USING (account_id, card_id)
WHERE e.event_time >= $3 AND e.event_time < $4 AND c.platform = $1 AND c.tier = $2
