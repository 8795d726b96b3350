-- Why: what lies in a wallet can be used: for partners' offers, by changing it into another unit. And customer care can
-- grant goodwill. What was redeemed is on record as its partner's notice, told with the other events, exactly once.
--
-- Servers of the release before go on as they did: what they write has all that it had. They do not know of redeemed
-- coupons, whose expiry they leave to servers of this one, and tell redemptions without saying of what.
-- The indexes are built within the migration's transaction; that on `posting` holds writes up for as long.
-- squawk-ignore-file require-concurrent-index-creation, ban-drop-constraint, ban-drop-not-null

-- One offer taken. A coupon that it gave has its id.
CREATE TABLE redemption (
  account_id text NOT NULL,
  redemption_id uuid NOT NULL,
  -- There is one event of it; the log's order wants a number.
  version bigint NOT NULL DEFAULT 1 CHECK (version = 1),
  request_id uuid NOT NULL,
  platform text NOT NULL,
  policy_revision integer NOT NULL,
  offer_id text NOT NULL,
  partner text NOT NULL,
  title text NOT NULL,
  unit text NOT NULL CHECK (unit IN ('COIN', 'GROWTH_POINT')),
  price bigint NOT NULL CHECK (price BETWEEN 1 AND 1000000000000),
  benefit text NOT NULL CHECK (benefit IN ('COUPON', 'PARTNER')),
  value_minor bigint NOT NULL CHECK (value_minor BETWEEN 1 AND 1000000000000),
  -- Of a coupon; 0 and null else.
  basis_points integer NOT NULL CHECK (basis_points BETWEEN 0 AND 10000),
  valid_days integer NOT NULL CHECK (valid_days BETWEEN 0 AND 3660),
  expire_time timestamptz,
  create_time timestamptz NOT NULL,
  xact xid8 NOT NULL DEFAULT pg_current_xact_id(),
  PRIMARY KEY (account_id, redemption_id),
  FOREIGN KEY (platform, policy_revision) REFERENCES policy_revision (platform, revision),
  CHECK ((benefit = 'COUPON') = (expire_time IS NOT NULL))
);
CREATE UNIQUE INDEX redemption_once ON redemption (account_id, request_id);
CREATE INDEX redemption_of_offer ON redemption (account_id, platform, offer_id, create_time);
CREATE INDEX redemption_by_xact ON redemption (xact, (account_id COLLATE "C"), redemption_id, version);

-- What was granted beyond the rules, and why: on occasion of a recycling, whose own policy bounds it.
CREATE TABLE goodwill (
  account_id text NOT NULL,
  request_id uuid NOT NULL,
  recycling_id uuid NOT NULL,
  platform text NOT NULL,
  policy_revision integer NOT NULL,
  unit text NOT NULL CHECK (unit IN ('COIN', 'GROWTH_POINT')),
  amount bigint NOT NULL CHECK (amount BETWEEN 1 AND 1000000000000),
  note text NOT NULL CHECK (length(note) BETWEEN 1 AND 500),
  create_time timestamptz NOT NULL,
  PRIMARY KEY (account_id, request_id),
  FOREIGN KEY (account_id, recycling_id) REFERENCES recycling (account_id, recycling_id)
);

GRANT SELECT, INSERT ON redemption, goodwill TO recycling_server;

-- A transfer belongs to a recycling, a redemption, or neither: an exchange and goodwill are told by their request.
ALTER TABLE posting
  ALTER COLUMN recycling_id DROP NOT NULL,
  ADD COLUMN redemption_id uuid,
  DROP CONSTRAINT posting_kind_check,
  ADD CONSTRAINT posting_kind_check CHECK (
    kind IN ('SETTLEMENT', 'CLAWBACK', 'EXPIRY', 'REDEMPTION', 'EXCHANGE', 'GOODWILL')) NOT VALID,
  ADD CONSTRAINT posting_cause_check CHECK (
    CASE kind WHEN 'SETTLEMENT' THEN recycling_id IS NOT NULL AND redemption_id IS NULL
              WHEN 'CLAWBACK' THEN recycling_id IS NOT NULL AND redemption_id IS NULL
              WHEN 'EXPIRY' THEN num_nonnulls(recycling_id, redemption_id) = 1
              WHEN 'REDEMPTION' THEN recycling_id IS NULL AND redemption_id IS NOT NULL
              ELSE num_nonnulls(recycling_id, redemption_id) = 0 END) NOT VALID;
-- A redeemed coupon expires once.
CREATE UNIQUE INDEX posting_redeemed_expiry ON posting (account_id, redemption_id, ledger) WHERE kind = 'EXPIRY';
-- An account's statement, newest first.
CREATE INDEX posting_newest ON posting (account_id, create_time DESC) WHERE ledger = 'WALLET';

-- The events' log gets a third source: columns of its own at the end, and a branch wherever sources are named.
CREATE OR REPLACE VIEW card_event_feed AS
SELECT xact, account_id, card_id AS subject_id, version, 'card'::text AS source, kind, event_time, request_id,
       NULL::text AS platform, card_id, recycling_id, state, generation, renewals_used, activate_by_time,
       activate_time, expire_time, hold_until, NULL::text AS unit, NULL::bigint AS amount,
       NULL::uuid AS redemption_id, NULL::text AS partner, NULL::text AS offer_id, NULL::text AS title,
       NULL::text AS benefit, NULL::bigint AS value_minor, NULL::integer AS basis_points
