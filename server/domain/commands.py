"""What callers ask for, parsed. Knows each command's business input and how it is hashed; must not know the wire."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar
from uuid import UUID, uuid5

from server.domain.card import VoidReason
from server.domain.recycling import RecycleReason, Unit
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
    """The kind of risk event that the command leaves; None leaves none."""
    scored: ClassVar[bool] = False
    """Whether the command is decided upon a risk score."""
    reads_lists: ClassVar[bool] = False
    """Whether the lists have a say in it."""

    request_id: UUID | None
    account_id: str
    card_id: UUID | None = None
    recycling_id: UUID | None = None
    review_id: UUID | None = None
    dry_run: bool = False
    circumstances: Circumstances = Circumstances()

    def business_input(self) -> tuple[object, ...]:
        """The fields that must be the same when a request id comes again. Honest retries change the rest."""
        return (self.card_id, self.recycling_id)

    def input_hash(self) -> bytes:
        """SHA-256 over the method and the business input."""
        text = "\x1f".join(str(part) for part in (self.method, *self.business_input()))
        return hashlib.sha256(text.encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recycle(Command):
    """Take a card back. With `quote` it only asks, and has no request id."""

    method = "Recycle"
    risk_kind = "RECYCLE"
    scored = True
    reads_lists = True

    reason: RecycleReason
    unit: Unit | None = None
    quote_token: str = ""
    quote: bool = False

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
class Activate(Command):
    """Start an ISSUED card's validity."""

    method = "ActivateCard"
    risk_kind = "ACTIVATE"

    etag: str = ""

    def business_input(self) -> tuple[object, ...]:
        """Card and etag."""
        return (self.card_id, self.etag)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Lapse(Command):
    """Record that the hold of `review_id` has ended by itself. Nobody asks for it but time."""

    method = "LapseHold"

    @classmethod
    def of(cls, review: Review) -> Lapse:
        """The lapse of `review`: the same command whoever notices it first. Its request id follows from the review's
        id, which owners of cards never see, so that none can take it beforehand."""
        return cls(
            request_id=uuid5(review.review_id, cls.method),
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
