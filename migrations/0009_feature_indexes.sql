-- Why: a feature row of a long history costs what its reads find in no processor cache, so it reads fewer pages. Reads of
-- `risk_features` visit no table, only indexes, but for keys that rows of a batch share and devices of more than 200
-- accounts. What is read of an account's events lies in one place, and so does what is read of its pairs; and a device's
-- accounts tell whether the account is one of them. The features' values stay.

-- The runner's one transaction knows no CONCURRENTLY; docs/operations.md says how to make these two beforehand.
-- squawk-ignore-file require-concurrent-index-creation, require-concurrent-index-deletion

-- Recycles, and apart from them reactivations and settlements. Partitions that have such an index already lend it.
CREATE INDEX IF NOT EXISTS risk_event_account
  ON risk_event (account_id, ((kind = 'RECYCLE')::integer), event_time, seq) INCLUDE (kind, card_id, amount_minor)
  WHERE kind IN ('RECYCLE', 'REACTIVATE', 'COMPENSATE');
-- An account's beginning and its devices, without its other pairs, of which there may be many.
CREATE INDEX IF NOT EXISTS risk_pair_account ON risk_pair (account_id, (-kind), first_time, first_seq) INCLUDE (kind, key)
  WHERE -kind IN (-1, -5);

-- The feature rows of a batch of requests, in the order given.
--
-- Row i is about the request of p_account_id[i] at (p_as_of[i], p_as_of_seq[i]) and reads only events before that. Where
-- p_leaves[i] is true the request will itself be an event (of kind p_kind[i]) for the later rows of the same batch, so a
-- batch gives what the same requests one after the other would; each account may then be in the batch only once.
-- Training passes false, since all its events lie in `risk_event` already. Counts saturate at 200.
-- The outcome of an earlier row is not known yet: it is taken to be that of the device's latest recycle before the
-- batch (none: not rejected). `assumed_rejected`, which is no feature, tells what was assumed of each row.
-- Two hops are as of a minute ago: what happens to a device at two hops cannot be told to be in the same batch.
-- The columns' meaning, unit and range: docs/features.md.
-- Reads by key say `kind + 0`, which only their index has, those of an account's devices and of its beginning say
-- `-kind`, those of its events `(kind = 'RECYCLE')::integer`, and look-ups of one pair say `kind`, which only the primary
-- key has: so each finds its index, whatever the statistics say.
-- Most of what a lone row costs is the opening of what the plan names, and of a row in a batch the descents into
-- indexes. So what concerns batches alone is a statement of its own, partitions are excluded before they are opened,
-- and what cannot be there is not looked for. `(event_time, seq)` are compared as pairs, since a bound on `event_time`
-- that differs from row to row would have the partitions chosen anew for each.
CREATE OR REPLACE FUNCTION risk_features(
  p_account_id text[], p_kind text[], p_card_id text[], p_device_hash bytea[], p_address_hash bytea[],
  p_prefix_hash bytea[], p_profile_hash bytea[], p_serial_block bytea[], p_amount_minor bigint[], p_tier text[],
  p_reason text[], p_signals json[], p_as_of timestamptz[], p_as_of_seq bigint[], p_leaves boolean[]
) RETURNS TABLE (
  feature_position bigint,
  device_accounts_1h integer, device_accounts_24h integer, device_accounts_30d integer, device_accounts_ever integer,
  device_age_seconds double precision, device_recycles_24h integer, device_cards_30d integer,
  device_rejects_30d integer, device_confirmed_abuse integer, device_profiles_30d integer, device_capped boolean,
  profile_accounts_30d integer, look_alike_accounts_1h integer, look_alike_accounts_24h integer,
  inconsistencies integer, emulator boolean, rooted boolean, vpn boolean, clock_skew_seconds double precision,
  account_age_seconds double precision, account_devices_30d integer, account_device_is_new boolean,
  account_recycles_1h integer, account_recycles_24h integer, account_gap_seconds double precision,
  account_gap_variation double precision, account_reactivations_30d integer,
  account_bonus_share_30d double precision, account_confirmed_abuse integer, account_capped boolean,
  failed_card_entries_24h integer, failed_logins_24h integer,
  address_accounts_1h integer, address_accounts_24h integer, address_devices_24h integer, prefix_recycles_1h integer,
  address_capped boolean, hosting boolean, timezone_mismatch boolean,
  linked_confirmed_abuse_30d integer,
  card_prior_accounts integer, card_age_seconds double precision, card_active_seconds double precision,
  serial_neighbours_24h integer, amount_minor bigint, tier_premium boolean, reason_voluntary boolean,
  reason_anomaly boolean,
  session_seconds double precision, page_views integer, seconds_since_login double precision, form_fill_ms integer,
  captcha_failures integer, copy_paste_used boolean,
  assumed_rejected boolean
)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
  -- No row reads an event outside of these. A statement that knows them before it begins opens no partition in vain,
  -- which would cost more than the reads.
  earliest timestamptz;
  latest timestamptz;
  -- By position: what the earlier rows of the batch add. Null for a row alone.
  more_d_accounts bigint[];
  more_d_abusers bigint[];
  more_d_recycles bigint[];
  more_d_rejects bigint[];
  more_d_cards bigint[];
  more_d_profiles bigint[];
  more_pf_accounts bigint[];
  more_l_accounts bigint[];
  more_ip_accounts bigint[];
  more_ip_devices bigint[];
  more_pe_recycles bigint[];
  more_sn_accounts bigint[];
