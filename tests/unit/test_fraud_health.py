"""The figures of a model's health, against values worked out by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from fraud_worker.health import (
    SHARE_MIN,
    Distribution,
    Reference,
    Thresholds,
    auc,
    calibration,
    comparison,
    drift,
    ranks,
    shares,
    slope,
    stability,
)

HALVES = Distribution(edges=[1.0], shares=[0.5, 0.4, 0.1])
"""Half below 1, 40 % from 1 on, 10 % unknown."""
BANDS = Thresholds(medium=0.5, high=0.8)
NAN = math.nan


def test_values_fall_into_their_bins() -> None:
    """A value on an edge belongs above it; the unknown have a bin of their own, the last."""
    assert shares(np.array([0.0, 1.0, 2.0, NAN]), [1.0, 2.0]).tolist() == [0.25, 0.25, 0.25, 0.25]


def test_stability_by_hand() -> None:
    """20 % below, 70 % above, 10 % unknown against 50, 40, 10: -0.3 ln 0.4 + 0.3 ln 1.75 = 0.4428."""
    values = np.array([0.0] * 2 + [1.0] * 7 + [NAN])
    assert stability(HALVES, values) == pytest.approx(-0.3 * math.log(0.4) + 0.3 * math.log(1.75))
    assert stability(HALVES, values) == pytest.approx(0.4428, abs=1e-4)


def test_stability_of_the_same_is_nothing() -> None:
    """What lies as in training has moved by nothing."""
    assert stability(HALVES, np.array([0.0] * 5 + [1.0] * 4 + [NAN])) == pytest.approx(0.0)


def test_stability_of_an_empty_bin_is_finite() -> None:
    """Where nothing is unknown any more: 0.1 becomes the least share, and its part lies with the others."""
    found = stability(HALVES, np.array([0.0] * 5 + [1.0] * 5))
    by_hand = 0.1 * math.log(0.5 / 0.4) + (SHARE_MIN - 0.1) * math.log(SHARE_MIN / 0.1)
    assert found == pytest.approx(by_hand)


def test_planted_drift_is_seen() -> None:
    """Of two features the one that was shifted by a deviation drifts, the other does not, and each says so by name."""
    draw = np.random.default_rng(0)
    edges = [-1.0, 0.0, 1.0]
    trained = draw.normal(size=20_000)
    expected = Distribution(edges=edges, shares=shares(trained, edges).tolist())
    reference = Reference(
        features={"shifted": expected, "still": expected},
        score=Distribution(edges=[0.5], shares=[0.9, 0.1, 0.0]),
        alert_rate=(0.0, 0.2),
    )
    rows = np.column_stack([draw.normal(1.0, size=3_000), draw.normal(size=3_000)])
    scores = np.where(np.arange(3_000) % 10 == 0, 0.6, 0.1)
    found = drift(["shifted", "still"], rows, scores, BANDS, reference)
    shifted, still = (feature.psi for feature in found.features)
    assert shifted is not None and still is not None and found.score_psi is not None
    assert (shifted > 0.25, still < 0.02, found.score_psi < 0.01) == (True, True, True)
    assert found.alert_rate == pytest.approx(0.1)


def test_null_rates_stand_beside_training() -> None:
    """A feature of which nothing is known any more is told with what it was."""
    reference = Reference(features={"a": HALVES}, score=HALVES, alert_rate=(0.0, 1.0))
    found = drift(["a", "b"], np.array([[NAN, 1.0], [NAN, 1.0]]), np.array([0.1, 0.1]), BANDS, reference)
    assert [(f.name, f.null_rate, f.expected_null_rate) for f in found.features] == [("a", 1.0, 0.1), ("b", 0.0, None)]
    assert found.features[1].psi is None


def test_model_without_reference_has_rates_only() -> None:
    """A model of which no training is known still has an alert rate and null rates."""
    found = drift(["a"], np.array([[NAN], [1.0]]), np.array([0.1, 0.9]), BANDS, None)
    assert (found.alert_rate, found.score_psi, found.features[0].psi) == (0.5, None, None)
    assert found.features[0].null_rate == 0.5


def test_calibration_by_hand() -> None:
    """Four rows at 0.1 with one abuse, four at 0.7 with two: ECE (4 x 0.15 + 4 x 0.2) / 8 = 0.175, Brier 0.25."""
    scores = np.array([0.1] * 4 + [0.7] * 4)
    labels = np.array([1, 0, 0, 0, 1, 1, 0, 0], dtype=np.int8)
    found = calibration(scores, labels)
    assert found.ece == pytest.approx(0.175)
    # (0.81 + 3 x 0.01 + 2 x 0.09 + 2 x 0.49) / 8
    assert found.brier == pytest.approx(2.0 / 8)
    # Of 3 x 5 pairs the positive at 0.1 ties with 3 of 5, those at 0.7 win 3 and tie with 2 of 5: 1.5 + 2 x 4 = 9.5.
    assert found.auc == pytest.approx(9.5 / 15)
    # Log odds of abuse ln(1/3) and 0, over those of the scores.
    assert found.slope == pytest.approx(math.log(3) / (math.log(0.7 / 0.3) - math.log(0.1 / 0.9)))
    assert [(each.rows, each.positive_share) for each in found.bins] == [(4, 0.25), (4, 0.5)]
    assert [each.mean_score for each in found.bins] == pytest.approx([0.1, 0.7])


def test_figures_agree_with_scikit_learn() -> None:
    """AUC with ties and Brier are those of training's evaluation."""
    draw = np.random.default_rng(1)
    scores = np.round(draw.uniform(size=500), 2)
    labels = (draw.uniform(size=500) < scores).astype(np.int8)
    found = calibration(scores, labels)
    assert found.auc == pytest.approx(roc_auc_score(labels, scores))
    assert found.brier == pytest.approx(brier_score_loss(labels, scores))
    assert found.slope == pytest.approx(1.0, abs=0.25)


