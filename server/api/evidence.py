"""A review's evidence as a message: names and units only. Must not decide or look anything up."""

from __future__ import annotations

from card_recycling.v1 import review_service_pb2

from server.api import names
from server.api.messages import card_message, recycling_message, review_message
from server.api.times import timestamp
from server.domain.evidence import Evidence


def evidence_message(evidence: Evidence) -> review_service_pb2.ReviewEvidence:
    """What a reviewer is shown beside a review."""
    return review_service_pb2.ReviewEvidence(
        signals=[
            review_service_pb2.Signal(
                feature=signal.feature,
                value=signal.value or 0.0,  # what is unknown is told by the sentence
                sentence=signal.sentence,
                reason_code=signal.reason_code,
                contribution=signal.contribution,
            )
            for signal in evidence.signals
        ],
        similar=[
            review_service_pb2.SimilarCase(
                shared=map(names.SHARED_TRAIT.number, case.shared),  # type: ignore[arg-type]
                recycling=recycling_message(case.recycling),
            )
            for case in evidence.similar
        ],
        cards=[card_message(card, evidence.now) for card in evidence.cards],
        recyclings=map(recycling_message, evidence.recyclings),
        reviews=map(review_message, evidence.reviews),
        requests=[
            review_service_pb2.AccountRequest(
                event_time=timestamp(request.event_time),
                kind=request.kind,
                card_id=request.card_id or "",
                outcome=request.outcome or "",
                same_device=request.same_device,
            )
            for request in evidence.requests
        ],
    )
