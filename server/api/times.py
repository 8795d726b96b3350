"""Times on the wire and back, to the microsecond. Must not know what happens at them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from server.domain.card import MICROSECOND
from server.domain.errors import Reason, Refusal

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def optional_time(message: Message, field: str, *, path: str = "") -> datetime | None:
    """An optional time; `path` leads to it from the request, where it is not the request's own field. Raises Refusal
    for nanoseconds that are none; the schema has checked the seconds."""
    if not message.HasField(field):
        return None
    given: Timestamp = getattr(message, field)
    if not 0 <= given.nanos < 1_000_000_000:
        text = "nanos must lie between 0 and 999999999"
        path = path or field
        raise Refusal(Reason.FIELD_INVALID, f"{path}: {text}", fields=((path, text),))
    return _EPOCH + timedelta(seconds=given.seconds, microseconds=given.nanos // 1000)


def timestamp(moment: datetime | None) -> Timestamp | None:
    """A time; None where there is none."""
    if moment is None:
        return None
    microseconds = (moment - _EPOCH) // MICROSECOND
    return Timestamp(seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1000)
