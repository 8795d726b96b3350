"""A worker that is stopped, slow or mad costs scores and explanations, never a caller's deadline, and all heals by
itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias
from uuid import UUID

import grpc
import grpc.aio
import pytest
from card_recycling.v1 import recycling_service_pb2, types_pb2
from card_recycling.v1 import review_service_pb2 as review_pb2
from fraud_scoring.v1 import fraud_scoring_service_pb2 as pb

from clients.python import RecyclingClient, RecyclingError
from tests.end_to_end.conftest import Metered, Service, eventually, free_address, recycle, server_process

CALLS = 30
"""More than any breaker lets through while it opens."""

OUTCOME_OF = {"HOLD": "IN_REVIEW", "RULES_ONLY": "APPROVED", "REJECT": "FAILED"}
"""What becomes of a request without a score, by its policy's mode."""

Answer: TypeAlias = Callable[[int], Awaitable[bytes]]


def answer(rows: int, **changes: Any) -> bytes:
    """A sane answer, LOW, but for `changes`."""
    fields: dict[str, Any] = {
        "scores": [0.01] * rows,
        "model_version": "fake",
        "medium_threshold": 0.5,
        "high_threshold": 0.9,
    }
    return pb.ScoreResponse(**(fields | changes)).SerializeToString()


GARBAGE: dict[str, Callable[[int], bytes]] = {
    "no message": lambda rows: b"\xff\xff\xff no message",
    "nothing": lambda rows: b"",
    "a score too few": lambda rows: answer(rows, scores=[0.01] * (rows - 1)),
    "a score too many": lambda rows: answer(rows, scores=[0.01] * (rows + 1)),
    "not a number": lambda rows: answer(rows, scores=[math.nan] * rows),
    "more than 1": lambda rows: answer(rows, scores=[1.5] * rows),
    "less than 0": lambda rows: answer(rows, scores=[-0.1] * rows),
    "thresholds reversed": lambda rows: answer(rows, medium_threshold=0.9, high_threshold=0.5),
    "thresholds of zero": lambda rows: answer(rows, medium_threshold=0.0),
    "no version": lambda rows: answer(rows, model_version=""),
}


class FakeWorker:
    """Answers bytes, by real gRPC: `score` and `explain` say which, or fail, or hang. `asked` counts the scores."""

    def __init__(self) -> None:
        self.score: Answer = sane
        self.explain: Answer = hanging
        self.asked = 0
        self.address = ""

    async def _score(self, request: bytes, _: object) -> bytes:
        self.asked += 1
        return await self.score(pb.ScoreRequest.FromString(request).row_count)

    async def _explain(self, request: bytes, _: object) -> bytes:
        return await self.explain(pb.ExplainRequest.FromString(request).row_count)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[FakeWorker]:
        """Listens while it lasts."""
        server = grpc.aio.server()
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(method)
            for name, method in (("Score", self._score), ("Explain", self._explain))
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("fraud_scoring.v1.FraudScoringService", handlers),)
        )
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)


async def sane(rows: int) -> bytes:
    """LOW for all."""
    return answer(rows)


async def hanging(rows: int) -> bytes:
    """No answer, until the caller is gone."""
    await asyncio.Event().wait()
    raise AssertionError("nobody waits for this answer")


async def failing(rows: int) -> bytes:
    """An exception."""
    raise RuntimeError("planted")


@contextlib.asynccontextmanager
async def served_with(service: Service, worker_address: str) -> AsyncIterator[RecyclingClient]:
    """A client of a server of its own, which asks the worker at that address."""
    with server_process(service.stack.server_url, worker_address) as process:
        yield service.another_client(process.address())


@contextlib.asynccontextmanager
async def metered_server(service: Service, worker_address: str) -> AsyncIterator[Metered]:
    """The same, with its metrics."""
    listen = free_address()
    with server_process(service.stack.server_url, worker_address, environment={"METRICS_LISTEN": listen}) as process:
        yield Metered(service.another_client(process.address()), f"http://{listen}/metrics")


async def recycled(client: RecyclingClient, card: types_pb2.Card) -> types_pb2.Recycling:
    """The recycling of a card on a platform that takes cards without a score."""
    return (await client.recycle(recycle(card))).recycling


