"""What the server's statement computed for requests is what training computes for their events."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import numpy as np
import polars as pl
from card_recycling.v1 import types_pb2

from fraud_worker.event_log import COLUMNS, feature_matrix, load, read_log
from fraud_worker.registry import FEATURE_NAMES
from tests.conftest import FreshDatabase
from tests.integration.conftest import MakeWorld
from tests.integration.world import START, World, circumstances, compensate, quote, reactivate

EXPORT = """
SELECT e.event_time, e.kind AS event_kind, e.account_id, e.card_id, e.device_hash, e.address_hash, e.prefix_hash,
       e.profile_hash, e.serial_block, e.amount_minor, e.tier, e.reason, e.signals, e.outcome, e.recycling_id, e.seq,
       (SELECT max(l.label) FROM risk_label AS l WHERE l.account_id = e.account_id) AS label,
       (SELECT min(l.label_time) FROM risk_label AS l WHERE l.account_id = e.account_id AND l.label = 1) AS label_time
FROM risk_event AS e ORDER BY e.seq
"""


async def test_export_of_production_trains_what_was_served(
    new_world: MakeWorld, fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    """A story of cards issued, recycled, settled, given back and labelled, exported as keyed hashes."""
    world = await new_world()
    world.scorer.probability = lambda row: 0.9 if (row["device_accounts_1h"] or 0) >= 1 else 0.05
    for wave in range(3):
        await world.store.move_clock(START + timedelta(days=wave, hours=7 * wave))
        accounts = []
        for number in range(4):
            card = await world.issue(external_serial=f"P-{wave}{number}{100 + number}", tier="PREMIUM")
            seen = circumstances(
                device=f"d{number % 2}", ip=f"203.0.113.{number % 3}", model="m", hosting=True, inconsistencies=1
            )
            await world.recycled(card, circumstances=seen)
            accounts.append(card.account_id)
        await world.owner.execute(
            "INSERT INTO risk_label (account_id, label, source, label_time) VALUES ($1, 1, 'review', service_clock())",
            accounts[0],
        )
    served = {
        row["account_id"]: json.loads(row["features"])
        for row in await world.owner.fetch(
            "SELECT account_id, receipt -> 'features' AS features FROM command WHERE method = 'Recycle'"
        )
    }
    events = await world.owner.fetch(EXPORT)
    rows = [{**event, **json.loads(event["signals"] or "{}")} for event in events]
    path = tmp_path / "export.csv"
    pl.DataFrame(
        [
            {
                name: value.hex()
                if isinstance(value := row.get(name), bytes)
                else None
                if value is None
                else str(value)
                for name in COLUMNS
            }
            for row in rows
        ],
        schema=dict.fromkeys(COLUMNS, pl.String),
    ).write_csv(path)
    log = read_log(path).with_columns(seq=pl.int_range(1, pl.len() + 1))
    recycles = log.filter(pl.col("event_kind") == "RECYCLE")
    connection = await asyncpg.connect((await fresh_database())[0])
    try:
        await load(connection, log)
        trained = await feature_matrix(connection, recycles)
    finally:
        await connection.close()
    expected = np.array(
        [[served[account][name] for name in FEATURE_NAMES] for account in recycles["account_id"]], dtype=np.float64
    )
    assert len(expected) == 12
    np.testing.assert_array_equal(trained, expected)
    told = dict(zip(FEATURE_NAMES, expected.max(axis=0, initial=0, where=~np.isnan(expected)), strict=True))
    assert all(told[name] > 0 for name in ("device_rejects_30d", "device_confirmed_abuse", "tier_premium", "hosting"))


async def test_settlements_leave_what_was_settled(new_world: MakeWorld) -> None:
    """Every step of a card's life is an event; Compensate's has the coins it settled, and all name the recycling."""
    world = await new_world()
    card = await world.issue()
    recycling = await world.settled(card)
    await world.answer(reactivate(recycling))
    found = await world.owner.fetch(
        "SELECT kind, amount_minor, recycling_id::text, reason FROM risk_event WHERE account_id = $1 ORDER BY seq",
        card.account_id,
    )
    mine = recycling.recycling_id
    assert [tuple(row) for row in found] == [
        ("ISSUE", card.paid_minor, None, None),
        ("ACTIVATE", card.paid_minor, None, None),
        ("RECYCLE", card.paid_minor, mine, "VOLUNTARY"),
        ("COMPENSATE", recycling.compensation.amount, mine, None),
        ("REACTIVATE", card.paid_minor, mine, None),
    ]


async def test_instant_settlement_leaves_the_same_event(new_world: MakeWorld) -> None:
    """Who is settled with the recycle shows what was settled as who is settled later, once, and a dry run nothing."""
    world = await new_world()
    shares = []
    for segment in ("YOUNG", "SENIOR"):
        card = await world.issue(segment=segment)
        seen = circumstances(device=f"of-{segment}", ip="203.0.113.7", session_seconds=30.0)
        await world.recycled(card, circumstances=seen, dry_run=True)
        recycling = await world.recycled(card, circumstances=seen)
        if recycling.compensation.state != types_pb2.COMPENSATION_STATE_SETTLED:
            await world.answer(compensate(recycling))
        found = await world.owner.fetch(
            "SELECT kind, amount_minor, recycling_id::text, tier, reason, device_hash, address_hash, prefix_hash,"
            " profile_hash, signals, outcome FROM risk_event WHERE account_id = $1 ORDER BY event_time, seq",
            card.account_id,
        )
        assert [row["kind"] for row in found] == ["ISSUE", "ACTIVATE", "RECYCLE", "RECYCLE", "COMPENSATE"]
        told = (2_699, recycling.recycling_id, "BASIC", None, None, None, None, None, None, None)
        assert tuple(found[-1])[1:] == told
        await world.move(timedelta(days=1))
        another = await world.recycled(await world.issue(account_id=card.account_id, segment=segment))
        shares.append((await features_of(world, another))["account_bonus_share_30d"])
    assert shares == [2_699 / 2_999] * 2


async def test_instant_settlement_in_another_unit_has_no_amount(new_world: MakeWorld) -> None:
    """Points are not like money: how many there were counts nowhere, however they were settled."""
    world = await new_world()
    card = await world.issue("tencent", segment="YOUNG")
    recycling = await world.recycled(card)
    assert recycling.compensation.state == types_pb2.COMPENSATION_STATE_SETTLED
    found = await world.owner.fetch(
        "SELECT amount_minor FROM risk_event WHERE account_id = $1 AND kind = 'COMPENSATE'", card.account_id
    )
    assert [tuple(row) for row in found] == [(None,)]


async def test_what_the_service_recycles_is_no_behaviour_of_the_account(new_world: MakeWorld) -> None:
    """Ten cards that expired the same night make nobody a machine: the account's own next recycle is judged as that of
    an account whose cards nobody took. And the service's own count in none of one another's."""
    world = await new_world()
    world.scorer.probability = lambda row: 0.9 if (row["account_recycles_24h"] or 0) >= 5 else 0.05
    expired = [await world.issue("netflix", "asleep", external_serial=f"N-{100 + number}") for number in range(10)]
    for number in range(10):
        await world.issue("iqiyi", "without", external_serial=f"I-{100 + number}")
    await world.move(timedelta(days=60))
    await world.sweep()
    for _ in expired[1:]:
        await world.sweep()
    made = await world.owner.fetch("SELECT recycling_id, priority FROM recycling WHERE account_id = 'asleep'")
    assert [row["priority"] for row in made] == ["BULK"] * 10
    await world.move(timedelta(hours=6))
    for row in made:
        owed = types_pb2.Recycling(account_id="asleep", recycling_id=str(row["recycling_id"]))
        await world.answer(compensate(owed))
    rows = []
    for account_id in ("asleep", "without"):
        card = await world.issue(account_id=account_id)
        for _ in range(2):
            await world.answer(quote(card))
        recycling = await world.recycled(card)
        assert recycling.state == types_pb2.RECYCLING_STATE_APPROVED
        rows.append(await features_of(world, recycling))
    assert rows[0] == rows[1]
    assert rows[0]["account_recycles_24h"] == 2
    assert rows[0]["account_gap_seconds"] == 0
    neighbour = await world.issue("netflix", external_serial="N-150")
    await world.move(timedelta(days=60))
    await world.sweep()
    of_the_service = await world.owner.fetchval(
        "SELECT recycling_id::text FROM recycling WHERE account_id = $1", neighbour.account_id
    )
    row = await features_of(world, types_pb2.Recycling(recycling_id=of_the_service))
    assert (row["account_recycles_24h"], row["serial_neighbours_24h"]) == (0, 0)


async def features_of(world: World, recycling: types_pb2.Recycling) -> dict[str, Any]:
    """What was known of the request that made `recycling`."""
    found: str = await world.owner.fetchval(
        "SELECT c.receipt -> 'features' FROM command AS c JOIN recycling AS r USING (account_id, request_id)"
        " WHERE r.recycling_id = $1",
        UUID(recycling.recycling_id),
    )
    features: dict[str, Any] = json.loads(found)
    return features
