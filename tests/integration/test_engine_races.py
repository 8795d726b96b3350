"""Races: several engines on one database. One wins, the others replay, conflict or meet a changed state."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from card_recycling.v1 import types_pb2

from server.api.messages import MessageRenderer
from server.domain.card import VoidReason
from server.domain.commands import Command, IssueItem
from server.domain.errors import Reason
from server.domain.recycling import RecycleReason
from server.engine.engine import Engine
from server.engine.issue import Issuer
from server.engine.queue import Outcome
from server.store.store import PostgresStore, connect
from tests.integration.world import (
    PATIENCE_S,
    PassingStore,
    World,
    again,
    compensate,
    item,
    parsed,
    quote,
    reactivate,
    reason,
    recycle,
    void,
)

ROUNDS = 15
NEWEST = (datetime(9000, 1, 1, tzinfo=UTC), uuid.UUID(int=2**128 - 1))
"""The position before the newest record."""


class Rendezvous(PassingStore):
    """Lets nobody go on before all have loaded, so that every one of them has read the same state."""

    def __init__(self, inner: Any, barrier: asyncio.Barrier) -> None:
        super().__init__(inner)
        self._barrier: asyncio.Barrier | None = barrier

    async def load(self, commands: Sequence[Command]) -> list[Any]:
        """Waits for the others the first time."""
        loaded = await super().load(commands)
        await self._meet()
        return loaded

    async def load_items(self, items: Sequence[IssueItem]) -> list[Any]:
        """Waits for the others the first time."""
        loaded = await super().load_items(items)
        await self._meet()
        return loaded

    async def _meet(self) -> None:
        barrier, self._barrier = self._barrier, None
        if barrier is not None:
            await asyncio.wait_for(barrier.wait(), PATIENCE_S)


@asynccontextmanager
async def rivals(world: World, how_many: int) -> AsyncIterator[list[Engine]]:
    """Engines with stores of their own, none of which decides before all have read the same state."""
    barrier = asyncio.Barrier(how_many)
    async with stores(world, how_many) as each:
        yield [world.another_engine(Rendezvous(store, barrier)) for store in each]


@asynccontextmanager
async def stores(world: World, how_many: int) -> AsyncIterator[list[PostgresStore]]:
    """Stores of their own on the world's database."""
    each = [await connect(world.server_url, connections=3, connections_for_batches=2) for _ in range(how_many)]
    try:
        yield each
    finally:
        await asyncio.gather(*(store.close() for store in each))


async def race(world: World, commands: Sequence[Command]) -> list[Outcome]:
    """The outcomes of `commands`, each by an engine of its own, all decided on the same state."""
    async with rivals(world, len(commands)) as engines:
        outcomes = await asyncio.wait_for(
            asyncio.gather(*(engine.submit([command]) for engine, command in zip(engines, commands, strict=True))),
            PATIENCE_S,
        )
    return [outcome for (outcome,) in outcomes]


def tally(outcomes: Sequence[Outcome]) -> Counter[Reason | None]:
    """How many outcomes of each kind; None is success."""
    return Counter(map(reason, outcomes))


async def test_same_request_on_many_engines(world: World) -> None:
    """One request sent to four engines at once is done once, and all four get the same bytes."""
    card = await world.issue()
    command = recycle(card)
    outcomes = await race(world, [command] * 4)
    answers = {outcome for outcome in outcomes if isinstance(outcome, bytes)}
    assert len(answers) == 1 and set(tally(outcomes)) <= {None, Reason.CONFLICT_RETRY}
    assert await world.run(command) in answers
    assert await world.count("recycling", card.account_id) == 1


async def test_same_card_by_different_requests(world: World) -> None:
    """Of four different requests for one card one takes it; the others find it taken."""
    card = await world.issue()
    outcomes = await race(world, [recycle(card) for _ in range(4)])
    assert tally(outcomes)[None] == 1
    assert set(tally(outcomes)) <= {None, Reason.CARD_ALREADY_RECYCLED, Reason.CONFLICT_RETRY}
    assert await world.count("recycling", card.account_id) == 1


async def test_same_request_id_with_different_input(world: World) -> None:
    """Of two different inputs under one request id one is done, and the other is told of the reuse."""
    card = await world.issue()
    same = uuid.uuid4()
    outcomes = await race(world, [recycle(card, request_id=same), void(card, VoidReason.REVOKED, request_id=same)])
    assert tally(outcomes) == {None: 1, Reason.IDEMPOTENCY_KEY_REUSED: 1}
    assert await world.count("card_event", card.account_id) == 3


