"""The service's edge: feature rows become the matrix of the model."""

import math

import numpy as np
import pytest
from fraud_scoring.v1.fraud_scoring_service_pb2 import FeatureRow

from fraud_worker.registry import FEATURE_NAMES
from fraud_worker.scorer import RowsRefused
from fraud_worker.service import feature_matrix


def test_every_field_lands_in_its_own_column() -> None:
    """Values go where the registry says, whatever their type."""
    values = {name: position % 2 for position, name in enumerate(FEATURE_NAMES)}
    assert feature_matrix([FeatureRow(**values)]).tolist() == [list(values.values())]  # type: ignore[arg-type]


def test_missing_field_is_unknown_and_not_zero() -> None:
    """What is left out is NaN; an explicit zero is 0."""
    matrix = feature_matrix([FeatureRow(), FeatureRow(device_accounts_1h=0)])
    assert np.isnan(matrix[0]).all()
    assert matrix[1, 0] == 0.0


def test_given_nan_is_refused() -> None:
    """Unknown is said by leaving out, never by NaN."""
    with pytest.raises(RowsRefused) as refused:
        feature_matrix([FeatureRow(vpn=True), FeatureRow(session_seconds=math.nan)])
    assert (refused.value.row, refused.value.feature) == (1, "session_seconds")
