"""Training the model of conversions: it finds the truth of the simulated world, which no label tells it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fraud_worker.conversion import ConversionModel
from fraud_worker.conversion_card import CARD_FILE, RELIABILITY_FILE
from fraud_worker.conversion_inputs import DISPOSITIONS, SEGMENTS
from fraud_worker.conversion_training import train
from fraud_worker.event_log import JudgedRows, converted_rows
from fraud_worker.fitting import TrainingError
from fraud_worker.scorer import MANIFEST_FILE, MODEL_FILE
from fraud_worker.simulation.conversion import probability
from fraud_worker.simulator import SimulatedEvent, simulate, write_log

MATURE = timedelta(days=60)
ECE_MAX = 0.02
BINS = 15


def world(seed: int, accounts: int) -> Iterator[SimulatedEvent]:
    """Half a year, of which the first three months are old enough."""
    return simulate(seed=seed, accounts=accounts, days=150)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log that trains."""
    path = tmp_path_factory.mktemp("logs") / "conversions.parquet"
    write_log(path, world(21, 14_000))
    return path


@pytest.fixture(scope="module")
def folder(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model trained on it."""
    folder = tmp_path_factory.mktemp("models") / "conversion"
    train([log], folder, mature=MATURE)
    return folder


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> tuple[JudgedRows, np.ndarray]:
    """Recycles of a world that trained nothing, and how probable each conversion truly was."""
    path = tmp_path_factory.mktemp("logs") / "later.parquet"
    events = list(world(22, 3_000))
    write_log(path, events)
    rows = converted_rows([path], mature=MATURE)
    truth = [
        probability(events[row], segment, disposition)
        for row, segment, disposition in rows.events.select("row", "segment", "disposition").iter_rows()
    ]
    return rows, np.array(truth)


def numbers(rows: JudgedRows, column: str, words: tuple[str, ...]) -> np.ndarray:
    """The wire's numbers of a column's words."""
    return np.array([words.index(word) + 1 if word in words else 0 for word in rows.events[column]])


def test_model_beats_what_needs_no_model(folder: Path) -> None:
    """On the latest rows it ranks better than the mean rate of segment and disposition, and is better calibrated than
    chance alone would have it."""
    figures = ConversionModel.load(folder).manifest.metrics
    assert figures["auc"] > figures["cells_auc"] + 0.02
    assert figures["brier"] < figures["cells_brier"]


def test_probabilities_are_the_truth_of_an_unseen_world(folder: Path, later: tuple[JudgedRows, np.ndarray]) -> None:
    """Over bins of equal width what the model says is within 2 % of how probable it truly was."""
    rows, truth = later
    model = ConversionModel.load(folder)
    segments, dispositions = numbers(rows, "segment", SEGMENTS), numbers(rows, "disposition", DISPOSITIONS)
    told = model.probabilities(rows.features, dispositions, segments)
    bins = np.minimum((told * BINS).astype(int), BINS - 1)
    off = np.abs(np.bincount(bins, told - truth, BINS)).sum() / len(told)
    assert off <= ECE_MAX
    assert np.corrcoef(told, truth)[0, 1] > 0.85


def test_support_counts_what_trained(folder: Path, log: Path) -> None:
    """Every cell, as the log has it; of combinations that no platform offers there is none."""
    frame = pl.read_parquet(log)
    old = frame.filter(
        pl.col("event_time") <= frame["event_time"].max() - pl.lit(MATURE), pl.col("converted").is_not_null()
    )
    model = ConversionModel.load(folder)
    young_reset = old.filter(segment="YOUNG", disposition="RESET_VALIDITY").height
    assert model.manifest.support["YOUNG/RESET_VALIDITY"] == young_reset > 100
    assert sum(model.manifest.support.values()) == old.height
    assert model.support(np.array([2, 0, 4]), np.array([1, 1, 1])).tolist() == [young_reset, 0, 0]


def test_same_log_trains_the_same_model(tmp_path: Path) -> None:
    """Training twice gives the same bytes and the same version; the folder is whole."""
    write_log(tmp_path / "small.parquet", world(23, 3_000))
    one, other = (train([tmp_path / "small.parquet"], tmp_path / name, mature=MATURE) for name in ("one", "other"))
    assert (tmp_path / "one" / MODEL_FILE).read_bytes() == (tmp_path / "other" / MODEL_FILE).read_bytes()
    assert one.version == other.version == ConversionModel.load(tmp_path / "one").version
    files = {path.name for path in (tmp_path / "one").iterdir()}
    assert files == {MODEL_FILE, MANIFEST_FILE, CARD_FILE, RELIABILITY_FILE}
    assert f"]({RELIABILITY_FILE})" in (tmp_path / "one" / CARD_FILE).read_text()


def test_young_recycles_and_late_conversions_do_not_count(tmp_path: Path) -> None:
    """Of recycles that are not old enough the converted would be known first; who came later counts as who did not."""
    path = tmp_path / "short.parquet"
    write_log(path, simulate(seed=24, accounts=300, days=60))
    end = pl.read_parquet(path)["event_time"].max()
    assert isinstance(end, datetime)
    rows = converted_rows([path], mature=timedelta(days=20))
    assert (rows.events["event_time"] <= end - timedelta(days=20)).all()
    in_time = rows.events["converted_time"] <= rows.events["event_time"] + timedelta(days=20)
    assert 0 < in_time.sum() < rows.events["converted"].sum()
    assert rows.labels.sum() == in_time.sum()
    with pytest.raises(TrainingError, match="old enough"):
        train([path], tmp_path / "none", mature=timedelta(days=55))
