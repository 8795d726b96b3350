"""Attack augmentation: a disguise takes evidence away, and nothing else."""

import numpy as np
import pytest

from fraud_worker.attacks import (
    BLANK_WEIGHT_SHARE,
    EXCESS_WEIGHT_SHARE,
    WEIGHT_SHARE,
    Copies,
    blanked,
    disguised,
    excessive,
)
from fraud_worker.registry import FEATURE_NAMES
from tests.judged import judged

HONEST_AGES = (86_400.0 * 40, 86_400.0 * 50)


def copies(*parts: str, **abuse: float) -> Copies:
    """The copies of one abusive row that hides by `parts`, beside two honest rows."""
    features = {name: (value, 0.0, 0.0) for name, value in abuse.items()}
    features["account_age_seconds"] = (abuse.get("account_age_seconds", np.nan), *HONEST_AGES)
    rows = judged([1, 0, 0], features)
    return disguised(rows.features, rows.labels, seed=0, disguises=(parts,))


def value(made: Copies, name: str) -> float:
    return float(made.features[0, FEATURE_NAMES.index(name)])


def test_fresh_device_has_seen_nobody() -> None:
    """Counts of the device fall to those of a first sight; look-alikes, which the abuser cannot shed, stay."""
    made = copies("device", device_accounts_24h=7, device_cards_30d=8, device_age_seconds=900, look_alike_accounts_1h=6)
    assert value(made, "device_accounts_24h") == 0
    assert value(made, "device_cards_30d") == 1
    assert value(made, "device_age_seconds") == 0
    assert value(made, "look_alike_accounts_1h") == 6


def test_aged_account_is_as_old_as_an_honest_one() -> None:
    """The age of a disguised account is that of some honest account."""
    made = copies("age", account_age_seconds=3.0, device_accounts_24h=7)
    assert value(made, "account_age_seconds") in HONEST_AGES
    assert value(made, "device_accounts_24h") == 7


def test_new_address_was_never_seen() -> None:
    """Counts of address and network fall to zero."""
    made = copies("address", address_accounts_1h=5, prefix_recycles_1h=9, device_accounts_24h=7)
    assert (value(made, "address_accounts_1h"), value(made, "prefix_recycles_1h")) == (0, 0)
    assert value(made, "device_accounts_24h") == 7


def test_unknown_stays_unknown() -> None:
    """A disguise knows no more of a device than the log did."""
    made = copies("device", "address", device_accounts_24h=7)
    assert np.isnan(value(made, "device_age_seconds"))
    assert np.isnan(value(made, "address_accounts_1h"))


def test_row_that_a_disguise_does_not_change_gives_no_copy() -> None:
    """Who already has a new address gains nothing by another."""
    assert not len(copies("address", address_accounts_1h=0, device_accounts_24h=7))


def test_copies_weigh_little() -> None:
    """All copies together weigh the stated share of the abuse, however many they are."""
    count = 30
    rows = judged([1] * count + [0] * 5, {"device_accounts_24h": [3.0] * (count + 5)})
    made = disguised(rows.features, rows.labels, seed=0, disguises=(("device",), ("device", "address")))
    assert len(made) == 2 * count
    assert made.weights.sum() == pytest.approx(WEIGHT_SHARE * count)


def test_large_logs_get_no_more_copies_than_rows() -> None:
    """Copies are drawn, the same by the same seed, and weigh no less for it."""
    count = 12_000
    rows = judged([1] * count, {"device_accounts_24h": [3.0] * count})
    made, again = (
        disguised(rows.features, rows.labels, seed=4, disguises=(("device",), ("device", "address"))) for _ in range(2)
    )
    assert len(made) == count
    assert made.weights.sum() == pytest.approx(WEIGHT_SHARE * count)
    assert np.array_equal(made.features, again.features, equal_nan=True)


def test_excess_lies_above_the_honest_in_one_known_count() -> None:
    """Each copy is an honest row but for one risk count, higher than nearly all the honest; one known count bears a
    tenth of the stated weight."""
    counts = [float(number % 3) for number in range(1_000)]
    rows = judged([0] * 1_000 + [1] * 100, {"account_reactivations_30d": [*counts, *[9.0] * 100]})
    made = excessive(rows.features, rows.labels, seed=0)
    raised = made.features[:, FEATURE_NAMES.index("account_reactivations_30d")]
    assert len(made) > 100
    assert raised.min() >= 3
    assert np.isnan(np.delete(made.features, FEATURE_NAMES.index("account_reactivations_30d"), axis=1)).all()
    assert made.weights.sum() == pytest.approx(EXCESS_WEIGHT_SHARE * 100 / 10)


def test_a_count_that_the_honest_fill_is_no_excess() -> None:
    """Where crowds of honest people reach the cap, more is not said to be abuse; nor by a handful of rows."""
    crowd = judged([0] * 1_000 + [1] * 10, {"prefix_recycles_1h": [190.0] * 1_010})
    handful = judged([0] * 20 + [1] * 10, {"prefix_recycles_1h": [0.0] * 30})
    assert not any(len(excessive(rows.features, rows.labels, seed=0)) for rows in (crowd, handful))


def test_a_count_that_the_honest_outgrow_is_no_excess() -> None:
    """What grows as long as the log goes on reaches any bound in the end, and so more of it is not said to be abuse."""
    growing = [float(number // 100) for number in range(2_000)]
    steady = [float(number % 20) for number in range(2_000)]
    made = [
        excessive(rows.features, rows.labels, seed=0)
        for counts in (growing, steady)
        for rows in [judged([0] * 2_000 + [1] * 10, {"account_confirmed_abuse": [*counts, *[9.0] * 10]})]
    ]
    assert [bool(len(copies)) for copies in made] == [False, True]


def test_blanks_are_as_often_honest_as_the_log() -> None:
    """What is left out says nothing: each row is blanked in every way, whichever its label, and weighs little."""
    rows = judged([1, 0, 0, 0], {"device_accounts_24h": [3.0] * 4, "page_views": [2.0] * 4, "amount_minor": [9.0] * 4})
    weights = np.array([1.0, 1.0, 1.0, 5.0])
    made = blanked(rows.features, rows.labels, weights, seed=0)
    assert len(made) == 12 and made.labels.sum() == 3
    assert made.weights.sum() == pytest.approx(BLANK_WEIGHT_SHARE * weights.sum())
    assert made.weights[made.labels == 1].sum() == pytest.approx(BLANK_WEIGHT_SHARE)
    known = {name: int(np.isfinite(made.features[:, FEATURE_NAMES.index(name)]).sum()) for name in FEATURE_NAMES}
    assert (known["device_accounts_24h"], known["page_views"], known["amount_minor"]) == (0, 8, 12)
