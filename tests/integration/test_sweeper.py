"""The sweeper on a real database: what time does is done once, as of its moment, and nobody can tell when."""

from __future__ import annotations

import asyncio
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from card_recycling.v1 import card_service_pb2, recycling_service_pb2, types_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.api.messages import card_message, recycling_message
from server.api.wallet_messages import wallet_message
from server.domain.card import VoidReason
from server.domain.commands import Command, Expire, OwnCommand
from server.domain.errors import Reason, Refusal
from server.domain.recycling import Unit
from server.engine.engine import Engine
from server.engine.ports import Answered, DueKind, Store
from server.store.store import PostgresStore, connect
from tests.conftest import FreshDatabase
from tests.integration.conftest import MakeWorld
from tests.integration.world import (
    PATIENCE_S,
    PassingStore,
    World,
    activate,
    again,
    bind,
    circumstances,
    compensate,
    item,
    numbered_ids,
    reactivate,
    reason,
    recycle,
    void,
)

DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
NEWEST = (datetime(9999, 1, 1, tzinfo=UTC), UUID(int=2**128 - 1))
OWN_IDS = "00000000-0000-4007-8[0-9a-f]{3}-[0-9a-f]{12}"
"""Ids that a world of `numbered_ids(7)` has made."""


async def shown(world: World, card: types_pb2.Card) -> types_pb2.Card:
    """The card as GetCard tells it."""
    found = await world.store.card(card.account_id, UUID(card.card_id))
    assert found is not None
    return card_message(*found)


async def events(world: World, card: types_pb2.Card) -> list[tuple[str, str, datetime]]:
    """Kind, state and moment of each event of a card, in order."""
    rows = await world.owner.fetch(
        "SELECT kind, state, event_time FROM card_event WHERE card_id = $1 ORDER BY version", UUID(card.card_id)
    )
    return [tuple(row) for row in rows]


@asynccontextmanager
async def stores(world: World, how_many: int) -> AsyncIterator[list[PostgresStore]]:
    """Connections as so many servers have them."""
    found = [await connect(world.server_url, connections=4, connections_for_batches=2) for _ in range(how_many)]
    yield found
    for store in found:
        await store.close()


class Overtaken(PassingStore):
    """Of all that time has done another server records each thing first."""

    def __init__(self, inner: Store, other: Engine) -> None:
        super().__init__(inner)
        self._other = other

    async def record(self, entries: Sequence[Any]) -> set[int]:
        """After the other server has done the same."""
        if own := [entry.command for entry in entries if isinstance(entry.command, OwnCommand)]:
            await self._other.submit(own)
        return await super().record(entries)


async def test_whom_sweepers_overtake_is_answered(new_world: MakeWorld) -> None:
    """A hold lapses, then the card expires, and another server is quicker to record either: nothing is lost by that."""
    world = await new_world()
    card = await world.issue()
    await world.move(29 * DAY)
    await world.held(card)
    await world.move(9 * DAY)
    engine = world.another_engine(Overtaken(world.store, world.another_engine()))
    (outcome,) = await engine.submit([void(card, VoidReason.REVOKED)])
    assert reason(outcome) is None
    kinds = [kind for kind, _, _ in await events(world, card)]
    assert kinds == ["ISSUED", "ACTIVATED", "HELD", "RELEASED", "EXPIRED", "VOIDED"]


async def test_expiry_is_recorded_once_as_of_its_moment(new_world: MakeWorld) -> None:
    """And a reader is told the same before and after, the etag too."""
    world = await new_world()
    card = await world.issue()
    moment = await world.move(40 * DAY)
    before = await shown(world, card)
    assert before.state == types_pb2.CARD_STATE_EXPIRED
    assert await world.sweep() == {DueKind.EXPIRY: 1}
    assert await world.sweep() == {}
    assert await shown(world, card) == before
    assert (await events(world, card))[-1] == ("EXPIRED", "EXPIRED", moment - 10 * DAY)


