"""The fraud worker's client: it believes sane answers only, and stops asking a worker that fails."""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
import grpc.aio
import pytest
from fraud_scoring.v1 import fraud_scoring_service_pb2 as pb
from fraud_scoring.v1 import fraud_scoring_service_pb2_grpc

from server.domain.snapshot import Score
from server.engine.ports import ScoreUnavailable
from server.scorer import FAILURES_MAX, FEATURE_REGISTRY, PAUSE_S, GrpcFraudScorer

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

UNKNOWN: Mapping[str, float | int | bool | None] = {field.name: None for field in pb.FeatureRow.DESCRIPTOR.fields}
SANE = pb.ScoreResponse(scores=[0.25], model_version="model-1", medium_threshold=0.5, high_threshold=0.9)


class Worker(fraud_scoring_service_pb2_grpc.FraudScoringServiceServicer):
    """Gives `answer`, or fails while there is none; remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: pb.ScoreResponse | None = SANE
        self.asked: list[pb.ScoreRequest] = []

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        """Answers as told."""
        self.asked.append(request)
        if self.answer is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
        return self.answer

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """Never asked."""
        raise NotImplementedError

    async def MeasureHealth(self, request: pb.MeasureHealthRequest, context: Context) -> pb.MeasureHealthResponse:
        """Never asked."""
        raise NotImplementedError


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@asynccontextmanager
async def running(worker: Worker, clock: Clock, timeout_ms: int = 30_000) -> AsyncIterator[GrpcFraudScorer]:
    """A scorer that asks `worker`."""
    server = grpc.aio.server()
    fraud_scoring_service_pb2_grpc.add_FraudScoringServiceServicer_to_server(worker, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield GrpcFraudScorer(channel, timeout_ms=timeout_ms, monotonic=clock)
    finally:
        await server.stop(None)


async def fail(scorer: GrpcFraudScorer, times: int = 1) -> None:
    """Asks in vain."""
    for _ in range(times):
        with pytest.raises(ScoreUnavailable):
            await scorer.score([UNKNOWN])


async def test_sane_answer_becomes_scores() -> None:
    """One score a row, with the thresholds and the version of the one model."""
    worker = Worker()
    worker.answer = pb.ScoreResponse(scores=[0.0, 1.0], model_version="m", medium_threshold=0.5, high_threshold=0.5)
    async with running(worker, Clock()) as scorer:
        scores = await scorer.score([UNKNOWN, UNKNOWN])
    assert scores == [
        Score(probability=probability, medium_threshold=0.5, high_threshold=0.5, model_version="m")
        for probability in (0.0, 1.0)
    ]


async def test_unknown_features_are_left_out() -> None:
    """None is not sent; 0 and false are."""
    worker = Worker()
    async with running(worker, Clock()) as scorer:
        await scorer.score([{**UNKNOWN, "device_accounts_1h": 0, "vpn": False, "amount_minor": 10**12}])
    (request,) = worker.asked
    assert request.feature_registry == FEATURE_REGISTRY
    assert request.rows == [pb.FeatureRow(device_accounts_1h=0, vpn=False, amount_minor=10**12)]


@pytest.mark.parametrize(
    "changes",
    [
        {"scores": []},
        {"scores": [0.1, 0.2]},
        {"scores": [math.nan]},
        {"scores": [math.inf]},
        {"scores": [-0.001]},
        {"scores": [1.001]},
        {"medium_threshold": 0.0},
        {"medium_threshold": -0.5},
        {"medium_threshold": math.nan},
        {"medium_threshold": 0.95},
        {"high_threshold": math.nan},
        {"high_threshold": 1.5},
        {"high_threshold": math.inf},
        {"model_version": ""},
    ],
    ids=str,
)
async def test_insane_answer_is_no_score(changes: dict[str, object]) -> None:
    """Wrong counts, numbers out of range, thresholds out of order and a nameless model are not believed."""
    worker = Worker()
    fields = {"scores": [0.25], "model_version": "m", "medium_threshold": 0.5, "high_threshold": 0.9}
    worker.answer = pb.ScoreResponse(**(fields | changes))  # type: ignore[arg-type]
    async with running(worker, Clock()) as scorer:
        await fail(scorer)


async def test_worker_that_fails_is_no_score() -> None:
    """A status from the worker is not the caller's business."""
    worker = Worker()
    worker.answer = None
    async with running(worker, Clock()) as scorer:
        await fail(scorer)


