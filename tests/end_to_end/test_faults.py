"""What happens when processes end, crash, vanish and come back: nothing acknowledged is lost, nothing is half done."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from card_recycling.v1 import recycling_service_pb2, types_pb2, wallet_service_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from clients.python import RecyclingClient, RecyclingError
from local.stack import PROJECT, Process
from migrations.invariants import check_invariants
from migrations.postgres import EmbeddedPostgres
from migrations.runner import migrate
from server.store.policy_document import put_policies
from tests.end_to_end.conftest import (
    PATIENCE_S,
    Service,
    eventually,
    free_address,
    recycle,
    server_process,
)

CALLERS = 16
ACKNOWLEDGED_MIN = 40
"""So many answers before the process is ended."""


class Load:
    """Callers that recycle cards one after the other until the service is gone."""

    def __init__(self, client: RecyclingClient, cards: list[types_pb2.Card]) -> None:
        self.requests = [recycle(card) for card in cards]
        self.answers: dict[str, recycling_service_pb2.RecycleResponse] = {}
        self.refusals: list[RecyclingError] = []
        self.enough = asyncio.Event()
        self._client = client
        self._waiting = iter(self.requests)

    async def run(self) -> None:
        """Returns when every caller was refused."""
        await asyncio.wait_for(asyncio.gather(*(self._call() for _ in range(CALLERS))), PATIENCE_S)

    async def _call(self) -> None:
        for request in self._waiting:
            try:
                self.answers[request.request_id] = await self._client.recycle(request)
            except RecyclingError as error:
                self.refusals.append(error)
                return
            if len(self.answers) >= ACKNOWLEDGED_MIN:
                self.enough.set()
        raise AssertionError("the load ended before the service did")


async def ended_under_load(service: Service, end: Callable[[Process], object]) -> tuple[Load, str, Any]:
    """A load during which a server of its own was ended: the load, the address, and what the ending gave."""
    cards = await service.issue("iqiyi", 1000) + await service.issue("iqiyi", 1000)
    with service.another_server() as (process, address):
        client = service.another_client(address)
        load = Load(client, cards)
        running = asyncio.create_task(load.run())
        await asyncio.wait_for(load.enough.wait(), PATIENCE_S)
        result = await asyncio.to_thread(end, process)
        await running
    return load, address, result


async def recorded(service: Service, load: Load) -> dict[str, recycling_service_pb2.RecycleResponse]:
    """The answers that the database has for the load's requests."""
    async with service.owner() as owner:
        rows = await owner.fetch(
            "SELECT request_id, response FROM command WHERE request_id = ANY ($1)",
            [uuid.UUID(request.request_id) for request in load.requests],
        )
    return {str(row["request_id"]): recycling_service_pb2.RecycleResponse.FromString(row["response"]) for row in rows}


async def test_sigterm_under_load(service: Service) -> None:
    """SIGTERM under load: exit code 0, nobody listens afterwards, and every answer given is in the database."""
    load, address, code = await ended_under_load(service, Process.stop)
    assert code == 0
    host, _, port = address.rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)
    stored = await recorded(service, load)
    assert len(load.answers) >= ACKNOWLEDGED_MIN
    assert {request: stored.get(request) for request in load.answers} == load.answers
    # CANCELLED is what gRPC gives calls that had arrived, but that no handler had taken when the server closed.
    assert {error.code for error in load.refusals} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    # A drained server has answered what it had recorded, but for calls that were cut off on their way back.
    assert len(stored) <= len(load.answers) + CALLERS
    assert not await service.broken()


async def test_kill_under_load(service: Service) -> None:
    """kill -9 under load: what was acknowledged is recorded, and repeated requests get the stored answers."""
    load, address, _ = await ended_under_load(service, Process.kill)
    stored = await recorded(service, load)
    assert {request: stored.get(request) for request in load.answers} == load.answers
    assert not await service.broken()
    sent = [request for request in load.requests if request.request_id in {*load.answers, *stored}]
    with service.another_server(listen=address):
        client = service.another_client(address)
        again = await eventually(lambda: asyncio.gather(*(client.recycle(request) for request in sent)))
    for request, answer in zip(sent, again, strict=True):
        assert answer == stored[request.request_id]
    assert {*await recorded(service, load)} == {*stored}


async def test_worker_killed_and_back(service: Service) -> None:
    """Without a worker iqiyi takes no card and tencent does with settlement held; with one again all is as before."""
    iqiyi, later = await service.issue("iqiyi", 2)
    (tencent,) = await service.issue("tencent")
    server = service.stack.server.pid
    service.stack.worker.kill()
    kept = await service.recycled(iqiyi)
    assert kept.state != types_pb2.RECYCLING_STATE_APPROVED
    assert kept.decision.degraded_mode == types_pb2.DEGRADED_MODE_HOLD
    taken = await service.recycled(tencent)
    assert taken.state == types_pb2.RECYCLING_STATE_APPROVED and taken.decision.degraded
    assert [*taken.decision.reason_codes] == ["SCORE_UNAVAILABLE"] and not taken.decision.HasField("risk_score")
    with pytest.raises(RecyclingError) as error:
        await service.client.compensate(
            recycling_service_pb2.CompensateRequest(account_id=taken.account_id, recycling_id=taken.recycling_id)
        )
    assert error.value.reason == "SETTLEMENT_NOT_DUE"
    await asyncio.to_thread(service.stack.restart_worker)
    await eventually(lambda: quoted_with_a_score(service.client, later), timeout_s=10)
    recycling = await service.recycled(later)
    assert recycling.decision.HasField("risk_score") and not recycling.decision.degraded
    assert service.stack.server.pid == server and service.stack.server.running()


