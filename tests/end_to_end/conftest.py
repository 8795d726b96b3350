"""The whole service as processes, and what the tests say to it through real gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
from card_recycling.v1 import card_service_pb2, recycling_service_pb2, types_pb2

from clients.python import RecyclingClient, RecyclingError, Retries
from local.stack import PROJECT, Process, Settings, Stack, running
from migrations.invariants import check_invariants
from server.replay.audit import audit
from server.store.policy_document import put_policies

START = datetime(2026, 3, 1, tzinfo=UTC)
PATIENCE_S = 30.0
"""How long a test waits for what must come."""
REASON_OF = {
    "iqiyi": types_pb2.RECYCLE_REASON_VOLUNTARY,
    "tencent": types_pb2.RECYCLE_REASON_SYSTEM_ANOMALY,
    "netflix": types_pb2.RECYCLE_REASON_EXPIRED,
}
ONCE = Retries(attempts_max=1)


@dataclass(kw_only=True)
class Service:
    """The running service and a client of it, which tells the back-test's time with every call."""

    stack: Stack
    client: RecyclingClient
    now: datetime = START
    clients: list[RecyclingClient] = field(default_factory=list)

    def another_client(self, address: str | None = None, retries: Retries = ONCE) -> RecyclingClient:
        """A client that tells no time."""
        client = RecyclingClient(address or self.stack.address, retries=retries, timeout_s=PATIENCE_S)
        self.clients.append(client)
        return client

    def pass_time(self, delta: timedelta) -> None:
        """Every later call is made so much later."""
        self.now += delta
        self.client.backtest_time = self.now

    async def issue(self, platform: str, how_many: int = 1, **terms: Any) -> list[types_pb2.Card]:
        """New cards, each of an account of its own."""
        items = [new_item(platform, **terms) for _ in range(how_many)]
        answer = await self.client.issue_cards(card_service_pb2.IssueCardsRequest(items=items))
        return [result.card for result in answer.results]

    async def active(self, platform: str, **terms: Any) -> types_pb2.Card:
        """A new card that its owner has used for twelve days."""
        (card,) = await self.issue(platform, **terms)
        await self.client.activate_card(
            card_service_pb2.ActivateCardRequest(
                account_id=card.account_id, card_id=card.card_id, device=device(card), behavior=behavior()
            )
        )
        self.pass_time(timedelta(days=12))
        return card

    async def recycled(self, card: types_pb2.Card, **more: Any) -> types_pb2.Recycling:
        """The recycling of a card."""
        return (await self.client.recycle(recycle(card, **more))).recycling

    async def broken(self) -> dict[str, Any]:
        """The invariants that do not hold, with samples."""
        results = await check_invariants(self.stack.database_url)
        return {result.name: result.samples for result in results if not result.holds}

    @contextlib.asynccontextmanager
    async def owner(self) -> AsyncIterator[asyncpg.Connection[Any]]:
        """The owner's connection to the database."""
        connection = await asyncpg.connect(self.stack.database_url)
        try:
            yield connection
        finally:
            await connection.close()

    @contextlib.contextmanager
    def another_server(self, listen: str = "127.0.0.1:0") -> Iterator[tuple[Process, str]]:
        """A second server on the same database and worker, and its address."""
        with server_process(self.stack.server_url, self.stack.worker_address, listen=listen) as process:
            yield process, process.address()

    @contextlib.asynccontextmanager
    async def poisoned(self, account_id: str) -> AsyncIterator[None]:
        """While it lasts, the database refuses every recycling of `account_id`."""
        async with self.owner() as owner:
            await owner.execute(f"""
                CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN RAISE EXCEPTION 'planted secret %', NEW.card_id; END $$;
                CREATE TRIGGER poison BEFORE INSERT ON recycling FOR EACH ROW WHEN (NEW.account_id = '{account_id}')
                EXECUTE FUNCTION poison();
            """)
            try:
                yield
            finally:
                await owner.execute("DROP TRIGGER poison ON recycling; DROP FUNCTION poison();")


@contextlib.contextmanager
def server_process(
    database_url: str,
    worker_address: str,
    *,
    listen: str = "127.0.0.1:0",
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Process]:
    """A server process, stopped at the end if it still runs."""
    settings = {
        "DATABASE_URL": database_url,
        "FRAUD_WORKER": worker_address,
        "LISTEN": listen,
        "SECRET_KEY": "the same secret of every server of a test",
        "SWEEP_EVERY_S": "0",
        **(environment or {}),
    }
    process = Process("server", ["server"], settings, log)
    try:
        yield process
    finally:
        process.stop()


