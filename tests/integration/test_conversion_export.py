"""The export tells what became of recycles: who has paid again, who has not, and of whom it is too early to say."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import polars as pl
from card_recycling.v1 import types_pb2

from fraud_worker.export import export
from fraud_worker.log_reading import read_log
from server.domain.outcome import OutcomeKind
from server.engine.outcomes import OutcomeRecorder
from tests.integration.conftest import MakeWorld
from tests.integration.world import World, circumstances, news, quote


async def pays_again(world: World, recycling: types_pb2.Recycling) -> None:
    """The owner pays again, now."""
    await OutcomeRecorder(world.store).record(news(recycling, OutcomeKind.CONVERSION, time=None))


async def test_export_tells_conversions(new_world: MakeWorld, tmp_path: Path) -> None:
    """1 within the time in which it counts, 0 after it, nothing before; nothing either of what took no card."""
    world = await new_world()
    soon, late, never = [await world.recycled(await world.issue("tencent", segment="MIDDLE")) for _ in range(3)]
    await world.answer(quote(await world.issue("tencent")))
    refused = await world.recycled(await world.issue("iqiyi"), circumstances=circumstances(vpn=True))
    await world.move(timedelta(days=30))
    await pays_again(world, soon)
    await world.move(timedelta(days=61))
    await pays_again(world, late)
    young = await world.recycled(await world.issue("iqiyi"))
    for name in ("log.parquet", "log.csv"):
        await asyncio.to_thread(export, world.owner_url, tmp_path / name)
    assert read_log(tmp_path / "log.csv").equals(read_log(tmp_path / "log.parquet"))
    frame = pl.read_parquet(tmp_path / "log.parquet").filter(pl.col("event_kind") == "RECYCLE")
    told = {
        recycling_id: rest
        for recycling_id, *rest in frame.select("recycling_id", "disposition", "segment", "converted").iter_rows()
    }
    assert told == {
        soon.recycling_id: ["RESET_VALIDITY", "MIDDLE", True],
        late.recycling_id: ["RESET_VALIDITY", "MIDDLE", False],
        never.recycling_id: ["RESET_VALIDITY", "MIDDLE", False],
        young.recycling_id: ["VOUCHER", None, None],
        refused.recycling_id: [None, None, None],
        None: [None, None, None],
    }
    (moment,) = frame.filter(pl.col("converted"))["converted_time"]
    assert moment - frame.filter(recycling_id=soon.recycling_id)["event_time"].item() >= timedelta(days=30)
