"""Plays a sequence against the real engine and database, and compares each step with the reference.

Real are engine, issuer, store, statements and Postgres. Only the scorer, at the engine's own port, is told what to say:
a band a request, or nothing at all. What is tried here is the life of cards, not how well a model judges.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from google.protobuf.message import Message

from server.domain.commands import Command, Grant, IssueItem, Recycle, own_request_id
from server.domain.errors import Refusal
from server.domain.lists import EntryDraft, ListKind, Subject, SubjectKind
from server.domain.recycling import RecycleReason
from server.engine.engine import Engine
from server.engine.queue import Outcome
from server.replay.decision import ANSWERS
from tests.integration.world import LOTTERY, START, World
from tests.property.holdings import Card, No, Quote, Recycling, Redemption, Told
from tests.property.lane import Asked, Lane
from tests.property.market import Market
from tests.property.operations import Kind, Move, Operation, Round, Sweep
from tests.property.records import Replays, expected_facts, recorded_facts
from tests.property.reference import Account, Judged
from tests.property.scoped import ScopedInvariants
from tests.property.service import Service, unrecorded
from tests.property.wallets import BEST_WORTH, WORTH

LOST = "CONFLICT_RETRY"
ANSWERED = "answered"
REPLAY_EVERY = 4
"""Of so many sequences one has all its decisions replayed: it takes as long as a tenth of playing them."""
Part = Sequence[tuple[Asked | IssueItem, Outcome]]
"""What one of several who act at once has asked, one after the other, and was answered."""


class Mismatch(AssertionError):
    """The service did not do what the reference says."""


class Player:
    """Plays sequences in one world, one after the other, each with accounts of its own. Build it with `open`."""

    def __init__(
        self, world: World, scoped: ScopedInvariants, replays: Replays, second: Engine, service: Service
    ) -> None:
        self._world = world
        self._scoped = scoped
        self._replays = replays
        self._second = second
        self._service = service
        self._market = Market()
        self._replayed = 0
        self.outcomes = Counter[tuple[str, str]]()
        """Of the sequence: how often each kind of command had each outcome, a reason or ANSWERED."""
        self.operations = Counter[str]()
        """Of the sequence: how often accounts did what."""

    @classmethod
    async def open(cls, world: World) -> Player:
        """In a new world, which nothing else uses."""
        second = world.another_engine()
        service = await Service.open(world, (world.engine, second))
        scoped, replays = await ScopedInvariants.open(world.owner_url), await Replays.open(world.server_url)
        return cls(world, scoped, replays, second, service)

    async def close(self) -> None:
        """Ends the work and closes the world."""
        await self._second.drain()
        await self._scoped.close()
        await self._replays.close()
        await self._world.close()

    async def play(self, sequence: Sequence[Round]) -> None:
        """Raises Mismatch where the service and the reference part, or an invariant does not hold. Afterwards the
        database is as the sequence has left it."""
        self.outcomes, self.operations = Counter(), Counter()
        await self._service.begin()
        lanes: list[Lane] = []
        self._market = Market()
        for number in range(len(sequence[0].operations)):
            # The same in every sequence, so that what is drawn by an account's name is the same again.
            account = Account(f"lives-{number}", self._market)
            lanes.append(Lane(account, lanes, [], [], {}))
        now = START
        await self._set_clock(now)
        for number, step in enumerate(sequence):
            if not step.does_something:
                continue
            try:
                now = await self._move(lanes, step.move, now)
                at_boundary = [lane for lane in lanes if lane.boundary]
                if len(at_boundary) == 1:  # readers see at once what nobody has recorded; of all accounts it takes long
                    await self._check_stands(at_boundary, now)
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
                self._met_any(lane, [recycled.get(lane.account.account_id, [])], step, now)
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
        active, touched = set[str](), set[str]()
        singles: list[tuple[Lane, Asked]] = []
        pairs: list[tuple[Lane, Asked, Asked]] = []
        items: list[tuple[Lane, IssueItem]] = []
        beside = []
        for lane, operation in zip(lanes, step.operations, strict=True):
            kind = lane.kind_of(operation, now)
            if kind is not Kind.NOTHING:
                active.add(lane.account.account_id)
            if kind in (Kind.CLAIM, Kind.LIST):
                touched.add(lane.account.account_id)
            self.operations[kind] += 1
            match kind:
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
        issued: dict[str, Part] = {}
        for (lane, each), card in zip(items, cards, strict=True):
            issued[lane.account.account_id] = [(each, card)]
            if isinstance(card, bytes):
                lane.issued.append(each)
        for lane in lanes:
            account_id = lane.account.account_id
            callers = met.get(account_id, [])
            # Who is alone loses no race but those against the sweepers.
            may_lose = len(callers) > 1 or step.sweep is Sweep.MEANWHILE
            parts: list[Part] = [
                [(asked, await self._try_again(asked, outcome) if may_lose else outcome)] for asked, outcome in callers
            ]
            parts += [issued.get(account_id, []), recycled.get(account_id, [])]
            if any(isinstance(outcome, bytes) for part in parts for _, outcome in part):
                touched.add(account_id)
            self._met_any(lane, parts, step, now)
        await self._learn_reviews(lanes)
        # What time has done may be recorded before a refusal, or by sweepers of any account.
        every = active if step.sweep is Sweep.NEVER else {lane.account.account_id for lane in lanes}
        if every and (broken := await self._scoped.broken(every, touched)):
            raise Mismatch(f"invariants do not hold: {broken}")

    async def _try_again(self, asked: Asked, outcome: Outcome) -> Outcome:
        """The outcome; of who lost all its races that of trying again, as it was told to."""
        if not (isinstance(outcome, Refusal) and outcome.reason == LOST):
            return outcome
        self._count(asked, outcome)
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

    def _met(self, account: Account, asked: Asked | IssueItem, outcome: Outcome, step: Round, now: datetime) -> None:
        """Compares one outcome with what must come out, and keeps its effects in `account`."""
        before = account.worth(now)
        if isinstance(asked, IssueItem):
            self._met_card(account, asked, outcome, now)
            _check_worth(account, before, now, price_of(asked))
            return
        command, request_id = asked.command, asked.command.request_id
        key = (type(command), command.business_input())
        if request_id is not None and request_id in account.answers:
            known, answer = account.answers[request_id]
            expected: Any = answer if known == key else "IDEMPOTENCY_KEY_REUSED"
            got: Any = outcome.reason if isinstance(outcome, Refusal) else outcome
            _expect(got == expected, f"{command!r} came again: {got!r} is not {expected!r}")
            return
        lot = LOTTERY.lot(account.account_id, command.circumstances.device_hash, now) if command.scored else None
        try:
            told = account.apply(command, Judged(None if step.down else asked.band, lot), now)
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
        _check_worth(account, before, now, granted_by(command, account))

    def _met_any(self, lane: Lane, parts: Iterable[Part], step: Round, now: datetime) -> None:
        """What several asked at once must come out as one after the other, in whichever order; so must what the service
        did meanwhile. Only what caps count may one of them not have seen of the others."""
        every = [part for part in parts if part]
        for asked, outcome in itertools.chain.from_iterable(every):
            self._count(asked, outcome)
        if len(every) < 2:
            for asked, outcome in itertools.chain.from_iterable(every):
                self._met(lane.account, asked, outcome, step, now)
            return
        problems, known = [], len(lane.account.deeds)
        for sees in itertools.product((None, known), repeat=len(every)):
            for order in itertools.permutations(zip(every, sees, strict=True)):
                trial = copy.deepcopy(lane.account)
                try:
                    for part, trial.seen in order:
                        for asked, outcome in part:
                            self._met(trial, asked, outcome, step, now)
                except AssertionError as error:
                    problems.append(str(error))
                else:
                    trial.seen = None
                    lane.account = trial
                    return
        raise Mismatch("no order gives all outcomes:\n" + "\n".join(dict.fromkeys(problems)))

    def _met_card(self, account: Account, asked: IssueItem, outcome: Outcome, now: datetime) -> None:
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
        self._keep(account, told, ANSWERS["IssueCards"].FromString(outcome), asked)
        account.answers[asked.request_id] = (IssueItem, asked), outcome

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
            case Redemption() as made:
                made.redemption_id = UUID(_read(message, "redemption.redemption_id"))
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

    async def _end(self, lanes: list[Lane], now: datetime) -> None:
        """Everything of the sequence's accounts stands as the reference has it, swept or not, and replays."""
        await self._check_stands(lanes, now)
        self._world.scorer.down = False
        now += timedelta(minutes=1)  # whatever a sweeper has reserved is free again
        await self._set_clock(now)
        await self._serve(lanes, Round(Move(None, timedelta(0)), False, (), Sweep.BEFORE), now)
        await self._check_stands(lanes, now)
        if broken := await self._scoped.broken_anywhere():
            raise Mismatch(f"invariants do not hold in the whole database: {broken}")
        if self._replayed % REPLAY_EVERY == 0 and (otherwise := [each async for each in self._replays.otherwise()]):
            raise Mismatch(f"decisions do not replay: {otherwise[:3]}")
        self._replayed += 1

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
        expected = {fact for lane in lanes for fact in expected_facts(lane.account, now)}
        found = await recorded_facts(self._world, [lane.account.account_id for lane in lanes], now, left)
        _expect(found == expected, f"recorded, not expected: {found - expected}; the other way: {expected - found}")

    def _count(self, asked: Asked | IssueItem, outcome: Outcome) -> None:
        what = "Issue" if isinstance(asked, IssueItem) else type(asked.command).__name__
        if isinstance(asked, Asked) and isinstance(asked.command, Recycle):
            what = "Recycle of itself" if asked.command.automatic else "Quote" if asked.command.quote else what
        self.outcomes[what, outcome.reason if isinstance(outcome, Refusal) else ANSWERED] += 1


def granted_by(command: Command, account: Account) -> int:
    """What may be gained by it: what care gives."""
    if not isinstance(command, Grant) or command.dry_run or command.recycling_id is None:
        return 0
    return command.amount * BEST_WORTH[account.recyclings[command.recycling_id].platform, str(command.unit)]


def price_of(asked: IssueItem) -> int:
    """What may be gained by a card: what it costs, and the promotion that its row records, where that counts."""
    return WORTH * (asked.face_value_minor if asked.platform == "tencent" else asked.paid_minor)


def _check_worth(account: Account, before: int, now: datetime, given: int = 0) -> None:
    """No money pump: no call, and no waiting, is worth anything but what is given."""
    after = account.worth(now)
    _expect(after <= before + given, f"worth rises from {before} to {after}, by more than {given}")


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Mismatch(otherwise)


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