async def test_worker_that_is_not_there_is_no_score() -> None:
    """Nobody listens."""
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        await fail(GrpcFraudScorer(channel, timeout_ms=5_000))


async def test_worker_that_is_slow_is_no_score() -> None:
    """The time-out ends the wait."""

    class Silent(Worker):
        async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
            while not context.cancelled():  # noqa: ASYNC110 - the context has no event to wait for
                await asyncio.sleep(0.01)
            raise AssertionError("nobody waits for this answer")

    async with running(Silent(), Clock(), timeout_ms=20) as scorer:
        await fail(scorer)


async def test_breaker_opens_after_failures_in_a_row() -> None:
    """From then on nothing is asked."""
    worker, clock = Worker(), Clock()
    worker.answer = None
    async with running(worker, clock) as scorer:
        await fail(scorer, FAILURES_MAX)
        assert len(worker.asked) == FAILURES_MAX
        clock.now_s += PAUSE_S * 0.99
        await fail(scorer, 3)
        assert len(worker.asked) == FAILURES_MAX


async def test_insane_answers_open_the_breaker() -> None:
    """A worker that answers nonsense is as good as down."""
    worker, clock = Worker(), Clock()
    worker.answer = pb.ScoreResponse(scores=[math.nan])
    async with running(worker, clock) as scorer:
        await fail(scorer, FAILURES_MAX + 1)
    assert len(worker.asked) == FAILURES_MAX


async def test_success_between_failures_keeps_the_breaker_closed() -> None:
    """Only failures in a row count."""
    worker, clock = Worker(), Clock()
    async with running(worker, clock) as scorer:
        for _ in range(3):
            worker.answer = None
            await fail(scorer, FAILURES_MAX - 1)
            worker.answer = SANE
            assert await scorer.score([UNKNOWN])
    assert len(worker.asked) == 3 * FAILURES_MAX


async def test_breaker_heals_with_one_success() -> None:
    """After the pause one batch tries, and its success lets all the others ask again."""
    worker, clock = Worker(), Clock()
    worker.answer = None
    async with running(worker, clock) as scorer:
        await fail(scorer, FAILURES_MAX)
        worker.answer = SANE
        clock.now_s += PAUSE_S
        assert await scorer.score([UNKNOWN])
        worker.answer = None
        await fail(scorer, FAILURES_MAX - 1)
        worker.answer = SANE
        assert await scorer.score([UNKNOWN])


async def test_failed_try_opens_the_breaker_again() -> None:
    """A try that fails costs one call, and the next pause begins."""
    worker, clock = Worker(), Clock()
    worker.answer = None
    async with running(worker, clock) as scorer:
        await fail(scorer, FAILURES_MAX)
        clock.now_s += PAUSE_S
        await fail(scorer, 3)
        assert len(worker.asked) == FAILURES_MAX + 1
        clock.now_s += PAUSE_S
        await fail(scorer, 3)
        assert len(worker.asked) == FAILURES_MAX + 2


async def test_one_batch_at_a_time_tries() -> None:
    """While the try is under way the others go without."""
    worker, clock = Worker(), Clock()
    worker.answer = None
    async with running(worker, clock) as scorer:
        await fail(scorer, FAILURES_MAX)
        clock.now_s += PAUSE_S
        worker.answer = SANE
        outcomes = await asyncio.gather(*(scorer.score([UNKNOWN]) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(outcome, ScoreUnavailable) for outcome in outcomes) == 4
    assert len(worker.asked) == FAILURES_MAX + 1
