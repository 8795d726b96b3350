-- Why: what the fraud features are computed from, and the one function that computes them, for serving and training.
--
-- `risk_event` is append-only and holds keyed hashes (HMAC) of devices and addresses, never the values.
-- `risk_pair` keeps, for ever, the first time two things were seen together. Flooding `risk_event` with more events can
-- push old ones out of a capped scan; it cannot push anything out of `risk_pair`.

CREATE TABLE risk_event (
  account_id text NOT NULL,
  event_time timestamptz NOT NULL,
  -- Orders events of the same moment.
  seq bigint GENERATED ALWAYS AS IDENTITY,
  kind text NOT NULL CHECK (kind IN ('ISSUE', 'ACTIVATE', 'RECYCLE', 'REACTIVATE', 'COMPENSATE', 'COMPLAINT')),
  card_id text,
  device_hash bytea CHECK (length(device_hash) = 16),
  -- Of the IPv4 address, or of an IPv6 address's /64.
  address_hash bytea CHECK (length(address_hash) = 16),
  -- Of its /24, or /48.
  prefix_hash bytea CHECK (length(prefix_hash) = 16),
  -- Of the fingerprint's shareable fields (model, os, screen, language, user agent, ...), when at least three are known.
  profile_hash bytea CHECK (length(profile_hash) = 16),
  amount_minor bigint,
  -- What the request itself said: session_seconds, page_views, emulator, ...
  signals json,
  -- What became of a judged request; null for the others.
  outcome text CHECK (outcome IN ('APPROVED', 'REJECTED', 'IN_REVIEW')),
  PRIMARY KEY (account_id, event_time, seq)
) PARTITION BY RANGE (event_time);

CREATE INDEX risk_event_device ON risk_event (device_hash, event_time, seq) WHERE device_hash IS NOT NULL;
CREATE INDEX risk_event_prefix ON risk_event (prefix_hash, event_time, seq) WHERE prefix_hash IS NOT NULL;

