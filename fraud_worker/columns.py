"""Columns of features on the wire become the matrix of the models, checked on the way.

Knows the contract's `FeatureColumns` and the registry's ranges; must not know models, nor who asks. No row is touched
by Python: a batch is a handful of numpy's passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Final, NoReturn, Protocol

import numpy as np
import numpy.typing as npt
from fraud_scoring.v1 import fraud_scoring_service_pb2 as pb

from fraud_worker.registry import FEATURE_NAMES, FEATURES, REGISTRY_NAME, registry_sha256

UNKNOWN: Final = -1.0
"""What stands for an unknown value on the wire: no feature is negative."""

Matrix = npt.NDArray[np.float64]

_LOWEST: Final = np.array([[feature.lowest] for feature in FEATURES])
_HIGHEST: Final = np.array([[feature.highest] for feature in FEATURES])
_columns_of = attrgetter(*FEATURE_NAMES)
_SHA256: Final = registry_sha256()


class RequestRefused(ValueError):
    """A request cannot be taken as it is: `field` is at fault, and `why` says what it must be."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")
        self.field, self.why = field, why


class RowsRequest(Protocol):
    """What requests that bring rows have in common."""

    feature_registry: str
    feature_registry_sha256: str
    row_count: int

    @property
    def columns(self) -> pb.FeatureColumns:
        """The rows."""
        ...


def checked_matrix(request: RowsRequest, rows_max: int) -> Matrix:
    """The rows of `request`, one row a request and one column a feature, NaN for what is unknown.

    Raises `RequestRefused` for another registry, a count that is not 1 to `rows_max`, a column of another length, and
    any value that is not finite or out of its feature's range.
    """
    if request.feature_registry != REGISTRY_NAME:
        raise RequestRefused("feature_registry", f"this worker's features are of registry {REGISTRY_NAME!r}")
    if request.feature_registry_sha256 not in ("", _SHA256):
        raise RequestRefused("feature_registry_sha256", f"registry {REGISTRY_NAME!r} of this worker is another one")
    if not 1 <= request.row_count <= rows_max:
        raise RequestRefused("row_count", f"must be 1 to {rows_max:,}")
    values = _values(_columns_of(request.columns), request.row_count)
    unknown = values == UNKNOWN
    # NaN is neither inside nor unknown.
    if not (((values >= _LOWEST) & (values <= _HIGHEST)) | unknown).all():
        _refuse(values)
    values[unknown] = np.nan
    return values.T


def _values(columns: Sequence[Sequence[float]], rows: int) -> Matrix:
    """One line a feature."""
    lengths = set(map(len, columns))
    if lengths == {rows}:
        return np.array(columns, dtype=np.float64)
    if not lengths <= {0, rows}:
        number = next(number for number, column in enumerate(columns) if len(column) not in (0, rows))
        raise RequestRefused(
            f"columns.{FEATURE_NAMES[number]}",
            f"must be empty or hold {rows:,} values, one a row, and not {len(columns[number]):,}",
        )
    values = np.full((len(columns), rows), UNKNOWN)
    for line, column in zip(values, columns, strict=True):
        if column:
            line[:] = column
    return values


def _refuse(values: Matrix) -> NoReturn:
    inside = ((values >= _LOWEST) & (values <= _HIGHEST)) | (values == UNKNOWN)
    # The first row at fault, and of it the first feature.
    row, column = (int(position) for position in np.argwhere(~inside.T)[0])
    feature = FEATURES[column]
    raise RequestRefused(
        f"columns.{feature.name}[{row}]",
        f"must lie between {feature.lowest:,.0f} and {feature.highest:,.0f}, or be {UNKNOWN:g} for unknown",
    )
