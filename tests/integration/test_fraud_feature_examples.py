"""Each feature of registry v2 that is not v1's, by example, and that flooding never makes anybody look better."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraud_worker.registry import FEATURE_NAMES, FEATURES
from tests.conftest import FreshDatabase
from tests.integration.test_fraud_features import NOW, Request, confirm, features, insert, past_requests, requests

Connection: TypeAlias = "asyncpg.Connection[Any]"
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
async def database(fresh_database: FreshDatabase) -> AsyncIterator[Connection]:
    """The owner's connection to a database of its own."""
    owner_url, _ = await fresh_database()
    connection = await asyncpg.connect(owner_url)
    yield connection
    await connection.close()


@pytest.fixture
async def connection(database: Connection) -> AsyncIterator[Connection]:
    """The connection, in a transaction that is rolled back: every test finds no events."""
    transaction = database.transaction()
    await transaction.start()
    yield database
    await transaction.rollback()


async def row(connection: Connection, request: Request) -> dict[str, Any]:
    """The features of one request, by name."""
    (found,) = await features(connection, [request])
    return dict(zip(FEATURE_NAMES, found, strict=True))


def ago(age: timedelta, request: Request, **changed: Any) -> Request:
    """`request` as it was."""
    return replace(request, event_time=NOW - age, **changed)


async def test_rejects_count_on_their_device_for_30_days(connection: Connection) -> None:
    """Rejected requests of others on the device count, approved and older ones do not."""
    other = Request(account_id="other", device="d")
    await insert(connection, ago(31 * DAY, other, outcome="REJECTED"), ago(29 * DAY, other, outcome="REJECTED"))
    await insert(connection, ago(HOUR, other, kind="REACTIVATE", outcome="REJECTED"))
    await insert(
        connection, ago(HOUR, other, outcome="APPROVED"), ago(HOUR, replace(other, device="e"), outcome="REJECTED")
    )
    assert (await row(connection, Request(account_id="a", device="d")))["device_rejects_30d"] == 2


async def test_confirmed_abuse_marks_devices_before_and_after(connection: Connection) -> None:
    """The devices that an abuser had, and those seen with it later, tell on others; an honest label does not."""
    await insert(connection, ago(10 * DAY, Request(account_id="abuser", device="old")))
    await insert(connection, ago(10 * DAY, Request(account_id="honest", device="old")))
    await confirm(connection, "abuser", NOW - 5 * DAY)
    await confirm(connection, "honest", NOW - 5 * DAY, label=0)
    await insert(connection, ago(DAY, Request(account_id="abuser", device="new")))
    seen = [
        (await row(connection, Request(account_id="a", device=d)))["device_confirmed_abuse"]
        for d in ("old", "new", "x")
    ]
    assert seen == [1, 1, 0]
    before = await row(connection, Request(account_id="a", device="old", event_time=NOW - 5 * DAY))
    assert before["device_confirmed_abuse"] == 0


async def test_confirmed_abuse_of_the_account_counts_apart(connection: Connection) -> None:
    """An account's own labels count on the account, from the moment after they were given, not on its device."""
    request = Request(account_id="a", device="d")
    await insert(connection, ago(10 * DAY, request))
    await confirm(connection, "a", NOW - 2 * DAY)
    await confirm(connection, "a", NOW)
    found = await row(connection, request)
    assert (found["account_confirmed_abuse"], found["device_confirmed_abuse"]) == (1, 0)


async def test_two_hops_reach_the_other_devices_of_others(connection: Connection) -> None:
    """device - other account - other device - confirmed abuse there; not what is older than 30 days, or too young."""
    for number, confirmed in enumerate((NOW - DAY, NOW - 31 * DAY, NOW - timedelta(seconds=30))):
        await insert(connection, ago(60 * DAY, Request(account_id=f"bad{number}", device=f"far{number}")))
        await confirm(connection, f"bad{number}", confirmed)
        await insert(connection, ago(50 * DAY, Request(account_id=f"friend{number}", device=f"far{number}")))
        await insert(connection, ago(40 * DAY, Request(account_id=f"friend{number}", device="near")))
    assert (await row(connection, Request(account_id="a", device="near")))["linked_confirmed_abuse_30d"] == 1
    assert (await row(connection, Request(account_id="a", device="elsewhere")))["linked_confirmed_abuse_30d"] == 0


async def test_two_hops_read_no_more_than_20_by_20(connection: Connection) -> None:
    """Of more accounts, and more devices of each, the latest 20 count."""
    await insert(
        connection,
        *(ago(9 * DAY, Request(account_id=f"bad{d}", device=f"far{d}")) for d in range(25)),
        *(ago(8 * DAY, Request(account_id="busy", device=f"far{d}")) for d in range(25)),
        ago(2 * DAY, Request(account_id="busy", device="near")),
    )
    for number in range(25):
        await confirm(connection, f"bad{number}", NOW - DAY)
    request = Request(account_id="a", device="near")
    assert (await row(connection, request))["linked_confirmed_abuse_30d"] == 20
    await insert(connection, *(ago(HOUR, Request(account_id=f"n{number}", device="near")) for number in range(20)))
    found = await row(connection, request)
    assert (found["linked_confirmed_abuse_30d"], found["device_accounts_30d"]) == (0, 21)


