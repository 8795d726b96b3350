"""What waits, what goes first, and what of it may go together. Knows accounts, priorities and what commands share; must
not know what they mean.

Anomalies go before people. Bulk, which nobody waits for, goes when nobody else does: in small batches of its own, which
hold up a caller who comes meanwhile for a few milliseconds at the most. Where callers never cease, some of it goes with
them now and then, a bounded share of a batch, so that it does not starve.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias
from uuid import UUID

from opentelemetry import context as otel_context

from server.domain.commands import Command
from server.domain.errors import Reason, Refusal
from server.domain.recycling import Priority

Outcome: TypeAlias = bytes | Refusal
"""The serialized answer, or why there is none."""


class Ticket:
    """One command on its way. `keys`: account, device, address, ...; `earlier`: those of its call that share one."""

    __slots__ = (
        "attempts", "command", "context", "earlier", "future", "guesses", "is_new", "keys", "overtaken", "priority",
    )  # fmt: skip

    def __init__(self, command: Command, keys: Sequence[str | bytes], earlier: Sequence[Ticket]) -> None:
        self.command = command
        self.priority = command.priority
        self.keys = keys
        self.earlier = earlier
        self.context = otel_context.get_current()
        self.future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.attempts = 0
        self.guesses = 0
        self.overtaken = 0
        self.is_new = True

    def answer(self, outcome: Outcome) -> None:
        """Gives the outcome, unless there is one."""
        if not self.future.done():
            self.future.set_result(outcome)

    @property
    def answered(self) -> bool:
        """Whether there is an outcome."""
        return self.future.done()


ACCOUNT_COMMANDS_MAX = 1000
"""So many commands of one account may wait: a whole batch call, and no more."""

BULK_MAX = 32
"""So much bulk goes in one batch: it takes a few milliseconds."""

BULK_PATIENCE_S = 1.0
"""After so long without any bulk going, some of it goes with the callers' commands."""

_CALLERS = (Priority.ANOMALY, Priority.PERSON)