async def test_activation_deadline_is_exclusive_to_the_microsecond(new_world: MakeWorld) -> None:
    """A microsecond before it a card can be activated and is not due; from it on it has expired."""
    world = await new_world()
    deadline = await world.move(timedelta(0)) + DAY
    early, late = [await world.issue(active=False, activate_by_time=deadline) for _ in range(2)]
    await world.move(DAY - MICROSECOND)
    assert await world.sweep() == {}
    await world.answer(activate(early))
    await world.move(MICROSECOND)
    assert reason(await world.run(activate(late))) is Reason.CARD_STATE_INVALID
    assert [kind for kind, *_ in await events(world, late)] == ["ISSUED", "EXPIRED"]
    assert await world.sweep() == {}


async def test_service_recycles_expired_netflix_cards_by_itself(new_world: MakeWorld) -> None:
    """At thirty days to the microsecond; a caller is refused before, and afterwards finds it done."""
    world = await new_world()
    card = await world.issue("netflix")
    await world.move(60 * DAY - MICROSECOND)
    assert await world.sweep() == {DueKind.EXPIRY: 1}
    assert reason(await world.run(recycle(card))) is Reason.TRIGGER_NOT_ALLOWED
    await world.move(MICROSECOND)
    assert await world.sweep() == {DueKind.RECYCLE: 1}
    assert reason(await world.run(recycle(card))) is Reason.CARD_ALREADY_RECYCLED
    (row,) = (await world.rows_of(card.account_id))["recycling"]
    assert (row["state"], row["priority"], row["unit"], row["compensation_state"]) == (
        "APPROVED", "BULK", "COUPON", "PENDING",
    )  # fmt: skip
    assert [kind for kind, *_ in await events(world, card)] == ["ISSUED", "ACTIVATED", "EXPIRED", "RECYCLED"]


async def test_caller_and_sweeper_never_both_recycle(new_world: MakeWorld) -> None:
    """Whoever is first; the other finds it done. No order of the two gives two recyclings."""
    world = await new_world()
    cards = [await world.issue("netflix") for _ in range(12)]
    await world.move(60 * DAY)
    await world.sweep()
    async with stores(world, 2) as (one, two):
        sweeper, server = world.another_engine(one), world.another_engine(two)
        work = [recycle(card) for card in cards]
        found, outcomes = await asyncio.gather(world.sweep(sweeper), server.submit(work))
    assert found.get(DueKind.RECYCLE, 0) >= 0
    told = {reason(outcome) for outcome in outcomes}
    assert told <= {None, Reason.CARD_ALREADY_RECYCLED, Reason.CONFLICT_RETRY}
    await world.move(timedelta(minutes=1))
    await world.sweep()
    for card in cards:
        assert await world.count("recycling", card.account_id) == 1


async def test_missing_score_puts_the_own_recycle_off(new_world: MakeWorld) -> None:
    """Nothing is recorded while the worker is away; a minute later it is looked at again."""
    world = await new_world()
    card = await world.issue("netflix")
    await world.move(61 * DAY)
    world.scorer.down = True
    assert await world.sweep() == {DueKind.EXPIRY: 1}
    assert await world.count("recycling", card.account_id) == 0
    world.scorer.down = False
    assert await world.sweep() == {}
    await world.move(timedelta(minutes=1))
    assert await world.sweep() == {DueKind.RECYCLE: 1}
    assert await world.count("recycling", card.account_id) == 1


async def test_high_risk_never_stops_the_own_recycle(new_world: MakeWorld) -> None:
    """It only holds the settlement, for a review."""
    world = await new_world()
    world.scorer.probability = lambda row: 0.9
    card = await world.issue("netflix")
    await world.move(61 * DAY)
    await world.sweep()
    (row,) = (await world.rows_of(card.account_id))["recycling"]
    assert (row["state"], row["settlement_held"]) == ("APPROVED", True)
    assert [review["kind"] for review in (await world.rows_of(card.account_id))["review"]] == ["SETTLEMENT"]


async def test_waiting_card_ends_with_its_window(new_world: MakeWorld) -> None:
    """VOID as of the window's end, for readers at once; disposition and compensation stay."""
    world = await new_world()
    card = await world.issue()
    recycling = await world.recycled(card)
    await world.move(180 * DAY - MICROSECOND)
    assert await world.sweep() == {}
    assert (await shown(world, card)).state == types_pb2.CARD_STATE_RECYCLED
    end = await world.move(MICROSECOND)
    await world.move(DAY)
    before = await shown(world, card)
    assert before.state == types_pb2.CARD_STATE_VOID
    assert await world.sweep() == {DueKind.WINDOW: 1}
    assert await shown(world, card) == before
    assert (await events(world, card))[-1] == ("CLOSED", "VOID", end)
    assert reason(await world.run(reactivate(recycling))) is Reason.REACTIVATION_WINDOW_CLOSED
    await world.answer(compensate(recycling))


