"""The nine steps over batches: gather, load, replay, score, decide, record, answer.

One path for one command and for a thousand. While a batch is in flight the next one gathers; there is no timer, so an
idle server adds no latency. Must not know what the commands mean: that is `domain`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from opentelemetry import context as otel_context
from opentelemetry import trace

from server.domain.commands import Command, OwnCommand
from server.domain.decision import asked_of_model, check, decide
from server.domain.elapsed import overdue
from server.domain.errors import Reason, Refusal
from server.domain.lottery import Lottery
from server.domain.quote import QuoteSigner
from server.domain.recycling import Priority
from server.domain.snapshot import Score
from server.engine import meter
from server.engine.ports import (
    Answered,
    ConversionQuestion,
    Entry,
    Explanation,
    FraudScorer,
    Loaded,
    Renderer,
    ScoreUnavailable,
    Store,
    StoreUnavailable,
)
from server.engine.queue import CommandQueue, Outcome, Ticket
from server.engine.receipt import receipt
from server.engine.suspects import apart, suspicious

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)

ATTEMPTS_MAX = 2
"""The loser of a race re-enters once."""

GUESSES_MAX = 16
"""So often a command goes again because outcomes before it were guessed wrongly; then it is judged as it is."""

OVERTAKEN_MAX = 16
"""So often a command goes again because another recorded first what time had done; then that counts as a race lost. An
account has few cards that several servers sweep at once."""

ALONE_S_MAX = 0.05
"""How long a small batch may keep others from starting beside it."""


class Engine:
    """Takes commands, decides and records them in batches. One event loop; any number of engines on one database."""

    def __init__(
        self,
        store: Store,
        scorer: FraudScorer,
        renderer: Renderer,
        signer: QuoteSigner,
        lottery: Lottery,
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
        self._lottery = lottery
        self._new_id = new_id
        self._batch_max = batch_max
        self._batches_in_flight_max = batches_in_flight_max
        self._queue = CommandQueue(queue_max)
        self._in_flight: dict[asyncio.Task[None], list[Ticket]] = {}
        self._alone_until = 0.0
        self._idle = asyncio.Event()
        self._idle.set()

    async def submit(self, commands: Sequence[Command]) -> list[Outcome]:
        """The outcomes of `commands`, in order, as the same commands one after the other would have.

        What was accepted finishes even when the caller is cancelled. Raises Refusal OVERLOADED, and accepts none,
        when the queue has no room for all.
        """
        known = await self._answered(commands) if len(commands) > 1 else {}
        tickets = self._queue.add([command for place, command in enumerate(commands) if place not in known])
        self._pump()
        waiting = iter(tickets)
        return [
            known[place] if place in known else await asyncio.shield(next(waiting).future)
            for place in range(len(commands))
        ]

    async def _answered(self, commands: Sequence[Command]) -> dict[int, Outcome]:
        """The answers that commands got before, by place. Who repeats a large call should not queue for it again."""
        try:
            found = await self._store.answered(commands)
        except StoreUnavailable:
            return {}  # the queue will find out
        return {
            place: replayed(answered, command.input_hash())
            for place, (command, answered) in enumerate(zip(commands, found, strict=True))
            if answered is not None
        }

    async def drain(self) -> None:
        """Returns when all accepted work is done. Stop accepting first."""
        await self._idle.wait()

    def _pump(self) -> None:
        """Starts as many batches as may be in flight."""
        while self._may_start() and (batch := self._queue.take(self._batch_max)):
            self._idle.clear()
            task = asyncio.create_task(self._work(batch))
            self._in_flight[task] = batch
            task.add_done_callback(self._landed)
            self._alone_until = asyncio.get_running_loop().time() + ALONE_S_MAX
            asyncio.get_running_loop().call_later(ALONE_S_MAX, self._pump)
        if not self._in_flight and not self._queue:
            self._idle.set()

    def _may_start(self) -> bool:
        """A batch starts beside another when as many commands wait as are in flight, or when the other takes long. Bulk
        does not count: it starts beside nothing, and callers start beside it at once.

        What a batch costs whatever it holds is more than what a command adds: a busy server that started one for each
        arrival would be busy with that alone.
        """
        if len(self._in_flight) >= self._batches_in_flight_max:
            return False
        if not self._queue.in_reach:
            return not self._in_flight
        in_flight = (ticket for batch in self._in_flight.values() for ticket in batch)
        commands_in_flight = sum(ticket.priority is not Priority.BULK for ticket in in_flight)
        return self._queue.in_reach >= commands_in_flight or asyncio.get_running_loop().time() >= self._alone_until

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._queue.landed(self._in_flight.pop(task))
        self._pump()

    async def _work(self, batch: list[Ticket]) -> None:
        links = [trace.Link(span) for span in map(_span_context, batch[1:]) if span.is_valid]
        with tracer.start_as_current_span(
            "engine.batch", context=batch[0].context, links=links, attributes={"batch.size": len(batch)}
        ):
            await self._run(batch)

    async def _run(self, batch: list[Ticket]) -> None:
        """Answers every ticket of `batch`, but those that must go again."""
        try:
            await self._attempt(batch)
        except StoreUnavailable:
            for ticket in batch:
                ticket.answer(Refusal(Reason.STORE_UNAVAILABLE, "the database cannot be reached at the moment"))
        except Exception as error:
            unanswered = [ticket for ticket in batch if not ticket.answered]
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

    async def _attempt(self, batch: list[Ticket]) -> None:
        meter.count_batch(len(batch))
        loaded = await self._store.load([ticket.command for ticket in batch])
        held_up = {ticket: due for ticket, found in zip(batch, loaded, strict=True) if (due := _overdue(ticket, found))}
        judged = self._sift(batch, loaded, held_up)
        await self._judge(judged)
        if held_up:
            await self._pass_time(held_up)

    async def _judge(self, judged: list[tuple[Ticket, Loaded]]) -> None:
        """Scores, decides and records; suspects, and who comes after them, once their scores are explained."""
        scores = await self._score(judged)
        entries: dict[Ticket, Entry] = {}
        ids: dict[Ticket, UUID] = {}
        told_wrongly: set[str | bytes] = set()
        for ticket, found in judged:
            ids[ticket] = self._new_id()
            entry = self._decide(ticket, found, scores.get(ticket), ids[ticket])
            if entry is None:  # it failed for want of a score, whatever it was told
                told_wrongly.update(ticket.keys)  # it leaves no event, though later ones counted it
            elif not told_wrongly.isdisjoint(ticket.keys) and ticket.guesses < GUESSES_MAX:
                ticket.guesses += 1
                told_wrongly.update(ticket.keys)  # it is no event yet, though later ones counted it
            else:
                entries[ticket] = entry
                device_hash = ticket.command.circumstances.device_hash
                if device_hash is not None and entry.change.refused is not found.assumed_rejected:
                    told_wrongly.add(device_hash)
        decided = [(ticket, found) for ticket, found in judged if ticket in entries]
        suspects = suspicious(decided, scores)
        prompt, waiting = apart(decided, suspects)
        explaining = asyncio.create_task(self._explain(suspects, scores)) if suspects else None
        try:
            await self._record({ticket: entries[ticket] for ticket, _ in prompt})
        except BaseException:
            if explaining is not None:
                explaining.cancel()
            raise
        if explaining is None:
            return
        explanations = await explaining
        for ticket, found in suspects:
            if ticket in explanations:  # the same decision, with its reasons
                entry = self._decide(ticket, found, scores[ticket], ids[ticket], explanations[ticket])
                assert entry is not None
                entries[ticket] = entry
        await self._record({ticket: entries[ticket] for ticket, _ in waiting})

    async def _record(self, entries: Mapping[Ticket, Entry]) -> None:
        """Records and answers; marks those that lost a race."""
        written = await self._store.record([*entries.values()]) if entries else set()
        meter.count_decisions(entry for position, entry in enumerate(entries.values()) if position in written)
        for position, (ticket, entry) in enumerate(entries.items()):
            if position in written:
                ticket.answer(entry.response)
            else:
                _lose(ticket)

    async def _pass_time(self, held_up: dict[Ticket, OwnCommand]) -> None:
        """Records what time has done, before what a caller wants: the tickets that met it stay unanswered and go again.

        Each is a command of its own. Whoever meets it records it; who is told that it was recorded, or that a verdict
        came first, sees that when it goes again. The caller has lost no race by that: it has not run yet.
        """
        passed = list(held_up.items())
        entries: list[tuple[Ticket, Entry]] = []
        for (ticket, due), found in zip(passed, await self._store.load([due for _, due in passed]), strict=True):
            if found.answered is None:
                with contextlib.suppress(Refusal):
                    check(due, found.snapshot, self._signer)
                    entries.append((ticket, self._entry(due, found, None, None, self._new_id())))
            elif found.answered.input_hash != due.input_hash():
                _lose(ticket)  # its id was taken for something else; it must not go again for ever
        written = await self._store.record([entry for _, entry in entries]) if entries else set()
        for position, (ticket, _) in enumerate(entries):
            if position not in written:
                ticket.overtaken += 1
                if ticket.overtaken > OVERTAKEN_MAX:
                    _lose(ticket)

    def _sift(
        self, batch: list[Ticket], loaded: list[Loaded], held_up: Container[Ticket]
    ) -> list[tuple[Ticket, Loaded]]:
        """Answers replays and what fails before risk; returns what is to be judged now, which what is `held_up` is not.

        The features of a command count the earlier ones of its batch. If one of those turns out to leave no event, the
        later ones that share something with it were told too much, and go again. What fails before risk is answered at
        once all the same, since no check reads features: so nothing has to go again twice for refusals.
        """
        judged: list[tuple[Ticket, Loaded]] = []
        not_events: set[str | bytes] = set()
        for ticket, found in zip(batch, loaded, strict=True):
            command = ticket.command
            if found.answered is not None:
                ticket.answer(replayed(found.answered, command.input_hash()))
                continue
            if not command.scored:  # of others the lists are counted with what they were decided
                meter.count_list_hits(found.snapshot.facts.list_hits)
            counted = command.event_kind is not None and found.snapshot.card is not None
            try:
                if ticket not in held_up:
                    check(command, found.snapshot, self._signer)
            except Refusal as refusal:
                ticket.answer(refusal)
            else:
                if ticket not in held_up and (not counted or not_events.isdisjoint(ticket.keys)):
                    judged.append((ticket, found))
                    continue
            if counted:
                not_events.update(ticket.keys)
        return judged

    async def _score(self, judged: list[tuple[Ticket, Loaded]]) -> dict[Ticket, Score]:
        """The scores of those that need one; none at all when the worker cannot give them."""
        rows = [(ticket, found) for ticket, found in judged if ticket.command.scored]
        if not rows:
            return {}
        try:
            scores = await self._scorer.score([found.features for _, found in rows], [*_questions(rows)])
        except ScoreUnavailable as error:
            trace.get_current_span().add_event("score unavailable", {"cause": str(error)})
            meter.count_score_failure(str(error))
            return {}
        return {ticket: score for (ticket, _), score in zip(rows, scores, strict=True)}

    async def _explain(
        self, suspects: Sequence[tuple[Ticket, Loaded]], scores: Mapping[Ticket, Score]
    ) -> dict[Ticket, Explanation]:
        """How the suspects' scores came about; nothing when the worker cannot say so in time."""
        version = scores[suspects[0][0]].model_version
        try:
            explanations = await self._scorer.explain([found.features for _, found in suspects], version)
        except ScoreUnavailable as error:
            trace.get_current_span().add_event("explanation unavailable", {"cause": str(error)})
            return {}
        return {ticket: explanation for (ticket, _), explanation in zip(suspects, explanations, strict=True)}

    def _decide(
        self,
        ticket: Ticket,
        found: Loaded,
        score: Score | None,
        new_id: UUID,
        explanation: Explanation | None = None,
    ) -> Entry | None:
        try:
            return self._entry(ticket.command, found, score, explanation, new_id)
        except Refusal as refusal:
            if refusal.reason is Reason.FRAUD_SCORE_UNAVAILABLE:
                meter.count_failed(ticket.command, found.snapshot)
            ticket.answer(refusal)
            return None

    def _entry(
        self, command: Command, found: Loaded, score: Score | None, explanation: Explanation | None, recycling_id: UUID
    ) -> Entry:
        if command.scored:
            found = self._with_lot(command, found)
        if score is not None and explanation is not None:
            score = replace(score, reason_codes=explanation.reason_codes)
        change = decide(
            command,
            found.snapshot,
            score,
            recycling_id=recycling_id,
            review_id=self._new_id(),
            signer=self._signer,
        )
        return Entry(
            command=command,
            account_version=found.account_version,
            change=change,
            response=self._renderer.answer(command, change),
            receipt=receipt(command, found, score, change, explanation),
        )

    def _with_lot(self, command: Command, found: Loaded) -> Loaded:
        """The lot is drawn here, not in the domain, so that the receipt holds it and no decision needs the key."""
        snapshot = found.snapshot
        lot = self._lottery.lot(command.account_id, command.circumstances.device_hash, snapshot.now)
        return replace(found, snapshot=replace(snapshot, facts=replace(snapshot.facts, lot=lot)))


