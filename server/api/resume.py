"""Tokens of places in the order of events. Knows how a place and the filter it belongs to become a token; must not know
what events are.

A token is no secret and no proof: it says where its owner was, and what was being read is checked against the log. So
it is not signed, and outlives the service's keys; a checksum tells garbage, and the filter it was given for.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from datetime import timedelta
from uuid import UUID

from server.domain.card import MICROSECOND
from server.domain.errors import Reason, Refusal
from server.domain.events import EPOCH, EventFilter, Position

_FORM = 1
_HEAD = struct.Struct(">BQ16sqq")
_CHECK_BYTES = 8


class ResumeTokens:
    """The tokens of streams with one filter."""

    def __init__(self, wanted: EventFilter) -> None:
        bound = repr((wanted.platform, wanted.account_id, wanted.card_id, sorted(wanted.kinds)))
        self._bound = hashlib.sha256(bound.encode())

    def token(self, position: Position) -> str:
        """The token that resumes after `position`."""
        moment_us = (position.event_time - EPOCH) // MICROSECOND
        head = _HEAD.pack(_FORM, position.xact, position.subject_id.bytes, position.version, moment_us)
        return self._sealed(head + position.account_id.encode())

    def position(self, token: str) -> Position:
        """Where a token resumes. Raises Refusal FIELD_INVALID for what is no token, or another filter's."""
        try:
            data = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
            body = data[:-_CHECK_BYTES]
            form, xact, subject_id, version, moment_us = _HEAD.unpack(body[: _HEAD.size])
            account_id = body[_HEAD.size :].decode()
            event_time = EPOCH + timedelta(microseconds=moment_us)
        except (ValueError, struct.error, OverflowError) as error:
            raise _invalid("not a token of this service") from error
        # No account has a NUL in its id, and no text of the database may.
        if form != _FORM or "\0" in account_id or token != self._sealed(body):
            raise _invalid("not a token of this service for the same filter")
        return Position(xact, account_id, UUID(bytes=subject_id), version, event_time)

    def _sealed(self, body: bytes) -> str:
        check = self._bound.copy()
        check.update(body)
        return base64.urlsafe_b64encode(body + check.digest()[:_CHECK_BYTES]).decode().rstrip("=")


def _invalid(text: str) -> Refusal:
    return Refusal(Reason.FIELD_INVALID, f"resume_token: {text}", fields=(("resume_token", text),))