async def test_window_of_a_card_that_an_older_server_took_is_found(new_world: MakeWorld) -> None:
    """One that left no hint when it would be due: the first look computes it, and only a later one finds it due."""
    world = await new_world()
    card = await world.issue()
    await world.recycled(card)
    await world.owner.execute("UPDATE card SET waits_until = NULL")
    assert await world.sweep() == {}
    assert await world.owner.fetchval("SELECT waits_until - service_clock() FROM card") == 180 * DAY
    await world.move(180 * DAY)
    assert await world.sweep() == {DueKind.WINDOW: 1}


async def test_window_that_a_hold_moved_closes_later(new_world: MakeWorld) -> None:
    """A reactivation that waited for a verdict in vain prolongs the window by as long as it waited."""
    world = await new_world()
    card = await world.issue()
    recycling = await world.recycled(card)
    await world.move(179 * DAY)
    await world.held_again(recycling)
    await world.move(7 * DAY)
    assert await world.sweep() == {DueKind.HOLD: 1}
    await world.move(DAY - MICROSECOND)
    assert await world.sweep() == {}
    await world.move(MICROSECOND)
    assert await world.sweep() == {DueKind.WINDOW: 1}


async def test_expired_coupon_is_not_held(new_world: MakeWorld) -> None:
    """From its expiry on no wallet shows or counts it, and the posting that tells so is of that moment."""
    world = await new_world()
    card = await world.issue("netflix")
    await world.move(60 * DAY)
    await world.settled(card)
    expiry = await world.move(90 * DAY)
    await world.move(DAY)
    before = await world.store.wallet(card.account_id)
    assert (before.coupons, before.amount("netflix", Unit.COUPON)) == ((), 0)
    assert await world.sweep() == {DueKind.COUPON: 1}
    assert await world.store.wallet(card.account_id) == before
    postings = (await world.rows_of(card.account_id))["posting"]
    told = {(row["ledger"], row["amount"]) for row in postings if row["kind"] == "EXPIRY"}
    assert told == {("WALLET", -1), ("PLATFORM", 1)}
    assert {row["create_time"] for row in postings if row["kind"] == "EXPIRY"} == {expiry}
    assert await world.sweep() == {}


async def test_coupon_that_comes_too_late_is_never_held(new_world: MakeWorld) -> None:
    """One that is settled after its life is over goes at once, as of then."""
    world = await new_world()
    card = await world.issue("netflix")
    await world.move(60 * DAY)
    recycling = await world.recycled(card)
    await world.move(100 * DAY)
    answer = await world.answer(compensate(recycling))
    assert answer
    assert (await world.store.wallet(card.account_id)).coupons == ()
    assert await world.sweep() == {DueKind.COUPON: 1}


async def test_many_sweepers_do_each_item_once(new_world: MakeWorld) -> None:
    """Two servers that sweep at once share the work, whatever is due."""
    world = await new_world()
    for _ in range(20):
        await world.issue("netflix")
        await world.recycled(await world.issue("iqiyi"))
        await world.held(await world.issue("iqiyi"))
    await world.move(300 * DAY)
    async with stores(world, 2) as found:
        engines = [world.another_engine(store) for store in found]
        for _ in range(3):
            await asyncio.gather(*(world.sweep(engine) for engine in engines))
            await world.move(timedelta(minutes=1))
    kinds = Counter(row["kind"] for row in await world.owner.fetch("SELECT kind FROM card_event"))
    assert (kinds["EXPIRED"], kinds["RELEASED"], kinds["CLOSED"]) == (40, 20, 20)
    assert await world.owner.fetchval("SELECT count(*) FROM recycling WHERE priority = 'BULK'") == 20
    assert await world.sweep() == {}


