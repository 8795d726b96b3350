"""The engine over a real database: batches, replays, dry runs, money, time and the queue."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from card_recycling.v1 import recycling_service_pb2, types_pb2

from server.domain.card import VoidReason
from server.domain.commands import Command
from server.domain.errors import Reason, Refusal
from server.domain.recycling import RecycleReason
from server.engine.queue import Outcome
from tests.integration.conftest import MakeWorld
from tests.integration.world import (
    PATIENCE_S,
    PassingStore,
    World,
    activate,
    again,
    by_all_features,
    card_of,
    circumstances,
    compensate,
    item,
    new_account,
    parsed,
    quote,
    reactivate,
    reason,
    recycle,
    void,
)

Prepared = Callable[[World], Awaitable[Command]]

CHANGING = ("account", "card", "card_event", "recycling", "review", "posting", "wallet_balance", "coupon", "command")
"""Tables that a call without effect leaves as they are."""


class GatedStore(PassingStore):
    """Holds back every load until `open` is set; `waiting` tells that one is held."""

    def __init__(self, world: World) -> None:
        super().__init__(world.store)
        self.open = asyncio.Event()
        self.waiting = asyncio.Event()
        self.loads = 0

    async def load(self, commands: Sequence[Command]) -> list[Any]:
        """Waits first."""
        self.loads += 1
        self.waiting.set()
        await asyncio.wait_for(self.open.wait(), PATIENCE_S)
        return await super().load(commands)


class BeforeRecord(PassingStore):
    """Does something once, between the first decision and its recording."""

    def __init__(self, world: World, deed: Callable[[], Awaitable[object]]) -> None:
        super().__init__(world.store)
        self._deed: Callable[[], Awaitable[object]] | None = deed
        self.records = 0

    async def record(self, entries: Sequence[Any]) -> set[int]:
        """Does the deed, then records."""
        self.records += 1
        deed, self._deed = self._deed, None
        if deed is not None:
            await deed()
        return await super().record(entries)


@asynccontextmanager
async def poisoned(world: World, table: str, account_id: str) -> AsyncIterator[None]:
    """While it lasts, the database fails every row that `account_id` would add to `table`."""
    await world.owner.execute(f"""
        CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'planted'; END $$;
        CREATE TRIGGER poison BEFORE INSERT ON {table} FOR EACH ROW WHEN (NEW.account_id = '{account_id}')
        EXECUTE FUNCTION poison();
    """)
    try:
        yield
    finally:
        await world.owner.execute(f"DROP TRIGGER poison ON {table}; DROP FUNCTION poison();")


async def unchanged(world: World, account_id: str) -> dict[str, Any]:
    """What a call without effect must leave as it is."""
    rows = await world.rows_of(account_id)
    return {table: rows[table] for table in CHANGING}


# Batches


async def test_unary_and_batch_decide_alike(world: World) -> None:
    """The same cards in the same circumstances get the same decisions, singly and in one batch."""
    cards = await world.issue_many(20)
    kinds: list[dict[str, Any]] = [{}, {"emulator": True}, {"vpn": True}, {"session_seconds": 12.5}]
    commands = [recycle(card, circumstances=circumstances(**kinds[n % 4])) for n, card in enumerate(cards)]
    together = [parsed(outcome) for outcome in await world.engine.submit(commands[:10])]
    singly = [parsed(await world.run(command)) for command in commands[10:]]

    def told(recycling: types_pb2.Recycling) -> tuple[Any, ...]:
        return (recycling.state, recycling.disposition, recycling.fee_minor, recycling.compensation.amount)

    # The kinds repeat every four cards, so cards 0..7 in the batch correspond to 12..19 alone.
    assert list(map(told, together[:8])) == list(map(told, singly[2:]))
    assert len(set(map(told, together))) > 1


async def test_thousand_outcomes_in_order(world: World) -> None:
    """A thousand commands in one call get a thousand outcomes, in their order, in batches of at most 256."""
    cards = await world.issue_many(1000)
    outcomes = await world.engine.submit([recycle(card) for card in cards])
    assert [parsed(outcome).card_id for outcome in outcomes] == [card.card_id for card in cards]
    assert sum(world.scorer.batches) == 1000 and max(world.scorer.batches) == 256


async def test_bad_items_leave_neighbours_alone(world: World) -> None:
    """An unknown card, a card of another account, a wrong state, a wrong trigger and one above the limit fail alone."""
    good = await world.issue_many(5)
    taken, other, wrong, rich = await world.issue_many(4)
    await world.recycled(taken)
    (costly,) = await world.issue_many(1, "tencent", duration_days=3660, face_value_minor=10**12, paid_minor=10**12)
    bad = {
        Reason.CARD_NOT_FOUND: recycle(other, card_id=uuid.uuid4()),
        Reason.CARD_ALREADY_RECYCLED: recycle(taken),
        Reason.TRIGGER_NOT_ALLOWED: recycle(wrong, reason=RecycleReason.SYSTEM_ANOMALY),
        Reason.QUOTE_STALE: recycle(rich, quote_token="1.forged"),
    }
    foreign = recycle(good[0], account_id=costly.account_id)
    commands = [recycle(good[0])]
    for bad_command, card in zip(bad.values(), good[1:], strict=True):
        commands += [bad_command, recycle(card)]
    outcomes = await world.engine.submit([*commands, foreign])
    assert [reason(outcome) for outcome in outcomes[1:-1:2]] == list(bad)
    assert reason(outcomes[-1]) is Reason.CARD_NOT_FOUND
    assert [parsed(outcome).card_id for outcome in outcomes[:-1:2]] == [card.card_id for card in good]


async def test_limit_fails_alone(new_world: MakeWorld) -> None:
    """A recycle that would pay more than its policy allows is LIMIT_EXCEEDED, and the next item is taken."""
    world = await new_world()
    body = json.loads(await world.owner.fetchval("SELECT document FROM policy_revision WHERE platform = 'iqiyi'"))
    body["compensation"]["amount_max"] = 100
    await world.put_in_force(body)
    dear, cheap = await world.issue(paid_minor=2999), await world.issue(paid_minor=100)
    outcomes = await world.engine.submit([recycle(dear), recycle(cheap)])
    assert reason(outcomes[0]) is Reason.LIMIT_EXCEEDED
    assert parsed(outcomes[1]).compensation.amount == 90


async def test_poisoned_command_fails_alone(world: World) -> None:
    """A command that the database cannot record is INTERNAL; the other 255 of its batch are recorded."""
    cards = await world.issue_many(256)
    poison = cards[100].account_id
    async with poisoned(world, "recycling", poison):
        outcomes = await world.engine.submit([recycle(card) for card in cards])
    assert [place for place, outcome in enumerate(outcomes) if isinstance(outcome, Refusal)] == [100]
    assert reason(outcomes[100]) is Reason.INTERNAL
    recorded = await world.owner.fetchval(
        "SELECT count(*) FROM recycling WHERE account_id = ANY ($1)", [card.account_id for card in cards]
    )
    assert recorded == 255
    assert await world.count("recycling", poison) == 0


async def test_poisoned_command_may_be_retried(world: World) -> None:
    """After an INTERNAL error nothing is stored, and the same request id succeeds once the cause is gone."""
    card = await world.issue()
    command = recycle(card)
    before = await world.rows_of(card.account_id)
    async with poisoned(world, "card_event", card.account_id):
        assert reason(await world.run(command)) is Reason.INTERNAL
        assert await world.rows_of(card.account_id) == before
    assert parsed(await world.run(command)).request_id == str(command.request_id)


async def test_poisoned_item_is_not_issued_alone(world: World) -> None:
    """An item that the database cannot record is INTERNAL; the others of the call are issued."""
    accounts = [f"{uuid.uuid4()}" for _ in range(9)]
    async with poisoned(world, "card", accounts[4]):
        outcomes = await world.issuer.issue([item("iqiyi", account) for account in accounts])
    assert [reason(outcome) for outcome in outcomes] == [None] * 4 + [Reason.INTERNAL] + [None] * 4
    assert await world.count("command", accounts[4]) == 0


async def test_many_refusals_on_one_device_cost_few_batches(world: World) -> None:
    """Refused items beside taken ones on one device are told apart in one extra look each, not one look an item."""
    cards = await world.issue_many(200)
    farm = circumstances(device="a farm's device")
    taken = [recycle(card, circumstances=farm) for card in cards[::2]]
    await world.engine.submit(taken)
    loads = LoadCounter(world.store)
    engine = world.another_engine(loads)
    mixed = [recycle(card, circumstances=farm) for card in cards]
    outcomes = await engine.submit(mixed)
    assert [reason(outcome) for outcome in outcomes] == [Reason.CARD_ALREADY_RECYCLED, None] * 100
    assert loads.number <= 3


class LoadCounter(PassingStore):
    """Counts the loads."""

    number = 0

    async def load(self, commands: Sequence[Command]) -> list[Any]:
        """Counts."""
        self.number += 1
        return await super().load(commands)


# Replays


async def test_replay_gives_the_stored_bytes(world: World) -> None:
    """The same request id with the same input gives the same bytes, though device and session differ, and no effect."""
    card = await world.issue()
    command = recycle(card, circumstances=circumstances(device="one"))
    answer = await world.answer(command)
    before = await world.rows_of(card.account_id)
    assert await world.run(again(command, circumstances=circumstances(device="two", vpn=True))) == answer
    assert await world.rows_of(card.account_id) == before


async def test_replay_after_reactivation_gives_the_stored_bytes(world: World) -> None:
    """A recycle's answer stays the same bytes after the card was given back, and takes nothing again."""
    card = await world.issue()
    command = recycle(card)
    answer = await world.answer(command)
    await world.answer(reactivate(parsed(answer)))
    before = await world.rows_of(card.account_id)
    assert await world.run(command) == answer
    assert await world.rows_of(card.account_id) == before


