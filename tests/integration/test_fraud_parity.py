"""What the server's statement computed for requests is what training computes for their events."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import asyncpg
import numpy as np
import polars as pl

from fraud_worker.event_log import COLUMNS, feature_matrix, load, read_log
from fraud_worker.registry import FEATURE_NAMES
from tests.conftest import FreshDatabase
from tests.integration.conftest import MakeWorld
from tests.integration.world import START, circumstances, reactivate

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
