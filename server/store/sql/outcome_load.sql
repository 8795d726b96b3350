-- What is known of a recycling that something became of, and the very outcome if it was recorded before: where no time is
-- told, the newest of its kind.
-- $1 account id, or null  $2 recycling id  $3 kind  $4 when it happened, or null
SELECT r.account_id, r.create_time, service_clock() AS now, o AS outcome
FROM recycling AS r
LEFT JOIN outcome AS o
  ON o.account_id = r.account_id AND o.recycling_id = r.recycling_id AND o.kind = $3
    AND o.outcome_time = coalesce($4::timestamptz, o.outcome_time)
WHERE r.recycling_id = $2 AND r.account_id = coalesce($1, r.account_id)
ORDER BY o.outcome_time DESC NULLS LAST
LIMIT 1