async def test_every_method_replays(world: World) -> None:
    """Activation, compensation, reactivation and voiding answer the same bytes again."""
    card = await world.issue(active=False)
    commands: list[Command] = [activate(card), recycle(card)]
    answers = [await world.answer(command) for command in commands]
    recycling = parsed(answers[1])
    for command in (compensate(recycling), reactivate(recycling), void(card, VoidReason.REVOKED)):
        commands.append(command)
        answers.append(await world.answer(command))
    assert [await world.run(command) for command in commands] == answers


async def test_issue_replays(world: World) -> None:
    """An item issued again with the same request id gives the same card's bytes; with another price, an error."""
    wanted = item("iqiyi", "replayed")
    ((first,), (second,), (third,)) = [
        await world.issuer.issue([each]) for each in (wanted, wanted, again(wanted, paid_minor=1))
    ]
    assert first == second and isinstance(first, bytes)
    assert reason(third) is Reason.IDEMPOTENCY_KEY_REUSED
    assert await world.count("card", "replayed") == 1


async def test_same_item_twice_in_one_call_is_one_card(world: World) -> None:
    """One item given twice in one call is issued once, and both get its bytes."""
    wanted = item("iqiyi", "twice")
    first, second = await world.issuer.issue([wanted, wanted])
    assert first == second and isinstance(first, bytes)
    assert await world.count("card", "twice") == 1


