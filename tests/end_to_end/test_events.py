"""WatchEvents and the relay as others meet them: servers that are killed or drained, tokens, and the command line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from card_recycling.v1 import card_service_pb2 as pb
from card_recycling.v1 import types_pb2

from clients.python import RecyclingClient, RecyclingError
from local.stack import PROJECT, Process
from tests.end_to_end.conftest import PATIENCE_S, Service, free_address, new_item, server_process
from tests.nats_server import NatsServer

STREAM = "CARD_RECYCLING"


async def take(client: RecyclingClient, request: pb.WatchEventsRequest, how_many: int) -> list[pb.Event]:
    """The next events."""
    events: list[pb.Event] = []
    async with asyncio.timeout(PATIENCE_S), contextlib.aclosing(client.watch_events(request)) as following:
        async for event in following:
            events.append(event)
            if len(events) == how_many:
                return events
    raise AssertionError("it ended by itself")


async def now_token(client: RecyclingClient, platform: str) -> str:
    """A token of now."""
    call = client._cards.WatchEvents(pb.WatchEventsRequest(platform=platform))
    async for response in call:
        call.cancel()
        return response.resume_token
    raise AssertionError("nothing was said")


def ids(events: list[pb.Event]) -> list[str]:
    """Of events."""
    return [event.event_id for event in events]


async def test_life_of_a_card_is_streamed(service: Service) -> None:
    """Every transition and the transfer of value, by the contract's own words, without a deadline."""
    card = await service.active("iqiyi")
    recycling = await service.recycled(card)
    client = service.another_client()
    request = pb.WatchEventsRequest(account_id=card.account_id, start=pb.WATCH_START_BEGINNING)
    events = await take(client, request, 3)
    assert [event.kind for event in events] == ["ISSUED", "ACTIVATED", "RECYCLED"]
    assert [event.card.state for event in events][:2] == [types_pb2.CARD_STATE_ISSUED, types_pb2.CARD_STATE_ACTIVE]
    assert events[2].recycling_id == recycling.recycling_id
    assert events[2].request_id == recycling.request_id
    assert {event.card_id for event in events} == {card.card_id}
    assert {event.platform for event in events} == {"iqiyi"}


async def test_any_token_resumes_right_after_its_event(service: Service) -> None:
    """At another server, too: what follows is exactly what followed."""
    client = service.another_client()
    start = await now_token(client, platform="tencent")
    await service.issue("tencent", 8)
    events = await take(client, pb.WatchEventsRequest(platform="tencent", resume_token=start), 8)
    with service.another_server() as (_, address):
        other = service.another_client(address)
        for number, event in enumerate(events[:-1]):
            request = pb.WatchEventsRequest(platform="tencent", resume_token=event.resume_token)
            assert ids(await take(other, request, 7 - number)) == ids(events[number + 1 :])


@pytest.mark.parametrize(
    "request_",
    [
        pb.WatchEventsRequest(resume_token="rubbish"),
        pb.WatchEventsRequest(resume_token="AAAA" * 20),
        pb.WatchEventsRequest(card_id="0190b1c6-7e3e-7000-8000-000000000000"),
        pb.WatchEventsRequest(kinds=["no kind"]),
        pb.WatchEventsRequest(resume_token="x", start=pb.WATCH_START_NOW),
    ],
)
async def test_what_is_no_token_or_no_filter_is_refused(service: Service, request_: pb.WatchEventsRequest) -> None:
    """FIELD_INVALID names the field."""
    with pytest.raises(RecyclingError) as refused:
        await take(service.another_client(), request_, 1)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.reason == "FIELD_INVALID"
    assert refused.value.field_violations


async def test_token_belongs_to_its_filter(service: Service) -> None:
    """With another filter it would pass over what had not been wanted."""
    client = service.another_client()
    token = await now_token(client, platform="iqiyi")
    with pytest.raises(RecyclingError) as refused:
        await take(client, pb.WatchEventsRequest(platform="tencent", resume_token=token), 1)
    assert refused.value.field_violations[0].field == "resume_token"


async def test_killed_server_is_left_for_another(service: Service) -> None:
    """With the last token, the stream goes on at another process without a gap and without repeats."""
    address = free_address()
    reader = service.another_client(address)
    start = await now_token(service.another_client(), platform="netflix")
    request = pb.WatchEventsRequest(platform="netflix", resume_token=start)
    seen: list[pb.Event] = []
    under_way = asyncio.Event()

    async def follow() -> None:
        async with contextlib.aclosing(reader.watch_events(request)) as following:
            async for event in following:
                seen.append(event)
                if len(seen) == 10:
                    under_way.set()
                if len(seen) == 90:
                    return

    with server_process(service.stack.server_url, service.stack.worker_address, listen=address) as first:
        first.address()
        following = asyncio.create_task(follow())
        issued = [card.card_id for card in await service.issue("netflix", 30)]
        await asyncio.wait_for(under_way.wait(), PATIENCE_S)
        issuing = asyncio.create_task(service.issue("netflix", 30))
        first.kill()
        issued += [card.card_id for card in await issuing]
    with server_process(service.stack.server_url, service.stack.worker_address, listen=address) as second:
        second.address()
        issued += [card.card_id for card in await service.issue("netflix", 30)]
        await asyncio.wait_for(following, PATIENCE_S)
    assert sorted(event.card_id for event in seen) == sorted(issued)
    assert len(set(ids(seen))) == 90


