"""The export: what a live service has seen and learnt becomes a log that trains on the very rows that were scored."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from card_recycling.v1 import types_pb2

from fraud_worker.export import COLUMNS
from fraud_worker.registry import FEATURE_NAMES
from server.domain.card import VoidReason
from server.domain.commands import Circumstances
from server.domain.outcome import NewOutcome, OutcomeKind
from server.engine.outcomes import OutcomeRecorder
from tests.conftest import FreshDatabase
from tests.integration.world import START, World, activate, circumstances, quote, reactivate, recycle, void

PROJECT = Path(__file__).resolve().parents[2]
ROUNDS = 40
"""Hours in which four owners each recycle a card."""
PARITY = """
import sys
from pathlib import Path
import numpy as np
from fraud_worker.event_log import judged_rows

judged = judged_rows([Path(sys.argv[1])])
recyclings, kinds = (judged.events[name].to_list() for name in ("recycling_id", "event_kind"))
np.savez(sys.argv[2], features=judged.features, labels=judged.labels, recyclings=recyclings, kinds=kinds)
"""


@pytest.fixture(scope="module")
async def lived(fresh_database: FreshDatabase) -> AsyncIterator[World]:
    """A service of some days: honest owners and abusers on shared devices, quotes, returns, complaints, findings."""
    world = await World.create(await fresh_database())
    draw = random.Random(7)
    recorder = OutcomeRecorder(world.store)
    await asleep(world, recorder)
    for hour in range(ROUNDS):
        # The young are settled with the recycle.
        segment = "YOUNG" if hour % 12 == 0 else None
        cards = await world.issue_many(4, external_serial=None, segment=segment)
        for place, card in enumerate(cards):
            await world.answer(activate(card, circumstances=theirs(draw, hour, place)))
        await world.move(timedelta(minutes=20))
        if hour % 5 == 0:
            await world.answer(quote(cards[0], circumstances=theirs(draw, hour, 0)))
        commands = [recycle(card, circumstances=theirs(draw, hour, place)) for place, card in enumerate(cards)]
        await world.engine.submit(commands)
        await world.move(timedelta(minutes=40))
        for place, card in enumerate(cards):
            (live,) = await world.owner.fetch(
                "SELECT recycling_id, create_time FROM recycling WHERE account_id = $1", card.account_id
            )
            kind = OutcomeKind.CONFIRMED_FRAUD if place == 3 else OutcomeKind.CONFIRMED_GENUINE
            if place == 3 and hour % 4 == 0:
                await world.answer(void(card, VoidReason.CHARGEBACK))
                await world.move(timedelta(minutes=30))
                # Of some, later on, nobody believes it any more: but it was known to features meanwhile.
                kind = OutcomeKind.CONFIRMED_GENUINE if hour % 8 == 0 else kind
            if place == 2 and hour % 4 == 0:
                kind = OutcomeKind.COMPLAINT
            told = NewOutcome(
                account_id=card.account_id, recycling_id=live["recycling_id"], kind=kind, time=live["create_time"]
            )
            await recorder.record(told)
            if place in (1, 3) and hour % 6 == 0 and not (place == 3 and hour % 4 == 0):
                returned = types_pb2.Recycling(account_id=card.account_id, recycling_id=str(live["recycling_id"]))
                await world.answer(reactivate(returned, circumstances=theirs(draw, hour, place)))
                await world.move(timedelta(minutes=1))
                another = await world.issue(account_id=card.account_id, segment=segment)
                await world.recycled(another, circumstances=theirs(draw, hour, place))
    await investigated(world, draw)
    await world.move(timedelta(days=2))
    await world.issue(account_id="the last")
    yield world
    broken = await world.broken()
    await world.close()
    assert not broken


async def asleep(world: World, recorder: OutcomeRecorder) -> None:
    """Whose expired cards the service recycles by itself; of one of them a fraud is found, before the rest of them."""
    cards = [await world.issue("netflix", "asleep", duration_days=1) for _ in range(2)]
    cards += [await world.issue("netflix", "asleep", duration_days=2) for _ in range(2)]
    for days in (31, 1):
        await world.move(timedelta(days=days))
        for _ in cards:
            await world.sweep()
        found = await world.owner.fetchval(
            "SELECT recycling_id FROM recycling WHERE account_id = 'asleep' ORDER BY create_time, recycling_id LIMIT 1"
        )
        told = NewOutcome(account_id="asleep", recycling_id=found, kind=OutcomeKind.CONFIRMED_FRAUD, time=None)
        await recorder.record(told)


async def investigated(world: World, draw: random.Random) -> None:
    """Two findings about an account as a whole, which nobody told of its requests; it goes on for some days. One that
    was cleared again, too."""
    for account_id, label in (("ringleader", 1), ("cleared", 1), ("ringleader", 1), ("cleared", 0)):
        for _ in range(2):
            card = await world.issue(account_id=account_id)
            await world.answer(
                recycle(card, circumstances=circumstances(f"of-{account_id}", rooted=draw.random() < 0.5))
            )
            await world.move(timedelta(hours=5))
        await world.owner.execute(
            "INSERT INTO risk_label (account_id, label, source, label_time) VALUES ($1, $2, 'audit', service_clock())",
            account_id,
            label,
        )
        await world.move(timedelta(hours=1))
    await world.recycled(await world.issue(account_id="ringleader"), circumstances=circumstances("of-ringleader"))
    # Another account that is seen on the same device.
    await world.recycled(await world.issue(), circumstances=circumstances("of-ringleader"))


def theirs(draw: random.Random, hour: int, place: int) -> Circumstances:
    """The fourth of each round is on a device that six rounds share; the others on their own."""
    device = f"farm-{hour // 6}" if place == 3 else f"phone-{hour}-{place}"
    return circumstances(
        device,
        ip=f"10.0.{hour // 8}.{place if place == 3 else draw.randrange(200)}",
        model=f"model-{draw.randrange(6)}",
        session_seconds=float(draw.randrange(5, 900)),
        page_views=draw.randrange(40),
        rooted=draw.random() < 0.2,
    )


async def worker(*arguments: str, **environment: str) -> str:
    """What a command of the worker prints; it must succeed."""
    return await run([sys.executable, "-m", "fraud_worker", *arguments], environment)


async def run(command: list[str], environment: dict[str, str]) -> str:
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(PROJECT), str(PROJECT / "protos"))), **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
async def log(lived: World, open_folder: Path) -> Path:
    """The export of all, made by the login of the server."""
    file = open_folder / "export.parquet"
    said = await worker("export", "--out", str(file), "--mature-days", "1", DATABASE_URL=lived.server_url)
    assert said == f"{await lived.owner.fetchval('SELECT count(*) FROM risk_event')} events in {file}\n"
    return file


async def test_export_trains_on_the_rows_that_were_scored(lived: World, log: Path, open_folder: Path) -> None:
    """The feature rows that training computes from an export are those that the receipts hold, to the last bit."""
    found = open_folder / "rows.npz"
    await run([sys.executable, "-c", PARITY, str(log), str(found)], {})
    rows = np.load(found)
    judged = {
        (kind, recycling): row
        for kind, recycling, row in zip(rows["kinds"], rows["recyclings"], rows["features"], strict=True)
    }
    receipts = await receipts_of(lived)
    assert len(judged) == len(rows["labels"]) > 3 * ROUNDS
    assert judged.keys() <= receipts.keys()
    differing = {
        name
        for key, row in judged.items()
        for name, trained, served in zip(FEATURE_NAMES, row, receipts[key], strict=True)
        if not (trained == served or (np.isnan(trained) and np.isnan(served)))
    }
    assert differing == set()
    confirmed = [row[FEATURE_NAMES.index(name)] for row in judged.values() for name in FEATURE_NAMES if "abuse" in name]
    assert np.nanmax(confirmed) >= 1
    shares = [row[FEATURE_NAMES.index("account_bonus_share_30d")] for row in judged.values()]
    assert np.nanmax(shares) > 0


async def receipts_of(world: World) -> dict[tuple[str, str], list[float]]:
    """The feature row of each judged request, by kind and recycling."""
    found = {}
    for row in await world.owner.fetch("""
        SELECT e.kind, e.recycling_id::text, c.receipt FROM command AS c
        JOIN risk_event AS e ON e.account_id = c.account_id AND e.request_id = c.request_id
        WHERE c.method IN ('Recycle', 'Reactivate')
    """):
        features = json.loads(row["receipt"])["features"]
        values = [features[name] for name in FEATURE_NAMES]
        found[row["kind"], row["recycling_id"]] = [float("nan") if value is None else float(value) for value in values]
    return found


async def test_export_trains(log: Path, open_folder: Path) -> None:
    """`fraud-worker train` makes a model of an export."""
    said = await worker("train", "--events", str(log), "--out", str(open_folder / "trained"))
    assert said.startswith("model ")


async def test_labels_are_what_became_of_the_requests(lived: World, log: Path) -> None:
    """A finding labels its request, whatever a chargeback said; a complaint leaves its request without a label."""
    frame = pl.read_parquet(log).filter(pl.col("event_kind") == "RECYCLE", pl.col("recycling_id").is_not_null())
    counts = dict(frame.group_by("label_source").len().iter_rows())
    complained_of, cleared = ROUNDS // 4, ROUNDS // 8
    fraud, genuine = ROUNDS - cleared, 3 * ROUNDS - complained_of + cleared
    # Who got his card back recycled another; so did one on the ringleader's device.
    returned = pl.read_parquet(log).filter(pl.col("event_kind") == "REACTIVATE").height
    of_accounts = {"ACCOUNT": 9, "SILENCE": 1 + returned}
    told = {"CONFIRMED_FRAUD": fraud, "CONFIRMED_GENUINE": genuine, None: complained_of}
    assert counts == told | of_accounts
    frame = frame.filter(pl.col("label_source").is_null() | ~pl.col("label_source").is_in(list(of_accounts)))
    abuse = frame.filter(pl.col("label"))
    assert abuse.height == fraud
    assert abuse.filter(pl.col("abuse_time") <= pl.col("label_time")).height == fraud
    assert frame.filter(~pl.col("label"), pl.col("abuse_time").is_not_null()).height == cleared
    assert frame["policy_revision"].unique().to_list() == ["iqiyi@1"]
    assert frame["model_version"].unique().to_list() == ["fake"]
    assert frame["platform"].unique().to_list() == ["iqiyi"]


async def test_finding_about_an_account_is_known_of_its_requests(log: Path) -> None:
    """What was found of an account as a whole labels its requests, of which nothing else is known, before and after;
    and each time that its abuse became known stands on one of its events."""
    frame = pl.read_parquet(log).filter(pl.col("account_id").is_in(["ringleader", "cleared"]))
    judged = frame.filter(pl.col("event_kind") == "RECYCLE")
    labels = {
        account_id: set(judged.filter(pl.col("account_id") == account_id)["label"])
        for account_id in ("ringleader", "cleared")
    }
    assert labels == {"ringleader": {True}, "cleared": {False}}
    assert judged.filter(pl.col("label_time") < pl.col("event_time")).is_empty()
    known = frame.filter(pl.col("abuse_time").is_not_null()).group_by("account_id").len()
    assert dict(known.iter_rows()) == {"ringleader": 2, "cleared": 1}


async def test_finding_labels_a_reactivation_and_is_known_once(lived: World, log: Path) -> None:
    """Abuse that is found of a recycling labels what undid it as well, but became known only once."""
    frame = pl.read_parquet(log)
    undone = frame.filter(pl.col("event_kind") == "REACTIVATE", pl.col("label"))
    assert undone.height and undone["abuse_time"].null_count() == undone.height
    known = await lived.owner.fetchval("SELECT count(*) FROM risk_label WHERE label = 1")
    assert frame["abuse_time"].drop_nulls().len() == known


async def test_what_the_service_recycled_is_labelled(log: Path) -> None:
    """What became of a card that the service took by itself is told of that, though no feature counts it."""
    frame = pl.read_parquet(log).filter(pl.col("account_id") == "asleep", pl.col("outcome").is_not_null())
    assert frame["event_kind"].to_list() == ["AUTO_RECYCLE"] * 4
    assert frame["label_source"].value_counts(sort=True).rows() == [("SILENCE", 3), ("CONFIRMED_FRAUD", 1)]
    assert frame["abuse_time"].null_count() == 3
    assert frame["disposition"].null_count() == 0


async def test_dry_runs_are_history_only(log: Path) -> None:
    """A quote is an event that features count, and has neither label nor attribution."""
    frame = pl.read_parquet(log).filter(pl.col("event_kind") == "RECYCLE", pl.col("recycling_id").is_null())
    assert frame.height == ROUNDS // 5
    assert frame["label"].null_count() == frame["model_version"].null_count() == frame.height


async def test_nothing_is_exported_in_the_clear(lived: World, log: Path) -> None:
    """Devices and addresses leave as the keyed hashes that the database holds."""
    frame = pl.read_parquet(log)
    assert tuple(frame.columns) == COLUMNS
    stored = await lived.owner.fetchval("SELECT count(DISTINCT device_hash) FROM risk_event")
    assert frame["device_hash"].drop_nulls().n_unique() == stored
    assert frame["device_hash"].drop_nulls().str.len_bytes().unique().to_list() == [32]


async def test_csv_is_the_same_log(lived: World, log: Path, open_folder: Path) -> None:
    """A CSV export, gzipped or not, reads as the Parquet one does."""
    from fraud_worker.event_log import read_log

    whole = read_log(log)
    for name in ("export.csv", "export.csv.gz"):
        file = open_folder / name
        await worker("export", "--out", str(file), "--mature-days", "1", DATABASE_URL=lived.server_url)
        assert read_log(file).equals(whole)


async def test_window_is_half_open(lived: World, log: Path, open_folder: Path) -> None:
    """Only events from --from on and before --to are written."""
    file = open_folder / "window.parquet"
    first, last = START + timedelta(days=32, hours=5), START + timedelta(days=32, hours=6)
    window = ("--from", f"{first:%Y-%m-%dT%H:%M:%S}", "--to", f"{last:%Y-%m-%dT%H:%M:%S}")
    await worker("export", "--out", str(file), *window, DATABASE_URL=lived.server_url)
    times = pl.read_parquet(log)["event_time"]
    expected = times.filter(times.is_between(first, last, "left"))
    assert pl.read_parquet(file)["event_time"].equals(expected)
    assert len(expected)


async def test_failed_export_leaves_nothing(open_folder: Path) -> None:
    """What cannot be read is said, and no half-written log lies about."""
    folder = open_folder / "failed-export"
    folder.mkdir()
    file = folder / "log.parquet"
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "fraud_worker", "export", "--out", str(file)],
        cwd=PROJECT,
        env={**os.environ, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, list(folder.iterdir())) == (1, [])
    assert done.stderr.startswith("fraud-worker: ")