async def test_serial_none_is_a_serial(world: World) -> None:
    """An item without serial and one with the serial "None" are different input."""
    wanted = item("iqiyi", "serial-none")
    await world.issuer.issue([wanted])
    (outcome,) = await world.issuer.issue([again(wanted, external_serial="None")])
    assert reason(outcome) is Reason.IDEMPOTENCY_KEY_REUSED


@pytest.mark.parametrize(
    "change",
    [
        lambda command, card: again(command, card_id=uuid.uuid4()),
        lambda command, card: again(command, reason=RecycleReason.EXPIRED),
        lambda command, card: again(command, quote_token="other"),
        lambda command, card: activate(card, request_id=command.request_id),
        lambda command, card: void(card, VoidReason.REVOKED, request_id=command.request_id),
    ],
    ids=["card", "reason", "quote", "method activate", "method void"],
)
async def test_request_id_with_other_input_is_refused(
    world: World, change: Callable[[Command, types_pb2.Card], Command]
) -> None:
    """A request id that comes with other input is IDEMPOTENCY_KEY_REUSED, and changes nothing."""
    card = await world.issue()
    command = recycle(card)
    await world.answer(command)
    before = await world.rows_of(card.account_id)
    assert reason(await world.run(change(command, card))) is Reason.IDEMPOTENCY_KEY_REUSED
    assert await world.rows_of(card.account_id) == before


async def test_errors_are_not_stored(world: World) -> None:
    """A request id that failed may be used again once its cause is gone."""
    card = await world.issue("netflix")
    command = recycle(card)
    assert reason(await world.run(command)) is Reason.CARD_STATE_INVALID
    assert await world.count("command", card.account_id) == 2  # issued, activated
    await world.move(timedelta(days=60))
    assert parsed(await world.run(command)).request_id == str(command.request_id)


