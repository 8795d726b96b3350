"""Plays a sequence against the real engine and database, and compares each step with the reference.

Real are engine, issuer, store, statements and Postgres. Only the scorer, at the engine's own port, is told what to say:
a band a request, or nothing at all. What is tried here is the life of cards, not how well a model judges.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from google.protobuf.message import Message

from server.domain.card import VoidReason
from server.domain.commands import (
    Activate,
    Circumstances,
    Command,
    Compensate,
    IssueItem,
    Lapse,
    Reactivate,
    Recycle,
    Resolve,
    Void,
)
from server.domain.errors import Refusal
from server.domain.lists import EntryDraft, ListKind, Subject, SubjectKind
from server.domain.recycling import RecycleReason, Unit
from server.domain.review import ReviewVerdict
from server.engine.queue import Outcome
from server.replay.decision import ANSWERS
from server.store import rows
from tests.integration.world import START, World, item
from tests.property import reference
from tests.property.operations import AT, Kind, Move, Operation, Round
from tests.property.reference import Account, Card, No, Quote, Recycling, Review, Told
from tests.property.scoped import ScopedInvariants

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
            "circumstances": Circumstances(signals=SIGNALS[operation.band]),
        }
        card, recycling, review = self.likely(kind, operation, now)
        card_id, recycling_id = self._named(card.card_id, way, "cards"), None
        if recycling is not None:
            recycling_id = self._named(recycling.recycling_id, way, "recyclings")
        match kind:
            case Kind.ACTIVATE:
                return Activate(**usual, card_id=card_id, etag=self._etag(card, way))
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
            return card.taken_by is None and card.state_at(now) in (
                {"ISSUED"} if kind is Kind.ACTIVATE else reference.TAKES[card.platform]
            )

        return (
            choose(account.cards.values(), takes),
            choose(account.recyclings.values(), lambda each: each.state == "APPROVED"),
            choose(account.reviews, lambda each: each.state == "OPEN"),
        )

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
        unit = Unit(reference.UNITS[card.platform]) if way == 17 else Unit.COUPON if way == 18 else None
        return {"reason": RecycleReason.EXPIRED if way == 19 else reason, "unit": unit}

    def _again(self, operation: Operation) -> Command:
        """An earlier request id: with the same input from elsewhere, or with another."""
        earlier: Command = _recent(self.asked, operation.place).command
        if operation.way % 3:
            return replace(earlier, circumstances=Circumstances(signals=SIGNALS[operation.band]))
        return Void(
            request_id=earlier.request_id,
            account_id=self.account.account_id,
            card_id=_recent([*self.account.cards.values()], operation.place).card_id,
            reason=VoidReason.REVOKED,
        )


class Player:
    """Plays sequences in one world, one after the other, each with accounts of its own."""

    def __init__(self, world: World, scoped: ScopedInvariants) -> None:
        self._world = world
        self._scoped = scoped
        self._second = world.another_engine()
        self._names = itertools.count(1)
        self.latest = START
        self.outcomes: dict[str, int] = {}
        """How often each kind of outcome was met."""

    async def play(self, sequence: Sequence[Round]) -> None:
        """Raises Mismatch where the service and the reference part, or an invariant does not hold."""
        lanes: list[Lane] = []
        for _ in sequence[0].operations:
            lanes.append(Lane(Account(f"lives-{uuid.getnode():x}-{next(self._names)}"), lanes, [], [], {}))
        now = START
        await self._set_clock(now)
        for number, step in enumerate(sequence):
            if not step.does_something:
                continue
            try:
                now = await self._move(lanes, step.move, now)
                await self._round(lanes, step, now)
            except AssertionError as error:
                error.add_note(f"in round {number} at {now.isoformat()}")
                raise
        await self._end(lanes, now)

    async def _set_clock(self, now: datetime) -> None:
        """Back, too, which no service can: each sequence begins at the same moment, so that it can be played alone."""
        await self._world.owner.execute("UPDATE backtest_clock SET shifted_time = $1", now)
        self.latest = max(self.latest, now)

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
            ahead = sorted(each for each in ahead if each[2] == move.of) or sorted(ahead)
            if ahead:
                moment, number, what = ahead[move.place % len(ahead)]
                lanes[number].boundary = what
                later = max(now, moment + move.offset)
        if later > now:
            await self._set_clock(later)
        for lane in lanes:
            before = lane.account.worth(now)
            lane.account.pass_time(later)
            _check_worth(lane.account, before, later)
        return later

    async def _round(self, lanes: list[Lane], step: Round, now: datetime) -> None:
        self._world.scorer.down = step.down
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
        first = [asked.command for _, asked in singles] + [one.command for _, one, _ in pairs]
        outcomes, seconds, cards, _ = await asyncio.gather(
            self._world.engine.submit(first),
            self._second.submit([two.command for _, _, two in pairs]),
            self._world.issuer.issue([each for _, each in items]),
            asyncio.gather(*beside),
        )
        for (lane, asked), outcome in zip(singles, outcomes[: len(singles)], strict=True):
            self._met(lane, lane.account, asked, outcome, step, now)
            if asked.command.request_id is not None:
                lane.asked.append(asked)
        for (lane, one, two), outcome, second in zip(pairs, outcomes[len(singles) :], seconds, strict=True):
            self._met_both(lane, (one, outcome), (two, second), step, now)
        for (lane, each), card in zip(items, cards, strict=True):
            self._met_card(lane, each, card, now)
        touched = [lane for lane, each in zip(lanes, step.operations, strict=True) if each.kind is not Kind.NOTHING]
        await self._learn_reviews(touched)
        await self._check_invariants(touched)

    # One outcome

    def _met(self, lane: Lane, account: Account, asked: Asked, outcome: Outcome, step: Round, now: datetime) -> None:
        """Compares one outcome with what must come out, and keeps its effects in `account`."""
        command, request_id = asked.command, asked.command.request_id
        self._count(type(command).__name__, outcome)
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

    def _met_both(
        self, lane: Lane, one: tuple[Asked, Outcome], two: tuple[Asked, Outcome], step: Round, now: datetime
    ) -> None:
        """Two at once must come out as one after the other; the loser of both its races may be told to try again."""
        problems = []
        for order in ((one, two), (two, one)):
            trial = copy.deepcopy(lane.account)
            try:
                for asked, outcome in order:
                    if not (isinstance(outcome, Refusal) and outcome.reason == LOST):
                        self._met(lane, trial, asked, outcome, step, now)
            except AssertionError as error:
                problems.append(str(error))
            else:
                lane.account = trial
                lane.asked += [one[0], two[0]]
                return
        raise Mismatch("neither order gives both outcomes:\n" + "\n".join(problems))

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
        """Everything of the sequence's accounts stands as the reference has it."""
        await self._check_invariants(lanes)
        account_ids = [lane.account.account_id for lane in lanes]
        owner = self._world.owner
        expected = {fact for lane in lanes for fact in _facts(lane.account, now)}
        found: set[tuple[Any, ...]] = set()
        for row in await owner.fetch("SELECT c AS card FROM card AS c WHERE account_id = ANY ($1)", account_ids):
            card = rows.card(row["card"], None).at(now)
            found.add(
                ("card", card.card_id, card.state_at(now), card.expire_time or card.activate_by_time, card.generation,
                 card.renewals_used, card.version, card.hold_until)
            )  # fmt: skip
        for row in await owner.fetch("SELECT r AS it FROM recycling AS r WHERE account_id = ANY ($1)", account_ids):
            recycling = rows.recycling(row["it"]).at(now)
            owed = recycling.compensation
            found.add(
                ("recycling", recycling.recycling_id, recycling.state, recycling.fee_minor, owed.amount if owed else 0,
                 owed.state if owed else "", recycling.settlement_held, recycling.window_moved)
            )  # fmt: skip
        for row in await owner.fetch("SELECT v AS it FROM review AS v WHERE account_id = ANY ($1)", account_ids):
            review = rows.review(row["it"]).at(now)
            found.add(("review", review.review_id, "OPEN" if review.state == "CLAIMED" else review.state))
        for row in await owner.fetch("SELECT * FROM wallet_balance WHERE account_id = ANY ($1)", account_ids):
            found |= {("wallet", row["account_id"], row["unit"], row["amount"])} if row["amount"] else set()
        for row in await owner.fetch("SELECT * FROM coupon WHERE account_id = ANY ($1)", account_ids):
            found.add(("coupon", row["coupon_id"], row["max_discount_minor"]))
        _expect(found == expected, f"recorded, not expected: {found - expected}; the other way: {expected - found}")

    def _count(self, what: str, outcome: Outcome) -> None:
        name = f"{what} {outcome.reason if isinstance(outcome, Refusal) else 'answered'}"
        self.outcomes[name] = self.outcomes.get(name, 0) + 1


def _facts(account: Account, now: datetime) -> Iterable[tuple[Any, ...]]:
    account.pass_time(now)
    for card in account.cards.values():
        yield ("card", card.card_id, card.state_at(now), card.bound, card.generation, card.renewals, card.version,
               card.hold.until if card.hold else None)  # fmt: skip
    for each in account.recyclings.values():
        yield ("recycling", each.recycling_id, each.state, each.fee, each.amount, each.owed, each.settlement_held,
               each.moved)  # fmt: skip
    yield from (("review", review.review_id, review.state) for review in account.reviews)
    yield from (("wallet", account.account_id, unit, amount) for unit, amount in account.wallet.items() if amount)
    yield from (("coupon", coupon_id, cap) for coupon_id, cap in account.coupons.items())


def _check_worth(account: Account, before: dict[str, int], now: datetime) -> None:
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
