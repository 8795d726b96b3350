"""The log of events and its feed, over a real Postgres: order, late commits, memory, limits, a database set back."""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrations.runner import migrate
from server.api.event_stream import event_message
from server.domain.card import VoidReason
from server.domain.commands import Redeem
from server.domain.errors import Reason, Refusal
from server.domain.events import BEGINNING, Event, EventFilter, Position
from server.engine.event_ports import EventLog, EventPage
from server.engine.feed import EventFeed, Told
from server.store.database import SESSION
from server.store.events import PostgresEvents
from server.store.statements import statement
from tests.integration.conftest import MakeWorld
from tests.integration.world import World, reactivate, recycle, unique, void

PATIENCE_S = 30.0
QUIET_S = 0.02
ALL = EventFilter()


@contextlib.asynccontextmanager
async def fed(log: EventLog, **settings: Any) -> AsyncIterator[EventFeed]:
    """A feed that runs while it lasts."""
    feed = EventFeed(log, **({"watchers_max": 10, "poll_s": 0.005} | settings))
    running = asyncio.create_task(feed.run())
    try:
        yield feed
    finally:
        running.cancel()
        await asyncio.wait([running])


async def until(
    follow: AsyncGenerator[Told, None],
    enough: Callable[[list[Event]], bool],
    *,
    each: Callable[[Told], None] = lambda _: None,
) -> tuple[list[Event], Position]:
    """What is told until it is `enough`, and the position then."""
    events: list[Event] = []
    async with asyncio.timeout(PATIENCE_S), contextlib.aclosing(follow) as following:
        async for told in following:
            events += told.events
            each(told)
            if enough(events):
                return events, told.position
    raise AssertionError("it ended by itself")


async def told_from(
    feed: EventFeed, position: Position, how_many: int, wanted: EventFilter = ALL
) -> tuple[list[Event], Position]:
    """The next events after a position."""
    return await until(feed.follow(wanted, position, quiet_s=QUIET_S), lambda events: len(events) >= how_many)


async def everything(log: PostgresEvents, page: int = 100) -> list[Event]:
    """All events of the log by now."""
    events: list[Event] = []
    while True:
        found = await log.after(events[-1].position if events else BEGINNING, page)
        events += found.events
        if len(found.events) < page:
            return events


INSERT = """
    INSERT INTO card_event (account_id, card_id, version, kind, state, generation, renewals_used, request_id,
    event_time) SELECT $1, $2, $3, 'ISSUED', 'ISSUED', 1, 0, gen_random_uuid(), service_clock()
"""


@pytest.fixture
async def sparse_world(fresh_database: Any) -> AsyncIterator[World]:
    """A world whose events tests write themselves, so that no invariant holds."""
    world = await World.create(await fresh_database())
    yield world
    await world.close()


async def write(connection: asyncpg.Connection[Any], name: str = "") -> uuid.UUID:
    """Writes an event of a card of its own."""
    card = uuid.uuid4()
    await connection.execute(INSERT, name or unique("a"), card, 1)
    return card


def cards_of(events: Sequence[Event]) -> list[uuid.UUID | None]:
    """Which cards."""
    return [event.card_id for event in events]


async def test_partners_notices_are_told_in_order(new_world: MakeWorld) -> None:
    """An offer taken is one event of its own, which a watcher can ask for alone, and resume after."""
    world = await new_world()
    log = PostgresEvents(world.store.database)
    account_id = (await world.settled(await world.issue(active=False))).account_id
    for offer_id in ("renewal-coupon", "ad-free-week"):
        command = Redeem(request_id=uuid.uuid4(), account_id=account_id, platform="iqiyi", offer_id=offer_id)
        await world.answer(command)
    wanted = EventFilter(platform="iqiyi", kinds=frozenset({"REDEEMED"}))
    async with fed(log) as feed:
        events, _ = await told_from(feed, BEGINNING, 2, wanted)
        after, _ = await told_from(feed, events[0].position, 1, wanted)
    assert [event.redemption.offer_id for event in events if event.redemption] == ["renewal-coupon", "ad-free-week"]
    assert after == events[1:]
    message = event_message(events[0])
    assert message.redemption.benefit == "COUPON" and message.redemption.expire_time.seconds
    assert message.WhichOneof("change") == "redemption"
    own = await log.after(BEGINNING, 100, account_id)
    assert [event for event in own.events if event.kind == "REDEEMED"] == events