async def test_risk_rejection_is_stored(world: World) -> None:
    """A rejection is a decision: its replay is the same even when the risk is gone; a new request id is judged anew."""
    card = await world.issue()
    command = recycle(card, circumstances=circumstances(vpn=True))
    answer = await world.answer(command)
    assert parsed(answer).state == types_pb2.RECYCLING_STATE_REJECTED
    safe = again(command, circumstances=circumstances())
    assert await world.run(safe) == answer
    assert (await world.recycled(card)).state == types_pb2.RECYCLING_STATE_APPROVED


async def test_request_ids_are_per_account(world: World) -> None:
    """Two accounts may use the same request id."""
    one, two = await world.issue(), await world.issue()
    same = uuid.uuid4()
    assert parsed(await world.run(recycle(one, request_id=same))).card_id == one.card_id
    assert parsed(await world.run(recycle(two, request_id=same))).card_id == two.card_id


async def test_same_request_twice_in_one_call(world: World) -> None:
    """A request given twice in one call is done once, and both get its bytes."""
    card = await world.issue()
    command = recycle(card)
    first, second = await world.engine.submit([command, command])
    assert first == second and isinstance(first, bytes)


# Dry runs and quotes


async def recycle_of_new(world: World) -> Command:
    """A recycle that can succeed."""
    return recycle(await world.issue(), circumstances=circumstances(device="dry"))


async def reactivate_of_settled(world: World) -> Command:
    """A reactivation that can succeed."""
    return reactivate(await world.settled(await world.issue()), circumstances=circumstances(device="dry"))


async def compensate_of_recycled(world: World) -> Command:
    """A settlement that can succeed."""
    return compensate(await world.recycled(await world.issue()))


async def quote_of_new(world: World) -> Command:
    """A quote that can succeed."""
    return quote(await world.issue(), circumstances=circumstances(device="dry"))


@pytest.mark.parametrize("prepare", [recycle_of_new, reactivate_of_settled, quote_of_new, compensate_of_recycled])
async def test_dry_run_changes_nothing_but_leaves_its_trace(world: World, prepare: Prepared) -> None:
    """`validate_only` and quotes change no row; they leave one risk event where the real call would be judged."""
    command = again(await prepare(world), dry_run=True)
    before = await unchanged(world, command.account_id)
    events = await world.count("risk_event", command.account_id)
    await world.answer(command)
    assert await unchanged(world, command.account_id) == before
    assert await world.count("risk_event", command.account_id) == events + command.scored


async def taken_card(world: World) -> Command:
    """A recycle of a recycled card."""
    card = await world.issue()
    await world.recycled(card)
    return recycle(card)


async def unknown_card(world: World) -> Command:
    """A recycle of no card."""
    return recycle(await world.issue(), card_id=uuid.uuid4())


async def wrong_trigger(world: World) -> Command:
    """A recycle for a reason that the platform does not take."""
    return recycle(await world.issue(), reason=RecycleReason.EXPIRED)


async def no_score(world: World) -> Command:
    """A recycle that needs a score, without a worker."""
    await world.add_platform("strict", without_score="REJECT")
    card = await world.issue("strict")
    world.scorer.down = True
    return recycle(card)


async def twice_compensated(world: World) -> Command:
    """A second settlement."""
    return compensate(await world.settled(await world.issue()))


async def reversed_twice(world: World) -> Command:
    """A second reactivation."""
    recycling = await world.recycled(await world.issue())
    await world.answer(reactivate(recycling))
    return reactivate(recycling)


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (taken_card, Reason.CARD_ALREADY_RECYCLED),
        (unknown_card, Reason.CARD_NOT_FOUND),
        (wrong_trigger, Reason.TRIGGER_NOT_ALLOWED),
        (no_score, Reason.FRAUD_SCORE_UNAVAILABLE),
        (twice_compensated, Reason.ALREADY_COMPENSATED),
        (reversed_twice, Reason.RECYCLING_STATE_INVALID),
    ],
)
async def test_dry_run_fails_whenever_the_real_call_would(world: World, prepare: Prepared, why: Reason) -> None:
    """The dry run gives the very refusal that the real call gives."""
    command = await prepare(world)
    assert reason(await world.run(again(command, dry_run=True))) is why
    assert reason(await world.run(command)) is why


