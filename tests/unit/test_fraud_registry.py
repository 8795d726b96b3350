"""The feature registry against the contract that carries its features."""

from pathlib import Path

from fraud_scoring.v1.fraud_scoring_service_pb2 import FeatureColumns
from google.protobuf import descriptor_pb2

from fraud_worker.registry import COUNT_MAX, FEATURE_NAMES, FEATURES, REGISTRY_NAME, as_markdown, registry_sha256
from server.scorer import FEATURE_REGISTRY, FEATURE_REGISTRY_SHA256


def test_registry_and_contract_name_the_same_features() -> None:
    """Every feature has a column in FeatureColumns, and there are no others. Field numbers follow the features' age."""
    assert {field.name for field in FeatureColumns.DESCRIPTOR.fields} == set(FEATURE_NAMES)
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES)


def test_no_feature_is_negative() -> None:
    """So -1 can stand for unknown on the wire."""
    assert [feature.name for feature in FEATURES if feature.lowest < 0] == []


def test_columns_are_packed_doubles() -> None:
    """What makes a batch cheap to read holds for every column."""
    descriptor = descriptor_pb2.DescriptorProto()
    FeatureColumns.DESCRIPTOR.CopyToProto(descriptor)
    assert {(field.type, field.label) for field in descriptor.field} == {
        (descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE, descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED)
    }


def test_server_asks_for_this_registry() -> None:
    """Name and hash that the server sends are this registry's: a changed definition changes both places."""
    assert (REGISTRY_NAME, registry_sha256()) == (FEATURE_REGISTRY, FEATURE_REGISTRY_SHA256)


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
