"""`fraud-worker explain`: one event of a log, judged as evaluate judges it, in words."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from fraud_worker.simulator import simulate, write_log


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world's log."""
    path = tmp_path_factory.mktemp("logs") / "log.csv"
    write_log(path, simulate(seed=7, accounts=60, days=6))
    return path


def command(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a command of the worker."""
    line = [sys.executable, "-m", "fraud_worker", name, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


def test_explanation_is_of_the_score_that_evaluate_gives(log: Path, tmp_path: Path) -> None:
    """The row's own number leads to the same features and the same score, and the parts add up."""
    scores = tmp_path / "scores.csv"
    assert command("evaluate", "--events", log, "--scores", scores, "--json").returncode == 0
    with scores.open() as file:
        last = list(csv.DictReader(file))[-1]
    done = command("explain", "--events", log, "--row", last["row"], "--json")
    assert done.returncode == 0, done.stderr
    explanation = json.loads(done.stdout)
    assert explanation["probability"] == pytest.approx(float(last["score"]), abs=1e-12)
    parts = [part["contribution"] for part in explanation["contributions"]]
    assert abs(math.fsum((explanation["base_value"], *parts)) - explanation["raw_score"]) < 1e-9


def test_event_without_a_label_is_explained_if_its_kind_is_judged(log: Path, tmp_path: Path) -> None:
    """What is still undecided can be asked about, and is told in a table with bars; what nobody judges cannot."""
    unlabelled = tmp_path / "unlabelled.csv"
    frame = pl.read_csv(log, infer_schema=False).drop("label", "label_time")
    frame.write_csv(unlabelled)
    kinds = frame["event_kind"].to_list()
    row = kinds.index("RECYCLE")
    done = command("explain", "--events", unlabelled, "--row", str(row))
    assert done.returncode == 0, done.stderr
    assert f"row {row}: RECYCLE of" in done.stdout
    assert "█" in done.stdout and "log odds" in done.stdout and "MEDIUM from" in done.stdout
    done = command("explain", "--events", unlabelled, "--row", str(kinds.index("ISSUE")))
    assert done.returncode == 1
    assert "is of kind ISSUE and has no label" in done.stderr


@pytest.mark.parametrize("row", ["100000", "-1"])
def test_row_that_is_not_there_is_named(log: Path, row: str) -> None:
    """The error says which rows there are."""
    done = command("explain", "--events", log, "--row", row)
    assert done.returncode == 1
    assert f"there is no row {row}; rows go from 0 to " in done.stderr