async def test_dry_run_spends_velocity(world: World) -> None:
    """A quote counts as an attempt for the next score."""
    cards = [await world.issue(), await world.issue()]
    device = circumstances(device="counted")
    await world.answer(quote(cards[0], circumstances=device))
    await world.answer(recycle(cards[1], circumstances=device))
    receipt = await world.owner.fetchval(
        "SELECT receipt FROM command WHERE account_id = $1 AND method = 'Recycle'", cards[1].account_id
    )
    assert '"device_recycles_24h":1,' in receipt


@pytest.mark.parametrize("platform", ["iqiyi", "tencent", "netflix"])
async def test_quote_holds_for_its_time(world: World, platform: str) -> None:
    """A quote's terms are what Recycle gives a second later."""
    card = await world.issue(platform)
    # The price of a card that begins to run steps down at once.
    await world.move(timedelta(days=60) if platform == "netflix" else timedelta(seconds=1))
    told = recycling_service_pb2.QuoteRecycleResponse.FromString(await world.answer(quote(card)))
    await world.move(timedelta(seconds=1))
    recycling = await world.recycled(card, quote_token=told.quote_token)
    assert recycling.compensation.amount == told.recycling.compensation.amount
    assert recycling.fee_minor == told.recycling.fee_minor


async def test_quote_ends(world: World) -> None:
    """At its expiry a quote is stale, to the microsecond."""
    card = await world.issue("tencent", duration_days=30)
    told = recycling_service_pb2.QuoteRecycleResponse.FromString(await world.answer(quote(card)))
    await world.store.move_clock(told.quote_expire_time.ToDatetime(tzinfo=UTC))
    assert reason(await world.run(recycle(card, quote_token=told.quote_token))) is Reason.QUOTE_STALE


# Time


async def test_decision_is_never_recorded_after_its_bound(world: World) -> None:
    """When the card expires between decision and record, the command is decided anew, by the card as it is then."""
    card = await world.issue()
    late = BeforeRecord(world, lambda: world.move(timedelta(days=30)))
    (outcome,) = await world.another_engine(late).submit([recycle(card)])
    assert reason(outcome) is Reason.CARD_STATE_INVALID
    # The first came too late; the second recorded the expiry that the command then met.
    assert late.records == 2 and await world.count("recycling", card.account_id) == 0


async def test_decision_a_moment_before_its_bound_is_recorded(world: World) -> None:
    """The bound is half-open: a microsecond earlier the decision is recorded as it was made."""
    card = await world.issue()
    early = BeforeRecord(world, lambda: world.move(timedelta(days=30) - timedelta(microseconds=1)))
    (outcome,) = await world.another_engine(early).submit([recycle(card)])
    assert parsed(outcome).compensation.amount == 2699
    assert early.records == 1


async def test_late_decision_is_taken_anew(world: World) -> None:
    """A quote that ends in between makes the recycle stale; a reactivation whose window closes is refused."""
    recycling = await world.recycled(await world.issue())
    late = BeforeRecord(world, lambda: world.move(timedelta(days=180)))
    (outcome,) = await world.another_engine(late).submit([reactivate(recycling)])
    assert reason(outcome) is Reason.REACTIVATION_WINDOW_CLOSED
    assert await world.count("recycling", recycling.account_id) == 1


async def test_time_spent_waiting_for_a_lock_counts(world: World) -> None:
    """A decision whose bound passed while its record waited for the account's row is taken anew."""
    card = await world.issue()
    blocker: asyncpg.Connection[Any] = await asyncpg.connect(world.owner_url)
    holding = blocker.transaction()
    await holding.start()
    await blocker.execute("SELECT FROM account WHERE account_id = $1 FOR UPDATE", card.account_id)
    waiting = asyncio.create_task(world.run(recycle(card)))
    await until_somebody_waits_for_a_lock(world)
    await world.move(timedelta(days=30))
    await holding.rollback()
    await blocker.close()
    assert reason(await waiting) is Reason.CARD_STATE_INVALID
    assert await world.count("recycling", card.account_id) == 0


async def until_somebody_waits_for_a_lock(world: World) -> None:
    """Returns when a statement in the world's database waits for a lock."""
    async with asyncio.timeout(PATIENCE_S):
        while not await world.owner.fetchval(  # noqa: ASYNC110 - another process tells no event
            "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)"
            " WHERE NOT l.granted AND a.datname = current_database()"
        ):
            await asyncio.sleep(0)  # each turn is a round trip


