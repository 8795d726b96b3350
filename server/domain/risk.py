"""What a score means for a request. Knows bands and what a policy lets them do; must not know what is decided else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from server.domain.errors import Reason, Refusal
from server.domain.policy import Policy, WithoutScore
from server.domain.recycling import Alternative, Decision, RiskBand
from server.domain.snapshot import Score, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What risk has to say. `degraded`: it had no score."""

    band: RiskBand | None
    degraded: bool
    refused: bool
    settlement_held: bool


def judge(score: Score | None, policy: Policy, *, may_refuse: bool) -> Verdict:
    """MEDIUM and HIGH refuse where they may; elsewhere, as where there is no score, settlement is held instead.

    Raises Refusal FRAUD_SCORE_UNAVAILABLE where the policy needs a score that is missing.
    """
    if score is None and may_refuse and policy.risk.without_score is WithoutScore.REFUSE:
        raise Refusal(Reason.FRAUD_SCORE_UNAVAILABLE, "the risk of this request cannot be judged at the moment")
    suspicious = score is None or score.band is not RiskBand.LOW
    refused = score is not None and suspicious and may_refuse
    return Verdict(
        band=score.band if score else None,
        degraded=score is None,
        refused=refused,
        settlement_held=suspicious and not refused,
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
