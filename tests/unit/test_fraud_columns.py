"""The wire's columns become the matrix of the models, or are refused by name."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from fraud_scoring.v1.fraud_scoring_service_pb2 import FeatureColumns, ScoreRequest

from fraud_worker.columns import RequestRefused, checked_matrix
from fraud_worker.registry import FEATURE_NAMES, FEATURES, REGISTRY_NAME, registry_sha256


def request(
    rows: int = 2,
    columns: Mapping[str, Sequence[float]] | None = None,
    *,
    registry: str = REGISTRY_NAME,
    sha256: str = "",
) -> ScoreRequest:
    return ScoreRequest(
        feature_registry=registry,
        feature_registry_sha256=sha256,
        row_count=rows,
        columns=FeatureColumns(**columns or {}),
    )


def test_every_column_lands_in_its_own_place() -> None:
    """Values go where the registry says, row by row."""
    columns = {name: [float(place % 2), 0.0] for place, name in enumerate(FEATURE_NAMES)}
    matrix = checked_matrix(request(2, columns), 10)
    assert matrix.tolist() == [[float(place % 2) for place in range(len(FEATURE_NAMES))], [0.0] * len(FEATURE_NAMES)]


def test_minus_one_and_an_empty_column_are_unknown() -> None:
    """Unknown becomes NaN, whichever way it is said; zero stays zero."""
    matrix = checked_matrix(request(2, {"device_accounts_1h": [-1.0, 0.0]}), 10)
    assert np.isnan(matrix[0]).all()
    assert matrix[1, 0] == 0.0 and np.isnan(matrix[1, 1:]).all()


def test_full_columns_may_hold_unknown_values() -> None:
    """-1 is unknown in columns that are all full, too."""
    columns = {name: [-1.0, 1.0] for name in FEATURE_NAMES}
    matrix = checked_matrix(request(2, columns), 10)
    assert np.isnan(matrix[0]).all() and (matrix[1] == 1.0).all()


@pytest.mark.parametrize("full", [False, True], ids=["sparse", "full"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.5, -2.0, 1e300], ids=str)
def test_value_out_of_range_is_named(value: float, full: bool) -> None:
    """Feature and row are told, for every feature, whatever is wrong with the value."""
    for name in FEATURE_NAMES:
        columns = {other: [0.0, 0.0, 0.0] for other in FEATURE_NAMES} if full else {}
        with pytest.raises(RequestRefused) as refused:
            checked_matrix(request(3, columns | {name: [0.0, value, 0.0]}), 10)
        assert refused.value.field == f"columns.{name}[1]"


def test_range_ends_where_the_registry_says() -> None:
    """The greatest value is taken, and anything above it is not."""
    for feature in FEATURES:
        taken = checked_matrix(request(1, {feature.name: [feature.highest]}), 10)
        assert np.nanmax(taken) == feature.highest
        with pytest.raises(RequestRefused):
            checked_matrix(request(1, {feature.name: [math.nextafter(feature.highest, math.inf)]}), 10)


def test_first_row_at_fault_is_named() -> None:
    """Of several faults the first row's is told, and of that row the first feature's."""
    last, first = FEATURE_NAMES[-1], FEATURE_NAMES[0]
    with pytest.raises(RequestRefused) as refused:
        checked_matrix(request(2, {first: [0.0, -7.0], last: [-7.0, 0.0]}), 10)
    assert refused.value.field == f"columns.{last}[0]"


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (request(registry="v0"), "feature_registry"),
        (request(registry=""), "feature_registry"),
        (request(sha256="0" * 64), "feature_registry_sha256"),
        (request(0), "row_count"),
        (request(11), "row_count"),
        (request(-1), "row_count"),
        (request(2, {"vpn": [1.0]}), "columns.vpn"),
        (request(2, {"vpn": [1.0, 1.0, 1.0]}), "columns.vpn"),
    ],
)
def test_request_that_does_not_fit_is_refused(asked: ScoreRequest, field: str) -> None:
    """Another registry, too many rows or none, and columns of another length are named."""
    with pytest.raises(RequestRefused) as refused:
        checked_matrix(asked, 10)
    assert refused.value.field == field


def test_registry_may_be_pinned_by_its_hash() -> None:
    """The worker's own hash is accepted."""
    assert checked_matrix(request(sha256=registry_sha256()), 10).shape == (2, len(FEATURE_NAMES))


def test_fields_of_a_later_contract_do_not_disturb() -> None:
    """What this worker does not know is passed over, and what it knows is read as ever."""
    known = FeatureColumns(device_accounts_1h=[3.0, -1.0], vpn=[0.0, 1.0])
    later = FeatureColumns.FromString(b"\x82\x7d\x03new" + known.SerializeToString() + b"\x8a\x7d\x00")
    asked = ScoreRequest(feature_registry=REGISTRY_NAME, row_count=2)
    asked.columns.CopyFrom(later)
    matrix = checked_matrix(asked, 10)
    assert matrix[0, 0] == 3.0 and np.isnan(matrix[1, 0])
    assert matrix[:, FEATURE_NAMES.index("vpn")].tolist() == [0.0, 1.0]
    assert np.count_nonzero(~np.isnan(matrix)) == 3


@pytest.mark.parametrize("rows", [1, 15, 16, 127, 1000])
def test_any_number_of_rows_is_read_exactly(rows: int) -> None:
    """Every value arrives, however long a column's length is written."""
    values = np.random.default_rng(rows).integers(0, 2, (len(FEATURE_NAMES), rows)).astype(float)
    columns = dict(zip(FEATURE_NAMES, values.tolist(), strict=True))
    assert (checked_matrix(request(rows, columns), 1000) == values.T).all()
