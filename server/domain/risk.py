"""What score, lists and caps mean for a request. Knows what a policy lets them do; must not know what is decided else.

In order of weight: a DENY entry refuses whatever else is true. A WATCH entry holds at least. An ALLOW entry takes back
what band, caps and a missing device ask for, and nothing else. The band refuses or holds, caps refuse or hold, a
missing score and a missing device do what the policy says. The strictest of these is done; where a request may not be
refused, settlement is held instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from server.domain.errors import Reason, Refusal
from server.domain.lists import ListHit, ListKind
from server.domain.policy import BASIS_POINTS, ExplorationRule, Policy, VelocityCap, WithoutDevice
from server.domain.recycling import Alternative, Decision, DegradedMode, RiskBand
from server.domain.snapshot import RiskFacts, Score, Snapshot

VELOCITY_CODE = "VELOCITY_"
"""What the reason code of a cap reached begins with; the counter's name in capitals follows."""

WITHOUT_DEVICE_CODE = "WITHOUT_DEVICE"
"""The reason code of a request that names no device, where the policy minds."""


class Action(StrEnum):
    """What risk asks for, the stricter the later."""

    APPROVE = "APPROVE"
    HOLD = "HOLD"
    """Held for a reviewer's verdict."""
    REFUSE = "REFUSE"


_OF_BAND = {RiskBand.LOW: Action.APPROVE, RiskBand.MEDIUM: Action.HOLD, RiskBand.HIGH: Action.REFUSE}
_STRICTNESS = {action: place for place, action in enumerate(Action)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What risk has to say. `degraded_mode`: what the policy does for want of a score, None where there was one.
    `settlement_held`: approved, but settlement waits for a review. `exploration`: approved in spite of the model, under
    this rule."""

    band: RiskBand | None
    degraded_mode: DegradedMode | None
    action: Action
    settlement_held: bool
    reason_codes: tuple[str, ...]
    exploration: ExplorationRule | None = None

    @property
    def settlement_delay_days(self) -> int:
        """How much later than usual it may be settled."""
        return self.exploration.settle_after_days if self.exploration else 0


def judge(
    score: Score | None,
    facts: RiskFacts,
    policy: Policy,
    *,
    may_refuse: bool,
    settles: bool = True,
    explorable_minor: int | None = None,
) -> Verdict:
    """The verdict on one request. `settles`: whether it leads to a settlement, which could be held instead of the card.
    `explorable_minor`: what was paid for the card, where exploration may let it through.

    Raises Refusal FRAUD_SCORE_UNAVAILABLE where the policy needs a score that is missing, unless a DENY entry refuses.
    """
    listed = {hit.list for hit in facts.list_hits}
    reached = caps_reached(policy.risk.velocity, facts.counts)
    nameless = policy.risk.without_device if facts.without_device else WithoutDevice.APPROVE
    mode = None
    if score is None:
        mode = policy.risk.without_score if may_refuse else DegradedMode.RULES_ONLY
        if mode is DegradedMode.REJECT and ListKind.DENY not in listed:
            raise Refusal(Reason.FRAUD_SCORE_UNAVAILABLE, "the risk of this request cannot be judged at the moment")
    by_model = _OF_BAND[score.band] if score else Action.APPROVE
    by_caps = _strictest(Action(cap.action) for cap in reached)
    by_device, waits = _of_missing_device(nameless, settles)
    exploration = None
    if ListKind.ALLOW in listed:
        by_model = by_caps = by_device = Action.APPROVE
        waits = False
    elif by_model is Action.REFUSE and may_refuse and not listed and not reached and not facts.without_device:
        exploration = _exploration(policy.risk.exploration, facts.lot, explorable_minor)
    asked = _strictest(
        (
            Action.REFUSE if ListKind.DENY in listed else Action.APPROVE,
            Action.HOLD if ListKind.WATCH in listed else Action.APPROVE,
            Action.HOLD if mode is DegradedMode.HOLD else Action.APPROVE,
            Action.APPROVE if exploration else by_model,
            by_caps,
            by_device,
        )
    )
    action = asked if may_refuse else Action.APPROVE
    return Verdict(
        band=score.band if score else None,
        degraded_mode=mode,
        action=action,
        settlement_held=action is Action.APPROVE and (score is None or waits or asked is not Action.APPROVE),
        reason_codes=tuple(_codes(score, facts.list_hits, reached, nameless, exploration)),
        exploration=exploration,
    )


def caps_reached(caps: Iterable[VelocityCap], counts: Mapping[str, float | None]) -> tuple[VelocityCap, ...]:
    """The caps whose counter has reached them. A count that is not known reaches none."""
    return tuple(cap for cap in caps if (count := counts.get(cap.counter)) is not None and count >= cap.max)


def _of_missing_device(rule: WithoutDevice, settles: bool) -> tuple[Action, bool]:
    """What the rule asks for, and whether settlement at least must wait."""
    if rule is WithoutDevice.HOLD_SETTLEMENT:
        return (Action.APPROVE, True) if settles else (Action.HOLD, False)
    return Action(rule), False


def _exploration(
    rule: ExplorationRule | None, lot: float | None, explorable_minor: int | None
) -> ExplorationRule | None:
    if rule is None or lot is None or explorable_minor is None or explorable_minor > rule.amount_max_minor:
        return None
    return rule if lot < rule.share_basis_points / BASIS_POINTS else None


def _strictest(actions: Iterable[Action]) -> Action:
    return max(actions, key=_STRICTNESS.__getitem__, default=Action.APPROVE)


def _codes(
    score: Score | None,
    hits: Iterable[ListHit],
    reached: Iterable[VelocityCap],
    nameless: WithoutDevice,
    exploration: ExplorationRule | None,
) -> Iterable[str]:
    """What bore on the verdict, also where something else outweighed it; each once."""
    yield from dict.fromkeys(hit.code for hit in hits)
    if score is None:
        yield "SCORE_UNAVAILABLE"
    elif score.band is not RiskBand.LOW:
        yield f"RISK_{score.band}"
        yield from score.reason_codes
    yield from dict.fromkeys(f"{VELOCITY_CODE}{cap.counter.upper()}" for cap in reached)
    if nameless is not WithoutDevice.APPROVE:
        yield WITHOUT_DEVICE_CODE
    if exploration:
        yield "EXPLORED"


def decision(
    snapshot: Snapshot,
    score: Score | None,
    verdict: Verdict,
    alternatives: tuple[Alternative, ...],
    valid_until: datetime | None,
    conversion_model_version: str = "",
) -> Decision:
    exploration = verdict.exploration
    return Decision(
        risk_score=score.probability if score else None,
        risk_band=verdict.band,
        reason_codes=verdict.reason_codes,
        alternatives=alternatives,
        policy_revision=snapshot.revision_name,
        model_version=score.model_version if score else "",
        degraded=verdict.degraded_mode is not None,
        valid_until=valid_until,
        degraded_mode=verdict.degraded_mode,
        list_hits=snapshot.facts.list_hits,
        explored=exploration is not None,
        propensity=exploration.share_basis_points / BASIS_POINTS if exploration else None,
        conversion_model_version=conversion_model_version,
    )
