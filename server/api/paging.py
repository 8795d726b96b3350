"""Opaque page tokens over keyset order. Knows how a position becomes a token; must not know what is listed."""

from __future__ import annotations

import base64
import struct
from datetime import UTC, datetime, timedelta
from uuid import UUID

from server.domain.card import MICROSECOND
from server.domain.errors import Reason, Refusal

PAGE_SIZE_DEFAULT = 50
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_POSITION = struct.Struct(">q16s")
_START = (datetime(9000, 1, 1, tzinfo=UTC), UUID(int=2**128 - 1))


def position(token: str) -> tuple[datetime, UUID]:
    """The position a page begins after; the very start for an empty token. Raises Refusal for a token not of ours."""
    if not token:
        return _START
    try:
        microseconds, identifier = _POSITION.unpack(base64.urlsafe_b64decode(token.encode("ascii")))
        return _EPOCH + timedelta(microseconds=microseconds), UUID(bytes=identifier)
    except (ValueError, struct.error, OverflowError) as error:
        raise Refusal(
            Reason.FIELD_INVALID,
            "page_token: not a token of this service",
            fields=(("page_token", "not a token of this service"),),
        ) from error


def token(moment: datetime, identifier: UUID) -> str:
    """The token of the page after this position."""
    return base64.urlsafe_b64encode(_POSITION.pack((moment - _EPOCH) // MICROSECOND, identifier.bytes)).decode()
