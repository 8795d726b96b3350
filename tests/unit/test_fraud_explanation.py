"""Explanations add up to the score, and say what is known in words."""

import math
from pathlib import Path

import numpy as np
import pytest

from fraud_worker.__main__ import DEFAULT_MODEL
from fraud_worker.explanation import explain
from fraud_worker.registry import FEATURE_NAMES, FEATURES, Feature
from fraud_worker.scorer import Model
from fraud_worker.sentences import duration, sentence
from tests.fraud_models import noise, write_model


def of(unit: str, meaning: str, window: str = "", highest: float = 200.0) -> Feature:
    return Feature(name="x", meaning=meaning, unit=unit, window=window, direction=0, lowest=0.0, highest=highest)


@pytest.mark.parametrize("seed", [None, 1])
def test_contributions_add_up_to_the_raw_score(seed: int | None, tmp_path: Path) -> None:
    """Base value and contributions make the log odds, which calibration makes the very score of the row."""
    if seed is not None:
        write_model(tmp_path, seed)
    model = Model.load(DEFAULT_MODEL if seed is None else tmp_path)
    rows = noise(40)
    scores = model.score(rows).tolist()
    for explanation, score, raw in zip(explain(model, rows), scores, model.raw(rows).tolist(), strict=True):
        total = math.fsum((explanation.base_value, *(part.contribution for part in explanation.contributions)))
        assert abs(total - explanation.raw_score) < 1e-9
        assert (explanation.raw_score, explanation.probability) == (raw, score)
        calibration = model.manifest.calibration
        logit = calibration.slope * explanation.raw_score + calibration.intercept
        assert 1 / (1 + math.exp(-logit)) == pytest.approx(explanation.probability, rel=1e-12)


def test_every_feature_is_told_the_greatest_first() -> None:
    """Each feature once, with its value and reason code, ordered by what it adds, whichever its sign."""
    rows = np.full((1, len(FEATURE_NAMES)), np.nan)
    rows[0, 0] = 9
    (explanation,) = explain(Model.load(DEFAULT_MODEL), rows)
    parts = explanation.contributions
    assert sorted(part.feature for part in parts) == sorted(FEATURE_NAMES)
    sizes = [abs(part.contribution) for part in parts]
    assert sizes == sorted(sizes, reverse=True) and min(part.contribution for part in parts) < 0
    assert {part.feature: part.value for part in parts} == dict.fromkeys(FEATURE_NAMES) | {FEATURE_NAMES[0]: 9}
    assert all(part.reason_code == part.feature.upper() for part in parts)


@pytest.mark.parametrize(
    ("feature", "value", "said"),
    [
        (of("count", "others first seen", "24 h"), 5, "There were 5 others first seen in the last 24 hours."),
        (of("count", "others first seen", "1 h"), 1, "There was 1 other first seen in the last hour."),
        (of("count", "other entries of a card", "30 d"), 1, "There was 1 other entry of a card in the last 30 days."),
        (of("count", "other accounts seen here", "ever"), 0, "There were no other accounts seen here so far."),
        (of("count", "pages seen"), 200, "There were at least 200 pages seen."),
        (of("count", "pages seen", highest=1e6), 1234, "There were 1,234 pages seen."),
        (of("count", "pages seen", "30 d"), None, "It is unknown how many pages seen there were in the last 30 days."),
        (of("seconds", "since the last login; 0 for none"), 180, "It was 3 minutes since the last login."),
        (of("seconds", "since the last login"), None, "It is unknown how long it was since the last login."),
        (of("seconds", "length of the session"), 1, "The length of the session was 1 second."),
        (of("seconds", "length of the session"), None, "The length of the session is unknown."),
        (of("count", "requests that were rejected"), 1, "There was 1 request that was rejected."),
        (of("count", "numbers or codes of this card"), 1, "There was 1 number or code of this card."),
        (of("count", "accounts of abuse before", "ever"), 2, "There were 2 accounts of abuse before."),
        (of("count", "how often abuse was seen", "30 d"), 3, "How often abuse was seen in the last 30 days: 3."),
        (of("seconds", "how far the clock is off"), 90, "How far the clock is off: 1.5 minutes."),
        (of("milliseconds", "how long the form took"), 1500, "How long the form took: 1.5 seconds."),
        (of("ratio", "deviation over mean; unknown below 3"), 1 / 3, "Deviation over mean: 0.33."),
        (of("flag", "whether it is new", "ever"), 1, "It is new."),
        (of("flag", "whether the device is rooted"), 1, "The device is rooted."),
        (of("flag", "whether the device is rooted"), 0, "It is not so that the device is rooted."),
        (of("flag", "whether the device is rooted"), None, "It is unknown whether the device is rooted."),
        (of("minor units", "what was paid for the card"), 2999, "What was paid for the card: 2,999 minor units."),
        (of("share", "bonus of this account", "30 d"), None, "Bonus of this account in the last 30 days: unknown."),
    ],
)  # fmt: skip
def test_sentence_says_what_is_known(feature: Feature, value: float | None, said: str) -> None:
    """Counts agree with their nouns, times have units, and unknown is said to be unknown."""
    assert sentence(feature, value) == said


@pytest.mark.parametrize("value", [None, 0.0, 1.0])
def test_every_feature_has_a_sentence(value: float | None) -> None:
    """A feature of the registry needs no words of its own: one line, no gaps, a capital and a full stop."""
    for feature in FEATURES:
        said = sentence(feature, value)
        assert said[0].isupper() and said.endswith(".") and "  " not in said and "\n" not in said
        assert value is not None or "unknown" in said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 seconds"), (0.25, "0.2 seconds"), (1, "1 second"), (90, "1.5 minutes"), (10**6, "11.6 days")],
)  # fmt: skip
def test_duration_has_a_fitting_unit(seconds: float, said: str) -> None:
    """Spans of time are told in their greatest unit."""
    assert duration(seconds) == said