# Money


async def test_clawback_is_exact(world: World) -> None:
    """Reactivating a settled recycling posts the exact reversal and leaves the wallet as it was."""
    card = await world.issue()
    recycling = await world.settled(card)
    assert (await world.store.wallet(card.account_id)).balances[0].amount == 2699
    card_of(await world.run(reactivate(recycling)))
    assert (await world.store.wallet(card.account_id)).balances == ()
    posted = await world.owner.fetch(
        "SELECT kind, ledger, amount FROM posting WHERE account_id = $1 ORDER BY kind DESC, ledger", card.account_id
    )
    assert [tuple(row) for row in posted] == [
        ("SETTLEMENT", "PLATFORM", -2699),
        ("SETTLEMENT", "WALLET", 2699),
        ("CLAWBACK", "PLATFORM", 2699),
        ("CLAWBACK", "WALLET", -2699),
    ]


async def test_spent_compensation_cannot_be_clawed_back(world: World) -> None:
    """With one coin too few, Reactivate is COMPENSATION_SPENT and changes nothing."""
    card = await world.issue()
    recycling = await world.settled(card)
    await world.owner.execute("UPDATE wallet_balance SET amount = amount - 1 WHERE account_id = $1", card.account_id)
    before = await world.rows_of(card.account_id)
    assert reason(await world.run(reactivate(recycling))) is Reason.COMPENSATION_SPENT
    assert await world.rows_of(card.account_id) == before
    await world.owner.execute("UPDATE wallet_balance SET amount = amount + 1 WHERE account_id = $1", card.account_id)


async def test_pending_compensation_lapses(world: World) -> None:
    """Reactivating before settlement cancels the compensation; it can never be settled."""
    recycling = await world.recycled(await world.issue())
    await world.answer(reactivate(recycling))
    assert reason(await world.run(compensate(recycling))) is Reason.RECYCLING_STATE_INVALID
    assert await world.count("posting", recycling.account_id) == 0


async def test_chargeback_blocks_the_compensation(world: World) -> None:
    """A card paid back elsewhere is not compensated as well."""
    card = await world.issue("tencent")
    recycling = await world.recycled(card)
    await world.answer(void(card, VoidReason.CHARGEBACK))
    assert reason(await world.run(compensate(recycling))) is Reason.COMPENSATION_BLOCKED


async def test_coupon_is_settled_once(world: World) -> None:
    """A netflix coupon lands in the wallet with its terms, once."""
    card = await world.issue("netflix", paid_minor=1990)
    await world.move(timedelta(days=60))
    recycling = await world.settled(card)
    (coupon,) = (await world.store.wallet(card.account_id)).coupons
    assert (coupon.basis_points, coupon.max_discount_minor) == (500, 99)
    assert reason(await world.run(compensate(recycling))) is Reason.ALREADY_COMPENSATED


# The queue


async def test_full_queue_accepts_nothing(world: World) -> None:
    """A call that does not fit is OVERLOADED, none of its commands is taken, and those waiting still succeed."""
    cards = await world.issue_many(13)
    gate = GatedStore(world)
    engine = world.another_engine(gate, batch_max=1, queue_max=10)
    # Two are in flight at the gate, ten fill the queue.
    waiting = [asyncio.create_task(engine.submit([recycle(card)])) for card in cards[:2]]
    await asyncio.wait_for(gate.waiting.wait(), PATIENCE_S)
    waiting += [asyncio.create_task(engine.submit([recycle(card)])) for card in cards[2:12]]
    await asyncio.sleep(0)
    with pytest.raises(Refusal) as refused:
        await engine.submit([recycle(cards[12])])
    assert refused.value.reason is Reason.OVERLOADED
    gate.open.set()
    outcomes = [outcome for outcomes in await asyncio.gather(*waiting) for outcome in outcomes]
    assert len(outcomes) == 12 and all(map(parsed, outcomes))
    assert await world.count("recycling", cards[12].account_id) == 0
    assert parsed((await engine.submit([recycle(cards[12])]))[0]).card_id == cards[12].card_id


