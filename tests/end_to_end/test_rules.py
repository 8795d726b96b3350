"""Lists, caps and degraded modes through real gRPC, and what a running server tells Prometheus of them."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from card_recycling.v1 import recycling_service_pb2, types_pb2
from card_recycling.v1.review_service_pb2 import DeleteListEntryRequest, ListEntriesRequest, PutListEntryRequest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc

from clients.python import RecyclingError
from local.stack import StackError
from tests.end_to_end.conftest import PATIENCE_S, Metered, Service, device, free_address, recycle, server_process
from tests.unit.test_cli import recycling

APPROVED = types_pb2.RECYCLING_STATE_APPROVED


def put(kind: str, subject_kind: str, subject: str, **more: Any) -> PutListEntryRequest:
    """A request to put a subject on a list."""
    usual: dict[str, Any] = {"actor": "ann@example.com", "reason": "a test"}
    return PutListEntryRequest(
        list=types_pb2.ListKind.Value(f"LIST_KIND_{kind}"),
        subject_kind=types_pb2.SubjectKind.Value(f"SUBJECT_KIND_{subject_kind}"),
        subject=subject,
        **(usual | more),
    )


async def test_device_is_denied_until_its_entry_ends(service: Service) -> None:
    """A DENY entry refuses the next recycle and says why; once it is deleted the same card is taken."""
    (card,) = await service.issue("iqiyi")
    entry = (await service.client.put_list_entry(put("DENY", "DEVICE", device(card).device_id))).entry
    told = await service.recycled(card)
    assert told.state == types_pb2.RECYCLING_STATE_REJECTED
    assert [*told.decision.reason_codes] == ["DENY_LISTED_DEVICE"]
    assert [hit.entry_id for hit in told.decision.list_hits] == [entry.entry_id]
    ended = (
        await service.client.delete_list_entry(
            DeleteListEntryRequest(entry_id=entry.entry_id, actor="bob", reason="mistaken")
        )
    ).entry
    assert (ended.ended_by, ended.end_reason) == ("bob", "mistaken")
    assert "DENY_LISTED_DEVICE" not in (await service.recycled(card)).decision.reason_codes


async def test_entries_come_in_pages(service: Service) -> None:
    """All versions of a subject are listed, newest first, through page tokens."""
    name = f"phone {uuid.uuid4()}"
    put_ids = [(await service.client.put_list_entry(put("WATCH", "DEVICE", name))).entry.entry_id for _ in range(5)]
    wanted = ListEntriesRequest(subject_kind=types_pb2.SUBJECT_KIND_DEVICE, subject=name, page_size=2)
    shown = [entry async for entry in service.client.entries(wanted)]
    assert sorted(entry.entry_id for entry in shown) == sorted(put_ids)
    wanted.active_only = True
    assert [entry.entry_id async for entry in service.client.entries(wanted)] == [put_ids[-1]]


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (put("DENY", "ADDRESS", "10.0.0.0/8"), grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
        (put("DENY", "ACCOUNT", "a-1", reason=" "), grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
        (put("DENY", "DEVICE", "never put", etag="v1"), grpc.StatusCode.ABORTED, "ETAG_MISMATCH"),
    ],
)
async def test_bad_entry_is_refused(
    service: Service, request_: PutListEntryRequest, code: grpc.StatusCode, reason: str
) -> None:
    """What cannot be put is refused by the table of errors."""
    with pytest.raises(RecyclingError) as error:
        await service.client.put_list_entry(request_)
    assert (error.value.code, error.value.reason) == (code, reason)


async def test_entry_not_in_force_is_not_found(service: Service) -> None:
    """There is nothing to delete."""
    with pytest.raises(RecyclingError) as error:
        await service.client.delete_list_entry(
            DeleteListEntryRequest(entry_id=str(uuid.uuid4()), actor="ann", reason="x")
        )
    assert (error.value.code, error.value.reason) == (grpc.StatusCode.NOT_FOUND, "LIST_ENTRY_NOT_FOUND")


async def test_denied_payout_is_not_settled(service: Service) -> None:
    """Compensate to a denied payout is SETTLEMENT_NOT_DUE; a recycle that names it is refused."""
    mule = f"iban {uuid.uuid4()}"
    card, other = await service.issue("iqiyi", 2)
    taken = await service.recycled(card)
    await service.client.put_list_entry(put("DENY", "PAYOUT", mule))
    with pytest.raises(RecyclingError) as error:
        await service.client.compensate(
            recycling_service_pb2.CompensateRequest(
                account_id=taken.account_id, recycling_id=taken.recycling_id, payout_id=mule
            )
        )
    assert error.value.reason == "SETTLEMENT_NOT_DUE"
    assert [*(await service.recycled(other, payout_id=mule)).decision.reason_codes] == ["DENY_LISTED_PAYOUT"]


async def test_lists_are_kept_from_the_command_line(service: Service) -> None:
    """put, show and delete do what they say, in tables and in JSON."""
    account, where = f"a-{uuid.uuid4()}", ("--address", service.stack.address)
    done = await recycling("list", "put", "WATCH", "ACCOUNT", account, "--reason", "odd", "--actor", "ann", *where)
    assert done.code == 0 and account in done.out and "WATCH" in done.out
    shown = await recycling("list", "show", "--kind", "ACCOUNT", "--subject", account, "--json", *where)
    (entry,) = json.loads(shown.out)["entries"]
    assert (entry["reason"], entry["actor"]) == ("odd", "ann")
    ended = await recycling("list", "delete", entry["entry_id"], "--reason", "over", "--actor", "bob", *where)
    assert ended.code == 0 and "bob" in ended.out
    # The program's own options go for this group, too.
    shown = await recycling(*where, "list", "show", "--kind", "ACCOUNT", "--subject", account, "--history")
    assert "over" in shown.out
    again = await recycling("list", "delete", entry["entry_id"], "--reason", "over", *where)
    assert (again.code, again.err.split(":")[0]) == (1, "LIST_ENTRY_NOT_FOUND")


# Metrics


@pytest.fixture(scope="module")
async def metered(service: Service) -> AsyncIterator[Metered]:
    """A server of its own beside the worker."""
    listen = free_address()
    with server_process(
        service.stack.server_url, service.stack.worker_address, environment={"METRICS_LISTEN": listen}
    ) as process:
        client = service.another_client(process.address())
        yield Metered(client, f"http://{listen}/metrics")


async def test_decisions_are_counted(service: Service, metered: Metered, strict_platform: str) -> None:
    """Recycles, dry runs, list hits, caps reached, scores, batches and errors are told by what was decided."""
    cards = await service.issue(strict_platform, 3)
    shared = types_pb2.Device(device_id=f"shared {uuid.uuid4()}")
    await metered.client.recycle(recycle(cards[0], device=shared))
    await metered.client.recycle(recycle(cards[1], device=shared))
    await metered.client.put_list_entry(put("DENY", "ACCOUNT", cards[2].account_id))
    await metered.client.recycle(recycle(cards[2], validate_only=True))
    with pytest.raises(RecyclingError):
        await metered.client.recycle(recycle(cards[0]))
    of = {"platform": strict_platform, "method": "Recycle"}
    decided = "recycling_decisions_total"
    assert await metered.count(decided, **of) == 3
    assert await metered.count(decided, **of, outcome="APPROVED", band="LOW", dry_run="false", explored="false") == 1
    assert await metered.count(decided, **of, outcome="REJECTED", dry_run="true") == 1
    assert await metered.count("recycling_velocity_hits_total", counter="device_accounts_24h") == 1
    assert await metered.count("recycling_list_hits_total", list="DENY", subject_kind="ACCOUNT") == 1
    with pytest.raises(RecyclingError):  # there is no such recycling; the entry was met all the same
        await metered.client.compensate(
            recycling_service_pb2.CompensateRequest(account_id=cards[2].account_id, recycling_id=str(uuid.uuid4()))
        )
    assert await metered.count("recycling_list_hits_total", list="DENY", subject_kind="ACCOUNT") == 2
    assert await metered.count("recycling_errors_total", reason="CARD_ALREADY_RECYCLED") == 1
    assert await metered.count("recycling_risk_score_count") == 3
    assert await metered.count("recycling_batch_size_count") == 5


async def test_requests_without_a_device_are_counted(service: Service, metered: Metered) -> None:
    """Where the policy minds; one that names its device is not among them."""
    nameless, named = await service.issue("iqiyi", 2)
    await metered.client.recycle(recycle(nameless, device=types_pb2.Device(device_id=" ", os="ios")))
    await metered.client.recycle(recycle(named))
    assert await metered.count("recycling_without_device_total", platform="iqiyi") == 1


async def test_call_that_fails_for_want_of_a_score_is_counted(service: Service, strict_platform: str) -> None:
    """With REJECT the call fails, FRAUD_SCORE_UNAVAILABLE; mode, cause and error are counted all the same."""
    (card,) = await service.issue(strict_platform)
    (tencent,) = await service.issue("tencent")
    listen = free_address()
    with server_process(service.stack.server_url, free_address(), environment={"METRICS_LISTEN": listen}) as process:
        metered = Metered(service.another_client(process.address()), f"http://{listen}/metrics")
        with pytest.raises(RecyclingError) as error:
            await metered.client.recycle(recycle(card))
        assert (error.value.code, error.value.reason) == (grpc.StatusCode.UNAVAILABLE, "FRAUD_SCORE_UNAVAILABLE")
        taken = (await metered.client.recycle(recycle(tencent))).recycling
        assert taken.decision.degraded_mode == types_pb2.DEGRADED_MODE_RULES_ONLY
        decided = "recycling_decisions_total"
        assert await metered.count(decided, platform=strict_platform, outcome="FAILED", degraded_mode="REJECT") == 1
        assert await metered.count(decided, platform="tencent", degraded_mode="RULES_ONLY") == 1
        assert await metered.count("recycling_score_failures_total", cause="UNAVAILABLE") == 2
        assert await metered.count("recycling_errors_total", reason="FRAUD_SCORE_UNAVAILABLE") == 1


class Collector(metrics_service_pb2_grpc.MetricsServiceServicer):
    """An OTLP collector that remembers the names of the metrics it got, by service."""

    def __init__(self) -> None:
        self.names: set[tuple[str, str]] = set()
        self.news = asyncio.Condition()

    async def Export(
        self, request: metrics_service_pb2.ExportMetricsServiceRequest, context: Any
    ) -> metrics_service_pb2.ExportMetricsServiceResponse:
        """Takes metrics in."""
        async with self.news:
            for of_resource in request.resource_metrics:
                attributes = {each.key: each.value.string_value for each in of_resource.resource.attributes}
                self.names |= {
                    (attributes["service.name"], metric.name)
                    for of_scope in of_resource.scope_metrics
                    for metric in of_scope.metrics
                }
            self.news.notify_all()
        return metrics_service_pb2.ExportMetricsServiceResponse()


async def test_metrics_leave_by_otlp_where_the_usual_variables_say_so(service: Service) -> None:
    """A collector gets the counts of a server whose environment names it."""
    collector, server = Collector(), grpc.aio.server()
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    environment = {
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_METRIC_EXPORT_INTERVAL": "100",
        "OTEL_SERVICE_NAME": "metered",
    }
    (card,) = await service.issue("iqiyi")
    wanted = {("metered", "recycling.decisions"), ("metered", "recycling.risk.score")}
    with server_process(service.stack.server_url, service.stack.worker_address, environment=environment) as process:
        await service.another_client(process.address()).recycle(recycle(card))
        async with asyncio.timeout(PATIENCE_S), collector.news:
            await collector.news.wait_for(lambda: wanted <= collector.names)
        await asyncio.to_thread(process.stop)
    await server.stop(None)


async def test_taken_metrics_port_is_told(service: Service) -> None:
    """A server that cannot offer its metrics does not start."""
    environment = {"METRICS_LISTEN": service.stack.address}
    with (
        server_process(service.stack.server_url, free_address(), environment=environment) as process,
        pytest.raises(StackError, match="exit code 1"),
    ):
        await asyncio.to_thread(process.address)
