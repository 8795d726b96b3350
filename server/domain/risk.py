"""What a score means for a request. Knows bands and what a policy lets them do; must not know what is decided else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from server.domain.errors import Reason, Refusal
from server.domain.policy import Policy, WithoutScore
from server.domain.recycling import Alternative, Decision, RiskBand
from server.domain.snapshot import Score, Snapshot


class Action(StrEnum):
    """What risk asks for."""

    APPROVE = "APPROVE"
    HOLD = "HOLD"
    """Held for a reviewer's verdict."""
    REFUSE = "REFUSE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What risk has to say. `degraded`: it had no score. `settlement_held`: approved, but settlement waits."""

    band: RiskBand | None
    degraded: bool
    action: Action
    settlement_held: bool


def judge(score: Score | None, policy: Policy, *, may_refuse: bool) -> Verdict:
    """HIGH refuses and MEDIUM holds where they may; elsewhere, as where there is no score, settlement is held instead.

    Raises Refusal FRAUD_SCORE_UNAVAILABLE where the policy needs a score that is missing.
    """
    if score is None and may_refuse and policy.risk.without_score is WithoutScore.REFUSE:
        raise Refusal(Reason.FRAUD_SCORE_UNAVAILABLE, "the risk of this request cannot be judged at the moment")
    suspicious = score is None or score.band is not RiskBand.LOW
    action = Action.APPROVE
    if score is not None and suspicious and may_refuse:
        action = Action.REFUSE if score.band is RiskBand.HIGH else Action.HOLD
    return Verdict(
        band=score.band if score else None,
        degraded=score is None,
        action=action,
        settlement_held=suspicious and action is Action.APPROVE,
    )


def decision(
    snapshot: Snapshot,
    score: Score | None,
    verdict: Verdict,
    alternatives: tuple[Alternative, ...],
    valid_until: datetime | None,
) -> Decision:
    codes = []
    if verdict.band is RiskBand.MEDIUM or verdict.band is RiskBand.HIGH:
        codes.append(f"RISK_{verdict.band}")
    if verdict.degraded:
        codes.append("SCORE_UNAVAILABLE")
    return Decision(
        risk_score=score.probability if score else None,
        risk_band=verdict.band,
        reason_codes=tuple(codes),
        alternatives=alternatives,
        policy_revision=snapshot.revision_name,
        model_version=score.model_version if score else "",
        degraded=verdict.degraded,
        valid_until=valid_until,
    )
