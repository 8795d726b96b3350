"""What a decision reads and what it says: snapshot and score in, one change out. Holds no rule."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from server.domain.card import Card, CardEventKind
from server.domain.errors import Reason, Refusal
from server.domain.outcome import OutcomeKind
from server.domain.policy import Policy
from server.domain.recycling import Coupon, Decision, Recycling, RiskBand, Unit, Wallet


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The worker's answer for one request: a probability, the thresholds of the model that gave it, and its version."""

    probability: float
    medium_threshold: float
    high_threshold: float
    model_version: str

    @property
    def band(self) -> RiskBand:
        """HIGH and MEDIUM begin at their thresholds."""
        if self.probability >= self.high_threshold:
            return RiskBand.HIGH
        return RiskBand.MEDIUM if self.probability >= self.medium_threshold else RiskBand.LOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that a decision may read, as of `now`. `policy` is the recycling's own where the command names one,
    else the one in force. `recycling` is the one named, or the live one of the card."""

    now: datetime
    card: Card | None
    recycling: Recycling | None
    policy: Policy | None
    policy_revision: int | None
    wallet: Wallet

    def known_card(self) -> Card:
        """The card. Raises Refusal when the account has no such card."""
        if self.card is None:
            raise Refusal(Reason.CARD_NOT_FOUND, "no such card in this account")
        return self.card

    def known_recycling(self) -> Recycling:
        """The recycling. Raises Refusal when the account has no such recycling."""
        if self.recycling is None:
            raise Refusal(Reason.RECYCLING_NOT_FOUND, "no such recycling in this account")
        return self.recycling

    def known_policy(self) -> Policy:
        """The policy of the card's platform."""
        assert self.policy is not None, "a card exists whose platform has no policy"
        return self.policy

    def known_revision(self) -> int:
        """The number of the policy's revision."""
        assert self.policy_revision is not None
        return self.policy_revision

    @property
    def revision_name(self) -> str:
        """The policy revision as callers see it, e.g. "iqiyi@1"."""
        return f"{self.policy.platform}@{self.policy_revision}" if self.policy else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """`amount` of a unit into the wallet (out of it when negative), for one recycling."""

    platform: str
    unit: Unit
    amount: int
    recycling_id: UUID
    coupon: Coupon | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What follows from one command: how things stand afterwards, and what of that must be written.

    It must be recorded before `valid_until`. `refused` says that risk refused it. `outcome` is what the command tells
    of the card's live recycling.
    """

    now: datetime
    card: Card
    card_event: CardEventKind | None = None
    recycling: Recycling | None = None
    recycling_changed: bool = False
    wallet: Wallet | None = None
    transfer: Transfer | None = None
    decision: Decision | None = None
    refused: bool = False
    valid_until: datetime | None = None
    quote_token: str = ""
    quote_expire_time: datetime | None = None
    outcome: OutcomeKind | None = None
