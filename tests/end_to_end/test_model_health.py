"""GetModelHealth through the real processes: drift against what the model's training saw, and calibration."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from card_recycling.v1 import card_service_pb2, insights_service_pb2, recycling_service_pb2, types_pb2

from clients.python import RecyclingClient, RecyclingError
from fraud_worker.__main__ import DEFAULT_MODEL
from fraud_worker.health import shares
from fraud_worker.registry import FEATURE_NAMES
from local.stack import Process, Settings, Stack, running
from tests.end_to_end.conftest import ONCE, PATIENCE_S, START, Service, eventually, new_item, recycle, server_process
from tests.fraud_models import rewrite, write_model
from tests.unit.test_cli import recycling

WAVE = 120
"""Requests of a wave: with four bins a feature, chance alone gives a PSI of some 3 / 120 from each of two samples."""

DRAW = random.Random(0)


@dataclass(frozen=True, kw_only=True)
class Wave:
    """The requests of one hour."""

    start: datetime
    end: datetime
    recyclings: list[types_pb2.Recycling]

    def asked(self, **more: Any) -> insights_service_pb2.GetModelHealthRequest:
        """The question about this hour."""
        request = insights_service_pb2.GetModelHealthRequest(**more)
        request.from_time.FromDatetime(self.start)
        request.to_time.FromDatetime(self.end)
        return request


@pytest.fixture(scope="module")
def own_stack(open_folder: Path) -> Iterator[Stack]:
    """A service of this module's own, whose model folder may be changed."""
    folder = open_folder / "model-health"
    shutil.copytree(DEFAULT_MODEL, folder / "model")
    settings = Settings(folder=folder, backtest=True, durable=False, model=folder / "model", log=folder / "service.log")
    with running(settings) as stack:
        yield stack


@pytest.fixture(scope="module")
async def drifting(own_stack: Stack) -> AsyncIterator[tuple[Service, dict[str, Wave]]]:
    """The service after three waves of requests: one that the model's training is said to have seen, one like it, and
    one whose sessions take five times as long."""
    async with RecyclingClient(own_stack.address, retries=ONCE, timeout_s=PATIENCE_S, backtest_time=START) as client:
        service = Service(stack=own_stack, client=client)
        waves = {"trained": await wave(service)}
        rows, scores = await on_record(service)
        tell_training(own_stack.settings.model, rows, scores)
        own_stack.restart_worker()
        waves["alike"] = await wave(service)
        waves["shifted"] = await wave(service, stretch=5.0)
        yield service, waves


async def wave(service: Service, stretch: float = 1.0) -> Wave:
    """Requests of new owners who spend some minutes on it, within an hour of the back-test's clock."""
    items = [new_item("iqiyi") for _ in range(WAVE)]
    issued = await service.client.issue_cards(card_service_pb2.IssueCardsRequest(items=items))
    service.pass_time(timedelta(days=1))
    start = service.now
    requests = []
    for result in issued.results:
        request = recycle(result.card)
        request.behavior.session_seconds = stretch * DRAW.uniform(60.0, 600.0)
        request.behavior.page_views = DRAW.randrange(4, 40)
        requests.append(request)
    answer = await service.client.batch_recycle(recycling_service_pb2.BatchRecycleRequest(requests=requests))
    service.pass_time(timedelta(hours=1))
    return Wave(start=start, end=service.now, recyclings=[result.recycling for result in answer.results])


async def on_record(service: Service) -> tuple[Any, Any]:
    """The feature rows and scores of all receipts."""
    async with service.owner() as owner:
        receipts = [
            json.loads(row["receipt"])
            for row in await owner.fetch("SELECT receipt FROM command WHERE method = 'Recycle'")
        ]
    rows = [[receipt["features"][name] for name in FEATURE_NAMES] for receipt in receipts]
    return np.array(rows, dtype=np.float64), np.array([receipt["score"]["probability"] for receipt in receipts])


def tell_training(model: Path, rows: Any, scores: Any) -> None:
    """Writes into the model's manifest that training saw these rows and scores."""
    rewrite(
        model,
        feature_bins={name: bins(rows[:, column]) for column, name in enumerate(FEATURE_NAMES)},
        # Scores of few rows are a few values, and quarters would cut right through one of them.
        score_bins=bins(scores, [0.05, 0.2, 0.5]),
        alert_rate={"share": 0.01, "low": 0.0, "high": 0.05, "rows": WAVE},
    )


def bins(values: Any, edges: list[float] | None = None) -> dict[str, Any]:
    """Between `edges`; in quarters where none are given."""
    known = values[~np.isnan(values)]
    if edges is None:
        edges = sorted({float(edge) for edge in np.quantile(known, [0.25, 0.5, 0.75])}) if len(known) else []
    *known_shares, unknown = shares(values, edges).tolist()
    return {"edges": edges, "shares": known_shares, "unknown": unknown}


