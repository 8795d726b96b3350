"""Evaluation: every figure against one worked out by hand."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from fraud_worker.evaluation import KINDS_MIN, best_single_count, metrics, recall_at, threshold_at
from tests.judged import judged

LABELS = np.array([0, 0, 1, 1], dtype=np.int8)
SCORES = np.array([0.1, 0.4, 0.35, 0.8])


def test_figures_are_those_worked_out_by_hand() -> None:
    """Four rows: of the four pairs of abuse and honest three are in order, and so on."""
    found = metrics(LABELS, SCORES, pl.Series(["a", "b", "c", "d"]))
    assert (found["rows"], found["positives"], found["base_rate"]) == (4, 2, 0.5)
    assert found["auc"] == pytest.approx(3 / 4)
    # Precision is 1 at the first of the abuse and 2/3 at the second.
    assert found["pr_auc"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["recall_at_1pct_fpr"] == found["recall_at_5pct_fpr"] == 0.5
    assert found["precision_at_top_1pct"] == 1
    brier = (0.1**2 + 0.4**2 + 0.65**2 + 0.2**2) / 4
    assert found["brier"] == pytest.approx(brier)
    assert found["brier_skill"] == pytest.approx(1 - brier / 0.25)
    # Of the 15 bins, 0.35 and 0.4 are in the sixth and the seventh.
    assert found["ece"] == pytest.approx((0.1 + 0.4 + 0.65 + 0.2) / 4)
    assert found["auc_ci95"] is None  # two accounts of a kind tell nothing


def test_rows_of_one_bin_may_cancel_out() -> None:
    """Two scores of 0.5, one right and one wrong, are calibrated."""
    found = metrics(np.array([0, 1], dtype=np.int8), np.array([0.5, 0.5]), pl.Series(["a", "b"]))
    assert found["ece"] == 0
    assert found["calibration_slope"] is None


def test_figures_of_one_kind_of_label_are_null() -> None:
    """Without abuse, there is nothing to rank."""
    found = metrics(np.zeros(3, dtype=np.int8), SCORES[:3], pl.Series(["a", "b", "c"]))
    assert {found[name] for name in ("auc", "auc_ci95", "recall_at_1pct_fpr", "brier_skill", "calibration_slope")} == {
        None
    }


@pytest.mark.parametrize("stretch", [0.5, 1.0, 2.0])
def test_slope_tells_how_far_scores_are_stretched(stretch: float) -> None:
    """Log odds multiplied by a factor have a slope of its inverse."""
    draw = np.random.default_rng(0)
    odds = draw.normal(-1, 1, 40_000)
    labels = (draw.random(len(odds)) < 1 / (1 + np.exp(-odds))).astype(np.int8)
    scores = 1 / (1 + np.exp(-stretch * odds))
    found = metrics(labels, scores, pl.Series(np.arange(len(odds))).cast(pl.String))
    assert found["calibration_slope"] == pytest.approx(1 / stretch, rel=0.05)


def test_recall_counts_every_row_above_the_threshold() -> None:
    """One honest row in a hundred may be flagged, and the threshold lies above the second."""
    scores = np.concatenate([np.arange(100) / 200, [0.3, 0.493, 0.9]])
    labels = np.repeat(np.array([0, 1], dtype=np.int8), [100, 3])
    assert recall_at(0.01, labels, scores) == pytest.approx(2 / 3)
    assert threshold_at(0.01, labels, scores) == 0.493


def test_scores_tied_with_too_many_honest_count_for_nothing() -> None:
    """A threshold cannot part equal scores."""
    labels = np.repeat(np.array([0, 1], dtype=np.int8), [100, 10])
    assert recall_at(0.01, labels, np.ones(110)) == 0


def test_best_single_count_is_the_count_that_ranks_best() -> None:
    """Ages are no counts, and unknown ranks lowest."""
    rows = judged(
        [0, 0, 1, 1],
        {
            "device_accounts_24h": (0, 2, 1, 3),
            "device_accounts_ever": (np.nan, 0, 4, 5),
            "account_age_seconds": (1, 1, 2, 2),
        },
    )
    assert best_single_count(rows) == {"feature": "device_accounts_ever", "auc": 1.0}


def test_no_single_count_without_both_labels() -> None:
    """Nothing to rank is no figure."""
    assert best_single_count(judged([0, 0])) is None


def interval(labels: Any, scores: Any, accounts: Any = None) -> list[float] | None:
    names = pl.Series(range(len(labels)) if accounts is None else accounts).cast(pl.String)
    found: list[float] | None = metrics(labels.astype(np.int8), scores, names)["auc_ci95"]
    return found


@pytest.mark.parametrize("abusers", [1, KINDS_MIN - 1])
def test_few_of_a_kind_have_no_interval(abusers: int) -> None:
    """One abuser among thousands ranks somewhere: that says nothing of the next one. Nor do many requests of one."""
    labels = np.arange(3_000) < abusers
    assert interval(labels, np.random.default_rng(0).random(3_000)) is None
    many = np.arange(3_000) < 500
    assert interval(many, np.random.default_rng(0).random(3_000), np.where(many, np.arange(3_000) % abusers, 5)) is None


def test_kinds_parted_without_error_leave_doubt() -> None:
    """Five abusers above all others may have been luck; five hundred hardly."""
    few, many = np.arange(5_000) < 5, np.arange(5_000) < 500
    (low_of_few, high), (low_of_many, _) = interval(few, 1.0 * few) or [], interval(many, 1.0 * many) or []
    assert high == 1.0
    assert low_of_few < 0.8
    assert 0.99 < low_of_many < 1


def test_interval_holds_the_true_auc_as_often_as_it_says() -> None:
    """With a dozen abusers, too: nearly all of 40 samples' intervals hold the known AUC."""
    draw, held = np.random.default_rng(1), 0
    true = 0.9213503964748575  # two normal distributions two standard deviations apart
    for _ in range(40):
        labels = np.arange(312) < 12
        low, high = interval(labels, draw.normal(2.0 * labels, 1.0) / 20 + 0.5) or []
        held += low <= true <= high
    assert held >= 36


def test_weights_count_as_so_many_rows() -> None:
    """A row of weight 3 is judged as three rows like it."""
    weights = np.array([1, 3, 2, 1])
    times = np.repeat(np.arange(4), weights)
    accounts = pl.Series(["a", "b", "c", "d"])
    once = metrics(LABELS, SCORES, accounts, weights.astype(np.float64))
    repeated = metrics(LABELS[times], SCORES[times], accounts[times.tolist()])
    assert (once["rows"], once["positives"]) == (4, 2)
    for name in once.keys() - {"rows", "positives", "auc_ci95"}:
        assert once[name] == pytest.approx(repeated[name]), name
