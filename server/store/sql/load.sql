-- All that the decisions of a batch of commands may read, in one round trip, in the order of the commands.
-- `risk_kind`: the kind of risk event the command will leave, or null. `request_id`: null for a quote. `reason`: why the
-- card is handed back; null for what is no recycle.
-- `list_hits`: the list entries in force now that name the request; the newest version of each counts. They are read in
-- the reverse order of the key, which needs no sort. The payout that a recycle named is looked up again by what follows it,
-- whichever that names itself.
-- `platform`: whose rules govern what is about no card. `offer_id`, `grants`: what of the last 30 days counts against a
-- limit: how often the offer was taken, or the goodwill that was granted.
WITH moment AS MATERIALIZED (
  SELECT service_clock() AS now
),
found AS MATERIALIZED (
  SELECT i.*, moment.now, a.version AS account_version, a.segment, d.input_hash, d.response, c, r,
         CASE WHEN i.recycling_id IS NOT NULL THEN r.policy_revision ELSE (
           SELECT p.revision FROM policy_activation AS p
           WHERE p.platform = coalesce(i.platform, c.platform) AND p.effective_time <= moment.now
           ORDER BY p.effective_time DESC, p.activation DESC LIMIT 1) END AS policy_revision,
         CASE WHEN i.recycling_id IS NULL THEN (
           SELECT p.effective_time FROM policy_activation AS p
           WHERE p.platform = coalesce(i.platform, c.platform) AND p.effective_time > moment.now
           ORDER BY p.effective_time, p.activation LIMIT 1) END AS policy_until,
         CASE WHEN i.recycling_id IS NULL AND i.reason IS NOT NULL THEN (
           SELECT p.bonus FROM price AS p
           WHERE p.platform = c.platform AND p.tier = c.tier AND p.from_time <= moment.now AND moment.now < p.until_time
           ORDER BY p.from_time DESC LIMIT 1) END AS bonus,
         CASE WHEN i.redemption_id IS NOT NULL THEN (
           SELECT q FROM redemption AS q
           WHERE q.account_id = i.account_id AND q.redemption_id = i.redemption_id) END AS redemption,
         CASE WHEN i.offer_id IS NOT NULL THEN (
           SELECT count(*) FROM redemption AS q
           WHERE q.account_id = i.account_id AND q.platform = i.platform AND q.offer_id = i.offer_id
             AND q.create_time > moment.now - interval '720 hours')
         WHEN i.grants THEN (
           SELECT coalesce(sum(g.amount), 0)::bigint FROM goodwill AS g
           WHERE g.account_id = i.account_id AND g.platform = named.platform
             AND g.create_time > moment.now - interval '720 hours') END AS used_30d,
         CASE WHEN i.wants_wallet THEN (
           SELECT json_agg(held ORDER BY held.platform, held.unit)
           FROM (
             SELECT w.platform, w.unit, w.amount - CASE WHEN w.unit = 'COUPON' THEN (
                      SELECT count(*) FROM coupon_open AS o
                      WHERE o.account_id = w.account_id AND o.platform = w.platform AND o.expire_time <= moment.now)
                    ELSE 0 END AS amount
             FROM wallet_balance AS w WHERE w.account_id = i.account_id
           ) AS held WHERE held.amount > 0) END AS balances,
         CASE WHEN i.wants_wallet THEN (
           SELECT json_agg(k) FROM (
             SELECT k.coupon_id, k.platform, k.basis_points, k.max_discount_minor, k.expire_time FROM coupon AS k
             WHERE k.account_id = i.account_id AND k.expire_time > moment.now
             ORDER BY k.create_time DESC, k.coupon_id DESC LIMIT 100) AS k) END AS coupons,
         CASE WHEN i.wants_lists AND d.input_hash IS NULL THEN (
           SELECT json_agg(json_build_object('list', e.list, 'subject_kind', s.kind, 'entry_id', e.entry_id)
                           ORDER BY e.list, s.kind, e.entry_id)
           FROM (VALUES ('ACCOUNT', convert_to(i.account_id, 'UTF8')), ('DEVICE', i.device_hash),
                        ('ADDRESS', i.address_hash), ('ADDRESS', i.prefix_hash), ('PAYOUT', i.payout_hash),
                        ('PAYOUT', nullif(named.payout_hash, i.payout_hash))) AS s (kind, subject)
           CROSS JOIN LATERAL (
             SELECT DISTINCT ON (v.list) v.list, v.entry_id, v.operation, v.expire_time FROM list_entry AS v
             WHERE v.subject_kind = s.kind AND v.subject = s.subject ORDER BY v.list DESC, v.version DESC
           ) AS e
           WHERE e.operation = 'PUT' AND (e.expire_time IS NULL OR moment.now < e.expire_time)) END AS list_hits,
         -- Of a card without a recycling only the command tells; an account has hardly any of those.
         CASE WHEN c.state = 'VOID' AND r.recycling_id IS NOT NULL THEN EXISTS (
           SELECT FROM outcome AS o
           WHERE o.account_id = r.account_id AND o.recycling_id = r.recycling_id AND o.kind = 'CHARGEBACK')
         WHEN c.state = 'VOID' THEN (
           SELECT true FROM command AS v
           WHERE v.account_id = c.account_id AND v.method = 'VoidCard' AND v.receipt #>> '{input,0}' = c.card_id::text
             AND v.receipt #>> '{input,1}' = 'CHARGEBACK' LIMIT 1) END AS charged_back,
         -- What the service recycles by itself, it does in spite of risk and reviewers, who may have refused it before.
         CASE WHEN i.reason IS NOT NULL AND i.request_id::text ~ '^.{14}8.{4}[89ab]' THEN (
           SELECT true FROM recycling AS o
           WHERE o.account_id = c.account_id AND o.card_id = c.card_id AND o.generation = c.generation
             AND o.state = 'REJECTED' LIMIT 1) END AS refused_before,
         -- Hardly ever is there one, and the card and the recycling tell.
         CASE WHEN i.review_id IS NOT NULL OR c.held_since IS NOT NULL OR r.settlement_held THEN (
           SELECT json_agg(v) FROM review AS v
           WHERE v.account_id = i.account_id AND v.card_id = c.card_id
             AND (v.state = 'OPEN' OR v.review_id = i.review_id)) END AS reviews
  FROM (SELECT command.*, row_number() OVER () AS position
        FROM :command(account_id text, request_id uuid, card_id uuid, recycling_id uuid, review_id uuid, risk_kind text,
                      reason text, device_hash bytea, address_hash bytea, prefix_hash bytea, profile_hash bytea,
                      payout_hash bytea, signals json, wants_wallet boolean, wants_lists boolean, platform text,
                      offer_id text, redemption_id uuid, grants boolean)) AS i
  CROSS JOIN moment
  LEFT JOIN account AS a ON a.account_id = i.account_id
  LEFT JOIN command AS d ON d.account_id = i.account_id AND d.request_id = i.request_id
  LEFT JOIN recycling AS named ON named.account_id = i.account_id AND named.recycling_id = i.recycling_id
  LEFT JOIN card AS c ON c.account_id = i.account_id AND c.card_id = coalesce(i.card_id, named.card_id)
  LEFT JOIN recycling AS r
    ON r.account_id = i.account_id
    AND r.recycling_id = coalesce(i.recycling_id, c.live_recycling_id, CASE WHEN c.held_since IS NOT NULL THEN (
      SELECT v.recycling_id FROM review AS v
      WHERE v.account_id = c.account_id AND v.card_id = c.card_id AND v.state = 'OPEN' AND v.kind <> 'SETTLEMENT') END)
),
-- A request that was answered before leaves no event and needs no features. What is settled is not judged, and its
-- event is none that another account's features read.
judged AS (
  SELECT array_agg(account_id ORDER BY position) AS account_ids,
         array_agg(risk_kind ORDER BY position) AS kinds,
         array_agg((c).card_id::text ORDER BY position) AS card_ids,
         array_agg(device_hash ORDER BY position) AS devices,
         array_agg(address_hash ORDER BY position) AS addresses,
         array_agg(prefix_hash ORDER BY position) AS prefixes,
         array_agg(profile_hash ORDER BY position) AS profiles,
         array_agg(serial_block((c).platform, (c).external_serial) ORDER BY position) AS serial_blocks,
         array_agg((c).paid_minor ORDER BY position) AS amounts,
         array_agg((c).tier ORDER BY position) AS tiers,
         array_agg(reason ORDER BY position) AS reasons,
         array_agg(signals ORDER BY position) AS signals,
         array_agg(now ORDER BY position) AS as_of,
         array_agg(9223372036854775807 ORDER BY position) AS as_of_seq,
         array_agg((c).card_id IS NOT NULL ORDER BY position) AS leaves,
         array_agg(position ORDER BY position) AS positions
  FROM found
  WHERE risk_kind IS NOT NULL AND risk_kind <> 'COMPENSATE' AND input_hash IS NULL
)
SELECT found.now, found.account_version, found.segment, found.input_hash, found.response,
       found.c AS card, found.r AS recycling, found.policy_revision, found.policy_until, found.bonus, found.balances,
       found.coupons, found.list_hits, found.reviews, found.charged_back,
       found.refused_before, found.redemption, found.used_30d, feature.*
FROM found
LEFT JOIN (
  SELECT judged.positions[f.feature_position] AS position, f.*
  FROM judged, risk_features(
    judged.account_ids, judged.kinds, judged.card_ids, judged.devices, judged.addresses, judged.prefixes,
    judged.profiles, judged.serial_blocks, judged.amounts, judged.tiers, judged.reasons, judged.signals, judged.as_of,
    judged.as_of_seq, judged.leaves) AS f
) AS feature ON feature.position = found.position
ORDER BY found.position
