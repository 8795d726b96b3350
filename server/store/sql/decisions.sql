-- Recorded decisions, in no order: those that $1 names, by the id of their request, recycling, review or redemption, or all of them.
-- For whoever replays them, who may take his time: without $2 a named one is looked for everywhere.
-- $1 id, or null for all  $2 account id, or null for any  $3 since when
SELECT c.account_id, c.request_id, c.method, c.create_time, c.input_hash, c.response, c.receipt::text AS receipt,
       c.receipt ->> 'policy_revision' AS policy_revision
FROM command AS c
WHERE ($2::text IS NULL OR c.account_id = $2) AND c.create_time >= $3
  AND ($1::uuid IS NULL OR c.request_id = $1
       OR $1::text IN (c.receipt #>> '{recycling,recycling_id}', c.receipt #>> '{effects,recycling,recycling_id}',
                       c.receipt #>> '{effects,redemption_id}')
       OR EXISTS (SELECT FROM recycling AS r
                  WHERE r.recycling_id = $1 AND (r.account_id, r.request_id) = (c.account_id, c.request_id))
       OR EXISTS (SELECT FROM review AS v
                  WHERE v.review_id = $1 AND v.account_id = c.account_id
                    AND c.request_id IN (v.request_id, v.resolve_request_id)))
