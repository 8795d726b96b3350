"""What waits, and what of it may go together. Knows accounts and what commands share; must not know what they mean."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias
from uuid import UUID

from opentelemetry import context as otel_context

from server.domain.commands import Command
from server.domain.errors import Reason, Refusal

Outcome: TypeAlias = bytes | Refusal
"""The serialized answer, or why there is none."""


class Ticket:
    """One command on its way. `keys`: account, device, address, ...; `earlier`: those of its call that share one."""

    __slots__ = ("attempts", "command", "context", "earlier", "future", "guesses", "is_new", "keys")

    def __init__(self, command: Command, keys: Sequence[str | bytes], earlier: Sequence[Ticket]) -> None:
        self.command = command
        self.keys = keys
        self.earlier = earlier
        self.context = otel_context.get_current()
        self.future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.attempts = 0
        self.guesses = 0
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


class CommandQueue:
    """At most `commands_max` waiting commands. An account has one command at a time in reach; the others wait behind
    it, at no cost to anybody else. A request that waits or is in flight already is not taken in again."""

    def __init__(self, commands_max: int) -> None:
        self._commands_max = commands_max
        self._ready: deque[Ticket] = deque()
        self._behind: dict[str, deque[Ticket]] = {}
        self._requests: dict[tuple[str, UUID], Ticket] = {}
        self._devices_in_flight: set[bytes] = set()
        self._waiting = 0

    def __len__(self) -> int:
        """How many commands wait."""
        return self._waiting

    @property
    def in_reach(self) -> int:
        """How many different accounts' commands wait for a batch."""
        return len(self._ready)

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
            else:
                self._behind[account_id] = deque()
                self._ready.append(ticket)
        self._waiting += len(new)
        return tickets

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
        features will count them.
        """
        taken: list[Ticket] = []
        going: set[Ticket] = set()
        held: list[Ticket] = []
        while self._ready and len(taken) < tickets_max:
            ticket = self._ready.popleft()
            waits = ticket.command.circumstances.device_hash in self._devices_in_flight or not all(
                earlier.answered or earlier in going for earlier in ticket.earlier
            )
            if not waits:
                taken.append(ticket)
                going.add(ticket)
            else:
                held.append(ticket)
        self._ready.extendleft(reversed(held))
        self._waiting -= len(taken)
        self._devices_in_flight.update(_devices(taken))
        return taken

    def landed(self, batch: Sequence[Ticket]) -> None:
        """A batch is over: what has no answer goes again, before all others; else its account's next comes in reach."""
        self._devices_in_flight.difference_update(_devices(batch))
        for ticket in reversed(batch):
            account_id, request_id = ticket.command.account_id, ticket.command.request_id
            if ticket.answered and request_id is not None and self._requests.get((account_id, request_id)) is ticket:
                del self._requests[account_id, request_id]
            if not ticket.answered:
                self._ready.appendleft(ticket)
                self._waiting += 1
            elif behind := self._behind[account_id]:
                self._ready.appendleft(behind.popleft())
            else:
                del self._behind[account_id]


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