async def test_rare_profiles_have_few_accounts(connection: Connection) -> None:
    """Other accounts with the same profile count, whatever they paid, for 30 days from when they were first seen."""
    await insert(
        connection,
        ago(31 * DAY, Request(account_id="old", model="m1")),
        ago(DAY, Request(account_id="old", model="m1")),
    )
    await insert(connection, ago(DAY, Request(account_id="b", model="m1", amount_minor=1)))
    await insert(connection, ago(DAY, Request(account_id="c", model="m2")))
    assert (await row(connection, Request(account_id="a", model="m1")))["profile_accounts_30d"] == 1
    assert (await row(connection, Request(account_id="a")))["profile_accounts_30d"] is None


async def test_regular_gaps_have_no_variation(connection: Connection) -> None:
    """Below three gaps nothing is known; equal gaps give 0, one long one gives more."""
    request = Request(account_id="a")
    await insert(connection, *(ago(hours * HOUR, request) for hours in (3, 2, 1)))
    assert (await row(connection, request))["account_gap_variation"] is None
    await insert(connection, request)
    assert (await row(connection, request))["account_gap_variation"] == 0
    await insert(connection, ago(100 * HOUR, request))
    variation = (await row(connection, request))["account_gap_variation"]
    assert variation == pytest.approx(1.6628, abs=1e-4)  # gaps of 97, 1, 1, 1 hours: 41.57 / 25


async def test_only_the_last_20_attempts_have_gaps(connection: Connection) -> None:
    """A wild past is forgotten after 20 regular attempts."""
    request = Request(account_id="a")
    past = [ago(timedelta(days=20 + number**1.5), request) for number in range(5, 0, -1)]
    await insert(connection, *past, *(ago(hours * HOUR, request) for hours in range(20, 0, -1)))
    assert (await row(connection, request))["account_gap_variation"] == 0


async def test_bonus_share_rises_when_the_same_card_pays_twice(connection: Connection) -> None:
    """What was settled over what was paid, each card once; 0 without settlements, unknown without recycles."""
    request = Request(account_id="a", amount_minor=2000)
    assert (await row(connection, request))["account_bonus_share_30d"] is None
    await insert(connection, ago(5 * DAY, request), ago(5 * DAY, request, card=1))
    assert (await row(connection, request))["account_bonus_share_30d"] == 0
    await insert(connection, ago(4 * DAY, request, kind="COMPENSATE", amount_minor=1800))
    assert (await row(connection, request))["account_bonus_share_30d"] == 0.9
    await insert(connection, ago(3 * DAY, request), ago(2 * DAY, request, kind="COMPENSATE", amount_minor=1800))
    assert (await row(connection, request))["account_bonus_share_30d"] == 1.8


async def test_points_are_no_bonus_share(connection: Connection) -> None:
    """A settlement without an amount is one in a unit that is not like money."""
    request = Request(account_id="a", amount_minor=2000)
    await insert(connection, ago(DAY, request), ago(HOUR, request, kind="COMPENSATE", amount_minor=None))
    assert (await row(connection, request))["account_bonus_share_30d"] == 0


async def test_bonus_share_of_unknown_prices_is_unknown(connection: Connection) -> None:
    """Where no price is known of what was settled for, nothing is said."""
    request = Request(account_id="a")
    await insert(connection, ago(DAY, request), ago(HOUR, request, kind="COMPENSATE", amount_minor=1800))
    assert (await row(connection, request))["account_bonus_share_30d"] is None


async def test_devices_at_an_address_count_apart_from_accounts(connection: Connection) -> None:
    """Two accounts on one other device are one device, first seen there within 24 hours; the own device is none."""
    here = Request(account_id="b", device="d", ip="203.0.113.7")
    await insert(connection, ago(25 * HOUR, here, device="older"), ago(HOUR, here), ago(HOUR, here, account_id="c"))
    await insert(connection, ago(HOUR, here, device="own"), ago(HOUR, here, device="older"))
    found = await row(connection, Request(account_id="a", device="own", ip="203.0.113.7"))
    assert (found["address_devices_24h"], found["address_accounts_24h"]) == (1, 1)


