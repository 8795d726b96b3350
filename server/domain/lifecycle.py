"""ActivateCard and VoidCard: the ordinary life of a card outside of recycling. Pure."""

from __future__ import annotations

from dataclasses import replace

from server.domain.card import CardEventKind, CardState, VoidReason
from server.domain.commands import Activate, Void
from server.domain.errors import Reason, Refusal
from server.domain.outcome import OutcomeKind
from server.domain.recycling import CompensationState
from server.domain.snapshot import Change, Snapshot


def check_card_command(command: Activate | Void, snapshot: Snapshot) -> None:
    card = snapshot.known_card()
    if command.etag and command.etag != card.etag:
        raise Refusal(Reason.ETAG_MISMATCH, f"the card's etag is {card.etag}")
    state = card.state_at(snapshot.now)
    if isinstance(command, Activate) and state is not CardState.ISSUED:
        raise Refusal(Reason.CARD_STATE_INVALID, f"a card that is {state} cannot be activated")
    if isinstance(command, Void) and state is CardState.VOID and not _blocks_pending(command, snapshot):
        raise Refusal(Reason.CARD_STATE_INVALID, "the card is VOID already")


def decide_activate(snapshot: Snapshot) -> Change:
    card, now = snapshot.known_card(), snapshot.now
    active = replace(
        card,
        state=CardState.ACTIVE,
        activate_time=now,
        expire_time=now + card.duration,
        version=card.version + 1,
    )
    return Change(now=now, card=active, card_event=CardEventKind.ACTIVATED, valid_until=card.activate_by_time)


def decide_void(command: Void, snapshot: Snapshot) -> Change:
    card, recycling = snapshot.known_card(), snapshot.recycling
    already_void = card.state is CardState.VOID
    change = Change(
        now=snapshot.now,
        card=card if already_void else replace(card, state=CardState.VOID, version=card.version + 1),
        card_event=None if already_void else CardEventKind.VOIDED,
        outcome=OutcomeKind.CHARGEBACK if recycling and command.reason is VoidReason.CHARGEBACK else None,
    )
    if recycling is None or recycling.compensation is None or not _blocks_pending(command, snapshot):
        return change
    blocked = replace(
        recycling,
        compensation=replace(recycling.compensation, state=CompensationState.BLOCKED),
        version=recycling.version + 1,
    )
    return replace(change, recycling=blocked, recycling_changed=True)


def _blocks_pending(command: Void, snapshot: Snapshot) -> bool:
    """A card paid back in money must not be compensated as well, even if recycling has cancelled it before."""
    recycling = snapshot.recycling
    pending = (
        recycling is not None
        and recycling.compensation is not None
        and recycling.compensation.state is CompensationState.PENDING
    )
    return pending and command.reason in (VoidReason.REFUNDED, VoidReason.CHARGEBACK)
