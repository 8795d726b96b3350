"""Issuing cards: no card exists yet, so nothing can race but the request id and the serial, which are constraints.

Knows the order of the steps; must not know statements or the wire.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

from server.domain.card import Card, CardState
from server.domain.commands import IssueItem
from server.domain.errors import Reason, Refusal
from server.engine.engine import ATTEMPTS_MAX, replayed
from server.engine.ports import IssuedEntry, LoadedItem, Renderer, Store, StoreUnavailable
from server.engine.queue import Outcome
from server.engine.receipt import issue_receipt

log = logging.getLogger(__name__)


class Issuer:
    """Issues cards in batches."""

    def __init__(self, store: Store, renderer: Renderer, new_id: Callable[[], UUID]) -> None:
        self._store = store
        self._renderer = renderer
        self._new_id = new_id

    async def issue(self, items: Sequence[IssueItem]) -> list[Outcome]:
        """The outcome of each item, in order: the serialized card, or why it was not issued."""
        outcomes: dict[int, Outcome] = {}
        waiting = list(range(len(items)))
        issued: set[tuple[str, object]] = set()
        while waiting:
            # What has a request id or a serial in common with an earlier item waits until that one's fate is known.
            going: list[int] = []
            later: list[int] = []
            pending: set[tuple[str, object]] = set()
            for position in waiting:
                keys = _keys(items[position]) - issued
                (going if pending.isdisjoint(keys) else later).append(position)
                pending |= keys
            for position, outcome in zip(going, await self._round([items[p] for p in going]), strict=True):
                outcomes[position] = outcome
                if not isinstance(outcome, Refusal):
                    issued |= _keys(items[position])
            waiting = later
        return [outcomes[position] for position in range(len(items))]

    async def _round(self, items: list[IssueItem], attempts_left: int = ATTEMPTS_MAX) -> list[Outcome]:
        """The outcomes of items that have no request id or serial in common."""
        try:
            outcomes = await self._attempt(items)
        except StoreUnavailable:
            return [Refusal(Reason.STORE_UNAVAILABLE, "the database cannot be reached at the moment")] * len(items)
        except Exception as error:
            if len(items) > 1:
                log.warning("issuing %d items failed and is halved: %r", len(items), error)
                middle = len(items) // 2
                return await self._round(items[:middle]) + await self._round(items[middle:])
            if attempts_left == 1:
                log.exception("issuing a card failed")
                return [Refusal(Reason.INTERNAL, "internal error")]
            outcomes = [None]  # the serial may have been taken meanwhile
        lost = [item for item, outcome in zip(items, outcomes, strict=True) if outcome is None]
        if not lost:
            again = []
        elif attempts_left > 1:
            again = await self._round(lost, attempts_left - 1)
        else:
            again = [Refusal(Reason.CONFLICT_RETRY, "the same request id is being answered; try again")] * len(lost)
        told = iter(again)
        return [next(told) if outcome is None else outcome for outcome in outcomes]

    async def _attempt(self, items: list[IssueItem]) -> list[Outcome | None]:
        """The outcomes; None for those whose request id was answered between reading and writing."""
        outcomes: list[Outcome | None] = []
        entries: list[IssuedEntry] = []
        segments: dict[str, str | None] = {}
        for item, found in zip(items, await self._store.load_items(items), strict=True):
            if found.answered is not None:
                outcomes.append(replayed(found.answered, item.input_hash()))
                continue
            try:
                check_item(item, found)
            except Refusal as refusal:
                outcomes.append(refusal)
                continue
            segment = item.segment or segments.get(item.account_id, found.segment)
            segments[item.account_id] = segment
            card = issued_card(item, segment, found.now, self._new_id())
            response = self._renderer.card(card, found.now)
            entries.append(
                IssuedEntry(item=item, card=card, response=response, receipt=issue_receipt(card, item, found))
            )
            outcomes.append(None)
        written = await self._store.record_items(entries) if entries else set()
        fresh = (entry.response if entry.card.card_id in written else None for entry in entries)
        return [next(fresh) if outcome is None else outcome for outcome in outcomes]


def _keys(item: IssueItem) -> set[tuple[str, object]]:
    """What may be used once: the account's request id, the platform's serial."""
    request: tuple[str, object] = (item.account_id, item.request_id)
    return {request} if item.external_serial is None else {request, (item.platform, item.external_serial)}


def check_item(item: IssueItem, found: LoadedItem) -> None:
    """Raises Refusal when the item cannot be issued."""
    problem: tuple[str, str] | None = None
    if found.policy is None:
        problem = ("platform", "no policy of this name")
    elif item.currency != found.policy.currency:
        problem = ("currency", f"must be {found.policy.currency} on {item.platform}")
    elif item.face_value_minor < found.policy.face_value_per_day_min * item.duration_days:
        problem = ("face_value_minor", f"must be {found.policy.face_value_per_day_min} a day, at least")
    elif found.serial_taken:
        problem = ("external_serial", f"registered already on {item.platform}")
    elif item.activate_by_time is not None and item.activate_by_time <= found.now:
        problem = ("activate_by_time", "must lie in the future")
    if problem is not None:
        raise Refusal(Reason.FIELD_INVALID, f"{problem[0]}: {problem[1]}", fields=(problem,))


def issued_card(item: IssueItem, segment: str | None, now: datetime, card_id: UUID) -> Card:
    """The card as it begins; `segment` is its account's."""
    return Card(
        card_id=card_id,
        account_id=item.account_id,
        external_serial=item.external_serial,
        platform=item.platform,
        tier=item.tier,
        segment=segment,
        state=CardState.ISSUED,
        face_value_minor=item.face_value_minor,
        paid_minor=item.paid_minor,
        currency=item.currency,
        duration_days=item.duration_days,
        issue_time=now,
        activate_by_time=item.activate_by_time,
        activate_time=None,
        expire_time=None,
        generation=1,
        renewals_used=0,
        live_recycling_id=None,
        version=1,
    )
