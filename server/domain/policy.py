"""A platform's rules as data. Knows the shape of a policy and what makes one sound; holds no rule of any platform.

The file format is `policies/policy.schema.json`; the classes here have the same names and meaning, field by field.
A day is 86,400 seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from server.domain.card import DAY, CardState
from server.domain.recycling import DegradedMode, Disposition, RecycleReason, Recycling, Unit


class CompensationKind(StrEnum):
    """How a compensation is computed."""

    REFUND = "REFUND"  # base - fee, one unit a minor unit
    PER_UNUSED_DAY = "PER_UNUSED_DAY"  # amount_per_day for each whole unused day
    DISCOUNT = "DISCOUNT"  # one coupon


class RevenueBasis(StrEnum):
    """What an alternative's revenue is a share of."""

    FACE_VALUE = "FACE_VALUE"
    UNUSED_VALUE = "UNUSED_VALUE"


class RestoredValidity(StrEnum):
    """What a reactivated card gets."""

    AS_TAKEN = "AS_TAKEN"  # state and unused time as they were
    FULL = "FULL"  # its full duration from now, which uses up one renewal


class Counter(StrEnum):
    """A count of earlier requests, as the feature of that name counts them (at most 200)."""

    ACCOUNT_RECYCLES_1H = "account_recycles_1h"
    ACCOUNT_RECYCLES_24H = "account_recycles_24h"
    DEVICE_RECYCLES_24H = "device_recycles_24h"
    DEVICE_ACCOUNTS_1H = "device_accounts_1h"
    DEVICE_ACCOUNTS_24H = "device_accounts_24h"
    DEVICE_ACCOUNTS_30D = "device_accounts_30d"
    DEVICE_CARDS_30D = "device_cards_30d"
    ADDRESS_ACCOUNTS_1H = "address_accounts_1h"
    ADDRESS_ACCOUNTS_24H = "address_accounts_24h"
    PREFIX_RECYCLES_1H = "prefix_recycles_1h"
    LOOK_ALIKE_ACCOUNTS_1H = "look_alike_accounts_1h"
    LOOK_ALIKE_ACCOUNTS_24H = "look_alike_accounts_24h"
    ACCOUNT_DEVICES_30D = "account_devices_30d"
    ACCOUNT_REACTIVATIONS_30D = "account_reactivations_30d"


