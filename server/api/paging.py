"""Opaque page tokens over keyset order. Knows how a position becomes a token; must not know what is listed."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID

from server.domain.card import MICROSECOND
from server.domain.errors import Reason, Refusal

Row = TypeVar("Row")

PAGE_SIZE_DEFAULT = 50
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_POSITION = struct.Struct(">q16s")
NEWEST = (datetime(9000, 1, 1, tzinfo=UTC), UUID(int=2**128 - 1))
OLDEST = (_EPOCH, UUID(int=0))
"""Where lists start that go from the newest on, or from the oldest."""


def position(token: str, start: tuple[datetime, UUID] = NEWEST) -> tuple[datetime, UUID]:
    """The position a page begins after; `start` for an empty token. Raises Refusal for a token not of ours."""
    if not token:
        return start
    try:
        microseconds, identifier = _POSITION.unpack(base64.urlsafe_b64decode(token.encode("ascii")))
        return _EPOCH + timedelta(microseconds=microseconds), UUID(bytes=identifier)
    except (ValueError, struct.error, OverflowError) as error:
        raise Refusal(
            Reason.FIELD_INVALID,
            "page_token: not a token of this service",
            fields=(("page_token", "not a token of this service"),),
        ) from error


def page(found: list[Row], size: int, position_of: Callable[[Row], tuple[datetime, UUID]]) -> tuple[list[Row], str]:
    """The first `size` of `found`, which has one more if there is a next page, and that page's token."""
    shown = found[:size]
    return shown, token(*position_of(shown[-1])) if len(found) > size else ""


def token(moment: datetime, identifier: UUID) -> str:
    """The token of the page after this position."""
    return base64.urlsafe_b64encode(_POSITION.pack((moment - _EPOCH) // MICROSECOND, identifier.bytes)).decode()
