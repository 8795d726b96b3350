"""The demo's story: a hundred days of honest owners, a device farm and a scripted burst, through the public API.

Knows who does what and when, and what the service promises of it; must not know how the service decides. People, phones
and scripts are drawn from the simulated world, under a seed that no model was trained on.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from card_recycling.v1 import card_service_pb2, recycling_service_pb2, types_pb2, wallet_service_pb2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from clients.python.client import RecyclingClient, RecyclingError
from fraud_worker.simulated_world import Behavior, Device, World
from local.stack import Stack
from migrations.invariants import InvariantResult, check_invariants

START = datetime(2026, 3, 1, tzinfo=UTC)
HONEST_OWNERS = 1000
FARM_ACCOUNTS = 200
BURST_ACCOUNTS = 150
FARM_REFUSED_MIN = 0.95
HONEST_REFUSED_MAX = 0.02
BURST_REFUSED_MIN = 0.80
WIDTH_IN_FILES = 150

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
    farm_after_second: list[bool] = field(default_factory=list)  # whether refused
    reactivated: int = 0
    reactivations_refused: int = 0
    clawed_back: int = 0
    settled: int = 0
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
                self.tally.farm_after_second.append(recycling.state == types_pb2.RECYCLING_STATE_REJECTED)

        return act

    def _compensate(self, person: Person) -> Act:
        async def act(_: datetime) -> None:
            recycling = person.recycling
            if recycling is None or recycling.state != types_pb2.RECYCLING_STATE_APPROVED:
                return
            if not recycling.HasField("compensation"):
                return
            answer = await self._client.compensate(
                recycling_service_pb2.CompensateRequest(
                    account_id=person.account_id, recycling_id=recycling.recycling_id
                )
            )
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
            if answer.state == recycling_service_pb2.REACTIVATION_STATE_REJECTED:
                self.tally.reactivations_refused += 1
                return
            person.recycling = answer.recycling
            self.tally.reactivated += 1
            compensation = answer.recycling.compensation
            self.tally.clawed_back += compensation.state == types_pb2.COMPENSATION_STATE_CLAWED_BACK

        return act


def _device(device: Device, ip: str) -> types_pb2.Device:
    known = {name: getattr(device, name) for name in Device.__dataclass_fields__}
    return types_pb2.Device(ip=ip, **known)


def _behavior(behavior: Behavior) -> types_pb2.Behavior:
    return types_pb2.Behavior(**{name: getattr(behavior, name) for name in Behavior.__dataclass_fields__})


def _chunks(people: list[Person], size: int) -> list[list[Person]]:
    return [people[start : start + size] for start in range(0, len(people), size)]


# What is shown


def tell(stack: Stack, seed: int) -> bool:
    """Plays the story against `stack`, shows it, and returns whether everything promised held."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_IN_FILES)
    return asyncio.run(_tell(stack, seed, console))


async def _tell(stack: Stack, seed: int, console: Console) -> bool:
    async with RecyclingClient(stack.address, timeout_s=20) as client:
        story = Story(client, seed)
        await story.run(console)
        console.print(_decisions_table(story.tally), _examples_table(story.tally))
        console.print(await _wallets_table(client, story.people))
    invariants = await check_invariants(stack.database_url)
    console.print(_invariants_table(invariants))
    promises = _promises(story.tally, invariants)
    table = Table(title="What the demo promises", title_justify="left")
    for heading in ("", "promise", "measured"):
        table.add_column(heading)
    for kept, promise, measured in promises:
        table.add_row("[green]kept[/]" if kept else "[bold red]BROKEN[/]", promise, measured)
    console.print(table)
    return all(kept for kept, _, _ in promises)


def _promises(tally: Tally, invariants: Sequence[InvariantResult]) -> list[tuple[bool, str, str]]:
    honest = [
        recycling.state == types_pb2.RECYCLING_STATE_REJECTED
        for group, _, recycling in tally.decisions
        if group == "honest owners"
    ]
    honest_refused = sum(honest) + tally.reactivations_refused
    honest_requests = len(honest) + tally.reactivations_refused + tally.reactivated
    burst = [
        recycling.state == types_pb2.RECYCLING_STATE_REJECTED
        for group, _, recycling in tally.decisions
        if group == "scripted burst"
    ]
    farm_share = _share(sum(tally.farm_after_second), len(tally.farm_after_second))
    honest_share = _share(honest_refused, honest_requests)
    violated = [result.name for result in invariants if result.violations]
    return [
        (
            farm_share >= FARM_REFUSED_MIN,
            f"of the farm's requests after its second account at least {FARM_REFUSED_MIN:.0%} are refused",
            f"{farm_share:.1%} of {len(tally.farm_after_second)}",
        ),
        (
            _share(sum(burst), len(burst)) >= BURST_REFUSED_MIN,
            f"of the scripted burst's requests at least {BURST_REFUSED_MIN:.0%} are refused",
            f"{_share(sum(burst), len(burst)):.1%} of {len(burst)}",
        ),
        (
            len(honest) == HONEST_OWNERS and honest_share <= HONEST_REFUSED_MAX,
            f"of the honest owners' requests at most {HONEST_REFUSED_MAX:.0%} are refused",
            f"{honest_share:.1%} of {honest_requests}",
        ),
        (
            tally.retries > 0 and not tally.retries_unlike,
            "a request sent again with the same request_id gets the same answer",
            f"{tally.retries - tally.retries_unlike} of {tally.retries}",
        ),
        (
            tally.reactivated > 0 and tally.clawed_back > 0 and tally.settled > 0,
            "compensation settles; a card given back takes it along",
            f"{tally.settled} settled, {tally.reactivated} reactivated, {tally.clawed_back} clawed back",
        ),
        (not tally.errors, "no call fails", _counted(tally.errors) or "none"),
        (not violated, f"all {len(invariants)} invariants hold", ", ".join(violated) or "all hold"),
    ]