def free_address() -> str:
    """An address at which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(scope="session")
def stack(open_folder: Path) -> Iterator[Stack]:
    """The service on a scratch back-test database, one for the session."""
    folder = open_folder / "stack"
    folder.mkdir()
    settings = Settings(
        folder=folder,
        backtest=True,
        durable=False,
        environment={"SWEEP_EVERY_S": "0"},  # the tests play the time, and no sweeper may do anything before them
        log=folder / "service.log",
    )
    with running(settings) as stack:
        yield stack


@pytest.fixture(scope="session")
async def service(stack: Stack) -> AsyncIterator[Service]:
    """The service with a client; every invariant must hold when all is done, and every decision replay."""
    async with RecyclingClient(stack.address, retries=ONCE, timeout_s=PATIENCE_S, backtest_time=START) as client:
        service = Service(stack=stack, client=client)
        yield service
        for other in service.clients:
            await other.close()
    assert not await service.broken()
    assert not (await audit(stack.database_url)).otherwise


@pytest.fixture(scope="module")
async def strict_platform(service: Service, open_folder: Path) -> str:
    """A platform like iqiyi that needs a score, and holds every second account of a device."""
    name = f"strict{uuid.uuid4().hex[:8]}"
    body = json.loads((PROJECT / "policies" / "iqiyi.json").read_text("utf-8")) | {"platform": name}
    cap = {"counter": "device_accounts_24h", "max": 1, "action": "HOLD"}
    body["risk"] = {"never_refused_reasons": [], "without_score": "REJECT", "velocity": [cap]}
    folder = open_folder / name
    folder.mkdir()
    (folder / f"{name}.json").write_text(json.dumps(body))
    await put_policies(service.stack.server_url, folder)
    return name


class Metered:
    """A process whose metrics are read, and a client of the server."""

    def __init__(self, client: RecyclingClient, url: str) -> None:
        self.client = client
        self._url = url

    async def read(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Samples by name and labels; those of the instrumentation's scope are left out."""
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(self._url, timeout=10).read().decode())
        found = {}
        for name, labels, value in re.findall(r"^([a-z_]+)\{(.*)\} (\S+)$", text, re.MULTILINE):
            pairs = re.findall(r'(\w+)="([^"]*)"', labels)
            found[name, frozenset(pair for pair in pairs if not pair[0].startswith("otel_scope"))] = float(value)
        return found

    async def count(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        return sum(
            value
            for (found, pairs), value in (await self.read()).items()
            if found == name and labels.items() <= dict(pairs).items()
        )


# Requests


def new_item(platform: str, **terms: Any) -> card_service_pb2.IssueCardsRequest.Item:
    """A card to issue to a new account, for 29.99 and 30 days unless said otherwise."""
    usual: dict[str, Any] = {
        "request_id": str(uuid.uuid4()),
        "account_id": f"a-{uuid.uuid4()}",
        "platform": platform,
        "tier": types_pb2.TIER_BASIC,
        "face_value_minor": 2999,
        "paid_minor": 2999,
        "currency": "CNY",
        "duration_days": 30,
    }
    return card_service_pb2.IssueCardsRequest.Item(**(usual | terms))


def recycle(card: types_pb2.Card, **more: Any) -> recycling_service_pb2.RecycleRequest:
    """A request for the reason that the card's platform takes, from its owner's device."""
    usual: dict[str, Any] = {
        "request_id": str(uuid.uuid4()),
        "account_id": card.account_id,
        "card_id": card.card_id,
        "reason": REASON_OF.get(card.platform, types_pb2.RECYCLE_REASON_VOLUNTARY),
        "device": device(card),
        "behavior": behavior(),
    }
    return recycling_service_pb2.RecycleRequest(**(usual | more))


def device(card: types_pb2.Card) -> types_pb2.Device:
    """The owner's own phone."""
    number = uuid.UUID(card.card_id).int
    return types_pb2.Device(
        device_id=f"phone of {card.account_id}",
        os="android",
        model=f"model {number % 1000}",
        screen="1080x2400",
        language="zh-CN",
        ip=f"10.{number % 250}.{number // 250 % 250}.{number // 62500 % 250}",
        emulator=False,
        rooted=False,
        vpn=False,
    )


def behavior() -> types_pb2.Behavior:
    """Of somebody who looks around."""
    return types_pb2.Behavior(
        session_seconds=240, page_views=14, seconds_since_login=200, failed_logins_24h=0, captcha_failures=0
    )


# Waiting


async def eventually(attempt: Callable[[], Awaitable[Any]], timeout_s: float = PATIENCE_S) -> Any:
    """The result of the first attempt that the service does not refuse, within `timeout_s`."""
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                return await attempt()
            except (RecyclingError, grpc.aio.AioRpcError, AssertionError):
                await asyncio.sleep(0.02)
