"""The whole loop of risk through real processes: a suspicious request is held, judged by a person, and learnt from."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import polars as pl
import pytest
from card_recycling.v1 import card_service_pb2, insights_service_pb2, recycling_service_pb2, types_pb2
from card_recycling.v1 import review_service_pb2 as pb
from fraud_scoring.v1 import fraud_scoring_service_pb2, fraud_scoring_service_pb2_grpc

from clients.python import RecyclingClient, RecyclingError
from fraud_worker.__main__ import DEFAULT_MODEL
from local.stack import PROJECT, Process
from tests.end_to_end.conftest import PATIENCE_S, Metered, Service, device, free_address, recycle, server_process
from tests.fraud_models import rewrite
from tests.unit.test_cli import recycling


@dataclass(frozen=True, kw_only=True)
class Wary:
    """A server whose worker finds everybody suspicious, and none too much so; a client of it, and both's metrics."""

    client: RecyclingClient
    address: str
    worker_address: str
    server: Metered
    worker: Metered


@pytest.fixture(scope="module")
async def wary(service: Service, open_folder: Path) -> AsyncIterator[Wary]:
    """The shipped model with a threshold that every request reaches."""
    model = open_folder / "wary"
    shutil.copytree(DEFAULT_MODEL, model)
    rewrite(model, thresholds={"medium": 1e-9, "high": 1.0, "rule": "everybody"})
    metrics, own_metrics = free_address(), free_address()
    serve = ["fraud_worker", "serve", "--listen", "127.0.0.1:0", "--model", str(model), "--metrics-listen", metrics]
    worker = Process("fraud worker", serve, {}, None)
    try:
        with server_process(
            service.stack.server_url, worker.address(), environment={"METRICS_LISTEN": own_metrics}
        ) as process:
            client = service.another_client(process.address())
            yield Wary(
                client=client,
                address=process.address(),
                worker_address=worker.address(),
                server=Metered(client, f"http://{own_metrics}/metrics"),
                worker=Metered(client, f"http://{metrics}/metrics"),
            )
    finally:
        worker.stop()


async def held(service: Service, wary: Wary) -> tuple[types_pb2.Recycling, pb.Review]:
    """A recycle in review, from a device on which another account has recycled before, and its review as listed."""
    neighbour, card = await service.issue("iqiyi", 2)
    shared = device(neighbour)
    await wary.client.recycle(recycle(neighbour, device=shared))
    taken = (await wary.client.recycle(recycle(card, device=shared))).recycling
    assert taken.state == types_pb2.RECYCLING_STATE_IN_REVIEW and taken.decision.risk_band == types_pb2.RISK_BAND_MEDIUM
    listed = [review async for review in wary.client.reviews(pb.REVIEW_STATE_OPEN, "iqiyi")]
    (review,) = [review for review in listed if review.recycling_id == taken.recycling_id]
    return taken, review


async def exported(service: Service, folder: Path, taken: types_pb2.Recycling) -> dict[str, Any]:
    """The request's row in an export, made as an operator does."""
    log = folder / f"{taken.recycling_id}.parquet"
    await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "fraud_worker", "export", "--out", str(log)],
        cwd=PROJECT,
        env={**os.environ, "DATABASE_URL": service.stack.server_url},
        check=True,
        capture_output=True,
        timeout=120,
    )
    rows = pl.read_parquet(log).filter(pl.col("recycling_id") == taken.recycling_id, pl.col("event_kind") == "RECYCLE")
    return rows.row(0, named=True)