def _decisions_table(tally: Tally) -> Table:
    table = Table(title="Decisions", title_justify="left")
    table.add_column("who")
    table.add_column("platform")
    for heading in ("requests", "approved", "refused", "refused %", "median score"):
        table.add_column(heading, justify="right")
    table.add_column("reasons")
    groups: dict[tuple[str, str], list[types_pb2.Recycling]] = {}
    for group, platform, recycling in tally.decisions:
        groups.setdefault((group, platform), []).append(recycling)
    for (group, platform), recyclings in sorted(
        groups.items(), key=lambda entry: (entry[0][0] != "honest owners", entry)
    ):
        refused = [r for r in recyclings if r.state == types_pb2.RECYCLING_STATE_REJECTED]
        scores = sorted(r.decision.risk_score for r in recyclings)
        table.add_row(
            group,
            platform,
            str(len(recyclings)),
            str(len(recyclings) - len(refused)),
            str(len(refused)),
            f"{_share(len(refused), len(recyclings)):.1%}",
            f"{scores[len(scores) // 2]:.4f}",
            _counted(Counter(code for r in recyclings for code in r.decision.reason_codes)),
        )
    return table


def _examples_table(tally: Tally) -> Table:
    table = Table(title="One of each", title_justify="left")
    for heading in (
        "who",
        "platform",
        "state",
        "card becomes",
        "fee",
        "compensation",
        "score",
        "Y of the alternatives",
        "why",
    ):
        table.add_column(heading)
    seen = set()
    for group, platform, recycling in tally.decisions:
        kind = (group, platform, recycling.state)
        if kind in seen:
            continue
        seen.add(kind)
        decision = recycling.decision
        alternatives = "\n".join(
            f"{_name(types_pb2.Disposition, a.disposition)} {a.y:.0f}" for a in decision.alternatives
        )
        table.add_row(
            group,
            platform,
            _name(types_pb2.RecyclingState, recycling.state),
            _name(types_pb2.Disposition, recycling.disposition) if recycling.disposition else "-",
            str(recycling.fee_minor),
            _compensation(recycling),
            f"{decision.risk_score:.4f} {_name(types_pb2.RiskBand, decision.risk_band)}",
            alternatives,
            ", ".join(decision.reason_codes),
        )
    return table


async def _wallets_table(client: RecyclingClient, people: Sequence[Person]) -> Table:
    totals: Counter[tuple[str, str, str]] = Counter()
    holders: Counter[tuple[str, str, str]] = Counter()
    largest: dict[tuple[str, str, str], tuple[int, str]] = {}
    for person in people:
        wallet = (await client.get_wallet(wallet_service_pb2.GetWalletRequest(account_id=person.account_id))).wallet
        for balance in wallet.balances:
            key = (person.group, balance.platform, _name(types_pb2.Unit, balance.unit))
            totals[key] += balance.amount
            holders[key] += 1
            largest[key] = max(largest.get(key, (0, "")), (balance.amount, person.account_id))
    table = Table(title="Wallets at the end", title_justify="left")
    for heading in ("who", "platform", "unit"):
        table.add_column(heading)
    for heading in ("holders", "total", "largest"):
        table.add_column(heading, justify="right")
    for key in sorted(totals, reverse=True):
        amount, account_id = largest[key]
        table.add_row(*key, str(holders[key]), f"{totals[key]:,}", f"{amount:,} ({account_id})")
    return table


def _invariants_table(invariants: Sequence[InvariantResult]) -> Table:
    table = Table(title="Invariants", title_justify="left")
    table.add_column("no", justify="right")
    for heading in ("name", "", "meaning"):
        table.add_column(heading)
    for result in invariants:
        verdict = f"[bold red]violated {result.violations} times[/]" if result.violations else "[green]holds[/]"
        table.add_row(str(result.number), result.name, verdict, result.meaning)
    return table


def _compensation(recycling: types_pb2.Recycling) -> str:
    if not recycling.HasField("compensation"):
        return "-"
    compensation = recycling.compensation
    if compensation.unit == types_pb2.UNIT_COUPON:
        return f"{compensation.basis_points / 100:.0f} % coupon, at most {compensation.max_discount_minor}"
    return f"{compensation.amount} {_name(types_pb2.Unit, compensation.unit)}"


def _name(enum: object, number: int) -> str:
    """The short name of an enum's value: what follows the enum's own prefix."""
    names: list[str] = enum.keys()  # type: ignore[attr-defined]
    prefix = names[0].removesuffix("UNSPECIFIED")
    return str(enum.Name(number)).removeprefix(prefix)  # type: ignore[attr-defined]


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common())


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
