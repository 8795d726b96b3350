"""The money-pump check: whether a set of policies, taken together, would give away more than came in. Pure.

Every unit gets the greatest value that any way of changing it could make of it: a coin is worth one minor unit, a
coupon and a partner's benefit what they are good for, points what they can be changed into. Amounts are floored
everywhere, so exact fractions bound them from above. Sound are policies under which

- a platform counts in one currency for ever, and units are changed only for those of platforms that are known, and
  count in the same,
- no way of changing coins makes more of them, and no way leads back to its own unit with more (a gaining loop),
- no card pays more than its price: what was paid for it where the payout is a share of that, its face value else (the
  difference to what was paid is the promotion that its row records),
- no card that comes back has kept what it paid, or earns anew what it has paid.

Then the value of an account never rises but by cards that are issued to it. Several revisions of one platform may be in
the set, since several may govern: whatever any of them allows counts. A recycling is undone by the revision that it was
made under, so that the way back of one revision may meet the pay of another.

Not reckoned with: what accounts hold already, or are owed. An activation that gives their units a value, or a greater
one, gives it to these as well, once. And a card that was renewed before its platform's renewals ended long ago may live
to be refunded in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from server.domain.policy import BASIS_POINTS, PLAIN, TIERS, CompensationKind, Policy, RestoredValidity
from server.domain.recycling import Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Pump:
    """A way to gain: its steps in words, and what one minor unit put in comes out as; None where it has no end."""

    steps: tuple[str, ...]
    yields: Fraction | None

    def __str__(self) -> str:
        gain = "without end" if self.yields is None else f"1 becomes {float(self.yields):.6g}"
        return f"{' -> '.join(self.steps)} ({gain})"


@dataclass(frozen=True, slots=True, order=True)
class _Holding:
    """What an account can hold: a unit of a platform."""

    platform: str
    unit: Unit

    def __str__(self) -> str:
        return f"{self.platform} {self.unit}"


@dataclass(frozen=True, slots=True)
class _Way:
    """From one holding to another, or to something that is worth as much as it says (`to` is None)."""

    start: _Holding
    to: _Holding | None
    rate: Fraction
    words: str


@dataclass(frozen=True, slots=True)
class _Worth:
    """The greatest value of one of a holding, and the way that makes it."""

    value: Fraction
    steps: tuple[str, ...] = ()


def find_pump(
    policies: Iterable[Policy], lingering: Iterable[Policy] = (), former: Iterable[Policy] = ()
) -> Pump | None:
    """The first pump found among `policies`, which govern now or will, or None where there is none. `lingering`: former
    revisions under which cards may still come back; `former`: all that cards may have been paid under."""
    given = tuple(policies)
    if (stray := _recounted((*former, *given)) or _stray(given)) is not None:
        return stray
    ways = tuple(way for policy in given for way in _ways(policy))
    worth, loop = _worths(ways)
    if loop is not None:
        return loop
    for holding in sorted(worth):
        if holding.unit is Unit.COIN and worth[holding].value > 1:
            return Pump(steps=(str(holding), *worth[holding].steps), yields=worth[holding].value)
    for policy in given:
        for pump in (*_cards(policy, worth), *_returns(policy, (*given, *lingering))):
            return pump
    return None


def _recounted(policies: Sequence[Policy]) -> Pump | None:
    """A platform whose amounts are counted in another currency than before, though cards and wallets keep theirs."""
    currencies: dict[str, str] = {}
    for policy in policies:
        known = currencies.setdefault(policy.platform, policy.currency)
        if known != policy.currency:
            steps = (f"{policy.platform} card, paid in {known}", f"recycled for what counts in {policy.currency}")
            return Pump(steps=steps, yields=None)
    return None


def _stray(policies: Sequence[Policy]) -> Pump | None:
    """An exchange for what cannot be valued."""
    currencies = {policy.platform: policy.currency for policy in policies}
    for policy in policies:
        for rate in policy.exchange:
            if currencies.get(rate.to_platform) != policy.currency:
                to = _Holding(rate.to_platform, rate.to_unit)
                kind = "another currency" if rate.to_platform in currencies else "no known platform"
                words = f"exchanged for {to}, which is of {kind}"
                return Pump(steps=(str(_Holding(policy.platform, rate.unit)), words), yields=None)
    return None


def _ways(policy: Policy) -> Iterator[_Way]:
    for rate in policy.exchange:
        kept = Fraction(BASIS_POINTS - rate.spread_basis_points, BASIS_POINTS)
        to = _Holding(rate.to_platform, rate.to_unit)
        yield _Way(
            _Holding(policy.platform, rate.unit), to, Fraction(rate.get, rate.give) * kept, f"exchanged for {to}"
        )
    for offer in policy.offers:
        worth = Fraction(offer.benefit.value_minor, offer.price)
        yield _Way(_Holding(policy.platform, offer.unit), None, worth, f"offer {offer.offer_id}")


def _worths(ways: Sequence[_Way]) -> tuple[Mapping[_Holding, _Worth], Pump | None]:
    """The greatest value of each holding, by as many rounds as there are holdings; and the loop that gains, if a round
    more would still improve something."""
    holdings = {way.start for way in ways} | {way.to for way in ways if way.to is not None}
    loop = _gaining_loop(ways, holdings)
    worth = {h: _Worth(Fraction(1 if h.unit is Unit.COIN else 0)) for h in holdings}
    if loop is not None:
        return worth, loop
    for _ in holdings:
        for way in ways:
            beyond = worth[way.to] if way.to is not None else _Worth(Fraction(1))
            if (value := way.rate * beyond.value) > worth[way.start].value:
                worth[way.start] = _Worth(value, (way.words, *beyond.steps))
    return worth, None


def _gaining_loop(ways: Sequence[_Way], holdings: Iterable[_Holding]) -> Pump | None:
    """A loop whose rates multiply to more than one: from each holding, the best rate back to itself within as many
    steps as there are holdings (no loop that gains needs more)."""
    inner = [way for way in ways if way.to is not None]
    rounds = len({way.start for way in inner})
    for start in sorted(holdings):
        reached: dict[_Holding, tuple[Fraction, tuple[str, ...]]] = {start: (Fraction(1), ())}
        for _ in range(rounds):
            further: dict[_Holding, tuple[Fraction, tuple[str, ...]]] = {}
            for way in inner:
                if way.start not in reached or way.to is None:
                    continue
                rate, words = reached[way.start]
                if rate * way.rate > further.get(way.to, (Fraction(0), ()))[0]:
                    further[way.to] = (rate * way.rate, (*words, way.words))
            if (back := further.get(start)) is not None and back[0] > 1:
                return Pump(steps=(str(start), *back[1]), yields=back[0])
            reached = further
    return None


def _cards(policy: Policy, worth: Mapping[_Holding, _Worth]) -> Iterator[Pump]:
    """Cards that pay more than their price, for each tier and segment."""
    for tier in TIERS:
        terms = policy.for_tier(tier)
        for segment in (None, *policy.segments):
            offered = policy.for_segment(segment).units if segment else PLAIN.units
            for unit, share in ((terms.compensation.unit, BASIS_POINTS), *((u.unit, u.basis_points) for u in offered)):
                yields = _payout(terms, unit, Fraction(share, BASIS_POINTS), worth)
                if yields is None or yields > 1:
                    whose = f"{tier} card, {segment or 'no'} segment"
                    steps = worth.get(_Holding(policy.platform, unit), _Worth(Fraction(1))).steps
                    yield Pump(
                        steps=(f"{policy.platform} {whose}", f"recycled for {policy.platform} {unit}", *steps),
                        yields=yields,
                    )


def _payout(policy: Policy, unit: Unit, share: Fraction, worth: Mapping[_Holding, _Worth]) -> Fraction | None:
    """What an unused card pays at most, as a share of its price; None: without a bound."""
    rule = policy.compensation
    known = worth.get(_Holding(policy.platform, unit))
    value = known.value if known else Fraction(1 if unit is Unit.COIN else 0)
    match rule.kind:
        case CompensationKind.REFUND:
            paid = BASIS_POINTS - policy.fee_basis_points + policy.bonus_max_basis_points
            return Fraction(paid, BASIS_POINTS) * share * value
        case CompensationKind.PER_UNUSED_DAY:
            paid = BASIS_POINTS + policy.bonus_max_basis_points
            a_day = rule.amount_per_day * Fraction(paid, BASIS_POINTS) * share * value
            if a_day == 0:
                return Fraction(0)
            return a_day / policy.face_value_per_day_min if policy.face_value_per_day_min else None
        case CompensationKind.DISCOUNT:
            return Fraction(rule.basis_points, BASIS_POINTS)


def _returns(policy: Policy, others: Iterable[Policy]) -> Iterator[Pump]:
    """Cards that come back, by this revision or another of `others`, richer than they went."""
    pays = policy.compensation
    recycled = f"recycled for {policy.platform} {pays.unit}"
    if pays.kind is CompensationKind.DISCOUNT and policy.reactivation is not None:
        # A coupon may have been used, and cannot be taken back.
        back = "reactivated, the coupon kept"
        yield Pump(steps=(f"{policy.platform} card", recycled, back, f"{recycled} again"), yields=None)
    renews = any(
        other.platform == policy.platform
        and other.reactivation is not None
        and other.reactivation.validity is RestoredValidity.FULL
        for other in others
    )
    if renews and (pays.kind is not CompensationKind.PER_UNUSED_DAY or pays.renewed_card_earns):
        back = "reactivated with its full validity"
        yield Pump(steps=(f"used {policy.platform} card", recycled, back, f"{recycled} again"), yields=None)
