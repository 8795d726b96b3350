"""Tracing from the caller to the database: spans as a real collector receives them, and the trace ids of errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from clients.python import RecyclingError
from local.stack import PROJECT, Process
from tests.end_to_end.conftest import PATIENCE_S, Service, recycle

CALLER = """
import asyncio, sys
from card_recycling.v1.recycling_service_pb2 import RecycleRequest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from clients.python import RecyclingClient

provider = TracerProvider(resource=Resource.create({"service.name": "caller"}))
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)

async def call():
    async with RecyclingClient(sys.argv[1], timeout_s=30) as client:
        await client.recycle(RecycleRequest.FromString(bytes.fromhex(sys.argv[2])))

asyncio.run(call())
provider.shutdown()
"""
"""An application that traces, in a process of its own, since a process has one tracer provider for ever."""


@dataclass(frozen=True, kw_only=True)
class Received:
    """A span, and the service it came from."""

    service: str
    span: Span

    @property
    def name(self) -> str:
        """Where, what kind and of what, e.g. "caller CLIENT Recycle"."""
        kind = Span.SpanKind.Name(self.span.kind).removeprefix("SPAN_KIND_")
        return f"{self.service} {kind} {self.span.name.rpartition('/')[2]}"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it receives."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self._news = asyncio.Condition()

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: Any
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """Takes spans in."""
        async with self._news:
            for of_resource in request.resource_spans:
                attributes = {each.key: each.value.string_value for each in of_resource.resource.attributes}
                self.spans += [
                    Received(service=attributes["service.name"], span=span)
                    for of_scope in of_resource.scope_spans
                    for span in of_scope.spans
                ]
            self._news.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    async def trace(self, *names: str, trace_id: bytes | None = None) -> dict[str, Received]:
        """The spans of the trace, of any one without its id, that has all `names`; waits for them."""

        def found() -> dict[str, Received] | None:
            traces: dict[bytes, dict[str, Received]] = {}
            for received in self.spans:
                traces.setdefault(received.span.trace_id, {})[received.name] = received
            whole = [spans for key, spans in traces.items() if trace_id in (None, key) and {*names} <= {*spans}]
            return whole[0] if whole else None

        async with self._news:
            try:
                await asyncio.wait_for(self._news.wait_for(lambda: found() is not None), PATIENCE_S)
            except TimeoutError:
                pytest.fail(f"received only {sorted({received.name for received in self.spans})}")
        spans = found()
        assert spans is not None
        return spans


@pytest.fixture(scope="module")
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    """A collector and its URL."""
    collector = Collector()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield collector, f"http://127.0.0.1:{port}"
    await server.stop(None)


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A server that tells the collector what it does, and where it logs."""

    address: str
    log: Path
    environment: dict[str, str]


@pytest.fixture(scope="module")
async def traced(service: Service, collector: tuple[Collector, str], open_folder: Path) -> AsyncIterator[Traced]:
    """A server and a worker that export their spans."""
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector[1], "OTEL_BSP_SCHEDULE_DELAY": "100"}
    log = open_folder / "traced.log"
    arguments = ["fraud_worker", "serve", "--model", str(service.stack.settings.model), "--listen", "127.0.0.1:0"]
    # They are stopped beside the loop, so that the collector still takes their last spans.
    async with contextlib.AsyncExitStack() as parts:
        worker = Process("fraud worker", arguments, environment | {"OTEL_SERVICE_NAME": "worker"}, log)
        parts.push_async_callback(asyncio.to_thread, worker.stop)
        settings = {
            "DATABASE_URL": service.stack.server_url,
            "FRAUD_WORKER": worker.address(),
            "LISTEN": "127.0.0.1:0",
            "SECRET_KEY": "a secret of the tests, and long enough",
            "OTEL_SERVICE_NAME": "server",
        }
        server = Process("server", ["server"], environment | settings, log)
        parts.push_async_callback(asyncio.to_thread, server.stop)
        yield Traced(address=server.address(), log=log, environment=environment)


async def test_one_trace_from_caller_to_database(
    service: Service, traced: Traced, collector: tuple[Collector, str]
) -> None:
    """One Recycle is one trace: caller, server, batch, load, worker call on both sides, and record, in place."""
    (card,) = await service.issue("iqiyi")
    caller = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CALLER, traced.address, recycle(card).SerializeToString().hex(),
        env={"PYTHONPATH": f"{PROJECT}:{PROJECT / 'protos'}", **traced.environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(caller.communicate(), PATIENCE_S)
    assert caller.returncode == 0, output.decode()
    parents = {
        "caller CLIENT Recycle": None,
        "server SERVER Recycle": "caller CLIENT Recycle",
        "server INTERNAL engine.batch": "server SERVER Recycle",
        "server INTERNAL store.load": "server INTERNAL engine.batch",
        "server CLIENT Score": "server INTERNAL engine.batch",
        "worker SERVER Score": "server CLIENT Score",
        "server INTERNAL store.record": "server INTERNAL engine.batch",
    }
    spans = await collector[0].trace(*parents)
    names = {received.span.span_id: name for name, received in spans.items()}
    assert {name: names.get(spans[name].span.parent_span_id) for name in parents} == parents
    assert spans["caller CLIENT Recycle"].span.parent_span_id == b""


async def test_internal_error_can_be_found_by_its_trace(
    service: Service, traced: Traced, collector: tuple[Collector, str]
) -> None:
    """The trace id in an INTERNAL error is that of the call's own span and log line, whatever batch it was in."""
    cards = await service.issue("iqiyi", 24)
    unlucky = 17
    client = service.another_client(traced.address)
    async with service.poisoned(cards[unlucky].account_id):
        outcomes = await asyncio.gather(*(client.recycle(recycle(card)) for card in cards), return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert errors == [outcomes[unlucky]]
    error = errors[0]
    assert isinstance(error, RecyclingError) and error.code is grpc.StatusCode.INTERNAL
    assert error.trace_id is not None
    told = [json.loads(line) for line in traced.log.read_text().splitlines() if '"a command failed"' in line]
    assert [line["trace_id"] for line in told] == [error.trace_id]
    spans = await collector[0].trace("server SERVER Recycle", trace_id=bytes.fromhex(error.trace_id))
    assert spans["server SERVER Recycle"].span.status.code == 2


async def test_trace_ids_without_a_collector(service: Service) -> None:
    """A server that exports nothing still names a trace in INTERNAL errors."""
    (card,) = await service.issue("iqiyi")
    async with service.poisoned(card.account_id):
        with pytest.raises(RecyclingError) as error:
            await service.recycled(card, request_id=str(uuid.uuid4()))
    assert error.value.trace_id is not None and int(error.value.trace_id, 16) > 0
    assert service.stack.settings.log is not None
    assert f'"trace_id": "{error.value.trace_id}"' in service.stack.settings.log.read_text()
