"""WatchEvents: what a watcher wants, and events as messages. Must not know where events come from."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from uuid import UUID

from card_recycling.v1 import card_service_pb2 as pb
from card_recycling.v1 import types_pb2

from server.api.resume import ResumeTokens
from server.api.times import timestamp
from server.domain.events import BEGINNING, Event, EventFilter, Redeemed
from server.engine import event_meter
from server.engine.feed import EventFeed

HEARTBEAT_S = 10.0


class EventStreams:
    """The streams of one server."""

    def __init__(self, feed: EventFeed, *, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._feed = feed
        self._heartbeat_s = heartbeat_s

    async def watch(self, request: pb.WatchEventsRequest) -> AsyncGenerator[pb.WatchEventsResponse, None]:
        """Events for as long as the watcher listens. Raises Refusal, StoreUnavailable."""
        wanted = _filter(request)
        tokens = ResumeTokens(wanted)
        if request.resume_token:
            position = tokens.position(request.resume_token)
        elif request.start == pb.WATCH_START_BEGINNING:
            position = BEGINNING
        else:
            position = await self._feed.newest()
        async with contextlib.aclosing(self._feed.follow(wanted, position, quiet_s=self._heartbeat_s)) as following:
            async for told in following:
                yield pb.WatchEventsResponse(
                    events=[event_message(event, tokens.token(event.position)) for event in told.events],
                    resume_token=tokens.token(told.position),
                )
                event_meter.count_told(len(told.events))


def event_message(event: Event, resume_token: str = "") -> pb.Event:
    """An event. Words that this version's contract does not have are UNSPECIFIED."""
    return pb.Event(
        event_id=str(event.position.event_id),
        kind=event.kind,
        time=timestamp(event.position.event_time),
        account_id=event.account_id,
        platform=event.platform,
        card_id=str(event.card_id or ""),
        recycling_id=str(event.recycling_id or ""),
        request_id=str(event.request_id),
        card=_card_change(event) if event.state is not None else None,
        value=_value_change(event) if event.amount is not None else None,
        redemption=_redemption_change(event.redemption) if event.redemption is not None else None,
        resume_token=resume_token,
    )


def _card_change(event: Event) -> pb.Event.CardChange:
    return pb.Event.CardChange(
        state=_CARD_STATES.get(f"CARD_STATE_{event.state}", types_pb2.CARD_STATE_UNSPECIFIED),
        version=event.position.version,
        generation=event.generation or 0,
        renewals_used=event.renewals_used or 0,
        activate_by_time=timestamp(event.activate_by_time),
        activate_time=timestamp(event.activate_time),
        expire_time=timestamp(event.expire_time),
        hold_until=timestamp(event.hold_until),
    )


def _value_change(event: Event) -> pb.Event.ValueChange:
    return pb.Event.ValueChange(
        unit=_UNITS.get(f"UNIT_{event.unit}", types_pb2.UNIT_UNSPECIFIED), amount=event.amount or 0
    )


def _redemption_change(redeemed: Redeemed) -> pb.Event.RedemptionChange:
    return pb.Event.RedemptionChange(
        redemption_id=str(redeemed.redemption_id),
        partner=redeemed.partner,
        offer_id=redeemed.offer_id,
        title=redeemed.title,
        benefit=redeemed.benefit,
        value_minor=redeemed.value_minor,
        basis_points=redeemed.basis_points,
        expire_time=timestamp(redeemed.expire_time),
    )


_CARD_STATES = dict(types_pb2.CardState.items())
_UNITS = dict(types_pb2.Unit.items())


def _filter(request: pb.WatchEventsRequest) -> EventFilter:
    return EventFilter(
        platform=request.platform or None,
        account_id=request.account_id or None,
        card_id=UUID(request.card_id) if request.card_id else None,
        kinds=frozenset(request.kinds),
    )
