"""The report on models' health: which decisions it looks at, what it asks the worker, and the worker's answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from card_recycling.v1 import types_pb2
from fraud_scoring.v1 import fraud_scoring_service_pb2 as pb
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from fraud_worker.columns import RequestRefused
from fraud_worker.health import Distribution, Reference
from fraud_worker.measuring import ROWS_MAX, measured
from fraud_worker.registry import FEATURE_NAMES, REGISTRY_NAME
from server.domain.errors import Reason, Refusal
from server.domain.model_health import Calibration, FeatureHealth, Figures, HealthQuestion, Window
from server.domain.outcome import OutcomeKind
from server.engine.model_gauges import ModelGauges, keep_gauges
from server.engine.model_health import ModelHealthReporter
from server.engine.outcomes import OutcomeRecorder
from server.engine.ports import JudgedRequest, ScoreUnavailable
from tests.integration.world import PATIENCE_S, World, circumstances, news, reactivate

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
NOTHING = Figures(
    reference_known=False, features=(), calibration=Calibration(rows=0, positives=0, bins=()), challengers=()
)


class Measurer:
    """Remembers what it is asked to measure; fails when it is told to."""

    def __init__(self, *, down: bool = False, figures: Figures = NOTHING) -> None:
        self.asked: list[tuple[list[JudgedRequest], list[JudgedRequest]]] = []
        self.refused = 0
        self._down = down
        self._figures = figures

    async def measure(self, seen: Sequence[JudgedRequest], labelled: Sequence[JudgedRequest]) -> Figures:
        """See the port."""
        if self._down:
            self.refused += 1
            raise ScoreUnavailable("told so")
        self.asked.append((list(seen), list(labelled)))
        return self._figures


async def recycled(world: World, platform: str = "iqiyi", **more: Any) -> types_pb2.Recycling:
    """A recycling at the first hour of a day of its own, which has passed."""
    await world.move(HOUR)
    card = await world.issue(platform, segment=more.pop("segment", None))
    recycling = await world.recycled(card, **more)
    await world.move(DAY - HOUR)
    return recycling


async def ago(world: World, days: int) -> datetime:
    """The beginning of that day, after all that other tests did."""
    return await world.store.now() - days * DAY + HOUR / 2


async def judged(world: World, *, days: int, **more: Any) -> list[JudgedRequest]:
    """The decisions of the last days, newest first."""
    window = Window(from_time=await ago(world, days), to_time=await world.store.now())
    return await world.store.judged(window, more.pop("platform", None), more.pop("rows_max", 10), **more)


# Which decisions


@contextlib.asynccontextmanager
async def told(world: World, recycling: types_pb2.Recycling, name: str, value: object) -> AsyncIterator[None]:
    """The recycling's receipt tells something else of its score within the block; then what it really was again."""
    request_id = UUID(recycling.request_id)
    receipt = await world.owner.fetchval("SELECT receipt FROM command WHERE request_id = $1", request_id)
    changed = "UPDATE command SET receipt = $1::json WHERE request_id = $2"
    body = json.loads(receipt)
    body["score"][name] = value
    await world.owner.execute(changed, json.dumps(body), request_id)
    yield
    await world.owner.execute(changed, receipt, request_id)


async def test_receipts_are_the_source(world: World) -> None:
    """A request is told as its receipt has it: features, score, thresholds and model."""
    recycling = await recycled(world, circumstances=circumstances("phone", session_seconds=31.5, vpn=False))
    (request,) = await judged(world, days=1)
    receipt = json.loads(
        await world.owner.fetchval("SELECT receipt FROM command WHERE request_id = $1", UUID(recycling.request_id))
    )
    assert request.features == receipt["features"]
    assert (request.features["session_seconds"], request.features["vpn"]) == (31.5, False)
    assert request.score is not None
    assert (request.score.probability, request.score.model_version) == (0.05, "fake")
    assert (request.score.medium_threshold, request.score.high_threshold, request.label) == (0.5, 0.8, None)


