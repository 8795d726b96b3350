"""Events published to a real NATS JetStream: each once, in order, whoever is killed in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from nats.js.api import StreamConfig

from server.domain.commands import Redeem
from server.domain.events import BEGINNING, Event
from server.engine.event_ports import Claim, PublishFailed
from server.engine.feed import EventFeed
from server.engine.relay import Relay
from server.jetstream import JetStreamPublisher
from server.store.events import PostgresEvents
from tests.integration.conftest import MakeWorld
from tests.integration.world import World
from tests.nats_server import NatsServer

STREAM = "CARD_RECYCLING"
LEASE_S = 1.0
PATIENCE_S = 30.0


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A JetStream."""
    server = NatsServer(tmp_path)
    await server.start()
    yield server
    server.kill()


def publisher(server: NatsServer) -> JetStreamPublisher:
    """One to the default stream."""
    return JetStreamPublisher([server.url], stream=STREAM, subject="card_recycling")


class StumblingPublisher:
    """Publishes, and after each of `stumbles` publications fails as if the answer had been lost."""

    def __init__(self, inner: JetStreamPublisher, stumbles: int) -> None:
        self.inner = inner
        self.stumbles = stumbles

    async def publish(self, events: Sequence[Event]) -> None:
        """See the port."""
        await self.inner.publish(events)
        if self.stumbles:
            self.stumbles -= 1
            raise PublishFailed("told so")

    async def close(self) -> None:
        """See the port."""
        await self.inner.close()


class Noting:
    """Keeps what it was given to publish."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.more = asyncio.Event()

    async def publish(self, events: Sequence[Event]) -> None:
        """See the port."""
        self.ids += [str(event.position.event_id) for event in events]
        self.more.set()

    async def close(self) -> None:
        """See the port."""


class Overtaken(PostgresEvents):
    """Cursors of one that sleeps through its lease, before it first renews that: another publishes what was recorded
    meanwhile, and lets go."""

    def __init__(self, world: World) -> None:
        super().__init__(world.store.database)
        self.world = world
        self.claims = 0
        self.begun_anew = asyncio.Event()

    async def claim(self, relay: str, holder: uuid.UUID, lease_s: float) -> Claim:
        """See the port."""
        self.claims += 1
        if self.claims == 2:
            await self.world.issue_many(3)
            await all_recorded(self.world, 6)
            await self.world.owner.execute("UPDATE event_relay SET lease_until = '-infinity'")
            other = uuid.uuid4()
            assert (await super().claim(relay, other, lease_s)).held
            assert await self.advance(relay, other, lease_s, await self.newest())
            await self.release(relay, other)
        if self.claims == 3:
            self.begun_anew.set()
        return await super().claim(relay, holder, lease_s)


@contextlib.asynccontextmanager
async def relaying(
    world: World, to: JetStreamPublisher | StumblingPublisher | Noting, cursors: PostgresEvents | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    """A relay with a feed of its own, as a server has them."""
    log = PostgresEvents(world.store.database)
    feed = EventFeed(log, watchers_max=1, poll_s=0.01, page=20)
    reading = asyncio.create_task(feed.run())
    running = asyncio.create_task(Relay(STREAM, uuid.uuid4(), feed, cursors or log, to, lease_s=LEASE_S).run())
    try:
        yield running
    finally:
        running.cancel()
        await asyncio.wait([running])
        feed.close()
        reading.cancel()
        await asyncio.wait([reading])


async def recorded(world: World) -> list[str]:
    """The ids of all events on record, in order."""
    log, ids, position = PostgresEvents(world.store.database), list[str](), BEGINNING
    while found := (await log.after(position, 500)).events:
        ids += [str(event.position.event_id) for event in found]
        position = found[-1].position
    return ids


async def all_recorded(world: World, how_many: int) -> list[str]:
    """The same, once nothing holds so many back."""
    while len(ids := await recorded(world)) < how_many:  # noqa: ASYNC110 - the database tells no event
        await asyncio.sleep(0.01)
    return ids


async def test_event_is_a_cloud_event(new_world: MakeWorld, nats_server: NatsServer) -> None:
    """Structured mode: all of the event in the payload, its id also the message's, its subject by platform and kind."""
    world = await new_world()
    card = await world.issue()
    recycling = await world.settled(card)
    async with relaying(world, publisher(nats_server)):
        issued, *_, settled = await nats_server.holds(STREAM, 4)
    assert issued["specversion"] == "1.0"
    assert issued["type"] == "card-recycling.card.issued.v1"
    assert issued["subject"] == card.card_id
    assert issued["time"].endswith("Z")
    assert issued["partitionkey"] == card.account_id
    assert issued["_id"] == issued["id"]
    assert issued["_subject"] == f"card_recycling.{card.platform}.card.issued"
    assert issued["data"]["state"] == "ISSUED"
    assert issued["data"]["version"] == 1
    assert "unit" not in issued["data"]
    assert settled["type"] == "card-recycling.value.settlement.v1"
    assert settled["data"]["amount"] == recycling.compensation.amount
    assert settled["data"]["unit"] == "COIN"


async def test_partner_is_told_of_an_offer_taken(new_world: MakeWorld, nats_server: NatsServer) -> None:
    """Once, under a subject of its own, with what is owed; beside what the wallet paid."""
    world = await new_world()
    recycling = await world.settled(await world.issue(active=False))
    command = Redeem(
        request_id=uuid.uuid4(), account_id=recycling.account_id, platform="iqiyi", offer_id="jd-voucher-10"
    )
    for _ in range(2):
        await world.answer(command)
    async with relaying(world, publisher(nats_server)):
        messages = await nats_server.holds(STREAM, 5)
    assert len(messages) == 5
    (told,) = (message for message in messages if message["type"] == "card-recycling.redemption.redeemed.v1")
    assert told["_subject"] == "card_recycling.iqiyi.redemption.redeemed.jd"
    data = told["data"]
    assert (data["partner"], data["offer_id"], data["benefit"], data["value_minor"]) == (
        "jd", "jd-voucher-10", "PARTNER", 1000,
    )  # fmt: skip
    assert data["request_id"] == str(command.request_id)


