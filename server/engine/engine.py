"""The nine steps over batches: gather, load, replay, score, decide, record, answer.

One path for one command and for a thousand. While a batch is in flight the next one gathers; there is no timer, so an
idle server adds no latency. Must not know what the commands mean: that is `domain`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias
from uuid import UUID

from opentelemetry import context as otel_context
from opentelemetry import trace

from server.domain.commands import Command
from server.domain.decision import check, decide
from server.domain.errors import Reason, Refusal
from server.domain.quote import QuoteSigner
from server.domain.snapshot import Score
from server.engine.ports import (
    Answered,
    Entry,
    FraudScorer,
    Loaded,
    Renderer,
    ScoreUnavailable,
    Store,
    StoreUnavailable,
)
from server.engine.receipt import receipt

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

Outcome: TypeAlias = bytes | Refusal
"""The serialized answer, or why there is none."""

ATTEMPTS_MAX = 2
"""The loser of a race re-enters once."""


class _Ticket:
    """One command on its way. `call` names the submission it came with, whose order must seem kept."""

    __slots__ = ("attempts", "call", "command", "context", "future", "keys")

    def __init__(self, command: Command, call: object | None) -> None:
        self.command = command
        self.call = call
        self.keys: set[str | bytes] = {command.account_id, *command.circumstances.shared_keys()}
        self.context = otel_context.get_current()
        self.future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.attempts = 0

    def answer(self, outcome: Outcome) -> None:
        if not self.future.done():
            self.future.set_result(outcome)


class Engine:
    """Takes commands, decides and records them in batches. One event loop; any number of engines on one database."""

    def __init__(
        self,
        store: Store,
        scorer: FraudScorer,
        renderer: Renderer,
        signer: QuoteSigner,
        new_id: Callable[[], UUID],
        *,
        batch_max: int = 256,
        queue_max: int = 8192,
        batches_in_flight_max: int = 2,
    ) -> None:
        self._store = store
        self._scorer = scorer
        self._renderer = renderer
        self._signer = signer
        self._new_id = new_id
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._batches_in_flight_max = batches_in_flight_max
        self._queue: deque[_Ticket] = deque()
        self._in_flight: dict[asyncio.Task[None], list[_Ticket]] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    async def submit(self, commands: Sequence[Command]) -> list[Outcome]:
        """The outcomes of `commands`, in order, as the same commands one after the other would have.

        What was accepted finishes even when the caller is cancelled. Raises Refusal OVERLOADED, and accepts none,
        when the queue has no room for all.
        """
        if len(self._queue) + len(commands) > self._queue_max:
            raise Refusal(Reason.OVERLOADED, "too much work is waiting")
        call = object() if len(commands) > 1 else None
        tickets = [_Ticket(command, call) for command in commands]
        self._queue.extend(tickets)
        self._pump()
        return [await asyncio.shield(ticket.future) for ticket in tickets]

    async def drain(self) -> None:
        """Returns when all accepted work is done. Stop accepting first."""
        await self._idle.wait()

    def _pump(self) -> None:
        """Starts as many batches as may be in flight."""
        while self._may_start() and (batch := self._take()):
            self._idle.clear()
            task = asyncio.create_task(self._work(batch))
            self._in_flight[task] = batch
            task.add_done_callback(self._landed)
        if not self._in_flight and not self._queue:
            self._idle.set()

    def _may_start(self) -> bool:
        """A batch starts beside others when as many commands wait as are in flight. What a batch costs whatever it
        holds is more than a command adds; a busy server that starts one for each arrival is busy with that alone."""
        commands_in_flight = sum(map(len, self._in_flight.values()))
        return len(self._in_flight) < self._batches_in_flight_max and len(self._queue) >= commands_in_flight

    def _landed(self, task: asyncio.Task[None]) -> None:
        del self._in_flight[task]
        self._pump()

    def _take(self) -> list[_Ticket]:
        """The next batch: each account once, none that is in flight.

        Within one call, a command that shares anything (account, device, address, ...) with an earlier one that is in
        flight or must wait, waits too: so its history features will count the earlier one.
        """
        busy = {ticket.command.account_id for batch in self._in_flight.values() for ticket in batch}
        held: dict[object, set[str | bytes]] = {}

        def hold(tickets: Iterable[_Ticket]) -> None:
            for ticket in tickets:
                if ticket.call is not None:
                    held.setdefault(ticket.call, set()).update(ticket.keys)

        for batch in self._in_flight.values():
            hold(batch)
        taken: list[_Ticket] = []
        waiting: deque[_Ticket] = deque()
        while self._queue and len(taken) < self._batch_max:
            ticket = self._queue.popleft()
            if ticket.command.account_id in busy or not ticket.keys.isdisjoint(held.get(ticket.call, ())):
                waiting.append(ticket)
                hold([ticket])
            else:
                taken.append(ticket)
                busy.add(ticket.command.account_id)
        self._queue.extendleft(reversed(waiting))
        return taken

    async def _work(self, batch: list[_Ticket]) -> None:
        links = [trace.Link(span) for span in map(_span_context, batch[1:]) if span.is_valid]
        with tracer.start_as_current_span(
            "engine.batch", context=batch[0].context, links=links, attributes={"batch.size": len(batch)}
        ):
            await self._run(batch)

    async def _run(self, batch: list[_Ticket]) -> None:
        """Answers every ticket of `batch`, or puts it back in front of the queue."""
        try:
            await self._attempt(batch)
        except StoreUnavailable:
            for ticket in batch:
                ticket.answer(Refusal(Reason.STORE_UNAVAILABLE, "the database cannot be reached at the moment"))
        except Exception as error:
            unanswered = [ticket for ticket in batch if not ticket.future.done()]
            if len(unanswered) > 1:
                log.warning("a batch of %d failed and is halved: %r", len(unanswered), error)
                middle = len(unanswered) // 2
                await self._run(unanswered[:middle])
                await self._run(unanswered[middle:])
                return
            for ticket in unanswered:
                if ticket.attempts + 1 < ATTEMPTS_MAX:
                    ticket.attempts += 1  # it may have lost a race that only a constraint noticed
                    await self._run([ticket])
                else:
                    # The line carries the trace of the call that gets the error, not that of the batch's first.
                    token = otel_context.attach(ticket.context)
                    log.exception("a command failed")
                    otel_context.detach(token)
                    ticket.answer(Refusal(Reason.INTERNAL, "internal error"))

    async def _attempt(self, batch: list[_Ticket]) -> None:
        loaded = await self._store.load([ticket.command for ticket in batch])
        judged, deferred = self._sift(batch, loaded)
        scores = await self._score(judged)
        entries: list[tuple[_Ticket, Entry]] = []
        for ticket, found in judged:
            entry = self._decide(ticket, found, scores.get(ticket))
            if entry is not None:
                entries.append((ticket, entry))
        written = await self._store.record([entry for _, entry in entries]) if entries else set()
        lost = []
        for position, (ticket, entry) in enumerate(entries):
            if position in written:
                ticket.answer(entry.response)
            elif ticket.attempts + 1 < ATTEMPTS_MAX:
                ticket.attempts += 1
                lost.append(ticket)
            else:
                ticket.answer(Refusal(Reason.CONFLICT_RETRY, "another request changed the same account; try again"))
        again = set(map(id, lost)) | set(map(id, deferred))
        self._queue.extendleft(ticket for ticket in reversed(batch) if id(ticket) in again)

    def _sift(self, batch: list[_Ticket], loaded: list[Loaded]) -> tuple[list[tuple[_Ticket, Loaded]], list[_Ticket]]:
        """Answers replays and what fails before risk; returns what is to be judged, and what must wait.

        The features of a command count the earlier ones of its batch. If one of those turns out to leave no event, the
        later ones that share something with it were told too much, and wait for the next batch. What fails before risk
        is answered at once all the same, since no check reads features: so nothing has to wait twice for refusals.
        """
        judged: list[tuple[_Ticket, Loaded]] = []
        deferred: list[_Ticket] = []
        not_events: set[str | bytes] = set()
        for ticket, found in zip(batch, loaded, strict=True):
            command = ticket.command
            if found.answered is not None:
                ticket.answer(replayed(found.answered, command.input_hash()))
                continue
            counted = command.risk_kind is not None and found.snapshot.card is not None
            try:
                check(command, found.snapshot, self._signer)
            except Refusal as refusal:
                ticket.answer(refusal)
            else:
                if not counted or ticket.keys.isdisjoint(not_events):
                    judged.append((ticket, found))
                    continue
                deferred.append(ticket)
            if counted:
                not_events.update(ticket.keys)
        return judged, deferred

    async def _score(self, judged: list[tuple[_Ticket, Loaded]]) -> dict[_Ticket, Score]:
        """The scores of those that need one; none at all when the worker cannot give them."""
        rows = [(ticket, found.features) for ticket, found in judged if ticket.command.scored]
        if not rows:
            return {}
        try:
            scores = await self._scorer.score([features for _, features in rows])
        except ScoreUnavailable as error:
            trace.get_current_span().add_event("score unavailable", {"cause": str(error)})
            return {}
        return {ticket: score for (ticket, _), score in zip(rows, scores, strict=True)}

    def _decide(self, ticket: _Ticket, found: Loaded, score: Score | None) -> Entry | None:
        command = ticket.command
        try:
            change = decide(command, found.snapshot, score, recycling_id=self._new_id(), signer=self._signer)
        except Refusal as refusal:
            ticket.answer(refusal)
            return None
        return Entry(
            command=command,
            account_version=found.account_version,
            change=change,
            response=self._renderer.answer(command, change),
            receipt=receipt(command, found, score),
        )


def replayed(answered: Answered, input_hash: bytes) -> Outcome:
    """The stored answer, if the same was asked."""
    if answered.input_hash == input_hash:
        return answered.response
    return Refusal(Reason.IDEMPOTENCY_KEY_REUSED, "this request id was used before, with other input")


def _span_context(ticket: _Ticket) -> trace.SpanContext:
    return trace.get_current_span(ticket.context).get_span_context()