async def heals(client: RecyclingClient, cards: list[types_pb2.Card]) -> None:
    """Returns when a decision has a score again. It is asked for without recycling: how many times depends on the
    machine, and cards are as many as they are."""
    card = cards.pop()

    async def scored() -> None:
        decision = (await client.recycle(recycle(card, validate_only=True))).recycling.decision
        assert not decision.degraded and decision.HasField("risk_score")

    await eventually(scored, timeout_s=20)


async def test_mad_worker_is_not_believed(service: Service) -> None:
    """Whatever garbage it answers, decisions are made without a score, the breaker opens, and sense is taken again."""
    cards = await service.issue("tencent", 900)
    async with FakeWorker().running() as worker, served_with(service, worker.address) as client:
        for name, garbage in GARBAGE.items():
            worker.score, worker.asked = as_answer(garbage), 0
            for _ in range(CALLS):
                recycling = await recycled(client, cards.pop())
                assert recycling.decision.degraded and not recycling.decision.HasField("risk_score"), name
            assert 0 < worker.asked < CALLS, name
            worker.score = sane
            await heals(client, cards)


def as_answer(garbage: Callable[[int], bytes]) -> Answer:
    """At once."""

    async def at_once(rows: int) -> bytes:
        return garbage(rows)

    return at_once


@pytest.mark.parametrize("fault", [hanging, failing], ids=["slow", "failing"])
async def test_slow_or_failing_worker_is_left_alone(service: Service, fault: Answer) -> None:
    """Callers get decisions without a score within their deadline, the worker is asked seldom, and then heals."""
    cards = await service.issue("tencent", 400)
    async with FakeWorker().running() as worker, served_with(service, worker.address) as client:
        await heals(client, cards)
        worker.score, worker.asked = fault, 0
        for _ in range(CALLS):
            assert (await recycled(client, cards.pop())).decision.degraded
        assert 0 < worker.asked < CALLS
        worker.score = sane
        await heals(client, cards)


async def test_stopped_worker_process_costs_scores_only(service: Service) -> None:
    """A process that is stopped keeps its connections open; callers get decisions all the same, and scores when it
    goes on, by the same processes."""
    cards = await service.issue("tencent", 400)
    process = service.stack.start_worker(free_address())
    try:
        async with served_with(service, process.address()) as client:
            await heals(client, cards)
            os.kill(process.pid, signal.SIGSTOP)
            try:
                for _ in range(CALLS):
                    assert (await recycled(client, cards.pop())).decision.degraded
            finally:
                os.kill(process.pid, signal.SIGCONT)
            await heals(client, cards)
            assert process.running()
    finally:
        process.stop()


async def nonsense(rows: int) -> bytes:
    """A score that is no number."""
    return GARBAGE["not a number"](rows)


async def each_mode_does_its_part(service: Service, metered: Metered, strict_platform: str) -> None:
    """Without a score each policy does what its mode says, visibly: in the answer, the receipt and the metrics."""
    decided = "recycling_decisions_total"
    before = {
        mode: await metered.count(decided, degraded_mode=mode, outcome=outcome) for mode, outcome in OUTCOME_OF.items()
    }
    (hold,), (rules_only,), (reject,) = [await service.issue(name) for name in ("iqiyi", "tencent", strict_platform)]
    held, approved = [await recycled(metered.client, card) for card in (hold, rules_only)]
    with pytest.raises(RecyclingError) as failed:
        await recycled(metered.client, reject)
    assert failed.value.reason == "FRAUD_SCORE_UNAVAILABLE"
    assert held.state == types_pb2.RECYCLING_STATE_IN_REVIEW and held.HasField("hold_until")
    assert approved.state == types_pb2.RECYCLING_STATE_APPROVED
    kinds = {}
    for recycling, mode, platform in ((held, "HOLD", "iqiyi"), (approved, "RULES_ONLY", "tencent")):
        assert recycling.decision.degraded_mode == types_pb2.DegradedMode.Value(f"DEGRADED_MODE_{mode}")
        assert "SCORE_UNAVAILABLE" in recycling.decision.reason_codes and not recycling.decision.HasField("risk_score")
        async with service.owner() as owner:
            receipt = json.loads(
                await owner.fetchval("SELECT receipt FROM command WHERE request_id = $1", UUID(recycling.request_id))
            )
        assert (receipt["verdict"]["degraded_mode"], receipt["score"]) == (mode, None)
        listed = [review async for review in metered.client.reviews(review_pb2.REVIEW_STATE_OPEN, platform)]
        (kinds[mode],) = [each.kind for each in listed if each.recycling_id == recycling.recycling_id]
    assert kinds == {"HOLD": review_pb2.REVIEW_KIND_RECYCLE, "RULES_ONLY": review_pb2.REVIEW_KIND_SETTLEMENT}
    with pytest.raises(RecyclingError) as unpaid:
        await metered.client.compensate(
            recycling_service_pb2.CompensateRequest(account_id=approved.account_id, recycling_id=approved.recycling_id)
        )
    assert unpaid.value.reason == "SETTLEMENT_NOT_DUE"
    for mode, outcome in OUTCOME_OF.items():
        assert await metered.count(decided, degraded_mode=mode, outcome=outcome) == before[mode] + 1


