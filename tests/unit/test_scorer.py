"""The fraud worker's client: it believes sane answers only, and stops asking a worker that fails."""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
import grpc.aio
import msgspec
import pytest
from fraud_scoring.v1 import fraud_scoring_service_pb2 as pb
from fraud_scoring.v1 import fraud_scoring_service_pb2_grpc

from server.breaker import BreakerState
from server.domain.recycling import Disposition
from server.domain.snapshot import Conversion, Conversions, Score, ShadowScore
from server.engine.ports import Contribution, ConversionQuestion, Explanation, ScoreUnavailable
from server.scorer import FAILURES_MAX, FEATURE_REGISTRY, FEATURE_REGISTRY_SHA256, PAUSE_S, GrpcFraudScorer

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

UNKNOWN: Mapping[str, float | int | bool | None] = {field.name: None for field in pb.FeatureColumns.DESCRIPTOR.fields}
EXPLAINED = pb.ExplainResponse(
    model_version="model-1",
    explanations=[
        pb.Explanation(
            raw_score=1.5,
            base_value=-1.0,
            probability=0.8,
            contributions=[
                pb.Contribution(feature="vpn", reason_code="VPN", value=1, contribution=3.0, sentence="Through a VPN."),
                pb.Contribution(feature="rooted", reason_code="ROOTED", contribution=-0.5, sentence="It is unknown."),
            ],
        )
    ],
)
SANE = pb.ScoreResponse(scores=[0.25], model_version="model-1", medium_threshold=0.5, high_threshold=0.9)


