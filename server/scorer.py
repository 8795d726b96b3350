"""The fraud worker behind the engine's port. Knows the scoring contract and when to stop asking; must not judge.

A breaker keeps a worker that is down or slow from costing every batch its time-out: after `FAILURES_MAX` failures in a
row nothing is asked for `PAUSE_S`, then one batch tries.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from fraud_scoring.v1 import fraud_scoring_service_pb2 as pb
from fraud_scoring.v1 import fraud_scoring_service_pb2_grpc

from server.domain.snapshot import Score
from server.engine.ports import Features, ScoreUnavailable

FEATURE_REGISTRY = "v2"
"""The registry that the database's `risk_features` follows."""

FAILURES_MAX = 5
PAUSE_S = 1.0

_FIELDS = tuple(field.name for field in pb.FeatureRow.DESCRIPTOR.fields)


class GrpcFraudScorer:
    """Asks the worker over one channel."""

    def __init__(
        self, channel: grpc.aio.Channel, *, timeout_ms: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._stub = fraud_scoring_service_pb2_grpc.FraudScoringServiceStub(channel)
        self._timeout_s = timeout_ms / 1000
        self._monotonic = monotonic
        self._failures = 0
        self._open_until = 0.0

    async def score(self, rows: Sequence[Features]) -> list[Score]:
        """One score a row, all by the same model. Raises ScoreUnavailable."""
        if self._failures >= FAILURES_MAX:
            if self._monotonic() < self._open_until:
                raise ScoreUnavailable("the breaker is open")
            self._open_until = self._monotonic() + PAUSE_S
        request = pb.ScoreRequest(feature_registry=FEATURE_REGISTRY, rows=map(_message, rows))
        try:
            response = await self._stub.Score(request, timeout=self._timeout_s)
            scores = _scores(response, len(rows))
        except (grpc.aio.AioRpcError, ScoreUnavailable) as error:
            self._failures += 1
            self._open_until = self._monotonic() + PAUSE_S
            cause = error.code().name if isinstance(error, grpc.aio.AioRpcError) else str(error)
            raise ScoreUnavailable(cause) from error
        self._failures = 0
        return scores


def _message(row: Features) -> pb.FeatureRow:
    values: dict[str, Any] = {field: row[field] for field in _FIELDS}
    return pb.FeatureRow(**values)


def _scores(response: pb.ScoreResponse, rows: int) -> list[Score]:
    """Believes a worker's answer only when it makes sense."""
    medium, high = response.medium_threshold, response.high_threshold
    sane = (
        len(response.scores) == rows
        and all(math.isfinite(score) and 0 <= score <= 1 for score in response.scores)
        and 0 < medium <= high <= 1
        and response.model_version
    )
    if not sane:
        raise ScoreUnavailable("the worker's answer makes no sense")
    return [
        Score(probability=score, medium_threshold=medium, high_threshold=high, model_version=response.model_version)
        for score in response.scores
    ]
