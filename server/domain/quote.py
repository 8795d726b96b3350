"""Quote tokens: terms that a caller may hold the service to. Knows what a quote binds; must not know the wire."""

from __future__ import annotations

import base64
import hmac
from dataclasses import replace
from datetime import datetime, timedelta

from server.domain.card import MICROSECOND, Card
from server.domain.compensation import Terms
from server.domain.recycling import Disposition, RecycleReason
from server.domain.snapshot import SUPPORT_MAX, Conversion, Conversions

QUOTE_LIFETIME = timedelta(minutes=5)
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


class QuoteSigner:
    """Makes and checks tokens of the form EXPIRY.MAC, or EXPIRY.MAC.MODEL.TOLD, where TOLD is what the conversion model
    MODEL said when the alternatives were weighed. The MAC (HMAC-SHA-256) covers that, the expiry, the terms and the
    disposition.

    Terms and disposition are not in the token: whoever redeems it must arrive at the same ones. He can, since the
    token brings what the model said then, and would not say again: a quote is itself counted among the features.
    """

    def __init__(self, key: bytes) -> None:
        """`key`: at least 16 secret bytes, the same on every server."""
        if len(key) < 16:
            raise ValueError("the quote key must have at least 16 bytes")
        self._key = key

    def sign(
        self,
        card: Card,
        reason: RecycleReason,
        revision: str,
        terms: Terms,
        disposition: Disposition,
        conversions: Conversions | None,
        expire_time: datetime,
    ) -> str:
        """A token that holds `terms` and `disposition` for `card` until `expire_time`."""
        expiry_us = (expire_time - _EPOCH) // MICROSECOND
        told = _told(conversions)
        # A coupon's life begins with the recycle, whenever that is.
        compensation = terms.compensation and replace(terms.compensation, expire_time=None)
        bound = (
            card.account_id, card.card_id, card.version, reason, revision,
            terms.fee_minor, compensation, disposition, told, expiry_us,
        )  # fmt: skip
        mac = hmac.digest(self._key, repr(bound).encode(), "sha256")
        return f"{expiry_us}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}{told}"

    def holds(
        self,
        token: str,
        card: Card,
        reason: RecycleReason,
        revision: str,
        terms: Terms,
        disposition: Disposition,
        now: datetime,
    ) -> datetime | None:
        """Until when `token` holds exactly these terms and this disposition; None when it is forged, expired or for
        others."""
        expire_time = _expire_time_of(token)
        if expire_time is None:
            return None
        expected = self.sign(card, reason, revision, terms, disposition, promised(token), expire_time)
        same = hmac.compare_digest(token.encode(), expected.encode())
        return expire_time if same and now < expire_time else None


class RedeemedQuotes(QuoteSigner):
    """Takes recorded tokens at their word until they expire: a decision is recorded only where its token held, and what
    replays it has no key."""

    def __init__(self) -> None:
        super().__init__(bytes(16))

    def holds(
        self,
        token: str,
        card: Card,
        reason: RecycleReason,
        revision: str,
        terms: Terms,
        disposition: Disposition,
        now: datetime,
    ) -> datetime | None:
        """Until when `token` holds; None when it has expired."""
        expire_time = _expire_time_of(token)
        return expire_time if expire_time is not None and now < expire_time else None


def promised(token: str) -> Conversions | None:
    """What the model said when `token` was made, by its own words, which only `holds` checks; None when it was not
    heard, or this is no token."""
    _, _, told = token.partition(".")
    _, _, told = told.partition(".")
    version, _, rest = told.partition(".")
    try:
        return Conversions(model_version=version, of=tuple(map(_conversion, rest.split(",")))) if version else None
    except ValueError:
        return None


def _told(conversions: Conversions | None) -> str:
    if conversions is None or not conversions.of:
        return ""
    of = ",".join(f"{each.disposition}:{each.probability!r}:{each.support}" for each in conversions.of)
    return f".{conversions.model_version}.{of}"


def _conversion(text: str) -> Conversion:
    """Raises ValueError. Anybody can write a token, so numbers must not grow without bounds."""
    disposition, probability, support = text.split(":")
    told = Conversion(disposition=Disposition(disposition), probability=float(probability), support=int(support))
    if not (0 <= told.probability <= 1 and 0 <= told.support <= SUPPORT_MAX):
        raise ValueError(text)
    return told


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