async def test_newest_of_the_window_are_looked_at(world: World) -> None:
    """Of a window's decisions the newest come first, and no more than asked for."""
    times = [(await recycled(world)).create_time.ToDatetime(UTC) for _ in range(3)]
    assert [request.time for request in await judged(world, days=3)] == times[::-1]
    assert [request.time for request in await judged(world, days=3, rows_max=2)] == times[:0:-1]
    assert [request.time for request in await judged(world, days=2)] == times[:0:-1]


async def test_reactivations_are_judged_requests(world: World) -> None:
    """A reactivation was scored by the same model, and counts; an activation was not."""
    recycling = await recycled(world)
    await world.answer(reactivate(recycling))
    await world.move(DAY)
    assert len(await judged(world, days=2)) == 2


async def test_request_that_was_settled_at_once_is_one_decision(world: World) -> None:
    """It leaves two risk events, and was decided once."""
    recycling = await recycled(world, segment="YOUNG")
    assert recycling.compensation.state == types_pb2.COMPENSATION_STATE_SETTLED
    await OutcomeRecorder(world.store).record(news(recycling, OutcomeKind.CONFIRMED_FRAUD, time=None))
    assert [each.label for each in await judged(world, days=1, mature=DAY)] == [1]


async def test_platform_is_the_cards(world: World) -> None:
    """Only the decisions of the platform asked about."""
    await recycled(world, "tencent")
    await recycled(world)
    assert [len(await judged(world, days=2, platform=each)) for each in ("iqiyi", "tencent", None)] == [1, 1, 2]


async def test_decision_without_a_score_is_degraded(world: World) -> None:
    """What the worker did not score is counted, and not measured."""
    world.scorer.down = True
    await recycled(world, "tencent")
    world.scorer.down = False
    await recycled(world)
    measurer = Measurer()
    report = await ModelHealthReporter(world.store, measurer).report(HealthQuestion(from_time=await ago(world, 2)))
    assert (report.rows, report.degraded_rows) == (2, 1)
    ((seen, _),) = measurer.asked
    assert len(seen) == 1


async def test_challengers_on_record_are_told(world: World) -> None:
    """What challengers said of a request stands in its receipt, and comes with it."""
    recycling = await recycled(world)
    shadows = [{"probability": 0.7, "medium_threshold": 0.4, "high_threshold": 0.9, "model_version": "challenger"}]
    async with told(world, recycling, "shadows", shadows):
        (request,) = await judged(world, days=1)
    assert [(each.model_version, each.probability) for each in request.shadow] == [("challenger", 0.7)]


async def test_mature_requests_have_labels(world: World) -> None:
    """A finding labels its request, silence the approved one; a refused one of which nobody knows has none."""
    fraud, _ = await recycled(world), await recycled(world)
    refused = await recycled(world, circumstances=circumstances("phone", vpn=True))
    assert refused.state == types_pb2.RECYCLING_STATE_REJECTED
    await OutcomeRecorder(world.store).record(news(fraud, OutcomeKind.CONFIRMED_FRAUD, timedelta(0), account_id=None))
    assert [request.label for request in await judged(world, days=3, mature=DAY)] == [None, 0, 1]
    assert [request.label for request in await judged(world, days=3, mature=10 * DAY)] == [None, None, 1]


# The report


async def test_each_model_is_measured_by_itself(world: World) -> None:
    """Requests go to the worker by the model that scored them, the one that scored last first."""
    await recycled(world)
    old = await recycled(world)
    async with told(world, old, "model_version", "old"):
        await recycled(world)
        measurer = Measurer()
        report = await ModelHealthReporter(world.store, measurer).report(
            HealthQuestion(from_time=await ago(world, 3), mature_days=0)
        )
    assert [(model.model_version, model.rows) for model in report.models] == [("fake", 2), ("old", 1)]
    assert [(len(seen), len(labelled)) for seen, labelled in measurer.asked] == [(2, 2), (1, 1)]


async def test_calibration_looks_so_much_earlier(world: World) -> None:
    """The mature window is as long as the recent one, and ends before the last of the silence began."""
    report = await ModelHealthReporter(world.store, Measurer()).report(HealthQuestion())
    assert (report.recent.to_time, report.recent.to_time - report.recent.from_time) == (
        await world.store.now(),
        7 * DAY,
    )
    assert report.mature.to_time == report.recent.to_time - 30 * DAY
    assert report.mature.from_time == report.recent.from_time - 30 * DAY


