-- Cards of an account, newest first, older than the one named by (before_time, before_id): a page of keyset order. With
-- each the recycling after which it waits.
-- $1 account id  $2 before_time  $3 before_id  $4 how many
SELECT c AS card, r AS recycling, a.segment, service_clock() AS now
FROM card AS c
JOIN account AS a ON a.account_id = c.account_id
LEFT JOIN recycling AS r
  ON c.state = 'RECYCLED' AND r.account_id = c.account_id AND r.recycling_id = c.live_recycling_id
WHERE c.account_id = $1 AND (c.issue_time, c.card_id) < ($2, $3)
ORDER BY c.issue_time DESC, c.card_id DESC
LIMIT $4