SWEEPER = """
import asyncio, sys, uuid
from server.engine.sweeper import keep_sweeping
from server.store.due import PostgresDue
from tests.integration.world import FakeScorer, LOTTERY, SIGNER, connect
from server.api.messages import MessageRenderer
from server.engine.engine import Engine

async def main():
    store = await connect(sys.argv[1], connections=4, connections_for_batches=2)
    engine = Engine(store, FakeScorer(), MessageRenderer(), SIGNER, LOTTERY, uuid.uuid4, batch_max=1)
    await keep_sweeping(PostgresDue(store.database), engine, 5.0)

asyncio.run(main())
"""


async def test_killed_sweeper_leaves_nothing_half_done(new_world: MakeWorld) -> None:
    """Killed in the middle of its work: what it had recorded stands, the rest comes up again a minute later."""
    world = await new_world()
    cards = await world.issue_many(150, "netflix", activate_by_time=await world.move(timedelta(0)) + DAY)
    await world.move(31 * DAY)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SWEEPER, world.server_url)
    recorded = "SELECT count(*) FROM card_event WHERE kind = 'EXPIRED'"
    async with asyncio.timeout(PATIENCE_S):
        while not await world.owner.fetchval(recorded):
            pass
    process.kill()
    await process.wait()
    done = await world.owner.fetchval(recorded)
    assert 0 < done < 150
    await world.move(timedelta(minutes=1))
    await world.sweep()
    assert await world.owner.fetchval(recorded) == 150
    await world.move(timedelta(minutes=1))
    await world.sweep()
    rows = await world.owner.fetch("SELECT count(*) AS number FROM recycling GROUP BY card_id")
    assert len(cards) == 150 and [row["number"] for row in rows] == [1] * 150


async def test_what_time_does_is_met_by_callers_too(new_world: MakeWorld) -> None:
    """A command on a card that has expired unnoticed records that first, even one that is refused for it."""
    world = await new_world()
    card = await world.issue()
    await world.move(31 * DAY)
    assert reason(await world.run(recycle(card))) is Reason.CARD_STATE_INVALID
    assert [kind for kind, *_ in await events(world, card)] == ["ISSUED", "ACTIVATED", "EXPIRED"]
    assert await world.sweep() == {}


class Stuck(PassingStore):
    """A store in which what the service does by itself takes for ever."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.entered, self.free = asyncio.Event(), asyncio.Event()

    async def load(self, commands: Sequence[Command]) -> list[Any]:
        """See the port."""
        if any(isinstance(command, Expire) for command in commands):
            self.entered.set()
            await self.free.wait()
        return await self.inner.load(commands)


async def test_callers_do_not_wait_for_a_sweep(new_world: MakeWorld) -> None:
    """However much is swept and however slowly: a caller's batch starts beside at once, with nothing of the sweep."""
    world = await new_world()
    await world.issue_many(100, activate_by_time=await world.move(timedelta(0)) + DAY)
    card = await world.issue()
    await world.move(DAY)
    stuck = Stuck(world.store)
    engine = world.another_engine(stuck)
    sweeping = asyncio.create_task(world.sweep(engine))
    await asyncio.wait_for(stuck.entered.wait(), PATIENCE_S)
    (outcome,) = await asyncio.wait_for(engine.submit([recycle(card)]), PATIENCE_S)
    assert reason(outcome) is None and not sweeping.done()
    stuck.free.set()
    assert await sweeping == {DueKind.EXPIRY: 100}
    assert await world.owner.fetchval("SELECT count(*) FROM card_event WHERE kind = 'EXPIRED'") == 100


class Taken(PassingStore):
    """A store in which the ids of all expiries were taken for something else."""

    async def load(self, commands: Sequence[Command]) -> list[Any]:
        """See the port."""
        taken = Answered(input_hash=bytes(32), response=b"")
        return [
            replace(found, answered=taken) if isinstance(command, Expire) else found
            for command, found in zip(commands, await self.inner.load(commands), strict=True)
        ]


async def test_taken_id_is_no_endless_loop(new_world: MakeWorld) -> None:
    """Were the id of an expiry taken for something else, a caller who meets the card would be told to try again."""
    world = await new_world()
    card = await world.issue()
    await world.move(31 * DAY)
    (outcome,) = await world.another_engine(Taken(world.store)).submit([recycle(card)])
    assert reason(outcome) is Reason.CONFLICT_RETRY


