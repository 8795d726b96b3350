"""The fraud worker as the measurer of models, behind the engine's port. Knows the scoring contract; must not judge."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

import grpc
import grpc.aio
import msgspec
from fraud_scoring.v1 import fraud_scoring_service_pb2 as pb
from fraud_scoring.v1 import fraud_scoring_service_pb2_grpc
from google.protobuf.json_format import MessageToDict

from server.breaker import Breaker, BreakerOpen
from server.domain.model_health import Figures
from server.domain.snapshot import Score
from server.engine.ports import JudgedRequest, ScoreUnavailable
from server.scorer import FEATURE_REGISTRY

TIMEOUT_S = 3.0
"""How long the worker may take for one model; 5,000 rows take it a tenth of a second."""
FAILURES_MAX = 2
PAUSE_S = 5.0
"""Who asks next, while the worker is away, need not wait to learn it."""
UNKNOWN = -1.0
"""What stands for an unknown value on the wire."""

_FIELDS = tuple(field.name for field in pb.FeatureColumns.DESCRIPTOR.fields)


class GrpcHealthMeasurer:
    """Asks the worker over one channel.

    The time-out is the server's own: a worker that hangs must not use up what time callers have.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        timeout_s: float = TIMEOUT_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stub = fraud_scoring_service_pb2_grpc.FraudScoringServiceStub(channel)
        self._timeout_s = timeout_s
        self._breaker = Breaker(failures_max=FAILURES_MAX, pause_s=PAUSE_S, monotonic=monotonic)

    async def measure(self, seen: Sequence[JudgedRequest], labelled: Sequence[JudgedRequest]) -> Figures:
        """The figures of the one model that scored all these. Raises ScoreUnavailable."""
        try:
            with self._breaker.attempt():
                # Some hundred thousand values: beside the event loop.
                request = await asyncio.to_thread(_request, seen, labelled)
                return _figures(await self._stub.MeasureHealth(request, timeout=self._timeout_s))
        except grpc.aio.AioRpcError as error:
            raise ScoreUnavailable(error.code().name) from error
        except BreakerOpen as error:
            raise ScoreUnavailable(str(error)) from error


def _figures(response: pb.MeasureHealthResponse | None) -> Figures:
    """gRPC gives None, and no error, for bytes that are no message."""
    if response is None:
        raise ScoreUnavailable("the worker's answer is no message")
    figures = MessageToDict(response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    try:
        return msgspec.convert(figures, Figures)
    except msgspec.ValidationError as error:
        raise ScoreUnavailable("the worker's answer makes no sense") from error


def _request(seen: Sequence[JudgedRequest], labelled: Sequence[JudgedRequest]) -> pb.MeasureHealthRequest:
    scores, labelled_scores = _scores(seen), _scores(labelled)
    model = (scores or labelled_scores)[0]
    return pb.MeasureHealthRequest(
        feature_registry=FEATURE_REGISTRY,
        row_count=len(seen),
        columns=_columns(seen),
        model_version=model.model_version,
        medium_threshold=model.medium_threshold,
        high_threshold=model.high_threshold,
        scores=[score.probability for score in scores],
        labelled_scores=[score.probability for score in labelled_scores],
        labels=[request.label or 0 for request in labelled],
        challengers=_challengers(seen, labelled),
    )


def _scores(requests: Iterable[JudgedRequest]) -> list[Score]:
    return [request.score for request in requests if request.score is not None]


def _columns(requests: Sequence[JudgedRequest]) -> pb.FeatureColumns:
    """What was known, a column a feature. A feature that a request did not have, since it was not there yet, is
    unknown."""
    columns = pb.FeatureColumns()
    for name in _FIELDS:
        values = [request.features.get(name) for request in requests]
        getattr(columns, name).extend(UNKNOWN if value is None else float(value) for value in values)
    return columns


def _challengers(seen: Sequence[JudgedRequest], labelled: Sequence[JudgedRequest]) -> list[pb.ChallengerScores]:
    newest = {score.model_version: score for request in (*labelled, *reversed(seen)) for score in request.shadow}
    return [
        pb.ChallengerScores(
            model_version=version,
            medium_threshold=score.medium_threshold,
            high_threshold=score.high_threshold,
            scores=[_of(version, request) for request in seen],
            labelled_scores=[_of(version, request) for request in labelled],
        )
        for version, score in newest.items()
    ]


def _of(version: str, request: JudgedRequest) -> float:
    return next((score.probability for score in request.shadow if score.model_version == version), UNKNOWN)