async def test_accepted_work_outlives_its_caller(world: World) -> None:
    """A command whose caller was cancelled still finishes, drain() waits for it, and its answer is there to replay."""
    card = await world.issue()
    gate = GatedStore(world)
    engine = world.another_engine(gate)
    command = recycle(card)
    caller = asyncio.create_task(engine.submit([command]))
    await asyncio.wait_for(gate.waiting.wait(), PATIENCE_S)
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    drained = asyncio.create_task(engine.drain())
    await asyncio.sleep(0)
    assert not drained.done()
    gate.open.set()
    await asyncio.wait_for(drained, PATIENCE_S)
    assert await world.count("recycling", card.account_id) == 1
    assert parsed(await world.run(command)).card_id == card.card_id


async def test_drain_of_an_idle_engine_returns(world: World) -> None:
    """With nothing accepted there is nothing to wait for."""
    await asyncio.wait_for(world.another_engine().drain(), PATIENCE_S)


# The score


async def test_missing_score_refuses_where_the_policy_needs_one(world: World) -> None:
    """Without a worker iqiyi takes no card, tencent does and holds the settlement back, in one batch."""
    iqiyi, tencent = await world.issue(), await world.issue("tencent")
    world.scorer.down = True
    outcomes = await world.engine.submit([recycle(iqiyi), recycle(tencent)])
    kept = parsed(outcomes[0])
    assert kept.decision.degraded_mode == types_pb2.DEGRADED_MODE_HOLD
    assert kept.state != types_pb2.RECYCLING_STATE_APPROVED
    taken = parsed(outcomes[1])
    assert taken.decision.degraded and taken.state == types_pb2.RECYCLING_STATE_APPROVED
    assert reason(await world.run(compensate(taken))) is Reason.SETTLEMENT_NOT_DUE
    assert (await world.store.card(iqiyi.account_id, UUID(iqiyi.card_id))) is not None


async def test_receipt_repeats_the_decision(world: World) -> None:
    """The score in the answer is that of the feature row in the receipt."""
    world.scorer.probability = by_all_features
    card = await world.issue()
    answer = parsed(await world.run(recycle(card, circumstances=circumstances(device="receipt", ip="192.0.2.1"))))
    receipt = await world.owner.fetchval(
        "SELECT receipt FROM command WHERE account_id = $1 AND method = 'Recycle'", card.account_id
    )
    assert by_all_features(json.loads(receipt)["features"]) == answer.decision.risk_score


