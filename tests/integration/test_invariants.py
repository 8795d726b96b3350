"""The checker of invariants: a sound history passes, and every planted violation is named, on a real Postgres."""

import json

import asyncpg
import pytest

from migrations.invariants import SAMPLES_MAX, InvariantResult, check_invariants, invariants
from tests.conftest import FreshDatabase
from tests.unit.test_cli import recycling

# Account a has card 1: recycled (11, settled), given back (clawed back), recycled again (12, settled); card 2: recycled
# for a coupon (13); card 3: its attempt was refused (14). Ids end in these numbers. A step is a minute.
HISTORY = """
CREATE FUNCTION id(number integer) RETURNS uuid LANGUAGE sql IMMUTABLE
  RETURN ('00000000-0000-7000-8000-' || lpad(number::text, 12, '0'))::uuid;
CREATE FUNCTION at(step integer) RETURNS timestamptz LANGUAGE sql IMMUTABLE
  RETURN timestamptz '2026-01-01 00:00:00Z' + step * interval '1 minute';
UPDATE backtest_clock SET shifted_time = at(100);

INSERT INTO policy_revision (platform, revision, document, document_sha256, effective_time)
SELECT platform, 1, '{}', sha256(''), at(0) FROM unnest(ARRAY['iqiyi', 'netflix']) AS platform;
INSERT INTO account (account_id, version, create_time) VALUES ('a', 9, at(0));

INSERT INTO card (account_id, card_id, external_serial, platform, tier, state, face_value_minor, paid_minor, currency,
                  duration_days, issue_time, activate_time, expire_time, generation, renewals_used, live_recycling_id,
                  version)
VALUES
  ('a', id(1), 'S1', 'iqiyi', 'BASIC', 'RECYCLED', 2999, 2999, 'CNY', 30, at(1), at(2), at(9000), 2, 0, id(12), 5),
  ('a', id(2), NULL, 'netflix', 'BASIC', 'VOID', 1990, 1990, 'USD', 30, at(1), at(2), at(3), 1, 0, id(13), 3),
  ('a', id(3), 'S3', 'iqiyi', 'BASIC', 'ISSUED', 2999, 2999, 'CNY', 30, at(1), NULL, NULL, 1, 0, NULL, 1);
INSERT INTO card_serial (platform, external_serial, account_id, card_id)
VALUES ('iqiyi', 'S1', 'a', id(1)), ('iqiyi', 'S3', 'a', id(3));
INSERT INTO card_event (account_id, card_id, version, kind, state, activate_time, expire_time, generation,
                        renewals_used, recycling_id, request_id, event_time)
VALUES
  ('a', id(1), 1, 'ISSUED', 'ISSUED', NULL, NULL, 1, 0, NULL, id(101), at(1)),
  ('a', id(1), 2, 'ACTIVATED', 'ACTIVE', at(2), at(8000), 1, 0, NULL, id(102), at(2)),
  ('a', id(1), 3, 'RECYCLED', 'RECYCLED', at(2), at(8000), 1, 0, id(11), id(111), at(3)),
  ('a', id(1), 4, 'REACTIVATED', 'ACTIVE', at(2), at(9000), 2, 0, id(11), id(131), at(5)),
  ('a', id(1), 5, 'RECYCLED', 'RECYCLED', at(2), at(9000), 2, 0, id(12), id(112), at(6)),
  ('a', id(2), 1, 'ISSUED', 'ISSUED', NULL, NULL, 1, 0, NULL, id(103), at(1)),
  ('a', id(2), 2, 'ACTIVATED', 'ACTIVE', at(2), at(3), 1, 0, NULL, id(104), at(2)),
  ('a', id(2), 3, 'RECYCLED', 'VOID', at(2), at(3), 1, 0, id(13), id(113), at(8)),
  ('a', id(3), 1, 'ISSUED', 'ISSUED', NULL, NULL, 1, 0, NULL, id(105), at(1));

INSERT INTO recycling (account_id, recycling_id, request_id, card_id, generation, reason, priority, state, disposition,
                       fee_minor, prior_state, unused_us, unit, amount, basis_points, coupon_expire_time,
                       max_discount_minor, compensation_state, settlement_held, platform, policy_revision, decision,
                       create_time, version)
SELECT 'a', id(number), id(100 + number), id(card), generation, reason, 'PERSON', state, disposition, fee, 'ACTIVE', 1,
       unit, amount, CASE WHEN unit = 'COUPON' THEN 500 END, CASE WHEN unit = 'COUPON' THEN at(99999) END,
       CASE WHEN unit = 'COUPON' THEN 99 END, compensation_state, false, platform, 1, '{}', at(step), 2
FROM (VALUES
  (11, 1, 1, 'VOLUNTARY', 'REVERSED', 'VOUCHER', 300, 'COIN', 2699, 'CLAWED_BACK', 'iqiyi', 3),
  (12, 1, 2, 'VOLUNTARY', 'APPROVED', 'VOUCHER', 300, 'COIN', 2690, 'SETTLED', 'iqiyi', 6),
  (13, 2, 1, 'EXPIRED', 'APPROVED', 'CANCEL', 0, 'COUPON', 1, 'SETTLED', 'netflix', 8),
  (14, 3, 1, 'VOLUNTARY', 'REJECTED', NULL, 0, NULL, NULL, NULL, 'iqiyi', 8)
) AS r (number, card, generation, reason, state, disposition, fee, unit, amount, compensation_state, platform, step);

INSERT INTO posting (account_id, request_id, ledger, platform, unit, kind, amount, recycling_id, create_time)
SELECT 'a', id(request), ledger, platform, unit, kind, CASE ledger WHEN 'WALLET' THEN amount ELSE -amount END,
       id(recycling), at(step)
FROM (VALUES
  (121, 'iqiyi', 'COIN', 'SETTLEMENT', 2699, 11, 4),
  (131, 'iqiyi', 'COIN', 'CLAWBACK', -2699, 11, 5),
  (122, 'iqiyi', 'COIN', 'SETTLEMENT', 2690, 12, 7),
  (123, 'netflix', 'COUPON', 'SETTLEMENT', 1, 13, 9)
) AS t (request, platform, unit, kind, amount, recycling, step)
CROSS JOIN unnest(ARRAY['WALLET', 'PLATFORM']) AS ledger;
INSERT INTO wallet_balance (account_id, platform, unit, amount)
VALUES ('a', 'iqiyi', 'COIN', 2690), ('a', 'netflix', 'COUPON', 1);
INSERT INTO coupon (account_id, coupon_id, platform, basis_points, max_discount_minor, expire_time, create_time)
VALUES ('a', id(13), 'netflix', 500, 99, at(99999), at(9));
INSERT INTO command (account_id, request_id, method, input_hash, response, receipt, create_time)
SELECT 'a', id(request), 'Recycle', sha256(''), '', '{}', at(9)
FROM unnest(ARRAY[101, 102, 103, 104, 105, 111, 112, 113, 114, 121, 122, 123, 131]) AS request;
INSERT INTO risk_event (account_id, event_time, kind, card_id, device_hash, address_hash, profile_hash, amount_minor,
                        outcome)
SELECT 'a', at(step), 'RECYCLE', id(1)::text, decode(repeat('01', 16), 'hex'), decode(repeat('02', 16), 'hex'),
       decode(repeat('03', 16), 'hex'), 2999, 'APPROVED'
FROM unnest(ARRAY[3, 6]) AS step;
"""

