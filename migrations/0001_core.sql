-- Why: the records of the service - accounts, cards, recyclings, wallets, policies - and the role that serves them.
--
-- `account_id` is the distribution key: it is in the primary key and in every unique constraint of every table that a
-- command writes, so that one command is one single-shard transaction. The two exceptions say so where they stand.
-- Every command claims its account by `UPDATE account ... WHERE version = <as read>`; that one guard covers all the
-- rows of the account that the command read (card, recycling, compensation, wallet).

DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'recycling_server') THEN
    CREATE ROLE recycling_server NOLOGIN;
  END IF;
END
$$;

-- A database created for back-tests holds one row here, and only there may the clock be moved. Elsewhere: no row.
CREATE TABLE backtest_clock (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  shifted_time timestamptz
);

-- The one clock that all statements read.
CREATE FUNCTION service_clock() RETURNS timestamptz
LANGUAGE sql VOLATILE
RETURN coalesce((SELECT shifted_time FROM backtest_clock), clock_timestamp());

-- Immutable revisions of each platform's rules; a recycling names the one that governs it for ever.
CREATE TABLE policy_revision (
  platform text NOT NULL CHECK (platform ~ '^[a-z][a-z0-9_-]{0,31}$'),
  revision integer NOT NULL CHECK (revision >= 1),
  document jsonb NOT NULL,
  document_sha256 bytea NOT NULL CHECK (length(document_sha256) = 32),
  effective_time timestamptz NOT NULL,
  create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (platform, revision)
);

CREATE TABLE account (
  account_id text PRIMARY KEY CHECK (length(account_id) BETWEEN 1 AND 128),
  version bigint NOT NULL CHECK (version >= 1),
  segment text CHECK (segment IN ('YOUNG', 'MIDDLE', 'SENIOR')),
  create_time timestamptz NOT NULL
);

CREATE TABLE card (
  account_id text NOT NULL,
  card_id uuid NOT NULL,
  external_serial text CHECK (length(external_serial) BETWEEN 1 AND 64),
  platform text NOT NULL,
  tier text NOT NULL CHECK (tier IN ('BASIC', 'PREMIUM')),
  -- EXPIRED is never stored: it follows from ACTIVE or ISSUED and the time.
  state text NOT NULL CHECK (state IN ('ISSUED', 'ACTIVE', 'RECYCLED', 'VOID')),
  face_value_minor bigint NOT NULL CHECK (face_value_minor BETWEEN 0 AND 1000000000000),
  paid_minor bigint NOT NULL CHECK (paid_minor BETWEEN 0 AND face_value_minor),
  currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  duration_days integer NOT NULL CHECK (duration_days BETWEEN 1 AND 3660),
  issue_time timestamptz NOT NULL,
  activate_by_time timestamptz,
  activate_time timestamptz,
  expire_time timestamptz,
  generation integer NOT NULL CHECK (generation >= 1),
  renewals_used integer NOT NULL CHECK (renewals_used >= 0),
  -- The APPROVED recycling of this generation, if there is one.
  live_recycling_id uuid,
  version bigint NOT NULL CHECK (version >= 1),
  PRIMARY KEY (account_id, card_id),
  CHECK ((activate_time IS NULL) = (expire_time IS NULL)),
  CHECK (state <> 'ACTIVE' OR activate_time IS NOT NULL),
  CHECK (state <> 'ISSUED' OR activate_time IS NULL),
  CHECK (state <> 'RECYCLED' OR live_recycling_id IS NOT NULL)
);

-- Exception to the distribution key: a seller's serial is unique per platform, whoever owns the card.
CREATE TABLE card_serial (
  platform text NOT NULL,
  external_serial text NOT NULL,
  account_id text NOT NULL,
  card_id uuid NOT NULL,
  PRIMARY KEY (platform, external_serial)
);

-- Every transition of every card, for ever. A card's row is the fold of its events.
CREATE TABLE card_event (
  account_id text NOT NULL,
  card_id uuid NOT NULL,
  version bigint NOT NULL CHECK (version >= 1),
  kind text NOT NULL CHECK (kind IN ('ISSUED', 'ACTIVATED', 'RECYCLED', 'REACTIVATED', 'VOIDED')),
  state text NOT NULL,
  activate_by_time timestamptz,
  activate_time timestamptz,
  expire_time timestamptz,
  generation integer NOT NULL,
  renewals_used integer NOT NULL,
  recycling_id uuid,
  request_id uuid NOT NULL,
  event_time timestamptz NOT NULL,
  PRIMARY KEY (account_id, card_id, version)
);