async def test_different_cards_of_one_account_both_win(world: World) -> None:
    """Two cards of one account recycled at once: the loser of the account's guard re-enters and succeeds."""
    one = await world.issue()
    two = await world.issue(account_id=one.account_id)
    outcomes = await race(world, [recycle(one), recycle(two)])
    assert tally(outcomes) == {None: 2}
    assert await world.count("recycling", one.account_id) == 2


async def test_one_settlement(world: World) -> None:
    """Of four settlements of one recycling one pays."""
    card = await world.issue()
    recycling = await world.recycled(card)
    outcomes = await race(world, [compensate(recycling) for _ in range(4)])
    assert tally(outcomes)[None] == 1
    assert set(tally(outcomes)) <= {None, Reason.ALREADY_COMPENSATED, Reason.CONFLICT_RETRY}
    assert (await world.store.wallet(card.account_id)).balances[0].amount == 2699


async def test_settlement_against_reactivation(world: World) -> None:
    """A settlement and a reactivation at once: either both, with the clawback, or the reactivation alone."""
    card = await world.issue()
    recycling = await world.recycled(card)
    settled, undone = await race(world, [compensate(recycling), reactivate(recycling)])
    assert isinstance(undone, bytes)
    assert reason(settled) in (None, Reason.RECYCLING_STATE_INVALID)
    assert (await world.store.wallet(card.account_id)).balances == ()
    assert await world.count("posting", card.account_id) == (4 if reason(settled) is None else 0)


async def test_one_reactivation(world: World) -> None:
    """Of three reactivations of a settled recycling one claws back."""
    card = await world.issue()
    recycling = await world.settled(card)
    outcomes = await race(world, [reactivate(recycling) for _ in range(3)])
    assert tally(outcomes)[None] == 1
    assert set(tally(outcomes)) <= {None, Reason.RECYCLING_STATE_INVALID, Reason.CONFLICT_RETRY}
    assert await world.count("posting", card.account_id) == 4


@pytest.mark.parametrize("why", [VoidReason.CHARGEBACK, VoidReason.REVOKED])
async def test_three_ways_at_once(world: World, why: VoidReason) -> None:
    """Settlement, reactivation and void at once end in a state that one order of them would give."""
    card = await world.issue()
    recycling = await world.recycled(card)
    commands = [compensate(recycling), reactivate(recycling), void(card, why)]
    settled, undone, _ = await race(world, commands)
    for command, outcome in zip(commands, [settled, undone], strict=False):
        if reason(outcome) is Reason.CONFLICT_RETRY:
            await world.run(command)
    found = await world.store.recycling(card.account_id, parsed_id(recycling))
    assert found is not None and found.compensation is not None
    balance = sum(b.amount for b in (await world.store.wallet(card.account_id)).balances)
    assert balance == (found.compensation.amount if found.compensation.state == "SETTLED" else 0)


def parsed_id(recycling: types_pb2.Recycling) -> uuid.UUID:
    """Its id."""
    return uuid.UUID(recycling.recycling_id)


async def test_reactivated_and_recycled_again_at_once(world: World) -> None:
    """While one caller gives a card back another recycles it: never two live recyclings of a generation."""
    card = await world.issue()
    recycling = await world.recycled(card)
    outcomes = await race(world, [reactivate(recycling), again(recycle(card), request_id=uuid.uuid4())])
    assert reason(outcomes[0]) is None
    assert reason(outcomes[1]) in (None, Reason.CARD_ALREADY_RECYCLED)


async def test_dry_runs_do_not_disturb(world: World) -> None:
    """Quotes of a card that is being recycled neither fail nor stop the recycle."""
    card = await world.issue()
    outcomes = await race(world, [recycle(card), quote(card), quote(card)])
    assert tally(outcomes) == {None: 3}


async def test_hammered_account_keeps_every_invariant(world: World) -> None:
    """Four engines at once do everything to two cards of one account; each refusal is one that a race explains."""
    one = await world.issue()
    two = await world.issue("tencent", one.account_id)
    async with stores(world, 4) as each_store:
        engines = [world.another_engine(store) for store in each_store]
        for _ in range(ROUNDS):
            same = uuid.uuid4()
            commands: list[Command] = [recycle(one, request_id=same), recycle(one), recycle(two)]
            recyclings = await world.store.recyclings(one.account_id, NEWEST, 4)
            for recycling in recyclings:
                assert recycling.recycling_id is not None
                named: dict[str, Any] = {
                    "account_id": one.account_id, "recycling_id": str(recycling.recycling_id),
                }  # fmt: skip
                commands += [compensate(types_pb2.Recycling(**named)), reactivate(types_pb2.Recycling(**named))]
            outcomes = await asyncio.gather(*(engine.submit(commands) for engine in engines))
            explained = {
                None,
                Reason.CONFLICT_RETRY,
                Reason.CARD_ALREADY_RECYCLED,
                Reason.CARD_STATE_INVALID,
                Reason.ALREADY_COMPENSATED,
                Reason.RECYCLING_STATE_INVALID,
                Reason.RENEWALS_EXHAUSTED,
                Reason.REACTIVATION_NOT_ALLOWED,
            }
            assert {reason(outcome) for each in outcomes for outcome in each} <= explained
            firsts = {each[0] for each in outcomes if isinstance(each[0], bytes)}
            assert len(firsts) <= 1
    assert not await world.broken()


