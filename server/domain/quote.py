"""Quote tokens: terms that a caller may hold the service to. Knows what a quote binds; must not know the wire."""

from __future__ import annotations

import base64
import hmac
from dataclasses import replace
from datetime import datetime, timedelta

from server.domain.card import MICROSECOND, Card
from server.domain.compensation import Terms
from server.domain.recycling import RecycleReason

QUOTE_LIFETIME = timedelta(minutes=5)
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


class QuoteSigner:
    """Makes and checks tokens of the form EXPIRY.MAC, where the MAC (HMAC-SHA-256) covers the terms and the expiry.

    The terms themselves are not in the token: whoever redeems it must arrive at the same ones.
    """

    def __init__(self, key: bytes) -> None:
        """`key`: at least 16 secret bytes, the same on every server."""
        if len(key) < 16:
            raise ValueError("the quote key must have at least 16 bytes")
        self._key = key

    def sign(self, card: Card, reason: RecycleReason, revision: str, terms: Terms, expire_time: datetime) -> str:
        """A token that holds `terms` for `card` until `expire_time`."""
        expiry_us = (expire_time - _EPOCH) // MICROSECOND
        # A coupon's life begins with the recycle, whenever that is.
        compensation = terms.compensation and replace(terms.compensation, expire_time=None)
        bound = (
            card.account_id, card.card_id, card.version, reason, revision,
            terms.fee_minor, compensation, expiry_us,
        )  # fmt: skip
        mac = hmac.digest(self._key, repr(bound).encode(), "sha256")
        return f"{expiry_us}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"

    def holds(
        self, token: str, card: Card, reason: RecycleReason, revision: str, terms: Terms, now: datetime
    ) -> datetime | None:
        """Until when `token` holds exactly these terms; None when it is forged, expired or for other terms."""
        expire_time = _expire_time_of(token)
        if expire_time is None:
            return None
        expected = self.sign(card, reason, revision, terms, expire_time)
        same = hmac.compare_digest(token.encode(), expected.encode())
        return expire_time if same and now < expire_time else None


class RedeemedQuotes(QuoteSigner):
    """Takes recorded tokens at their word until they expire: a decision is recorded only where its token held, and what
    replays it has no key."""

    def __init__(self) -> None:
        super().__init__(bytes(16))

    def holds(
        self, token: str, card: Card, reason: RecycleReason, revision: str, terms: Terms, now: datetime
    ) -> datetime | None:
        """Until when `token` holds; None when it has expired."""
        expire_time = _expire_time_of(token)
        return expire_time if expire_time is not None and now < expire_time else None


def _expire_time_of(token: str) -> datetime | None:
    """When a token expires, by its own words; None when it is none."""
    expiry_text = token.partition(".")[0]
    if not (expiry_text.isascii() and expiry_text.isdigit() and len(expiry_text) <= 17):
        return None
    return _EPOCH + timedelta(microseconds=int(expiry_text))


def quote_expire_time(terms: Terms, now: datetime, valid_until: datetime | None) -> datetime:
    """Five minutes from `now`, or earlier: when the price steps, or the card's state changes by itself."""
    bounds = [now + QUOTE_LIFETIME, terms.change_time, valid_until]
    return min(bound for bound in bounds if bound is not None)