async def test_busy_account_keeps_nobody_waiting(world: World) -> None:
    """A thousand commands of one account go one a batch, and another account's command goes with the next one."""
    busy, other = await world.issue(), await world.issue()
    gate = GatedStore(world)
    engine = world.another_engine(gate, batches_in_flight_max=1)
    flood = asyncio.create_task(engine.submit([recycle(busy, dry_run=True) for _ in range(1000)]))  # noqa: RUF006 - awaited below
    await asyncio.wait_for(gate.waiting.wait(), PATIENCE_S)
    neighbour = asyncio.create_task(engine.submit([recycle(other)]))
    await asyncio.sleep(0)
    gate.open.set()
    finished, _ = await asyncio.wait([flood, neighbour], timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    assert finished == {neighbour}
    assert len(await asyncio.wait_for(flood, PATIENCE_S)) == 1000


async def test_slow_batch_does_not_stop_others(world: World) -> None:
    """While a full batch hangs, a single command of another account still goes beside it."""
    cards = await world.issue_many(11)
    gate = GatedStore(world)
    hanging = recycle(cards[0]).account_id

    class HangsOne(PassingStore):
        """Holds back only batches with the first account."""

        async def load(self, commands: Sequence[Command]) -> list[Any]:
            """Through the gate, or straight."""
            if any(command.account_id == hanging for command in commands):
                return await gate.load(commands)
            return await super().load(commands)

    engine = world.another_engine(HangsOne(world.store))
    slow = asyncio.create_task(engine.submit([recycle(card) for card in cards[:10]]))
    await asyncio.wait_for(gate.waiting.wait(), PATIENCE_S)
    (outcome,) = await asyncio.wait_for(engine.submit([recycle(cards[10])]), PATIENCE_S)
    assert parsed(outcome).card_id == cards[10].card_id
    assert not slow.done()
    gate.open.set()
    assert len(await asyncio.wait_for(slow, PATIENCE_S)) == 10


async def test_refund_leaves_what_was_settled(world: World) -> None:
    """Voiding blocks what is pending; what was settled before stays in the wallet, and the card cannot come back."""
    card = await world.issue()
    recycling = await world.settled(card)
    await world.answer(void(card, reason=VoidReason.REFUNDED))
    wallet = await world.store.wallet(card.account_id)
    assert [balance.amount for balance in wallet.balances] == [recycling.compensation.amount]
    assert reason(await world.run(reactivate(recycling))) is Reason.CARD_STATE_INVALID


def issued(outcomes: Sequence[Outcome]) -> list[types_pb2.Card]:
    """The cards in the answers to items of IssueCards."""
    assert all(isinstance(outcome, bytes) for outcome in outcomes)
    return [types_pb2.Card.FromString(outcome) for outcome in outcomes if isinstance(outcome, bytes)]


async def test_repeated_call_does_not_queue_again(world: World) -> None:
    """A large call for one account that is sent again while it runs joins it, and afterwards is answered at once."""
    account_id = new_account()
    cards = issued(await world.issuer.issue([item("iqiyi", account_id) for _ in range(50)]))
    commands = [recycle(card) for card in cards]
    gate = GatedStore(world)
    engine = world.another_engine(gate, queue_max=60)
    first = asyncio.create_task(engine.submit(commands))
    await asyncio.wait_for(gate.waiting.wait(), PATIENCE_S)
    again = [asyncio.create_task(engine.submit(commands)) for _ in range(5)]
    gate.open.set()
    outcomes = await asyncio.wait_for(first, PATIENCE_S)
    assert all(isinstance(outcome, bytes) for outcome in outcomes)
    assert await asyncio.wait_for(asyncio.gather(*again), PATIENCE_S) == [outcomes] * 5
    loads = gate.loads
    assert await engine.submit(commands) == outcomes
    assert gate.loads == loads


async def test_one_account_cannot_fill_the_queue(world: World) -> None:
    """More than a thousand waiting commands of one account are OVERLOADED; another account's command is taken."""
    card, other = await world.issue(), await world.issue()
    gate = GatedStore(world)
    engine = world.another_engine(gate)
    first = asyncio.create_task(engine.submit([recycle(card, dry_run=True)]))
    await asyncio.wait_for(gate.waiting.wait(), PATIENCE_S)
    many = [asyncio.create_task(engine.submit([recycle(card, dry_run=True)])) for _ in range(1001)]
    await asyncio.sleep(0)
    neighbour = asyncio.create_task(engine.submit([recycle(other)]))
    gate.open.set()
    refused = await asyncio.gather(*many, return_exceptions=True)
    assert [outcome.reason for outcome in refused if isinstance(outcome, Refusal)] == [Reason.OVERLOADED]
    await asyncio.wait_for(asyncio.gather(first, neighbour), PATIENCE_S)


async def test_simultaneous_calls_from_one_device_are_judged_in_turn(new_world: MakeWorld) -> None:
    """Unary calls of forty accounts at once, from one device: each is judged upon all before it."""
    world = await new_world()
    cards = await world.issue_many(40)
    world.scorer.probability = lambda row: 0.9 if (row["device_accounts_1h"] or 0) >= 2 else 0.1
    device = circumstances(device="one-device")
    calls = [world.engine.submit([recycle(card, circumstances=device)]) for card in cards]
    outcomes = [parsed(outcome) for (outcome,) in await asyncio.wait_for(asyncio.gather(*calls), PATIENCE_S)]
    approved = [each for each in outcomes if each.state == types_pb2.RECYCLING_STATE_APPROVED]
    assert len(approved) == 2


async def test_last_segment_said_is_the_account_s(world: World) -> None:
    """Items of one call that say different segments are answered in turn, and the last one stays."""
    account_id = new_account()
    items = [item("iqiyi", account_id, segment=segment) for segment in ("SENIOR", None, "MIDDLE", None)]
    told = issued(await world.issuer.issue(items))
    assert [types_pb2.Segment.Name(card.segment) for card in told] == [
        "SEGMENT_SENIOR",
        "SEGMENT_SENIOR",
        "SEGMENT_MIDDLE",
        "SEGMENT_MIDDLE",
    ]
    ((stored, _), *_) = await world.store.cards(account_id, (datetime(9000, 1, 1, tzinfo=UTC), UUID(int=2**128 - 1)), 1)
    assert stored.segment == "MIDDLE"
