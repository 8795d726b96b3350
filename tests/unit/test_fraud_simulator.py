"""The simulator: the same seed gives the same log, and the log is one that the live system could have written."""

import ipaddress
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice, pairwise
from pathlib import Path

import polars as pl
import pytest

from fraud_worker.event_log import COLUMNS, EVENT_KINDS, read_log
from fraud_worker.simulation.cards import JUDGED
from fraud_worker.simulation.events import SimulatedEvent
from fraud_worker.simulation.log_writer import LOG_SCHEMA
from fraud_worker.simulation.world import HOSTING, World, country_of
from fraud_worker.simulator import ABUSE, DEFAULT_START, HONEST, Scenario, simulate, simulate_events, stream, write_log


@pytest.fixture(scope="module")
def events() -> list[SimulatedEvent]:
    """A small world, large enough for every family."""
    return list(simulate(seed=5, accounts=10_000, days=30))


# --- the stream ---


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two runs of one seed differ in nothing, in any format; another seed differs."""
    for suffix in ("csv", "csv.gz", "parquet"):
        for name, seed in (("a", 3), ("b", 3), ("c", 4)):
            write_log(tmp_path / f"{name}.{suffix}", simulate(seed=seed, accounts=200, days=5))
        first, again, other = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in "abc")
        assert first == again
        assert first != other


def test_hash_seed_changes_nothing(tmp_path: Path) -> None:
    """Two processes that hash strings differently write the same bytes."""
    for hash_seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-m", "fraud_worker", "simulate", "--out", tmp_path / f"{hash_seed}.csv", "--days", "5"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            timeout=120,
        )
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()


def test_csv_and_parquet_hold_the_same_log(tmp_path: Path) -> None:
    """A reader gets the same events from either format."""
    for name in ("log.csv", "log.csv.gz", "log.parquet"):
        write_log(tmp_path / name, simulate(seed=3, accounts=300, days=10))
    assert read_log(tmp_path / "log.csv").equals(read_log(tmp_path / "log.parquet"))
    assert read_log(tmp_path / "log.csv").equals(read_log(tmp_path / "log.csv.gz"))


def test_readers_ignore_the_family_alone() -> None:
    """Every other column of a simulated log is one of an event log."""
    assert set(LOG_SCHEMA) - set(COLUMNS) == {"family"}


def test_events_come_in_the_order_of_time(events: list[SimulatedEvent]) -> None:
    """The stream never goes back, and stays within its days."""
    assert all(earlier.time_us <= later.time_us for earlier, later in pairwise(events))
    assert events[0].event_time >= DEFAULT_START
    assert events[-1].event_time < DEFAULT_START + timedelta(days=30)


def test_first_events_need_no_later_ones() -> None:
    """An endless stream gives its first events, and a longer one begins with the very same."""
    first = list(islice(stream(seed=7, accounts_per_day=50), 100))
    assert first == list(islice(stream(seed=7, accounts_per_day=50), 1000))[:100]


def test_asked_for_events_are_as_many_and_about_as_long() -> None:
    """`simulate_events` gives exactly so many, in about so many days."""
    events = list(simulate_events(seed=2, events=40_000, days=40))
    assert len(events) == 40_000
    assert 30 < (events[-1].event_time - DEFAULT_START).days < 50


def test_writing_holds_a_batch_of_rows_at_a_time(tmp_path: Path) -> None:
    """When an event is asked for, all but the last few batches are in the file already: nothing waits for the end."""
    path = tmp_path / "log.csv"
    sizes = []

    def watched() -> Iterator[SimulatedEvent]:
        for number, event in enumerate(simulate_events(seed=1, events=160_000, days=20)):
            if number == 155_000:
                sizes.append(path.stat().st_size)
            yield event

    write_log(path, watched())
    assert sizes[0] > path.stat().st_size * 0.8


def test_parquet_keeps_the_order_of_its_batches(tmp_path: Path) -> None:
    """A log of several batches is whole, and in the order of time."""
    path = tmp_path / "log.parquet"
    assert write_log(path, simulate_events(seed=1, events=120_000, days=20)) == 120_000
    log = pl.read_parquet(path)
    assert log.height == 120_000
    assert log["event_time"].is_sorted()


# --- what is logged ---


def test_labels_are_on_what_is_judged_and_come_no_earlier(events: list[SimulatedEvent]) -> None:
    """Each RECYCLE and some REACTIVATEs have their truth, known days later; nothing else has one."""
    for event in events:
        assert event.event_kind in JUDGED or event.label is None
        assert event.event_kind != "RECYCLE" or event.label is not None
        assert (event.label is None) == (event.label_time_us is None)
        assert event.label_time_us is None or event.label_time_us >= event.time_us
    judged = Counter(event.label is not None for event in events if event.event_kind == "REACTIVATE")
    assert min(judged.values()) > 50


def test_both_labels_take_about_as_long(events: list[SimulatedEvent]) -> None:
    """The youngest labels that are known are no other mix than the older ones."""
    waits = defaultdict(list)
    for event in events:
        if event.label_time_us is not None:
            waits[event.label].append((event.label_time_us - event.time_us) / 86_400e6)
    means = {label: sum(days) / len(days) for label, days in waits.items()}
    assert abs(means[0] - means[1]) < 1
    assert min(min(days) for days in waits.values()) > 0.5


def test_what_a_backend_does_knows_only_account_and_card(events: list[SimulatedEvent]) -> None:
    """Issuing, paying and complaining leave no device, address or session."""
    assert all(
        event.device is None and event.ip is None and event.behavior is None
        for event in events
        if event.event_kind in ("ISSUE", "COMPENSATE", "COMPLAINT")
    )


def test_all_kinds_of_event_occur(events: list[SimulatedEvent]) -> None:
    """Nothing that a log may hold is missing, but for what the service does by itself: here are people only."""
    assert {event.event_kind for event in events} == set(EVENT_KINDS) - {"AUTO_RECYCLE"}


def test_a_compensation_is_worth_no_more_than_its_card(events: list[SimulatedEvent]) -> None:
    """What was paid out has an amount, at most that of the card."""
    paid_for = {event.card_id: event.amount_minor for event in events if event.event_kind == "ISSUE"}
    for event in events:
        if event.event_kind == "COMPENSATE":
            assert event.amount_minor is not None
            assert 1 <= event.amount_minor <= (paid_for[event.card_id] or 0)


def test_a_card_lives_in_order(events: list[SimulatedEvent]) -> None:
    """It is issued once and first, activated at most once and before it is recycled, and taken back after that."""
    lives = defaultdict(list)
    for event in events:
        lives[event.card_id].append(event.event_kind)
    for kinds in lives.values():
        assert kinds[0] == "ISSUE"
        assert kinds.count("ISSUE") == 1
        assert kinds.count("ACTIVATE") <= 1
        for later in ("REACTIVATE", "COMPENSATE", "COMPLAINT"):
            assert later not in kinds or "RECYCLE" in kinds[: kinds.index(later)]


def test_what_was_refused_is_neither_paid_for_nor_taken_back(events: list[SimulatedEvent]) -> None:
    """A card whose latest recycle was rejected sees no payment and no reactivation before it is recycled again."""
    latest: dict[str, str | None] = {}
    for event in events:
        if event.event_kind == "RECYCLE":
            latest[event.card_id] = event.outcome
        elif event.event_kind in ("COMPENSATE", "REACTIVATE"):
            assert latest[event.card_id] == "APPROVED"


def test_the_predecessor_refuses_some_abuse_and_few_of_the_honest(events: list[SimulatedEvent]) -> None:
    """Each judged event has an outcome, and nothing else; refusals are a hint at abuse, not the truth about it."""
    refused: dict[int, list[bool]] = defaultdict(list)
    for event in events:
        assert (event.outcome is not None) == (event.event_kind in JUDGED)
        if event.label is not None:
            refused[event.label].append(event.outcome == "REJECTED")
    assert 0.1 < sum(refused[1]) / len(refused[1]) < 0.5
    assert 0.002 < sum(refused[0]) / len(refused[0]) < 0.05


def test_what_is_paid_varies(events: list[SimulatedEvent]) -> None:
    """Owners get different shares of what their cards cost, on one platform, too."""
    paid_for = {event.card_id: event.amount_minor or 1 for event in events if event.event_kind == "ISSUE"}
    shares = [
        (event.amount_minor or 0) / paid_for[event.card_id]
        for event in events
        if event.event_kind == "COMPENSATE" and event.platform == "iqiyi"
    ]
    assert min(shares) < 0.65
    assert max(shares) > 0.9


def test_travellers_clocks_show_the_country_of_their_address(events: list[SimulatedEvent]) -> None:
    """Where both are known, most of the honest abroad agree with themselves, and most abusers behind proxies do not."""
    agree: dict[int, list[bool]] = defaultdict(list)
    for event in events:
        if event.label is not None and event.country and event.device and event.device.timezone:
            here = country_of(event.device.timezone)
            if (event.country, here) != ("CN", "CN"):
                agree[event.label].append(event.country == here)
    assert sum(agree[0]) / len(agree[0]) > 0.6
    assert sum(agree[1]) / len(agree[1]) < 0.5


def test_netflix_gives_no_card_back(events: list[SimulatedEvent]) -> None:
    """Where the platform knows no reactivation, nobody tries one."""
    assert {event.platform for event in events if event.event_kind == "REACTIVATE"} == {"iqiyi", "tencent"}


def test_homes_are_not_in_data_centres() -> None:
    """No home's address lies in a hosting range, and every hosting address does."""
    world = World(3)

    def hosted(address: str) -> bool:
        return any(ipaddress.ip_address(address) in network for network in HOSTING)

    assert not any(hosted(world.home_address()) for _ in range(2000))
    assert all(hosted(world.new_address([world.hosting_range()])) for _ in range(500))


