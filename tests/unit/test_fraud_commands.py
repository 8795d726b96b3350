"""The worker's command line: whatever is wrong with what it is given, it says so and ends, without a trace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fraud_worker.__main__ import app

ROW = "event_time,event_kind,account_id,label\n2026-01-01T00:00:00Z,RECYCLE,a,1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with logs of several kinds."""
    (tmp_path / "one.csv").write_text(ROW)
    (tmp_path / "head.csv").write_text(ROW.partition("\n")[0])
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "junk.csv").write_bytes(bytes(range(256)))
    (tmp_path / "junk.parquet").write_bytes(bytes(range(256)))
    (tmp_path / "far.csv").write_text(ROW.replace("2026", "9999"))
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "evaluate --events {0}/one.csv --scores {0}/nowhere/file.csv",
        "evaluate --events {0}/one.csv --scores {0}/folder",
        "evaluate --events {0}/missing.csv",
        "evaluate --events {0}/junk.csv",
        "evaluate --events {0}/junk.parquet",
        "evaluate --events {0}/empty.csv",
        "evaluate --events {0}/head.csv",
        "evaluate --events {0}/folder",
        "evaluate --events {0}/far.csv",
        "evaluate --events {0}/one.csv --events {0}/one.csv",
        "evaluate --events {0}/one.csv --history {0}/missing.csv",
        "evaluate --events {0}/one.csv --model {0}/folder",
        "evaluate --events {0}/one.csv --model {0}/one.csv",
        "explain --events {0}/one.csv --row 7 --model {0}/folder",
        "train --events {0}/one.csv --out /proc/x",
        "train --events {0}/one.csv --out {0}/one.csv/model",
        "train --events {0}/missing.csv --out {0}/model",
        "train --events {0}/one.csv --out {0}/model --costs {0}/folder",
        "export --database-url nothing --out {0}/log.csv",
        "export --database-url postgres://127.0.0.1:1/x --out {0}/log.xls",
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(folder: Path, command: str) -> None:
    """Code 1, and why, on standard error."""
    done = CliRunner().invoke(app, command.format(folder).split())
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 1
    assert done.stdout == ""
    last = [line for line in done.stderr.splitlines() if " refused: " not in line]
    assert [line[:14] for line in last] == ["fraud-worker: "], done.stderr


@pytest.mark.parametrize(
    "command",
    [
        *(f"train --events log.csv --out model --label-delay-hours {hours}" for hours in ("inf", "nan", "-1", "1e300")),
        *(f"export --database-url x --out log.csv --mature-days {days}" for days in ("inf", "nan", "-1")),
        "export --database-url x --out log.csv --from 99999-01-01",
        "simulate --out log.xls",
        "simulate --out log.csv --start 9999-12-31",
        "simulate --out log.csv --start 0001-01-01",
        "simulate --out log.csv --days 100000000000",
        "serve --listen 127.0.0.1:99999",
        "serve --listen 127.0.0.1",
        "serve --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:99999",
        "serve --listen 127.0.0.1:0 --challenger-share nan",
        "explain --events log.csv --row x",
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(command: str) -> None:
    """Code 2, before anything is read or written."""
    done = CliRunner().invoke(app, command.split())
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 2
    assert done.stderr != ""


def test_disk_that_refuses_ends_it_with_one_line(tmp_path: Path) -> None:
    """Whatever the system says no to, no trace follows."""
    command = [
        sys.executable,
        "-m",
        "fraud_worker",
        "simulate",
        "--events",
        "10",
        "--out",
        f"{tmp_path}/nowhere/log.csv",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("fraud-worker: FileNotFoundError: ")
