"""The population simulator: honest owners of many habits and the families of abuse, as one stream of events.

Knows who does what, when and how often; the things they do it with are `simulated_world`'s. Must not know features,
models or databases: a model has to find abuse in the log alone.

Each scenario takes a `World` and the moment at which it starts, and returns its events; `simulate` mixes them. The
honest ones are chosen to look as bad as honest people do: cards recycled the moment they were issued, crowds behind one
address, hundreds of equal phones at one price, a family on one tablet, callers that pass on nothing but an account.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import heapq
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Final, TextIO, cast

import polars as pl

from fraud_worker.event_log import COLUMNS
from fraud_worker.simulated_world import SIGHTS, Behavior, Device, Owner, Sight, SimulatedEvent, World

DEFAULT_START: Final = datetime(2026, 1, 1, tzinfo=UTC)
_DAY_S: Final = 86_400.0
_ABUSE_SHARE: Final = 0.1

Scenario = Callable[[World, datetime], list[SimulatedEvent]]


def simulate(
    *, seed: int, accounts: int, days: int, start: datetime = DEFAULT_START, abuse_share: float = _ABUSE_SHARE
) -> Iterator[SimulatedEvent]:
    """The events of `days` from `start`, in the order of time, of about `accounts` accounts. Deterministic.

    `abuse_share`: of the accounts, how many are an abuser's. Holds in memory only what is still to happen.
    """
    world = World(seed)
    waiting: list[tuple[datetime, int, SimulatedEvent]] = []
    order = itertools.count()
    begun = {0: 0.0, 1: 0.0}
    for day in range(days):
        midnight = start + timedelta(days=day)
        due = accounts * (day + 1) / days
        for label, share, scenarios in ((0, 1 - abuse_share, HONEST), (1, abuse_share, ABUSE)):
            while begun[label] < due * share:
                scenario = world.rng.choices(tuple(scenarios), tuple(scenarios.values()))[0]
                moment = midnight + timedelta(seconds=_DAY_S * world.rng.betavariate(2.5, 1.8))
                events = scenario(world, moment)
                begun[label] += len({event.account_id for event in events})
                for event in events:
                    heapq.heappush(waiting, (event.event_time, next(order), event))
        while waiting and waiting[0][0] < midnight + timedelta(days=1):
            yield heapq.heappop(waiting)[2]


DEFAULT_SEED: Final = 1


def default_world() -> Iterator[SimulatedEvent]:
    """The population that the shipped model is trained on."""
    return simulate(seed=DEFAULT_SEED, accounts=70_000, days=60)


# --- honest people -----------------------------------------------------------------------------------------------


def _honest(world: World, family: str, device: Device | None = None, *, sight: Sight | None = None) -> Owner:
    return Owner(
        world=world,
        family=family,
        label=0,
        account_id=world.new_id("a"),
        device=device or world.phone(),
        ip=world.home_address(),
        behave=world.rng.choices((world.human, world.quick, world.blank), (81, 15, 4))[0],
        sight=sight or world.rng.choices(SIGHTS, (50, 12, 6, 6, 5, 5, 8, 3, 5))[0],
    )


def _delay_s(world: World) -> float:
    """Between two steps of a card: at once, within minutes, or within weeks."""
    return world.rng.choices(
        (world.log_uniform(0.001, 5), world.log_uniform(2, 1800), world.log_uniform(1800, 25 * _DAY_S)), (20, 30, 50)
    )[0]


def _card(
    owner: Owner, issued: datetime, amount_minor: int | None = None, *, at_once: bool = False
) -> list[SimulatedEvent]:
    """The life of one honest card."""
    world = owner.world
    chance = world.chance
    if at_once:
        activate_after_s = world.log_uniform(0.001, 60) if chance(0.7) else None
        recycle_after_s: float | None = world.log_uniform(0.001, 300)
    else:
        activate_after_s = _delay_s(world) if chance(0.8) else None
        recycle_after_s = _delay_s(world) if chance(0.75) else None
    reactivations = world.rng.choices((0, 1, 2), (90, 9, 1))[0]
    return owner.card(
        issued,
        activate_after_s=activate_after_s,
        recycle_after_s=recycle_after_s,
        attempts=world.rng.choices((1, 2, 3), (50, 38, 12))[0],
        amount_minor=amount_minor,
        reactivate_after_s=[world.log_uniform(0.5, 6 * _DAY_S) for _ in range(reactivations)],
    )


def owner(world: World, start: datetime) -> list[SimulatedEvent]:
    """One person with one or a few cards over weeks; a few change phones on the way."""
    person = _honest(world, "owner")
    events = []
    moment = start
    for _ in range(world.rng.choices((1, 2, 3, 5), (55, 25, 14, 6))[0]):
        events += _card(person, moment)
        moment += timedelta(seconds=_DAY_S * world.rng.expovariate(1 / 9))
        if world.chance(0.08):
            person.device = world.phone()
        if world.chance(0.25):
            person.ip = world.home_address()
    return events


def sudden_owner(world: World, start: datetime) -> list[SimulatedEvent]:
    """Bulk imports and gift cards: account, card and recycle all appear within seconds or minutes."""
    return _card(_honest(world, "sudden_owner"), start, at_once=True)


def collector(world: World, start: datetime) -> list[SimulatedEvent]:
    """One person who clears out several cards of their own in a day; rarely, a company with dozens."""
    person = _honest(world, "collector")
    cards = world.rng.choices((2, 3, 4, 6, 25), (40, 30, 18, 10, 2))[0]
    spread_s = world.log_uniform(5, 80_000)
    moments = sorted(start + timedelta(seconds=world.rng.uniform(0, spread_s)) for _ in range(cards))
    return [event for moment in moments for event in _card(person, moment, at_once=world.chance(0.7))]


def household(world: World, start: datetime) -> list[SimulatedEvent]:
    """Two to five accounts of one family on one tablet, over weeks; now and then two of them the same evening."""
    tablet, address = world.phone(), world.home_address()
    sight = world.rng.choices(SIGHTS, (50, 12, 6, 6, 5, 5, 8, 3, 5))[0]
    events = []
    moment = start
    members = world.rng.choices((2, 3, 4, 5), (70, 18, 8, 4))[0]
    price = world.price() if world.chance(0.6) else None
    same_evening = world.rng.randrange(members - 1) if world.chance(0.75) else -1
    for member in range(members):
        person = _honest(world, "household", tablet, sight=sight)
        person.ip = address
        events += _card(person, moment, price, at_once=world.chance(0.5))
        soon_s = world.log_uniform(0.5, 12_000)
        moment += timedelta(seconds=soon_s if member == same_evening else _DAY_S * (4 + world.rng.expovariate(1 / 16)))
    return events


def campus(world: World, start: datetime) -> list[SimulatedEvent]:
    """Dozens to hundreds of students within an hour or two, behind the few addresses of their campus.

    Some were all given the same phone; some come through one caller, which passes on the same of all.
    """
    students = int(world.log_uniform(20, 450))
    network = [world.new_address([world.campus_range()]) for _ in range(world.rng.choice((1, 1, 2, 4)))]
    price = world.price() if world.chance(0.6) else None
    like = world.phone() if world.chance(0.4) else None
    sight = world.rng.choice(SIGHTS) if world.chance(0.4) else None
    events = []
    for _ in range(students):
        student = _honest(world, "campus", world.same_phone(like) if like else None, sight=sight)
        student.ip = world.rng.choice(network)
        moment = start + timedelta(seconds=world.rng.uniform(0, 5400))
        events += _card(student, moment, price, at_once=world.chance(0.6))
    return events


def rush(world: World, start: datetime) -> list[SimulatedEvent]:
    """A promotion, or an import by one caller: hundreds of new accounts within minutes, each with its own device.

    One caller sees the same of them all, so that equal phones, one price and neighbouring addresses are common.
    """
    rng = world.rng
    people = int(world.log_uniform(60, 1200))
    sight = rng.choices(SIGHTS, (34, 12, 6, 6, 10, 10, 10, 4, 8))[0]
    like = rng.choice((None, world.top_phone(), world.top_phone(), world.phone()))
    price = world.price() if world.chance(0.75) else None
    ranges: Sequence[str] = [world.new_range() for _ in range(rng.choice((1, 3, 30)))] if world.chance(0.5) else ()
    behave = rng.choices((world.human, world.quick, world.blank), (75, 20, 5))[0]
    span_s = world.log_uniform(20, 3600)
    events = []
    for _ in range(people):
        person = _honest(world, "rush", world.same_phone(like) if like else None, sight=sight)
        person.ip = world.new_address(ranges)
        person.behave = behave
        events += _card(person, start + timedelta(seconds=rng.uniform(0, span_s)), price, at_once=world.chance(0.9))
    return events


# --- abuse -------------------------------------------------------------------------------------------------------

_SEEN_DEVICE: Final = (50, 14, 7, 7, 5, 5, 9, 3, 1)


def _abuser(
    world: World, family: str, device: Device, ip: str | None, behave: Callable[[], Behavior], sight: Sight
) -> Owner:
    return Owner(
        world=world,
        family=family,
        label=1,
        account_id=world.new_id("a"),
        device=device,
        ip=ip,
        behave=behave,
        sight=sight,
    )


def _abused_card(abuser: Owner, moment: datetime, price: int | None, age_s: float) -> list[SimulatedEvent]:
    world = abuser.world
    return abuser.card(
        moment - timedelta(seconds=age_s),
        activate_after_s=age_s + world.log_uniform(0.001, 60) if world.chance(0.75) else None,
        recycle_after_s=world.log_uniform(0.001, 120) if age_s == 0 else age_s + world.log_uniform(0.01, 120),
        attempts=world.rng.choices((1, 2, 3), (60, 33, 7))[0],
        amount_minor=price,
    )


def _behaving(world: World) -> Callable[[], Behavior]:
    script = world.script()
    return world.rng.choice((script, script, world.human, world.human, world.quick))


def farm(
    world: World, start: datetime, accounts: int | None = None, *, sight: Sight | None = None
) -> list[SimulatedEvent]:
    """A device farm: one to three devices, each with many accounts, seconds to minutes apart."""
    return _farmed(world, start, "farm", accounts or int(world.log_uniform(6, 200)), world.log_uniform(0.5, 700), sight)


def slow_drip(world: World, start: datetime) -> list[SimulatedEvent]:
    """The same over days: one more account on the device every few hours, a day or two."""
    return _farmed(world, start, "slow_drip", int(world.log_uniform(5, 45)), world.log_uniform(7_000, 300_000))


def _farmed(
    world: World, start: datetime, family: str, accounts: int, gap_s: float, sight: Sight | None = None
) -> list[SimulatedEvent]:
    rng = world.rng
    rack = [
        world.phone() if world.chance(0.6) else world.rare_phone()
        for _ in range(rng.choices((1, 2, 3), (70, 20, 10))[0])
    ]
    sight = sight or rng.choices(SIGHTS, _SEEN_DEVICE)[0]
    address = world.home_address() if world.chance(0.6) else None
    behave = _behaving(world)
    price = world.price() if world.chance(0.6) else None
    aged_s = world.log_uniform(3_600, 15 * _DAY_S) if world.chance(0.3) else 0.0
    moment = start + timedelta(seconds=aged_s)
    events = []
    for number in range(accounts):
        abuser = _abuser(world, family, rack[number % len(rack)], address or world.new_address(), behave, sight)
        events += _abused_card(abuser, moment, price, aged_s * rng.uniform(0.6, 1))
        moment += timedelta(seconds=gap_s * rng.expovariate(1))
    return events


def ring(world: World, start: datetime) -> list[SimulatedEvent]:
    """An account ring: a device of its own for each account, all of one make, one price and one range of addresses."""
    rng = world.rng
    like = world.rare_phone() if world.chance(0.6) else world.phone()
    ranges = [world.new_range()]
    behave, price = _behaving(world), world.price()
    sight = rng.choices(SIGHTS, (85, 5, 5, 5, 0, 0, 0, 0, 0))[0]
    aged_s = world.log_uniform(3_600, 10 * _DAY_S) if world.chance(0.3) else 0.0
    moment = start + timedelta(seconds=aged_s)
    gap_s = world.log_uniform(5, 400)
    events = []
    for _ in range(int(world.log_uniform(8, 120))):
        abuser = _abuser(world, "ring", world.same_phone(like), world.new_address(ranges), behave, sight)
        events += _abused_card(abuser, moment, price, aged_s * rng.uniform(0.6, 1))
        moment += timedelta(seconds=gap_s * rng.expovariate(1))
    return events


def burst(
    world: World, start: datetime, accounts: int | None = None, *, sight: Sight | None = None
) -> list[SimulatedEvent]:
    """A scripted burst: many accounts within minutes; devices and addresses rotate, the behaviour is a machine's."""
    rng = world.rng
    like = world.rare_phone() if world.chance(0.5) else world.phone()
    ranges = [world.new_range() for _ in range(rng.randrange(1, 5))]
    emulated = world.chance(0.5)
    behave = world.script()
    price = world.price() if world.chance(0.8) else None
    sight = sight or rng.choices(SIGHTS, (70, 0, 15, 10, 0, 0, 0, 5, 0))[0]
    span_s = world.log_uniform(60, 1500)
    accounts_per_device = rng.choice((1, 1, 1, 6))
    events: list[SimulatedEvent] = []
    device = world.same_phone(like)
    count = accounts or int(world.log_uniform(20, 250))
    for number in range(count):
        if number % accounts_per_device == 0:
            device = _machine(world, like, emulated=emulated)
        abuser = _abuser(world, "burst", device, world.new_address(ranges), behave, sight)
        events += _abused_card(abuser, start + timedelta(seconds=span_s * number / count), price, 0.0)
    return events


