"""The demo keeps what it promises, and can fail to."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

PROJECT = Path(__file__).resolve().parents[2]


def run(*arguments: str, expect: int) -> str:
    """Runs a module of the project and returns what it printed; its exit code must be `expect`."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=PROJECT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == expect, f"exit code {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def shuffled_model(open_folder: Path) -> Path:
    """A model trained like the shipped one, but on labels dealt out at random."""
    log, model = open_folder / "shuffled.parquet", open_folder / "shuffled-model"
    run("fraud_worker", "simulate", "--out", str(log), "--seed", "5", "--accounts", "3000", "--days", "30", expect=0)
    events = pl.read_parquet(log)
    judged = events["label"].is_not_null()
    labels = events.filter(judged)["label"].sample(fraction=1.0, shuffle=True, seed=3)
    dealt = events["label"].clone().scatter(judged.arg_true(), labels)
    events.with_columns(dealt.alias("label")).write_parquet(log)
    run("fraud_worker", "train", "--events", str(log), "--out", str(model), expect=0)
    return model


def test_demo_keeps_its_promises() -> None:
    """With the shipped model every promise of the demo is kept."""
    shown = run("local", "demo", expect=0)
    assert "BROKEN" not in shown
    assert shown.count("kept") >= 7


def test_demo_fails_with_a_model_that_knows_nothing(shuffled_model: Path) -> None:
    """A model trained on shuffled labels cannot tell the farm from honest owners, and the demo says so."""
    shown = run("local", "demo", "--model", str(shuffled_model), expect=1)
    assert "BROKEN" in shown
