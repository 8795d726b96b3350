"""The simulator: the same seed gives the same log, and the log is one that the live system could have written."""

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from fraud_worker.event_log import EVENT_KINDS, read_log
from fraud_worker.simulated_world import SimulatedEvent, World
from fraud_worker.simulator import ABUSE, DEFAULT_START, HONEST, Scenario, simulate, write_log


@pytest.fixture(scope="module")
def events() -> list[SimulatedEvent]:
    """A small world."""
    return list(simulate(seed=5, accounts=3000, days=20))


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two runs of one seed differ in nothing, compressed or not; another seed differs."""
    for name, seed in (("a.csv", 3), ("b.csv", 3), ("a.csv.gz", 3), ("b.csv.gz", 3), ("c.csv", 4)):
        write_log(tmp_path / name, simulate(seed=seed, accounts=200, days=5))
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    assert (tmp_path / "a.csv").read_bytes() != (tmp_path / "c.csv").read_bytes()


def test_csv_and_parquet_hold_the_same_log(tmp_path: Path) -> None:
    """A reader gets the same events from either format."""
    for name in ("log.csv", "log.csv.gz", "log.parquet"):
        write_log(tmp_path / name, simulate(seed=3, accounts=300, days=10))
    assert read_log(tmp_path / "log.csv").equals(read_log(tmp_path / "log.parquet"))
    assert read_log(tmp_path / "log.csv").equals(read_log(tmp_path / "log.csv.gz"))


def test_events_come_in_the_order_of_time(events: list[SimulatedEvent]) -> None:
    """The stream never goes back, and stays within its days."""
    assert all(earlier.event_time <= later.event_time for earlier, later in pairwise(events))
    assert events[-1].event_time < DEFAULT_START + timedelta(days=20)


def test_labels_are_on_recycles_only_and_come_later(events: list[SimulatedEvent]) -> None:
    """Each RECYCLE has its truth, known hours later; nothing else has one."""
    assert all((event.label is not None) == (event.event_kind == "RECYCLE") for event in events)
    assert all(event.label_time > event.event_time for event in events if event.label_time is not None)


def test_issue_knows_only_account_and_card(events: list[SimulatedEvent]) -> None:
    """Cards are issued by a backend: no device, address or session."""
    assert all(
        event.device is None and event.ip is None and event.behavior is None
        for event in events
        if event.event_kind == "ISSUE"
    )


@pytest.mark.parametrize("scenario", [*HONEST, *ABUSE], ids=lambda scenario: scenario.__name__)
def test_scenario_writes_events_of_its_family(scenario: Scenario) -> None:
    """Each scenario alone gives events of known kinds under its own name, all of them honest or all of them abuse."""
    events = [event for _ in range(5) for event in scenario(World(1), DEFAULT_START)]
    assert {event.family for event in events} == {scenario.__name__}
    assert {event.event_kind for event in events} <= set(EVENT_KINDS)
    assert {event.label for event in events} <= {None, int(scenario in ABUSE)}


def test_abuse_is_about_a_tenth_of_the_accounts(events: list[SimulatedEvent]) -> None:
    """The mix holds the share that it was asked for."""
    accounts = {event.account_id: event.family for event in events}
    abusers = sum(family in {scenario.__name__ for scenario in ABUSE} for family in accounts.values())
    assert 0.05 < abusers / len(accounts) < 0.2


def test_honest_owners_also_recycle_at_once(events: list[SimulatedEvent]) -> None:
    """A card issued, activated and recycled within a minute is often honest."""
    issued = {event.card_id: event.event_time for event in events if event.event_kind == "ISSUE"}
    quick = [
        event.label
        for event in events
        if event.label is not None and event.event_time - issued[event.card_id] < timedelta(minutes=1)
    ]
    assert quick.count(0) > 200
