-- Takes or keeps the lease of a relay ($1) for its would-be holder ($2) until so many seconds from now ($3), unless
-- another holds it. Always one row: whether it is held, the last event published (xact 0: none yet), and when the first
-- one happened that is not. The lease runs by the real clock.
WITH claimed AS (
  INSERT INTO event_relay AS r (relay, holder, lease_until)
  VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
  ON CONFLICT (relay) DO UPDATE SET holder = excluded.holder, lease_until = excluded.lease_until
  WHERE r.holder = excluded.holder OR r.lease_until < clock_timestamp()
  RETURNING relay
),
-- As it was before: what a relay has published does not change by being claimed.
published AS (
  SELECT * FROM (SELECT $1::text AS relay) AS named LEFT JOIN event_relay AS r USING (relay)
)
SELECT EXISTS (SELECT FROM claimed) AS held, service_clock() AS now, next.event_time AS waits_since,
       coalesce(p.xact, '0') AS xact, p.account_id, p.subject_id, p.version, p.event_time
FROM published AS p
LEFT JOIN LATERAL event_feed_after(
  coalesce(p.xact, '0'), coalesce(p.account_id, ''), coalesce(p.subject_id, '00000000-0000-0000-0000-000000000000'),
  coalesce(p.version, 0), 1) AS next ON true
