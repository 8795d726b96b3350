"""The worker's process: listens, keeps its models up to date, says how it is, and drains.

Knows gRPC servers, signals and health. Must not know what is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from dataclasses import dataclass
from typing import Final

import grpc
from fraud_scoring.v1 import fraud_scoring_service_pb2 as pb
from fraud_scoring.v1 import fraud_scoring_service_pb2_grpc as pb_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from opentelemetry.instrumentation.grpc import aio_server_interceptor, filters

from fraud_worker import meter
from fraud_worker.models import ModelShelf
from fraud_worker.scorer import ModelRefused
from fraud_worker.service import FraudScoringService
from fraud_worker.shadow import Shadows
from process import telemetry
from process.parsing import RefuseGarbage
from process.reflection import offer_reflection

SERVICE: Final = pb.DESCRIPTOR.services_by_name["FraudScoringService"].full_name
PROCESS: Final = "card-recycling-fraud-worker"
MESSAGE_BYTES_MAX: Final = 8 * 1024 * 1024
"""What is scored takes a tenth of it; 5,000 rows of a hundred features, to be measured, take 4 MB."""
DRAIN_S: Final = 10.0
"""How long requests in flight may take after SIGTERM."""
LOOK_S: Final = 0.5
"""How often the model folders are looked at. A new model is in use after about two looks."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to serve. `listen` is HOST:PORT; `challenger_share` (0 to 1) the share of batches that challengers score;
    `await_model` starts although a model is refused. `metrics_listen`: HOST:PORT for Prometheus, empty for nowhere."""

    listen: str
    challenger_share: float = 1.0
    await_model: bool = False
    reflection: bool = False
    metrics_listen: str = ""
    log_level: str = "INFO"


class ListenError(Exception):
    """The address cannot be listened on."""


def run(shelf: ModelShelf, settings: Settings) -> None:
    """Serves the models of `shelf` until SIGTERM or SIGINT, then drains; SIGHUP reads them again.

    Raises `ListenError`, and `ModelRefused` where a worker would start without a model that it was told to serve.
    """
    telemetry.set_up_logs(settings.log_level)
    try:
        metrics = telemetry.set_up_metrics(PROCESS, listen=settings.metrics_listen)
    except OSError as error:
        raise ListenError(f"cannot listen on {settings.metrics_listen}: {error}") from error
    try:
        shelf.look(at_once=True)
        if shelf.models.refused and not settings.await_model:
            raise ModelRefused("; ".join(refused.why for refused in shelf.models.refused))
        asyncio.run(_serve(shelf, settings))
    finally:
        metrics.shutdown()


async def _serve(shelf: ModelShelf, settings: Settings) -> None:
    provider = telemetry.set_up_tracing(PROCESS)
    server = grpc.aio.server(
        interceptors=[
            aio_server_interceptor(filter_=filters.negate(filters.health_check())),  # type: ignore[no-untyped-call]
            RefuseGarbage(meter.count_refused),
        ],
        options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
            ("grpc.so_reuseport", 0),
        ],
    )
    health_service = health.aio.HealthServicer()
    shadows = Shadows(settings.challenger_share)
    service = FraudScoringService(lambda: shelf.models, shadows)
    pb_grpc.add_FraudScoringServiceServicer_to_server(service, server)
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    if settings.reflection:
        offer_reflection(server, (SERVICE, health.SERVICE_NAME))
    host = settings.listen.rpartition(":")[0]
    try:
        port = server.add_insecure_port(settings.listen)
    except RuntimeError as error:
        raise ListenError(f"cannot listen on {settings.listen}: {error}") from error
    stop, again = asyncio.Event(), asyncio.Event()
    for number, event in ((signal.SIGTERM, stop), (signal.SIGINT, stop), (signal.SIGHUP, again)):
        asyncio.get_running_loop().add_signal_handler(number, event.set)
    await _set_health(health_service, shelf)
    await server.start()
    champion = shelf.models.champion
    version = champion.model.version if champion else "none"
    print(f"fraud-worker listening on {host}:{port} model {version}", flush=True)  # the line that starters wait for
    watch = asyncio.create_task(_watch(shelf, health_service, again))
    await stop.wait()
    watch.cancel()
    await health_service.enter_graceful_shutdown()
    await server.stop(DRAIN_S)
    service.close()
    shadows.close()
    provider.shutdown()


async def _watch(shelf: ModelShelf, health_service: health.aio.HealthServicer, again: asyncio.Event) -> None:
    """Keeps models and health up to date. Folders are polled: what puts models there may be on another machine."""
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(again.wait(), LOOK_S)
        at_once = again.is_set()
        again.clear()
        try:
            if await asyncio.to_thread(shelf.look, at_once=at_once):
                await _set_health(health_service, shelf)
        except Exception:  # whatever it is, what is loaded goes on, and the next look may succeed
            log.exception("the model folders cannot be looked at")


async def _set_health(health_service: health.aio.HealthServicer, shelf: ModelShelf) -> None:
    """SERVING while there is a model to serve."""
    serving = shelf.models.champion is not None
    status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
    for name in ("", SERVICE):
        await health_service.set(name, status)