# Devices


@pytest.mark.parametrize("variant", ["0", "7", "c", "f"])
async def test_id_of_another_variant_is_a_callers(world: World, variant: str) -> None:
    """Only with its variant does the version tell the service's own requests: else what risk refused is asked again as
    usual, and no invariant takes it for the service's."""
    card = await world.issue()
    refused = await world.recycled(card, circumstances=circumstances(vpn=True))
    assert refused.state == types_pb2.RECYCLING_STATE_REJECTED
    request_id = UUID(f"{card.card_id[:14]}8{card.card_id[15:19]}{variant}{card.card_id[20:]}")
    recycling = await world.recycled(card, request_id=request_id)
    assert (recycling.state, recycling.settlement_held) == (types_pb2.RECYCLING_STATE_APPROVED, False)


async def test_device_is_bound_as_a_handle(world: World) -> None:
    """The card shows a handle that is no id and no hash, another one on each card; only the hash is kept."""
    one, two = await world.issue(), await world.issue()
    shown_one, shown_two = [bound(await world.answer(bind(card, "a phone"))) for card in (one, two)]
    assert len(shown_one.bound_devices) == 1 and shown_one.bound_devices != shown_two.bound_devices
    assert await shown(world, one) == shown_one
    stored = await world.owner.fetchval("SELECT bound_devices FROM card WHERE card_id = $1", UUID(one.card_id))
    assert stored == [circumstances("a phone").device_hash]
    assert stored[0].hex() not in shown_one.bound_devices[0]


async def test_binding_is_idempotent(world: World) -> None:
    """By request id, to the byte; a device that is bound already changes nothing; another device is another request."""
    card = await world.issue()
    command = bind(card, "a phone")
    answer = await world.answer(command)
    assert await world.answer(command) == answer
    assert bound(await world.answer(bind(card, "a phone"))) == bound(answer)
    assert await world.count("card_event", card.account_id) == 3
    other = again(command, circumstances=circumstances("another phone"))
    assert reason(await world.run(other)) is Reason.IDEMPOTENCY_KEY_REUSED


async def test_devices_are_limited_by_the_policy(world: World) -> None:
    """Five on iqiyi; the sixth is refused, one of the five is not."""
    card = await world.issue()
    for number in range(5):
        await world.answer(bind(card, f"phone {number}"))
    assert reason(await world.run(bind(card, "phone 5"))) is Reason.LIMIT_EXCEEDED
    assert len(bound(await world.answer(bind(card, "phone 0"))).bound_devices) == 5


async def test_old_etag_binds_nothing(world: World) -> None:
    """A card that has changed meanwhile is left alone."""
    card = await world.issue()
    assert reason(await world.run(bind(card, "a phone", etag=card.etag))) is Reason.ETAG_MISMATCH
    now = await shown(world, card)
    assert len(bound(await world.answer(bind(card, "a phone", etag=now.etag))).bound_devices) == 1


async def test_held_and_gone_cards_take_no_device(world: World) -> None:
    """Only what can be used can be bound."""
    held, taken = await world.issue(), await world.issue()
    await world.held(held)
    await world.recycled(taken)
    for card in (held, taken):
        assert reason(await world.run(bind(card, "a phone"))) is Reason.CARD_STATE_INVALID


async def test_devices_outlive_a_recycle_that_is_undone(world: World) -> None:
    """They are bound to the card, not to its generation."""
    card = await world.issue()
    before = bound(await world.answer(bind(card, "a phone")))
    recycling = await world.recycled(card)
    await world.answer(reactivate(recycling))
    assert (await shown(world, card)).bound_devices == before.bound_devices


def bound(answer: bytes) -> types_pb2.Card:
    """The card in the answer to a BindDevice."""
    return card_service_pb2.BindDeviceResponse.FromString(answer).card


# Nobody can tell

PLATFORMS = ("iqiyi", "netflix", "tencent")
DEEDS = ("recycle", "emulator", "reactivate", "compensate", "bind", "void", "nothing")
steps_lived = st.lists(
    st.tuples(
        st.sampled_from(DEEDS),
        st.sampled_from(PLATFORMS),
        st.sampled_from([timedelta(0), DAY, 7 * DAY, 30 * DAY, 90 * DAY, 180 * DAY]),
        st.booleans(),
    ),
    min_size=3,
    max_size=10,
)