async def test_drain_does_not_wait_for_watchers(service: Service) -> None:
    """A server that is told to stop ends its streams at once, with a reason that sends them elsewhere."""
    with service.another_server() as (process, address):
        client = service.another_client(address)
        call = client._cards.WatchEvents(pb.WatchEventsRequest())
        assert (await anext(aiter(call))).resume_token
        begin = time.monotonic()
        stopping = asyncio.create_task(asyncio.to_thread(process.stop))
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            async for _ in call:
                pass
        assert await stopping == 0
        assert time.monotonic() - begin < 15  # the calls in progress would have been given 20
    error = RecyclingError.from_call(ended.value)
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert error.reason == "SHUTTING_DOWN"
    assert error.retry_after_s


async def test_too_many_watchers_are_overload(service: Service) -> None:
    """A server has so many places for streams, and says so."""
    with server_process(
        service.stack.server_url, service.stack.worker_address, environment={"WATCHERS_MAX": "1"}
    ) as process:
        client = service.another_client(process.address())
        first = client._cards.WatchEvents(pb.WatchEventsRequest())
        assert (await anext(aiter(first))).resume_token
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await anext(aiter(client._cards.WatchEvents(pb.WatchEventsRequest())))
        first.cancel()
    assert RecyclingError.from_call(refused.value).reason == "OVERLOADED"


async def test_watcher_who_does_not_read_is_waited_for(service: Service) -> None:
    """A stream that nobody reads takes no events further than its window, and gives them all once it is read."""
    client = service.another_client()
    start = await now_token(client, platform="iqiyi")
    call = client._cards.WatchEvents(pb.WatchEventsRequest(platform="iqiyi", resume_token=start))
    assert (await anext(aiter(call))).resume_token
    issued = []
    for _ in range(4):
        issued += [card.card_id for card in await service.issue("iqiyi", 1000)]
    seen = []
    async with asyncio.timeout(PATIENCE_S):
        async for response in call:
            seen += [event.card_id for event in response.events]
            if len(seen) >= len(issued):
                break
    call.cancel()
    assert sorted(seen) == sorted(issued)


async def test_command_line_follows(service: Service) -> None:
    """`recycling watch` prints a line an event: of a table, or JSON with its token, from which it goes on."""
    (card,) = await service.issue("iqiyi")
    watch = ("watch", "--account", card.account_id, "--address", service.stack.address, "--limit", "1")
    (line,) = (await output(*watch, "--from-beginning", "--json")).splitlines()
    event = json.loads(line)
    assert event["card_id"] == card.card_id
    assert event["kind"] == "ISSUED"
    following = asyncio.create_task(output(*watch, "--resume", event["resume_token"]))
    await service.client.activate_card(pb.ActivateCardRequest(account_id=card.account_id, card_id=card.card_id))
    head, row = (await following).splitlines()
    assert head.split() == ["time", "kind", "platform", "account_id", "card_id", "change"]
    assert row.split()[1:3] == ["ACTIVATED", "iqiyi"]
    assert row.split()[-1] == "ACTIVE"


async def output(*arguments: str) -> str:
    """What the program `recycling` prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "clients.python.cli",
        *arguments,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(PROJECT), str(PROJECT / "protos"))), "NO_COLOR": "1"},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return out.decode()


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A JetStream."""
    server = NatsServer(tmp_path)
    await server.start()
    yield server
    server.kill()


async def test_events_reach_nats_once_though_servers_are_killed(service: Service, nats_server: NatsServer) -> None:
    """Two servers publish to one stream; the one that does is killed, and NATS too: nothing is missing, nothing
    twice."""
    everything = pb.WatchEventsRequest(start=pb.WATCH_START_BEGINNING)
    environment = {"NATS_URL": nats_server.url}
    issued = await issue(service, 50)
    with contextlib.ExitStack() as running:

        def start() -> Process:
            process = running.enter_context(
                server_process(service.stack.server_url, service.stack.worker_address, environment=environment)
            )
            process.address()
            return process

        publishing = start()
        await nats_server.holds(STREAM, 40)
        start()  # and waits for its turn
        issued += await issue(service, 50)
        publishing.kill()
        issued += await issue(service, 50)
        nats_server.kill()
        issued += await issue(service, 50)
        await nats_server.start()
        async with service.owner() as owner:
            recorded = await owner.fetchval("SELECT count(*) FROM event_feed")
        messages = await nats_server.holds(STREAM, recorded)
    events = await take(service.another_client(), everything, recorded)
    assert sorted(message["id"] for message in messages) == sorted(ids(events))
    assert set(issued) <= {message["data"].get("card_id") for message in messages}


async def issue(service: Service, how_many: int) -> list[str]:
    """The ids of so many new cards."""
    items = [new_item("iqiyi") for _ in range(how_many)]
    answer = await service.client.issue_cards(pb.IssueCardsRequest(items=items))
    return [result.card.card_id for result in answer.results]