def _machine(world: World, like: Device, *, emulated: bool) -> Device:
    device = world.same_phone(like)
    if not emulated or world.chance(0.15):
        return device
    return Device(
        **{name: getattr(device, name) for name in _PROFILE},
        emulator=True,
        rooted=world.chance(0.5),
        vpn=world.chance(0.4),
    )


_PROFILE: Final = ("device_id", "os", "model", "screen", "language", "timezone", "user_agent")


def ping_pong(world: World, start: datetime) -> list[SimulatedEvent]:
    """One account that recycles and reactivates the same card over and over."""
    abuser = _abuser(
        world,
        "ping_pong",
        world.phone(),
        world.home_address(),
        world.human if world.chance(0.6) else world.quick,
        world.rng.choices(SIGHTS, _SEEN_DEVICE)[0],
    )
    cycle_s = world.log_uniform(2, 40_000)
    cycles = [cycle_s * world.rng.uniform(0.3, 2) for _ in range(int(world.log_uniform(4, 20)))]
    return abuser.card(start, activate_after_s=1.0, recycle_after_s=_delay_s(world), reactivate_after_s=cycles)


# How often a scenario starts, in proportion: a campus is hundreds of accounts, an owner one.
HONEST: Final[dict[Scenario, float]] = {
    owner: 600.0,
    sudden_owner: 230.0,
    collector: 40.0,
    household: 200.0,
    campus: 2.5,
    rush: 1.0,
}
ABUSE: Final[dict[Scenario, float]] = {farm: 8.0, slow_drip: 8.0, ring: 2.5, burst: 6.0, ping_pong: 30.0}