# What is done to the history above, and the names of the rules that this breaks. Where the schema itself forbids the
# deed, the constraint goes first.
VIOLATIONS = {
    "half of a transfer": (
        "DELETE FROM posting WHERE request_id = id(122) AND ledger = 'PLATFORM'",
        {"transfers_balance", "units_balance", "compensations_match_postings"},
    ),
    "a transfer between two requests": (
        "UPDATE posting SET request_id = id(123) WHERE request_id = id(122) AND ledger = 'PLATFORM'",
        {"transfers_balance"},
    ),
    "a balance without postings": (
        "UPDATE wallet_balance SET amount = amount + 1 WHERE unit = 'COIN'",
        {"wallets_match_postings"},
    ),
    "a wallet that was lost": ("DELETE FROM wallet_balance WHERE unit = 'COIN'", {"wallets_match_postings"}),
    "a coupon that was lost": ("DELETE FROM coupon", {"coupons_match_settlements"}),
    "a coupon of other terms": ("UPDATE coupon SET max_discount_minor = 100", {"coupons_match_settlements"}),
    "a generation recycled twice": (
        """DROP INDEX recycling_live;
           UPDATE recycling SET generation = 2, state = 'APPROVED', compensation_state = 'SETTLED'
           WHERE recycling_id = id(11);
           DELETE FROM posting WHERE kind = 'CLAWBACK';
           UPDATE wallet_balance SET amount = amount + 2699 WHERE unit = 'COIN'""",
        {"one_live_recycling", "cards_match_live_recycling", "reversals_begin_generations", "cards_never_gain"},
    ),
    "a taken card that is in use": (
        """UPDATE card SET state = 'ACTIVE', live_recycling_id = NULL WHERE card_id = id(1);
           UPDATE card_event SET state = 'ACTIVE', recycling_id = NULL WHERE card_id = id(1) AND version = 5""",
        {"cards_match_live_recycling", "transitions_are_legal"},
    ),
    "a cancelled card that waits": (
        """UPDATE card SET state = 'RECYCLED' WHERE card_id = id(2);
           UPDATE card_event SET state = 'RECYCLED' WHERE card_id = id(2) AND version = 3""",
        {"cards_match_live_recycling"},
    ),
    "a generation that nothing undid": (
        """UPDATE recycling SET state = 'REJECTED', disposition = NULL, unit = NULL, amount = NULL,
                                compensation_state = NULL WHERE recycling_id = id(11);
           DELETE FROM posting WHERE recycling_id = id(11)""",
        {"reversals_begin_generations"},
    ),
    "two cards of one serial": ("UPDATE card SET external_serial = 'S1' WHERE card_id = id(3)", {"serials_once"}),
    "an unregistered serial": ("DELETE FROM card_serial WHERE external_serial = 'S3'", {"serials_once"}),
    "a card changed without event": (
        "UPDATE card SET renewals_used = 1 WHERE card_id = id(3)",
        {"cards_match_events"},
    ),
    "a card's event lost": (
        "DELETE FROM card_event WHERE card_id = id(1) AND version = 4",
        {"cards_match_events", "transitions_are_legal"},
    ),
    "a card without events": ("DELETE FROM card_event WHERE card_id = id(3)", {"cards_match_events"}),
    "a recycled card activated": (
        "UPDATE card_event SET kind = 'ACTIVATED' WHERE card_id = id(1) AND version = 4",
        {"transitions_are_legal"},
    ),
    "a recycling without command": ("DELETE FROM command WHERE request_id = id(114)", {"recyclings_have_commands"}),
    "two recyclings of one command": (
        "UPDATE recycling SET request_id = id(113) WHERE recycling_id = id(14)",
        {"recyclings_have_commands"},
    ),
    "a transfer without command": ("DELETE FROM command WHERE request_id = id(122)", {"postings_have_commands"}),
    "a fee above the price": (
        "UPDATE recycling SET fee_minor = 3000 WHERE recycling_id = id(12)",
        {"amounts_in_range"},
    ),
    "a wallet below zero": (
        """ALTER TABLE wallet_balance DROP CONSTRAINT wallet_balance_amount_check;
           UPDATE wallet_balance SET amount = -1 WHERE unit = 'COIN'""",
        {"amounts_in_range", "wallets_match_postings"},
    ),
    "an owed amount of zero": (
        """ALTER TABLE recycling DROP CONSTRAINT recycling_amount_check;
           UPDATE recycling SET amount = 0 WHERE recycling_id = id(12)""",
        {"amounts_in_range", "compensations_match_postings"},
    ),
    "a payout above the price": (
        "UPDATE recycling SET max_discount_minor = 1991; UPDATE coupon SET max_discount_minor = 1991",
        {"cards_never_gain"},
    ),
    "a clawback of less": (
        """UPDATE posting SET amount = sign(amount) * 2698 WHERE kind = 'CLAWBACK';
           UPDATE wallet_balance SET amount = amount + 1 WHERE unit = 'COIN'""",
        {"compensations_match_postings"},
    ),
    "a settlement that was not posted": (
        "UPDATE recycling SET compensation_state = 'PENDING' WHERE recycling_id = id(12)",
        {"compensations_match_postings"},
    ),
    "a posting in another unit": (
        """UPDATE posting SET unit = 'GROWTH_POINT' WHERE unit = 'COIN';
           UPDATE wallet_balance SET unit = 'GROWTH_POINT' WHERE unit = 'COIN'""",
        {"compensations_match_postings"},
    ),
    "a reversal that kept its coins": (
        """UPDATE recycling SET compensation_state = 'SETTLED' WHERE recycling_id = id(11);
           DELETE FROM posting WHERE kind = 'CLAWBACK';
           UPDATE wallet_balance SET amount = amount + 2699 WHERE unit = 'COIN'""",
        {"reversals_take_back", "cards_never_gain"},
    ),
    "a command of tomorrow": ("UPDATE command SET create_time = at(101)", {"nothing_from_the_future"}),
    "an event before the issue": (
        "UPDATE card_event SET event_time = at(0) WHERE card_id = id(3)",
        {"nothing_from_the_future"},
    ),
    "a recycling of no revision": ("DELETE FROM policy_revision WHERE platform = 'netflix'", {"policies_of_record"}),
    "a server that may change events": (
        "GRANT UPDATE (event_time) ON card_event TO recycling_server",
        {"records_are_append_only"},
    ),
    "a server that may empty a partition": (
        "GRANT TRUNCATE ON risk_event_default TO recycling_server",
        {"records_are_append_only"},
    ),
    "a device forgotten": ("DELETE FROM risk_pair WHERE kind = 1", {"risk_pairs_are_complete"}),
    "a device remembered late": (
        "UPDATE risk_pair SET first_time = at(4) + interval '1 hour' WHERE kind = 1",
        {"risk_pairs_are_complete"},
    ),
}


