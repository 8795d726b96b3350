-- One card, and the recycling after which it waits. $1 account id  $2 card id
SELECT c AS card, r AS recycling, a.segment, service_clock() AS now
FROM card AS c
JOIN account AS a ON a.account_id = c.account_id
LEFT JOIN recycling AS r
  ON c.state = 'RECYCLED' AND r.account_id = c.account_id AND r.recycling_id = c.live_recycling_id
WHERE c.account_id = $1 AND c.card_id = $2
