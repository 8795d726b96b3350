"""Plays a sequence against the real engine and database, and compares each step with the reference.

Real are engine, issuer, store, statements and Postgres. Only the scorer, at the engine's own port, is told what to say:
a band a request, or nothing at all. What is tried here is the life of cards, not how well a model judges.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import uuid
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any
from uuid import UUID

from google.protobuf.message import Message

from server.domain.card import VoidReason
from server.domain.commands import (
    Activate,
    BindDevice,
    Circumstances,
    Command,
    Compensate,
    IssueItem,
    Lapse,
    OwnCommand,
    Reactivate,
    Recycle,
    Resolve,
    Void,
    own_request_id,
)
from server.domain.errors import Refusal
from server.domain.lists import EntryDraft, ListKind, Subject, SubjectKind
from server.domain.recycling import RecycleReason, Unit
from server.domain.review import ReviewVerdict
from server.engine.engine import Engine
from server.engine.queue import Outcome
from server.replay.decision import ANSWERS
from server.store import rows
from tests.integration.world import START, World, item
from tests.property import reference
from tests.property.market import Market
from tests.property.operations import AT, Kind, Move, Operation, Round, Sweep
from tests.property.reference import Account, Card, No, Quote, Recycling, Review, Told
from tests.property.scoped import ScopedInvariants
from tests.property.service import Service, unrecorded

SIGNALS: dict[str, dict[str, bool]] = {"LOW": {}, "MEDIUM": {"emulator": True}, "HIGH": {"vpn": True}}
"""How a request tells the scorer of the tests what to say."""
PAIRS = [
    (Kind.RECYCLE, None),
    (Kind.RECYCLE, Kind.RECYCLE),
    (Kind.COMPENSATE, Kind.REACTIVATE),
    (Kind.RECYCLE, Kind.VOID),
    (Kind.ACTIVATE, Kind.RECYCLE),
    (Kind.REACTIVATE, Kind.REACTIVATE),
    (Kind.COMPENSATE, Kind.COMPENSATE),
    (Kind.RESOLVE, Kind.VOID),
    (Kind.COMPENSATE, Kind.VOID),
    (Kind.REACTIVATE, None),
]
"""What two callers want of one account at the same time; with None it is the very same request."""
LOST = "CONFLICT_RETRY"
DEVICE_OF_ALL = uuid.uuid5(uuid.NAMESPACE_OID, "a device of all").bytes


class Mismatch(AssertionError):
    """The service did not do what the reference says."""


@dataclass(frozen=True)
class Asked:
    """One command of one caller, and the band that its score will be in."""

    command: Command
    band: str


@dataclass
class Lane:
    """One account of a sequence, with the callers who act for it. Turns operations into commands."""

    account: Account
    others: Sequence[Lane]
    asked: list[Asked]
    issued: list[IssueItem]
    entries: dict[str, UUID]
    boundary: str = ""
    """What of its own the clock has just been moved to."""

    def kind_of(self, operation: Operation) -> Kind:
        """The operation's kind; at a boundary of its own mostly what that is about, and what can be done instead where
        there is nothing yet to do it with."""
        kind, account = operation.kind, self.account
        if kind is not Kind.NOTHING and self.boundary and operation.way % 4 != 3:
            choice = AT[self.boundary]
            kind = choice[operation.way % len(choice)]
        if kind in (Kind.NOTHING, Kind.LIST):
            return kind
        if not account.cards:
            return Kind.ISSUE
        if kind in (Kind.COMPENSATE, Kind.REACTIVATE) and not account.recyclings:
            return Kind.RECYCLE
        if kind in (Kind.RESOLVE, Kind.CLAIM, Kind.LAPSE) and not account.reviews:
            return Kind.RECYCLE
        if kind is Kind.REDEEM_QUOTE and not account.quotes:
            return Kind.QUOTE
        return Kind.RECYCLE if kind is Kind.AGAIN and not self.asked else kind

    def command(self, kind: Kind, operation: Operation, now: datetime) -> Command:
        """The command of an operation."""
        way = operation.way
        usual: dict[str, Any] = {
            "request_id": uuid.uuid4(),
            "account_id": self.account.account_id,
            "circumstances": self._circumstances(operation),
        }
        card, recycling, review = self.likely(kind, operation, now)
        card_id, recycling_id = self._named(card.card_id, way, "cards"), None
        if recycling is not None:
            recycling_id = self._named(recycling.recycling_id, way, "recyclings")
        match kind:
            case Kind.ACTIVATE:
                return Activate(**usual, card_id=card_id, etag=self._etag(card, way))
            case Kind.BIND:
                device = self._device(operation.place + way % 3)
                bound = replace(usual["circumstances"], device_hash=device)
                return BindDevice(**(usual | {"circumstances": bound}), card_id=card_id, etag=self._etag(card, way))
            case Kind.VOID:
                reason = list(VoidReason)[way % 3]
                return Void(**usual, card_id=card_id, reason=reason, etag=self._etag(card, way))
            case Kind.RECYCLE:
                return Recycle(**usual, card_id=card_id, dry_run=way == 22, **self._wish(card, way))
            case Kind.QUOTE:
                asked = usual | {"request_id": None, "dry_run": True, "quote": True}
                return Recycle(**asked, card_id=card_id, **self._wish(card, way))
            case Kind.REDEEM_QUOTE:
                quote = _recent(self.account.quotes, operation.place)
                of = quote.card if way < 21 else card
                return Recycle(**usual, card_id=of.card_id, quote_token=quote.token, **self._wish(of, 0))
            case Kind.COMPENSATE:
                return Compensate(**usual, recycling_id=recycling_id, dry_run=way == 22)
            case Kind.REACTIVATE:
                return Reactivate(**usual, recycling_id=recycling_id, dry_run=way == 22)
            case Kind.RESOLVE:
                assert review is not None
                return Resolve(
                    **usual,
                    recycling_id=review.recycling.recycling_id,
                    review_id=uuid.uuid4() if way == 20 else review.review_id,
                    verdict=ReviewVerdict.APPROVE if way % 3 else ReviewVerdict.DENY,
                    reviewer="anna" if way % 4 else "ben",
                )
            case Kind.LAPSE:
                assert review is not None and review.review_id is not None
                return Lapse(
                    request_id=uuid.uuid5(review.review_id, Lapse.method),
                    account_id=self.account.account_id,
                    recycling_id=review.recycling.recycling_id,
                    review_id=review.review_id,
                )
            case Kind.AGAIN:
                return self._again(operation)
        raise AssertionError(kind)

    def item(self, operation: Operation, now: datetime) -> IssueItem:
        """A card to issue; at times the same as before."""
        way = operation.way
        if self.issued and way == 23:
            return self.issued[-1]
        paid = [2999, 1990, 1, 0, 999_999_999, 20][operation.place]
        deadline = [None, None, timedelta(days=11), timedelta(days=60), timedelta(0)][way % 5]
        return item(
            ["iqiyi", "tencent", "netflix"][way % 3],
            self.account.account_id,
            tier=["BASIC", "PREMIUM"][way % 2],
            segment=[None, "YOUNG", "MIDDLE", "SENIOR"][way % 4],
            paid_minor=paid,
            face_value_minor=paid + [0, 501][way % 2],
            duration_days=[30, 31, 1, 366][way // 6],
            activate_by_time=None if deadline is None else now + deadline,
        )

    def pair(self, operation: Operation, now: datetime) -> tuple[Command, Command]:
        """What two callers want at once."""
        first, second = PAIRS[operation.way % len(PAIRS)]
        plain = replace(operation, way=operation.way % 3)
        self.boundary = ""
        one = self.command(self.kind_of(replace(plain, kind=first)), plain, now)
        if second is None:
            return one, one
        return one, self.command(self.kind_of(replace(plain, kind=second)), plain, now)

    def likely(self, kind: Kind, operation: Operation, now: datetime) -> tuple[Card, Recycling | None, Review | None]:
        """What an operation is about: mostly something that it can be done to, if there is anything like that."""
        account, fitting = self.account, operation.way % 4 != 3

        def choose(found: Iterable[Any], fits: Callable[[Any], bool]) -> Any:
            every = list(found)
            fit = [each for each in every if fits(each)] if fitting else []
            return _recent(fit or every, operation.place) if every else None

        def takes(card: Card) -> bool:
            if kind is Kind.VOID and operation.way % 2:
                return card.taken_by is not None
            return card.taken_by is None and card.state_at(now) in (
                {"ISSUED"} if kind is Kind.ACTIVATE else reference.TAKES[card.platform]
            )

        return (
            choose(account.cards.values(), takes),
            choose(account.recyclings.values(), lambda each: each.state == "APPROVED"),
            choose(account.reviews, lambda each: each.state == "OPEN"),
        )

    def _circumstances(self, operation: Operation) -> Circumstances:
        """From the account's own device, from one that all share, or from none that is told."""
        device = [self._device(0), None, None, self._device(1), DEVICE_OF_ALL][operation.place]
        return Circumstances(signals=SIGNALS[operation.band], device_hash=device)

    def _device(self, number: int) -> bytes:
        return uuid.uuid5(uuid.NAMESPACE_OID, f"{self.account.account_id} {number}").bytes

    def _named(self, own: UUID, way: int, what: str) -> UUID:
        """The id, at times one that nobody has, or another account's."""
        if way == 20:
            return uuid.uuid4()
        foreign = [each for lane in self.others for each in getattr(lane.account, what)]
        return foreign[0] if way == 21 and foreign else own

    def _etag(self, card: Card, way: int) -> str:
        return f"v{card.version}" if way in (17, 18) else "v0" if way == 19 else ""

    def _wish(self, card: Card, way: int) -> dict[str, Any]:
        reason = RecycleReason(reference.REASONS[card.platform])
        unit = {16: Unit.GROWTH_POINT, 17: Unit(reference.UNITS[card.platform]), 18: Unit.COUPON}.get(way)
        if way % 4 == 1 and card.platform == "iqiyi":
            unit = Unit.GROWTH_POINT
        return {"reason": RecycleReason.EXPIRED if way == 19 else reason, "unit": unit}

    def _again(self, operation: Operation) -> Command:
        """An earlier request id: with the same input from elsewhere, or with another."""
        earlier: Command = _recent(self.asked, operation.place).command
        # The id of what time does is nobody's to take.
        if operation.way % 3 or isinstance(earlier, OwnCommand):
            now = self._circumstances(operation)
            # Of a device that is to be bound the request is about that very device.
            bound = earlier.circumstances.device_hash if isinstance(earlier, BindDevice) else now.device_hash
            return replace(earlier, circumstances=replace(now, device_hash=bound))
        return Void(
            request_id=earlier.request_id,
            account_id=self.account.account_id,
            card_id=_recent([*self.account.cards.values()], operation.place).card_id,
            reason=VoidReason.REVOKED,
        )


