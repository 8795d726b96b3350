"""The demo's story: a hundred days of honest owners, a device farm and a scripted burst, through the public API.

Knows who does what and when; must not know what is promised of it (`demo`), nor how the service decides. People, phones
and scripts are drawn from the simulated world, under a seed that no model was trained on.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from card_recycling.v1 import card_service_pb2, recycling_service_pb2, types_pb2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from clients.python.client import RecyclingClient
from clients.python.errors import RecyclingError
from fraud_worker.simulation.events import Behavior, Device
from fraud_worker.simulation.world import World

START = datetime(2026, 3, 1, tzinfo=UTC)
HONEST_OWNERS = 1000
FARM_ACCOUNTS = 200
BURST_ACCOUNTS = 150

_REASONS = {
    "iqiyi": types_pb2.RECYCLE_REASON_VOLUNTARY,
    "tencent": types_pb2.RECYCLE_REASON_SYSTEM_ANOMALY,
    "netflix": types_pb2.RECYCLE_REASON_EXPIRED,
}
_DAY = timedelta(days=1)

Act: TypeAlias = Callable[[datetime], Awaitable[None]]


@dataclass(slots=True, kw_only=True)
class Person:
    """Somebody with an account, a card and a device."""

    group: str
    account_id: str
    platform: str
    device: types_pb2.Device
    behave: Callable[[], Behavior]
    paid_minor: int
    card_id: str = ""
    recycling: types_pb2.Recycling | None = None


@dataclass(slots=True)
class Tally:
    """What came of all that was asked."""

    decisions: list[tuple[str, str, types_pb2.Recycling]] = field(default_factory=list)  # group, platform, answer
    farm_after_second: list[bool] = field(default_factory=list)  # whether refused or held
    reactivated: int = 0
    reactivations_refused: int = 0
    clawed_back: int = 0
    settled: int = 0
    settlements_held: int = 0
    retries: int = 0
    retries_unlike: int = 0
    errors: Counter[str] = field(default_factory=Counter)


class Story:
    """Plans what everybody does, and does it in the order of time."""

    def __init__(self, client: RecyclingClient, seed: int) -> None:
        self._client = client
        self._world = World(seed)
        self._random = random.Random(seed)  # noqa: S311 - a story, not a secret
        self._agenda: list[tuple[datetime, int, Act]] = []
        self._order = itertools.count()
        self.tally = Tally()
        self.people: list[Person] = []

    def _at(self, moment: datetime, act: Act) -> None:
        heapq.heappush(self._agenda, (moment, next(self._order), act))

    async def run(self, console: Console) -> None:
        """Plays everything, and shows how far it is: a bar on a terminal, elsewhere a line each tenth."""
        self._plan_honest()
        self._plan_farm()
        self._plan_burst()
        total = len(self._agenda)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("playing", total=total)
            for done in range(1, total + 1):
                moment, _, act = heapq.heappop(self._agenda)
                self._client.backtest_time = moment
                try:
                    await act(moment)
                except RecyclingError as error:
                    self.tally.errors[error.reason or error.code.name] += 1
                progress.update(task, completed=done, description=f"{moment:%d %B}")
                if not console.is_terminal and done * 10 // total > (done - 1) * 10 // total:
                    console.print(f"{moment:%d %B}: {done} of {total}")

    # Who does what

    def _plan_honest(self) -> None:
        rng, world = self._random, self._world
        people = [
            Person(
                group="honest owners",
                account_id=world.new_id("owner"),
                platform=rng.choices(tuple(_REASONS), (6, 2, 2))[0],
                device=_device(world.phone(), world.home_address()),
                behave=world.human if rng.random() < 0.85 else world.quick,
                paid_minor=max(100, world.price()),
            )
            for _ in range(HONEST_OWNERS)
        ]
        for chunk in _chunks(people, 500):
            self._at(START, self._issue(chunk))
        for person in people:
            activated = START + rng.random() * 3 * _DAY
            recycled = activated + rng.uniform(0.01, 25) * _DAY
            if person.platform == "netflix":
                recycled = activated + rng.uniform(60.1, 90) * _DAY
            if person.platform == "netflix" or rng.random() < 0.7:
                self._at(activated, self._activate(person))
            self._at(recycled, self._recycle(person))
            if rng.random() < 0.1:
                self._at(recycled + timedelta(seconds=rng.uniform(1, 30)), self._recycle(person, again=True))
            if rng.random() < 0.6:
                self._at(recycled + rng.uniform(0.01, 3) * _DAY, self._compensate(person))
            if person.platform != "netflix" and rng.random() < 0.15:
                self._at(recycled + rng.uniform(0.1, 60) * _DAY, self._reactivate(person))

    def _plan_farm(self) -> None:
        """One device, 200 new accounts, one to three minutes apart."""
        world, rng = self._world, self._random
        device = _device(world.phone(), world.new_address())
        people = [
            Person(
                group="device farm",
                account_id=world.new_id("farm"),
                platform="iqiyi",
                device=device,
                behave=world.human,
                paid_minor=2999,
            )
            for _ in range(FARM_ACCOUNTS)
        ]
        moment = START + 10 * _DAY
        self._at(moment, self._issue(people))
        for number, person in enumerate(people):
            moment += timedelta(seconds=rng.uniform(60, 180))
            self._at(moment, self._recycle(person, counts=number >= 2))

    def _plan_burst(self) -> None:
        """A script on many emulators and addresses, within ten minutes."""
        world, rng = self._world, self._random
        like, script = world.rare_phone(), world.script()
        ranges = [world.new_range() for _ in range(3)]
        people = []
        for _ in range(BURST_ACCOUNTS):
            device = _device(world.same_phone(like), world.new_address(ranges))
            device.emulator = rng.random() < 0.8
            people.append(
                Person(
                    group="scripted burst",
                    account_id=world.new_id("burst"),
                    platform="iqiyi",
                    device=device,
                    behave=script,
                    paid_minor=1990,
                )
            )
        moment = START + 12 * _DAY
        self._at(moment, self._issue(people))
        for person in people:
            moment += timedelta(seconds=rng.uniform(1, 7))
            self._at(moment, self._recycle(person))

    # What they do

    def _issue(self, people: Sequence[Person]) -> Act:
        async def act(_: datetime) -> None:
            items = [
                card_service_pb2.IssueCardsRequest.Item(
                    account_id=person.account_id,
                    platform=person.platform,
                    tier=types_pb2.TIER_BASIC,
                    face_value_minor=person.paid_minor,
                    paid_minor=person.paid_minor,
                    currency="CNY",
                    duration_days=30,
                )
                for person in people
            ]
            answer = await self._client.issue_cards(card_service_pb2.IssueCardsRequest(items=items))
            for person, result in zip(people, answer.results, strict=True):
                person.card_id = result.card.card_id
                self.people.append(person)

        return act

    def _activate(self, person: Person) -> Act:
        async def act(_: datetime) -> None:
            await self._client.activate_card(
                card_service_pb2.ActivateCardRequest(
                    account_id=person.account_id, card_id=person.card_id, device=person.device
                )
            )

        return act

    def _recycle(self, person: Person, *, again: bool = False, counts: bool = False) -> Act:
        async def act(_: datetime) -> None:
            request = recycling_service_pb2.RecycleRequest(
                request_id=person.recycling.request_id if again and person.recycling else "",
                account_id=person.account_id,
                card_id=person.card_id,
                reason=_REASONS[person.platform],
                device=person.device,
                behavior=_behavior(person.behave()),
            )
            recycling = (await self._client.recycle(request)).recycling
            if again:
                self.tally.retries += 1
                self.tally.retries_unlike += recycling != person.recycling
                return
            person.recycling = recycling
            self.tally.decisions.append((person.group, person.platform, recycling))
            if counts:
                self.tally.farm_after_second.append(recycling.state != types_pb2.RECYCLING_STATE_APPROVED)

        return act

    def _compensate(self, person: Person) -> Act:
        async def act(_: datetime) -> None:
            recycling = person.recycling
            if recycling is None or recycling.state != types_pb2.RECYCLING_STATE_APPROVED:
                return
            if not recycling.HasField("compensation") or recycling.settlement_held or recycling.decision.explored:
                return
            request = recycling_service_pb2.CompensateRequest(
                account_id=person.account_id, recycling_id=recycling.recycling_id
            )
            try:
                answer = await self._client.compensate(request)
            except RecyclingError as error:
                if error.reason != "SETTLEMENT_NOT_DUE":
                    raise
                # What risk may not refuse is approved, and its settlement held, where the score is suspicious.
                self.tally.settlements_held += 1
                return
            self.tally.settled += answer.recycling.compensation.state == types_pb2.COMPENSATION_STATE_SETTLED

        return act

    def _reactivate(self, person: Person) -> Act:
        async def act(_: datetime) -> None:
            recycling = person.recycling
            if recycling is None or recycling.state != types_pb2.RECYCLING_STATE_APPROVED:
                return
            answer = await self._client.reactivate(
                recycling_service_pb2.ReactivateRequest(
                    account_id=person.account_id,
                    recycling_id=recycling.recycling_id,
                    device=person.device,
                    behavior=_behavior(person.behave()),
                )
            )
            if answer.state != recycling_service_pb2.REACTIVATION_STATE_APPROVED:
                self.tally.reactivations_refused += 1
                return
            person.recycling = answer.recycling
            self.tally.reactivated += 1
            compensation = answer.recycling.compensation
            self.tally.clawed_back += compensation.state == types_pb2.COMPENSATION_STATE_CLAWED_BACK

        return act


def _device(device: Device, ip: str) -> types_pb2.Device:
    known = {
        name: value for name, value in device._asdict().items() if name in types_pb2.Device.DESCRIPTOR.fields_by_name
    }
    return types_pb2.Device(ip=ip, **known)


def _behavior(behavior: Behavior) -> types_pb2.Behavior:
    measured = types_pb2.Behavior.DESCRIPTOR.fields_by_name
    return types_pb2.Behavior(**{name: value for name, value in behavior._asdict().items() if name in measured})


def _chunks(people: list[Person], size: int) -> list[list[Person]]:
    return [people[start : start + size] for start in range(0, len(people), size)]
