"""What a decision reads and what it says: snapshot and score in, one change out. Holds no rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from server.domain.card import Card, CardEventKind
from server.domain.errors import Reason, Refusal
from server.domain.lists import ListHit
from server.domain.outcome import OutcomeKind
from server.domain.policy import Policy
from server.domain.recycling import Coupon, Decision, Disposition, Recycling, RiskBand, TransferKind, Unit, Wallet
from server.domain.redemption import Redemption
from server.domain.review import Review, ReviewKind, ReviewState


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowScore:
    """What another model would have said. It is kept beside the score, and decides nothing."""

    probability: float
    medium_threshold: float
    high_threshold: float
    model_version: str


SUPPORT_MAX = 10**9
"""No model has learnt of more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """How probable a model holds it that the owner pays again after a disposition, and of how many recyclings like it
    (same segment, same disposition) it has learnt."""

    disposition: Disposition
    probability: float
    support: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversions:
    """What one model says of the dispositions that it was asked about."""

    model_version: str
    of: tuple[Conversion, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The worker's answer for one request: a probability, the thresholds of the model that gave it, and its version.

    `reason_codes`: what speaks most for abuse, the strongest first; empty where nobody asked, or none was told.
    `conversions`: None where nobody asked, or no model is there that could tell.
    """

    probability: float
    medium_threshold: float
    high_threshold: float
    model_version: str
    shadows: tuple[ShadowScore, ...] = ()
    reason_codes: tuple[str, ...] = ()
    conversions: Conversions | None = None

    @property
    def band(self) -> RiskBand:
        """HIGH and MEDIUM begin at their thresholds."""
        if self.probability >= self.high_threshold:
            return RiskBand.HIGH
        return RiskBand.MEDIUM if self.probability >= self.medium_threshold else RiskBand.LOW


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskFacts:
    """What risk goes by beside the score: the list entries in force that name the request, the counts of earlier
    requests by the counter's name (None: unknown), whether it names no device, and the lot of its account (None: no
    device)."""

    list_hits: tuple[ListHit, ...] = ()
    counts: Mapping[str, float | None] = field(default_factory=dict)
    without_device: bool = False
    lot: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that a decision may read, as of `now`. `policy` is the recycling's own where the command names one,
    else the one in force; it has the terms of the card's tier. `recycling` is the one named, or the live one of the
    card, or the one it is held for. `reviews`: the card's open ones, and the one named. `charged_back`: whether a
    chargeback of `recycling`, or without one of the card, was told already; looked up only where the card is VOID.
    `refused_before`: whether risk or a reviewer has refused to take the card in its generation; looked up only for what
    the service does by itself.
    `policy_until`: when another revision takes over from the one in force; None when none is planned. `bonus`: what
    dynamic pricing adds now, in millionths of a basis point. `redemption`: the one named. `used_30d`: how often the
    account has taken the offer named in 30 days, or how much goodwill it was granted."""

    now: datetime
    card: Card | None
    recycling: Recycling | None
    policy: Policy | None
    policy_revision: int | None
    wallet: Wallet
    facts: RiskFacts = RiskFacts()
    reviews: tuple[Review, ...] = ()
    charged_back: bool = False
    refused_before: bool = False
    policy_until: datetime | None = None
    bonus: int = 0
    redemption: Redemption | None = None
    used_30d: int = 0

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

    def known_review(self, review_id: UUID | None) -> Review:
        """The review. Raises Refusal when there is no such review."""
        for review in self.reviews:
            if review.review_id == review_id:
                return review
        raise Refusal(Reason.REVIEW_NOT_FOUND, "no such review")

    def open_review(self, *kinds: ReviewKind) -> Review | None:
        """The card's open review of one of these kinds, if there is one; RECYCLE and REACTIVATE exclude each other."""
        return next((r for r in self.reviews if r.state is ReviewState.OPEN and r.kind in kinds), None)

    def hold(self) -> Review | None:
        """The review that the card is held for, if there is one; it may have lapsed."""
        return self.open_review(ReviewKind.RECYCLE, ReviewKind.REACTIVATE)

    @property
    def revision_name(self) -> str:
        """The policy revision as callers see it, e.g. "iqiyi@1"."""
        return f"{self.policy.platform}@{self.policy_revision}" if self.policy else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """`amount` of a unit into the wallet (out of it when negative), for one recycling or one redemption, where it is
    for any."""

    kind: TransferKind
    platform: str
    unit: Unit
    amount: int
    recycling_id: UUID | None = None
    redemption_id: UUID | None = None
    coupon: Coupon | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What follows from one command: how things stand afterwards, and what of that must be written.

    It must be recorded before `valid_until`. `refused` says that risk refused it, `held` that it waits for a verdict.
    `reviews` are those that begin or end with it. `outcome` is what the command tells of `recycling`, or
    without one of the account. `bound_device` is
    new on the card. `in_return`: what comes into the wallet for `transfer`. There is no card where only the wallet
    changes.
    """

    now: datetime
    card: Card | None
    card_event: CardEventKind | None = None
    recycling: Recycling | None = None
    recycling_changed: bool = False
    wallet: Wallet | None = None
    transfer: Transfer | None = None
    in_return: Transfer | None = None
    redemption: Redemption | None = None
    decision: Decision | None = None
    refused: bool = False
    held: bool = False
    reviews: tuple[Review, ...] = ()
    valid_until: datetime | None = None
    quote_token: str = ""
    quote_expire_time: datetime | None = None
    outcome: OutcomeKind | None = None
    bound_device: bytes | None = None

    def known_card(self) -> Card:
        """The card."""
        assert self.card is not None, "only the wallet has changed"
        return self.card

    @property
    def transfers(self) -> tuple[Transfer, ...]:
        """What moves, out of the wallet first."""
        return tuple(each for each in (self.transfer, self.in_return) if each is not None)

    @property
    def ends_recycling_hold(self) -> bool:
        """Whether a recycle that was in review is decided with it."""
        return any(r.kind is ReviewKind.RECYCLE and r.state is not ReviewState.OPEN for r in self.reviews)
