"""The gRPC face of the worker: `fraud_scoring.v1.FraudScoringService`, health, reflection, and the life of the process.

Knows protos, statuses and signals; the only module that imports gRPC. Must not know how a score comes about (`scorer`),
nor who asks and what follows from the answer.
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NoReturn

import grpc
import numpy as np
import numpy.typing as npt
from fraud_scoring.v1 import fraud_scoring_service_pb2 as pb
from fraud_scoring.v1 import fraud_scoring_service_pb2_grpc as pb_grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.code_pb2 import INVALID_ARGUMENT
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from opentelemetry.instrumentation.grpc import aio_server_interceptor, filters

from fraud_worker.registry import FEATURE_NAMES, REGISTRY_NAME
from fraud_worker.scorer import Model, RowsRefused
from process import telemetry
from process.reflection import offer_reflection

SERVICE: Final = "fraud_scoring.v1.FraudScoringService"
ROWS_MAX: Final = 1_000
MESSAGE_BYTES_MAX: Final = 1024 * 1024
"""A row of 54 features takes at most 700 bytes."""
DRAIN_S: Final = 10.0
"""How long requests in flight may take after SIGTERM."""

_COLUMN_OF: Final = {field.number: FEATURE_NAMES.index(field.name) for field in pb.FeatureRow.DESCRIPTOR.fields}
"""Field numbers to places in the matrix."""

_ERROR_DOMAIN: Final = "card-recycling"

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class ListenError(Exception):
    """The address cannot be listened on."""


def feature_matrix(rows: Sequence[pb.FeatureRow]) -> npt.NDArray[np.float64]:
    """`rows` as the models' matrix, NaN for what is left out. Raises `RowsRefused` where a given value is NaN."""
    width, given = len(FEATURE_NAMES), 0
    # One flat list, for numpy's own assignment is slower at this size.
    values = [math.nan] * (width * len(rows))
    for number, row in enumerate(rows):
        fields = row.ListFields()
        given += len(fields)
        first = number * width
        for field, value in fields:
            values[first + _COLUMN_OF[field.number]] = value
    matrix = np.array(values, dtype=np.float64).reshape(len(rows), width)
    if given != np.count_nonzero(~np.isnan(matrix)):
        _refuse_nan(rows)
    return matrix


def _refuse_nan(rows: Sequence[pb.FeatureRow]) -> NoReturn:
    for number, row in enumerate(rows):
        for field, value in row.ListFields():
            if value != value:
                raise RowsRefused(number, field.name, "must be a number; leave out what is unknown")
    raise AssertionError("no NaN was given")


class FraudScoringService(pb_grpc.FraudScoringServiceServicer):
    """Scores with one verified model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        manifest = model.manifest
        train_time = Timestamp()
        train_time.FromDatetime(datetime.fromisoformat(manifest.train_time))
        self._description = pb.GetModelResponse(
            model_version=model.version,
            model_sha256=manifest.model_sha256,
            feature_registry=manifest.feature_registry,
            train_time=train_time,
            medium_threshold=manifest.thresholds.medium,
            high_threshold=manifest.thresholds.high,
            features=manifest.features,
        )

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        """Scores of the rows, in order; INVALID_ARGUMENT names the field at fault, INTERNAL is in the log."""
        # On the event loop: a full batch takes some ten milliseconds, and another thread would compete for the core.
        if request.feature_registry != REGISTRY_NAME:
            await _refuse(context, "feature_registry", f"this worker's features are of registry {REGISTRY_NAME!r}")
        if not 1 <= len(request.rows) <= ROWS_MAX:
            await _refuse(context, "rows", f"must hold 1 to {ROWS_MAX:,} rows")
        try:
            scores = self._model.score(feature_matrix(request.rows))
        except RowsRefused as error:
            await _refuse(context, f"rows[{error.row}].{error.feature}", error.why)
        except Exception:
            log.exception("Score failed")
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")
        return pb.ScoreResponse(
            scores=scores.tolist(),
            model_version=self._description.model_version,
            medium_threshold=self._description.medium_threshold,
            high_threshold=self._description.high_threshold,
        )

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """The model in use."""
        return self._description


async def _refuse(context: Context, field: str, why: str) -> NoReturn:
    info = ErrorInfo(reason="FIELD_INVALID", domain=_ERROR_DOMAIN, metadata={"field": field})
    violation = BadRequest(field_violations=[BadRequest.FieldViolation(field=field, description=why)])
    details = []
    for message in (info, violation):
        packed = AnyMessage()
        packed.Pack(message)
        details.append(packed)
    status = Status(code=INVALID_ARGUMENT, message=f"{field}: {why}", details=details)
    await context.abort(
        grpc.StatusCode.INVALID_ARGUMENT,
        status.message,
        (("grpc-status-details-bin", status.SerializeToString()),),
    )
    raise AssertionError("abort returned")


def run(model: Model, listen: str, *, reflection: bool = False, log_level: str = "INFO") -> None:
    """Serves `model` at `listen` ("HOST:PORT") until SIGTERM or SIGINT, then drains. Raises `ListenError`."""
    telemetry.set_up_logs(log_level)
    asyncio.run(_serve(model, listen, reflection=reflection))


async def _serve(model: Model, listen: str, *, reflection: bool) -> None:
    provider = telemetry.set_up_tracing("card-recycling-fraud-worker")
    server = grpc.aio.server(
        interceptors=[
            aio_server_interceptor(filter_=filters.negate(filters.health_check()))  # type: ignore[no-untyped-call]
        ],
        options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
            ("grpc.so_reuseport", 0),
        ],
    )
    health_service = health.aio.HealthServicer()
    pb_grpc.add_FraudScoringServiceServicer_to_server(FraudScoringService(model), server)
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    if reflection:
        offer_reflection(server, (SERVICE, health.SERVICE_NAME))
    host = listen.rpartition(":")[0]
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise ListenError(f"cannot listen on {listen}: {error}") from error
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await server.start()
    for name in ("", SERVICE):
        await health_service.set(name, health_pb2.HealthCheckResponse.SERVING)
    print(
        f"fraud-worker listening on {host}:{port} model {model.version}", flush=True
    )  # the line that starters wait for
    await stop.wait()
    await health_service.enter_graceful_shutdown()
    await server.stop(DRAIN_S)
    provider.shutdown()
