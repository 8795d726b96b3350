"""The fraud worker behind the engine's port. Knows the scoring contract and when to stop asking; must not judge.

Breakers keep a worker that is down, slow or mad from costing every batch its time-out; explanations have one of their
own, so that they cannot take the scores with them.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from operator import itemgetter
from typing import TypeVar

import grpc
import grpc.aio
from fraud_scoring.v1 import fraud_scoring_service_pb2 as pb
from fraud_scoring.v1 import fraud_scoring_service_pb2_grpc
from opentelemetry import metrics

from server.breaker import Breaker, BreakerOpen, BreakerState
from server.domain.recycling import Disposition
from server.domain.snapshot import SUPPORT_MAX, Conversion, Conversions, Score, ShadowScore
from server.engine.ports import Contribution, ConversionQuestion, Explanation, Features, ScoreUnavailable

Response = TypeVar("Response")

FEATURE_REGISTRY = "v2"
"""The registry that the database's `risk_features` follows."""
FEATURE_REGISTRY_SHA256 = "82b4b533a1fe7b1b909a9cd8c92953eae6263ef8383c42a26ddfc05da5dd3404"
"""Of the definitions that stand behind that name: a worker with others refuses."""

FAILURES_MAX = 5
PAUSE_S = 1.0

EXPLAIN_TIMEOUT_S = 0.1
"""How long a batch's suspects wait for their explanations; nobody else waits for them."""
RAW_SCORE_TOLERANCE = 1e-6
"""How far the contributions' sum may be off the raw score, log odds."""

_LEVEL = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}

VERSION_CHARACTERS_MAX = 64
"""What a quote's token has room for."""

_DISPOSITION = {each: pb.Disposition.Value(f"DISPOSITION_{each}") for each in Disposition}
_SEGMENT = {name.removeprefix("SEGMENT_"): number for name, number in pb.Segment.items()}

UNKNOWN = -1.0
"""What stands for an unknown value on the wire: no feature is negative."""

_FEATURES = tuple(field.name for field in pb.FeatureColumns.DESCRIPTOR.fields)
_values_of = itemgetter(*_FEATURES)
_DOUBLE = struct.Struct("<d")