class CommandQueue:
    """At most `commands_max` waiting commands. An account has one command at a time in reach; the others wait behind
    it, at no cost to anybody else. A request that waits or is in flight already is not taken in again."""

    def __init__(self, commands_max: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells seconds, to know for how long bulk has waited."""
        self._commands_max = commands_max
        self._clock = clock
        self._ready: dict[Priority, deque[Ticket]] = {priority: deque() for priority in Priority}
        self._in_reach: dict[str, Ticket] = {}
        self._bulk_since = 0.0
        self._behind: dict[str, deque[Ticket]] = {}
        self._requests: dict[tuple[str, UUID], Ticket] = {}
        self._devices_in_flight: set[bytes] = set()
        self._waiting = 0

    def __len__(self) -> int:
        """How many commands wait."""
        return self._waiting

    @property
    def in_reach(self) -> int:
        """How many different accounts' commands wait for a batch, bulk aside."""
        return sum(len(self._ready[priority]) for priority in _CALLERS)

    def add(self, commands: Sequence[Command]) -> list[Ticket]:
        """Takes in the commands of one call. Raises Refusal OVERLOADED, and takes none, if there is no room for all."""
        tickets = _tickets(commands, self._same_request)
        new = [ticket for ticket in dict.fromkeys(tickets) if ticket.is_new]
        for account_id, more in Counter(ticket.command.account_id for ticket in new).items():
            if len(self._behind.get(account_id, ())) + more > ACCOUNT_COMMANDS_MAX:
                raise Refusal(Reason.OVERLOADED, "too much work of one account is waiting")
        if self._waiting + len(new) > self._commands_max:
            raise Refusal(Reason.OVERLOADED, "too much work is waiting")
        for ticket in new:
            ticket.is_new = False
            account_id, request_id = ticket.command.account_id, ticket.command.request_id
            if request_id is not None:
                self._requests.setdefault((account_id, request_id), ticket)
            if account_id in self._behind:
                self._behind[account_id].append(ticket)
                self._hurry(account_id, ticket.priority)
            else:
                self._behind[account_id] = deque()
                self._bring(ticket)
        self._waiting += len(new)
        return tickets

    def _bring(self, ticket: Ticket, *, first: bool = False) -> None:
        """Brings a ticket in reach, as pressing as what waits behind it."""
        account_id = ticket.command.account_id
        behind = (each.priority for each in self._behind[account_id])
        ticket.priority = max((ticket.priority, *behind), key=_PRESSING.__getitem__)
        ready = self._ready[ticket.priority]
        if ticket.priority is Priority.BULK and not ready:
            self._bulk_since = self._clock()
        self._in_reach[account_id] = ticket
        if first:
            ready.appendleft(ticket)
        else:
            ready.append(ticket)

    def _hurry(self, account_id: str, priority: Priority) -> None:
        """What others of its account wait behind is as pressing as they are."""
        ticket = self._in_reach.get(account_id)
        if ticket is not None and _PRESSING[ticket.priority] < _PRESSING[priority]:
            self._ready[ticket.priority].remove(ticket)
            ticket.priority = priority
            self._ready[priority].append(ticket)

    def _same_request(self, command: Command) -> Ticket | None:
        """The ticket of the very same request, if it is on its way."""
        if command.request_id is None:
            return None
        ticket = self._requests.get((command.account_id, command.request_id))
        if ticket is None or ticket.command.dry_run != command.dry_run:
            return None
        return ticket if ticket.command.input_hash() == command.input_hash() else None

    def take(self, tickets_max: int) -> list[Ticket]:
        """The next batch: each account once, none of an account that is in flight.

        A command goes when the earlier ones of its call that it has something in common with are answered, or go in
        the same batch before it; and when no other call's command from the same device is in flight: so its history
        features will count them. Bulk goes alone, or when it has waited too long.
        """
        bulk = self._ready[Priority.BULK]
        impatient = bool(bulk) and self._clock() - self._bulk_since >= BULK_PATIENCE_S
        share = min(len(bulk), BULK_MAX, max(1, tickets_max // 8)) if impatient else 0
        taken: list[Ticket] = []
        for priority in _CALLERS:
            self._take_from(self._ready[priority], tickets_max - share, taken)
        callers = len(taken)
        self._take_from(bulk, min(tickets_max, callers + (share if callers else BULK_MAX)), taken)
        if len(taken) > callers:
            self._bulk_since = self._clock()
        for ticket in taken:
            del self._in_reach[ticket.command.account_id]
        self._waiting -= len(taken)
        self._devices_in_flight.update(_devices(taken))
        return taken

    def _take_from(self, ready: deque[Ticket], taken_max: int, taken: list[Ticket]) -> None:
        """Moves what may go from `ready` to `taken`, until that holds `taken_max`."""
        going = set(taken)
        held: list[Ticket] = []
        while ready and len(taken) < taken_max:
            ticket = ready.popleft()
            waits = ticket.command.circumstances.device_hash in self._devices_in_flight or not all(
                earlier.answered or earlier in going for earlier in ticket.earlier
            )
            if not waits:
                taken.append(ticket)
                going.add(ticket)
            else:
                held.append(ticket)
        ready.extendleft(reversed(held))

    def landed(self, batch: Sequence[Ticket]) -> None:
        """A batch is over: what has no answer goes again, before all others; else its account's next comes in reach,
        behind those of other accounts that are there already."""
        self._devices_in_flight.difference_update(_devices(batch))
        for ticket in reversed(batch):
            if not ticket.answered:
                self._bring(ticket, first=True)
                self._waiting += 1
        for ticket in batch:
            if ticket.answered:
                self._forget(ticket)

    def _forget(self, ticket: Ticket) -> None:
        """It has its answer: whoever repeats it gets that from the database, and its account's next comes in reach."""
        account_id, request_id = ticket.command.account_id, ticket.command.request_id
        if request_id is not None and self._requests.get((account_id, request_id)) is ticket:
            del self._requests[account_id, request_id]
        if behind := self._behind[account_id]:
            self._bring(behind.popleft())
        else:
            del self._behind[account_id]


_PRESSING = {priority: place for place, priority in enumerate(Priority)}
"""The more pressing the greater."""


def _devices(tickets: Iterable[Ticket]) -> set[bytes]:
    hashes = (ticket.command.circumstances.device_hash for ticket in tickets)
    return {device_hash for device_hash in hashes if device_hash is not None}


def _tickets(commands: Sequence[Command], same_request: Callable[[Command], Ticket | None]) -> list[Ticket]:
    """Tickets that know their predecessors: the latest one for each thing they share."""
    latest: dict[str | bytes, Ticket] = {}
    tickets = []
    for command in commands:
        keys: tuple[str | bytes, ...] = (command.account_id, *command.circumstances.shared_keys())
        ticket = same_request(command) or Ticket(
            command, keys, list({latest[key]: None for key in keys if key in latest})
        )
        latest.update(dict.fromkeys(keys, ticket))
        tickets.append(ticket)
    return tickets