async def test_serial_neighbours_recycled_of_the_same_hundred(connection: Connection) -> None:
    """Other accounts' cards whose serials differ in the last two digits only; those without three digits have none."""
    await insert(
        connection,
        ago(HOUR, Request(account_id="b", serial="S1299")),
        ago(HOUR, Request(account_id="c", serial="S1300")),
    )
    await insert(connection, ago(HOUR, Request(account_id="d", serial="S1205", kind="ACTIVATE")))
    await insert(connection, ago(25 * HOUR, Request(account_id="e", serial="S1206")))
    assert (await row(connection, Request(account_id="a", serial="S1200")))["serial_neighbours_24h"] == 1
    assert (await row(connection, Request(account_id="a", serial="S12")))["serial_neighbours_24h"] is None


async def test_reached_caps_are_told(connection: Connection) -> None:
    """200 recycles of an account, on a device, or from a /24 are as many as are read, and that is a feature."""
    request = Request(account_id="a", device="d", ip="203.0.113.7")
    found = await row(connection, request)
    assert [found[name] for name in ("account_capped", "device_capped", "address_capped")] == [False] * 3
    await insert(connection, *(ago(timedelta(seconds=number), request) for number in range(200, 0, -1)))
    found = await row(connection, request)
    assert [found[name] for name in ("account_capped", "device_capped", "address_capped")] == [True] * 3


async def test_tier_reason_and_signals_are_told(connection: Connection) -> None:
    """What a request says stands in its row."""
    signals = {"inconsistencies": 2, "clock_skew_seconds": 7.5, "hosting": True, "timezone_mismatch": False}
    signals |= {"form_fill_ms": 812, "failed_card_entries_24h": 3}
    request = Request(account_id="a", tier="PREMIUM", reason="VOLUNTARY", signals=json.dumps(signals))
    found = await row(connection, request)
    assert {name: found[name] for name in signals} == signals
    assert [found[name] for name in ("tier_premium", "reason_voluntary", "reason_anomaly")] == [True, True, False]


async def test_serial_blocks_are_alike_in_sql_and_python(connection: Connection) -> None:
    """The server's statement and the loader of logs mean the same block."""
    for serial in (None, "", "12", "123", "X-00123", "X-00145", "ABC", "12a", "a\n123", "é12345", "١٢٣"):
        request = Request(account_id="a", serial=serial)
        block = await connection.fetchval("SELECT serial_block('iqiyi', $1)", serial)
        assert block == request.columns()[7], serial


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    past=st.lists(past_requests, max_size=20),
    flood=st.lists(past_requests, min_size=1, max_size=20),
    asked=requests,
    labels=st.lists(st.tuples(st.integers(0, 11), st.integers(1, 3_000_000)), max_size=3),
)
async def test_flooding_never_looks_better(
    database: Connection, past: list[Request], flood: list[Request], asked: Request, labels: list[tuple[int, int]]
) -> None:
    """Whatever events come on top, no (+) feature falls and no (-) one rises."""
    transaction = database.transaction()
    await transaction.start()
    try:
        await insert(database, *sorted(past, key=lambda event: event.event_time))
        for number, age_s in labels:
            await confirm(database, f"a{number}", NOW - timedelta(seconds=age_s))
        before = await row(database, asked)
        # A flood comes at the end: nobody can add to the past.
        latest = max([event.event_time for event in past], default=NOW - 30 * DAY)
        await insert(
            database,
            *sorted((replace(e, event_time=max(e.event_time, latest)) for e in flood), key=lambda e: e.event_time),
        )
        after = await row(database, asked)
    finally:
        await transaction.rollback()
    assert worse(before, after) == []


@pytest.mark.parametrize("kind", ["RECYCLE", "ACTIVATE", "REACTIVATE"])
async def test_a_flood_past_every_cap_hides_nothing(connection: Connection, kind: str) -> None:
    """Hundreds of events of one kind push out none that speak against the request."""
    asked = Request(account_id="a", device="d", ip="203.0.113.7", model="m", serial="S1201", amount_minor=2000)
    await insert(connection, ago(60 * DAY, Request(account_id="bad", device="d")))
    await confirm(connection, "bad", NOW - 20 * DAY)
    for number in range(5):
        other = replace(asked, account_id=f"b{number}", model=f"m{number}", card=number)
        await insert(
            connection, ago(3 * HOUR, other, outcome="REJECTED"), ago(2 * HOUR, asked, card=number, outcome="REJECTED")
        )
    before = await row(connection, asked)
    flood = (ago(timedelta(seconds=60 + n), asked, kind=kind, card=9, outcome="APPROVED") for n in range(400, 0, -1))
    await insert(connection, *flood)
    assert worse(before, await row(connection, asked)) == []


def worse(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The features by which `after` looks better than `before`. Unknown may become known, never the other way; who was
    new is no longer so."""
    found = []
    for feature in FEATURES:
        one, two = before[feature.name], after[feature.name]
        if feature.name in ("account_age_seconds", "device_age_seconds") and one == 0:
            continue
        if feature.direction and one is not None and (two is None or (two - one) * feature.direction < 0):
            found.append(feature.name)
    return found