FROM card_event;

CREATE OR REPLACE VIEW value_event_feed AS
SELECT xact, account_id, request_id AS subject_id, hashtextextended(platform || '/' || unit, 0) AS version,
       'value'::text AS source, kind, create_time AS event_time, request_id,
       platform, NULL::uuid AS card_id, recycling_id, NULL::text AS state, NULL::integer AS generation,
       NULL::integer AS renewals_used, NULL::timestamptz AS activate_by_time, NULL::timestamptz AS activate_time,
       NULL::timestamptz AS expire_time, NULL::timestamptz AS hold_until, unit, amount,
       redemption_id, NULL::text AS partner, NULL::text AS offer_id, NULL::text AS title,
       NULL::text AS benefit, NULL::bigint AS value_minor, NULL::integer AS basis_points
FROM posting
WHERE ledger = 'WALLET';

-- `expire_time` is the coupon's. What was paid is told by the value's own event.
CREATE VIEW redemption_event_feed AS
SELECT xact, account_id, redemption_id AS subject_id, version, 'redemption'::text AS source, 'REDEEMED'::text AS kind,
       create_time AS event_time, request_id, platform, NULL::uuid AS card_id, NULL::uuid AS recycling_id,
       NULL::text AS state, NULL::integer AS generation, NULL::integer AS renewals_used,
       NULL::timestamptz AS activate_by_time, NULL::timestamptz AS activate_time, expire_time,
       NULL::timestamptz AS hold_until, NULL::text AS unit, NULL::bigint AS amount,
       redemption_id, partner, offer_id, title, benefit, value_minor, basis_points
FROM redemption;

CREATE OR REPLACE VIEW event_feed AS
SELECT * FROM card_event_feed
UNION ALL
SELECT * FROM value_event_feed
UNION ALL
SELECT * FROM redemption_event_feed;

CREATE OR REPLACE FUNCTION event_feed_after(
  p_xact xid8, p_account_id text, p_subject_id uuid, p_version bigint, p_rows integer)
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
    UNION ALL
    (SELECT * FROM redemption_event_feed
     WHERE xact < pg_snapshot_xmin(pg_current_snapshot())
       AND (xact, account_id COLLATE "C", subject_id, version) > (p_xact, p_account_id COLLATE "C", p_subject_id,
       p_version)
     ORDER BY xact, account_id COLLATE "C", subject_id, version
     LIMIT p_rows)
  ) AS merged
  ORDER BY merged.xact, merged.account_id COLLATE "C", merged.subject_id, merged.version
  LIMIT p_rows;
END;

CREATE OR REPLACE FUNCTION event_feed_newest() RETURNS SETOF event_feed
LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT last.* FROM (
    (SELECT * FROM card_event_feed WHERE xact < pg_snapshot_xmin(pg_current_snapshot())
     ORDER BY xact DESC, account_id COLLATE "C" DESC, subject_id DESC, version DESC LIMIT 1)
    UNION ALL
    (SELECT * FROM value_event_feed WHERE xact < pg_snapshot_xmin(pg_current_snapshot())
     ORDER BY xact DESC, account_id COLLATE "C" DESC, subject_id DESC, version DESC LIMIT 1)
    UNION ALL
    (SELECT * FROM redemption_event_feed WHERE xact < pg_snapshot_xmin(pg_current_snapshot())
     ORDER BY xact DESC, account_id COLLATE "C" DESC, subject_id DESC, version DESC LIMIT 1)
  ) AS last
  ORDER BY last.xact DESC, last.account_id COLLATE "C" DESC, last.subject_id DESC, last.version DESC
  LIMIT 1;
END;

CREATE OR REPLACE FUNCTION event_feed_waits_since() RETURNS timestamptz
LANGUAGE sql STABLE
BEGIN ATOMIC
  SELECT min(held.event_time) FROM (
    (SELECT event_time FROM card_event_feed WHERE xact >= pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xact LIMIT 1)
    UNION ALL
    (SELECT event_time FROM value_event_feed WHERE xact >= pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xact LIMIT
    1)
    UNION ALL
    (SELECT event_time FROM redemption_event_feed WHERE xact >= pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xact
    LIMIT 1)
  ) AS held;
END;

GRANT SELECT ON redemption_event_feed TO recycling_server;

CREATE OR REPLACE FUNCTION event_feed_renumber() RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
  cards bigint;
  transfers bigint;
  redemptions bigint;
BEGIN
  UPDATE event_relay AS r
  SET (xact, account_id, subject_id, version, event_time) = (
    SELECT f.xact, f.account_id, f.subject_id, f.version, f.event_time FROM event_feed_newest() AS f)
  WHERE r.xact >= pg_snapshot_xmax(pg_current_snapshot());
  UPDATE card_event SET xact = pg_current_xact_id() WHERE xact >= pg_snapshot_xmax(pg_current_snapshot());
  GET DIAGNOSTICS cards = ROW_COUNT;
  UPDATE posting SET xact = pg_current_xact_id() WHERE xact >= pg_snapshot_xmax(pg_current_snapshot());
  GET DIAGNOSTICS transfers = ROW_COUNT;
  UPDATE redemption SET xact = pg_current_xact_id() WHERE xact >= pg_snapshot_xmax(pg_current_snapshot());
  GET DIAGNOSTICS redemptions = ROW_COUNT;
  RETURN cards + transfers + redemptions;
END
$$;