async def test_approved_request_is_paid_and_learnt_from(service: Service, wary: Wary, open_folder: Path) -> None:
    """Held, shown with reasons in words, claimed by one of two, approved, paid; what is learnt is exported."""
    taken, review = await held(service, wary)
    claims = await asyncio.gather(
        *(
            wary.client.claim_review(pb.ClaimReviewRequest(review_id=review.review_id, reviewer=name))
            for name in ("anna", "ben")
        ),
        return_exceptions=True,
    )
    (claim,) = [claim.review for claim in claims if isinstance(claim, pb.ClaimReviewResponse)]
    (late,) = [claim for claim in claims if isinstance(claim, RecyclingError)]
    assert late.reason == "REVIEW_CLAIMED"
    evidence = claim.evidence
    assert all(signal.sentence and signal.HasField("contribution") for signal in evidence.signals)
    assert {*taken.decision.reason_codes} - {"RISK_MEDIUM"} <= {signal.reason_code for signal in evidence.signals}
    # Who shares most comes first; other tests' accounts may look alike.
    assert [*evidence.similar[0].shared] == [
        pb.SHARED_TRAIT_ADDRESS,
        pb.SHARED_TRAIT_DEVICE,
        pb.SHARED_TRAIT_LOOK_ALIKE,
    ]
    assert [request.outcome for request in evidence.requests if request.kind == "RECYCLE"] == ["IN_REVIEW"]
    options = {"RECYCLING_ADDRESS": wary.address, "RECYCLING_REVIEWER": claim.claimed_by}
    approved = await recycling("review", "approve", review.review_id, "--json", **options)
    assert approved.code == 0, approved.err
    assert json.loads(approved.out)["review"]["state"] == "REVIEW_STATE_APPROVED"
    named: dict[str, Any] = {"account_id": taken.account_id, "recycling_id": taken.recycling_id}
    paid = await wary.client.compensate(recycling_service_pb2.CompensateRequest(**named))
    assert paid.wallet.balances[0].amount == taken.compensation.amount
    row = await exported(service, open_folder, taken)
    assert (row["label"], row["label_source"]) == (False, "REVIEW")
    await wary.client.record_outcome(
        recycling_service_pb2.RecordOutcomeRequest(
            recycling_id=taken.recycling_id,
            kind=recycling_service_pb2.OUTCOME_KIND_CONVERSION,
            time=taken.create_time,
        )
    )
    row = await exported(service, open_folder, taken)
    assert (row["label"], row["label_source"], row["outcome"]) == (False, "CONVERSION", "IN_REVIEW")
    assert row["model_version"] == taken.decision.model_version
    assert row["policy_revision"] == taken.decision.policy_revision
    service.pass_time(timedelta(hours=1))
    await service.issue("iqiyi")  # moves the clock
    report = await wary.client.get_model_health(insights_service_pb2.GetModelHealthRequest())
    (model,) = [model for model in report.models if model.model_version == taken.decision.model_version]
    assert model.rows >= 1 and 0 < model.alert_rate <= 1


async def test_denied_request_is_known_as_abuse(service: Service, wary: Wary, open_folder: Path) -> None:
    """A denial frees the card, pays nothing, marks the device for other accounts, and is exported as abuse."""
    taken, review = await held(service, wary)
    denial = pb.ResolveReviewRequest(review_id=review.review_id, verdict=pb.REVIEW_VERDICT_DENY, reviewer="anna")
    told = await wary.client.resolve_review(denial)
    assert told.recycling.state == types_pb2.RECYCLING_STATE_REJECTED
    assert told.card.state == types_pb2.CARD_STATE_ISSUED and not told.card.HasField("hold_until")
    with pytest.raises(RecyclingError) as refused:
        await wary.client.compensate(
            recycling_service_pb2.CompensateRequest(account_id=taken.account_id, recycling_id=taken.recycling_id)
        )
    assert refused.value.reason == "RECYCLING_STATE_INVALID"
    row = await exported(service, open_folder, taken)
    assert (row["label"], row["label_source"], row["model_version"]) == (True, "REVIEW", taken.decision.model_version)
    resolved = told.review.resolve_time.ToDatetime(tzinfo=row["label_time"].tzinfo)
    assert row["abuse_time"] == row["label_time"] == resolved
    card = card_service_pb2.GetCardRequest(account_id=taken.account_id, card_id=taken.card_id)
    assert (await wary.client.get_card(card)).card == told.card


async def test_worker_and_breaker_tell_metrics(service: Service, wary: Wary) -> None:
    """The worker counts rows, loads and what it refuses; the server's breakers are closed and have never opened."""
    (card,) = await service.issue("iqiyi")
    before = await wary.worker.count("fraud_scored_total")
    await wary.client.recycle(recycle(card))
    assert await wary.worker.count("fraud_scored_total") == before + 1
    assert await wary.worker.count("fraud_model_loads_total", role="champion", outcome="LOADED") == 1
    async with grpc.aio.insecure_channel(wary.worker_address) as channel:
        stub: Any = fraud_scoring_service_pb2_grpc.FraudScoringServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Score(fraud_scoring_service_pb2.ScoreRequest(feature_registry="v0"), timeout=PATIENCE_S)
    refused = {"method": "Score", "reason": "FIELD_INVALID", "field": "feature_registry"}
    assert await wary.worker.count("fraud_refused_total", **refused) == 1
    breakers = {
        dict(labels)["of"]: value
        for (name, labels), value in (await wary.server.read()).items()
        if name == "recycling_scorer_breaker"
    }
    assert breakers == {"score": 0, "explain": 0}
    assert await wary.server.count("recycling_scorer_breaker_opened_total") == 0