async def test_everything_is_published_once_and_in_order(new_world: MakeWorld, nats_server: NatsServer) -> None:
    """What was there before, and what comes while it runs."""
    world = await new_world()
    await world.issue_many(50)
    async with relaying(world, publisher(nats_server)):
        await world.issue_many(50)
        messages = await nats_server.holds(STREAM, 100)
    assert [message["id"] for message in messages] == await recorded(world)


async def test_lost_acknowledgement_publishes_nothing_twice(new_world: MakeWorld, nats_server: NatsServer) -> None:
    """Published again, events are known by their ids."""
    world = await new_world()
    await world.issue_many(60)
    async with relaying(world, StumblingPublisher(publisher(nats_server), 2)):
        await nats_server.holds(STREAM, 60)
        await world.issue_many(1)
        messages = await nats_server.holds(STREAM, 61)
    assert [message["id"] for message in messages] == await recorded(world)


async def test_killed_nats_loses_nothing(new_world: MakeWorld, nats_server: NatsServer) -> None:
    """While it is away nothing is published; then everything is, once."""
    world = await new_world()
    async with relaying(world, publisher(nats_server)):
        await world.issue_many(30)
        await nats_server.holds(STREAM, 30)
        nats_server.kill()
        await world.issue_many(30)
        await nats_server.start()
        await world.issue_many(30)
        messages = await nats_server.holds(STREAM, 90)
    assert [message["id"] for message in messages] == await recorded(world)


async def test_killed_relay_is_followed_by_another(new_world: MakeWorld, nats_server: NatsServer) -> None:
    """One that dies with its lease is followed within seconds; nothing is missing, nothing comes twice."""
    world = await new_world()
    log = PostgresEvents(world.store.database)
    await world.issue_many(40)
    # As one that was killed leaves it: it has published, not noted so, and holds the lease.
    dead = uuid.uuid4()
    assert (await log.claim(STREAM, dead, LEASE_S)).held
    killed = publisher(nats_server)
    await killed.publish((await log.after(BEGINNING, 15)).events)
    await killed.close()
    async with relaying(world, publisher(nats_server)):
        messages = await nats_server.holds(STREAM, 40)
    assert sorted(message["id"] for message in messages) == sorted(await recorded(world))
    assert len({message["id"] for message in messages}) == len(messages) == 40


async def test_one_relay_works_at_a_time(new_world: MakeWorld, nats_server: NatsServer) -> None:
    """A second one waits; when the first lets go, it goes on where that was."""
    world = await new_world()
    log = PostgresEvents(world.store.database)
    async with relaying(world, publisher(nats_server)):
        await world.issue_many(5)
        await nats_server.holds(STREAM, 5)
        other = await log.claim(STREAM, uuid.uuid4(), LEASE_S)
        assert not other.held
    async with relaying(world, publisher(nats_server)):
        await world.issue_many(5)
        messages = await nats_server.holds(STREAM, 10)
    assert [message["id"] for message in messages] == await recorded(world)


async def test_cursor_moves_for_its_holder_alone(new_world: MakeWorld) -> None:
    """Who lost the lease cannot note anything any more, and what waits is told to everybody who asks."""
    world = await new_world()
    log = PostgresEvents(world.store.database)
    await world.issue_many(2)
    first, second = (await log.after(BEGINNING, 2)).events
    old, new = uuid.uuid4(), uuid.uuid4()
    assert (await log.claim(STREAM, old, 0.0)).held
    assert await log.advance(STREAM, old, 0.0, first.position)
    taken = await log.claim(STREAM, new, 60.0)
    assert taken.held
    assert taken.position == first.position
    assert taken.waits_since == second.position.event_time
    assert not await log.advance(STREAM, old, 60.0, second.position)
    assert (await log.claim(STREAM, old, 60.0)).position == first.position
    await log.release(STREAM, new)
    assert (await log.claim(STREAM, old, 60.0)).held


async def test_relay_that_was_overtaken_goes_on_from_there(new_world: MakeWorld) -> None:
    """Who gets the lease back does not publish again what another has published meanwhile, nor set the cursor back."""
    world = await new_world()
    await world.issue_many(3)
    to, cursors = Noting(), Overtaken(world)
    async with asyncio.timeout(PATIENCE_S), relaying(world, to, cursors):
        await cursors.begun_anew.wait()
        await world.issue_many(1)
        ids = await all_recorded(world, 7)
        while ids[-1] not in to.ids:
            to.more.clear()
            await to.more.wait()
    assert to.ids == [*ids[:3], ids[-1]]


async def test_stream_of_another_make_is_refused(new_world: MakeWorld, nats_server: NatsServer) -> None:
    """One that would lose events, or take them twice, gets none."""
    world = await new_world()
    await world.issue_many(1)
    events = (await PostgresEvents(world.store.database).after(BEGINNING, 1)).events
    async with nats_server.jetstream() as jetstream:
        await jetstream.add_stream(StreamConfig(name=STREAM, subjects=["elsewhere.>"]))
    with pytest.raises(PublishFailed, match="does not take"):
        await publisher(nats_server).publish(events)
    async with nats_server.jetstream() as jetstream:
        config = StreamConfig(name=STREAM, subjects=["card_recycling.>"], duplicate_window=1)
        await jetstream.update_stream(config)
    with pytest.raises(PublishFailed, match="duplicates"):
        await publisher(nats_server).publish(events)
