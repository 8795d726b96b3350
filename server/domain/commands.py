"""What callers ask for, parsed. Knows each command's business input and how it is hashed; must not know the wire."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from server.domain.card import Card, VoidReason
from server.domain.recycling import Priority, RecycleReason, Unit
from server.domain.review import Review, ReviewVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """The device and session a request came from, and where value finally goes: keyed hashes (16 bytes each) and plain
    signals; None is unknown."""

    device_hash: bytes | None = None
    address_hash: bytes | None = None
    prefix_hash: bytes | None = None
    profile_hash: bytes | None = None
    payout_hash: bytes | None = None
    signals: Mapping[str, float | int | bool] = field(default_factory=dict)

    @property
    def names_device(self) -> bool:
        """Whether there is a device to count by and to list. Attributes alone are none: thousands share them."""
        return self.device_hash is not None

    def shared_keys(self) -> tuple[bytes, ...]:
        """What other accounts' requests may have in common with this one. The payout counts in no feature."""
        hashes = (self.device_hash, self.address_hash, self.prefix_hash, self.profile_hash)
        return tuple(h for h in hashes if h is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What all commands have. `dry_run`: everything but the transfer, and no record but a risk event."""

    method: ClassVar[str]
    risk_kind: ClassVar[str | None] = None
    """The kind of risk event that the command leaves when a caller asks for it; None leaves none."""
    scored: ClassVar[bool] = False
    """Whether the command is decided upon a risk score."""
    reads_lists: ClassVar[bool] = False
    """Whether the lists have a say in it."""

    request_id: UUID | None
    account_id: str
    card_id: UUID | None = None
    recycling_id: UUID | None = None
    review_id: UUID | None = None
    redemption_id: UUID | None = None
    dry_run: bool = False
    circumstances: Circumstances = Circumstances()

    @property
    def priority(self) -> Priority:
        """How pressing it is. Whoever calls waits for the answer."""
        return Priority.PERSON

    @property
    def event_kind(self) -> str | None:
        """The kind of risk event that it leaves; None leaves none."""
        return self.risk_kind

    @property
    def without_device(self) -> bool:
        """Whether it is judged and names no device, though whoever asks for it has one."""
        return self.scored and not self.circumstances.names_device

    def business_input(self) -> tuple[object, ...]:
        """The fields that must be the same when a request id comes again. Honest retries change the rest."""
        return (self.card_id, self.recycling_id)

    def input_hash(self) -> bytes:
        """SHA-256 over the method and the business input."""
        text = "\x1f".join(str(part) for part in (self.method, *self.business_input()))
        return hashlib.sha256(text.encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recycle(Command):
    """Take a card back. With `quote` it only asks, and has no request id. `automatic`: nobody asks for it; the service
    does it by itself, as the policy says."""

    method = "Recycle"
    risk_kind = "RECYCLE"
    scored = True
    reads_lists = True

    reason: RecycleReason
    unit: Unit | None = None
    quote_token: str = ""
    quote: bool = False
    automatic: bool = False

    @classmethod
    def of_itself(cls, card: Card) -> Recycle:
        """The recycle of an expired `card` by the service itself: the same command whichever server thinks of it."""
        return cls(
            request_id=own_request_id("Recycle", card.card_id, card.generation),
            account_id=card.account_id,
            card_id=card.card_id,
            reason=RecycleReason.EXPIRED,
            automatic=True,
        )

    @property
    def priority(self) -> Priority:
        """Anomalies before people before what the service does by itself."""
        if self.automatic:
            return Priority.BULK
        return Priority.ANOMALY if self.reason is RecycleReason.SYSTEM_ANOMALY else Priority.PERSON

    @property
    def event_kind(self) -> str | None:
        """What the service does by itself is nothing that the account did, so no feature counts it."""
        return "AUTO_RECYCLE" if self.automatic else self.risk_kind

    @property
    def without_device(self) -> bool:
        """The service itself has none."""
        return not self.automatic and not self.circumstances.names_device

    def business_input(self) -> tuple[object, ...]:
        """Card, reason, wanted unit and quote."""
        return (self.card_id, self.reason, self.unit, self.quote_token)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reactivate(Command):
    """Give the card of `recycling_id` back."""

    method = "Reactivate"
    risk_kind = "REACTIVATE"
    scored = True
    reads_lists = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Compensate(Command):
    """Settle the pending compensation of `recycling_id`."""

    method = "Compensate"
    risk_kind = "COMPENSATE"
    reads_lists = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant(Command):
    """Grant goodwill on `recycling_id`, beyond what it pays. `note`: why; no personal data."""

    method = "Compensate"
    reads_lists = True

    unit: Unit
    amount: int
    note: str

    def business_input(self) -> tuple[object, ...]:
        """What a plain settlement has, and the grant."""
        return (self.card_id, self.recycling_id, self.unit, self.amount, self.note)


@dataclass(frozen=True, slots=True, kw_only=True)
class WalletCommand(Command):
    """What is about no card: it changes the wallet by the rules of `platform`."""

    reads_lists = True

    platform: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Redeem(WalletCommand):
    """Take an offer of the platform."""

    method = "Redeem"

    offer_id: str

    def business_input(self) -> tuple[object, ...]:
        """Platform and offer."""
        return (self.platform, self.offer_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange(WalletCommand):
    """Change `amount` of the platform's `unit` into another unit; into less than `min_amount` of it rather not."""

    method = "Exchange"

    unit: Unit
    amount: int
    to_platform: str
    to_unit: Unit
    min_amount: int = 0

    def business_input(self) -> tuple[object, ...]:
        """All of it."""
        return (self.platform, self.unit, self.amount, self.to_platform, self.to_unit, self.min_amount)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activate(Command):
    """Start an ISSUED card's validity."""

    method = "ActivateCard"
    risk_kind = "ACTIVATE"

    etag: str = ""

    def business_input(self) -> tuple[object, ...]:
        """Card and etag."""
        return (self.card_id, self.etag)


@dataclass(frozen=True, slots=True, kw_only=True)
class BindDevice(Command):
    """Bind the device of `circumstances` to a card."""

    method = "BindDevice"

    etag: str = ""

    def business_input(self) -> tuple[object, ...]:
        """Card, device and etag: here the device is what is asked, not how."""
        return (self.card_id, (self.circumstances.device_hash or b"").hex(), self.etag)


@dataclass(frozen=True, slots=True, kw_only=True)
class Void(Command):
    """End a card that was paid back elsewhere."""

    method = "VoidCard"

    reason: VoidReason
    etag: str = ""

    def business_input(self) -> tuple[object, ...]:
        """Card, reason and etag."""
        return (self.card_id, self.reason, self.etag)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolve(Command):
    """A reviewer's verdict on `review_id`, which is about `recycling_id`."""

    method = "ResolveReview"

    verdict: ReviewVerdict
    reviewer: str
    note: str = ""
    etag: str = ""

    def business_input(self) -> tuple[object, ...]:
        """Review, verdict, reviewer, note and etag."""
        return (self.review_id, self.verdict, self.reviewer, self.note, self.etag)


def own_request_id(method: str, *parts: object) -> UUID:
    """The id of a request that nobody makes but the service itself: the same on every server, for the same `parts`.

    The first bytes of SHA-256 over method and parts, as a UUID of version 8. Callers' requests may not have one of that
    version, else who knows a card's id could take the id of what time will do to it.
    """
    digest = bytearray(hashlib.sha256("\x1f".join((method, *map(str, parts))).encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return UUID(bytes=bytes(digest))


OWN_REQUEST_VERSION = 8
"""The version of such ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCommand(Command):
    """What time does by itself, as a command. Nobody asks for it, so nobody waits for it."""

    @property
    def priority(self) -> Priority:
        """After all that somebody waits for."""
        return Priority.BULK


@dataclass(frozen=True, slots=True, kw_only=True)
class Expire(OwnCommand):
    """Record that a card's bound has passed."""

    method = "ExpireCard"

    @classmethod
    def of(cls, card: Card) -> Expire:
        """The expiry of `card` in its generation; there is one at most."""
        request_id = own_request_id(cls.method, card.card_id, card.generation)
        return cls(request_id=request_id, account_id=card.account_id, card_id=card.card_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseWindow(OwnCommand):
    """Record that the time in which a waiting card could come back is over."""

    method = "CloseWindow"

    @classmethod
    def of(cls, card: Card) -> CloseWindow:
        """The end of the waiting of `card` in its generation."""
        request_id = own_request_id(cls.method, card.card_id, card.generation)
        return cls(request_id=request_id, account_id=card.account_id, card_id=card.card_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireCoupon(OwnCommand):
    """Record that the coupon of `recycling_id`, or of `redemption_id`, was not used in time. `expired_since`: its
    expiry, or its settlement, if that came after."""

    method = "ExpireCoupon"

    expired_since: datetime

    @classmethod
    def of(cls, account_id: str, coupon_id: UUID, expired_since: datetime, *, redeemed: bool = False) -> ExpireCoupon:
        """The expiry of a coupon, whose id is that of its recycling, or of its redemption where it was `redeemed`."""
        return cls(
            request_id=own_request_id(cls.method, coupon_id),
            account_id=account_id,
            recycling_id=None if redeemed else coupon_id,
            redemption_id=coupon_id if redeemed else None,
            expired_since=expired_since,
        )

    def business_input(self) -> tuple[object, ...]:
        """The coupon."""
        return (self.card_id, self.recycling_id or self.redemption_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lapse(OwnCommand):
    """Record that the hold of `review_id` has ended by itself."""

    method = "LapseHold"

    @classmethod
    def of(cls, review: Review) -> Lapse:
        """The lapse of `review`: the same command whoever notices it first."""
        return cls(
            request_id=own_request_id(cls.method, review.review_id),
            account_id=review.account_id,
            recycling_id=review.recycling_id,
            review_id=review.review_id,
        )

    def business_input(self) -> tuple[object, ...]:
        """The review."""
        return (self.review_id,)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueItem:
    """One card to issue. Money in minor units."""

    request_id: UUID
    account_id: str
    platform: str
    tier: str
    segment: str | None
    face_value_minor: int
    paid_minor: int
    currency: str
    duration_days: int
    external_serial: str | None
    activate_by_time: datetime | None

    def input_hash(self) -> bytes:
        """SHA-256 over all the fields."""
        parts = (
            "IssueCards", self.platform, self.tier, self.segment, self.face_value_minor, self.paid_minor,
            self.currency, self.duration_days, self.external_serial, self.activate_by_time,
        )  # fmt: skip
        # No field is empty when it is given, so that "" stands for none; a serial may well read "None".
        return hashlib.sha256("\x1f".join("" if part is None else str(part) for part in parts).encode()).digest()
