"""A platform's rules as data. Knows the shape of a policy and what makes one sound; holds no rule of any platform.

The file format is `policies/policy.schema.json`; the classes here have the same names and meaning, field by field.
A day is 86,400 seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from server.domain.card import DAY, CardState
from server.domain.recycling import DegradedMode, Disposition, RecycleReason, Recycling, Unit

BASIS_POINTS = 10_000
"""The whole."""

TIERS = ("BASIC", "PREMIUM")


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


class WithoutDevice(StrEnum):
    """What a request that names no device gets, the stricter the later."""

    APPROVE = "APPROVE"
    HOLD_SETTLEMENT = "HOLD_SETTLEMENT"  # done, but settlement waits for a review; without a settlement, as HOLD
    HOLD = "HOLD"
    REFUSE = "REFUSE"


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
class CostRule:
    """What a disposition costs: `recycling_minor` for the work; `opportunity_basis_points` of the paid value of the
    unused validity, which is given up with it; `user_damage_minor`, as far as the owner's segment is sensitive."""

    recycling_minor: int = 0
    opportunity_basis_points: int = 0
    user_damage_minor: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DispositionRule:
    """One disposition the policy allows, with the terms of its expected value Y = R * P - C.

    `priors`: P of a segment, where it is another than `probability`. `prior_weight`: P is that the owner pays again, of
    which a model may know better, and the prior counts as much as so many recyclings; None: no model has a say.
    `cost_minor` is how older revisions say `cost`, of which they have no parts.
    """

    disposition: Disposition
    revenue_basis: RevenueBasis
    revenue_basis_points: int
    probability: float
    cost_minor: int | None = None
    cost: CostRule | None = None
    priors: Mapping[str, float] = field(default_factory=dict)
    prior_weight: int | None = None

    def prior(self, segment: str | None) -> float:
        """P of a segment's owners, whatever a model says."""
        return self.priors.get(segment or "", self.probability)


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
    """What risk does here: reasons that it never refuses, what happens without a score and without a device, caps, and
    exploration."""

    never_refused_reasons: tuple[RecycleReason, ...]
    without_score: DegradedMode
    # Older revisions have none of these.
    without_device: WithoutDevice = WithoutDevice.APPROVE
    velocity: tuple[VelocityCap, ...] = ()
    exploration: ExplorationRule | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewRule:
    """How long a card is held for a verdict; then the hold lapses, as if denied."""

    hold_days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TierTerms:
    """What one tier has in place of the plain terms; None keeps the plain one."""

    fee_basis_points: int | None = None
    amount_per_day: int | None = None
    window_days: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTerms:
    """Another unit that may be taken: so many basis points of the plain amount, floored."""

    unit: Unit
    basis_points: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentTerms:
    """What one segment's accounts have beside the plain terms.

    `settle_with_recycle`: settled at once, in the LOW band and up to the policy's `instant_settlement_max`. `units`:
    what `compensation_unit` may name beside the plain unit. `sensitivity_basis_points`: how much of a disposition's
    `user_damage_minor` is done to them; all of it to owners of whom nothing is known.
    """

    settle_with_recycle: bool = False
    sensitivity_basis_points: int = BASIS_POINTS
    units: tuple[UnitTerms, ...] = ()


PLAIN = SegmentTerms()


@dataclass(frozen=True, slots=True, kw_only=True)
class PricingRule:
    """How the bonus on top of the plain terms floats: see `pricing`. Basis points are of the base (of the points, where
    those are paid); `pool_capacity` counts waiting cards."""

    bonus_max_basis_points: int
    period_minutes: int
    pool_capacity: int
    smoothing_basis_points: int