async def health(service: Service, request: insights_service_pb2.GetModelHealthRequest) -> Any:
    """The report."""
    return await service.client.get_model_health(request)


def drifts(model: Any) -> dict[str, float]:
    return {feature.name: feature.psi for feature in model.features}


async def test_shifted_feature_is_seen(drifting: tuple[Service, dict[str, Wave]]) -> None:
    """Sessions that take longer than training's drift, what is as before does not, and the report says so by name."""
    service, waves = drifting
    report = await health(service, waves["shifted"].asked())
    (model,) = report.models
    assert (report.rows, report.degraded_rows, model.rows, model.reference_known) == (WAVE, 0, WAVE, True)
    found = drifts(model)
    assert list(found) == list(FEATURE_NAMES)
    assert {name for name, psi in found.items() if psi >= 0.25} == {"session_seconds"}
    assert found["page_views"] < 0.15


async def test_wave_like_training_does_not_drift(drifting: tuple[Service, dict[str, Wave]]) -> None:
    """Requests like those that trained drift in nothing; their alert rate lies within its band."""
    service, waves = drifting
    (model,) = (await health(service, waves["alike"].asked())).models
    assert [name for name, psi in drifts(model).items() if psi >= 0.25] == []
    assert model.score_psi < 0.25
    assert (model.alert_rate_expected, model.alert_rate_high) == (True, 0.05)
    assert all(feature.null_rate == feature.expected_null_rate for feature in model.features)


async def test_outcomes_calibrate_what_has_matured(drifting: tuple[Service, dict[str, Wave]]) -> None:
    """Requests of a week before are calibrated: what was found out counts, and so does the silence of the approved."""
    service, waves = drifting
    first = waves["trained"]
    for number, kind in enumerate(
        ("CHARGEBACK", "CONFIRMED_FRAUD", "CONFIRMED_FRAUD", "CONFIRMED_GENUINE", "COMPLAINT")
    ):
        request = recycling_service_pb2.RecordOutcomeRequest(
            recycling_id=first.recyclings[number].recycling_id,
            kind=recycling_service_pb2.OutcomeKind.Value(f"OUTCOME_KIND_{kind}"),
            time=first.recyclings[number].create_time,
        )
        await service.client.record_outcome(request)
    service.pass_time(first.end + timedelta(days=7) - service.now)
    asked = insights_service_pb2.GetModelHealthRequest(mature_days=7)
    asked.from_time.FromDatetime(first.start + timedelta(days=7))
    asked.to_time.FromDatetime(first.end + timedelta(days=7))
    report = await health(service, asked)
    (model,) = report.models
    assert (report.rows, model.rows, model.HasField("alert_rate")) == (0, 0, False)
    approved = sum(each.state == types_pb2.RECYCLING_STATE_APPROVED for each in first.recyclings[5:])
    assert (model.calibration.rows, model.calibration.positives) == (4 + approved, 3)
    scores = [each.decision.risk_score for each in first.recyclings[:4]]
    scores += [
        each.decision.risk_score for each in first.recyclings[5:] if each.state == types_pb2.RECYCLING_STATE_APPROVED
    ]
    labels = [1.0, 1.0, 1.0] + [0.0] * (1 + approved)
    brier = sum((score - label) ** 2 for score, label in zip(scores, labels, strict=True)) / len(scores)
    assert model.calibration.brier == pytest.approx(brier)
    assert sum(each.rows for each in model.calibration.bins) == model.calibration.rows