def test_bold_scores_have_a_small_slope() -> None:
    """Scores whose log odds are doubled have half the slope."""
    draw = np.random.default_rng(2)
    odds = draw.normal(size=4_000)
    labels = (draw.uniform(size=4_000) < 1 / (1 + np.exp(-odds))).astype(np.int8)
    honest, bold = (slope(1 / (1 + np.exp(-odds * factor)), labels) for factor in (1.0, 2.0))
    assert honest is not None and bold is not None
    assert bold == pytest.approx(honest / 2)


@pytest.mark.parametrize("labels", [[], [0, 0], [1, 1]])
def test_labels_of_one_kind_tell_little(labels: list[int]) -> None:
    """Without both kinds there is neither AUC nor slope."""
    found = calibration(np.full(len(labels), 0.3), np.array(labels, dtype=np.int8))
    assert (found.rows, found.auc, found.slope) == (len(labels), None, None)


def test_scores_that_part_the_kinds_have_no_slope() -> None:
    """Perfectly separated kinds have AUC 1, and no finite slope."""
    scores, labels = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1], dtype=np.int8)
    assert (auc(scores, labels), slope(scores, labels)) == (1.0, None)


def test_equal_values_share_their_rank() -> None:
    """Ties get the mean of the places they take."""
    assert ranks(np.array([5.0, 1.0, 5.0, 7.0])).tolist() == [2.5, 1.0, 2.5, 4.0]


def test_challenger_beside_the_champion() -> None:
    """Bands agree each by its own thresholds, on the rows that both scored; AUCs are of the same labelled rows."""
    champion = np.array([0.1, 0.6, 0.9, 0.2, 0.4])
    challenger = np.array([0.2, 0.3, 0.95, NAN, 0.1])
    labelled = (np.array([0.1, 0.2, 0.9]), np.array([0.4, NAN, 0.3]), np.array([0, 1, 1], dtype=np.int8))
    found = comparison((champion, BANDS), (challenger, Thresholds(medium=0.25, high=0.9)), labelled)
    assert (found.rows, found.band_agreement) == (4, 1.0)
    # Ranks 1 3 4 2 against 2 3 4 1: 1 - 6 x 2 / (4 x 15).
    assert found.score_correlation == pytest.approx(0.8)
    assert (found.labelled_rows, found.champion_auc, found.challenger_auc) == (2, 1.0, 0.0)


def test_challenger_that_scored_nothing_tells_nothing() -> None:
    """Without common rows there is nothing to compare."""
    empty = np.array([]), np.array([]), np.array([], dtype=np.int8)
    found = comparison((np.array([0.5]), BANDS), (np.array([NAN]), BANDS), empty)
    assert (found.rows, found.band_agreement, found.score_correlation, found.challenger_auc) == (0, None, None, None)
