-- Records a batch of decided commands in one transaction. Each claims its account, whose version must be as read; once
-- all are claimed (which may mean waiting for locks) each decision must still be valid. A command that is not claimed
-- in time writes nothing, but for the account's version. Returns the positions claimed.
-- `position` joins the inputs. A risk event with `unclaimed` belongs to a dry run, which claims nothing. What a recycle
-- settles at once comes after it.
WITH input AS (
  SELECT * FROM :command(position integer, account_id text, account_version bigint, valid_until timestamptz,
                         request_id uuid, method text, input_hash bytea, response bytea, receipt json, now timestamptz)
),
locked AS (
  UPDATE account AS a SET version = a.version + 1
  FROM input AS i
  WHERE a.account_id = i.account_id AND a.version = i.account_version
  RETURNING i.position, i.account_id, i.request_id, i.now, i.valid_until
),
-- The count makes the clock be read after the last lock was taken.
all_locked AS MATERIALIZED (
  SELECT CASE WHEN count(*) > 0 THEN service_clock() END AS clock FROM locked
),
claimed AS (
  SELECT locked.position, locked.account_id, locked.request_id, locked.now
  FROM locked CROSS JOIN all_locked
  WHERE locked.valid_until IS NULL OR all_locked.clock < locked.valid_until
),
answered AS (
  INSERT INTO command (account_id, request_id, method, input_hash, response, receipt, create_time)
  SELECT i.account_id, i.request_id, i.method, i.input_hash, i.response, i.receipt, i.now
  FROM input AS i JOIN claimed ON claimed.position = i.position
),
card_input AS (
  SELECT i.*, claimed.account_id, claimed.request_id, claimed.now
  FROM :card(position integer, card_id uuid, event text, state text, activate_by_time timestamptz,
             activate_time timestamptz, expire_time timestamptz, generation integer, renewals_used integer,
             live_recycling_id uuid, held_since timestamptz, hold_until timestamptz, recycling_id uuid,
             version bigint, event_state text, expired_bound timestamptz, bound_device bytea,
             waits_until timestamptz) AS i
  JOIN claimed ON claimed.position = i.position
),
card_changed AS (
  UPDATE card AS c
  SET state = i.state, activate_by_time = i.activate_by_time, activate_time = i.activate_time,
      expire_time = i.expire_time, generation = i.generation, renewals_used = i.renewals_used,
      live_recycling_id = i.live_recycling_id, held_since = i.held_since, hold_until = i.hold_until,
      version = i.version, expired_bound = i.expired_bound, waits_until = i.waits_until, sweep_until = NULL,
      bound_devices = CASE WHEN i.bound_device IS NULL THEN c.bound_devices ELSE c.bound_devices || i.bound_device END
  FROM card_input AS i
  WHERE c.account_id = i.account_id AND c.card_id = i.card_id
),
card_told AS (
  INSERT INTO card_event (account_id, card_id, version, kind, state, activate_by_time, activate_time, expire_time,
                          generation, renewals_used, held_since, hold_until, recycling_id, request_id, event_time,
                          device_hash)
  SELECT account_id, card_id, version, event, event_state, activate_by_time, activate_time, expire_time, generation,
         renewals_used, held_since, hold_until, recycling_id, request_id, now, bound_device
  FROM card_input
),
recycling_new AS (
  INSERT INTO recycling (account_id, request_id, recycling_id, card_id, generation, reason, priority, state,
                         disposition, fee_minor, prior_state, unused_us, unit, amount, basis_points,
                         coupon_expire_time, max_discount_minor, compensation_state, settle_after_time,
                         settlement_held, hold_until, platform, policy_revision, decision, create_time, version,
                         payout_hash)
  SELECT claimed.account_id, claimed.request_id, i.recycling_id, i.card_id, i.generation, i.reason, i.priority, i.state,
         i.disposition, i.fee_minor, i.prior_state, i.unused_us, i.unit, i.amount, i.basis_points,
         i.coupon_expire_time, i.max_discount_minor, i.compensation_state, i.settle_after_time,
         i.settlement_held, i.hold_until, i.platform, i.policy_revision, i.decision, i.create_time, i.version,
         i.payout_hash
  FROM :recycling(position integer, recycling_id uuid, card_id uuid, generation integer, reason text, priority text,
                  state text, disposition text, fee_minor bigint, prior_state text, unused_us bigint, unit text,
                  amount bigint, basis_points integer, coupon_expire_time timestamptz, max_discount_minor bigint,
                  compensation_state text, settle_after_time timestamptz, settlement_held boolean,
                  hold_until timestamptz, platform text, policy_revision integer, decision json,
                  create_time timestamptz, version bigint, payout_hash bytea) AS i
  JOIN claimed ON claimed.position = i.position
),
recycling_changed AS (
  UPDATE recycling AS r
  SET state = i.state, compensation_state = i.compensation_state, settlement_held = i.settlement_held,
      window_moved_us = i.window_moved_us, version = i.version
  FROM :changed_recycling(position integer, recycling_id uuid, state text, compensation_state text,
                          settlement_held boolean, window_moved_us bigint, version bigint) AS i
  JOIN claimed ON claimed.position = i.position
  WHERE r.account_id = claimed.account_id AND r.recycling_id = i.recycling_id
),
-- A recycling whose hold has ended: its terms stand, or are gone.
recycling_decided AS (
  UPDATE recycling AS r
  SET state = i.state, disposition = i.disposition, fee_minor = i.fee_minor, unit = i.unit, amount = i.amount,
      basis_points = i.basis_points, coupon_expire_time = i.coupon_expire_time,
      max_discount_minor = i.max_discount_minor, compensation_state = i.compensation_state,
      settle_after_time = i.settle_after_time, settlement_held = i.settlement_held, hold_until = NULL,
      decision = i.decision, version = i.version
  FROM :decided_recycling(position integer, recycling_id uuid, state text, disposition text, fee_minor bigint, unit text,
                          amount bigint, basis_points integer, coupon_expire_time timestamptz,
                          max_discount_minor bigint, compensation_state text, settle_after_time timestamptz,
                          settlement_held boolean, decision json, version bigint) AS i
  JOIN claimed ON claimed.position = i.position
  WHERE r.account_id = claimed.account_id AND r.recycling_id = i.recycling_id
),
review_opened AS (
  INSERT INTO review (account_id, review_id, request_id, card_id, recycling_id, kind, platform, state, create_time,
                      hold_until, risk_score, risk_band, reason_codes, policy_revision, model_version, terms, note,
                      version)
  SELECT claimed.account_id, i.review_id, claimed.request_id, i.card_id, i.recycling_id, i.kind, i.platform, 'OPEN',
         i.create_time, i.hold_until, i.risk_score, i.risk_band, i.reason_codes, i.policy_revision, i.model_version,
         i.terms, '', 1
  FROM :review(position integer, review_id uuid, card_id uuid, recycling_id uuid, kind text, platform text,
               create_time timestamptz, hold_until timestamptz, risk_score float8, risk_band text,
               reason_codes json, policy_revision text, model_version text, terms json) AS i
  JOIN claimed ON claimed.position = i.position
),
review_ended AS (
  UPDATE review AS v
  SET state = i.state, claimed_by = NULL, claim_until = NULL, reviewer = i.reviewer, note = i.note,
      resolve_time = i.resolve_time, resolve_request_id = claimed.request_id, version = i.version
  FROM :ended_review(position integer, review_id uuid, state text, reviewer text, note text, resolve_time timestamptz,
                     version bigint) AS i
  JOIN claimed ON claimed.position = i.position
  WHERE v.account_id = claimed.account_id AND v.review_id = i.review_id
  RETURNING v.account_id, v.recycling_id, v.request_id, v.kind, v.state
),
-- A verdict labels the request that it is about, from now on. Abuse that is known already becomes known once.
verdict_told AS (
  INSERT INTO risk_label (account_id, recycling_id, request_id, label, source, label_time)
  SELECT e.account_id, e.recycling_id, e.request_id, CASE e.state WHEN 'DENIED' THEN 1 ELSE 0 END, 'review',
         service_clock()
  FROM review_ended AS e
  WHERE e.state = 'APPROVED'
     OR (e.state = 'DENIED' AND NOT EXISTS (
           SELECT FROM risk_label AS l
           WHERE l.account_id = e.account_id AND l.recycling_id = e.recycling_id AND l.label = 1
             AND (l.request_id = e.request_id OR (l.request_id IS NULL AND e.kind <> 'REACTIVATE'))))
),
transfer AS (
  SELECT i.*, claimed.account_id, claimed.request_id, claimed.now
  FROM :transfer(position integer, kind text, platform text, unit text, amount bigint, recycling_id uuid,
                 redemption_id uuid) AS i
  JOIN claimed ON claimed.position = i.position
),
posted AS (
  INSERT INTO posting (account_id, request_id, ledger, platform, unit, kind, amount, recycling_id, redemption_id,
                       create_time)
  SELECT t.account_id, t.request_id, leg.ledger, t.platform, t.unit,
         t.kind, leg.amount, t.recycling_id, t.redemption_id, t.now
  FROM transfer AS t
  CROSS JOIN LATERAL (VALUES ('WALLET', t.amount), ('PLATFORM', -t.amount)) AS leg (ledger, amount)
),
wallet_changed AS (
  UPDATE wallet_balance AS w SET amount = w.amount + t.amount
  FROM transfer AS t
  WHERE w.account_id = t.account_id AND w.platform = t.platform AND w.unit = t.unit
),
wallet_opened AS (
  INSERT INTO wallet_balance (account_id, platform, unit, amount)
  SELECT t.account_id, t.platform, t.unit, t.amount FROM transfer AS t
  WHERE NOT EXISTS (SELECT FROM wallet_balance AS w
                    WHERE w.account_id = t.account_id AND w.platform = t.platform AND w.unit = t.unit)
),
coupon_gone AS (
  DELETE FROM coupon_open AS o USING transfer AS t
  WHERE t.kind = 'EXPIRY' AND o.account_id = t.account_id AND o.coupon_id = coalesce(t.recycling_id, t.redemption_id)
),
coupon_given AS (
  INSERT INTO coupon (account_id, coupon_id, platform, basis_points, max_discount_minor, expire_time, create_time)
  SELECT claimed.account_id, i.coupon_id, i.platform, i.basis_points, i.max_discount_minor, i.expire_time, claimed.now
  FROM :coupon(position integer, coupon_id uuid, platform text, basis_points integer, max_discount_minor bigint,
               expire_time timestamptz) AS i
  JOIN claimed ON claimed.position = i.position
),
redeemed AS (
  INSERT INTO redemption (account_id, redemption_id, request_id, platform, policy_revision, offer_id, partner, title, unit,
                          price, benefit, value_minor, basis_points, valid_days, expire_time, create_time)
  SELECT claimed.account_id, i.redemption_id, claimed.request_id, i.platform, i.policy_revision, i.offer_id, i.partner,
         i.title, i.unit, i.price, i.benefit, i.value_minor, i.basis_points, i.valid_days, i.expire_time, claimed.now
  FROM :redemption(position integer, redemption_id uuid, platform text, policy_revision integer, offer_id text,
                   partner text, title text, unit text, price bigint, benefit text, value_minor bigint,
                   basis_points integer, valid_days integer, expire_time timestamptz) AS i
  JOIN claimed ON claimed.position = i.position
),
granted AS (
  INSERT INTO goodwill (account_id, request_id, recycling_id, platform, policy_revision, unit, amount, note, create_time)
  SELECT claimed.account_id, claimed.request_id, i.recycling_id, i.platform, i.policy_revision, i.unit, i.amount, i.note,
         claimed.now
  FROM :goodwill(position integer, recycling_id uuid, platform text, policy_revision integer, unit text, amount bigint,
                 note text) AS i
  JOIN claimed ON claimed.position = i.position
),
risk AS (
  INSERT INTO risk_event (account_id, event_time, kind, card_id, device_hash, address_hash, prefix_hash, profile_hash,
                          serial_block, amount_minor, tier, reason, recycling_id, signals, outcome, request_id)
  SELECT i.account_id, i.now, i.kind, i.card_id, i.device_hash, i.address_hash, i.prefix_hash, i.profile_hash,
         serial_block(i.platform, i.external_serial), i.amount_minor, i.tier, i.reason, i.recycling_id, i.signals,
         i.outcome, claimed.request_id
  FROM :risk_event(position integer, unclaimed boolean, account_id text, kind text, card_id text, platform text,
                   external_serial text, tier text, reason text, recycling_id uuid, device_hash bytea,
                   address_hash bytea, prefix_hash bytea, profile_hash bytea, amount_minor bigint, signals json,
                   outcome text, now timestamptz) AS i
  LEFT JOIN claimed ON claimed.position = i.position
  WHERE i.unclaimed OR claimed.position IS NOT NULL
  ORDER BY i.position, i.kind = 'COMPENSATE'
),
outcome_input AS (
  SELECT i.recycling_id, i.kind, claimed.account_id, claimed.now
  FROM :outcome(position integer, recycling_id uuid, kind text) AS i
  JOIN claimed ON claimed.position = i.position
),
-- What speaks against no recycling is known of the account from now on.
account_told AS (
  INSERT INTO risk_label (account_id, label, source, label_time)
  SELECT i.account_id, 1, 'chargeback', service_clock()
  FROM outcome_input AS i
  WHERE i.recycling_id IS NULL AND i.kind = 'CHARGEBACK'
),
outcome_told AS (
  INSERT INTO outcome (account_id, recycling_id, kind, outcome_time, record_time, platform, policy_revision,
                       model_version, risk_score, state)
  SELECT r.account_id, r.recycling_id, i.kind, i.now, service_clock(), r.platform, r.policy_revision,
         r.decision ->> 'model_version', (r.decision ->> 'risk_score')::double precision, r.state
  FROM outcome_input AS i
  JOIN recycling AS r ON r.account_id = i.account_id AND r.recycling_id = i.recycling_id
  ON CONFLICT DO NOTHING
)
SELECT position FROM claimed
