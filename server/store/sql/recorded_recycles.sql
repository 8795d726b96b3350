-- A page of recorded recycles of all platforms, newest first, each with its recycling as it stands and the first complaint
-- about it; with the receipt where it is of the platform asked for.
-- $1 platform  $2 from  $3, $4, $5 position that they come before  $6 how many
WITH page AS MATERIALIZED (
  SELECT c.account_id, c.request_id, c.create_time
  FROM command AS c
  WHERE c.method = 'Recycle' AND c.create_time >= $2::timestamptz
    AND (c.create_time, c.account_id, c.request_id) < ($3::timestamptz, $4::text, $5::uuid)
  ORDER BY c.create_time DESC, c.account_id DESC, c.request_id DESC
  LIMIT $6
)
SELECT page.account_id, page.request_id, page.create_time, r.recycling_id, r.policy_revision, r.state, r.unit,
       coalesce(r.amount, 0) AS amount, r.fee_minor,
       CASE WHEN r.platform = $1::text THEN (
         SELECT c.receipt::text FROM command AS c
         WHERE c.account_id = page.account_id AND c.request_id = page.request_id) END AS receipt,
       CASE WHEN r.platform = $1 THEN (
         SELECT min(o.outcome_time) FROM outcome AS o
         WHERE o.account_id = r.account_id AND o.recycling_id = r.recycling_id AND o.kind = 'COMPLAINT')
       END AS complaint_time
FROM page
JOIN recycling AS r
  ON r.account_id = page.account_id AND r.create_time = page.create_time AND r.request_id = page.request_id
ORDER BY page.create_time DESC, page.account_id DESC, page.request_id DESC