class BenefitKind(StrEnum):
    """What an offer gives."""

    COUPON = "COUPON"  # a coupon of the offering platform, into the wallet
    PARTNER = "PARTNER"  # something of the partner's, which is told of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Benefit:
    """What an offer gives, worth at most `value_minor`: a coupon's greatest discount, or what the partner asks for it.
    The last two fields are a coupon's."""

    kind: BenefitKind
    value_minor: int
    basis_points: int = 0
    valid_days: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Something that `price` of the platform's `unit` buys from a partner. `account_max`: how often an account may take
    it in 30 days; None: as often as it can pay."""

    offer_id: str
    partner: str
    title: str
    unit: Unit
    price: int
    benefit: Benefit
    account_max: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeRate:
    """What the platform's `unit` is changed into: `give` of it for `get` of the other, less the spread, floored."""

    unit: Unit
    to_platform: str
    to_unit: Unit
    give: int
    get: int
    spread_basis_points: int
    amount_max: int

    def changed(self, amount: int) -> int:
        """What `amount` is changed into."""
        return amount * self.get * (BASIS_POINTS - self.spread_basis_points) // (self.give * BASIS_POINTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodwillRule:
    """What customer care may grant beyond the rules: of `unit`, at most `amount_max` at once and `account_max` to one
    account in 30 days."""

    unit: Unit
    amount_max: int
    account_max: int


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
    tiers: Mapping[str, TierTerms] = field(default_factory=dict)
    segments: Mapping[str, SegmentTerms] = field(default_factory=dict)
    instant_settlement_max: int = 0
    """The greatest amount that is settled with its recycle."""
    face_value_per_day_min: int = 0
    """Cards are issued with a face value of so many minor units a day, at least."""
    pricing: PricingRule | None = None
    """None: no bonus."""
    offers: tuple[Offer, ...] = ()
    exchange: tuple[ExchangeRate, ...] = ()
    goodwill: GoodwillRule | None = None
    """None: no goodwill."""

    def for_tier(self, tier: str) -> Policy:
        """The policy with the terms of one tier."""
        terms = self.tiers.get(tier)
        if terms is None:
            return self
        fee, per_day, window = terms.fee_basis_points, terms.amount_per_day, terms.window_days
        pays, comes_back = self.compensation, self.reactivation
        return replace(
            self,
            tiers={},
            fee_basis_points=self.fee_basis_points if fee is None else fee,
            compensation=pays if per_day is None else replace(pays, amount_per_day=per_day),
            reactivation=replace(comes_back, window_days=window) if comes_back and window else comes_back,
        )

    def for_segment(self, segment: str | None) -> SegmentTerms:
        """What accounts of a segment have beside the plain terms."""
        return self.segments.get(segment or "", PLAIN)

    @property
    def bonus_max_basis_points(self) -> int:
        """The greatest bonus that pricing may add."""
        return self.pricing.bonus_max_basis_points if self.pricing else 0

    def share_of_unit(self, unit: Unit | None, segment: str | None) -> int | None:
        """How many basis points of the plain amount `unit` pays (none: the plain one); None when not offered."""
        if unit is None or unit is self.compensation.unit:
            return BASIS_POINTS
        offered = self.for_segment(segment).units
        return next((terms.basis_points for terms in offered if terms.unit is unit), None)

    def renewals_exhausted(self, renewals_used: int) -> bool:
        """Whether a card with so many renewals behind it can no longer come back."""
        rule = self.reactivation
        return rule is not None and rule.renewals_max is not None and renewals_used >= rule.renewals_max

    def __post_init__(self) -> None:
        offered = {rule.disposition for rule in self.dispositions}
        if len(offered) != len(self.dispositions):
            raise ValueError("each disposition may be listed once")
        for each in self.dispositions:
            if (each.cost is None) is (each.cost_minor is None):
                raise ValueError(f"{each.disposition}: cost or cost_minor is required, and not both")
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
        self._check_tiers()
        self._check_segments()
        self._check_ecosystem()
        if self.pricing and self.compensation.kind is CompensationKind.DISCOUNT:
            raise ValueError("pricing adds to what is counted, and a coupon is not")

    def _check_tiers(self) -> None:
        for tier, terms in self.tiers.items():
            if terms.amount_per_day is not None and self.compensation.kind is not CompensationKind.PER_UNUSED_DAY:
                raise ValueError(f"{tier}: amount_per_day is for PER_UNUSED_DAY")
            if terms.window_days is not None and self.reactivation is None:
                raise ValueError(f"{tier}: there is no window where no card comes back")
            self.for_tier(tier)

    def _check_segments(self) -> None:
        for segment, terms in self.segments.items():
            units = {offered.unit for offered in terms.units}
            if len(units) != len(terms.units) or self.compensation.unit in units:
                raise ValueError(f"{segment}: each unit may be offered once, beside the plain one")
            if units and (Unit.COUPON in units or self.compensation.unit is Unit.COUPON):
                raise ValueError(f"{segment}: a coupon stands for no other unit")
            if terms.settle_with_recycle and not self.instant_settlement_max:
                raise ValueError(f"{segment}: settle_with_recycle needs an instant_settlement_max")

    def _check_ecosystem(self) -> None:
        if len({offer.offer_id for offer in self.offers}) != len(self.offers):
            raise ValueError("each offer_id may be listed once")
        for offer in self.offers:
            is_coupon = offer.benefit.kind is BenefitKind.COUPON
            if is_coupon and (offer.benefit.basis_points < 1 or offer.benefit.valid_days < 1):
                raise ValueError(f"{offer.offer_id}: basis_points and valid_days are required with COUPON")
            if offer.unit is Unit.COUPON:
                raise ValueError(f"{offer.offer_id}: a coupon pays for no offer")
        if self.goodwill and self.goodwill.unit is Unit.COUPON:
            raise ValueError("goodwill is not given in coupons")
        if self.goodwill and self.goodwill.amount_max > self.goodwill.account_max:
            raise ValueError("a grant of goodwill cannot be larger than what an account may be granted")
        ways = {(rate.unit, rate.to_platform, rate.to_unit) for rate in self.exchange}
        if len(ways) != len(self.exchange):
            raise ValueError("each exchange may be listed once")
        for rate in self.exchange:
            if (rate.to_platform, rate.to_unit) == (self.platform, rate.unit):
                raise ValueError("an exchange must lead to another unit")

    def _check_reactivation(self, waiting: set[Disposition]) -> None:
        """A card that waits must be able to come back."""
        rule = self.reactivation
        if waiting != set(rule.dispositions if rule else ()):
            raise ValueError("reactivation must name exactly the dispositions offered other than CANCEL")
        if rule is None:
            return
        if rule.validity is RestoredValidity.FULL and rule.renewals_max is None:
            raise ValueError("renewals_max is required where reactivation gives the full validity")
        if rule.renewals_max is not None and len(self.dispositions) == len(waiting):
            raise ValueError("CANCEL must be offered, for cards whose renewals are used up")
