"""Random lives of wallets on the real engine and database, against a reference: what is held, what is refused and why,
and that nobody gains. Of the rest of a card's life `test_lives` tells."""

from __future__ import annotations

import asyncio
import copy
import itertools
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from card_recycling.v1 import types_pb2
from card_recycling.v1 import wallet_service_pb2 as pb
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

from server.domain.commands import Command, Compensate, Exchange, Grant, Reactivate, Recycle, Redeem
from server.domain.errors import Refusal
from server.domain.recycling import RecycleReason, Unit
from server.engine.queue import Outcome
from tests.conftest import FreshDatabase
from tests.integration.world import START, World, item, parsed
from tests.property.purse import OFFERS, RATES, Card, No, Purse

SEED, EXAMPLES = 20_261_125, 12
LANES, ROUNDS = 5, 14
KINDS = ["recycle", "compensate", "reactivate", "redeem", "redeem", "exchange", "exchange", "grant", "again", "nothing"]
AMOUNTS = [1, 9, 10, 101, 300, 999, 2699, 100_001]


@dataclass(frozen=True)
class Deed:
    """What an account does; `twice`: another caller does something of the same kind on another server at once."""

    kind: str
    place: int
    way: int
    twice: bool


deeds = st.builds(
    Deed, st.sampled_from(KINDS), st.integers(0, 5), st.integers(0, 7), st.sampled_from([False, False, False, True])
)
rounds = st.tuples(st.sampled_from([0, 0, 0, 1, 15, 30]), st.tuples(*[deeds] * LANES))
sequences = st.tuples(*[rounds] * ROUNDS)
Sequences = Sequence[tuple[int, Sequence[Deed]]]


def command(purse: Purse, deed: Deed, asked: Sequence[Command]) -> Command | None:
    """The command of a deed; None where there is nothing to do it to."""
    place, way = deed.place, deed.way
    recycled = [card for card in purse.cards if card.recycling_id is not None]
    here = [card for card in purse.cards if card.recycling_id is None and not card.spent]
    request_id, account_id = uuid.uuid4(), purse.account_id
    recycling_id = recycled[place % len(recycled)].recycling_id if recycled else None
    match deed.kind:
        case "recycle" if here:
            card = here[place % len(here)]
            tencent = card.platform == "tencent"
            return Recycle(
                request_id=request_id,
                account_id=account_id,
                card_id=card.card_id,
                reason=RecycleReason.SYSTEM_ANOMALY if tencent else RecycleReason.VOLUNTARY,
                unit=Unit.GROWTH_POINT if card.kind == "middle" else None,
            )
        case "compensate" if recycled:
            return Compensate(request_id=request_id, account_id=account_id, recycling_id=recycling_id)
        case "reactivate" if recycled:
            return Reactivate(request_id=request_id, account_id=account_id, recycling_id=recycling_id)
        case "redeem":
            platform, offer_id = list(OFFERS)[(place + way) % len(OFFERS)]
            return Redeem(request_id=request_id, account_id=account_id, platform=platform, offer_id=offer_id)
        case "exchange":
            platform, unit, to_platform, to_unit = list(RATES)[place % len(RATES)]
            held = purse.held[platform, unit]
            return Exchange(
                request_id=request_id,
                account_id=account_id,
                platform="netflix" if (place, way) == (5, 7) else platform,
                unit=Unit(unit),
                amount=held if way == 6 and held else AMOUNTS[way],
                to_platform=to_platform,
                to_unit=Unit(to_unit),
                min_amount=98 if way == 2 else 0,
            )
        case "grant" if recycled:
            return Grant(
                request_id=request_id,
                account_id=account_id,
                recycling_id=recycling_id,
                unit=Unit.COIN,
                amount=[1, 500, 2000, 2001][way % 4],
                note="sorry",
            )
        case "again" if asked:
            return asked[-1 - place % len(asked)]
    return None


