"""The population simulator: honest owners of many habits and the families of abuse, mixed into one stream of events.

Knows how often each scenario starts, and the order of time. Who does what is `simulation.honest` and
`simulation.abuse`'s; must not know features, models or databases: a model has to find abuse in the log alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate, count, islice, takewhile
from typing import Final

from fraud_worker.simulation.abuse import ABUSE
from fraud_worker.simulation.cards import DAY_S, JUDGED, Hand, Scenario, Step, event
from fraud_worker.simulation.events import SimulatedEvent
from fraud_worker.simulation.honest import HONEST
from fraud_worker.simulation.log_writer import write_log
from fraud_worker.simulation.predecessor import Predecessor
from fraud_worker.simulation.world import Card, World

__all__ = [
    "ABUSE",
    "DEFAULT_SEED",
    "DEFAULT_START",
    "HONEST",
    "Scenario",
    "SimulatedEvent",
    "default_world",
    "simulate",
    "simulate_events",
    "stream",
    "write_log",
]

DEFAULT_START: Final = datetime(2026, 1, 1, tzinfo=UTC)
DEFAULT_SEED: Final = 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ABUSE_SHARE: Final = 0.1
_EVENTS_PER_ACCOUNT: Final = 4.6
_CARRIER_CUSTOMERS_A_DAY: Final = 40


def simulate(
    *, seed: int, accounts: int, days: int, start: datetime = DEFAULT_START, abuse_share: float = _ABUSE_SHARE
) -> Iterator[SimulatedEvent]:
    """The events of `days` from `start`, in the order of time, of about `accounts` accounts. Deterministic.

    `abuse_share`: of the accounts, how many are an abuser's. Holds in memory only what is still to happen.
    """
    end_us = _us(start + timedelta(days=days))
    events = stream(seed=seed, accounts_per_day=accounts / days, start=start, abuse_share=abuse_share)
    return takewhile(lambda event: event.time_us < end_us, events)


def simulate_events(
    *, seed: int, events: int, days: int, start: datetime = DEFAULT_START, abuse_share: float = _ABUSE_SHARE
) -> Iterator[SimulatedEvent]:
    """The first `events` events of a population that makes about so many in `days`."""
    accounts_per_day = events / _EVENTS_PER_ACCOUNT / days
    return islice(stream(seed=seed, accounts_per_day=accounts_per_day, start=start, abuse_share=abuse_share), events)


def default_world() -> Iterator[SimulatedEvent]:
    """The population that the shipped model is trained on."""
    return simulate(seed=DEFAULT_SEED, accounts=70_000, days=60)


def stream(
    *, seed: int, accounts_per_day: float, start: datetime = DEFAULT_START, abuse_share: float = _ABUSE_SHARE
) -> Iterator[SimulatedEvent]:
    """Events without end, in the order of time."""
    world = World(seed, carriers=25 + int(accounts_per_day / _CARRIER_CUSTOMERS_A_DAY))
    predecessor = Predecessor(world.rng)
    start_us = _us(start)
    waiting: list[tuple[float, int, Hand, Card, str]] = []
    order = count()
    push, pop = heapq.heappush, heapq.heappop
    mixes: tuple[tuple[float, _Habits | _Families], ...] = ((1 - abuse_share, _Habits()), (abuse_share, _Families()))
    begun = [0] * len(mixes)
    for day in count():
        for number, (share, mix) in enumerate(mixes):
            while begun[number] < accounts_per_day * (day + 1) * share:
                steps = mix.next(world, DAY_S * (day + world.rng.betavariate(2.5, 1.8)))
                begun[number] += len({hand.account_id for _, hand, _, _ in steps})
                for moment, hand, card, kind in steps:
                    push(waiting, (moment, next(order), hand, card, kind))
        tomorrow = DAY_S * (day + 1)
        while waiting and waiting[0][0] < tomorrow:
            moment, _, hand, card, kind = pop(waiting)
            happened = event(world, predecessor, start_us + int(moment * 1_000_000), hand, card, kind)
            if happened:
                yield happened


class _Habits:
    """Honest scenarios, each started as often as its weight says."""

    def __init__(self) -> None:
        self._scenarios = tuple(HONEST)
        self._weights = tuple(accumulate(HONEST.values()))

    def next(self, world: World, start: float) -> list[Step]:
        return world.rng.choices(self._scenarios, cum_weights=self._weights)[0](world, start)


class _Families:
    """Families of abuse, any of those whose requests are not yet their share, as campaigns differ in size."""

    def __init__(self) -> None:
        self._requests = dict.fromkeys(ABUSE, 0)
        self._weight = sum(ABUSE.values())

    def next(self, world: World, start: float) -> list[Step]:
        total = sum(self._requests.values())
        behind = [name for name, weight in ABUSE.items() if self._requests[name] * self._weight <= total * weight]
        scenario = world.pick(behind)
        steps = scenario(world, start)
        self._requests[scenario] += sum(kind in JUDGED for _, _, _, kind in steps)
        return steps


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
