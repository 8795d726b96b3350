-- Why: the lists that ops keep beside the model. Append-only: a version is ended by the next one, so that who was listed
-- when, by whom and why stays known for ever.
--
-- Exception to the distribution key: entries are about devices, addresses and payouts as well, and read by those. Few, and
-- rarely written, they would be a reference table on Citus.

CREATE TABLE list_entry (
  entry_id uuid NOT NULL,
  list text NOT NULL CHECK (list IN ('ALLOW', 'DENY', 'WATCH')),
  subject_kind text NOT NULL CHECK (subject_kind IN ('ACCOUNT', 'DEVICE', 'ADDRESS', 'PAYOUT')),
  -- An account's id in UTF-8; of all others the keyed hash that requests leave. Of addresses that of the address, or of the
  -- range: the hashes of both are never alike.
  subject bytea NOT NULL,
  version bigint NOT NULL CHECK (version >= 1),
  -- DELETE takes the subject off the list; its actor and reason are those of the end.
  operation text NOT NULL CHECK (operation IN ('PUT', 'DELETE')),
  expire_time timestamptz CHECK (expire_time > create_time),
  actor text NOT NULL CHECK (length(actor) BETWEEN 1 AND 128),
  reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 1000),
  create_time timestamptz NOT NULL,
  -- Two who put the same subject at once cannot both have the next version. Also the path of `load`.
  PRIMARY KEY (subject_kind, subject, list, version),
  CHECK (CASE subject_kind WHEN 'ACCOUNT' THEN length(subject) BETWEEN 1 AND 128 ELSE length(subject) = 16 END),
  CHECK (operation = 'PUT' OR expire_time IS NULL)
);
CREATE UNIQUE INDEX list_entry_id ON list_entry (entry_id);
CREATE INDEX list_entry_newest ON list_entry (create_time DESC, entry_id DESC) WHERE operation = 'PUT';

GRANT SELECT, INSERT ON list_entry TO recycling_server;

-- Where a recycle's value was to go, as its caller named it: Compensate and Reactivate look it up again. Never changed, so
-- the server may from now on update only what it does.
ALTER TABLE recycling
  ADD COLUMN payout_hash bytea,
  ADD CONSTRAINT recycling_payout_check CHECK (length(payout_hash) = 16) NOT VALID;

REVOKE UPDATE ON recycling FROM recycling_server;
GRANT UPDATE (state, disposition, fee_minor, unit, amount, basis_points, coupon_expire_time, max_discount_minor,
              compensation_state, settle_after_time, settlement_held, hold_until, decision, window_moved_us, version)
  ON recycling TO recycling_server;
