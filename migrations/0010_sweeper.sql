-- Why: what time does to cards and coupons is recorded by whoever notices first, as of its moment: an expiry, the end of
-- the wait for a reactivation, a coupon that was not used. Here are the columns that say what is recorded already, the
-- indexes that find what is not, and the devices bound to cards. What callers see does not depend on any of it.
--
-- Servers of the release before go on as they did: they leave the new columns alone, and what they write stays right.
-- The indexes are built within the migration's transaction, which holds writes up for as long.
-- squawk-ignore-file require-concurrent-index-creation, ban-drop-constraint

ALTER TABLE card
  -- The bound whose passing an event tells. Another bound than the card's own says nothing of it.
  ADD COLUMN expired_bound timestamptz,
  -- Keyed hashes, the earliest first: the devices of the BOUND events.
  ADD COLUMN bound_devices bytea[] NOT NULL DEFAULT '{}',
  -- Not part of the record: up to when a RECYCLED card waits at least, as far as anybody has computed it; and until when
  -- one of the servers means to record what time has done to the card.
  ADD COLUMN waits_until timestamptz,
  ADD COLUMN sweep_until timestamptz;

-- Due are only rows that these hold, and each leaves its index once it is recorded.
CREATE INDEX card_expiring ON card ((coalesce(expire_time, activate_by_time)))
  WHERE state IN ('ISSUED', 'ACTIVE') AND hold_until IS NULL
    AND expired_bound IS DISTINCT FROM coalesce(expire_time, activate_by_time);
CREATE INDEX card_expired ON card (platform, expired_bound)
  WHERE state IN ('ISSUED', 'ACTIVE') AND hold_until IS NULL
    AND expired_bound = coalesce(expire_time, activate_by_time);
CREATE INDEX card_waiting ON card ((coalesce(waits_until, '-infinity'::timestamptz)))
  WHERE state = 'RECYCLED' AND hold_until IS NULL;

ALTER TABLE card_event
  ADD COLUMN device_hash bytea,
  DROP CONSTRAINT card_event_kind_check,
  ADD CONSTRAINT card_event_kind_check CHECK (
    kind IN ('ISSUED', 'ACTIVATED', 'RECYCLED', 'REACTIVATED', 'VOIDED', 'HELD', 'RELEASED', 'EXPIRED', 'CLOSED',
             'BOUND')) NOT VALID,
  ADD CONSTRAINT card_event_device_check CHECK ((kind = 'BOUND') = (device_hash IS NOT NULL)) NOT VALID;

ALTER TABLE posting
  DROP CONSTRAINT posting_kind_check,
  ADD CONSTRAINT posting_kind_check CHECK (kind IN ('SETTLEMENT', 'CLAWBACK', 'EXPIRY')) NOT VALID;

-- The coupons that are still in a wallet by its postings: given, and neither used nor recorded as expired. What is recorded
-- of a coupon for ever stands in `coupon`.
CREATE TABLE coupon_open (
  account_id text NOT NULL,
  coupon_id uuid NOT NULL,
  platform text NOT NULL,
  expire_time timestamptz NOT NULL,
  create_time timestamptz NOT NULL,
  sweep_until timestamptz,
  PRIMARY KEY (account_id, coupon_id)
);
CREATE INDEX coupon_expiring ON coupon_open (expire_time);

-- A trigger, so that coupons given by a server of the release before are open, too.
CREATE FUNCTION open_coupon() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO coupon_open (account_id, coupon_id, platform, expire_time, create_time)
  VALUES (NEW.account_id, NEW.coupon_id, NEW.platform, NEW.expire_time, NEW.create_time);
  RETURN NULL;
END
$$;
CREATE TRIGGER coupon_opens AFTER INSERT ON coupon FOR EACH ROW EXECUTE FUNCTION open_coupon();

INSERT INTO coupon_open (account_id, coupon_id, platform, expire_time, create_time)
SELECT account_id, coupon_id, platform, expire_time, create_time FROM coupon;

GRANT SELECT, INSERT, DELETE ON coupon_open TO recycling_server;
GRANT UPDATE (sweep_until) ON coupon_open TO recycling_server;

-- The id of a request that nobody makes but the service itself, which the invariants compare: the first bytes of SHA-256
-- over method and parts, as a UUID of version 8.
CREATE FUNCTION own_request_id(method text, VARIADIC parts text[]) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN encode(
  set_byte(set_byte(substr(sha256(convert_to(array_to_string(method || parts, E'\x1f'), 'UTF8')), 1, 16),
    6, (get_byte(sha256(convert_to(array_to_string(method || parts, E'\x1f'), 'UTF8')), 6) & 15) | 128),
    8, (get_byte(sha256(convert_to(array_to_string(method || parts, E'\x1f'), 'UTF8')), 8) & 63) | 128), 'hex')::uuid;