class CapAction(StrEnum):
    """What a request beyond a cap gets."""

    HOLD = "HOLD"
    REFUSE = "REFUSE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """Who may recycle what: reasons accepted, card states accepted, and the wait after `expire_time`. `automatic`: the
    service recycles an EXPIRED card by itself once the wait is over."""

    reasons: tuple[RecycleReason, ...]
    card_states: tuple[CardState, ...]
    wait_after_expiry_days: int = 0
    automatic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CompensationRule:
    """What the owner gets; the fields used depend on `kind`."""

    kind: CompensationKind
    unit: Unit
    amount_max: int
    amount_per_day: int = 0
    renewed_card_earns: bool = True
    basis_points: int = 0
    valid_days: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DispositionRule:
    """One disposition the policy allows, with the terms of its expected value Y = R * P - C."""

    disposition: Disposition
    revenue_basis: RevenueBasis
    revenue_basis_points: int
    probability: float
    cost_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReactivationRule:
    """When and how a card comes back: within [recycle, recycle + window_days), of the dispositions named."""

    dispositions: tuple[Disposition, ...]
    window_days: int
    validity: RestoredValidity
    renewals_max: int | None = None

    def window_end(self, recycling: Recycling) -> datetime:
        """Up to when what `recycling` took can come back, exclusive."""
        return recycling.create_time + self.window_days * DAY + recycling.window_moved


@dataclass(frozen=True, slots=True, kw_only=True)
class VelocityCap:
    """A request gets `action` once its counter, of earlier requests, has reached `max`."""

    counter: Counter
    max: int
    action: CapAction


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplorationRule:
    """The share of would-be refusals that is let through, up to a paid amount, and how much later it is settled."""

    share_basis_points: int
    amount_max_minor: int
    settle_after_days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskRule:
    """What risk does here: reasons that it never refuses, what happens without a score, caps, and exploration."""

    never_refused_reasons: tuple[RecycleReason, ...]
    without_score: DegradedMode
    # Older revisions have neither.
    velocity: tuple[VelocityCap, ...] = ()
    exploration: ExplorationRule | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewRule:
    """How long a card is held for a verdict; then the hold lapses, as if denied."""

    hold_days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One platform's rules. Raises ValueError where single fields are fine but together make no sound policy."""

    platform: str
    currency: str
    trigger: Trigger
    fee_basis_points: int
    compensation: CompensationRule
    dispositions: tuple[DispositionRule, ...]
    reactivation: ReactivationRule | None
    settle_after_days: int
    risk: RiskRule
    review: ReviewRule = ReviewRule(hold_days=7)
    """The default is for revisions from before there were reviews."""
    devices_max: int = 5
    """So many devices may be bound to a card. The default is for revisions from before devices were bound."""

    def renewals_exhausted(self, renewals_used: int) -> bool:
        """Whether a card with so many renewals behind it can no longer come back."""
        rule = self.reactivation
        return rule is not None and rule.renewals_max is not None and renewals_used >= rule.renewals_max

    def __post_init__(self) -> None:
        offered = {rule.disposition for rule in self.dispositions}
        if len(offered) != len(self.dispositions):
            raise ValueError("each disposition may be listed once")
        rule = self.compensation
        units = {
            CompensationKind.REFUND: {Unit.COIN},
            CompensationKind.PER_UNUSED_DAY: {Unit.GROWTH_POINT},
            CompensationKind.DISCOUNT: {Unit.COUPON},
        }
        if rule.unit not in units[rule.kind]:
            raise ValueError(f"a {rule.kind} cannot be paid in {rule.unit}")
        if rule.kind is CompensationKind.PER_UNUSED_DAY and rule.amount_per_day < 1:
            raise ValueError("amount_per_day is required with PER_UNUSED_DAY")
        if rule.kind is CompensationKind.DISCOUNT and (rule.basis_points < 1 or rule.valid_days < 1):
            raise ValueError("basis_points and valid_days are required with DISCOUNT")
        if self.fee_basis_points and rule.kind is not CompensationKind.REFUND:
            raise ValueError("a fee is kept back from a REFUND only")
        if len({(cap.counter, cap.action) for cap in self.risk.velocity}) != len(self.risk.velocity):
            raise ValueError("each counter may have one cap for each action")
        if self.trigger.automatic and not (
            RecycleReason.EXPIRED in self.trigger.reasons and CardState.EXPIRED in self.trigger.card_states
        ):
            raise ValueError("an automatic trigger recycles EXPIRED cards, for the reason EXPIRED")
        self._check_reactivation(offered - {Disposition.CANCEL})

    def _check_reactivation(self, waiting: set[Disposition]) -> None:
        """A card that waits must be able to come back, and must not earn by coming back."""
        rule = self.reactivation
        if waiting != set(rule.dispositions if rule else ()):
            raise ValueError("reactivation must name exactly the dispositions offered other than CANCEL")
        if rule is None:
            return
        if self.compensation.kind is CompensationKind.DISCOUNT:
            raise ValueError("a coupon cannot be taken back, so a policy that gives one cannot reactivate")
        if rule.validity is RestoredValidity.FULL:
            if rule.renewals_max is None:
                raise ValueError("renewals_max is required where reactivation gives the full validity")
            if self.compensation.kind is not CompensationKind.PER_UNUSED_DAY or self.compensation.renewed_card_earns:
                raise ValueError("where reactivation gives the full validity, a renewed card must not earn")
        if rule.renewals_max is not None and len(self.dispositions) == len(waiting):
            raise ValueError("CANCEL must be offered, for cards whose renewals are used up")
