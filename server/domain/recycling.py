"""The record of one recycle and what the owner gets for it. Knows its words and states; must not know the rules."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from server.domain.card import CardState
from server.domain.lists import ListHit


class RecycleReason(StrEnum):
    """Why a card is handed back."""

    EXPIRED = "EXPIRED"
    VOLUNTARY = "VOLUNTARY"
    SYSTEM_ANOMALY = "SYSTEM_ANOMALY"


class Priority(StrEnum):
    """How pressing a command is: anomalies before people before bulk, which is what the service does by itself."""

    BULK = "BULK"
    PERSON = "PERSON"
    ANOMALY = "ANOMALY"


class RecyclingState(StrEnum):
    """What became of one recycle."""

    APPROVED = "APPROVED"
    REJECTED = "REJECTED"
    IN_REVIEW = "IN_REVIEW"
    REVERSED = "REVERSED"


class Disposition(StrEnum):
    """What becomes of the card."""

    CANCEL = "CANCEL"
    RESET_VALIDITY = "RESET_VALIDITY"
    VOUCHER = "VOUCHER"


class Unit(StrEnum):
    """What a compensation is counted in."""

    COIN = "COIN"
    GROWTH_POINT = "GROWTH_POINT"
    COUPON = "COUPON"


class TransferKind(StrEnum):
    """Why value is transferred."""

    SETTLEMENT = "SETTLEMENT"
    CLAWBACK = "CLAWBACK"
    EXPIRY = "EXPIRY"
    """A coupon that was not used in time."""
    REDEMPTION = "REDEMPTION"
    """An offer's price, and the coupon that it gave."""
    EXCHANGE = "EXCHANGE"
    """One unit changed into another."""
    GOODWILL = "GOODWILL"
    """Granted beyond the rules."""


class CompensationState(StrEnum):
    """How far a compensation has come."""

    PENDING = "PENDING"
    SETTLED = "SETTLED"
    CLAWED_BACK = "CLAWED_BACK"
    CANCELLED = "CANCELLED"
    BLOCKED = "BLOCKED"


class RiskBand(StrEnum):
    """The consequence class of a score."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"


class DegradedMode(StrEnum):
    """What a policy does with a request that has no score. For reasons that are never refused it is RULES_ONLY."""

    HOLD = "HOLD"  # held for a reviewer's verdict
    RULES_ONLY = "RULES_ONLY"  # the rules decide alone, and settlement is held
    REJECT = "REJECT"  # the call fails, FRAUD_SCORE_UNAVAILABLE


REVIEW_DENIED = "REVIEW_DENIED"
REVIEW_EXPIRED = "REVIEW_EXPIRED"
CARD_VOIDED = "CARD_VOIDED"
"""Reason codes of a recycling that was rejected after it was held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compensation:
    """What the owner gets. `amount` >= 1; the last three fields belong to a COUPON, whose amount is 1."""

    unit: Unit
    amount: int
    state: CompensationState
    basis_points: int | None = None
    expire_time: datetime | None = None
    max_discount_minor: int | None = None