async def test_worker_away_is_unavailable(world: World) -> None:
    """Without the worker nothing can be told."""
    await recycled(world)
    with pytest.raises(Refusal) as refused:
        await ModelHealthReporter(world.store, Measurer(down=True)).report(HealthQuestion())
    assert refused.value.reason is Reason.FRAUD_SCORE_UNAVAILABLE


# As metrics


async def test_gauges_show_the_model_in_use(world: World) -> None:
    """Drift, alert rate, calibration and null rates are gauges, refreshed from the records; what is unknown is none."""
    await recycled(world)
    measurer = Measurer(
        figures=Figures(
            reference_known=True,
            features=(
                FeatureHealth(name="page_views", null_rate=0.5, psi=0.3),
                FeatureHealth(name="vpn", null_rate=1.0),
            ),
            calibration=Calibration(rows=1, positives=0, bins=(), ece=0.02),
            challengers=(),
            alert_rate=0.1,
        )
    )
    reader = InMemoryMetricReader()
    gauges = ModelGauges(MeterProvider([reader]).get_meter("test"))
    keeping = asyncio.create_task(keep_gauges(ModelHealthReporter(world.store, measurer), gauges, 0.0))
    async with asyncio.timeout(PATIENCE_S):
        while not (found := gauged(reader)):  # noqa: ASYNC110 - setting a gauge tells no event
            await asyncio.sleep(0)
    keeping.cancel()
    assert found == {
        "fraud_model_psi": {"page_views": 0.3},
        "fraud_model_null_rate": {"page_views": 0.5, "vpn": 1.0},
        "fraud_model_alert_rate": {None: 0.1},
        "fraud_model_ece": {None: 0.02},
    }