# --- who does it ---


@pytest.mark.parametrize("scenario", [*HONEST, *ABUSE], ids=lambda scenario: scenario.__name__)
def test_scenario_keeps_its_name_and_label(scenario: Scenario) -> None:
    """Each scenario alone gives steps under its own name and of one label; only thieves have victims, the honest."""
    world = World(1)
    for _ in range(5):
        steps = scenario(world, 50.0)
        assert min(moment for moment, _, _, _ in steps) >= 50.0
        labels = {hand.family: hand.label for _, hand, _, _ in steps}
        if scenario.__name__ == "stolen_cards":
            assert labels.pop("victim") == 0
        assert labels == {scenario.__name__: int(scenario in ABUSE)}


def test_every_family_has_its_share(events: list[SimulatedEvent]) -> None:
    """Eight families of abuse, none of them rare and none most of the abuse; and every honest habit."""
    requests = Counter(event.family for event in events if event.label == 1)
    assert set(requests) == {scenario.__name__ for scenario in ABUSE}
    assert len(requests) == 8
    assert all(0.02 < count / requests.total() < 0.4 for count in requests.values()), requests
    honest = {event.family for event in events if event.label == 0}
    assert {scenario.__name__ for scenario in HONEST} <= honest


def test_abuse_is_about_a_tenth_of_the_accounts(events: list[SimulatedEvent]) -> None:
    """The mix holds the share that it was asked for."""
    abusers = {event.account_id for event in events if event.label == 1}
    assert 0.05 < len(abusers) / len({event.account_id for event in events}) < 0.2


