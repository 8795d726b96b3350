"""Opaque page tokens over keyset order. Knows how a position becomes a token; must not know what is listed.

A token belongs to the question that it answered: with any other argument (but `page_size`) it is refused, since
it would leave out or repeat rows.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar
from uuid import UUID

from google.protobuf.message import Message

from server.domain.card import MICROSECOND
from server.domain.errors import Reason, Refusal

Row = TypeVar("Row")

PAGE_SIZE_DEFAULT = 50
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TOKEN = struct.Struct(">8sq16s")
NEWEST = (datetime(9000, 1, 1, tzinfo=UTC), UUID(int=2**128 - 1))
OLDEST = (_EPOCH, UUID(int=0))
"""Where lists start that go from the newest on, or from the oldest."""


class ListRequest(Protocol):
    """A message that asks for a page of a list."""

    page_size: int
    page_token: str


def size(request: ListRequest) -> int:
    """How many rows the page has at most."""
    return request.page_size or PAGE_SIZE_DEFAULT


def position(request: ListRequest, start: tuple[datetime, UUID] = NEWEST) -> tuple[datetime, UUID]:
    """The position the page begins after; `start` for the first page. Raises Refusal for a token not of ours, or of a
    list that was asked for with other arguments."""
    if not request.page_token:
        return start
    try:
        asked, microseconds, identifier = _TOKEN.unpack(base64.urlsafe_b64decode(request.page_token.encode("ascii")))
        found = _EPOCH + timedelta(microseconds=microseconds), UUID(bytes=identifier)
    except (ValueError, struct.error, OverflowError) as error:
        raise _refused("not a token of this service") from error
    if asked != _question(request):
        raise _refused("a token of a list that was asked for with other arguments")
    return found


def page(
    request: ListRequest, found: list[Row], rows_max: int, position_of: Callable[[Row], tuple[datetime, UUID]]
) -> tuple[list[Row], str]:
    """The first `rows_max` of `found`, which has one more if there is a next page, and that page's token."""
    shown = found[:rows_max]
    if len(found) <= rows_max:
        return shown, ""
    moment, identifier = position_of(shown[-1])
    packed = _TOKEN.pack(_question(request), (moment - _EPOCH) // MICROSECOND, identifier.bytes)
    return shown, base64.urlsafe_b64encode(packed).decode()


def _question(request: ListRequest) -> bytes:
    """What is asked for, page aside."""
    assert isinstance(request, Message)
    asked = type(request)()
    asked.CopyFrom(request)
    asked.ClearField("page_size")
    asked.ClearField("page_token")
    name = request.DESCRIPTOR.full_name.encode()
    return hashlib.sha256(name + b"\x00" + asked.SerializeToString(deterministic=True)).digest()[:8]


def _refused(why: str) -> Refusal:
    return Refusal(Reason.FIELD_INVALID, f"page_token: {why}", fields=(("page_token", why),))