@pytest.mark.parametrize("fault", [hanging, failing, nonsense], ids=["slow", "failing", "mad"])
async def test_each_mode_under_each_fault(service: Service, strict_platform: str, fault: Answer) -> None:
    """Nobody is approved in silence, with the breaker closed or open, which the gauge tells; and it heals by itself."""
    cards = await service.issue("tencent", 400)
    async with FakeWorker().running() as worker, metered_server(service, worker.address) as metered:
        await heals(metered.client, cards)
        worker.score = fault
        await each_mode_does_its_part(service, metered, strict_platform)
        for _ in range(CALLS):
            assert (await recycled(metered.client, cards.pop())).decision.degraded
        assert await metered.count("recycling_scorer_breaker_opened_total", of="score") >= 1
        await each_mode_does_its_part(service, metered, strict_platform)
        worker.score = sane
        await heals(metered.client, cards)
        assert await metered.count("recycling_scorer_breaker", of="score") == 0


async def test_each_mode_without_the_process(service: Service, strict_platform: str) -> None:
    """A worker process that is stopped, or killed, costs scores only, until it goes on, or a new one does."""
    cards = await service.issue("tencent", 400)
    address = free_address()
    process = service.stack.start_worker(address)
    try:
        process.address()
        async with metered_server(service, address) as metered:
            await heals(metered.client, cards)
            os.kill(process.pid, signal.SIGSTOP)
            try:
                await each_mode_does_its_part(service, metered, strict_platform)
            finally:
                os.kill(process.pid, signal.SIGCONT)
            await heals(metered.client, cards)
            process.kill()
            process.stop()  # of what is dead, only its output is closed
            await each_mode_does_its_part(service, metered, strict_platform)
            process = service.stack.start_worker(address)
            await heals(metered.client, cards)
    finally:
        process.stop()


@pytest.mark.parametrize("fault", [hanging, failing], ids=["slow", "failing"])
async def test_missing_explanations_cost_reasons_only(service: Service, fault: Answer) -> None:
    """A suspect is judged by its score, and told no more than its band, while nobody can say how that came about."""
    cards = await service.issue("iqiyi", 3)
    async with FakeWorker().running() as worker, served_with(service, worker.address) as client:
        worker.score, worker.explain = as_answer(lambda rows: answer(rows, scores=[0.95] * rows)), fault
        for card in cards:
            recycling = await recycled(client, card)
            assert recycling.state == types_pb2.RECYCLING_STATE_REJECTED
            assert [*recycling.decision.reason_codes] == ["RISK_HIGH"]


async def test_farm_is_told_why(service: Service) -> None:
    """Many accounts on one device get their reasons with the decision, and the receipt adds up to the score."""
    cards = await service.issue("tencent", 25)
    device = types_pb2.Device(device_id=f"farm of {cards[0].card_id}", os="android", model="F1", emulator=True)
    judged = [await service.recycled(card, device=device) for card in cards]
    told = next(recycling for recycling in judged if len(recycling.decision.reason_codes) > 1)
    band, *codes = told.decision.reason_codes
    assert band.startswith("RISK_") and 1 <= len(codes) <= 3
    async with service.owner() as owner:
        found = await owner.fetchval(
            "SELECT receipt FROM command WHERE account_id = $1 AND method = 'Recycle'", told.account_id
        )
    explanation = json.loads(found)["explanation"]
    parts = explanation["contributions"]
    assert codes == [part["reason_code"] for part in parts if part["contribution"] > 0][:3]
    total = math.fsum((explanation["base_value"], *(part["contribution"] for part in parts)))
    assert abs(total - explanation["raw_score"]) < 1e-9
    assert explanation["probability"] == told.decision.risk_score
    assert all(part["sentence"] for part in parts)