async def test_life_of_a_card_is_told(world: World) -> None:
    """Each transition and each transfer of value is one event, with what it left behind."""
    log = PostgresEvents(world.store.database)
    card = await world.issue()
    recycling = await world.settled(card)
    await world.answer(reactivate(recycling))
    await world.answer(void(card, VoidReason.REVOKED))
    events = [event for event in await everything(log) if event.account_id == card.account_id]
    assert [event.kind for event in events if event.state] == [
        "ISSUED",
        "ACTIVATED",
        "RECYCLED",
        "REACTIVATED",
        "VOIDED",
    ]
    assert [event.position.version for event in events if event.state] == [1, 2, 3, 4, 5]
    assert [(event.kind, event.amount) for event in events if event.amount] == [
        ("SETTLEMENT", recycling.compensation.amount),
        ("CLAWBACK", -recycling.compensation.amount),
    ]
    assert {event.platform for event in events} == {card.platform}
    assert {str(event.card_id) for event in events} == {card.card_id}
    about = {event.kind for event in events if str(event.recycling_id) == recycling.recycling_id}
    assert about == {"RECYCLED", "SETTLEMENT", "CLAWBACK"}
    assert len({event.position.event_id for event in events}) == len(events)


async def test_account_is_read_by_itself(world: World) -> None:
    """An account's events are the same, in the same order, as those of the whole log that are its own."""
    log = PostgresEvents(world.store.database)
    account = unique("busy")
    for _ in range(3):
        await world.settled(await world.issue(account_id=account))
        await world.issue()
    whole = [event for event in await everything(log) if event.account_id == account]
    assert len(whole) == 3 * 4
    position, own = BEGINNING, list[Event]()
    while found := (await log.after(position, 5, account)).events:
        own += found
        position = own[-1].position
    assert own == whole


async def test_late_commit_is_told(sparse_world: World) -> None:
    """A transaction that began earlier and commits later than another is told before it, and neither is told twice."""
    world, log = sparse_world, PostgresEvents(sparse_world.store.database)
    late = await asyncpg.connect(world.owner_url)
    async with fed(log) as feed:
        transaction = late.transaction()
        await transaction.start()
        first = await write(late)
        second = await write(world.owner)
        waited = await log.after(BEGINNING, 10)
        assert not waited.events
        assert waited.waits_since is not None
        follow = feed.follow(ALL, BEGINNING, quiet_s=QUIET_S)
        assert (await anext(follow)).events == []
        assert (await anext(follow)).events == []
        await transaction.commit()
        third = await write(world.owner)
        events, _ = await until(follow, lambda events: len(events) >= 3)
    await late.close()
    assert cards_of(events) == [first, second, third]
    assert (await log.after(BEGINNING, 10)).waits_since is None


async def test_rolled_back_event_is_never_told(sparse_world: World) -> None:
    """What was not committed leaves no gap that anybody waits for."""
    world, log = sparse_world, PostgresEvents(sparse_world.store.database)
    with contextlib.suppress(ZeroDivisionError):
        async with world.owner.transaction():
            await write(world.owner)
            raise ZeroDivisionError
    kept = await write(world.owner)
    assert cards_of(await everything(log)) == [kept]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["write", "write", "commit", "roll back"])), max_size=24
    ),
    page=st.integers(1, 4),
    kept=st.integers(1, 6),
)
async def test_any_interleaving_is_told_once_and_in_one_order(
    sparse_world: World, steps: list[tuple[int, str]], page: int, kept: int
) -> None:
    """However transactions begin, write, commit and roll back, every watcher is told what was committed, once, in the
    one order of the log, wherever he resumes."""
    world, log = sparse_world, PostgresEvents(sparse_world.store.database)
    start = (await everything(log))[-1:]
    position = start[0].position if start else BEGINNING
    connections = [await asyncpg.connect(world.owner_url) for _ in range(4)]
    open_ones: dict[int, Any] = {}
    written: dict[int, list[uuid.UUID]] = {number: [] for number in range(4)}
    committed: set[uuid.UUID] = set()

    async def end(number: int, how: str) -> None:
        if number in open_ones:
            transaction = open_ones.pop(number)
            if how == "commit":
                await transaction.commit()
                committed.update(written[number])
            else:
                await transaction.rollback()
            written[number] = []

    try:
        async with fed(log, page=page, kept=kept) as feed:
            marks: list[Told] = []
            last = uuid.uuid4()
            following = asyncio.create_task(
                until(
                    feed.follow(ALL, position, quiet_s=0.002),
                    lambda events: bool(events) and events[-1].card_id == last,
                    each=marks.append,
                )
            )
            for number, step in steps:
                if step != "write":
                    await end(number, step)
                    continue
                if number not in open_ones:
                    open_ones[number] = connections[number].transaction()
                    await open_ones[number].start()
                written[number].append(await write(connections[number]))
            for number in range(4):
                await end(number, "commit")
            await world.owner.execute(INSERT, unique("last"), last, 1)
            events, _ = await following
            assert {*cards_of(events)} == committed | {last}
            assert len(events) == len(committed) + 1
            in_log = await everything(log)
            assert in_log[len(in_log) - len(events) :] == events
            # Whoever resumes at any place that was told sees exactly what comes after it.
            seen = 0
            for mark in marks:
                seen += len(mark.events)
                if mark.events and seen < len(events):
                    rest, _ = await told_from(feed, mark.position, len(events) - seen)
                    assert rest == events[seen:]
    finally:
        for connection in connections:
            await connection.close()


