-- Records a batch of decided commands in one transaction. Each claims its account, whose version must be as read; once
-- all are claimed (which may mean waiting for locks) each decision must still be valid. A command that is not claimed
-- in time writes nothing, but for the account's version. Returns the positions claimed.
-- `position` joins the inputs. A risk event with `unclaimed` belongs to a dry run, which claims nothing.
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
             live_recycling_id uuid, version bigint) AS i
  JOIN claimed ON claimed.position = i.position
),
card_changed AS (
  UPDATE card AS c
  SET state = i.state, activate_by_time = i.activate_by_time, activate_time = i.activate_time,
      expire_time = i.expire_time, generation = i.generation, renewals_used = i.renewals_used,
      live_recycling_id = i.live_recycling_id, version = i.version
  FROM card_input AS i
  WHERE c.account_id = i.account_id AND c.card_id = i.card_id
),
card_told AS (
  INSERT INTO card_event (account_id, card_id, version, kind, state, activate_by_time, activate_time, expire_time,
                          generation, renewals_used, recycling_id, request_id, event_time)
  SELECT account_id, card_id, version, event, state, activate_by_time, activate_time, expire_time, generation,
         renewals_used, live_recycling_id, request_id, now
  FROM card_input
),
recycling_new AS (
  INSERT INTO recycling (account_id, request_id, recycling_id, card_id, generation, reason, priority, state,
                         disposition, fee_minor, prior_state, unused_us, unit, amount, basis_points,
                         coupon_expire_time, max_discount_minor, compensation_state, settle_after_time,
                         settlement_held, platform, policy_revision, decision, create_time, version)
  SELECT claimed.account_id, claimed.request_id, i.recycling_id, i.card_id, i.generation, i.reason, i.priority, i.state,
         i.disposition, i.fee_minor, i.prior_state, i.unused_us, i.unit, i.amount, i.basis_points,
         i.coupon_expire_time, i.max_discount_minor, i.compensation_state, i.settle_after_time,
         i.settlement_held, i.platform, i.policy_revision, i.decision, i.create_time, i.version
  FROM :recycling(position integer, recycling_id uuid, card_id uuid, generation integer, reason text, priority text,
                  state text, disposition text, fee_minor bigint, prior_state text, unused_us bigint, unit text,
                  amount bigint, basis_points integer, coupon_expire_time timestamptz, max_discount_minor bigint,
                  compensation_state text, settle_after_time timestamptz, settlement_held boolean, platform text,
                  policy_revision integer, decision json, create_time timestamptz, version bigint) AS i
  JOIN claimed ON claimed.position = i.position
),
recycling_changed AS (
  UPDATE recycling AS r
  SET state = i.state, compensation_state = i.compensation_state, version = i.version
  FROM :changed_recycling(position integer, recycling_id uuid, state text, compensation_state text, version bigint) AS i
  JOIN claimed ON claimed.position = i.position
  WHERE r.account_id = claimed.account_id AND r.recycling_id = i.recycling_id
),
transfer AS (
  SELECT i.*, claimed.account_id, claimed.request_id, claimed.now
  FROM :transfer(position integer, platform text, unit text, amount bigint, recycling_id uuid) AS i
  JOIN claimed ON claimed.position = i.position
),
posted AS (
  INSERT INTO posting (account_id, request_id, ledger, platform, unit, kind, amount, recycling_id, create_time)
  SELECT t.account_id, t.request_id, leg.ledger, t.platform, t.unit,
         CASE WHEN t.amount > 0 THEN 'SETTLEMENT' ELSE 'CLAWBACK' END, leg.amount, t.recycling_id, t.now
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
coupon_given AS (
  INSERT INTO coupon (account_id, coupon_id, platform, basis_points, max_discount_minor, expire_time, create_time)
  SELECT claimed.account_id, i.coupon_id, i.platform, i.basis_points, i.max_discount_minor, i.expire_time, claimed.now
  FROM :coupon(position integer, coupon_id uuid, platform text, basis_points integer, max_discount_minor bigint,
               expire_time timestamptz) AS i
  JOIN claimed ON claimed.position = i.position
),
risk AS (
  INSERT INTO risk_event (account_id, event_time, kind, card_id, device_hash, address_hash, prefix_hash, profile_hash,
                          serial_block, amount_minor, tier, reason, recycling_id, signals, outcome)
  SELECT i.account_id, i.now, i.kind, i.card_id, i.device_hash, i.address_hash, i.prefix_hash, i.profile_hash,
         serial_block(i.platform, i.external_serial), i.amount_minor, i.tier, i.reason, i.recycling_id, i.signals,
         i.outcome
  FROM :risk_event(position integer, unclaimed boolean, account_id text, kind text, card_id text, platform text,
                   external_serial text, tier text, reason text, recycling_id uuid, device_hash bytea,
                   address_hash bytea, prefix_hash bytea, profile_hash bytea, amount_minor bigint, signals json,
                   outcome text, now timestamptz) AS i
  LEFT JOIN claimed ON claimed.position = i.position
  WHERE i.unclaimed OR claimed.position IS NOT NULL
  ORDER BY i.position
)
SELECT position FROM claimed
