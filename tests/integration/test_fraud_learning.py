"""What is learnt of a log like a real shop's: no leak, no broken constraint, no made-up label, no log too odd."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bench.evasion import Burst, evade
from bench.figure import Figure
from bench.figures import AUC_OF_A_LEAK, ranking
from bench.splits import last_fifth
from fraud_worker.event_log import JudgedRows, judged_rows, read_log
from fraud_worker.fitting import Fitted, TrainingError, fit
from fraud_worker.registry import FEATURE_NAMES, FEATURES
from fraud_worker.scorer import Model
from fraud_worker.training import mature, train
from tests.judged import START, judged, write_shop_log


@pytest.fixture(scope="module")
def shop_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of a young shop."""
    path = tmp_path_factory.mktemp("logs") / "shop.csv"
    write_shop_log(path)
    return path


@pytest.fixture(scope="module")
def shop(shop_log: Path) -> JudgedRows:
    """Its judged rows."""
    return judged_rows([shop_log])


@pytest.fixture(scope="module")
def fitted(shop: JudgedRows) -> Fitted:
    """A model of them."""
    return fit(shop, seed=0)


def by_name(figures: Iterator[Figure]) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures}


def test_later_thieves_are_hardly_told_apart(shop: JudgedRows) -> None:
    """Where later abuse looks like everybody, a model that ranks it well has seen what it must not see."""
    auc = by_name(ranking(last_fifth(shop, seeds=[0]), AUC_OF_A_LEAK))["ranking_auc"]
    assert auc.value is not None and auc.value <= AUC_OF_A_LEAK
    assert not auc.beside["leak"]


def test_leak_fails_the_figure(shop: JudgedRows) -> None:
    """A feature that knows the label ranks far too well, and that is no success."""
    features = shop.features.copy()
    features[:, FEATURE_NAMES.index("session_seconds")] = 100 * shop.labels + np.arange(len(shop)) % 100
    leaking = JudgedRows(features=features, labels=shop.labels, events=shop.events)
    auc = by_name(ranking(last_fifth(leaking, seeds=[0]), AUC_OF_A_LEAK))["ranking_auc"]
    assert auc.value is not None and auc.value > AUC_OF_A_LEAK
    assert auc.beside["leak"] and not auc.reached


def test_trees_keep_every_direction(shop: JudgedRows, fitted: Fitted) -> None:
    """Raising one feature, from anywhere to anywhere, never moves the score against the registry's direction."""
    draw = np.random.default_rng(0)
    rows = shop.features[draw.choice(len(shop), 150, replace=False)]
    for column, feature in enumerate(FEATURES):
        if feature.direction == 0:
            continue
        lower, higher = rows.copy(), rows.copy()
        seen = shop.features[:, column][~np.isnan(shop.features[:, column])]
        values = np.concatenate([seen, [feature.lowest, feature.highest]])
        pairs = np.sort(draw.choice(values, (len(rows), 2)), axis=1)
        lower[:, column], higher[:, column] = pairs[:, 0], pairs[:, 1]
        moved = fitted.score(higher) - fitted.score(lower)
        assert (moved * feature.direction >= 0).all(), feature.name


def test_fitting_is_deterministic(shop: JudgedRows, fitted: Fitted) -> None:
    """The same rows and seed give the same bytes and the same calibration; another seed gives others."""
    again, other = fit(shop, seed=0), fit(shop, seed=1)
    assert (again.content, again.calibration) == (fitted.content, fitted.calibration)
    assert other.content != fitted.content


def test_probabilities_hold_after_the_burst(shop: JudgedRows, fitted: Fitted) -> None:
    """The mean score of the latest rows is their share of abuse, not that of the burst."""
    backtest = fitted.backtest
    assert shop.labels.mean() > 2 * backtest.rows.labels.mean()
    assert backtest.scores.mean() == pytest.approx(backtest.rows.labels.mean(), abs=0.02)