-- Catches what no dated partition covers (a back-test's past); retention drops the dated ones.
CREATE TABLE risk_event_default PARTITION OF risk_event DEFAULT;

-- Makes the quarterly partitions that cover [from_time, to_time). Run with every migration, as the owner.
CREATE FUNCTION ensure_risk_event_partitions(from_time timestamptz, to_time timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  lower_bound timestamptz := date_trunc('quarter', from_time, 'UTC');
  upper_bound timestamptz;
  partition_name text;
BEGIN
  WHILE lower_bound < to_time LOOP
    upper_bound := date_trunc('quarter', lower_bound + interval '100 days', 'UTC');
    partition_name := 'risk_event_' || to_char(lower_bound AT TIME ZONE 'UTC', 'YYYY"q"Q');
    IF EXISTS (SELECT FROM risk_event_default WHERE event_time >= lower_bound AND event_time < upper_bound) THEN
      RAISE WARNING 'risk_event_default holds events of %: they must be moved before it can have a partition',
        partition_name;
    ELSIF to_regclass(partition_name) IS NULL THEN
      EXECUTE format('CREATE TABLE %I PARTITION OF risk_event FOR VALUES FROM (%L) TO (%L)',
                     partition_name, lower_bound, upper_bound);
    END IF;
    lower_bound := upper_bound;
  END LOOP;
END
$$;

-- Exception to the distribution key: a projection of `risk_event` for reading by device and address. On one Postgres it
-- is kept by the trigger below; on Citus it would be kept by a projector from `risk_event`.
-- kind: 1 device, 2 address, 3 look-alike (profile and amount), 4 card (`other` = A: at its activation), 5 account.
CREATE TABLE risk_pair (
  account_id text NOT NULL,
  kind smallint NOT NULL CHECK (kind BETWEEN 1 AND 5),
  key bytea NOT NULL,
  other bytea NOT NULL,
  first_time timestamptz NOT NULL,
  first_seq bigint NOT NULL,
  PRIMARY KEY (account_id, key, kind, other)
);
CREATE INDEX risk_pair_key ON risk_pair (kind, key, first_time, first_seq) INCLUDE (account_id, other);

-- What two requests of different accounts have in common when one hand makes both.
CREATE FUNCTION look_alike_key(profile_hash bytea, amount_minor bigint) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN profile_hash || int8send(coalesce(amount_minor, -1));

CREATE FUNCTION project_risk_events() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO risk_pair (account_id, kind, key, other, first_time, first_seq)
  SELECT DISTINCT ON (e.account_id, pair.kind, pair.key, pair.other)
         e.account_id, pair.kind, pair.key, pair.other, e.event_time, e.seq
  FROM new_event AS e
  CROSS JOIN LATERAL (VALUES
    (1::smallint, e.device_hash, ''::bytea),
    (2::smallint, e.address_hash, ''::bytea),
    (3::smallint, CASE WHEN e.kind = 'RECYCLE' THEN look_alike_key(e.profile_hash, e.amount_minor) END, ''::bytea),
    (4::smallint, convert_to(e.card_id, 'UTF8'), CASE WHEN e.kind = 'ACTIVATE' THEN 'A'::bytea ELSE ''::bytea END),
    (5::smallint, ''::bytea, ''::bytea)
  ) AS pair (kind, key, other)
  WHERE pair.key IS NOT NULL
  ORDER BY e.account_id, pair.kind, pair.key, pair.other, e.event_time, e.seq
  ON CONFLICT DO NOTHING;
  RETURN NULL;
END
$$;

CREATE TRIGGER risk_event_projected AFTER INSERT ON risk_event
  REFERENCING NEW TABLE AS new_event
  FOR EACH STATEMENT EXECUTE FUNCTION project_risk_events();

-- The feature rows of a batch of requests, in the order given.
--
-- Row i is about the request of p_account_id[i] at (p_as_of[i], p_as_of_seq[i]) and reads only events before that. Where
-- p_leaves[i] is true the request will itself be an event (of kind p_kind[i]) for the later rows of the same batch, so a
-- batch gives what the same requests one after the other would; each account may then be in the batch only once.
-- Training passes false, since all its events lie in `risk_event` already. Counts saturate at 200.
-- The columns' meaning, unit and range: fraud_scoring.v1.FeatureRow.
-- `kind + 0` keeps look-ups of an account's own pairs on the primary key, whatever the statistics say.
CREATE FUNCTION risk_features(
  p_account_id text[], p_kind text[], p_card_id text[], p_device_hash bytea[], p_address_hash bytea[],
  p_prefix_hash bytea[], p_profile_hash bytea[], p_amount_minor bigint[], p_signals json[],
  p_as_of timestamptz[], p_as_of_seq bigint[], p_leaves boolean[]
) RETURNS TABLE (
  feature_position bigint,
  device_accounts_1h integer, device_accounts_24h integer, device_accounts_30d integer, device_accounts_ever integer,
  device_age_seconds double precision, device_recycles_24h integer, device_cards_30d integer,
  device_profiles_30d integer, device_capped boolean,
  look_alike_accounts_1h integer, look_alike_accounts_24h integer,
  account_age_seconds double precision, account_devices_30d integer, account_device_is_new boolean,
  account_recycles_1h integer, account_recycles_24h integer, account_gap_seconds double precision,
  account_reactivations_30d integer,
  address_accounts_1h integer, address_accounts_24h integer, prefix_recycles_1h integer,
  card_prior_accounts integer, card_age_seconds double precision, card_active_seconds double precision,
  amount_minor bigint,
  session_seconds double precision, page_views integer, seconds_since_login double precision,
  failed_logins_24h integer, captcha_failures integer, copy_paste_used boolean,
  emulator boolean, rooted boolean, vpn boolean
)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH request AS MATERIALIZED (
    SELECT r.*, look_alike_key(r.profile_hash, r.amount) AS look_alike
    FROM unnest(p_account_id, p_kind, p_card_id, p_device_hash, p_address_hash, p_prefix_hash, p_profile_hash,
                p_amount_minor, p_signals, p_as_of, p_as_of_seq, p_leaves) WITH ORDINALITY
      AS r (account_id, kind, card_id, device_hash, address_hash, prefix_hash, profile_hash,
            amount, signals, as_of, as_of_seq, leaves, pos)
  ),
  history AS MATERIALIZED (
    SELECT r.*, d.*, de.*, l.*, a.*, ad.*, ae.*, ip.*, pe.*, c.*
    FROM request AS r
    -- Device: the other accounts first seen on it (latest 200), and when it was first seen with this one.
    CROSS JOIN LATERAL (
      SELECT count(*) FILTER (WHERE p.first_time >= r.as_of - interval '1 hour') AS d_accounts_1h,
             count(*) FILTER (WHERE p.first_time >= r.as_of - interval '24 hours') AS d_accounts_24h,
             count(*) FILTER (WHERE p.first_time >= r.as_of - interval '30 days') AS d_accounts_30d,
             count(*) AS d_accounts_ever,
             min(p.first_time) AS d_first_other,
             (SELECT own.first_time FROM risk_pair AS own
              WHERE own.account_id = r.account_id AND own.kind + 0 = 1 AND own.key = r.device_hash AND own.other = ''
                AND (own.first_time, own.first_seq) < (r.as_of, r.as_of_seq)) AS d_first_own
      FROM (SELECT q.first_time FROM risk_pair AS q
            WHERE q.kind = 1 AND q.key = r.device_hash AND q.account_id <> r.account_id
              AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)
            ORDER BY q.first_time DESC, q.first_seq DESC LIMIT 200) AS p
    ) AS d
    -- Device: its latest 200 events of 30 days.
    CROSS JOIN LATERAL (
      SELECT count(*) FILTER (WHERE e.kind = 'RECYCLE' AND e.event_time >= r.as_of - interval '24 hours') AS de_recycles,
             count(DISTINCT e.card_id) AS de_cards,
             count(DISTINCT e.profile_hash) FILTER (WHERE e.profile_hash <> r.profile_hash) AS de_profiles,
             count(*) AS de_events,
             coalesce(bool_or(e.card_id = r.card_id), false) AS de_own_card,
             coalesce(bool_or(e.profile_hash = r.profile_hash), false) AS de_own_profile
      FROM (SELECT v.kind, v.event_time, v.card_id, v.profile_hash FROM risk_event AS v
            WHERE v.device_hash = r.device_hash AND v.event_time >= r.as_of - interval '30 days'
              AND v.event_time <= r.as_of AND (v.event_time, v.seq) < (r.as_of, r.as_of_seq)
            ORDER BY v.event_time DESC, v.seq DESC LIMIT 200) AS e
    ) AS de
    -- Look-alikes: other accounts first seen with the same profile and amount (latest 200).
    CROSS JOIN LATERAL (
      SELECT count(*) FILTER (WHERE p.first_time >= r.as_of - interval '1 hour') AS l_accounts_1h,
             count(*) AS l_accounts_24h,
             EXISTS (SELECT FROM risk_pair AS own
                     WHERE own.account_id = r.account_id AND own.kind + 0 = 3 AND own.key = r.look_alike AND own.other = ''
                       AND (own.first_time, own.first_seq) < (r.as_of, r.as_of_seq)) AS l_own
      FROM (SELECT q.first_time FROM risk_pair AS q
            WHERE q.kind = 3 AND q.key = r.look_alike AND q.account_id <> r.account_id
              AND q.first_time >= r.as_of - interval '24 hours'
              AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)
            ORDER BY q.first_time DESC, q.first_seq DESC LIMIT 200) AS p
    ) AS l
    -- Account: when it was first seen, and the devices first seen with it in 30 days.
    CROSS JOIN LATERAL (
      SELECT min(p.first_time) AS a_first
      FROM risk_pair AS p
      WHERE p.account_id = r.account_id AND p.kind + 0 = 5 AND p.key = '' AND p.other = ''
        AND (p.first_time, p.first_seq) < (r.as_of, r.as_of_seq)
    ) AS a
    CROSS JOIN LATERAL (
      SELECT count(*) AS ad_devices
      FROM (SELECT FROM risk_pair AS q
            WHERE q.account_id = r.account_id AND q.kind = 1 AND q.first_time >= r.as_of - interval '30 days'
              AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)
            LIMIT 200) AS p
    ) AS ad
    -- Account: its latest 200 events of 30 days.
    CROSS JOIN LATERAL (
      SELECT count(*) FILTER (WHERE e.kind = 'RECYCLE' AND e.event_time >= r.as_of - interval '1 hour') AS ae_recycles_1h,
             count(*) FILTER (WHERE e.kind = 'RECYCLE' AND e.event_time >= r.as_of - interval '24 hours')
               AS ae_recycles_24h,
             max(e.event_time) FILTER (WHERE e.kind = 'RECYCLE') AS ae_last_recycle,
             count(*) FILTER (WHERE e.kind = 'REACTIVATE') AS ae_reactivations
      FROM (SELECT v.kind, v.event_time FROM risk_event AS v
            WHERE v.account_id = r.account_id AND v.event_time >= r.as_of - interval '30 days'
              AND v.event_time <= r.as_of AND (v.event_time, v.seq) < (r.as_of, r.as_of_seq)
            ORDER BY v.event_time DESC, v.seq DESC LIMIT 200) AS e
    ) AS ae
    -- Address: the other accounts first seen at it (latest 200 of 24 hours).
    CROSS JOIN LATERAL (
      SELECT count(*) FILTER (WHERE p.first_time >= r.as_of - interval '1 hour') AS ip_accounts_1h,
             count(*) AS ip_accounts_24h,
             EXISTS (SELECT FROM risk_pair AS own
                     WHERE own.account_id = r.account_id AND own.kind + 0 = 2 AND own.key = r.address_hash AND own.other = ''
                       AND (own.first_time, own.first_seq) < (r.as_of, r.as_of_seq)) AS ip_own
      FROM (SELECT q.first_time FROM risk_pair AS q
            WHERE q.kind = 2 AND q.key = r.address_hash AND q.account_id <> r.account_id
              AND q.first_time >= r.as_of - interval '24 hours'
              AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)
            ORDER BY q.first_time DESC, q.first_seq DESC LIMIT 200) AS p
    ) AS ip
    -- Address range: its latest 200 events of an hour.
    CROSS JOIN LATERAL (
      SELECT count(*) FILTER (WHERE e.kind = 'RECYCLE') AS pe_recycles
      FROM (SELECT v.kind FROM risk_event AS v
            WHERE v.prefix_hash = r.prefix_hash AND v.event_time >= r.as_of - interval '1 hour'
              AND v.event_time <= r.as_of AND (v.event_time, v.seq) < (r.as_of, r.as_of_seq)
            ORDER BY v.event_time DESC, v.seq DESC LIMIT 200) AS e
    ) AS pe
    -- Card: who was seen with it, since when, and when it was activated (first 200).
    CROSS JOIN LATERAL (
      SELECT count(DISTINCT p.account_id) FILTER (WHERE p.account_id <> r.account_id) AS c_accounts,
             min(p.first_time) AS c_first,
             min(p.first_time) FILTER (WHERE p.other = 'A') AS c_activated
      FROM (SELECT q.account_id, q.first_time, q.other FROM risk_pair AS q
            WHERE q.kind = 4 AND q.key = convert_to(r.card_id, 'UTF8')
              AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)
            ORDER BY q.first_time, q.first_seq LIMIT 200) AS p
    ) AS c
  ),
  -- The earlier rows of the batch, which will be events by the time this one is judged.
  newness AS (
    SELECT h.*,
           h.leaves AND h.d_first_own IS NULL AS new_on_device,
           h.leaves AND h.kind = 'RECYCLE' AS recycles,
           h.leaves AND h.card_id IS NOT NULL AND NOT h.de_own_card AS new_card_on_device,
           h.leaves AND h.profile_hash IS NOT NULL AND NOT h.de_own_profile AND row_number() OVER (
             PARTITION BY h.device_hash, h.profile_hash, h.leaves ORDER BY h.pos) = 1 AS new_profile_on_device,
           h.leaves AND h.kind = 'RECYCLE' AND NOT h.l_own AS new_look_alike,
           h.leaves AND NOT h.ip_own AS new_at_address
    FROM history AS h
  ),
  counted AS (
    SELECT n.*,
           count(*) FILTER (WHERE n.new_on_device) OVER on_device AS more_d_accounts,
           count(*) FILTER (WHERE n.leaves) OVER on_device AS more_d_events,
           count(*) FILTER (WHERE n.recycles) OVER on_device AS more_d_recycles,
           count(*) FILTER (WHERE n.new_card_on_device) OVER on_device AS more_d_cards,
           count(*) FILTER (WHERE n.new_profile_on_device) OVER on_device
             - count(*) FILTER (WHERE n.new_profile_on_device) OVER on_device_and_profile AS more_d_profiles,
           count(*) FILTER (WHERE n.new_look_alike) OVER alike AS more_l_accounts,
           count(*) FILTER (WHERE n.new_at_address) OVER at_address AS more_ip_accounts,
           count(*) FILTER (WHERE n.recycles) OVER in_range AS more_pe_recycles
    FROM newness AS n
    WINDOW on_device AS (PARTITION BY n.device_hash ORDER BY n.pos ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
           on_device_and_profile AS (PARTITION BY n.device_hash, n.profile_hash ORDER BY n.pos
                                     ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
           alike AS (PARTITION BY n.look_alike ORDER BY n.pos ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
           at_address AS (PARTITION BY n.address_hash ORDER BY n.pos ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
           in_range AS (PARTITION BY n.prefix_hash ORDER BY n.pos ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
  )
  SELECT
    f.pos,
    CASE WHEN f.device_hash IS NOT NULL THEN least(200, f.d_accounts_1h + f.more_d_accounts)::integer END,
    CASE WHEN f.device_hash IS NOT NULL THEN least(200, f.d_accounts_24h + f.more_d_accounts)::integer END,
    CASE WHEN f.device_hash IS NOT NULL THEN least(200, f.d_accounts_30d + f.more_d_accounts)::integer END,
    CASE WHEN f.device_hash IS NOT NULL THEN least(200, f.d_accounts_ever + f.more_d_accounts)::integer END,
    CASE WHEN f.device_hash IS NOT NULL
      THEN coalesce(extract(epoch FROM f.as_of - least(f.d_first_other, f.d_first_own)), 0)::double precision END,
    CASE WHEN f.device_hash IS NOT NULL THEN least(200, f.de_recycles + f.more_d_recycles)::integer END,
    CASE WHEN f.device_hash IS NOT NULL THEN least(200, f.de_cards + f.more_d_cards)::integer END,
    CASE WHEN f.device_hash IS NOT NULL AND f.profile_hash IS NOT NULL
      THEN least(200, f.de_profiles + f.more_d_profiles)::integer END,
    CASE WHEN f.device_hash IS NOT NULL THEN f.de_events + f.more_d_events >= 200 END,
    CASE WHEN f.look_alike IS NOT NULL THEN least(200, f.l_accounts_1h + f.more_l_accounts)::integer END,
    CASE WHEN f.look_alike IS NOT NULL THEN least(200, f.l_accounts_24h + f.more_l_accounts)::integer END,
    coalesce(extract(epoch FROM f.as_of - f.a_first), 0)::double precision,
    f.ad_devices::integer,
    CASE WHEN f.device_hash IS NOT NULL THEN f.d_first_own IS NULL END,
    f.ae_recycles_1h::integer,
    f.ae_recycles_24h::integer,
    extract(epoch FROM f.as_of - f.ae_last_recycle)::double precision,
    f.ae_reactivations::integer,
    CASE WHEN f.address_hash IS NOT NULL THEN least(200, f.ip_accounts_1h + f.more_ip_accounts)::integer END,
    CASE WHEN f.address_hash IS NOT NULL THEN least(200, f.ip_accounts_24h + f.more_ip_accounts)::integer END,
    CASE WHEN f.prefix_hash IS NOT NULL THEN least(200, f.pe_recycles + f.more_pe_recycles)::integer END,
    f.c_accounts::integer,
    extract(epoch FROM f.as_of - f.c_first)::double precision,
    extract(epoch FROM f.as_of - f.c_activated)::double precision,
    f.amount,
    (f.signals ->> 'session_seconds')::double precision,
    (f.signals ->> 'page_views')::integer,
    (f.signals ->> 'seconds_since_login')::double precision,
    (f.signals ->> 'failed_logins_24h')::integer,
    (f.signals ->> 'captcha_failures')::integer,
    (f.signals ->> 'copy_paste_used')::boolean,
    (f.signals ->> 'emulator')::boolean,
    (f.signals ->> 'rooted')::boolean,
    (f.signals ->> 'vpn')::boolean
  FROM counted AS f
  ORDER BY f.pos;
END
$$;

GRANT SELECT, INSERT ON risk_event, risk_pair TO recycling_server;