BEGIN
  SELECT min(moment) - interval '30 days', max(moment) INTO earliest, latest FROM unnest(p_as_of) AS moment;
  -- The earlier rows of the batch, which will be events by the time a later one is judged.
  IF cardinality(p_leaves) > 1 AND true = ANY (p_leaves) THEN
    WITH request AS MATERIALIZED (
      -- What is new matters only where a later row has the same key, as few have.
      SELECT r.*, look_alike_key(r.profile_hash, r.amount) AS look_alike,
             r.leaves AND lead(r.pos) OVER (PARTITION BY r.device_hash ORDER BY r.pos) IS NOT NULL AS device_shared,
             r.leaves AND lead(r.pos) OVER (PARTITION BY r.profile_hash ORDER BY r.pos) IS NOT NULL AS profile_shared,
             r.leaves AND lead(r.pos) OVER (PARTITION BY r.address_hash ORDER BY r.pos) IS NOT NULL AS address_shared,
             r.leaves AND lead(r.pos) OVER (PARTITION BY r.serial_block ORDER BY r.pos) IS NOT NULL AS block_shared
      FROM unnest(p_account_id, p_kind, p_card_id, p_device_hash, p_address_hash, p_prefix_hash, p_profile_hash,
                  p_serial_block, p_amount_minor, p_as_of, p_as_of_seq, p_leaves)
        WITH ORDINALITY
        AS r (account_id, kind, card_id, device_hash, address_hash, prefix_hash, profile_hash, serial_block,
              amount, as_of, as_of_seq, leaves, pos)
    ),
    newness AS (
      SELECT r.pos, r.device_hash, r.profile_hash, r.look_alike, r.address_hash, r.prefix_hash, r.serial_block,
             r.leaves AND r.kind = 'RECYCLE' AS recycles,
             own.new_on_device,
             own.new_on_device AND EXISTS (
               SELECT FROM risk_label AS k
               WHERE k.account_id = r.account_id AND k.label = 1 AND k.label_time < r.as_of) AS new_abuser_on_device,
             r.device_shared AND r.kind IN ('RECYCLE', 'REACTIVATE') AND (
               SELECT e.outcome
               FROM device_recycles(r.device_hash, r.as_of, r.as_of_seq, earliest, latest) AS e
               WHERE e.outcome IS NOT NULL
               ORDER BY e.event_time DESC, e.seq DESC LIMIT 1) = 'REJECTED' AS assumed_rejected,
             r.device_shared AND r.card_id IS NOT NULL AND NOT EXISTS (
               SELECT FROM risk_link AS q
               WHERE q.kind = 1 AND q.key = r.device_hash AND q.other = convert_to(r.card_id, 'UTF8')
                 AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)) AS new_card_on_device,
             r.device_shared AND r.profile_hash IS NOT NULL AND NOT EXISTS (
               SELECT FROM risk_link AS q
               WHERE q.kind = 2 AND q.key = r.device_hash AND q.other = r.profile_hash
                 AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)) AND row_number() OVER (
               PARTITION BY r.device_hash, r.profile_hash, r.leaves ORDER BY r.pos) = 1 AS new_profile_on_device,
             r.profile_shared AND NOT EXISTS (
               SELECT FROM risk_pair AS q
               WHERE q.account_id = r.account_id AND q.kind = 6 AND q.key = r.profile_hash AND q.other = ''
                 AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)) AS new_with_profile,
             r.profile_shared AND r.kind = 'RECYCLE' AND NOT EXISTS (
               SELECT FROM risk_pair AS q
               WHERE q.account_id = r.account_id AND q.kind = 3 AND q.key = r.look_alike AND q.other = ''
                 AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)) AS new_look_alike,
             r.address_shared AND NOT EXISTS (
               SELECT FROM risk_pair AS q
               WHERE q.account_id = r.account_id AND q.kind = 2 AND q.key = r.address_hash AND q.other = ''
                 AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)) AS new_at_address,
             r.address_shared AND r.device_hash IS NOT NULL AND NOT EXISTS (
               SELECT FROM risk_link AS q
               WHERE q.kind = 3 AND q.key = r.address_hash AND q.other = r.device_hash
                 AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)) AND row_number() OVER (
               PARTITION BY r.address_hash, r.device_hash, r.leaves ORDER BY r.pos) = 1 AS new_device_at_address,
             r.block_shared AND r.kind = 'RECYCLE' AND NOT EXISTS (
               SELECT FROM risk_pair AS q
               WHERE q.account_id = r.account_id AND q.kind = 7 AND q.key = r.serial_block AND q.other = ''
                 AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)) AS new_in_block
      FROM request AS r
      CROSS JOIN LATERAL (
        SELECT r.device_shared AND NOT EXISTS (
          SELECT FROM risk_pair AS q
          WHERE q.account_id = r.account_id AND q.kind = 1 AND q.key = r.device_hash AND q.other = ''
            AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)) AS new_on_device
      ) AS own
    ),
    more AS (
      SELECT n.pos,
             count(*) FILTER (WHERE n.new_on_device) OVER on_device AS d_accounts,
             count(*) FILTER (WHERE n.new_abuser_on_device) OVER on_device AS d_abusers,
             count(*) FILTER (WHERE n.recycles) OVER on_device AS d_recycles,
             count(*) FILTER (WHERE n.assumed_rejected) OVER on_device AS d_rejects,
             count(*) FILTER (WHERE n.new_card_on_device) OVER on_device AS d_cards,
             count(*) FILTER (WHERE n.new_profile_on_device) OVER on_device
               - count(*) FILTER (WHERE n.new_profile_on_device) OVER on_device_and_profile AS d_profiles,
             count(*) FILTER (WHERE n.new_with_profile) OVER of_profile AS pf_accounts,
             count(*) FILTER (WHERE n.new_look_alike) OVER alike AS l_accounts,
             count(*) FILTER (WHERE n.new_at_address) OVER at_address AS ip_accounts,
             count(*) FILTER (WHERE n.new_device_at_address) OVER at_address
               - count(*) FILTER (WHERE n.new_device_at_address) OVER at_address_on_device AS ip_devices,
             count(*) FILTER (WHERE n.recycles) OVER in_range AS pe_recycles,
             count(*) FILTER (WHERE n.new_in_block) OVER in_block AS sn_accounts
      FROM newness AS n
      WINDOW on_device AS (PARTITION BY n.device_hash ORDER BY n.pos ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
             on_device_and_profile AS (PARTITION BY n.device_hash, n.profile_hash ORDER BY n.pos
                                       ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
             of_profile AS (PARTITION BY n.profile_hash ORDER BY n.pos
                            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
             alike AS (PARTITION BY n.look_alike ORDER BY n.pos ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
             at_address AS (PARTITION BY n.address_hash ORDER BY n.pos
                            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
             at_address_on_device AS (PARTITION BY n.address_hash, n.device_hash ORDER BY n.pos
                                      ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
             in_range AS (PARTITION BY n.prefix_hash ORDER BY n.pos ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
             in_block AS (PARTITION BY n.serial_block ORDER BY n.pos ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
    )
    SELECT array_agg(m.d_accounts ORDER BY m.pos), array_agg(m.d_abusers ORDER BY m.pos),
           array_agg(m.d_recycles ORDER BY m.pos), array_agg(m.d_rejects ORDER BY m.pos),
           array_agg(m.d_cards ORDER BY m.pos), array_agg(m.d_profiles ORDER BY m.pos),
           array_agg(m.pf_accounts ORDER BY m.pos), array_agg(m.l_accounts ORDER BY m.pos),
           array_agg(m.ip_accounts ORDER BY m.pos), array_agg(m.ip_devices ORDER BY m.pos),
           array_agg(m.pe_recycles ORDER BY m.pos), array_agg(m.sn_accounts ORDER BY m.pos)
    INTO more_d_accounts, more_d_abusers, more_d_recycles, more_d_rejects, more_d_cards, more_d_profiles,
         more_pf_accounts, more_l_accounts, more_ip_accounts, more_ip_devices, more_pe_recycles, more_sn_accounts
    FROM more AS m;
  END IF;
  RETURN QUERY
  WITH request AS MATERIALIZED (
    SELECT r.account_id, r.kind, r.card_id, r.device_hash, r.address_hash, r.prefix_hash, r.profile_hash,
           r.serial_block, r.amount, r.tier, r.reason, r.as_of, r.as_of_seq, r.leaves, r.pos,
           r.signals::jsonb AS signals, look_alike_key(r.profile_hash, r.amount) AS look_alike,
           coalesce(more_d_accounts[r.pos], 0) AS more_d_accounts,
           coalesce(more_d_abusers[r.pos], 0) AS more_d_abusers,
           coalesce(more_d_recycles[r.pos], 0) AS more_d_recycles,
           coalesce(more_d_rejects[r.pos], 0) AS more_d_rejects,
           coalesce(more_d_cards[r.pos], 0) AS more_d_cards,
           coalesce(more_d_profiles[r.pos], 0) AS more_d_profiles,
           coalesce(more_pf_accounts[r.pos], 0) AS more_pf_accounts,
           coalesce(more_l_accounts[r.pos], 0) AS more_l_accounts,
           coalesce(more_ip_accounts[r.pos], 0) AS more_ip_accounts,
           coalesce(more_ip_devices[r.pos], 0) AS more_ip_devices,
           coalesce(more_pe_recycles[r.pos], 0) AS more_pe_recycles,
           coalesce(more_sn_accounts[r.pos], 0) AS more_sn_accounts
    FROM unnest(p_account_id, p_kind, p_card_id, p_device_hash, p_address_hash, p_prefix_hash, p_profile_hash,
                p_serial_block, p_amount_minor, p_tier, p_reason, p_signals, p_as_of, p_as_of_seq, p_leaves)
      WITH ORDINALITY
      AS r (account_id, kind, card_id, device_hash, address_hash, prefix_hash, profile_hash, serial_block,
            amount, tier, reason, signals, as_of, as_of_seq, leaves, pos)
  ),
  history AS MATERIALIZED (
    SELECT r.*, d.*, de.*, l.*, ae.*, ax.*, ip.*, c.*,
           -- Device: its latest 200 rejected requests of 30 days.
           (SELECT count(*)
            FROM (SELECT FROM risk_event AS v
                  WHERE v.device_hash = r.device_hash AND v.outcome = 'REJECTED'
                    AND v.event_time >= earliest AND v.event_time <= latest
                    AND (v.event_time, v.seq) >= (r.as_of - interval '30 days', 0)
                    AND (v.event_time, v.seq) < (r.as_of, r.as_of_seq)
                  ORDER BY v.event_time DESC, v.seq DESC LIMIT 200) AS e) AS dr_rejects,
           -- Device: the cards first seen on it in 30 days (latest 200).
           (SELECT count(*)
            FROM (SELECT FROM risk_link AS q
                  WHERE q.kind + 0 = 1 AND q.key = r.device_hash AND q.first_time >= r.as_of - interval '30 days'
                    AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)
                  ORDER BY q.first_time DESC, q.first_seq DESC LIMIT 200) AS p) AS dc_cards,
           -- Device: the other profiles first seen on it in 30 days (latest 200).
           (SELECT count(*)
            FROM (SELECT FROM risk_link AS q
                  WHERE q.kind + 0 = 2 AND q.key = r.device_hash AND q.other <> r.profile_hash
                    AND q.first_time >= r.as_of - interval '30 days'
                    AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)
                  ORDER BY q.first_time DESC, q.first_seq DESC LIMIT 200) AS p) AS dp_profiles,
           -- Device: the other accounts on it whose abuse is confirmed (latest 200).
           CASE WHEN d.d_accounts_ever > 0 THEN
             (SELECT count(*)
              FROM (SELECT FROM risk_pair AS q
                    WHERE q.kind + 0 = 8 AND q.key = r.device_hash AND q.account_id <> r.account_id
                      AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)
                    ORDER BY q.first_time DESC, q.first_seq DESC LIMIT 200) AS p) ELSE 0 END AS dx_abusers,
           -- Two hops: the latest 20 other accounts on the device, and the latest 20 other devices of each: on how many
           -- is abuse of another account confirmed since 30 days or less.
           CASE WHEN d.d_accounts_ever > 0 THEN
             (SELECT count(*)
              FROM (SELECT q.account_id FROM risk_pair AS q
                    WHERE q.kind + 0 = 1 AND q.key = r.device_hash AND q.account_id <> r.account_id
                      AND q.first_time < r.as_of - interval '1 minute'
                    ORDER BY q.first_time DESC, q.first_seq DESC LIMIT 20) AS near
              CROSS JOIN LATERAL (
                SELECT q.key FROM risk_pair AS q
                WHERE q.account_id = near.account_id AND -q.kind = -1 AND q.key <> r.device_hash
                  AND q.first_time < r.as_of - interval '1 minute'
                ORDER BY q.first_time DESC, q.first_seq DESC LIMIT 20
              ) AS far
              WHERE EXISTS (SELECT FROM risk_pair AS q
                            WHERE q.kind + 0 = 8 AND q.key = far.key AND q.account_id <> r.account_id
                              AND q.first_time >= r.as_of - interval '30 days'
                              AND q.first_time < r.as_of - interval '1 minute')) ELSE 0 END AS li_devices,
           -- Profile: the other accounts first seen with it in 30 days (latest 200).
           (SELECT count(*)
            FROM (SELECT FROM risk_pair AS q
                  WHERE q.kind + 0 = 6 AND q.key = r.profile_hash AND q.account_id <> r.account_id
                    AND q.first_time >= r.as_of - interval '30 days'
                    AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)
                  ORDER BY q.first_time DESC, q.first_seq DESC LIMIT 200) AS p) AS pf_accounts,
           -- Account: when it was first seen, and the devices first seen with it in 30 days (latest 200).
           (SELECT p.first_time FROM risk_pair AS p
            WHERE p.account_id = r.account_id AND -p.kind = -5
              AND (p.first_time, p.first_seq) < (r.as_of, r.as_of_seq)) AS a_first,
           (SELECT count(*)
            FROM (SELECT FROM risk_pair AS q
                  WHERE q.account_id = r.account_id AND -q.kind = -1 AND q.first_time >= r.as_of - interval '30 days'
                    AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)
                  ORDER BY q.first_time DESC, q.first_seq DESC LIMIT 200) AS p) AS ad_devices,
           -- Account: how often its abuse was confirmed (first 200).
           (SELECT count(*)
            FROM (SELECT FROM risk_label AS k
                  WHERE k.account_id = r.account_id AND k.label = 1 AND k.label_time < r.as_of
                  ORDER BY k.label_time LIMIT 200) AS q) AS al_labels,
           -- Address: the other devices first seen at it (latest 200 of 24 hours).
           (SELECT count(*)
            FROM (SELECT FROM risk_link AS q
                  WHERE q.kind + 0 = 3 AND q.key = r.address_hash AND q.other IS DISTINCT FROM r.device_hash
                    AND q.first_time >= r.as_of - interval '24 hours'
                    AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)
                  ORDER BY q.first_time DESC, q.first_seq DESC LIMIT 200) AS p) AS id_devices,
           -- Address range: its latest 200 recycles of an hour.
           (SELECT count(*)
            FROM (SELECT FROM risk_event AS v
                  WHERE v.prefix_hash = r.prefix_hash AND v.kind = 'RECYCLE'
                    AND v.event_time >= earliest AND v.event_time <= latest
                    AND (v.event_time, v.seq) >= (r.as_of - interval '1 hour', 0)
                    AND (v.event_time, v.seq) < (r.as_of, r.as_of_seq)
                  ORDER BY v.event_time DESC, v.seq DESC LIMIT 200) AS e) AS pe_recycles,
           -- Serials: other accounts that first recycled a card of the same block (latest 200 of 24 hours).
           (SELECT count(*)
            FROM (SELECT FROM risk_pair AS q
                  WHERE q.kind + 0 = 7 AND q.key = r.serial_block AND q.account_id <> r.account_id
                    AND q.first_time >= r.as_of - interval '24 hours'
                    AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)
                  ORDER BY q.first_time DESC, q.first_seq DESC LIMIT 200) AS p) AS sn_accounts
    FROM request AS r
    -- Device: the other accounts first seen on it (latest 200), and when it was first seen with this one.
    CROSS JOIN LATERAL (
      SELECT count(*) FILTER (WHERE p.is_other AND p.first_time >= r.as_of - interval '1 hour') AS d_accounts_1h,
             count(*) FILTER (WHERE p.is_other AND p.first_time >= r.as_of - interval '24 hours') AS d_accounts_24h,
             count(*) FILTER (WHERE p.is_other AND p.first_time >= r.as_of - interval '30 days') AS d_accounts_30d,
             count(*) FILTER (WHERE p.is_other) AS d_accounts_ever,
             -- Of 201 others, the last is one too many.
             CASE WHEN count(*) FILTER (WHERE p.is_other) <= 200 THEN min(p.first_time) FILTER (WHERE p.is_other) ELSE
               (SELECT q.first_time FROM risk_pair AS q
                WHERE q.kind + 0 = 1 AND q.key = r.device_hash
                  AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)
                ORDER BY q.first_time DESC, q.first_seq DESC LIMIT 1 OFFSET 199) END AS d_first_other,
             -- Who is on the device was read too, unless it was 201 others.
             CASE WHEN count(*) FILTER (WHERE p.is_other) <= 200 THEN min(p.first_time) FILTER (WHERE NOT p.is_other) ELSE
               (SELECT own.first_time FROM risk_pair AS own
                WHERE own.account_id = r.account_id AND own.kind = 1 AND own.key = r.device_hash AND own.other = ''
                  AND (own.first_time, own.first_seq) < (r.as_of, r.as_of_seq)) END AS d_first_own
      FROM (SELECT q.first_time, q.account_id <> r.account_id AS is_other FROM risk_pair AS q
            WHERE q.kind + 0 = 1 AND q.key = r.device_hash
              AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)
            ORDER BY q.first_time DESC, q.first_seq DESC LIMIT 201) AS p
    ) AS d
    -- Device: its latest 200 recycles of 30 days, and what became of the last one that was judged.
    CROSS JOIN LATERAL (
      SELECT count(*) FILTER (WHERE e.event_time >= r.as_of - interval '24 hours') AS de_recycles,
             count(*) AS de_recycles_30d,
             coalesce((array_agg(e.outcome ORDER BY e.event_time DESC, e.seq DESC)
                       FILTER (WHERE e.outcome IS NOT NULL))[1] = 'REJECTED', false) AS de_rejected_last
      FROM device_recycles(r.device_hash, r.as_of, r.as_of_seq, earliest, latest) AS e
    ) AS de
    -- Look-alikes: other accounts first seen with the same profile and amount (latest 200).
    CROSS JOIN LATERAL (
      SELECT count(*) FILTER (WHERE p.first_time >= r.as_of - interval '1 hour') AS l_accounts_1h,
             count(*) AS l_accounts_24h
      FROM (SELECT q.first_time FROM risk_pair AS q
            WHERE q.kind + 0 = 3 AND q.key = r.look_alike AND q.account_id <> r.account_id
              AND q.first_time >= r.as_of - interval '24 hours'
              AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)
            ORDER BY q.first_time DESC, q.first_seq DESC LIMIT 200) AS p
    ) AS l
    -- Account: its latest 200 recycles of 30 days, and the gaps between the last 20 of them.
    CROSS JOIN LATERAL (
      SELECT count(*) FILTER (WHERE e.event_time >= r.as_of - interval '1 hour') AS ae_recycles_1h,
             count(*) FILTER (WHERE e.event_time >= r.as_of - interval '24 hours') AS ae_recycles_24h,
             count(*) AS ae_recycles_30d,
             max(e.event_time) AS ae_last_recycle,
             count(e.gap) FILTER (WHERE e.place < 20) AS ae_gaps,
             avg(e.gap) FILTER (WHERE e.place < 20) AS ae_gap_mean,
             stddev_pop(e.gap) FILTER (WHERE e.place < 20) AS ae_gap_deviation
      FROM (SELECT v.event_time, row_number() OVER newest_first AS place,
                   extract(epoch FROM v.event_time - lead(v.event_time) OVER newest_first)::double precision AS gap
            FROM risk_event AS v
            WHERE v.account_id = r.account_id AND v.kind IN ('RECYCLE', 'REACTIVATE', 'COMPENSATE')
              AND (v.kind = 'RECYCLE')::integer = 1
              AND v.event_time >= earliest AND v.event_time <= latest
              AND (v.event_time, v.seq) >= (r.as_of - interval '30 days', 0)
              AND (v.event_time, v.seq) < (r.as_of, r.as_of_seq)
            WINDOW newest_first AS (ORDER BY v.event_time DESC, v.seq DESC)
            ORDER BY v.event_time DESC, v.seq DESC LIMIT 200) AS e
    ) AS ae
    -- Account: its latest 200 reactivations and settlements of 30 days.
    CROSS JOIN LATERAL (
      SELECT count(*) AS ax_events,
             count(*) FILTER (WHERE e.kind = 'REACTIVATE') AS ax_reactivations,
             sum(e.amount_minor) FILTER (WHERE e.kind = 'COMPENSATE') AS ax_settled,
             array_agg(e.card_id) FILTER (WHERE e.kind = 'COMPENSATE' AND e.amount_minor IS NOT NULL) AS ax_settled_cards
      FROM (SELECT v.kind, v.amount_minor, v.card_id FROM risk_event AS v
            WHERE v.account_id = r.account_id AND v.kind IN ('RECYCLE', 'REACTIVATE', 'COMPENSATE')
              AND (v.kind = 'RECYCLE')::integer = 0
              AND v.event_time >= earliest AND v.event_time <= latest
              AND (v.event_time, v.seq) >= (r.as_of - interval '30 days', 0)
              AND (v.event_time, v.seq) < (r.as_of, r.as_of_seq)
            ORDER BY v.event_time DESC, v.seq DESC LIMIT 200) AS e
    ) AS ax
    -- Address: the other accounts first seen at it (latest 200 of 24 hours).
    CROSS JOIN LATERAL (
      SELECT count(*) FILTER (WHERE p.first_time >= r.as_of - interval '1 hour') AS ip_accounts_1h,
             count(*) AS ip_accounts_24h
      FROM (SELECT q.first_time FROM risk_pair AS q
            WHERE q.kind + 0 = 2 AND q.key = r.address_hash AND q.account_id <> r.account_id
              AND q.first_time >= r.as_of - interval '24 hours'
              AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)
            ORDER BY q.first_time DESC, q.first_seq DESC LIMIT 200) AS p
    ) AS ip
    -- Card: who was seen with it, since when, and when it was activated (first 200).
    CROSS JOIN LATERAL (
      SELECT count(DISTINCT p.account_id) FILTER (WHERE p.account_id <> r.account_id) AS c_accounts,
             min(p.first_time) AS c_first,
             min(p.first_time) FILTER (WHERE p.other = 'A') AS c_activated
      FROM (SELECT q.account_id, q.first_time, q.other FROM risk_pair AS q
            WHERE q.kind + 0 = 4 AND q.key = convert_to(r.card_id, 'UTF8')
              AND (q.first_time, q.first_seq) < (r.as_of, r.as_of_seq)
            ORDER BY q.first_time, q.first_seq LIMIT 200) AS p
    ) AS c
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
    CASE WHEN f.device_hash IS NOT NULL THEN least(200, f.dc_cards + f.more_d_cards)::integer END,
    CASE WHEN f.device_hash IS NOT NULL THEN least(200, f.dr_rejects + f.more_d_rejects)::integer END,
    CASE WHEN f.device_hash IS NOT NULL THEN least(200, f.dx_abusers + f.more_d_abusers)::integer END,
    CASE WHEN f.device_hash IS NOT NULL AND f.profile_hash IS NOT NULL
      THEN least(200, f.dp_profiles + f.more_d_profiles)::integer END,
    CASE WHEN f.device_hash IS NOT NULL THEN f.de_recycles_30d + f.more_d_recycles >= 200 END,
    CASE WHEN f.profile_hash IS NOT NULL THEN least(200, f.pf_accounts + f.more_pf_accounts)::integer END,
    CASE WHEN f.look_alike IS NOT NULL THEN least(200, f.l_accounts_1h + f.more_l_accounts)::integer END,
    CASE WHEN f.look_alike IS NOT NULL THEN least(200, f.l_accounts_24h + f.more_l_accounts)::integer END,
    (f.signals ->> 'inconsistencies')::integer,
    (f.signals ->> 'emulator')::boolean,
    (f.signals ->> 'rooted')::boolean,
    (f.signals ->> 'vpn')::boolean,
    (f.signals ->> 'clock_skew_seconds')::double precision,
    coalesce(extract(epoch FROM f.as_of - f.a_first), 0)::double precision,
    f.ad_devices::integer,
    CASE WHEN f.device_hash IS NOT NULL THEN f.d_first_own IS NULL END,
    f.ae_recycles_1h::integer,
    f.ae_recycles_24h::integer,
    extract(epoch FROM f.as_of - f.ae_last_recycle)::double precision,
    CASE WHEN f.ae_gaps >= 3 THEN coalesce(f.ae_gap_deviation / nullif(f.ae_gap_mean, 0), 0) END,
    f.ax_reactivations::integer,
    CASE WHEN f.ae_recycles_30d > 0 THEN CASE WHEN f.ax_settled IS NULL THEN 0 ELSE (
      -- Over what was paid for the cards that something was settled for, each once.
      SELECT CASE WHEN sum(paid.amount_minor) > 0 THEN least(100, f.ax_settled / sum(paid.amount_minor)) END
      FROM (SELECT DISTINCT ON (v.card_id) v.amount_minor
            FROM (SELECT w.card_id, w.amount_minor, w.event_time, w.seq FROM risk_event AS w
                  WHERE w.account_id = f.account_id AND w.kind IN ('RECYCLE', 'REACTIVATE', 'COMPENSATE')
                    AND (w.kind = 'RECYCLE')::integer = 1 AND w.amount_minor IS NOT NULL
                    AND w.event_time >= earliest AND w.event_time <= latest
                    AND (w.event_time, w.seq) >= (f.as_of - interval '30 days', 0)
                    AND (w.event_time, w.seq) < (f.as_of, f.as_of_seq)
                  ORDER BY w.event_time DESC, w.seq DESC LIMIT 200) AS v
            WHERE v.card_id = ANY (f.ax_settled_cards)
            ORDER BY v.card_id, v.event_time DESC, v.seq DESC) AS paid) END END::double precision,
    f.al_labels::integer,
    f.ae_recycles_30d >= 200 OR f.ax_events >= 200,
    (f.signals ->> 'failed_card_entries_24h')::integer,
    (f.signals ->> 'failed_logins_24h')::integer,
    CASE WHEN f.address_hash IS NOT NULL THEN least(200, f.ip_accounts_1h + f.more_ip_accounts)::integer END,
    CASE WHEN f.address_hash IS NOT NULL THEN least(200, f.ip_accounts_24h + f.more_ip_accounts)::integer END,
    CASE WHEN f.address_hash IS NOT NULL THEN least(200, f.id_devices + f.more_ip_devices)::integer END,
    CASE WHEN f.prefix_hash IS NOT NULL THEN least(200, f.pe_recycles + f.more_pe_recycles)::integer END,
    CASE WHEN f.prefix_hash IS NOT NULL
      THEN greatest(f.pe_recycles + f.more_pe_recycles, f.ip_accounts_24h + f.more_ip_accounts,
                    f.id_devices + f.more_ip_devices) >= 200 END,
    (f.signals ->> 'hosting')::boolean,
    (f.signals ->> 'timezone_mismatch')::boolean,
    CASE WHEN f.device_hash IS NOT NULL THEN least(200, f.li_devices)::integer END,
    f.c_accounts::integer,
    extract(epoch FROM f.as_of - f.c_first)::double precision,
    extract(epoch FROM f.as_of - f.c_activated)::double precision,
    CASE WHEN f.serial_block IS NOT NULL THEN least(200, f.sn_accounts + f.more_sn_accounts)::integer END,
    f.amount,
    f.tier = 'PREMIUM',
    f.reason = 'VOLUNTARY',
    f.reason = 'SYSTEM_ANOMALY',
    (f.signals ->> 'session_seconds')::double precision,
    (f.signals ->> 'page_views')::integer,
    (f.signals ->> 'seconds_since_login')::double precision,
    (f.signals ->> 'form_fill_ms')::integer,
    (f.signals ->> 'captcha_failures')::integer,
    (f.signals ->> 'copy_paste_used')::boolean,
    f.leaves AND f.kind IN ('RECYCLE', 'REACTIVATE') AND f.de_rejected_last
  FROM history AS f
  ORDER BY f.pos;
END
$$;

DROP INDEX risk_event_account_recycle;
DROP INDEX risk_event_account_return;
DROP INDEX risk_pair_account_device;
