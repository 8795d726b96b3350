"""Columns of features on the wire become the matrix of the models, checked on the way.

Knows the contract's `FeatureColumns` and the registry's ranges; must not know models, nor who asks. No row is touched
by Python: a batch is a handful of numpy's passes.
"""

from __future__ import annotations

from functools import lru_cache
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
_LENGTH_DELIMITED: Final = 2
"""protobuf's wire type of packed fields."""
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
    values = _values(request.columns, request.row_count)
    unknown = values == UNKNOWN
    # NaN is neither inside nor unknown.
    if not (((values >= _LOWEST) & (values <= _HIGHEST)) | unknown).all():
        _refuse(values)
    values[unknown] = np.nan
    return values.T


QUESTIONS_PER_ROW_MAX: Final = 3
"""One a disposition."""


def check_questions(asked: pb.ConversionColumns, rows: int) -> None:
    """Raises `RequestRefused` where the columns are not of one length, too long, or name a row that is not there.
    Dispositions and segments may be news to this worker: of those it knows nothing."""
    count = len(asked.rows)
    if count > rows * QUESTIONS_PER_ROW_MAX:
        raise RequestRefused("conversions.rows", f"must be at most {QUESTIONS_PER_ROW_MAX} for each row")
    for name, column in (("dispositions", asked.dispositions), ("segments", asked.segments)):
        if len(column) != count:
            raise RequestRefused(f"conversions.{name}", f"must hold {count:,} values, one a question")
    if count and not 0 <= min(asked.rows) <= max(asked.rows) < rows:
        raise RequestRefused("conversions.rows", f"must lie between 0 and {rows - 1:,}")


def _values(columns: pb.FeatureColumns, rows: int) -> Matrix:
    """One line a feature."""
    values = np.full((len(FEATURES), rows), UNKNOWN, dtype="<f8")
    # Packed doubles lie in the serialized message as they lie in memory. Copying them from there takes about a quarter
    # of the time that protobuf takes to hand out its repeated fields.
    data, at = columns.SerializeToString(), 0
    memory, size = values.reshape(-1).view(np.uint8).data, rows * values.itemsize
    for place, head in _heads(size):
        if data.startswith(head, at):
            at += len(head)
            memory[place * size : (place + 1) * size] = data[at : at + size]
            at += size
    # Whatever else the message holds, a column of another length above all, stopped the walk through it.
    return values if at == len(data) else _values_one_by_one(columns, rows)


def _values_one_by_one(columns: pb.FeatureColumns, rows: int) -> Matrix:
    values = np.full((len(FEATURES), rows), UNKNOWN)
    for line, name in zip(values, FEATURE_NAMES, strict=True):
        column = getattr(columns, name)
        if len(column) not in (0, rows):
            why = f"must be empty or hold {rows:,} values, one a row, and not {len(column):,}"
            raise RequestRefused(f"columns.{name}", why)
        if column:
            line[:] = column
    return values


def _varint(number: int) -> bytes:
    """As protobuf writes lengths and tags."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


_TAGS: Final = [
    (place, _varint(field.number << 3 | _LENGTH_DELIMITED))
    for field, place in sorted(
        ((pb.FeatureColumns.DESCRIPTOR.fields_by_name[name], place) for place, name in enumerate(FEATURE_NAMES)),
        key=lambda found: found[0].number,
    )
]
"""In the order of field numbers: a column's place in the registry, and what stands before it on the wire."""


@lru_cache(maxsize=1_024)
def _heads(size: int) -> list[tuple[int, bytes]]:
    """A column's place in the registry and what stands before its `size` bytes, in the order of the wire."""
    return [(place, tag + _varint(size)) for place, tag in _TAGS]


def _refuse(values: Matrix) -> NoReturn:
    inside = ((values >= _LOWEST) & (values <= _HIGHEST)) | (values == UNKNOWN)
    # The first row at fault, and of it the first feature.
    row, column = (int(position) for position in np.argwhere(~inside.T)[0])
    feature = FEATURES[column]
    raise RequestRefused(
        f"columns.{feature.name}[{row}]",
        f"must lie between {feature.lowest:,.0f} and {feature.highest:,.0f}, or be {UNKNOWN:g} for unknown",
    )
