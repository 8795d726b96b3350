"""Drives a server through its public API with an event log, on a clock taken from the log, and reports what it decided.

Knows which call each kind of event becomes, and how to compare decisions with labels; must not know the server's rules
or the model. What the log leaves out is left out of the requests, never guessed.
"""

from __future__ import annotations

import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from card_recycling.v1.card_service_pb2 import ActivateCardRequest, IssueCardsRequest
from card_recycling.v1.recycling_service_pb2 import (
    BatchRecycleRequest,
    CompensateRequest,
    ReactivateRequest,
    ReactivationState,
    RecycleRequest,
)
from card_recycling.v1.types_pb2 import (
    COMPENSATION_STATE_SETTLED,
    RECYCLE_REASON_VOLUNTARY,
    SEGMENT_MIDDLE,
    SEGMENT_SENIOR,
    SEGMENT_UNSPECIFIED,
    SEGMENT_YOUNG,
    TIER_BASIC,
    Decision,
    Recycling,
    RecyclingState,
    Segment,
)
from sklearn.metrics import average_precision_score, roc_auc_score

from clients.python.card_terms import CardTerms
from clients.python.client import RecyclingClient
from clients.python.errors import RecyclingError
from clients.python.event_log import CardKey, Event

BATCH_MAX = 500
FAILURES_IN_A_ROW_MAX = 20
"""So many events after one another that could not be driven end the replay: the server is away, or not made for it."""

BUSINESS_CODES = {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ABORTED}
"""Errors that answer an event. Any other means that it was not driven."""


