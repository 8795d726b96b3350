-- What a reviewer wants to see beside a review; no list is longer than $4.
-- $1 account id  $2 id of the request that opened it  $3 when that was  $4 how many
WITH moment AS MATERIALIZED (
  SELECT service_clock() AS now
),
request AS MATERIALIZED (
  SELECT e.device_hash, e.address_hash, look_alike_key(e.profile_hash, e.amount_minor) AS look_alike
  FROM risk_event AS e
  WHERE e.account_id = $1 AND e.event_time = $3 AND e.request_id = $2 AND e.outcome IS NOT NULL
),
-- The accounts seen last with the same, from the pairs that are kept for ever (`kind + 0`: so has their index).
others AS (
  SELECT p.account_id, array_agg(DISTINCT trait.name ORDER BY trait.name) AS shared
  FROM request
  CROSS JOIN LATERAL (VALUES (1::smallint, 'DEVICE', request.device_hash),
                             (2::smallint, 'ADDRESS', request.address_hash),
                             (3::smallint, 'LOOK_ALIKE', request.look_alike)) AS trait (kind, name, key)
  CROSS JOIN LATERAL (
    SELECT q.account_id FROM risk_pair AS q
    WHERE q.kind + 0 = trait.kind AND q.key = trait.key AND q.account_id <> $1
    ORDER BY q.first_time DESC, q.first_seq DESC
    LIMIT $4
  ) AS p
  GROUP BY p.account_id
),
alike AS (
  SELECT others.shared, r.recycling, r.create_time
  FROM others
  CROSS JOIN LATERAL (
    SELECT r AS recycling, r.create_time FROM recycling AS r WHERE r.account_id = others.account_id
    ORDER BY r.create_time DESC, r.recycling_id DESC
    LIMIT $4
  ) AS r
  ORDER BY r.create_time DESC
  LIMIT $4
)
SELECT moment.now, c.receipt -> 'features' AS features, c.receipt -> 'explanation' AS explanation, a.segment,
       ARRAY(SELECT alike.recycling FROM alike ORDER BY alike.create_time DESC) AS similar_recyclings,
       (SELECT json_agg(alike.shared ORDER BY alike.create_time DESC) FROM alike) AS similar_shared,
       ARRAY(SELECT k FROM card AS k WHERE k.account_id = $1
             ORDER BY k.issue_time DESC, k.card_id DESC LIMIT $4) AS cards,
       ARRAY(SELECT r FROM card AS k
             LEFT JOIN recycling AS r
               ON k.state = 'RECYCLED' AND r.account_id = k.account_id AND r.recycling_id = k.live_recycling_id
             WHERE k.account_id = $1
             ORDER BY k.issue_time DESC, k.card_id DESC LIMIT $4) AS waits_after,
       ARRAY(SELECT r FROM recycling AS r WHERE r.account_id = $1
             ORDER BY r.create_time DESC, r.recycling_id DESC LIMIT $4) AS recyclings,
       ARRAY(SELECT v FROM review AS v WHERE v.account_id = $1 AND v.request_id <> $2
             ORDER BY v.create_time DESC, v.review_id DESC LIMIT $4) AS reviews,
       (SELECT json_agg(e) FROM (
          SELECT e.event_time, e.kind, e.card_id, e.outcome,
                 coalesce(e.device_hash = (SELECT device_hash FROM request), false) AS same_device
          FROM risk_event AS e WHERE e.account_id = $1
          ORDER BY e.event_time DESC, e.seq DESC LIMIT $4) AS e) AS requests
FROM moment
LEFT JOIN account AS a ON a.account_id = $1
LEFT JOIN command AS c ON c.account_id = $1 AND c.request_id = $2