async def test_filter_finds_what_fits_and_moves_on_past_the_rest(world: World) -> None:
    """Other events advance the position of a watcher who does not want them."""
    log = PostgresEvents(world.store.database)
    async with fed(log) as feed:
        start = await feed.newest()
        mine = await world.issue()
        for _ in range(3):
            await world.issue()
        wanted = EventFilter(
            account_id=mine.account_id, card_id=uuid.UUID(mine.card_id), kinds=frozenset({"ACTIVATED"})
        )
        events, position = await told_from(feed, start, 1, wanted)
        assert [event.kind for event in events] == ["ACTIVATED"]
        newest = await feed.newest()
        moved = await quiet_position(feed, wanted, position, newest)
        assert moved >= newest


async def quiet_position(feed: EventFeed, wanted: EventFilter, position: Position, newest: Position) -> Position:
    """Where a quiet watcher stands once he is past `newest`."""
    async with (
        asyncio.timeout(PATIENCE_S),
        contextlib.aclosing(feed.follow(wanted, position, quiet_s=QUIET_S)) as following,
    ):
        async for told in following:
            if told.position >= newest:
                assert not told.events
                return told.position
    raise AssertionError("it ended by itself")


class CountingLog:
    """A log before another one, which counts who reads."""

    def __init__(self, inner: EventLog) -> None:
        self.inner = inner
        self.pages = 0

    async def after(self, position: Position, how_many: int, account_id: str | None = None) -> EventPage:
        """See the port."""
        self.pages += 1
        return await self.inner.after(position, how_many, account_id)

    async def newest(self) -> Position:
        """See the port."""
        return await self.inner.newest()


async def test_slow_watcher_costs_no_memory_and_misses_nothing(sparse_world: World) -> None:
    """One who stops reading falls back behind what is kept, which stays bounded, and is told all the same."""
    world, log = sparse_world, PostgresEvents(sparse_world.store.database)
    async with fed(log, kept=10, page=5) as feed:
        slow = feed.follow(ALL, BEGINNING, quiet_s=QUIET_S)
        assert (await anext(slow)).events == []
        cards = [await write(world.owner) for _ in range(120)]
        fast, _ = await told_from(feed, BEGINNING, 120)
        assert cards_of(fast) == cards
        assert len(feed._kept) <= 2 * 10 + 5
        events, _ = await until(slow, lambda events: len(events) >= 120)
    assert events == fast


async def test_watchers_that_are_up_to_date_share_one_reader(sparse_world: World) -> None:
    """Ten watchers ask the database no more often than one."""
    world, log = sparse_world, CountingLog(PostgresEvents(sparse_world.store.database))
    async with fed(log, poll_s=0.05) as feed:
        start = await feed.newest()
        follows = [feed.follow(ALL, start, quiet_s=PATIENCE_S) for _ in range(10)]
        for follow in follows:
            await anext(follow)
        waiting = [asyncio.create_task(until(follow, lambda events: len(events) >= 1)) for follow in follows]
        await asyncio.sleep(0)
        before = log.pages
        card = await write(world.owner)
        told = await asyncio.gather(*waiting)
        assert [cards_of(events) for events, _ in told] == [[card]] * 10
        # Those who were told to wait before there was anything to share look once for themselves.
        assert log.pages - before <= 10 + 5


async def test_nobody_reads_while_nobody_follows(sparse_world: World) -> None:
    """A server without watchers does not ask the database."""
    log = CountingLog(PostgresEvents(sparse_world.store.database))
    async with fed(log) as feed:
        await told_from(feed, BEGINNING, 0)
        assert not feed._wanted.is_set()


async def test_too_many_watchers_are_refused(sparse_world: World) -> None:
    """The limit is told as overload, and a place that is left is free again."""
    async with fed(PostgresEvents(sparse_world.store.database), watchers_max=1) as feed:
        first = feed.follow(ALL, BEGINNING, quiet_s=QUIET_S)
        await anext(first)
        with pytest.raises(Refusal) as refused:
            await anext(feed.follow(ALL, BEGINNING, quiet_s=QUIET_S))
        assert refused.value.reason is Reason.OVERLOADED
        await first.aclose()
        await told_from(feed, BEGINNING, 0)


