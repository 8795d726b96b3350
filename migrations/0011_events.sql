-- Why: others follow what happens to cards and values, without a gap and without repeats. The records are the outbox:
-- no second copy is written. Each row says which transaction wrote it; a reader takes rows of transactions below
-- pg_snapshot_xmin(pg_current_snapshot()), all of which have ended, in the order of (xact, account_id, subject_id,
-- version). So nothing can appear later at a place that was read already, whoever commits when.
--
-- Old servers go on writing without naming the column. The default is stable, not volatile: rows of before all get this
-- migration's transaction, and the table is not rewritten. What takes long on a large table are the indexes, which hold
-- writes up while they are built. Where that matters, do the four statements below by hand before (operations.md says
-- how).

ALTER TABLE card_event ADD COLUMN IF NOT EXISTS xact xid8 NOT NULL DEFAULT pg_current_xact_id();
ALTER TABLE posting ADD COLUMN IF NOT EXISTS xact xid8 NOT NULL DEFAULT pg_current_xact_id();
-- Collated as the server compares; the database's own collation may be another.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX IF NOT EXISTS card_event_by_xact ON card_event (xact, (account_id COLLATE "C"), card_id, version);
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX IF NOT EXISTS posting_by_xact
  ON posting (xact, (account_id COLLATE "C"), request_id, hashtextextended(platform || '/' || unit, 0))
  WHERE ledger = 'WALLET';

-- All that is told to others, in one shape: a view a source, and all of them together. A further source is a view of
-- its own with an index like the two above, and one more branch in event_feed and in event_feed_after.
-- (account_id, subject_id, version) names one event for ever, over all sources. `state` and what follows it are of
-- cards, `unit` and `amount` of values; a card's platform is looked up in its row. Nothing about devices.
CREATE VIEW card_event_feed AS
SELECT xact, account_id, card_id AS subject_id, version, 'card'::text AS source, kind, event_time, request_id,
       NULL::text AS platform, card_id, recycling_id, state, generation, renewals_used, activate_by_time,
       activate_time, expire_time, hold_until, NULL::text AS unit, NULL::bigint AS amount
FROM card_event;

-- The wallet's leg of a transfer. One request may move several units: each has a number of its own.
CREATE VIEW value_event_feed AS
SELECT xact, account_id, request_id AS subject_id, hashtextextended(platform || '/' || unit, 0) AS version,
       'value'::text AS source, kind, create_time AS event_time, request_id,
       platform, NULL::uuid AS card_id, recycling_id, NULL::text AS state, NULL::integer AS generation,
       NULL::integer AS renewals_used, NULL::timestamptz AS activate_by_time, NULL::timestamptz AS activate_time,
       NULL::timestamptz AS expire_time, NULL::timestamptz AS hold_until, unit, amount
FROM posting
WHERE ledger = 'WALLET';

CREATE VIEW event_feed AS
SELECT * FROM card_event_feed
UNION ALL
SELECT * FROM value_event_feed;

-- The first events after a position, whose transactions have all ended; in order. Each source gives as many as are
-- wanted at most, in the order of its index: the planner does not merge indexes through the view above.
CREATE FUNCTION event_feed_after(p_xact xid8, p_account_id text, p_subject_id uuid, p_version bigint, p_rows integer)
RETURNS SETOF event_feed
LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT merged.* FROM (
    (SELECT * FROM card_event_feed
     WHERE xact < pg_snapshot_xmin(pg_current_snapshot())
       AND (xact, account_id COLLATE "C", subject_id, version) > (p_xact, p_account_id COLLATE "C", p_subject_id,
       p_version)
     ORDER BY xact, account_id COLLATE "C", subject_id, version
     LIMIT p_rows)
    UNION ALL
    (SELECT * FROM value_event_feed
     WHERE xact < pg_snapshot_xmin(pg_current_snapshot())
       AND (xact, account_id COLLATE "C", subject_id, version) > (p_xact, p_account_id COLLATE "C", p_subject_id,
       p_version)
     ORDER BY xact, account_id COLLATE "C", subject_id, version
     LIMIT p_rows)
  ) AS merged
  ORDER BY merged.xact, merged.account_id COLLATE "C", merged.subject_id, merged.version
  LIMIT p_rows;
END;
-- The last event that nothing can come before any more; no row while there is none.
CREATE FUNCTION event_feed_newest() RETURNS SETOF event_feed
LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT last.* FROM (
    (SELECT * FROM card_event_feed WHERE xact < pg_snapshot_xmin(pg_current_snapshot())
     ORDER BY xact DESC, account_id COLLATE "C" DESC, subject_id DESC, version DESC LIMIT 1)
    UNION ALL
    (SELECT * FROM value_event_feed WHERE xact < pg_snapshot_xmin(pg_current_snapshot())
     ORDER BY xact DESC, account_id COLLATE "C" DESC, subject_id DESC, version DESC LIMIT 1)
  ) AS last
  ORDER BY last.xact DESC, last.account_id COLLATE "C" DESC, last.subject_id DESC, last.version DESC
  LIMIT 1;
END;

-- When the first event happened that is recorded, but still held back by a transaction which began before it was and
-- has not ended. Any that writes does so, in any database of the server. Null: none.
CREATE FUNCTION event_feed_waits_since() RETURNS timestamptz
LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT min(held.event_time) FROM (
    (SELECT event_time FROM card_event_feed WHERE xact >= pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xact LIMIT 1)
    UNION ALL
    (SELECT event_time FROM value_event_feed WHERE xact >= pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xact LIMIT
    1)
  ) AS held;
END;

GRANT SELECT ON card_event_feed, value_event_feed, event_feed TO recycling_server;

-- How far the events were published elsewhere, one row a relay. The row is a lease, too: whoever holds it publishes.
-- The position is that of the last event whose receipt was acknowledged; nulls stand for the beginning.
CREATE TABLE event_relay (
  relay text PRIMARY KEY CHECK (length(relay) BETWEEN 1 AND 64),
  holder uuid NOT NULL,
  lease_until timestamptz NOT NULL,
  xact xid8,
  account_id text,
  subject_id uuid,
  version bigint,
  event_time timestamptz,
  CHECK (num_nulls(xact, account_id, subject_id, version, event_time) IN (0, 5))
);
GRANT SELECT, INSERT, UPDATE ON event_relay TO recycling_server;

-- Rows that a dump has brought from elsewhere may name transactions that are still to come here; they would be told
-- late, and in between others. They are numbered anew: what was told of them before has no place in the order any more,
-- so readers that were beyond get an error, and relays begin again before them. Returns how many there were. A snapshot
-- sees no transaction from its xmax on, so that in a database which runs nothing can match.
CREATE FUNCTION event_feed_renumber() RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
  cards bigint;
  transfers bigint;
BEGIN
  UPDATE event_relay AS r
  SET (xact, account_id, subject_id, version, event_time) = (
    SELECT f.xact, f.account_id, f.subject_id, f.version, f.event_time FROM event_feed_newest() AS f)
  WHERE r.xact >= pg_snapshot_xmax(pg_current_snapshot());
  UPDATE card_event SET xact = pg_current_xact_id() WHERE xact >= pg_snapshot_xmax(pg_current_snapshot());
  GET DIAGNOSTICS cards = ROW_COUNT;
  UPDATE posting SET xact = pg_current_xact_id() WHERE xact >= pg_snapshot_xmax(pg_current_snapshot());
  GET DIAGNOSTICS transfers = ROW_COUNT;
  RETURN cards + transfers;
END
$$;
REVOKE ALL ON FUNCTION event_feed_renumber() FROM PUBLIC;
