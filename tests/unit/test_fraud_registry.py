"""The feature registry against the contract that carries its features."""

from pathlib import Path

from fraud_scoring.v1.fraud_scoring_service_pb2 import FeatureRow

from fraud_worker.registry import COUNT_MAX, FEATURE_NAMES, FEATURES, as_markdown


def test_registry_and_contract_name_the_same_features() -> None:
    """Every feature has a field in FeatureRow, and there are no others. Field numbers follow the features' age."""
    assert {field.name for field in FeatureRow.DESCRIPTOR.fields} == set(FEATURE_NAMES)
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES)


def test_contract_can_tell_every_unknown_feature() -> None:
    """Every field of FeatureRow has presence, so that unknown is not zero."""
    assert all(field.has_presence for field in FeatureRow.DESCRIPTOR.fields)


def test_flags_and_counts_have_fitting_types_in_the_contract() -> None:
    """A flag is a bool, seconds and ratios are a double, and everything else is a whole number."""
    kinds = {field.name: field.type for field in FeatureRow.DESCRIPTOR.fields}
    types = {
        "flag": {FeatureRow.DESCRIPTOR.fields_by_name["vpn"].type},
        "seconds": {1},
        "ratio": {1},
        "count": {5},
        "milliseconds": {5},
        "minor units": {3},
    }
    assert [feature.name for feature in FEATURES if kinds[feature.name] not in types[feature.unit]] == []


def test_more_risk_never_lowers_a_score() -> None:
    """Every count of the history is monotone up, every age and gap that the history gives is monotone down."""
    history_counts = [feature for feature in FEATURES if feature.unit == "count" and feature.highest == COUNT_MAX]
    free = [feature.name for feature in history_counts if feature.direction != 1]
    assert free == ["profile_accounts_30d"]  # few of them make a rare fingerprint, many a common one
    ages = {"device_age_seconds", "account_age_seconds", "account_gap_seconds"}
    assert {feature.direction for feature in FEATURES if feature.name in ages} == {-1}


def test_page_of_features_is_the_registry() -> None:
    """docs/features.md is what `fraud-worker features` prints."""
    page = Path(__file__).resolve().parents[2] / "docs" / "features.md"
    assert page.read_text("utf-8") == as_markdown()
