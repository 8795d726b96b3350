"""What a recycle pays and costs: integer arithmetic in minor units, payouts floored, fees ceiled.

Knows the formulae of the policies; must not know who asks or how risky it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from server.domain.card import DAY, MICROSECOND, Card
from server.domain.errors import Reason, Refusal
from server.domain.policy import BASIS_POINTS, CompensationKind, CompensationRule, Policy
from server.domain.recycling import Compensation, CompensationState, Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The price of taking one card back at one moment. `base_minor`: the paid value of the unused validity.
    `change_time`: the earliest moment at which the same card would be priced otherwise; None when never."""

    base_minor: int
    fee_minor: int
    bonus_basis_points: int
    compensation: Compensation | None
    change_time: datetime | None


def terms(card: Card, policy: Policy, now: datetime, unit: Unit | None = None, *, bonus_basis_points: int = 0) -> Terms:
    """Prices `card` at `now`, by the policy of its tier. An amount that comes out as 0 means no compensation.
    `unit`: another one than the policy's, which must be offered to the card's segment. `bonus_basis_points`: what
    dynamic pricing adds, of the base or of the points.

    base = floor(paid * unused / duration); fee = ceil(base * fee rate), in exact integers of microseconds.
    Raises Refusal LIMIT_EXCEEDED above the policy's `amount_max`.
    """
    unused_us, duration_us = card.unused_at(now) // MICROSECOND, card.duration // MICROSECOND
    base = card.paid_minor * unused_us // duration_us
    fee = -(-base * policy.fee_basis_points // BASIS_POINTS)
    bonus = min(bonus_basis_points, policy.bonus_max_basis_points)
    refund = base - fee + base * bonus // BASIS_POINTS
    compensation = _in_unit(
        _compensation(card, policy, refund, bonus, unused_us, now),
        unit,
        policy.share_of_unit(unit, card.segment),
    )
    if compensation is not None and compensation.amount > policy.compensation.amount_max:
        raise Refusal(Reason.LIMIT_EXCEEDED, f"the compensation would exceed {policy.compensation.amount_max}")
    return Terms(
        base_minor=base,
        fee_minor=fee,
        bonus_basis_points=bonus,
        compensation=compensation,
        change_time=_change_time(card, policy.compensation, base, unused_us, now) if compensation or fee else None,
    )


def _compensation(
    card: Card, policy: Policy, refund: int, bonus: int, unused_us: int, now: datetime
) -> Compensation | None:
    rule, pending = policy.compensation, CompensationState.PENDING
    match rule.kind:
        case CompensationKind.REFUND:
            return Compensation(unit=rule.unit, amount=refund, state=pending) if refund > 0 else None
        case CompensationKind.PER_UNUSED_DAY:
            whole_days = unused_us // (DAY // MICROSECOND)
            earns = rule.renewed_card_earns or card.renewals_used == 0
            full = rule.amount_per_day * whole_days * (BASIS_POINTS + bonus) if earns else 0
            # Issued under an earlier revision, it may be cheaper than what bounds the worth of a day.
            least_price = policy.face_value_per_day_min * card.duration_days
            cheap = card.face_value_minor < least_price
            amount = full * card.face_value_minor // (BASIS_POINTS * least_price) if cheap else full // BASIS_POINTS
            return Compensation(unit=rule.unit, amount=amount, state=pending) if amount > 0 else None
        case CompensationKind.DISCOUNT:
            cap = card.paid_minor * rule.basis_points // BASIS_POINTS
            if cap == 0:
                return None
            return Compensation(
                unit=rule.unit,
                amount=1,
                state=pending,
                basis_points=rule.basis_points,
                expire_time=now + rule.valid_days * DAY,
                max_discount_minor=cap,
            )


def _in_unit(plain: Compensation | None, unit: Unit | None, share: int | None) -> Compensation | None:
    if plain is None or unit is None or unit is plain.unit:
        return plain
    assert share is not None, "the unit was checked to be offered"
    amount = plain.amount * share // BASIS_POINTS
    return replace(plain, unit=unit, amount=amount) if amount > 0 else None


def _change_time(card: Card, rule: CompensationRule, base: int, unused_us: int, now: datetime) -> datetime | None:
    """While a card is ACTIVE its unused time runs, and the price steps down with it."""
    if card.bound() is None or card.activate_time is None or unused_us == 0:
        return None
    match rule.kind:
        case CompensationKind.REFUND if base > 0:
            least_us = -(-base * (card.duration // MICROSECOND) // card.paid_minor)
        case CompensationKind.PER_UNUSED_DAY:
            least_us = unused_us - unused_us % (DAY // MICROSECOND)
        case _:
            return None
    return now + timedelta(microseconds=unused_us - least_us + 1)