_SERIAL = re.compile("[!-~]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one event: a decision, the reason of an error, DONE, or why nothing was called.

    `judged` tells decisions upon risk from the rest, `refused` those against the request; `risk_score` is 0 to 1.
    """

    event: Event
    name: str
    judged: bool = False
    refused: bool = False
    risk_score: float | None = None
    error: RecyclingError | None = None

    @property
    def driven(self) -> bool:
        """Whether the server answered the event, be it with a refusal."""
        return self.error is None or self.error.code in BUSINESS_CODES


async def replay(
    client: RecyclingClient,
    events: Sequence[Event],
    terms: CardTerms,
    *,
    on_progress: Callable[[int], None] = lambda events_done: None,
) -> dict[str, Any]:
    """Drives `events` through `client`; returns the report (see `report`). `on_progress` gets the events done."""
    started = time.monotonic()
    driver = _Driver(client, events, terms)
    outcomes: list[Outcome] = []
    for run in runs(events):
        outcomes += await driver.drive(run)
        on_progress(len(outcomes))
        if len(outcomes) >= FAILURES_IN_A_ROW_MAX and not any(o.driven for o in outcomes[-FAILURES_IN_A_ROW_MAX:]):
            break
    return report(outcomes, seconds=time.monotonic() - started)


def runs(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Cuts the log into runs of consecutive events that one call may ask for: same time and kind, other accounts."""
    run: list[Event] = []
    accounts: set[str] = set()
    for event in events:
        fits = not run or (event.time, event.kind) == (run[0].time, run[0].kind)
        if not fits or event.account_id in accounts or len(run) == BATCH_MAX:
            yield run
            run, accounts = [], set()
        run.append(event)
        accounts.add(event.account_id)
    if run:
        yield run


def report(outcomes: Sequence[Outcome], *, seconds: float) -> dict[str, Any]:
    """What was decided, as plain JSON values.

    `outcomes`: how many events of each kind, outcome and label. `by_label`: of those judged upon risk, how many were
    refused. At the top and in `by_month`: how well refusing them matches their labels (see `_quality`). `not_driven`:
    the events that the server did not answer, with `last_failure` naming why.
    """
    failures = [outcome for outcome in outcomes if not outcome.driven]
    judged = [outcome for outcome in outcomes if outcome.judged]
    counts = Counter((outcome.event.kind, outcome.name, outcome.event.label) for outcome in outcomes)
    months = sorted({f"{outcome.event.time:%Y-%m}" for outcome in judged})
    return {
        "events": len(outcomes),
        "seconds": round(seconds, 3),
        "events_per_second": round(len(outcomes) / seconds, 1) if seconds else None,
        "not_driven": len(failures),
        "last_failure": str(failures[-1].error) if failures else None,
        "outcomes": [
            {"kind": kind, "outcome": name, "label": label, "rows": rows}
            for (kind, name, label), rows in sorted(counts.items(), key=lambda item: (*item[0][:2], str(item[0][2])))
        ],
        "by_label": [_refusals(judged, label) for label in (1, 0, None)],
        **_quality(judged),
        "by_month": [
            {"month": month, **_quality([o for o in judged if f"{o.event.time:%Y-%m}" == month])} for month in months
        ],
    }


def _refusals(judged: Sequence[Outcome], label: int | None) -> dict[str, Any]:
    those = [outcome for outcome in judged if outcome.event.label == label]
    refused = sum(outcome.refused for outcome in those)
    return {"label": label, "rows": len(those), "refused": refused, "refusal_rate": _ratio(refused, len(those))}


def _quality(judged: Sequence[Outcome]) -> dict[str, Any]:
    """Of the labelled ones. Precision, recall and false-positive rate are those of refusing; ROC AUC and PR AUC
    (average precision) those of the risk score, where there is one. None where there is nothing to divide by."""
    labelled = [outcome for outcome in judged if outcome.event.label is not None]
    refused = [outcome for outcome in labelled if outcome.refused]
    positives = sum(outcome.event.label or 0 for outcome in labelled)
    caught = sum(outcome.event.label or 0 for outcome in refused)
    scored = [(o.event.label, o.risk_score) for o in labelled if o.risk_score is not None]
    labels, scores = [label for label, _ in scored], [score for _, score in scored]
    both = len(set(labels)) == 2
    return {
        "labelled": len(labelled),
        "positives": positives,
        "refused": len(refused),
        "precision": _ratio(caught, len(refused)),
        "recall": _ratio(caught, positives),
        "false_positive_rate": _ratio(len(refused) - caught, len(labelled) - positives),
        "roc_auc": float(roc_auc_score(labels, scores)) if both else None,
        "pr_auc": float(average_precision_score(labels, scores)) if both else None,
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


@dataclass(slots=True)
class _Driver:
    """Makes the calls that the events stand for, and remembers what the log's cards became."""

    client: RecyclingClient
    events: Sequence[Event]
    terms: CardTerms
    namespace: uuid.UUID = field(default_factory=uuid.uuid4)
    """All request ids derive from it and from row numbers, so that a repeated call repeats them."""
    card_ids: dict[CardKey, str] = field(default_factory=dict)
    recycling_ids: dict[CardKey, str] = field(default_factory=dict)
    paid_minor: dict[CardKey, int] = field(init=False)
    serials: dict[CardKey, str] = field(init=False)
    settled: set[CardKey] = field(default_factory=set)
    """Whose last recycle was settled at once."""
    serials_sent: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        # What a card cost is known from its recycle, which lies ahead when it is issued; else from any of its events.
        # So is its serial.
        self.paid_minor, self.serials = {}, {}
        for event in sorted(self.events, key=lambda event: event.kind != "RECYCLE"):
            if "amount_minor" in event.cells:
                self.paid_minor.setdefault(event.card, event.cells["amount_minor"])
            if "serial" in event.cells and event.card[0]:
                self.serials.setdefault(event.card, event.cells["serial"])

    async def drive(self, run: list[Event]) -> list[Outcome]:
        """Drives events of one time and kind; one outcome for each."""
        self.client.backtest_time = run[0].time
        try:
            match run[0].kind:
                case "ISSUE":
                    return await self._issue(run)
                case "ACTIVATE":
                    unknown = {o.event.row: o for o in await self._issue(self._unknown(run)) if o.error}
                    return [unknown.get(event.row) or await self._activate(event) for event in run]
                case "RECYCLE":
                    return await self._recycle(run)
                case "REACTIVATE":
                    return [await self._reactivate(event) for event in run]
                case "COMPENSATE":
                    return [await self._compensate(event) for event in run]
        except RecyclingError as error:
            return [_failed(event, error) for event in run]
        return [Outcome(event=event, name="NOTHING_TO_CALL") for event in run]

    def _unknown(self, run: list[Event]) -> list[Event]:
        return [event for event in run if event.card not in self.card_ids]

    async def _issue(self, run: list[Event]) -> list[Outcome]:
        if not run:
            return []
        answer = await self.client.issue_cards(IssueCardsRequest(items=map(self._item, run)))
        outcomes = []
        for event, result in zip(run, answer.results, strict=True):
            if result.HasField("status"):
                outcomes.append(_failed(event, RecyclingError.from_status(result.status)))
            else:
                self.card_ids[event.card] = result.card.card_id
                outcomes.append(Outcome(event=event, name="DONE"))
        return outcomes

    def _item(self, event: Event) -> IssueCardsRequest.Item:
        cells = event.cells
        paid_minor = self.paid_minor.get(event.card, self.terms.paid_minor)
        return IssueCardsRequest.Item(
            request_id=self._id(event, "issue"),
            account_id=event.account_id,
            platform=cells.get("platform", self.terms.platform),
            tier=cells.get("tier") or TIER_BASIC,
            segment=_segment(cells.get("age", 0)),
            face_value_minor=paid_minor,
            paid_minor=paid_minor,
            currency=cells.get("currency", self.terms.currency),
            duration_days=cells.get("duration_days", self.terms.duration_days),
            external_serial=self._serial(event),
        )

    def _serial(self, event: Event) -> str | None:
        """The card's serial as the log tells it. A platform registers one once, so the next card that shows it has
        none; nor has one whose serial the contract does not allow."""
        serial = event.cells.get("serial") or self.serials.get(event.card, "")
        registered = event.cells.get("platform", self.terms.platform), serial
        if not _SERIAL.fullmatch(serial) or registered in self.serials_sent:
            return None
        self.serials_sent.add(registered)
        return str(serial)

    async def _activate(self, event: Event) -> Outcome:
        request = ActivateCardRequest(
            request_id=self._id(event, "activate"),
            account_id=event.account_id,
            card_id=self.card_ids[event.card],
            device=event.device(),
            behavior=event.behavior(),
        )
        try:
            await self.client.activate_card(request)
        except RecyclingError as error:
            return _failed(event, error)
        return Outcome(event=event, name="DONE")

    async def _recycle(self, run: list[Event]) -> list[Outcome]:
        fresh = self._unknown(run)
        broken = {o.event.row: o for o in await self._issue(fresh) if o.error}
        for event in fresh:
            if event.row not in broken and (activated := await self._activate(event)).error:
                broken[event.row] = activated
        ready = [event for event in run if event.row not in broken]
        answers = iter(await self._recycle_all([self._request(event) for event in ready]))
        return [broken.get(event.row) or self._recycled(event, next(answers)) for event in run]

    async def _recycle_all(self, requests: list[RecycleRequest]) -> list[Recycling | RecyclingError]:
        if len(requests) == 1:
            try:
                return [(await self.client.recycle(requests[0])).recycling]
            except RecyclingError as error:
                return [error]
        if not requests:
            return []
        answer = await self.client.batch_recycle(BatchRecycleRequest(requests=requests))
        return [
            RecyclingError.from_status(result.status) if result.HasField("status") else result.recycling
            for result in answer.results
        ]

    def _request(self, event: Event) -> RecycleRequest:
        return RecycleRequest(
            request_id=self._id(event, "recycle"),
            account_id=event.account_id,
            card_id=self.card_ids[event.card],
            reason=event.cells.get("reason") or RECYCLE_REASON_VOLUNTARY,
            device=event.device(),
            behavior=event.behavior(),
        )

    def _recycled(self, event: Event, answer: Recycling | RecyclingError) -> Outcome:
        if isinstance(answer, RecyclingError):
            return _failed(event, answer)
        self.recycling_ids[event.card] = answer.recycling_id
        self.settled.discard(event.card)
        if answer.compensation.state == COMPENSATION_STATE_SETTLED:
            self.settled.add(event.card)
        state = RecyclingState.Name(answer.state).removeprefix("RECYCLING_STATE_")
        if state == "APPROVED" and not event.card[0]:
            del self.card_ids[event.card]  # the account's next event is about another card
        return _judged(event, state, answer.decision)

    async def _reactivate(self, event: Event) -> Outcome:
        if event.card not in self.recycling_ids:
            return Outcome(event=event, name="NOTHING_TO_CALL")
        request = ReactivateRequest(
            request_id=self._id(event, "reactivate"),
            account_id=event.account_id,
            recycling_id=self.recycling_ids[event.card],
            device=event.device(),
            behavior=event.behavior(),
        )
        try:
            answer = await self.client.reactivate(request)
        except RecyclingError as error:
            return _failed(event, error)
        state = ReactivationState.Name(answer.state).removeprefix("REACTIVATION_STATE_")
        if state == "APPROVED":
            self.card_ids[event.card] = answer.card.card_id
        return _judged(event, state, answer.decision)

    async def _compensate(self, event: Event) -> Outcome:
        if event.card not in self.recycling_ids:
            return Outcome(event=event, name="NOTHING_TO_CALL")
        if event.card in self.settled:
            self.settled.remove(event.card)  # a second settlement is the server's to refuse
            return Outcome(event=event, name="DONE")
        request = CompensateRequest(
            request_id=self._id(event, "compensate"),
            account_id=event.account_id,
            recycling_id=self.recycling_ids[event.card],
        )
        try:
            await self.client.compensate(request)
        except RecyclingError as error:
            return _failed(event, error)
        return Outcome(event=event, name="DONE")

    def _id(self, event: Event, purpose: str) -> str:
        return str(uuid.uuid5(self.namespace, f"{purpose} {event.row}"))


def _failed(event: Event, error: RecyclingError) -> Outcome:
    return Outcome(event=event, name=error.reason or error.code.name, error=error)


def _judged(event: Event, state: str, decision: Decision) -> Outcome:
    return Outcome(
        event=event,
        name=" ".join((state, *decision.reason_codes[:1])),  # the band; the others say how it came about
        judged=True,
        refused=state != "APPROVED",
        risk_score=decision.risk_score if decision.HasField("risk_score") else None,
    )


def _segment(age: int) -> Segment.ValueType:
    """The contract's age groups."""
    if 18 <= age <= 25:
        return SEGMENT_YOUNG
    if 30 <= age <= 45:
        return SEGMENT_MIDDLE
    return SEGMENT_SENIOR if age >= 50 else SEGMENT_UNSPECIFIED
