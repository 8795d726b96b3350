"""What a receipt says, read back: the command that was asked, and the snapshot that it was decided on. Pure.

Knows how `engine.receipt` spells domain values, and which members older receipts lack; must not know where receipts are
kept, or who asks for them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from server.domain.card import Card
from server.domain.commands import OWN_REQUEST_VERSION, Recycle
from server.domain.lists import ListHit
from server.domain.policy import Counter, Policy
from server.domain.recycling import Balance, Coupon, RecycleReason, Recycling, Unit, Wallet
from server.domain.redemption import Redemption
from server.domain.review import Review
from server.domain.snapshot import RiskFacts, Score, Snapshot


class ReceiptInvalid(ValueError):
    """A receipt cannot be read, or lacks what it must have."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt, as `engine.receipt` writes it. What has a default may be missing: not every decision reads it, or
    older receipts are from before it."""

    now: datetime
    method: str
    card: Card | None
    request_id: UUID | None = None
    input: tuple[str | None, ...] = ()
    recycling: Recycling | None = None
    balances: tuple[Balance, ...] = ()
    coupons: tuple[Coupon, ...] | msgspec.UnsetType = msgspec.UNSET
    reviews: tuple[Review, ...] = ()
    policy_revision: str = ""
    policy_sha256: str | msgspec.UnsetType = msgspec.UNSET
    policy_until: datetime | None = None
    bonus: int = 0
    charged_back: bool = False
    redemption: Redemption | None = None
    used_30d: int = 0
    without_device: bool = False
    list_hits: tuple[ListHit, ...] = ()
    lot: float | None = None
    features: dict[str, float | int | bool | None] = {}
    score: Score | None = None
    asked_segment: str | None = None
    verdict: dict[str, Any] | None = None
    effects: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET

    @classmethod
    def parse(cls, text: str) -> Receipt:
        """The receipt in a recorded text. Raises ReceiptInvalid."""
        try:
            return _decoder.decode(text)
        except ValueError as error:
            raise ReceiptInvalid(f"its receipt: {error}") from error

    def lacks(self) -> tuple[str, ...]:
        """The members that a receipt of today has and this one has not."""
        wanted = ["policy_sha256"] if self.method == "IssueCards" else ["coupons", "policy_sha256", "effects"]
        return tuple(name for name in wanted if getattr(self, name) is msgspec.UNSET)


_decoder = msgspec.json.Decoder(Receipt)


def snapshot_of(account_id: str, receipt: Receipt, policy: Policy | None) -> Snapshot:
    """What was read, with `policy`, of whatever tier, in the place of the one that governed."""
    if policy is not None and receipt.card is not None:
        policy = policy.for_tier(receipt.card.tier)
    revision = receipt.policy_revision.rpartition("@")[2]
    return Snapshot(
        now=receipt.now,
        card=receipt.card,
        recycling=receipt.recycling,
        policy=policy,
        policy_revision=int(revision) if revision else None,
        wallet=Wallet(
            account_id=account_id,
            balances=receipt.balances,
            coupons=() if receipt.coupons is msgspec.UNSET else receipt.coupons,
        ),
        facts=RiskFacts(
            list_hits=receipt.list_hits,
            counts={counter: receipt.features.get(counter) for counter in Counter},
            lot=receipt.lot,
            without_device=receipt.without_device,
        ),
        reviews=receipt.reviews,
        charged_back=receipt.charged_back,
        policy_until=receipt.policy_until,
        bonus=receipt.bonus,
        redemption=receipt.redemption,
        used_30d=receipt.used_30d,
    )


def recycle_of(account_id: str, receipt: Receipt, request_id: UUID) -> Recycle:
    """The Recycle that was asked. Raises ReceiptInvalid, or IndexError where the input lacks parts."""
    asked = receipt.input
    return Recycle(
        request_id=request_id,
        account_id=account_id,
        card_id=given_id(asked[0]),
        reason=RecycleReason(given_text(asked[1])),
        unit=None if asked[2] is None else Unit(asked[2]),
        quote_token=given_text(asked[3]),
        automatic=request_id.version == OWN_REQUEST_VERSION,
    )


def given_id(text: str | None) -> UUID:
    """An id that was asked with. Raises ReceiptInvalid when it is missing, ValueError when it is none."""
    return UUID(given_text(text))


def given_text(text: str | None) -> str:
    """A text that was asked with. Raises ReceiptInvalid when it is missing."""
    if text is None:
        raise ReceiptInvalid("its receipt lacks part of what was asked")
    return text