def _questions(rows: Sequence[tuple[Ticket, Loaded]]) -> Iterator[ConversionQuestion]:
    for row, (ticket, found) in enumerate(rows):
        for disposition in asked_of_model(ticket.command, found.snapshot):
            segment = found.snapshot.known_card().segment
            yield ConversionQuestion(row=row, disposition=disposition, segment=segment)


def _overdue(ticket: Ticket, found: Loaded) -> OwnCommand | None:
    """What must be recorded before the ticket's command, unless that was answered before or is that very thing."""
    due = overdue(found.snapshot) if found.answered is None else None
    return None if due is None or due == ticket.command else due


def _lose(ticket: Ticket) -> None:
    """It goes again, if it has not done so too often."""
    if ticket.attempts + 1 < ATTEMPTS_MAX:
        ticket.attempts += 1
    else:
        ticket.answer(Refusal(Reason.CONFLICT_RETRY, "another request changed the same account; try again"))


def replayed(answered: Answered, input_hash: bytes) -> Outcome:
    """The stored answer, if the same was asked."""
    if answered.input_hash == input_hash:
        return answered.response
    return Refusal(Reason.IDEMPOTENCY_KEY_REUSED, "this request id was used before, with other input")


def _span_context(ticket: Ticket) -> trace.SpanContext:
    return trace.get_current_span(ticket.context).get_span_context()
