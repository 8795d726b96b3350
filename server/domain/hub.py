"""The decision hub: what may become of a card, what each way is worth, and which is taken. Pure.

For each disposition that the policy allows, in minor units:

    Y = R * P - C
    R = revenue_basis_points / 10,000 of the face value, or of the paid value of the unused validity
    P = the prior, or (n * model + k * prior) / (n + k)
    C = recycling_minor
        + opportunity_basis_points / 10,000 of the paid value of the unused validity
        + user_damage_minor * sensitivity_basis_points / 10,000

The prior is the policy's, of the owner's segment where it has one. Where P is that the owner pays again, as a
`prior_weight` (k) says, a model may be heard: n is of how many recyclings of that segment and disposition it has
learnt, so that what it hardly knows hardly counts. The greatest Y wins, the first listed among equals. Knows the
formulae; must not know where models are, nor what risk says.
"""

from __future__ import annotations

from server.domain.card import Card
from server.domain.compensation import Terms
from server.domain.policy import BASIS_POINTS, CostRule, DispositionRule, Policy, RevenueBasis
from server.domain.recycling import Alternative, Disposition, ProbabilitySource
from server.domain.snapshot import Conversion, Conversions

_ROUNDING = 1e-12
"""Less than this share of its greatest part is a Y off, since its parts are doubles."""


def uncertain(card: Card, policy: Policy) -> tuple[Disposition, ...]:
    """The dispositions that are allowed for `card` and whose probability a model may know better."""
    return tuple(
        rule.disposition
        for rule in policy.dispositions
        if rule.prior_weight is not None and not _ruled_out(rule, card, policy)
    )


def weigh(card: Card, policy: Policy, price: Terms, conversions: Conversions | None = None) -> tuple[Alternative, ...]:
    """Every disposition with its Y; what the policy's terms rule out for this card says why. `conversions`: what a
    model says, None where none was heard."""
    told = {each.disposition: each for each in conversions.of} if conversions else {}
    return tuple(_weighed(rule, card, policy, price, told.get(rule.disposition)) for rule in policy.dispositions)


def choose(alternatives: tuple[Alternative, ...]) -> Disposition:
    """The allowed alternative with the greatest Y; the first listed where they are worth the same but for rounding."""
    allowed = [each for each in alternatives if each.allowed]
    best = max(allowed, key=lambda each: each.y)
    return next(each.disposition for each in allowed if _is_worth(each, best))


def _is_worth(one: Alternative, best: Alternative) -> bool:
    largest = max(1.0, *(abs(part) for each in (one, best) for part in (each.revenue, each.cost)))
    return best.y - one.y <= _ROUNDING * largest


def blended(probability: float, support: int, prior: float, prior_weight: int) -> float:
    """The mean of what a model and a prior say, each by how many recyclings stand behind it; the prior where none
    does."""
    weight = support + prior_weight
    return (support * probability + prior_weight * prior) / weight if weight else prior


def _weighed(rule: DispositionRule, card: Card, policy: Policy, price: Terms, told: Conversion | None) -> Alternative:
    of_face = rule.revenue_basis is RevenueBasis.FACE_VALUE
    revenue = (card.face_value_minor if of_face else price.base_minor) * rule.revenue_basis_points / BASIS_POINTS
    prior, weight = rule.prior(card.segment), rule.prior_weight
    probability, source, heard = prior, None, None
    if weight is not None:
        source, heard = ProbabilitySource.PRIOR, told
        if heard and heard.support:
            probability = blended(heard.probability, heard.support, prior, weight)
            source = ProbabilitySource.BLENDED if weight else ProbabilitySource.MODEL
    recycling, opportunity, damage = _costs(rule.cost, card, policy, price)
    cost = float(rule.cost_minor or 0) + (recycling or 0.0) + (opportunity or 0.0) + (damage or 0.0)
    why = _ruled_out(rule, card, policy)
    return Alternative(
        disposition=rule.disposition,
        revenue=revenue,
        probability=probability,
        cost=cost,
        y=revenue * probability - cost,
        allowed=not why,
        why=why,
        recycling_cost=recycling,
        opportunity_cost=opportunity,
        user_damage=damage,
        probability_source=source,
        prior=None if source is None else prior,
        model_probability=heard.probability if heard else None,
        support=heard.support if heard else None,
    )


def _costs(
    rule: CostRule | None, card: Card, policy: Policy, price: Terms
) -> tuple[float, float, float] | tuple[None, None, None]:
    if rule is None:
        return None, None, None
    sensitivity = policy.for_segment(card.segment).sensitivity_basis_points
    return (
        float(rule.recycling_minor),
        price.base_minor * rule.opportunity_basis_points / BASIS_POINTS,
        rule.user_damage_minor * sensitivity / BASIS_POINTS,
    )


def _ruled_out(rule: DispositionRule, card: Card, policy: Policy) -> str:
    """Why the disposition is not to be had for `card`; empty where it is."""
    if rule.disposition is not Disposition.CANCEL and policy.renewals_exhausted(card.renewals_used):
        return "the card's validity cannot be renewed again"
    return ""