CREATE TABLE recycling (
  account_id text NOT NULL,
  recycling_id uuid NOT NULL,
  request_id uuid NOT NULL,
  card_id uuid NOT NULL,
  generation integer NOT NULL CHECK (generation >= 1),
  reason text NOT NULL CHECK (reason IN ('EXPIRED', 'VOLUNTARY', 'SYSTEM_ANOMALY')),
  priority text NOT NULL CHECK (priority IN ('BULK', 'PERSON', 'ANOMALY')),
  state text NOT NULL CHECK (state IN ('APPROVED', 'REJECTED', 'IN_REVIEW', 'REVERSED')),
  disposition text CHECK (disposition IN ('CANCEL', 'RESET_VALIDITY', 'VOUCHER')),
  fee_minor bigint NOT NULL CHECK (fee_minor >= 0),
  -- The card as it was taken: whether it was ISSUED or ACTIVE or EXPIRED, and its validity not yet run.
  prior_state text NOT NULL CHECK (prior_state IN ('ISSUED', 'ACTIVE', 'EXPIRED')),
  unused_us bigint NOT NULL CHECK (unused_us >= 0),
  unit text CHECK (unit IN ('COIN', 'GROWTH_POINT', 'COUPON')),
  amount bigint CHECK (amount BETWEEN 1 AND 1000000000000),
  basis_points integer CHECK (basis_points BETWEEN 1 AND 10000),
  coupon_expire_time timestamptz,
  max_discount_minor bigint CHECK (max_discount_minor >= 1),
  compensation_state text CHECK (compensation_state IN ('PENDING', 'SETTLED', 'CLAWED_BACK', 'CANCELLED', 'BLOCKED')),
  settle_after_time timestamptz,
  -- Settlement waits for a review.
  settlement_held boolean NOT NULL,
  platform text NOT NULL,
  policy_revision integer NOT NULL,
  -- How it was decided, as the API shows it.
  decision json NOT NULL,
  create_time timestamptz NOT NULL,
  version bigint NOT NULL CHECK (version >= 1),
  PRIMARY KEY (account_id, recycling_id),
  FOREIGN KEY (account_id, card_id) REFERENCES card (account_id, card_id),
  CHECK ((state = 'REJECTED') = (disposition IS NULL)),
  CHECK ((unit IS NULL) = (amount IS NULL) AND (unit IS NULL) = (compensation_state IS NULL)),
  CHECK (state <> 'REJECTED' OR unit IS NULL),
  CHECK ((unit IS NOT DISTINCT FROM 'COUPON')
         = (basis_points IS NOT NULL AND coupon_expire_time IS NOT NULL AND max_discount_minor IS NOT NULL)),
  CHECK (unit IS DISTINCT FROM 'COUPON' OR amount = 1)
);

-- Single use: one live recycling per generation of a card.
CREATE UNIQUE INDEX recycling_live ON recycling (account_id, card_id, generation)
  WHERE state IN ('APPROVED', 'IN_REVIEW');
CREATE INDEX recycling_newest ON recycling (account_id, create_time DESC, recycling_id DESC);

-- Both legs of every transfer of value. A transfer belongs to the command with its request id.
CREATE TABLE posting (
  account_id text NOT NULL,
  request_id uuid NOT NULL,
  ledger text NOT NULL CHECK (ledger IN ('WALLET', 'PLATFORM')),
  platform text NOT NULL,
  unit text NOT NULL CHECK (unit IN ('COIN', 'GROWTH_POINT', 'COUPON')),
  kind text NOT NULL CHECK (kind IN ('SETTLEMENT', 'CLAWBACK')),
  amount bigint NOT NULL CHECK (abs(amount) BETWEEN 1 AND 1000000000000),
  recycling_id uuid NOT NULL,
  create_time timestamptz NOT NULL,
  PRIMARY KEY (account_id, request_id, ledger, platform, unit)
);
-- One settlement and one clawback for each recycling, whatever the code above believes.
CREATE UNIQUE INDEX posting_once ON posting (account_id, recycling_id, kind, ledger);

CREATE TABLE wallet_balance (
  account_id text NOT NULL,
  platform text NOT NULL,
  unit text NOT NULL CHECK (unit IN ('COIN', 'GROWTH_POINT', 'COUPON')),
  amount bigint NOT NULL CHECK (amount >= 0),
  PRIMARY KEY (account_id, platform, unit)
);

CREATE TABLE coupon (
  account_id text NOT NULL,
  coupon_id uuid NOT NULL,
  platform text NOT NULL,
  basis_points integer NOT NULL CHECK (basis_points BETWEEN 1 AND 10000),
  max_discount_minor bigint NOT NULL CHECK (max_discount_minor >= 1),
  expire_time timestamptz NOT NULL,
  create_time timestamptz NOT NULL,
  PRIMARY KEY (account_id, coupon_id)
);

-- One row for each command that was accepted and decided: what was asked (hashed), the answer's bytes, and all that the
-- decision read, to replay it.
CREATE TABLE command (
  account_id text NOT NULL,
  request_id uuid NOT NULL,
  method text NOT NULL,
  input_hash bytea NOT NULL CHECK (length(input_hash) = 32),
  response bytea NOT NULL,
  receipt json NOT NULL,
  create_time timestamptz NOT NULL,
  PRIMARY KEY (account_id, request_id)
);

GRANT USAGE ON SCHEMA public TO recycling_server;
GRANT SELECT ON backtest_clock, policy_revision TO recycling_server;
GRANT UPDATE (shifted_time) ON backtest_clock TO recycling_server;
GRANT SELECT, INSERT, UPDATE ON account, card, recycling, wallet_balance TO recycling_server;
GRANT SELECT, INSERT ON policy_revision, card_serial, card_event, posting, coupon, command TO recycling_server;