class Player:
    """Plays sequences in one world, each with accounts of its own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.second = world.another_engine()
        self.numbers = itertools.count(1)
        self.now = START

    async def play(self, sequence: Sequences) -> None:
        """Raises AssertionError where service and reference part, or somebody gains."""
        purses = [await self._purse() for _ in range(LANES)]
        asked: list[list[Command]] = [[] for _ in purses]
        answers: dict[uuid.UUID | None, bytes] = {}
        for days, deeds_of_round in sequence:
            if days:
                before = [purse.worth(self.now) for purse in purses]
                self.now = await self.world.move(timedelta(days=days))
                assert all(purse.worth(self.now) <= was for purse, was in zip(purses, before, strict=True))
            lanes = [
                (number, one, command(purses[number], deed, asked[number]) if deed.twice else None)
                for number, deed in enumerate(deeds_of_round)
                if (one := command(purses[number], deed, asked[number])) is not None
            ]
            firsts, seconds = await asyncio.gather(
                self.world.engine.submit([one for _, one, _ in lanes]),
                self.second.submit([two for _, _, two in lanes if two is not None]),
            )
            rest = iter(seconds)
            for (number, one, two), outcome in zip(lanes, firsts, strict=True):
                done = [(one, outcome)] if two is None else [(one, outcome), (two, next(rest))]
                purses[number] = self._met(purses[number], done, answers)
                asked[number] += [each for each, _ in done]
            for purse in purses:
                await self._compare(purse)

    def _met(
        self, purse: Purse, done: Sequence[tuple[Command, Outcome]], answers: dict[uuid.UUID | None, bytes]
    ) -> Purse:
        """The purse after what was done, which must have come out as one after the other, in some order."""
        problems = []
        for order in itertools.permutations(done):
            trial, told = copy.deepcopy(purse), dict(answers)
            try:
                for each, outcome in order:
                    if not (isinstance(outcome, Refusal) and outcome.reason == "CONFLICT_RETRY"):
                        self._met_one(trial, each, outcome, told)
            except AssertionError as error:
                problems.append(str(error))
            else:
                answers.update(told)
                return trial
        raise AssertionError("\n".join(problems))

    def _met_one(self, purse: Purse, asked: Command, outcome: Outcome, answers: dict[uuid.UUID | None, bytes]) -> None:
        if asked.request_id in answers:
            assert outcome == answers[asked.request_id], f"{asked!r} came again, otherwise"
            return
        before = purse.worth(self.now)
        try:
            got = purse.apply(asked, self.now)
        except No as no:
            reason = outcome.reason if isinstance(outcome, Refusal) else "an answer"
            if reason != str(no):
                raise AssertionError(f"{asked!r}: {reason}, not {no}") from no
            return
        assert isinstance(outcome, bytes), f"{asked!r}: {outcome!r} {getattr(outcome, 'reason', '')}"
        answers[asked.request_id] = outcome
        if isinstance(asked, Exchange):
            assert pb.ExchangeResponse.FromString(outcome).amount_out == got, f"{asked!r}: not {got}"
        if isinstance(asked, Recycle):
            recycling = parsed(outcome)
            (card,) = (each for each in purse.cards if each.card_id == asked.card_id)
            card.recycling_id, card.owed = uuid.UUID(recycling.recycling_id), "PENDING"
        gain = asked.amount if isinstance(asked, Grant) else 0
        assert purse.worth(self.now) <= before + gain, f"{asked!r} gains"

    async def _purse(self) -> Purse:
        """An account with cards of three kinds, which cost 29.99 each and are worth no more."""
        purse = Purse(f"purse-{next(self.numbers)}")
        for kind in ("iqiyi", "iqiyi", "middle", "tencent"):
            platform = "tencent" if kind == "tencent" else "iqiyi"
            (outcome,) = await self.world.issuer.issue([item(platform, purse.account_id, segment="MIDDLE")])
            assert isinstance(outcome, bytes)
            card = Card(uuid.UUID(types_pb2.Card.FromString(outcome).card_id), kind)
            assert card.payout <= 2999
            purse.cards.append(card)
        return purse

    async def _compare(self, purse: Purse) -> None:
        wallet = await self.world.store.wallet(purse.account_id)
        held = {
            (each.platform, str(each.unit)): each.amount for each in wallet.balances if each.unit is not Unit.COUPON
        }
        assert held == {unit: amount for unit, amount in purse.held.items() if amount}, purse
        caps = sorted(cap for cap, until in purse.coupons.values() if self.now < until)
        assert sorted(coupon.max_discount_minor for coupon in wallet.coupons) == caps


def test_wallets_fare_as_the_rules_say(fresh_database: FreshDatabase) -> None:
    """Whatever is done with cards' proceeds, at once and again, wallets hold what the reference says and nobody gains;
    invariants hold, and every decision replays."""
    with asyncio.Runner() as runner:
        world = runner.run(_world(fresh_database))
        player = Player(world)

        @seed(SEED)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            verbosity=Verbosity.quiet,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(sequences)
        def lives(sequence: Sequences) -> None:
            runner.run(player.play(sequence))

        try:
            lives()
            while runner.run(world.sweep()):
                pass
            assert not runner.run(world.broken())
            assert not runner.run(world.replayed_otherwise())
        finally:
            runner.run(world.close())


async def _world(fresh_database: FreshDatabase) -> World:
    return await World.create(await fresh_database())