class Player:
    """Plays sequences in one world, one after the other, each with accounts of its own. Build it with `open`."""

    def __init__(self, world: World, scoped: ScopedInvariants, second: Engine, service: Service) -> None:
        self._world = world
        self._scoped = scoped
        self._second = second
        self._service = service
        self._names = itertools.count(1)
        self._market = Market()
        self.outcomes: dict[str, int] = {}
        """How often each kind of outcome was met."""

    @classmethod
    async def open(cls, world: World) -> Player:
        """In a new world, which nothing else uses."""
        second = world.another_engine()
        service = await Service.open(world, (world.engine, second))
        return cls(world, await ScopedInvariants.open(world.owner_url), second, service)

    async def close(self) -> None:
        """Ends the work and closes the world."""
        await self._second.drain()
        await self._scoped.close()
        await self._world.close()

    async def play(self, sequence: Sequence[Round]) -> None:
        """Raises Mismatch where the service and the reference part, or an invariant does not hold. Afterwards the
        database is as the sequence has left it."""
        await self._service.begin()
        lanes: list[Lane] = []
        self._market = Market()
        for _ in sequence[0].operations:
            account = Account(f"lives-{uuid.getnode():x}-{next(self._names)}", self._market)
            lanes.append(Lane(account, lanes, [], [], {}))
        now = START
        await self._set_clock(now)
        for number, step in enumerate(sequence):
            if not step.does_something:
                continue
            try:
                now = await self._move(lanes, step.move, now)
                await self._serve(lanes, step, now)
                await self._round(lanes, step, now)
            except AssertionError as error:
                error.add_note(f"in round {number} at {now.isoformat()}")
                raise
        await self._end(lanes, now)

    async def _set_clock(self, now: datetime) -> None:
        """Back, too, which no service can: each sequence begins at the same moment, so that it can be played alone."""
        await self._world.owner.execute("UPDATE backtest_clock SET shifted_time = $1", now)

    async def _move(self, lanes: list[Lane], move: Move, now: datetime) -> datetime:
        """Time alone lets nobody gain."""
        later = now + move.step
        for lane in lanes:
            lane.boundary = ""
        if move.place is not None:
            ahead = [
                (moment, number, what)
                for number, lane in enumerate(lanes)
                for what, moment in lane.account.boundaries(now)
                if moment > now
            ]
            ahead += [(moment, -1, what) for what, moment in self._market.boundaries(now)]
            ahead = sorted(each for each in ahead if each[2] == move.of) or sorted(ahead)
            if ahead:
                moment, number, what = ahead[move.place % len(ahead)]
                for lane in lanes if number < 0 else [lanes[number]]:
                    lane.boundary = what
                later = max(now, moment + move.offset)
        if later > now:
            await self._set_clock(later)
        for lane in lanes:
            before = lane.account.worth(now)
            lane.account.pass_time(later)
            _check_worth(lane.account, before, later)
        return later

    async def _serve(self, lanes: list[Lane], step: Round, now: datetime) -> None:
        """What the service does by itself before the accounts do anything."""
        self._world.scorer.down = step.down
        if step.sweep is Sweep.BEFORE:
            await self._service.sweep()
            recycled = await self._recycled_of_itself(lanes, now)
            for lane in lanes:
                self._met_any(lane, [], recycled.get(lane.account.account_id, []), step, now)
            await self._learn_reviews(lanes)
            await self._check_swept(lanes, step, now)
        if step.prices:
            accounts = [lane.account for lane in lanes]
            otherwise = await self._service.make_prices(accounts, now, self._market)
            _expect(not otherwise, otherwise)
        if step.takeover is not None:
            await self._service.activate(
                step.takeover.platform, step.takeover.place, step.takeover.ahead, now, self._market
            )

    async def _round(self, lanes: list[Lane], step: Round, now: datetime) -> None:
        singles: list[tuple[Lane, Asked]] = []
        pairs: list[tuple[Lane, Asked, Asked]] = []
        items: list[tuple[Lane, IssueItem]] = []
        beside = []
        for lane, operation in zip(lanes, step.operations, strict=True):
            match kind := lane.kind_of(operation):
                case Kind.NOTHING:
                    continue
                case Kind.ISSUE:
                    items.append((lane, lane.item(operation, now)))
                case Kind.CLAIM:
                    beside.append(self._claim(lane, operation, now))
                case Kind.LIST:
                    beside.append(self._list(lane, operation, now))
                case Kind.BOTH:
                    both = lane.pair(operation, now)
                    pairs.append((lane, Asked(both[0], operation.band), Asked(both[1], operation.band)))
                case _:
                    singles.append((lane, Asked(lane.command(kind, operation, now), operation.band)))
        if step.sweep is Sweep.MEANWHILE:
            beside.append(self._service.sweep())
        first = [asked.command for _, asked in singles] + [one.command for _, one, _ in pairs]
        outcomes, seconds, cards, _ = await asyncio.gather(
            self._world.engine.submit(first),
            self._second.submit([two.command for _, _, two in pairs]),
            self._world.issuer.issue([each for _, each in items]),
            asyncio.gather(*beside),
        )
        recycled = await self._recycled_of_itself(lanes, now) if step.sweep is Sweep.MEANWHILE else {}
        met: dict[str, list[tuple[Asked, Outcome]]] = {}
        for (lane, asked), outcome in zip(singles, outcomes[: len(singles)], strict=True):
            met[lane.account.account_id] = [(asked, outcome)]
            if asked.command.request_id is not None:
                lane.asked.append(asked)
        for (lane, one, two), outcome, second in zip(pairs, outcomes[len(singles) :], seconds, strict=True):
            met[lane.account.account_id] = [(one, outcome), (two, second)]
            lane.asked += [one, two]
        for lane in lanes:
            callers = met.get(lane.account.account_id, [])
            # Who is alone loses no race but those against the sweepers.
            may_lose = len(callers) > 1 or step.sweep is Sweep.MEANWHILE
            again = [await self._try_again(asked, outcome) if may_lose else outcome for asked, outcome in callers]
            tried = [(asked, outcome) for (asked, _), outcome in zip(callers, again, strict=True)]
            self._met_any(lane, tried, recycled.get(lane.account.account_id, []), step, now)
        for (lane, each), card in zip(items, cards, strict=True):
            self._met_card(lane, each, card, now)
        await self._learn_reviews(lanes)
        if step.checked:
            await self._check_invariants(lanes)

    async def _try_again(self, asked: Asked, outcome: Outcome) -> Outcome:
        """The outcome; of who lost all its races that of trying again, as it was told to."""
        if not (isinstance(outcome, Refusal) and outcome.reason == LOST):
            return outcome
        self._count(type(asked.command).__name__, outcome)
        (again,) = await self._world.engine.submit([asked.command])
        return again

    async def _recycled_of_itself(self, lanes: list[Lane], now: datetime) -> dict[str, list[tuple[Asked, Outcome]]]:
        """What the sweepers have recycled since they were looked at, by account."""
        due = {}
        for lane in lanes:
            for card in lane.account.cards.values():
                if card.platform == "netflix" and card.bound is not None and card.bound <= now:
                    request_id = own_request_id("Recycle", card.card_id, card.generation)
                    if request_id not in lane.account.answers:
                        due[request_id] = lane.account.account_id, card.card_id
        found: dict[str, list[tuple[Asked, Outcome]]] = {}
        if not due:
            return found
        for row in await self._world.owner.fetch(
            "SELECT request_id, response FROM command WHERE account_id = ANY ($1) AND request_id = ANY ($2)",
            [account_id for account_id, _ in due.values()],
            list(due),
        ):
            account_id, card_id = due[row["request_id"]]
            command = Recycle(
                request_id=row["request_id"],
                account_id=account_id,
                card_id=card_id,
                reason=RecycleReason.EXPIRED,
                automatic=True,
            )
            found.setdefault(account_id, []).append((Asked(command, "LOW"), row["response"]))
        return found

    # One outcome

    def _met(self, lane: Lane, account: Account, asked: Asked, outcome: Outcome, step: Round, now: datetime) -> None:
        """Compares one outcome with what must come out, and keeps its effects in `account`."""
        command, request_id = asked.command, asked.command.request_id
        key = (type(command), command.business_input())
        before = account.worth(now)
        if request_id is not None and request_id in account.answers:
            known, answer = account.answers[request_id]
            expected: Any = answer if known == key else "IDEMPOTENCY_KEY_REUSED"
            got: Any = outcome.reason if isinstance(outcome, Refusal) else outcome
            _expect(got == expected, f"{command!r} came again: {got!r} is not {expected!r}")
            return
        try:
            told = account.apply(command, None if step.down else asked.band, now)
        except No as no:
            got = outcome.reason if isinstance(outcome, Refusal) else "an answer"
            _expect(got == str(no), f"{command!r}: {got} instead of {no}")
            return
        _expect(
            isinstance(outcome, bytes), f"{command!r}: {outcome!r} {getattr(outcome, 'reason', '')}, not {told.says}"
        )
        assert isinstance(outcome, bytes)
        answer_type = _quote_answer() if isinstance(command, Recycle) and command.quote else ANSWERS[command.method]
        self._keep(account, told, answer_type.FromString(outcome), command)
        if request_id is not None and not command.dry_run:
            account.answers[request_id] = key, outcome
        _check_worth(account, before, now)

    def _met_any(
        self,
        lane: Lane,
        callers: Sequence[tuple[Asked, Outcome]],
        of_itself: Sequence[tuple[Asked, Outcome]],
        step: Round,
        now: datetime,
    ) -> None:
        """What several asked at once must come out as one after the other, in whichever order; so must what the service
        did meanwhile."""
        parts = [[each] for each in callers] + ([list(of_itself)] if of_itself else [])
        for asked, outcome in itertools.chain.from_iterable(parts):
            by = " of itself" if isinstance(asked.command, Recycle) and asked.command.automatic else ""
            self._count(type(asked.command).__name__ + by, outcome)
        if len(parts) < 2:
            for asked, outcome in itertools.chain.from_iterable(parts):
                self._met(lane, lane.account, asked, outcome, step, now)
            return
        problems = []
        for order in itertools.permutations(parts):
            trial = copy.deepcopy(lane.account)
            try:
                for asked, outcome in itertools.chain.from_iterable(order):
                    self._met(lane, trial, asked, outcome, step, now)
            except AssertionError as error:
                problems.append(str(error))
            else:
                lane.account = trial
                return
        raise Mismatch("no order gives all outcomes:\n" + "\n".join(problems))

    def _met_card(self, lane: Lane, asked: IssueItem, outcome: Outcome, now: datetime) -> None:
        self._count("Issue", outcome)
        account, key = lane.account, (IssueItem, asked)
        if asked.request_id in account.answers:
            _expect(outcome == account.answers[asked.request_id][1], f"{asked!r} came again: {outcome!r}")
            return
        try:
            told = account.issue(asked, now)
        except No as no:
            _expect(isinstance(outcome, Refusal) and outcome.reason == str(no), f"{asked!r}: {outcome!r}, not {no}")
            return
        _expect(isinstance(outcome, bytes), f"{asked!r}: {outcome!r}")
        assert isinstance(outcome, bytes)
        before = account.worth(now)
        self._keep(account, told, ANSWERS["IssueCards"].FromString(outcome), asked)
        account.answers[asked.request_id] = key, outcome
        lane.issued.append(asked)
        gained = account.worth(now)["money"] - before["money"]
        _expect(gained <= asked.paid_minor, f"issuing for {asked.paid_minor} gains {gained}")

    def _keep(self, account: Account, told: Told, message: Message, asked: object) -> None:
        for path, wanted in told.says.items():
            got = _read(message, path)
            _expect(got == wanted, f"{asked!r}: {path} is {got}, must be {wanted}")
        match told.made:
            case Recycling() as made:
                made.recycling_id = UUID(_read(message, "recycling.recycling_id"))
                account.recyclings[made.recycling_id] = made
            case Card() as made:
                made.card_id = UUID(_read(message, "card_id"))
                account.cards[made.card_id] = made
            case Quote() as made:
                made.token = _read(message, "quote_token")
                account.quotes.append(made)

    async def _claim(self, lane: Lane, operation: Operation, now: datetime) -> None:
        _, _, review = lane.likely(Kind.CLAIM, operation, now)
        assert review is not None
        reviewer = "anna" if operation.way % 3 else "ben"
        expected = lane.account.claim(review, reviewer, now)
        got = await self._world.reviews.claim(review.review_id, reviewer, None)
        _expect((got is not None) == expected, f"claim of {review.review_id} by {reviewer}: {got}, must be {expected}")

    async def _list(self, lane: Lane, operation: Operation, now: datetime) -> None:
        kind, way = list(ListKind)[operation.way % 3], operation.way
        account = lane.account
        if kind in account.lists and way > 11:
            until = account.lists.pop(kind)
            if until is None or now < until:
                await self._world.lists.delete(lane.entries[kind], "ops", "a test")
            return
        until = now + timedelta(hours=1) if way % 2 else None
        subject = Subject(kind=SubjectKind.ACCOUNT, key=account.account_id.encode())
        draft = EntryDraft(list=kind, subject=subject, expire_time=until, actor="ops", reason="a test")
        lane.entries[kind] = (await self._world.lists.put(draft)).entry_id
        account.lists[kind] = until

    # All that is recorded

    async def _learn_reviews(self, lanes: Iterable[Lane]) -> None:
        """The ids of new reviews, which callers are not told."""
        new = [(lane, review) for lane in lanes for review in lane.account.reviews if review.review_id is None]
        if not new:
            return
        found = await self._world.owner.fetch(
            "SELECT review_id, recycling_id, kind, create_time FROM review WHERE account_id = ANY ($1)",
            list({lane.account.account_id for lane, _ in new}),
        )
        ids = {(row["recycling_id"], row["kind"], row["create_time"]): row["review_id"] for row in found}
        for _, review in new:
            review.review_id = ids.get((review.recycling.recycling_id, review.kind, review.created))
            _expect(review.review_id is not None, f"no review was opened for {review.recycling!r}")

    async def _check_invariants(self, lanes: Iterable[Lane]) -> None:
        account_ids = [lane.account.account_id for lane in lanes]
        if account_ids and (broken := await self._scoped.broken(account_ids)):
            raise Mismatch(f"invariants do not hold: {broken}")

    async def _end(self, lanes: list[Lane], now: datetime) -> None:
        """Everything of the sequence's accounts stands as the reference has it, swept or not, and replays."""
        await self._check_stands(lanes, now)
        self._world.scorer.down = False
        now += timedelta(minutes=1)  # whatever a sweeper has reserved is free again
        await self._set_clock(now)
        await self._serve(lanes, Round(Move(None, timedelta(0)), False, (), Sweep.BEFORE), now)
        await self._check_stands(lanes, now)
        await self._check_invariants(lanes)
        if otherwise := await self._world.replayed_otherwise():
            raise Mismatch(f"decisions do not replay: {otherwise[:3]}")

    async def _check_swept(self, lanes: list[Lane], step: Round, now: datetime) -> None:
        """After a sweep the rows themselves say what time has done, but for what a sweeper has lost and left for a
        minute."""
        reserved = await unrecorded(self._world, [lane.account.account_id for lane in lanes])
        _expect(
            all(until <= now + timedelta(minutes=1) for until in reserved.values()), f"reserved too long: {reserved}"
        )
        left = {each for each, until in reserved.items() if until > now}
        for lane in lanes:
            due = [card for card in lane.account.cards.values() if lane.account.is_due(card, now)]
            undone = [card for card in due if card.card_id not in left]
            _expect(not undone, f"swept, and still to be recycled: {undone}")
        await self._check_stands(lanes, now, left)

    async def _check_stands(self, lanes: list[Lane], now: datetime, left: Container[Any] | None = None) -> None:
        """Compares all that is recorded; with `left` as the rows have it, but for those."""
        account_ids = [lane.account.account_id for lane in lanes]
        owner, recorded = self._world.owner, left is not None
        expected = {fact for lane in lanes for fact in _facts(lane.account, now)}
        found: set[tuple[Any, ...]] = set()
        for row in await owner.fetch(
            "SELECT c AS card, r AS recycling FROM card AS c LEFT JOIN recycling AS r"
            " ON r.account_id = c.account_id AND r.recycling_id = c.live_recycling_id WHERE c.account_id = ANY ($1)",
            account_ids,
        ):
            card = await self._world.store.waiting_card(row["card"], row["recycling"], None)
            if not recorded or card.card_id in (left or ()):
                card = card.at(now)
            found.add(
                ("card", card.card_id, card.state_at(now) if not recorded else card.recorded_state,
                 card.expire_time or card.activate_by_time, card.generation, card.renewals_used, card.version,
                 card.hold_until, card.bound_devices)
            )  # fmt: skip
        for row in await owner.fetch("SELECT r AS it FROM recycling AS r WHERE account_id = ANY ($1)", account_ids):
            recycling = rows.recycling(row["it"]).at(now)
            owed = recycling.compensation
            found.add(
                ("recycling", recycling.recycling_id, recycling.state, recycling.fee_minor,
                 (owed.amount, owed.unit, owed.state) if owed else None, recycling.settlement_held,
                 recycling.window_moved)
            )  # fmt: skip
        for row in await owner.fetch("SELECT v AS it FROM review AS v WHERE account_id = ANY ($1)", account_ids):
            review = rows.review(row["it"])
            if not recorded or review.review_id in (left or ()):
                review = review.at(now)
            found.add(("review", review.review_id, "OPEN" if review.state == "CLAIMED" else review.state))
        for account_id in account_ids:
            wallet = await self._world.store.wallet(account_id)
            found |= {("wallet", account_id, each.platform, each.unit, each.amount) for each in wallet.balances}
        for row in await owner.fetch("SELECT * FROM coupon WHERE account_id = ANY ($1)", account_ids):
            found.add(("coupon", row["coupon_id"], row["max_discount_minor"], row["expire_time"]))
        if recorded:
            rest = await owner.fetch(
                "SELECT coupon_id FROM coupon_open WHERE account_id = ANY ($1) AND expire_time <= $2", account_ids, now
            )
            found |= {("unswept", row["coupon_id"]) for row in rest if row["coupon_id"] not in (left or ())}
        told = await owner.fetch("SELECT recycling_id FROM outcome WHERE account_id = ANY ($1)", account_ids)
        found |= {("charged back", row["recycling_id"]) for row in told}
        _expect(found == expected, f"recorded, not expected: {found - expected}; the other way: {expected - found}")

    def _count(self, what: str, outcome: Outcome) -> None:
        name = f"{what} {outcome.reason if isinstance(outcome, Refusal) else 'answered'}"
        self.outcomes[name] = self.outcomes.get(name, 0) + 1


