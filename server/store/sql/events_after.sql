-- The first events after a position, in order, each once nothing can come before it any more. At least one row: it also
-- says whether the position ($1-$5, of an event, or xact 0 for the beginning) is one of this log, what time it is, and
-- since when recorded events wait for a transaction that has not ended. $6: at most so many events.
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
LEFT JOIN event_feed_after($1, $2, $3::uuid, $4::bigint, $6::integer) AS e ON $5::timestamptz IS NOT NULL
LEFT JOIN card AS c ON c.account_id = e.account_id AND c.card_id = e.card_id
LEFT JOIN recycling AS r
  ON r.account_id = e.account_id AND r.recycling_id = CASE WHEN e.card_id IS NULL THEN e.recycling_id END
ORDER BY e.xact, e.account_id COLLATE "C", e.subject_id, e.version