class Worker(fraud_scoring_service_pb2_grpc.FraudScoringServiceServicer):
    """Gives `answer`, or fails while there is none; remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: pb.ScoreResponse | None = SANE
        self.asked: list[pb.ScoreRequest] = []
        self.explanation: pb.ExplainResponse | None = EXPLAINED
        self.explained: list[pb.ExplainRequest] = []

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        """Answers as told."""
        self.asked.append(request)
        if self.answer is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
        return self.answer

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:
        """Answers as told."""
        self.explained.append(request)
        if self.explanation is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no")
        return self.explanation

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


async def test_nothing_is_below_zero() -> None:
    """-0.0 of a worker is 0.0, since what equals it must also be written the same."""
    worker = Worker()
    worker.answer = pb.ScoreResponse(
        scores=[-0.0],
        model_version="m",
        medium_threshold=0.5,
        high_threshold=0.9,
        shadow=[pb.ShadowScores(model_version="c1", scores=[-0.0], medium_threshold=0.5, high_threshold=0.9)],
        conversions=pb.Conversions(model_version="c2", probabilities=[-0.0], support=[1]),
    )
    part = pb.Contribution(feature="vpn", reason_code="VPN", value=-0.0, contribution=-0.0, sentence="No.")
    told = pb.Explanation(raw_score=-0.0, base_value=-0.0, probability=-0.0, contributions=[part])
    worker.explanation = pb.ExplainResponse(model_version="m", explanations=[told])
    question = ConversionQuestion(row=0, disposition=Disposition.CANCEL, segment=None)
    async with running(worker, Clock()) as scorer:
        (score,) = await scorer.score([UNKNOWN], [question])
        (explanation,) = await scorer.explain([UNKNOWN], "m")
    assert score.conversions is not None
    assert b"-0.0" not in msgspec.json.encode((score, explanation))


async def test_unknown_features_are_left_out() -> None:
    """What is unknown in all rows is not sent; 0 and false are."""
    worker = Worker()
    async with running(worker, Clock()) as scorer:
        await scorer.score([{**UNKNOWN, "device_accounts_1h": 0, "vpn": False, "amount_minor": 10**12}])
    (request,) = worker.asked
    assert (request.feature_registry, request.feature_registry_sha256) == (FEATURE_REGISTRY, FEATURE_REGISTRY_SHA256)
    assert request.row_count == 1
    assert request.columns == pb.FeatureColumns(device_accounts_1h=[0], vpn=[0], amount_minor=[10**12])


async def test_columns_keep_the_order_of_the_rows() -> None:
    """One value a row, -1 where it is unknown in that row only."""
    worker = Worker()
    worker.answer = pb.ScoreResponse(scores=[0.1] * 3, model_version="m", medium_threshold=0.5, high_threshold=0.5)
    async with running(worker, Clock()) as scorer:
        await scorer.score([{**UNKNOWN, "vpn": True}, UNKNOWN, {**UNKNOWN, "vpn": False, "emulator": True}])
    (request,) = worker.asked
    assert request.row_count == 3
    assert request.columns == pb.FeatureColumns(vpn=[1, -1, 0], emulator=[-1, -1, 1])


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


async def test_state_of_the_breaker_can_be_read() -> None:
    """CLOSED while scores are asked for, OPEN in the pause, HALF_OPEN until a try tells."""
    worker, clock = Worker(), Clock()
    async with running(worker, clock) as scorer:
        states = [scorer.state]
        worker.answer = None
        await fail(scorer, FAILURES_MAX)
        states.append(scorer.state)
        clock.now_s += PAUSE_S
        states.append(scorer.state)
        worker.answer = SANE
        await scorer.score([UNKNOWN])
        states.append(scorer.state)
    assert states == [BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED]


async def test_shadow_scores_come_with_the_scores() -> None:
    """Each row gets what each challenger says of it."""
    worker = Worker()
    worker.answer = pb.ScoreResponse(
        scores=[0.1, 0.2],
        model_version="m",
        medium_threshold=0.5,
        high_threshold=0.9,
        shadow=[
            pb.ShadowScores(model_version="c1", scores=[0.3, 0.4], medium_threshold=0.6, high_threshold=0.7),
            pb.ShadowScores(model_version="c2", scores=[0.5, 0.6], medium_threshold=0.1, high_threshold=0.2),
        ],
    )
    async with running(worker, Clock()) as scorer:
        one, two = await scorer.score([UNKNOWN, UNKNOWN])
    assert [(s.model_version, s.probability, s.medium_threshold, s.high_threshold) for s in one.shadows] == [
        ("c1", 0.3, 0.6, 0.7),
        ("c2", 0.5, 0.1, 0.2),
    ]
    assert [(s.model_version, s.probability) for s in two.shadows] == [("c1", 0.4), ("c2", 0.6)]


async def test_mad_challenger_costs_no_score() -> None:
    """Shadows that make no sense are left out; the champion's scores, and other challengers', are not."""
    worker = Worker()
    mad = [
        pb.ShadowScores(model_version="c", scores=scores, medium_threshold=0.5, high_threshold=0.9)
        for scores in ([math.nan], [2.0], [0.1, 0.1], [])
    ]
    good = pb.ShadowScores(model_version="good", scores=[0.3], medium_threshold=0.6, high_threshold=0.7)
    worker.answer = pb.ScoreResponse()
    worker.answer.CopyFrom(SANE)
    worker.answer.shadow.extend([*mad, good])
    async with running(worker, Clock()) as scorer:
        (score,) = await scorer.score([UNKNOWN])
    assert score.shadows == (
        ShadowScore(model_version="good", probability=0.3, medium_threshold=0.6, high_threshold=0.7),
    )


QUESTIONS = (
    ConversionQuestion(row=1, disposition=Disposition.RESET_VALIDITY, segment="SENIOR"),
    ConversionQuestion(row=1, disposition=Disposition.CANCEL, segment=None),
)
TWO = pb.ScoreResponse(scores=[0.1, 0.2], model_version="m", medium_threshold=0.5, high_threshold=0.9)


async def test_answers_about_conversions_reach_their_rows() -> None:
    """Questions go by columns; each row gets the answers to its own."""
    worker = Worker()
    told = pb.Conversions(model_version="c1", probabilities=[0.1, 0.9], support=[5, 0])
    worker.answer = pb.ScoreResponse(conversions=told)
    worker.answer.MergeFrom(TWO)
    async with running(worker, Clock()) as scorer:
        one, two = await scorer.score([UNKNOWN, UNKNOWN], QUESTIONS)
    asked = worker.asked[0].conversions
    assert ([*asked.rows], [*asked.dispositions], [*asked.segments]) == (
        [1, 1],
        [pb.DISPOSITION_RESET_VALIDITY, pb.DISPOSITION_CANCEL],
        [pb.SEGMENT_SENIOR, pb.SEGMENT_UNSPECIFIED],
    )
    assert one.conversions is None
    assert two.conversions == Conversions(
        model_version="c1",
        of=(
            Conversion(disposition=Disposition.RESET_VALIDITY, probability=0.1, support=5),
            Conversion(disposition=Disposition.CANCEL, probability=0.9, support=0),
        ),
    )


@pytest.mark.parametrize(
    "mad",
    [
        {},
        {"model_version": "c1", "probabilities": [0.1], "support": [1]},
        {"model_version": "c1", "probabilities": [0.1, math.nan], "support": [1, 1]},
        {"model_version": "c1", "probabilities": [0.1, 1.1], "support": [1, 1]},
        {"model_version": "c1", "probabilities": [0.1, 0.2], "support": [1, -1]},
        {"model_version": "c.1", "probabilities": [0.1, 0.2], "support": [1, 1]},
        {"model_version": "", "probabilities": [0.1, 0.2], "support": [1, 1]},
    ],
)
async def test_mad_answers_about_conversions_cost_no_score(mad: dict[str, Any]) -> None:
    """What makes no sense, or is not there, is as if nobody had asked."""
    worker = Worker()
    worker.answer = pb.ScoreResponse(conversions=pb.Conversions(**mad))
    worker.answer.MergeFrom(TWO)
    async with running(worker, Clock()) as scorer:
        scores = await scorer.score([UNKNOWN, UNKNOWN], QUESTIONS)
    assert [(score.probability, score.conversions) for score in scores] == [(0.1, None), (0.2, None)]


async def test_explanation_of_a_score() -> None:
    """It is asked for by the version of the model that scored, and an unknown value is None."""
    worker = Worker()
    async with running(worker, Clock()) as scorer:
        (explanation,) = await scorer.explain([{**UNKNOWN, "vpn": True}], "model-1")
    assert explanation == Explanation(
        raw_score=1.5,
        base_value=-1.0,
        probability=0.8,
        contributions=(
            Contribution(feature="vpn", reason_code="VPN", value=1.0, contribution=3.0, sentence="Through a VPN."),
            Contribution(
                feature="rooted", reason_code="ROOTED", value=None, contribution=-0.5, sentence="It is unknown."
            ),
        ),
    )
    assert explanation.reason_codes == ("VPN",)
    (request,) = worker.explained
    assert (request.model_version, request.row_count) == ("model-1", 1)
    assert request.columns == pb.FeatureColumns(vpn=[1])


@pytest.mark.parametrize("fault", ["another model", "none", "two", "does not add up", "not finite"])
async def test_explanation_that_makes_no_sense_is_none(fault: str) -> None:
    """Another model's, a wrong number, and what does not add up to the score are not believed."""
    worker = Worker()
    worker.explanation = pb.ExplainResponse()
    worker.explanation.CopyFrom(EXPLAINED)
    match fault:
        case "another model":
            worker.explanation.model_version = "model-2"
        case "none":
            worker.explanation.ClearField("explanations")
        case "two":
            worker.explanation.explanations.extend(EXPLAINED.explanations)
        case "does not add up":
            worker.explanation.explanations[0].contributions[0].contribution += 0.001
        case "not finite":
            worker.explanation.explanations[0].raw_score = math.inf
            worker.explanation.explanations[0].base_value = math.inf
    async with running(worker, Clock()) as scorer:
        with pytest.raises(ScoreUnavailable):
            await scorer.explain([UNKNOWN], "model-1")


async def test_failing_explanations_cost_no_scores() -> None:
    """Explanations have a breaker of their own: theirs opens, and scores are asked for as before."""
    worker, clock = Worker(), Clock()
    worker.explanation = None
    async with running(worker, clock) as scorer:
        for _ in range(FAILURES_MAX + 3):
            with pytest.raises(ScoreUnavailable):
                await scorer.explain([UNKNOWN], "model-1")
        assert len(worker.explained) == FAILURES_MAX
        assert scorer.state is BreakerState.CLOSED
        assert await scorer.score([UNKNOWN])
