"""The contract's enums and the domain's words for the same. Knows how they map; must not know who uses them."""

from __future__ import annotations

from typing import Any

from card_recycling.v1 import (
    card_service_pb2,
    policy_service_pb2,
    recycling_service_pb2,
    review_service_pb2,
    types_pb2,
    wallet_service_pb2,
)


class Names:
    """An enum's numbers to the domain's names (without the prefix) and back; UNSPECIFIED is None."""

    def __init__(self, enum: Any, prefix: str) -> None:
        self._name_of: dict[int, str] = {number: name.removeprefix(prefix) for name, number in enum.items()}
        self._number_of = {name: number for number, name in self._name_of.items()}

    def name(self, number: int) -> str:
        """The name of a number of the enum."""
        return self._name_of[number]

    def known(self, number: int) -> str | None:
        """The name; None when nothing was stated."""
        return self._name_of[number] if number else None

    def number(self, name: str | None) -> int:
        """The number of a name; 0 for none."""
        return self._number_of[name] if name else 0


TIER = Names(types_pb2.Tier, "TIER_")
SEGMENT = Names(types_pb2.Segment, "SEGMENT_")
CARD_STATE = Names(types_pb2.CardState, "CARD_STATE_")
REASON = Names(types_pb2.RecycleReason, "RECYCLE_REASON_")
PRIORITY = Names(types_pb2.Priority, "PRIORITY_")
RECYCLING_STATE = Names(types_pb2.RecyclingState, "RECYCLING_STATE_")
DISPOSITION = Names(types_pb2.Disposition, "DISPOSITION_")
UNIT = Names(types_pb2.Unit, "UNIT_")
COMPENSATION_STATE = Names(types_pb2.CompensationState, "COMPENSATION_STATE_")
RISK_BAND = Names(types_pb2.RiskBand, "RISK_BAND_")
DEGRADED_MODE = Names(types_pb2.DegradedMode, "DEGRADED_MODE_")
PROBABILITY_SOURCE = Names(types_pb2.ProbabilitySource, "PROBABILITY_SOURCE_")
LIST_KIND = Names(types_pb2.ListKind, "LIST_KIND_")
SUBJECT_KIND = Names(types_pb2.SubjectKind, "SUBJECT_KIND_")
REVIEW_KIND = Names(review_service_pb2.ReviewKind, "REVIEW_KIND_")
REVIEW_STATE = Names(review_service_pb2.ReviewState, "REVIEW_STATE_")
REVIEW_VERDICT = Names(review_service_pb2.ReviewVerdict, "REVIEW_VERDICT_")
OUTCOME_KIND = Names(recycling_service_pb2.OutcomeKind, "OUTCOME_KIND_")
VOID_REASON = Names(card_service_pb2.VoidReason, "VOID_REASON_")
POSTING_KIND = Names(wallet_service_pb2.PostingKind, "POSTING_KIND_")
BENEFIT_KIND = Names(wallet_service_pb2.BenefitKind, "BENEFIT_KIND_")
SHARED_TRAIT = Names(review_service_pb2.SharedTrait, "SHARED_TRAIT_")
POLICY_STATE = Names(policy_service_pb2.PolicyState, "POLICY_STATE_")
DECISION_CLASS = Names(policy_service_pb2.DecisionClass, "DECISION_CLASS_")
BACKTEST_CHANGE = Names(policy_service_pb2.BacktestChange, "BACKTEST_CHANGE_")
BACKTEST_SKIP = Names(policy_service_pb2.BacktestSkip, "BACKTEST_SKIP_")
BACKTEST_END = Names(policy_service_pb2.BacktestEnd, "BACKTEST_END_")
