"""The gRPC face of the worker: `fraud_scoring.v1.FraudScoringService`.

Knows messages and statuses. Must not know how a score comes about (`scorer`), where models come from (`models`), nor
who asks and what follows from the answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Final, NoReturn

import grpc
import numpy as np
import numpy.typing as npt
from fraud_scoring.v1 import fraud_scoring_service_pb2 as pb
from fraud_scoring.v1 import fraud_scoring_service_pb2_grpc as pb_grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from fraud_worker import meter
from fraud_worker.columns import Matrix, RequestRefused, check_questions, checked_matrix
from fraud_worker.conversion import ConversionModel
from fraud_worker.explanation import Explanation, explain
from fraud_worker.measuring import measured, reference_of
from fraud_worker.models import LoadedModel, Models, RefusedModel
from fraud_worker.scorer import Model
from fraud_worker.shadow import Shadows, ShadowScores

ROWS_MAX: Final = 1_000
EXPLAINED_ROWS_MAX: Final = 64
"""A row takes some hundred microseconds and more."""
EXPLAINING_MAX: Final = 8
"""So many Explain calls may wait; one is worked on at a time, beside the scores."""
MEASURING_MAX: Final = 4
"""So many MeasureHealth calls may wait; one is worked on at a time."""


_ERROR_DOMAIN: Final = "card-recycling"

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


def score_batch(model: Model, request: pb.ScoreRequest) -> tuple[pb.ScoreResponse, npt.NDArray[np.float64]]:
    """All of `Score` but the transport and the challengers: the answer, and the checked rows. Raises
    `RequestRefused`."""
    rows = checked_matrix(request, ROWS_MAX)
    thresholds = model.manifest.thresholds
    answer = pb.ScoreResponse(
        scores=model.probabilities(rows).tolist(),
        model_version=model.version,
        medium_threshold=thresholds.medium,
        high_threshold=thresholds.high,
    )
    return answer, rows


def convert(model: ConversionModel, asked: pb.ConversionColumns, rows: Matrix) -> pb.Conversions:
    """What `model` says of checked questions about checked rows."""
    dispositions = np.array(asked.dispositions, dtype=np.int64)
    segments = np.array(asked.segments, dtype=np.int64)
    probabilities = model.probabilities(rows[np.array(asked.rows)], dispositions, segments)
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("its answers are no probabilities")
    return pb.Conversions(
        model_version=model.version,
        probabilities=probabilities.tolist(),
        support=model.support(dispositions, segments).tolist(),
    )


class FraudScoringService(pb_grpc.FraudScoringServiceServicer):
    """Scores and explains with the models of the moment."""

    def __init__(self, models: Callable[[], Models], shadows: Shadows) -> None:
        self._models = models
        self._shadows = shadows
        self._failed: set[str] = set()
        self._explaining = 0
        self._explainer = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self._measuring = 0
        self._measurer = ThreadPoolExecutor(1, thread_name_prefix="measure")

    def close(self) -> None:
        """Ends the threads that explain and measure."""
        self._explainer.shutdown()
        self._measurer.shutdown()

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        """Scores of the rows, in order; see the contract for the errors."""
        # The champion on the event loop: a full batch takes about a millisecond, less than another thread would cost.
        await _check_deadline(context, "Score")
        models = self._models()
        if models.champion is None:
            await _abort(context, "Score", grpc.StatusCode.UNAVAILABLE, "MODEL_MISSING", "there is no model yet")
        try:
            response, rows = score_batch(models.champion.model, request)
            check_questions(request.conversions, len(rows))
        except RequestRefused as error:
            await _refuse(context, "Score", error)
        except Exception:
            await _fail(context, "Score")
        meter.count_scored(len(rows))
        if models.conversion is not None and request.conversions.rows:
            self._convert(models.conversion.model, request.conversions, rows, response)
        if models.challengers:
            challengers = [loaded.model for loaded in models.challengers]
            shadow = await self._shadows.scores(challengers, rows, context.time_remaining() or 0.0)
            response.shadow.extend(map(_shadow, shadow))
        return response

    def _convert(
        self, model: ConversionModel, asked: pb.ConversionColumns, rows: Matrix, response: pb.ScoreResponse
    ) -> None:
        """Adds what is known of conversions; without it, the scores are as good."""
        try:
            response.conversions.CopyFrom(convert(model, asked, rows))
        except Exception:
            meter.count_conversion_failure()
            if model.version not in self._failed:  # once: it will fail again and again
                self._failed.add(model.version)
                log.exception("conversion model %s failed", model.version)

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:
        """Explanations of the rows, in order; see the contract for the errors."""
        await _check_deadline(context, "Explain")
        models = self._models()
        if models.champion is None:
            await _abort(context, "Explain", grpc.StatusCode.UNAVAILABLE, "MODEL_MISSING", "there is no model yet")
        model = models.of_version(request.model_version)
        if model is None:
            why = f"model {request.model_version} is not in use any more"
            await _abort(context, "Explain", grpc.StatusCode.FAILED_PRECONDITION, "MODEL_CHANGED", why)
        if self._explaining >= EXPLAINING_MAX:
            await _abort(
                context, "Explain", grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", "too many Explain calls wait"
            )
        self._explaining += 1
        try:
            rows = checked_matrix(request, EXPLAINED_ROWS_MAX)
            loop = asyncio.get_running_loop()
            explanations = await loop.run_in_executor(self._explainer, explain, model, rows)
        except RequestRefused as error:
            await _refuse(context, "Explain", error)
        except Exception:
            await _fail(context, "Explain")
        finally:
            self._explaining -= 1
        return pb.ExplainResponse(model_version=model.version, explanations=map(_explanation, explanations))

    async def MeasureHealth(self, request: pb.MeasureHealthRequest, context: Context) -> pb.MeasureHealthResponse:
        """How a model fares; see the contract for the errors."""
        await _check_deadline(context, "MeasureHealth")
        if self._measuring >= MEASURING_MAX:
            await _abort(
                context,
                "MeasureHealth",
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "OVERLOADED",
                "too many MeasureHealth calls wait",
            )
        references = {model.version: reference_of(model.manifest) for model in self._models().all()}
        self._measuring += 1
        try:
            # Beside the scores, on one thread.
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._measurer, measured, request, references)
        except RequestRefused as error:
            await _refuse(context, "MeasureHealth", error)
        except Exception:
            await _fail(context, "MeasureHealth")
        finally:
            self._measuring -= 1

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """The models in use, and those refused."""
        await _check_deadline(context, "GetModel")
        return describe(self._models())


def describe(models: Models) -> pb.GetModelResponse:
    """What `GetModel` answers."""
    description = pb.GetModelResponse(
        challengers=[_challenger(loaded.model) for loaded in models.challengers], refused=map(_refused, models.refused)
    )
    if models.champion is not None:
        description.MergeFrom(_champion(models.champion))
    if models.conversion is not None:
        description.conversion_model.CopyFrom(_conversion_model(models.conversion))
    return description


def _champion(loaded: LoadedModel[Model]) -> pb.GetModelResponse:
    manifest = loaded.model.manifest
    return pb.GetModelResponse(
        model_version=loaded.model.version,
        model_sha256=manifest.model_sha256,
        feature_registry=manifest.feature_registry,
        feature_registry_sha256=manifest.feature_registry_sha256,
        train_time=_timestamp(datetime.fromisoformat(manifest.train_time)),
        load_time=_timestamp(loaded.time),
        medium_threshold=manifest.thresholds.medium,
        high_threshold=manifest.thresholds.high,
        features=manifest.features,
    )


def _conversion_model(loaded: LoadedModel[ConversionModel]) -> pb.ConversionModel:
    manifest = loaded.model.manifest
    return pb.ConversionModel(
        model_version=loaded.model.version,
        model_sha256=manifest.model_sha256,
        train_time=_timestamp(datetime.fromisoformat(manifest.train_time)),
        load_time=_timestamp(loaded.time),
    )


def _challenger(model: Model) -> pb.Challenger:
    manifest = model.manifest
    return pb.Challenger(
        model_version=model.version,
        model_sha256=manifest.model_sha256,
        train_time=_timestamp(datetime.fromisoformat(manifest.train_time)),
        medium_threshold=manifest.thresholds.medium,
        high_threshold=manifest.thresholds.high,
    )


def _refused(model: RefusedModel) -> pb.RefusedModel:
    return pb.RefusedModel(folder=str(model.folder), why=model.why, refuse_time=_timestamp(model.time))


def _shadow(scored: ShadowScores) -> pb.ShadowScores:
    model, scores = scored
    thresholds = model.manifest.thresholds
    return pb.ShadowScores(
        model_version=model.version,
        scores=scores,
        medium_threshold=thresholds.medium,
        high_threshold=thresholds.high,
    )


def _explanation(explanation: Explanation) -> pb.Explanation:
    return pb.Explanation(
        raw_score=explanation.raw_score,
        base_value=explanation.base_value,
        probability=explanation.probability,
        contributions=[
            pb.Contribution(
                feature=contribution.feature,
                reason_code=contribution.reason_code,
                value=contribution.value,
                contribution=contribution.contribution,
                sentence=contribution.sentence,
            )
            for contribution in explanation.contributions
        ],
    )


def _timestamp(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment)
    return message


async def _check_deadline(context: Context, method: str) -> None:
    if context.time_remaining() is None:
        await _abort(
            context, method, grpc.StatusCode.INVALID_ARGUMENT, "DEADLINE_REQUIRED", "every call needs a deadline"
        )


async def _refuse(context: Context, method: str, refused: RequestRefused) -> NoReturn:
    violation = BadRequest(field_violations=[BadRequest.FieldViolation(field=refused.field, description=refused.why)])
    await _abort(
        context,
        method,
        grpc.StatusCode.INVALID_ARGUMENT,
        "FIELD_INVALID",
        str(refused),
        field=refused.field,
        details=[violation],
    )


async def _fail(context: Context, method: str) -> NoReturn:
    """Logs what is being handled; the caller is told nothing of it."""
    log.exception("%s failed", method)
    await _abort(context, method, grpc.StatusCode.INTERNAL, "INTERNAL", "internal error")


async def _abort(
    context: Context,
    method: str,
    code: grpc.StatusCode,
    reason: str,
    text: str,
    *,
    field: str = "",
    details: Sequence[BadRequest] = (),
) -> NoReturn:
    meter.count_refused(method, reason, field)
    info = ErrorInfo(reason=reason, domain=_ERROR_DOMAIN, metadata={"field": field} if field else {})
    packed = []
    for message in (info, *details):
        packed.append(AnyMessage())
        packed[-1].Pack(message)
    status = Status(code=code.value[0], message=text, details=packed)
    await context.abort(code, text, (("grpc-status-details-bin", status.SerializeToString()),))
    raise AssertionError("abort returned")
