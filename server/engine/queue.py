"""What waits, and what of it may go together. Knows accounts and what commands share; must not know what they mean."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

from opentelemetry import context as otel_context

from server.domain.commands import Command
from server.domain.errors import Reason, Refusal

Outcome: TypeAlias = bytes | Refusal
"""The serialized answer, or why there is none."""


class Ticket:
    """One command on its way. `keys`: account, device, address, ...; `earlier`: those of its call that share one."""

    __slots__ = ("attempts", "command", "context", "earlier", "future", "keys")

    def __init__(self, command: Command, keys: Sequence[str | bytes], earlier: Sequence[Ticket]) -> None:
        self.command = command
        self.keys = keys
        self.earlier = earlier
        self.context = otel_context.get_current()
        self.future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.attempts = 0

    def answer(self, outcome: Outcome) -> None:
        """Gives the outcome, unless there is one."""
        if not self.future.done():
            self.future.set_result(outcome)

    @property
    def answered(self) -> bool:
        """Whether there is an outcome."""
        return self.future.done()


class CommandQueue:
    """At most `commands_max` waiting commands. An account has one command at a time in reach; the others wait behind
    it, at no cost to anybody else."""

    def __init__(self, commands_max: int) -> None:
        self._commands_max = commands_max
        self._ready: deque[Ticket] = deque()
        self._behind: dict[str, deque[Ticket]] = {}
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
        if self._waiting + len(commands) > self._commands_max:
            raise Refusal(Reason.OVERLOADED, "too much work is waiting")
        tickets = _tickets(commands)
        for ticket in tickets:
            account_id = ticket.command.account_id
            if account_id in self._behind:
                self._behind[account_id].append(ticket)
            else:
                self._behind[account_id] = deque()
                self._ready.append(ticket)
        self._waiting += len(tickets)
        return tickets

    def take(self, tickets_max: int) -> list[Ticket]:
        """The next batch: each account once, none of an account that is in flight.

        A command goes when the earlier ones of its call that it has something in common with are answered, or go in
        the same batch before it: so its history features will count them.
        """
        taken: list[Ticket] = []
        going: set[Ticket] = set()
        held: list[Ticket] = []
        while self._ready and len(taken) < tickets_max:
            ticket = self._ready.popleft()
            if all(earlier.answered or earlier in going for earlier in ticket.earlier):
                taken.append(ticket)
                going.add(ticket)
            else:
                held.append(ticket)
        self._ready.extendleft(reversed(held))
        self._waiting -= len(taken)
        return taken

    def landed(self, batch: Sequence[Ticket]) -> None:
        """A batch is over: what has no answer goes again, before all others; else its account's next comes in reach."""
        for ticket in reversed(batch):
            account_id = ticket.command.account_id
            if not ticket.answered:
                self._ready.appendleft(ticket)
                self._waiting += 1
            elif behind := self._behind[account_id]:
                self._ready.appendleft(behind.popleft())
            else:
                del self._behind[account_id]


def _tickets(commands: Sequence[Command]) -> list[Ticket]:
    """Tickets that know their predecessors: the latest one for each thing they share."""
    latest: dict[str | bytes, Ticket] = {}
    tickets = []
    for command in commands:
        keys: tuple[str | bytes, ...] = (command.account_id, *command.circumstances.shared_keys())
        ticket = Ticket(command, keys, list({latest[key]: None for key in keys if key in latest}))
        latest.update(dict.fromkeys(keys, ticket))
        tickets.append(ticket)
    return tickets
