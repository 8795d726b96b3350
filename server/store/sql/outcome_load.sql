-- What is known of a recycling that something became of, and the very outcome if it was recorded before.
-- $1 account id, or null  $2 recycling id  $3 kind  $4 when it happened
SELECT r.account_id, r.create_time, service_clock() AS now, o AS outcome
FROM recycling AS r
LEFT JOIN outcome AS o
  ON o.account_id = r.account_id AND o.recycling_id = r.recycling_id AND o.kind = $3 AND o.outcome_time = $4
WHERE r.recycling_id = $2 AND r.account_id = coalesce($1, r.account_id)
LIMIT 1
