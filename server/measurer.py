"""The fraud worker as the measurer of models, behind the engine's port. Knows the scoring contract; must not judge."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import grpc
import grpc.aio
import msgspec
from fraud_scoring.v1 import fraud_scoring_service_pb2 as pb
from fraud_scoring.v1 import fraud_scoring_service_pb2_grpc
from google.protobuf.json_format import MessageToDict

from server.domain.model_health import Figures
from server.domain.snapshot import Score
from server.engine.ports import JudgedRequest, ScoreUnavailable
from server.scorer import FEATURE_REGISTRY

TIMEOUT_S = 15.0
UNKNOWN = -1.0
"""What stands for an unknown value on the wire."""

_FIELDS = tuple(field.name for field in pb.FeatureColumns.DESCRIPTOR.fields)


class GrpcHealthMeasurer:
    """Asks the worker over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = fraud_scoring_service_pb2_grpc.FraudScoringServiceStub(channel)

    async def measure(self, seen: Sequence[JudgedRequest], labelled: Sequence[JudgedRequest]) -> Figures:
        """The figures of the one model that scored all these. Raises ScoreUnavailable."""
        # Some hundred thousand values: beside the event loop.
        request = await asyncio.to_thread(_request, seen, labelled)
        try:
            response = await self._stub.MeasureHealth(request, timeout=TIMEOUT_S)
            figures = MessageToDict(
                response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
            return msgspec.convert(figures, Figures)
        except grpc.aio.AioRpcError as error:
            raise ScoreUnavailable(error.code().name) from error
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