class Witness:
    """What a world tells, its own ids told by when they were first seen."""

    def __init__(self, world: World, cards: Sequence[types_pb2.Card]) -> None:
        self.world = world
        self.cards = cards
        self._seen: dict[str, str] = {}

    def told(self, message: object) -> str:
        """A message as text."""
        return re.sub(OWN_IDS, lambda found: self._seen.setdefault(found[0], f"id {len(self._seen)}"), str(message))

    async def shown(self) -> list[str]:
        """All that readers are told."""
        messages: list[object] = []
        for card in self.cards:
            messages.append(await shown(self.world, card))
            recyclings = await self.world.store.recyclings(card.account_id, NEWEST, 10)
            messages += [recycling_message(recycling) for recycling in reversed(recyclings)]
            messages.append(wallet_message(await self.world.store.wallet(card.account_id)))
        return [self.told(message) for message in messages]

    async def do(self, deed: str, card: types_pb2.Card, request_id: UUID) -> object:
        """What a caller is told."""
        recyclings = await self.world.store.recyclings(card.account_id, NEWEST, 1)
        newest = types_pb2.Recycling(
            account_id=card.account_id,
            recycling_id=str(recyclings[0].recycling_id if recyclings else UUID(int=1)),
        )
        deeds: dict[str, Command] = {
            "recycle": recycle(card),
            "emulator": recycle(card, circumstances=circumstances(emulator=True)),
            "reactivate": reactivate(newest),
            "compensate": compensate(newest),
            "bind": bind(card, "a phone"),
            "void": void(card, VoidReason.REVOKED),
        }
        if deed not in deeds:
            return None
        outcome = await self.world.run(again(deeds[deed], request_id=request_id))
        if isinstance(outcome, Refusal):
            return outcome.reason, outcome.message
        answer: Any = {
            "recycle": recycling_service_pb2.RecycleResponse,
            "emulator": recycling_service_pb2.RecycleResponse,
            "reactivate": recycling_service_pb2.ReactivateResponse,
            "compensate": recycling_service_pb2.CompensateResponse,
            "bind": card_service_pb2.BindDeviceResponse,
            "void": card_service_pb2.VoidCardResponse,
        }[deed]
        return self.told(answer.FromString(outcome))


async def _born(world: World) -> Witness:
    """One active card on each platform, with the same ids in every world."""
    request_ids = numbered_ids(9)
    items = [
        item(platform, f"account-of-{platform}", request_id=request_ids(), duration_days=20) for platform in PLATFORMS
    ]
    outcomes = await world.issuer.issue(items)
    cards = [types_pb2.Card.FromString(outcome) for outcome in outcomes if isinstance(outcome, bytes)]
    for card in cards:
        await world.answer(activate(card, request_id=request_ids()))
    return Witness(world, cards)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps_lived)
async def test_sweeping_changes_nothing_that_anybody_is_told(
    fresh_database: FreshDatabase, steps: list[tuple[str, str, timedelta, bool]]
) -> None:
    """Two worlds live through the same, one swept at any times and one never: readers and callers are told alike."""
    swept, never = [await _born(await World.create(await fresh_database(), new_id=numbered_ids(7))) for _ in range(2)]
    try:
        for number, (deed, platform, later, sweeps) in enumerate(steps):
            for witness in (swept, never):
                await witness.world.move(later)
            if sweeps:
                # Not what the service recycles by itself: that is a deed, and no matter of time.
                for kind in (DueKind.HOLD, DueKind.EXPIRY, DueKind.WINDOW, DueKind.COUPON):
                    await swept.world.engine.submit(await swept.world.due.due(kind, 100))
            assert await swept.shown() == await never.shown()
            place, request_id = PLATFORMS.index(platform), UUID(int=number + 1, version=4)
            told = [await witness.do(deed, witness.cards[place], request_id) for witness in (swept, never)]
            assert told[0] == told[1]
            assert await swept.shown() == await never.shown()
        assert not await swept.world.broken() and not await never.world.broken()
    finally:
        await swept.world.close()
        await never.world.close()