def gauged(reader: InMemoryMetricReader) -> dict[str, dict[Any, Any]]:
    """The gauges' values by name and feature."""
    data = reader.get_metrics_data()
    return {
        metric.name: {(point.attributes or {}).get("feature"): point.value for point in metric.data.data_points}  # type: ignore[union-attr]
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


async def test_gauges_outlive_a_worker_that_is_away(world: World) -> None:
    """A refresh that fails is tried again."""
    measurer = Measurer(down=True)
    await recycled(world)
    keeping = asyncio.create_task(
        keep_gauges(ModelHealthReporter(world.store, measurer), ModelGauges(MeterProvider().get_meter("test")), 0.0)
    )
    async with asyncio.timeout(PATIENCE_S):
        while measurer.refused < 2:  # noqa: ASYNC110 - failing tells no event
            await asyncio.sleep(0)
    assert not keeping.done()
    keeping.cancel()


# The worker's answer

QUARTERS = Distribution(edges=[10.0, 20.0, 30.0], shares=[0.25, 0.25, 0.25, 0.25, 0.0])
REFERENCE = Reference(
    features={"session_seconds": QUARTERS},
    score=Distribution(edges=[0.5], shares=[0.5, 0.5, 0.0]),
    alert_rate=(0.1, 0.6),
)


def question(**more: Any) -> pb.MeasureHealthRequest:
    """Four rows, one in each quarter; half of them alert; two are known."""
    usual: dict[str, Any] = {
        "feature_registry": REGISTRY_NAME,
        "row_count": 4,
        "columns": pb.FeatureColumns(session_seconds=[5.0, 15.0, 25.0, 35.0]),
        "model_version": "m",
        "medium_threshold": 0.5,
        "high_threshold": 0.9,
        "scores": [0.1, 0.2, 0.6, 0.95],
        "labelled_scores": [0.2, 0.6],
        "labels": [0, 1],
    }
    return pb.MeasureHealthRequest(**(usual | more))


def test_answer_of_the_worker() -> None:
    """All figures of a model that is known, and its challenger's."""
    challenger = pb.ChallengerScores(
        model_version="c", medium_threshold=0.3, high_threshold=0.9,
        scores=[0.1, 0.4, 0.7, -1.0], labelled_scores=[0.9, 0.1],
    )  # fmt: skip
    answer = measured(question(challengers=[challenger]), {"m": REFERENCE})
    assert (answer.reference_known, answer.alert_rate) == (True, 0.5)
    assert (answer.alert_rate_low, answer.alert_rate_high) == (0.1, 0.6)
    assert [feature.name for feature in answer.features] == list(FEATURE_NAMES)
    session = next(feature for feature in answer.features if feature.name == "session_seconds")
    other = next(feature for feature in answer.features if feature.name == "page_views")
    assert (session.HasField("psi"), session.null_rate) == (True, 0.0)
    assert (other.HasField("psi"), other.null_rate) == (False, 1.0)
    assert [session.psi, answer.score_psi] == pytest.approx([0.0, 0.0], abs=1e-3)
    assert (answer.calibration.rows, answer.calibration.auc, answer.calibration.HasField("slope")) == (2, 1.0, False)
    (beside,) = answer.challengers
    assert (beside.model_version, beside.rows, beside.labelled_rows) == ("c", 3, 2)
    assert [beside.band_agreement, beside.score_correlation] == pytest.approx([2 / 3, 1.0])
    assert (beside.champion_auc, beside.challenger_auc) == (1.0, 0.0)


def test_unknown_model_has_rates_only() -> None:
    """Of a model that the worker does not have, nothing is compared."""
    answer = measured(question(model_version="gone"), {"m": REFERENCE})
    assert (answer.reference_known, answer.alert_rate, answer.HasField("score_psi")) == (False, 0.5, False)
    assert not any(feature.HasField("psi") for feature in answer.features)


def test_labels_alone_can_be_measured() -> None:
    """A model that no longer scores can still be calibrated."""
    answer = measured(question(row_count=0, columns=None, scores=[]), {"m": REFERENCE})
    assert (answer.HasField("alert_rate"), len(answer.features), answer.calibration.rows) == (False, 0, 2)


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"scores": [0.1]}, "scores"),
        ({"scores": [0.1, 0.2, 0.6, -1.0]}, "scores"),
        ({"scores": [0.1, 0.2, 0.6, float("nan")]}, "scores"),
        ({"labels": [0, 2]}, "labels"),
        ({"labels": [0]}, "labelled_scores"),
        ({"labels": [0] * (ROWS_MAX + 1)}, "labels"),
        ({"medium_threshold": 0.0}, "medium_threshold"),
        ({"row_count": -4}, "scores"),
        ({"feature_registry": "v0"}, "feature_registry"),
        ({"columns": pb.FeatureColumns(session_seconds=[-2.0, 1.0, 1.0, 1.0])}, "columns.session_seconds[0]"),
        ({"challengers": [pb.ChallengerScores(medium_threshold=0.5, high_threshold=0.9)]}, "challengers[0].scores"),
    ],
)
def test_refusal_names_the_field(more: dict[str, Any], field: str) -> None:
    """What does not fit together is refused by name."""
    with pytest.raises(RequestRefused) as refused:
        measured(question(**more), {"m": REFERENCE})
    assert refused.value.field == field


def test_full_sample_fits_a_message() -> None:
    """Five thousand rows of everything, with a challenger, stay within what the worker receives."""
    from fraud_worker.serving import MESSAGE_BYTES_MAX

    many = [0.5] * ROWS_MAX
    columns = pb.FeatureColumns(**{name: np.zeros(ROWS_MAX).tolist() for name in FEATURE_NAMES})
    challenger = pb.ChallengerScores(
        model_version="c", medium_threshold=0.5, high_threshold=0.9, scores=many, labelled_scores=many
    )
    full = question(
        row_count=ROWS_MAX, columns=columns, scores=many, labels=[1] * ROWS_MAX, labelled_scores=many,
        challengers=[challenger] * 4,
    )  # fmt: skip
    assert full.ByteSize() < MESSAGE_BYTES_MAX / 2
    assert measured(full, {}).calibration.rows == ROWS_MAX
