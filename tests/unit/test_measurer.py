"""The measurer of models: believes a worker's answer only when it makes sense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import grpc
import grpc.aio
import pytest
from fraud_scoring.v1 import fraud_scoring_service_pb2 as pb
from fraud_scoring.v1 import fraud_scoring_service_pb2_grpc

from server.domain.snapshot import Score
from server.engine.ports import JudgedRequest, ScoreUnavailable
from server.measurer import FAILURES_MAX, PAUSE_S, GrpcHealthMeasurer
from server.scorer import FEATURE_REGISTRY

SCORE = Score(probability=0.25, medium_threshold=0.5, high_threshold=0.9, model_version="m")
REQUEST = JudgedRequest(
    time=datetime(2026, 3, 1, tzinfo=UTC),
    features={"page_views": 3, "vpn": True, "of_before": 1.0},
    score=SCORE,
    shadow=(),
    label=1,
)


class Worker(fraud_scoring_service_pb2_grpc.FraudScoringServiceServicer):
    """Gives `answer`, or fails while there is none; remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: pb.MeasureHealthResponse | None = pb.MeasureHealthResponse(calibration=pb.Calibration())
        self.asked: list[pb.MeasureHealthRequest] = []
        self.hangs = False

    async def MeasureHealth(self, request: pb.MeasureHealthRequest, context: Any) -> pb.MeasureHealthResponse:
        """Answers as told."""
        self.asked.append(request)
        if self.hangs:
            await asyncio.Event().wait()
        if self.answer is None:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no")
        assert self.answer is not None
        return self.answer

    async def Score(self, request: Any, context: Any) -> Any:
        """Never asked."""
        raise NotImplementedError

    async def Explain(self, request: Any, context: Any) -> Any:
        """Never asked."""
        raise NotImplementedError

    async def GetModel(self, request: Any, context: Any) -> Any:
        """Never asked."""
        raise NotImplementedError


@pytest.fixture
def worker() -> Worker:
    """A worker."""
    return Worker()


@asynccontextmanager
async def serving(worker: Worker) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to it."""
    server = grpc.aio.server()
    fraud_scoring_service_pb2_grpc.add_FraudScoringServiceServicer_to_server(worker, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


@pytest.fixture
async def measurer(worker: Worker) -> AsyncIterator[GrpcHealthMeasurer]:
    """A measurer that asks it."""
    async with serving(worker) as channel:
        yield GrpcHealthMeasurer(channel)


async def test_requests_go_by_columns(worker: Worker, measurer: GrpcHealthMeasurer) -> None:
    """Known values go as numbers, unknown ones as -1, and features that are no more are left behind."""
    await measurer.measure([REQUEST], [REQUEST])
    (asked,) = worker.asked
    assert (asked.feature_registry, asked.row_count, asked.model_version) == (FEATURE_REGISTRY, 1, "m")
    assert (list(asked.columns.page_views), list(asked.columns.vpn)) == ([3.0], [1.0])
    assert list(asked.columns.session_seconds) == [-1.0]
    assert (list(asked.scores), list(asked.labelled_scores), list(asked.labels)) == ([0.25], [0.25], [1])


async def test_what_is_absent_is_none(worker: Worker, measurer: GrpcHealthMeasurer) -> None:
    """A figure that the worker leaves out cannot be told, and 0 is a figure."""
    worker.answer = pb.MeasureHealthResponse(
        alert_rate=0.0,
        features=[pb.FeatureDrift(name="vpn", null_rate=0.5)],
        calibration=pb.Calibration(rows=1, brier=0.0),
    )
    figures = await measurer.measure([REQUEST], [])
    assert (figures.alert_rate, figures.score_psi, figures.reference_known) == (0.0, None, False)
    assert (figures.features[0].psi, figures.features[0].null_rate) == (None, 0.5)
    assert (figures.calibration.brier, figures.calibration.ece) == (0.0, None)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        pb.MeasureHealthResponse(),
        pb.MeasureHealthResponse(alert_rate=float("nan"), calibration=pb.Calibration()),
    ],
)
async def test_senseless_answer_is_none(
    worker: Worker, measurer: GrpcHealthMeasurer, answer: pb.MeasureHealthResponse | None
) -> None:
    """A worker that refuses, or answers with what cannot be, is as good as away."""
    worker.answer = answer
    with pytest.raises(ScoreUnavailable):
        await measurer.measure([REQUEST], [])


async def test_worker_that_hangs_is_given_up(worker: Worker) -> None:
    """It costs the server's own time-out, not the caller's; after two failures nobody waits for it, until the pause is
    over."""
    now = 0.0
    async with serving(worker) as channel:
        measurer = GrpcHealthMeasurer(channel, timeout_s=0.05, monotonic=lambda: now)
        worker.hangs = True
        for _ in range(5):
            with pytest.raises(ScoreUnavailable):
                await measurer.measure([REQUEST], [])
        assert len(worker.asked) == FAILURES_MAX
        worker.hangs, now = False, PAUSE_S
        assert (await measurer.measure([REQUEST], [])).reference_known is False


async def test_bytes_that_are_no_message_are_none() -> None:
    """gRPC makes None of them."""

    async def garbage(request: bytes, context: Any) -> bytes:
        return b"\xff\xff\xff"

    server = grpc.aio.server()
    handlers: dict[str, Any] = {"MeasureHealth": grpc.unary_unary_rpc_method_handler(garbage)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("fraud_scoring.v1.FraudScoringService", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(ScoreUnavailable):
            await GrpcHealthMeasurer(channel).measure([REQUEST], [])
    await server.stop(None)
