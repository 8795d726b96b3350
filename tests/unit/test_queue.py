"""Who goes first: anomalies before people before bulk, and what must not be reordered by that."""

from __future__ import annotations

import itertools
import uuid

import pytest

from server.domain.commands import Circumstances, Command, Expire, Recycle
from server.domain.recycling import RecycleReason
from server.engine.queue import BULK_MAX, BULK_PATIENCE_S, CommandQueue, Ticket

_names = itertools.count(1)


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock at zero."""
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> CommandQueue:
    """An empty queue for a thousand commands."""
    return CommandQueue(1000, clock)


def bulk(account_id: str | None = None) -> Command:
    """What the service does by itself."""
    return Expire(request_id=uuid.uuid4(), account_id=account_id or f"bulk-{next(_names)}", card_id=uuid.uuid4())


def person(account_id: str | None = None, **more: object) -> Command:
    """What somebody asks for."""
    return _recycle(account_id, RecycleReason.VOLUNTARY, **more)


def anomaly(account_id: str | None = None, **more: object) -> Command:
    """The most pressing."""
    return _recycle(account_id, RecycleReason.SYSTEM_ANOMALY, **more)


def _recycle(account_id: str | None, reason: RecycleReason, **more: object) -> Recycle:
    return Recycle(
        request_id=uuid.uuid4(),
        account_id=account_id or f"account-{next(_names)}",
        card_id=uuid.uuid4(),
        reason=reason,
        **more,  # type: ignore[arg-type]
    )


def commands(batch: list[Ticket]) -> list[Command]:
    """What goes, in order."""
    return [ticket.command for ticket in batch]


def done(queue: CommandQueue, batch: list[Ticket]) -> None:
    """The batch has landed, all of it answered."""
    for ticket in batch:
        ticket.answer(b"")
    queue.landed(batch)


async def test_anomalies_go_before_people(queue: CommandQueue) -> None:
    """Whoever came first: an anomaly of another call goes before, and each keeps its order among its own."""
    people, anomalies = [person() for _ in range(2)], [anomaly() for _ in range(2)]
    queue.add(people)
    queue.add(anomalies)
    assert commands(queue.take(3)) == [*anomalies, people[0]]


async def test_bulk_goes_when_nobody_else_does(queue: CommandQueue) -> None:
    """With callers in reach none of it goes; without, a small batch of it."""
    queue.add([bulk() for _ in range(200)])
    asked = person()
    queue.add([asked])
    batch = queue.take(256)
    assert commands(batch) == [asked]
    done(queue, batch)
    assert len(queue.take(256)) == BULK_MAX


async def test_bulk_is_not_counted_as_in_reach(queue: CommandQueue) -> None:
    """What decides whether a batch starts beside another are callers' commands alone."""
    queue.add([bulk() for _ in range(200)])
    assert (queue.in_reach, len(queue)) == (0, 200)


async def test_bulk_does_not_starve(queue: CommandQueue, clock: Clock) -> None:
    """Beside callers who never cease some of it goes once it has waited too long: an eighth of a batch, and then it
    waits as long again."""
    waiting = [bulk() for _ in range(100)]
    queue.add(waiting)
    queue.add([person() for _ in range(300)])

    def bulk_of_next() -> list[Command]:
        batch = commands(queue.take(64))
        assert len(batch) == 64
        return [command for command in batch if command in waiting]

    assert bulk_of_next() == []
    clock.now += BULK_PATIENCE_S
    assert bulk_of_next() == waiting[:8]
    assert bulk_of_next() == []
    clock.now += BULK_PATIENCE_S
    assert bulk_of_next() == waiting[8:16]


async def test_person_behind_bulk_of_the_same_account_does_not_wait_for_callers(queue: CommandQueue) -> None:
    """An account's commands keep their order, so the bulk before a person's command is as pressing as that."""
    queue.add([bulk() for _ in range(50)])
    first = bulk("same")
    queue.add([first])
    second = person("same")
    queue.add([second])
    other = person()
    queue.add([other])
    batch = queue.take(256)
    assert commands(batch) == [first, other]
    done(queue, batch)
    assert commands(queue.take(256)) == [second]


async def test_pressing_command_hurries_all_before_it(queue: CommandQueue) -> None:
    """What comes in reach is as pressing as the most pressing of its account behind it."""
    one, two, three = bulk("same"), bulk("same"), anomaly("same")
    queue.add([one])
    batch = queue.take(1)
    queue.add([two])
    queue.add([three])
    queue.add([person() for _ in range(3)])
    done(queue, batch)
    assert commands(queue.take(1)) == [two]


async def test_order_within_a_call_outweighs_priority(queue: CommandQueue) -> None:
    """An anomaly that shares a device with an earlier command of its call never goes before it."""
    device = Circumstances(device_hash=b"0123456789abcdef")
    first, second = person(circumstances=device), anomaly(circumstances=device)
    queue.add([first, second])
    order = []
    while len(queue):
        batch = queue.take(256)
        order += commands(batch)
        done(queue, batch)
    assert order == [first, second]


async def test_what_goes_again_goes_first_of_its_kind(queue: CommandQueue) -> None:
    """A loser goes before others of its priority, not before more pressing ones."""
    loser = person()
    queue.add([loser])
    batch = queue.take(1)
    later, pressing = person(), anomaly()
    queue.add([later])
    queue.add([pressing])
    queue.landed(batch)
    assert commands(queue.take(3)) == [pressing, loser, later]


async def test_long_queues_of_some_accounts_hold_up_no_other(queue: CommandQueue) -> None:
    """An account's next command goes behind those who have waited in reach meanwhile: so a few accounts with much to do
    cannot keep all places of every batch."""
    for account_id in ("busy", "busier"):
        queue.add([person(account_id) for _ in range(10)])
    other = person()
    queue.add([other])
    done(queue, queue.take(2))
    assert other in commands(queue.take(2))