async def test_challenger_stands_beside_the_model(drifting: tuple[Service, dict[str, Wave]]) -> None:
    """A challenger whose scores stand in the receipts is compared on the requests that both scored."""
    service, waves = drifting
    alike = waves["alike"]
    async with service.owner() as owner:
        # It says what the model said, of every second request.
        await owner.execute(
            """
            UPDATE command SET receipt = jsonb_set(receipt::jsonb, '{score,shadows}', jsonb_build_array(
              (receipt::jsonb -> 'score') || '{"model_version": "challenger"}'))::json
            WHERE (account_id, request_id) IN (
              SELECT account_id, request_id FROM (
                SELECT account_id, request_id, row_number() OVER (ORDER BY request_id) AS number FROM command
                WHERE method = 'Recycle' AND create_time >= $1 AND create_time < $2) AS numbered
              WHERE number % 2 = 0)
            """,
            alike.start,
            alike.end,
        )
    (model,) = (await health(service, alike.asked())).models
    (beside,) = model.challengers
    assert (beside.model_version, beside.rows, beside.band_agreement) == ("challenger", WAVE // 2, 1.0)
    assert beside.score_correlation == pytest.approx(1.0)


async def test_platform_narrows_the_sample(drifting: tuple[Service, dict[str, Wave]]) -> None:
    """Of another platform nothing was decided."""
    service, waves = drifting
    report = await health(service, waves["alike"].asked(platform="tencent"))
    assert (report.rows, list(report.models)) == (0, [])
    assert (await health(service, waves["alike"].asked(platform="iqiyi"))).rows == WAVE


async def test_any_server_tells_the_same(drifting: tuple[Service, dict[str, Wave]]) -> None:
    """Nothing is counted in memory: a server that has just started tells what the first one does."""
    service, waves = drifting
    first = await health(service, waves["shifted"].asked())
    with service.another_server() as (_, address):
        async with RecyclingClient(address, retries=ONCE, timeout_s=PATIENCE_S) as client:
            assert await client.get_model_health(waves["shifted"].asked()) == first


async def test_window_must_not_be_empty(drifting: tuple[Service, dict[str, Wave]]) -> None:
    """A window that ends before it begins is FIELD_INVALID."""
    service, waves = drifting
    request = waves["alike"].asked()
    request.from_time.FromDatetime(waves["alike"].end)
    with pytest.raises(RecyclingError) as refused:
        await health(service, request)
    assert (refused.value.reason, refused.value.field_violations[0].field) == ("FIELD_INVALID", "from_time")


async def test_people_read_tables(drifting: tuple[Service, dict[str, Wave]]) -> None:
    """`recycling model-health` shows the feature that drifts most first, with a bar."""
    service, waves = drifting
    shifted = waves["shifted"]
    window = ("--from", shifted.start.isoformat(), "--to", shifted.end.isoformat())
    done = await recycling("model-health", *window, "--address", service.stack.address, "--timeout", "30")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    heading = next(number for number, line in enumerate(lines) if "feature" in line and "psi" in line)
    assert "session_seconds" in lines[heading + 2] and "█" in lines[heading + 2]


async def test_without_the_worker_it_is_unavailable(drifting: tuple[Service, dict[str, Wave]]) -> None:
    """Nobody else knows what the models were trained on."""
    service, waves = drifting
    service.stack.worker.stop()
    try:
        with pytest.raises(RecyclingError) as refused:
            await health(service, waves["shifted"].asked())
        assert refused.value.reason == "FRAUD_SCORE_UNAVAILABLE"
    finally:
        service.stack.restart_worker()


async def test_stopped_worker_does_not_use_up_the_callers_time(drifting: tuple[Service, dict[str, Wave]]) -> None:
    """A worker that hangs is unavailable within the server's own time-out, and the next caller waits for nothing."""
    service, waves = drifting
    os.kill(service.stack.worker.pid, signal.SIGSTOP)
    try:
        for _ in range(4):
            with pytest.raises(RecyclingError) as refused:
                await health(service, waves["shifted"].asked())
            assert refused.value.reason == "FRAUD_SCORE_UNAVAILABLE"
    finally:
        os.kill(service.stack.worker.pid, signal.SIGCONT)
    await eventually(lambda: health(service, waves["shifted"].asked()))


async def test_real_challenger_is_measured(drifting: tuple[Service, dict[str, Wave]], tmp_path: Path) -> None:
    """A challenger in the worker scores real requests in the shadow, and the report compares what the receipts hold."""
    service, _ = drifting
    version = write_model(tmp_path / "challenger", 5)
    serve = ["fraud_worker", "serve", "--listen", "127.0.0.1:0", "--model", str(service.stack.settings.model)]
    worker = Process("fraud worker", [*serve, "--challenger", str(tmp_path / "challenger")], {}, None)
    try:
        with server_process(service.stack.server_url, worker.address()) as process:
            client = service.another_client(process.address())
            client.backtest_time = service.now
            beside = Service(stack=service.stack, client=client, now=service.now)
            # Late challengers are left out, which on a busy machine may be all of a wave.
            for _ in range(10):
                both = await wave(beside)
                (model,) = (await health(beside, both.asked())).models
                if model.challengers:
                    break
            service.pass_time(beside.now - service.now)
    finally:
        worker.stop()
    async with service.owner() as owner:
        receipts = [
            json.loads(row["receipt"])["score"]
            for row in await owner.fetch(
                "SELECT receipt FROM command WHERE method = 'Recycle' AND create_time >= $1 AND create_time < $2",
                both.start,
                both.end,
            )
        ]
    pairs = [(score, shadow) for score in receipts for shadow in score["shadows"]]
    (challenger,) = model.challengers
    assert (challenger.model_version, challenger.rows) == (version, len(pairs))
    assert challenger.band_agreement == pytest.approx(
        sum(band(score) == band(shadow) for score, shadow in pairs) / len(pairs)
    )


def band(score: dict[str, float]) -> int:
    """0 LOW, 1 MEDIUM, 2 HIGH."""
    at = score["probability"]
    return (at >= score["medium_threshold"]) + (at >= score["high_threshold"])