def test_honest_owners_also_recycle_at_once(events: list[SimulatedEvent]) -> None:
    """A card issued, activated and recycled within a minute is often honest."""
    issued = {event.card_id: event.event_time for event in events if event.event_kind == "ISSUE"}
    quick = [
        event.label
        for event in events
        if event.label is not None and event.event_time - issued[event.card_id] < timedelta(minutes=1)
    ]
    assert quick.count(0) > 200


def field(event: SimulatedEvent, column: str) -> object:
    """What `event` says in `column`; None where it says nothing."""
    sources = (event, event.device, event.behavior)
    return next((getattr(source, column) for source in sources if hasattr(source, column)), None)


@pytest.mark.parametrize(
    "column",
    [
        *("platform", "tier", "reason", "os", "screen", "language", "timezone", "channel", "emulator", "rooted", "vpn"),
        *("page_views", "failed_logins_24h", "captcha_failures", "failed_card_entries_24h", "copy_paste_used"),
    ],
)
def test_no_value_alone_gives_abuse_away(events: list[SimulatedEvent], column: str) -> None:
    """Whatever a request says in one field, honest people say, too; and what is often said, abusers say as well."""
    said: dict[object, Counter[int]] = defaultdict(Counter)
    for event in events:
        if event.label is not None:
            said[field(event, column)][event.label] += 1
    for value, labels in said.items():
        if labels.total() >= 500:
            assert labels[0] / labels.total() > 0.2, value
        if labels.total() >= 2000:
            assert labels[1] > 0, value


def test_no_number_is_the_same_for_all_abuse(events: list[SimulatedEvent]) -> None:
    """No amount, session, form or clock is repeated by abusers alone."""
    for column in ("amount_minor", "session_seconds", "form_fill_ms", "clock_skew_seconds"):
        seen: dict[object, Counter[int]] = defaultdict(Counter)
        accounts: dict[object, set[str]] = defaultdict(set)
        for event in events:
            value = field(event, column)
            if event.label is not None and value is not None:
                seen[value][event.label] += 1
                accounts[value].add(event.account_id)
        common = [value for value in seen if len(accounts[value]) >= 200]
        assert all(seen[value][0] > 0.2 * seen[value].total() for value in common), column