def _facts(account: Account, now: datetime) -> Iterable[tuple[Any, ...]]:
    account.pass_time(now)
    for card in account.cards.values():
        yield ("card", card.card_id, card.state_at(now), card.bound, card.generation, card.renewals, card.version,
               card.hold.until if card.hold else None, tuple(card.devices))  # fmt: skip
    for each in account.recyclings.values():
        owed = (each.amount, each.unit, each.owed) if each.amount else None
        yield ("recycling", each.recycling_id, each.state, each.fee, owed, each.settlement_held, each.moved)
        if each.charged_back:
            yield ("charged back", each.recycling_id)
    yield from (("review", review.review_id, review.state) for review in account.reviews)
    held = account.wallet + Counter({("netflix", "COUPON"): sum(each.has_coupon(now) for each in account.coupons)})
    yield from (("wallet", account.account_id, *key, amount) for key, amount in held.items() if amount)
    yield from (("coupon", each.recycling_id, each.cap, each.coupon_until) for each in account.coupons)


def _check_worth(account: Account, before: dict[str, Fraction], now: datetime) -> None:
    """No money pump: no call, and no waiting, is worth anything."""
    after = account.worth(now)
    _expect(all(after[kind] <= before[kind] for kind in after), f"worth rises from {before} to {after}")


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Mismatch(otherwise)


def _recent(found: Sequence[Any], place: int) -> Any:
    return found[-1 - place % len(found)]


def _quote_answer() -> type[Message]:
    from card_recycling.v1.recycling_service_pb2 import QuoteRecycleResponse

    return QuoteRecycleResponse


def _read(message: Any, path: str) -> Any:
    """A field by its path: enums by their names, times as such, None where there is no time."""
    *parents, name = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
    field, value = message.DESCRIPTOR.fields_by_name[name], getattr(message, name)
    if field.message_type is not None:
        return value.ToDatetime(tzinfo=UTC) if message.HasField(name) else None
    return field.enum_type.values_by_number[value].name if field.enum_type is not None else value