async def test_drain_ends_every_stream(sparse_world: World) -> None:
    """Waiting watchers are told at once that the server goes down."""
    async with fed(PostgresEvents(sparse_world.store.database)) as feed:
        follow = feed.follow(ALL, BEGINNING, quiet_s=PATIENCE_S)
        await anext(follow)
        waiting = asyncio.create_task(anext(follow))
        await asyncio.sleep(0)
        feed.close()
        with pytest.raises(Refusal) as refused:
            await asyncio.wait_for(waiting, PATIENCE_S)
        assert refused.value.reason is Reason.SHUTTING_DOWN


async def test_position_of_a_lost_event_is_an_error(sparse_world: World) -> None:
    """After the database was set back, a watcher who was further on is told so, whether he comes anew or is there."""
    world, log = sparse_world, PostgresEvents(sparse_world.store.database)
    kept = await write(world.owner)
    lost = await write(world.owner)
    async with fed(log) as feed:
        events, position = await told_from(feed, BEGINNING, 2)
        there = feed.follow(ALL, position, quiet_s=QUIET_S)
        await anext(there)
        await world.owner.execute("DELETE FROM card_event WHERE card_id = $1", lost)
        with pytest.raises(Refusal) as refused:
            await until(there, lambda events: False)
        assert refused.value.reason is Reason.RESUME_TOKEN_STALE
        with pytest.raises(Refusal):
            await told_from(feed, position, 1)
        assert cards_of(events) == [kept, lost]
        rest = feed.follow(ALL, events[0].position, quiet_s=QUIET_S)
        new = await write(world.owner)
        told, _ = await until(rest, lambda events: bool(events))
        assert cards_of(told) == [new]


async def test_events_from_a_dump_take_their_places(sparse_world: World) -> None:
    """Rows that name transactions still to come are told once the migrations ran, and so are those after them."""
    world, log = sparse_world, PostgresEvents(sparse_world.store.database)
    old = await write(world.owner)
    brought = await write(world.owner)
    await world.owner.execute(
        "UPDATE card_event SET xact = (xact::text::bigint + 1000000)::text::xid8 WHERE card_id = $1", brought
    )
    new = await write(world.owner)
    assert cards_of(await everything(log)) == [old, new]
    broken = await world.broken()
    assert "events_are_told" in broken
    await migrate(world.owner_url)
    assert cards_of(await everything(log)) == [old, new, brought]
    newer = await write(world.owner)
    assert cards_of(await everything(log))[-1] == newer
    await migrate(world.owner_url)
    assert cards_of(await everything(log)) == [old, new, brought, newer]


async def test_events_of_before_the_migration_are_told(new_world: MakeWorld) -> None:
    """Writers that do not know of the column, and rows of before, have their place: the default gives it."""
    world = await new_world()
    card = await world.issue()
    await world.answer(recycle(card))
    events = await everything(PostgresEvents(world.store.database))
    assert [event.kind for event in events] == ["ISSUED", "ACTIVATED", "RECYCLED"]
    assert len({event.position.xact for event in events}) == 3


async def plan(world: World, name: str, *arguments: str) -> str:
    """How the database runs a statement of the server for these arguments."""
    connection = await asyncpg.connect(world.server_url, server_settings=SESSION)
    try:
        await connection.execute(f"PREPARE it AS {statement(name).text}")
        rows = await connection.fetch(f"EXPLAIN (COSTS OFF) EXECUTE it ({', '.join(arguments)})")
        return "\n".join(row[0] for row in rows)
    finally:
        await connection.close()


async def test_reading_on_costs_what_is_read(sparse_world: World) -> None:
    """The whole log is read along its indexes, without a sort of what is to come; an account's along its keys."""
    beginning = ("'0'", "''", f"'{BEGINNING.subject_id}'", "0", "'epoch'", "100")
    whole = await plan(sparse_world, "events_after", *beginning)
    for index in ("card_event_by_xact", "posting_by_xact"):
        assert f"Index Scan using {index}" in whole
    assert "Sort Key: card_event" not in whole
    assert "Sort Key: posting" not in whole
    account = await plan(sparse_world, "events_of_account", *beginning, "'anna'")
    own = account[account.index("CTE own") : account.index("CTE Scan on own")]
    assert re.search(r"Index Scan using card_event_pkey on card_event.*\n\s+Index Cond: \(+account_id = ", own)
    assert re.search(r"Index Scan using posting_\w+ on posting.*\n\s+Index Cond: \(+account_id = ", own)
    assert "Seq Scan" not in whole + account