def test_only_labels_known_at_the_end_are_mature() -> None:
    """An event within the delay, and a label that came after the end, are left out and not taken for honest."""
    end = START + timedelta(days=10)
    hour = timedelta(hours=1)
    times = [end - 100 * hour, end - 50 * hour, end - 24 * hour, end - 23 * hour]
    rows = judged([0, 1, 1, 1], times=times, label_times=[None, end + hour, end, end])
    kept = mature(rows, end=end, label_delay=timedelta(hours=24))
    assert kept.events["row"].to_list() == [0, 2]
    assert kept.labels.tolist() == [0, 1]


def test_end_of_the_log_is_that_of_all_events(tmp_path: Path) -> None:
    """A label matures while the log goes on, though no later request has one."""
    write_shop_log(tmp_path / "shop.csv", days=40)
    last = judged_rows([tmp_path / "shop.csv"]).events["event_time"].max()
    with (tmp_path / "shop.csv").open("a") as file:
        file.write("2026-03-01T00:00:00Z,ACTIVATE,late,late,,,,,,\n")
    manifest = train([tmp_path / "shop.csv"], tmp_path / "model")
    assert datetime.fromisoformat(manifest.data_window[1]) == last


def test_abuse_that_is_known_late_is_not_calibrated_as_rare(shop: JudgedRows) -> None:
    """Rows so late that only honest labels have come in do not calibrate."""
    last = shop.events["event_time"].max()
    assert isinstance(last, datetime)
    slow = shop.events.with_columns(
        label_time=pl.when(pl.Series(shop.labels == 1)).then(pl.col("event_time") + timedelta(days=20))
    )
    rows = JudgedRows(features=shop.features, labels=shop.labels, events=slow)
    known = mature(rows, end=last, label_delay=timedelta())
    assert known.labels[known.events["event_time"] > last - timedelta(days=20)].sum() == 0
    assert fit(known, seed=0).unseen.rows.labels[-50:].sum() > 0


@pytest.mark.parametrize("positives", [3, 12])
def test_few_of_a_kind_are_enough(shop: JudgedRows, positives: int) -> None:
    """Where time slices would hold too few, accounts are parted instead, and every row still gets a fair score."""
    draw = np.random.default_rng(0)
    some = np.zeros(len(shop), dtype=bool)
    some[draw.choice(np.flatnonzero(shop.labels == 1), positives, replace=False)] = True
    some[draw.choice(np.flatnonzero(shop.labels == 0), 400, replace=False)] = True
    found = fit(shop.where(some), seed=0)
    assert len(found.unseen.rows) == positives + 400
    assert np.isfinite(found.score(shop.features)).all()


def test_too_few_of_a_kind_are_refused(shop: JudgedRows) -> None:
    """Without abuse there is nothing to learn, and the message says how much there was."""
    with pytest.raises(TrainingError, match="0 of them abuse"):
        fit(shop.where(shop.labels == 0), seed=0)


def test_log_without_devices_trains(tmp_path: Path) -> None:
    """A column that a log lacks is unknown in every row, in training, manifest and card."""
    write_shop_log(tmp_path / "shop.csv", days=40, devices=False)
    train([tmp_path / "shop.csv"], tmp_path / "model")
    bins = Model.load(tmp_path / "model").manifest.feature_bins
    assert bins["device_accounts_ever"].unknown == 1


def test_evasion_changes_devices_and_sign_ups_only(shop_log: Path) -> None:
    """Each judged abuser gets a device of its own and an older sign-up; requests and everybody else stay."""
    log = read_log(shop_log)
    burst = Burst(known_until=datetime(2026, 1, 8, tzinfo=UTC), until=datetime(2026, 3, 1, tzinfo=UTC))
    evaded = evade(log, burst, seed=0)
    changed = (log["device_id"] != evaded["device_id"]).to_numpy()
    asked = log.filter(pl.col("label") & pl.col("event_time").is_between(burst.known_until, burst.until, closed="left"))
    assert set(log.filter(pl.Series(changed))["account_id"]) == set(asked["account_id"])
    assert evaded.filter(pl.Series(changed))["device_id"].n_unique() == asked["account_id"].n_unique()
    moved = (log["event_time"] != evaded["event_time"]).to_numpy()
    assert set(log.filter(pl.Series(moved))["event_kind"]) == {"ACTIVATE"}
    assert not (moved & ~changed).any()
    assert evaded.equals(evade(log, burst, seed=0))