# --- writing -----------------------------------------------------------------------------------------------------

LOG_COLUMNS: Final = (*COLUMNS, "family")
"""What a simulated log holds: every column of an event log, and the scenario, which readers of event logs ignore."""


def write_log(path: Path, events: Iterable[SimulatedEvent]) -> int:
    """Writes `events` as CSV, gzipped CSV or Parquet, by the suffix of `path`; returns how many. CSV is streamed."""
    if path.suffix == ".parquet":
        rows = [_row(event) for event in events]
        pl.DataFrame(rows, schema=list(LOG_COLUMNS), orient="row", infer_schema_length=None).write_parquet(path)
        return len(rows)
    with _opened(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(LOG_COLUMNS)
        count = 0
        for event in events:
            writer.writerow([_text(value) for value in _row(event)])
            count += 1
        return count


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    with path.open("wb") as file:
        # Neither name nor time in the gzip header: the same seed gives the same bytes.
        binary = gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) if path.suffix == ".gz" else file
        with io.TextIOWrapper(cast(IO[bytes], binary), encoding="utf-8", newline="") as text:
            yield text


def _row(event: SimulatedEvent) -> list[Any]:
    """`event` as a row of `LOG_COLUMNS`."""
    sources = (event.device, event.behavior, event)
    return [next((getattr(source, name) for source in sources if hasattr(source, name)), None) for name in LOG_COLUMNS]


def _text(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds")
    return int(value) if isinstance(value, bool) else value