async def violated(owner_url: str, *statements: str) -> dict[str, InvariantResult]:
    """Runs `statements` as the owner; the rules broken afterwards, by name."""
    connection = await asyncpg.connect(owner_url, timeout=10)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
    return {result.name: result for result in await check_invariants(owner_url) if not result.holds}


async def test_new_database_is_sound(fresh_database: FreshDatabase) -> None:
    """A database without any record breaks no rule."""
    owner_url, _ = await fresh_database()
    assert await violated(owner_url) == {}


async def test_sound_history_passes(fresh_database: FreshDatabase) -> None:
    """Recycling, clawback, coupons and refusals, rightly recorded, break no rule."""
    owner_url, _ = await fresh_database()
    assert await violated(owner_url, HISTORY) == {}


async def test_server_role_may_check(fresh_database: FreshDatabase) -> None:
    """The check needs no more rights than the server has."""
    _, server_url = await fresh_database()
    assert [result.violations for result in await check_invariants(server_url)] == [0] * len(invariants())


@pytest.mark.parametrize("deed", VIOLATIONS)
async def test_violation_is_named(fresh_database: FreshDatabase, deed: str) -> None:
    """Each planted violation is reported by the rules that it breaks, and by no others."""
    owner_url, _ = await fresh_database()
    statements, broken = VIOLATIONS[deed]
    assert set(await violated(owner_url, HISTORY, statements)) == broken


