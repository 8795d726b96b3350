-- The same as events_after.sql of one account ($7), found by the keys of its records: others' are not read. They are all
-- found first, else the planner would rather look for the account along the order of transactions.
WITH own AS MATERIALIZED (
  SELECT * FROM event_feed WHERE account_id = $7
)
SELECT log.known, log.now, log.waits_since,
       e.xact, e.account_id, e.subject_id, e.version, e.source, e.kind, e.event_time, e.request_id, e.recycling_id,
       e.state, e.generation, e.renewals_used, e.activate_by_time, e.activate_time, e.expire_time, e.hold_until,
       e.unit, e.amount, e.redemption_id, e.partner, e.offer_id, e.title, e.benefit, e.value_minor, e.basis_points,
       coalesce(e.card_id, r.card_id) AS card_id, coalesce(e.platform, c.platform) AS platform
FROM (
  SELECT $1::xid8 = '0' OR EXISTS (
           SELECT FROM event_feed AS f
           WHERE f.account_id = $2 AND f.subject_id = $3 AND f.version = $4 AND f.xact = $1 AND f.event_time = $5
         ) AS known,
         service_clock() AS now, event_feed_waits_since() AS waits_since
) AS log
LEFT JOIN (
  SELECT * FROM own
  WHERE xact < pg_snapshot_xmin(pg_current_snapshot())
    AND (xact, account_id COLLATE "C", subject_id, version) > ($1, $2 COLLATE "C", $3::uuid, $4::bigint)
  ORDER BY xact, subject_id, version
  LIMIT $6::integer
) AS e ON $5::timestamptz IS NOT NULL
LEFT JOIN card AS c ON c.account_id = e.account_id AND c.card_id = e.card_id
LEFT JOIN recycling AS r
  ON r.account_id = e.account_id AND r.recycling_id = CASE WHEN e.card_id IS NULL THEN e.recycling_id END
ORDER BY e.xact, e.subject_id, e.version