async def quoted_with_a_score(client: RecyclingClient, card: types_pb2.Card, *, scored: bool = True) -> None:
    """Asks for a quote, which changes nothing; raises AssertionError unless it was scored, or not, as wanted."""
    request = recycling_service_pb2.QuoteRecycleRequest(
        account_id=card.account_id, card_id=card.card_id, reason=types_pb2.RECYCLE_REASON_VOLUNTARY
    )
    decision = (await client.quote_recycle(request)).recycling.decision
    assert decision.HasField("risk_score") is scored is not decision.degraded


async def test_worker_stopped_in_its_tracks(service: Service) -> None:
    """A worker that takes connections and never answers costs callers their score, and never their deadline."""
    cards = await service.issue("iqiyi", 12)
    with hanging_worker() as address, server_process(service.stack.server_url, address) as process:
        client = service.another_client(process.address())
        for card in cards:
            told = (await client.recycle(recycle(card))).recycling
            assert told.state != types_pb2.RECYCLING_STATE_APPROVED and told.decision.degraded


@contextmanager
def hanging_worker() -> Iterator[str]:
    """The address of a listener that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def serving(address: str, *, wanted: bool = True) -> bool:
    """Whether the server's health is SERVING; raises AssertionError while it is not as wanted."""
    async with grpc.aio.insecure_channel(address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
    found: bool = answer.status == health_pb2.HealthCheckResponse.SERVING
    assert found is wanted
    return found


async def not_serving(address: str) -> None:
    """Returns once the server's health is NOT_SERVING."""
    await eventually(lambda: serving(address, wanted=False))


async def test_any_start_order_and_a_new_postgres(service: Service, open_folder: Path) -> None:
    """A server started before database and worker serves once they are there, and again after Postgres restarted."""
    folder = open_folder / f"own-{uuid.uuid4().hex[:8]}"
    worker_address = free_address()
    owner_url, server_url = await prepared_database(folder)
    with server_process(server_url, worker_address) as server:
        address = server.address()
        client = service.another_client(address)
        wallet = wallet_service_pb2.GetWalletRequest(account_id="a")
        await not_serving(address)
        await refused(client.get_wallet(wallet), "STORE_UNAVAILABLE")
        with EmbeddedPostgres(folder):
            await eventually(lambda: serving(address), timeout_s=10)
            one, two = await Service(stack=service.stack, client=client).issue("iqiyi", 2)
            request = recycle(one)
            await quoted_with_a_score(client, one, scored=False)
            worker = service.stack.start_worker(worker_address)
            try:
                worker.address()
                await eventually(lambda: quoted_with_a_score(client, one), timeout_s=10)
                answer = await client.recycle(request)
            finally:
                worker.stop()
        await not_serving(address)
        await refused(client.recycle(request), "STORE_UNAVAILABLE")
        with EmbeddedPostgres(folder):
            await eventually(lambda: serving(address), timeout_s=10)
            assert await client.recycle(request) == answer
            await quoted_with_a_score(client, two, scored=False)
            assert all(result.holds for result in await check_invariants(owner_url))
        assert server.running()


async def test_server_before_the_migrations(service: Service, open_folder: Path) -> None:
    """A server whose database has no tables yet is NOT_SERVING, and serves once they are there."""
    folder = open_folder / f"bare-{uuid.uuid4().hex[:8]}"
    with (
        EmbeddedPostgres(folder, durable=False) as postgres,
        server_process(postgres.server_url("bare"), service.stack.worker_address) as server,
    ):
        address = server.address()
        await not_serving(address)
        postgres.create_database("bare")
        await not_serving(address)
        await migrate(postgres.owner_url("bare"))
        assert await eventually(lambda: serving(address), timeout_s=10)


async def prepared_database(folder: Path) -> tuple[str, str]:
    """The (owner URL, server URL) of a migrated database, in a Postgres that was started and stopped again."""
    with EmbeddedPostgres(folder) as postgres:
        postgres.create_database("own")
        owner_url, server_url = postgres.owner_url("own"), postgres.server_url("own")
        await migrate(owner_url)
        await put_policies(server_url, PROJECT / "policies")
    return owner_url, server_url


async def refused(call: Awaitable[object], reason: str) -> None:
    """Fails unless `call` is UNAVAILABLE for `reason`."""
    with pytest.raises(RecyclingError) as error:
        await call
    assert (error.value.code, error.value.reason) == (grpc.StatusCode.UNAVAILABLE, reason)
