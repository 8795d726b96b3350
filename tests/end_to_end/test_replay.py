"""A replayed log leaves in the database what training makes of the same log."""

from __future__ import annotations

import json
from pathlib import Path

from clients.python.card_terms import CardTerms
from clients.python.event_log import read_events
from clients.python.replay import replay
from migrations.risk_log import serial_block
from tests.end_to_end.conftest import Service


async def test_replay_tells_serial_and_clock_of_the_log(service: Service, tmp_path: Path) -> None:
    """The serial's block and the clock's skew are those of the log, whatever time it is on this machine."""
    path = tmp_path / "log.csv"
    path.write_text(
        "event_time,event_kind,account_id,card_id,platform,serial,amount_minor,device_id,clock_skew_seconds\n"
        f"{service.now.isoformat()},RECYCLE,replayed-account,c-1,iqiyi,REPLAY-1201,2999,replayed-device,90.5\n"
    )
    async with service.another_client() as client:
        report = await replay(client, read_events(path), CardTerms())
    assert report["not_driven"] == 0, report
    async with service.owner() as owner:
        row = await owner.fetchrow(
            "SELECT signals, serial_block FROM risk_event WHERE account_id = 'replayed-account' AND kind = 'RECYCLE'"
        )
    assert row is not None
    assert row["serial_block"] == serial_block("iqiyi", "REPLAY-1201")
    assert json.loads(row["signals"])["clock_skew_seconds"] == 90.5