class ProbabilitySource(StrEnum):
    """Where the probability that an owner pays again comes from."""

    PRIOR = "PRIOR"  # the policy, for want of a model that knows the case
    MODEL = "MODEL"  # the model alone
    BLENDED = "BLENDED"  # both, by how much each knows


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """One disposition with its expected value y = revenue * probability - cost, in minor units; see `hub`.

    The parts of the cost are None where the policy, an older one, has none. `probability_source` and `prior` are None
    where no model has a say in the probability; the last two where none was heard.
    """

    disposition: Disposition
    revenue: float
    probability: float
    cost: float
    y: float
    allowed: bool
    why: str = ""
    recycling_cost: float | None = None
    opportunity_cost: float | None = None
    user_damage: float | None = None
    probability_source: ProbabilitySource | None = None
    prior: float | None = None
    model_probability: float | None = None
    support: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How an answer came about, as callers see it. Times are UTC; `risk_score` is a probability.

    `degraded_mode` is None when there was a score. `explored`: let through in spite of the model, as the share
    `propensity` of such requests is. `conversion_model_version`: of the model that had a say in the alternatives.
    """

    risk_score: float | None
    risk_band: RiskBand | None
    reason_codes: tuple[str, ...]
    alternatives: tuple[Alternative, ...]
    policy_revision: str
    model_version: str
    degraded: bool
    valid_until: datetime | None
    # With defaults, since what was stored before has none.
    degraded_mode: DegradedMode | None = None
    list_hits: tuple[ListHit, ...] = ()
    explored: bool = False
    propensity: float | None = None
    conversion_model_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recycling:
    """The record of one recycle. `prior_state` and `unused` say how the card was; `version` rises with changes.

    IN_REVIEW it has the terms that an approval will apply, and lapses at `hold_until`. `window_moved`: by how much
    holds for reactivation prolong the time in which the card can come back; an open one counts in full until it ends.
    """

    recycling_id: UUID | None
    request_id: UUID | None
    account_id: str
    card_id: UUID
    generation: int
    reason: RecycleReason
    priority: Priority
    state: RecyclingState
    disposition: Disposition | None
    fee_minor: int
    prior_state: CardState
    unused: timedelta
    compensation: Compensation | None
    settle_after_time: datetime | None
    settlement_held: bool
    platform: str
    policy_revision: int
    decision: Decision
    create_time: datetime
    version: int
    hold_until: datetime | None = None
    window_moved: timedelta = timedelta(0)

    def at(self, now: datetime) -> Recycling:
        """The recycling as time has left it at `now`: one whose hold has lapsed is REJECTED, recorded or not."""
        lapsed = self.hold_until is not None and self.hold_until <= now
        return self.rejected(REVIEW_EXPIRED) if lapsed else self

    def approved(self) -> Recycling:
        """The recycling after a review that granted it, its terms as they were recorded."""
        return replace(self, state=RecyclingState.APPROVED, hold_until=None, version=self.version + 1)

    def rejected(self, reason_code: str) -> Recycling:
        """The recycling after a hold that ended without a grant: nothing is taken and nothing owed."""
        return replace(
            self,
            state=RecyclingState.REJECTED,
            disposition=None,
            fee_minor=0,
            compensation=None,
            settle_after_time=None,
            settlement_held=False,
            decision=replace(self.decision, reason_codes=(*self.decision.reason_codes, reason_code)),
            hold_until=None,
            version=self.version + 1,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """An amount of one unit of one platform, >= 0."""

    platform: str
    unit: Unit
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Coupon:
    """A discount on one purchase, held by an account. Its id is that of the recycling that it compensates, or of the
    redemption that gave it."""

    coupon_id: UUID
    platform: str
    basis_points: int
    max_discount_minor: int
    expire_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Wallet:
    """What an account holds: non-zero balances by platform and unit, and its newest coupons (at most 100). One that has
    expired is not held, whether that is recorded yet or not."""

    account_id: str
    balances: tuple[Balance, ...]
    coupons: tuple[Coupon, ...]

    def amount(self, platform: str, unit: Unit) -> int:
        """The balance of one unit; 0 when there is none."""
        return next((b.amount for b in self.balances if (b.platform, b.unit) == (platform, unit)), 0)

    def after(self, platform: str, unit: Unit, delta: int, coupon: Coupon | None = None) -> Wallet:
        """The wallet after a transfer of `delta`; it must not go below zero."""
        amount = self.amount(platform, unit) + delta
        assert amount >= 0, "a transfer was decided that the wallet cannot bear"
        others = [b for b in self.balances if (b.platform, b.unit) != (platform, unit)]
        changed = [Balance(platform=platform, unit=unit, amount=amount)] if amount else []
        return Wallet(
            account_id=self.account_id,
            balances=tuple(sorted(others + changed, key=lambda b: (b.platform, b.unit))),
            coupons=((coupon, *self.coupons)[:100] if coupon else self.coupons),
        )
