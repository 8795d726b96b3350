"""What there is to see of wallets and of what they can be used for. Values only; must not know where they are read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from server.domain.policy import Offer, Policy
from server.domain.recycling import TransferKind, Unit, Wallet


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """A wallet's leg of one transfer: positive into the wallet."""

    posting_id: UUID
    request_id: UUID
    kind: TransferKind
    platform: str
    unit: Unit
    amount: int
    recycling_id: UUID | None
    redemption_id: UUID | None
    create_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PostingFilter:
    """Which of an account's postings are wanted; None is any."""

    account_id: str
    platform: str | None = None
    unit: Unit | None = None
    kind: TransferKind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """The policy that governs a platform now, by what it offers; and how often an account has taken its offers in 30
    days, by their ids."""

    policy: Policy
    revision: int
    taken: dict[str, int]

    @property
    def revision_name(self) -> str:
        """As callers see it."""
        return f"{self.policy.platform}@{self.revision}"

    def is_affordable(self, offer: Offer, wallet: Wallet) -> bool:
        """Whether the account could take the offer, as far as wallet and limit tell."""
        taken = self.taken.get(offer.offer_id, 0)
        within = offer.account_max is None or taken < offer.account_max
        return within and wallet.amount(self.policy.platform, offer.unit) >= offer.price