async def test_opposite_orders_do_not_lock_up(world: World) -> None:
    """Two engines that take the same accounts in opposite orders both finish; every card is taken once."""
    cards = await world.issue_many(60)
    async with rivals(world, 2) as engines:
        orders = [[recycle(card) for card in cards], [recycle(card) for card in reversed(cards)]]
        outcomes = await asyncio.wait_for(
            asyncio.gather(*(engine.submit(order) for engine, order in zip(engines, orders, strict=True))), PATIENCE_S
        )
    taken = [parsed(outcome).card_id for each in outcomes for outcome in each if isinstance(outcome, bytes)]
    refused = tally([outcome for each in outcomes for outcome in each if not isinstance(outcome, bytes)])
    assert len(taken) == len(set(taken))
    assert set(refused) <= {Reason.CARD_ALREADY_RECYCLED, Reason.CONFLICT_RETRY}
    left = [card for card in cards if card.card_id not in taken]
    retried = await world.engine.submit([recycle(card) for card in left]) if left else []
    assert tally(retried)[None] == len(left)


# Issuing


@asynccontextmanager
async def rival_issuers(world: World) -> AsyncIterator[list[Issuer]]:
    """Two issuers that record only once both have found everything free."""
    barrier = asyncio.Barrier(2)
    async with stores(world, 2) as each:
        yield [Issuer(Rendezvous(store, barrier), MessageRenderer(), world.new_id) for store in each]


async def test_same_item_from_two_issuers(world: World) -> None:
    """One item sent to two issuers at once is one card, and both give its bytes."""
    wanted = [item("iqiyi", f"issued-{uuid.uuid4()}") for _ in range(5)]
    async with rival_issuers(world) as issuers:
        first, second = await asyncio.wait_for(
            asyncio.gather(issuers[0].issue(wanted), issuers[1].issue(wanted[::-1])), PATIENCE_S
        )
    assert tally([*first, *second]) == {None: 10}
    assert first == second[::-1]
    assert [await world.count("card", each.account_id) for each in wanted] == [1] * 5


async def test_same_serial_from_two_issuers(world: World) -> None:
    """One serial sent to two issuers at once is registered once; the loser is told, its neighbours are issued."""
    serial = f"S-{uuid.uuid4()}"
    calls = [
        [item("iqiyi", f"{name}-{n}-{serial}", external_serial=serial if n == 1 else None) for n in range(3)]
        for name in ("left", "right")
    ]
    async with rival_issuers(world) as issuers:
        outcomes = await asyncio.wait_for(
            asyncio.gather(*(issuer.issue(call) for issuer, call in zip(issuers, calls, strict=True))), PATIENCE_S
        )
    assert tally([outcome for each in outcomes for outcome in each]) == {None: 5, Reason.FIELD_INVALID: 1}
    assert await world.owner.fetchval("SELECT count(*) FROM card_serial WHERE external_serial = $1", serial) == 1


async def test_request_id_of_an_item_and_a_command_at_once(world: World) -> None:
    """A request id used for an item and a recycle of one account at the same moment serves one of them."""
    card = await world.issue()
    same = uuid.uuid4()
    barrier = asyncio.Barrier(2)
    engine = world.another_engine(Rendezvous(world.store, barrier))
    issuer = Issuer(Rendezvous(world.store, barrier), MessageRenderer(), world.new_id)
    outcomes = await asyncio.wait_for(
        asyncio.gather(
            engine.submit([recycle(card, request_id=same, reason=RecycleReason.VOLUNTARY)]),
            issuer.issue([item("iqiyi", card.account_id, request_id=same)]),
        ),
        PATIENCE_S,
    )
    assert tally([outcome for (outcome,) in outcomes]) == {None: 1, Reason.IDEMPOTENCY_KEY_REUSED: 1}