async def test_every_rule_can_fail() -> None:
    """No rule is without a planted violation."""
    assert {invariant.name for invariant in invariants()} == set().union(*(broken for _, broken in VIOLATIONS.values()))


async def test_samples_are_few(fresh_database: FreshDatabase) -> None:
    """However many rows break a rule, all are counted and a few are shown."""
    owner_url, _ = await fresh_database()
    result = (await violated(owner_url, HISTORY, VIOLATIONS["a command of tomorrow"][0]))["nothing_from_the_future"]
    assert (result.violations, len(result.samples)) == (13, SAMPLES_MAX)


async def test_verify_names_every_rule(fresh_database: FreshDatabase) -> None:
    """On a sound database `recycling verify` says OK to each rule, and succeeds."""
    _, server_url = await fresh_database()
    done = await recycling("verify", DATABASE_URL=server_url)
    assert done.code == 0
    assert [line.split()[1:3] for line in done.out.splitlines()] == [[rule.name, "OK"] for rule in invariants()]


async def test_verify_fails_on_a_violation(fresh_database: FreshDatabase) -> None:
    """On a violated database `recycling verify` names the rule, and fails."""
    owner_url, _ = await fresh_database()
    await violated(owner_url, HISTORY, VIOLATIONS["a fee above the price"][0])
    done = await recycling("verify", "--database-url", owner_url, "--json")
    assert done.code == 1
    assert [rule["name"] for rule in json.loads(done.out) if rule["violations"]] == ["amounts_in_range"]
