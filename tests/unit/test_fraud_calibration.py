"""Calibration, thresholds and expectations: what follows from scores that no tree has seen."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fraud_worker import calibration, expectations
from fraud_worker.thresholds import Costs, CostsError, cheapest, read_costs


def drawn(odds: npt.NDArray[np.float64]) -> npt.NDArray[np.int8]:
    """Labels of which `odds` are the true log odds."""
    labels: npt.NDArray[np.int8] = (np.random.default_rng(1).random(len(odds)) < 1 / (1 + np.exp(-odds))).astype(
        np.int8
    )
    return labels


def test_calibration_undoes_a_distortion() -> None:
    """Scores that are too sure, and of another base rate, become the true probabilities."""
    odds = np.random.default_rng(0).normal(-2, 1.5, 20_000)
    found = calibration.fitted(2 * odds + 3, drawn(odds))
    assert found.slope == pytest.approx(0.5, rel=0.05)
    assert np.abs(found.probabilities(2 * odds + 3) - 1 / (1 + np.exp(-odds))).mean() < 0.01


def test_order_of_scores_is_kept() -> None:
    """Even where the slice says that high scores are honest, a higher score stays higher."""
    raw = np.linspace(-3, 3, 200)
    found = calibration.fitted(raw, (raw < 0).astype(np.int8))
    assert found.slope > 0
    assert (np.diff(found.probabilities(raw)) > 0).all()


@pytest.mark.parametrize("positives", [0, 1, 3])
def test_few_positives_move_the_slope_little(positives: int) -> None:
    """A handful of labels, however clear, cannot make the score certain."""
    raw = np.linspace(-5, 5, 300)
    labels = np.zeros(300, dtype=np.int8)
    labels[300 - positives :] = 1
    assert 0.3 < calibration.fitted(raw, labels).slope < 3


def test_thresholds_follow_the_costs() -> None:
    """Where nobody honest scores high, reviewing and rejecting begin where they get cheaper."""
    honest = np.full(1000, 0.01)
    found = cheapest(honest, Costs(approve_abuse=10, review_any=1, reject_honest=4))
    assert (found.medium, found.high) == (0.1, 0.75)


def test_thresholds_spare_the_honest() -> None:
    """At most 1 % of the honest reach MEDIUM and 0.2 % HIGH, whatever the costs say."""
    honest = np.linspace(0, 1, 1000)
    found = cheapest(honest, Costs())
    assert (honest >= found.medium).mean() <= 0.01
    assert (honest >= found.high).mean() <= 0.002


@pytest.mark.parametrize("text", ['{"review_any": 11}', '{"approve_fraud": 3}', "no JSON"])
def test_unsound_cost_table_is_refused(text: str, tmp_path: Path) -> None:
    """A review that costs more than what it prevents, an unknown cost, no table."""
    (tmp_path / "costs.json").write_text(text)
    with pytest.raises(CostsError, match=r"costs\.json"):
        read_costs(tmp_path / "costs.json")


def test_bins_share_out_all_values() -> None:
    """At most ten bins and the unknown, and their shares sum to 1."""
    values = np.random.default_rng(0).normal(size=5_000)
    values[:500] = np.nan
    bins = expectations.binned(values)
    assert len(bins.shares) == len(bins.edges) + 1 == 10
    assert bins.unknown == 0.1
    assert sum(bins.shares) + bins.unknown == pytest.approx(1)
    assert bins.counts(values).sum() == 5_000


def test_rare_counts_get_a_bin_of_their_own() -> None:
    """A count that is nearly always 0 still tells 0 from more."""
    bins = expectations.binned(np.array([0.0] * 999 + [3.0]))
    assert bins.edges == [3.0]
    assert bins.shares == [0.999, 0.001]


def test_values_above_a_constant_are_seen() -> None:
    """A feature that never varied has a bin for what is new."""
    bins = expectations.binned(np.zeros(100))
    assert bins.counts(np.array([0.0, 1.0, np.nan])).tolist() == [1, 1, 1]


def test_stability_is_zero_without_change_and_large_with_it() -> None:
    """The same values are calm; unknown instead of known is a change."""
    values = np.random.default_rng(0).normal(size=5_000)
    bins = expectations.binned(values)
    assert expectations.stability(bins, values) == pytest.approx(0, abs=1e-6)
    assert expectations.stability(bins, np.full(100, np.nan)) > 0.25


def test_alert_band_is_wider_where_alerts_come_in_waves() -> None:
    """All alerts on one day in ten say less of the next days than as many spread evenly."""
    day_us = 86_400_000_000
    times = np.repeat(np.arange(10), 100) * day_us
    even = expectations.alert_rate(np.tile(np.arange(100) < 10, 10), times)
    waves = expectations.alert_rate(times < day_us, times)
    assert even.share == waves.share == 0.1
    assert waves.low < even.low < 0.1 < even.high < waves.high
