-- One card. $1 account id  $2 card id
SELECT c AS card, a.segment, service_clock() AS now
FROM card AS c JOIN account AS a ON a.account_id = c.account_id
WHERE c.account_id = $1 AND c.card_id = $2