class GrpcFraudScorer:
    """Asks the worker over one channel.

    The time-out is the server's alone: were it cut by a caller's deadline, callers with short ones could choose what
    happens without a score, for themselves and for all others of their batch.
    """

    def __init__(
        self, channel: grpc.aio.Channel, *, timeout_ms: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._stub = fraud_scoring_service_pb2_grpc.FraudScoringServiceStub(channel)
        self._timeout_s = timeout_ms / 1000
        self._scoring = Breaker(failures_max=FAILURES_MAX, pause_s=PAUSE_S, monotonic=monotonic)
        self._explaining = Breaker(failures_max=FAILURES_MAX, pause_s=PAUSE_S, monotonic=monotonic)
        _tell_breakers({"score": self._scoring, "explain": self._explaining})

    @property
    def state(self) -> BreakerState:
        """Whether scores are asked for."""
        return self._scoring.state

    async def score(self, rows: Sequence[Features], questions: Sequence[ConversionQuestion] = ()) -> list[Score]:
        """One score a row, all by the same model, with what a conversion model answers to the row's `questions`, if
        there is one. Raises ScoreUnavailable."""
        with _unavailable(), self._scoring.attempt():
            request = pb.ScoreRequest(
                feature_registry=FEATURE_REGISTRY,
                feature_registry_sha256=FEATURE_REGISTRY_SHA256,
                row_count=len(rows),
                columns=columns_of(rows),
                conversions=_asked(questions) if questions else None,
            )
            response = _parsed(await self._stub.Score(request, timeout=self._timeout_s))
            return _scores(response, len(rows), _answers(response.conversions, questions))

    async def explain(self, rows: Sequence[Features], model_version: str) -> list[Explanation]:
        """How that model's scores of the rows came about, one a row. Raises ScoreUnavailable."""
        with _unavailable(), self._explaining.attempt():
            request = pb.ExplainRequest(
                feature_registry=FEATURE_REGISTRY,
                feature_registry_sha256=FEATURE_REGISTRY_SHA256,
                row_count=len(rows),
                columns=columns_of(rows),
                model_version=model_version,
            )
            response = await self._stub.Explain(request, timeout=EXPLAIN_TIMEOUT_S)
            return _explanations(_parsed(response), len(rows), model_version)


def _tell_breakers(breakers: Mapping[str, Breaker]) -> None:
    """Whether each of them lets through, and how often it has opened, as of when somebody reads the metrics."""

    def states(_: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        return [metrics.Observation(_LEVEL[breaker.state], {"of": name}) for name, breaker in breakers.items()]

    def openings(_: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        return [metrics.Observation(breaker.opened, {"of": name}) for name, breaker in breakers.items()]

    meter = metrics.get_meter(__name__)
    meter.create_observable_gauge(
        "recycling.scorer.breaker", [states], description="0: the worker is asked. 1: one call may try. 2: it is not."
    )
    meter.create_observable_counter(
        "recycling.scorer.breaker.opened", [openings], unit="{opening}", description="Times that a breaker has opened."
    )


@contextmanager
def _unavailable() -> Iterator[None]:
    """Whatever the worker does wrong is a ScoreUnavailable."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise ScoreUnavailable(error.code().name) from error
    except BreakerOpen as error:
        raise ScoreUnavailable(str(error)) from error


def _parsed(response: Response | None) -> Response:
    """gRPC gives None, and no error, for bytes that are no message."""
    if response is None:
        raise ScoreUnavailable("the worker's answer is no message")
    return response


def columns_of(rows: Sequence[Features]) -> pb.FeatureColumns:
    """The rows by columns; a column that is unknown throughout is left out."""
    # A column of doubles is written to the wire as it lies in memory, which takes a fraction of the time that protobuf
    # takes to convert them one by one.
    doubles = struct.Struct(f"<{len(rows)}d")
    parts: list[bytes] = []
    for head, values in zip(_heads(len(rows)), zip(*map(_values_of, rows), strict=True), strict=True):
        try:
            column = doubles.pack(*values)
        except struct.error:  # there is a None
            if values[0] is None and values.count(None) == len(values):
                continue
            column = doubles.pack(*[UNKNOWN if value is None else value for value in values])
        parts += head, column
    return pb.FeatureColumns.FromString(b"".join(parts))


@lru_cache(maxsize=1_024)
def _heads(rows: int) -> tuple[bytes, ...]:
    """What stands before each column of so many rows on the wire: field and length."""
    columns = (pb.FeatureColumns(**{name: [0.0] * rows}).SerializeToString() for name in _FEATURES)
    return tuple(column[: len(column) - rows * _DOUBLE.size] for column in columns)


def _asked(questions: Sequence[ConversionQuestion]) -> pb.ConversionColumns:
    return pb.ConversionColumns(
        rows=[question.row for question in questions],
        dispositions=[_DISPOSITION[question.disposition] for question in questions],
        segments=[_SEGMENT.get(question.segment or "", pb.SEGMENT_UNSPECIFIED) for question in questions],
    )


def _answers(told: pb.Conversions, questions: Sequence[ConversionQuestion]) -> Mapping[int, Conversions]:
    """The answers to each row's questions. Of answers that make no sense none is believed; scores may be right all the
    same."""
    version = told.model_version
    if not (
        len(told.probabilities) == len(told.support) == len(questions)
        and version.isalnum()
        and len(version) <= VERSION_CHARACTERS_MAX
        and all(0 <= probability <= 1 for probability in told.probabilities)  # NaN is neither
        and all(0 <= support <= SUPPORT_MAX for support in told.support)
    ):
        return {}
    of: dict[int, list[Conversion]] = {}
    for question, probability, support in zip(questions, told.probabilities, told.support, strict=True):
        answer = Conversion(disposition=question.disposition, probability=_plain(probability), support=support)
        of.setdefault(question.row, []).append(answer)
    return {row: Conversions(model_version=version, of=tuple(answers)) for row, answers in of.items()}


def _scores(response: pb.ScoreResponse, rows: int, conversions: Mapping[int, Conversions]) -> list[Score]:
    """Believes a worker's answer only when it makes sense; challengers that make none are left out."""
    if not _is_sane(response, rows):
        raise ScoreUnavailable("the worker's answer makes no sense")
    shadows: list[tuple[ShadowScore, ...]] = [()] * rows
    if sane := [shadow for shadow in response.shadow if _is_sane(shadow, rows)]:
        shadows = list(zip(*map(_shadow_scores, sane), strict=True))
    return [
        Score(
            probability=_plain(probability),
            medium_threshold=response.medium_threshold,
            high_threshold=response.high_threshold,
            model_version=response.model_version,
            shadows=shadow,
            conversions=conversions.get(row),
        )
        for row, (probability, shadow) in enumerate(zip(response.scores, shadows, strict=True))
    ]


def _shadow_scores(shadow: pb.ShadowScores) -> list[ShadowScore]:
    return [
        ShadowScore(
            probability=_plain(probability),
            medium_threshold=shadow.medium_threshold,
            high_threshold=shadow.high_threshold,
            model_version=shadow.model_version,
        )
        for probability in shadow.scores
    ]


def _plain(number: float) -> float:
    """-0.0 is 0.0: equal numbers are recorded alike, whoever computed them."""
    return number + 0.0


def _is_sane(scored: pb.ScoreResponse | pb.ShadowScores, rows: int) -> bool:
    return (
        len(scored.scores) == rows
        and all(0 <= score <= 1 for score in scored.scores)  # NaN is neither
        and 0 < scored.medium_threshold <= scored.high_threshold <= 1
        and scored.model_version != ""
    )


def _explanations(response: pb.ExplainResponse, rows: int, model_version: str) -> list[Explanation]:
    """Believes only explanations of the model that was meant, and that add up."""
    explanations = [_explanation(message) for message in response.explanations]
    if response.model_version != model_version or len(explanations) != rows or not all(map(_adds_up, explanations)):
        raise ScoreUnavailable("the worker's explanations make no sense")
    return explanations


def _explanation(message: pb.Explanation) -> Explanation:
    return Explanation(
        raw_score=_plain(message.raw_score),
        base_value=_plain(message.base_value),
        probability=_plain(message.probability),
        contributions=tuple(
            Contribution(
                feature=part.feature,
                reason_code=part.reason_code,
                value=_plain(part.value) if part.HasField("value") else None,
                contribution=_plain(part.contribution),
                sentence=part.sentence,
            )
            for part in message.contributions
        ),
    )


def _adds_up(explanation: Explanation) -> bool:
    total = math.fsum((explanation.base_value, *(part.contribution for part in explanation.contributions)))
    # What is not finite is never near.
    return abs(total - explanation.raw_score) <= RAW_SCORE_TOLERANCE
