"""ActivateCard, BindDevice and VoidCard: the ordinary life of a card outside of recycling. Pure."""

from __future__ import annotations

from dataclasses import replace

from server.domain.card import CardEventKind, CardState, VoidReason
from server.domain.commands import Activate, BindDevice, Void
from server.domain.errors import Reason, Refusal
from server.domain.outcome import OutcomeKind
from server.domain.recycling import CARD_VOIDED, CompensationState, RecyclingState
from server.domain.review import ReviewKind, ReviewState
from server.domain.snapshot import Change, Snapshot


def check_card_command(command: Activate | BindDevice | Void, snapshot: Snapshot) -> None:
    card = snapshot.known_card()
    if command.etag and command.etag != card.etag:
        raise Refusal(Reason.ETAG_MISMATCH, f"the card's etag is {card.etag}")
    state = card.state_at(snapshot.now)
    if isinstance(command, Activate) and state is not CardState.ISSUED:
        raise Refusal(Reason.CARD_STATE_INVALID, f"a card that is {state} cannot be activated")
    if isinstance(command, Activate) and card.is_held_at(snapshot.now):
        raise Refusal(Reason.CARD_STATE_INVALID, "the card is held for a review")
    if isinstance(command, Void) and state is CardState.VOID and not _adds_to_void(command, snapshot):
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


def check_bind(command: BindDevice, snapshot: Snapshot) -> None:
    check_card_command(command, snapshot)
    card, devices_max = snapshot.known_card(), snapshot.known_policy().devices_max
    state = card.state_at(snapshot.now)
    if state not in (CardState.ISSUED, CardState.ACTIVE):
        raise Refusal(Reason.CARD_STATE_INVALID, f"no device can be bound to a card that is {state}")
    if card.is_held_at(snapshot.now):
        raise Refusal(Reason.CARD_STATE_INVALID, "the card is held for a review")
    if command.circumstances.device_hash not in card.bound_devices and len(card.bound_devices) >= devices_max:
        raise Refusal(Reason.LIMIT_EXCEEDED, f"{devices_max} devices are bound to the card, and no more can be")


def decide_bind(command: BindDevice, snapshot: Snapshot) -> Change:
    """The device on the card. One that is bound already stays bound, and nothing happens."""
    card, now, device = snapshot.known_card(), snapshot.now, command.circumstances.device_hash
    assert device is not None
    if device in card.bound_devices:
        return Change(now=now, card=card)
    return Change(
        now=now,
        card=replace(card, bound_devices=(*card.bound_devices, device), version=card.version + 1),
        card_event=CardEventKind.BOUND,
        valid_until=card.valid_until(now),
        bound_device=device,
    )


def decide_void(command: Void, snapshot: Snapshot) -> Change:
    """The card ended, if it has not before. With it ends what it was held for: a recycle in review is rejected, a
    reactivation is off. A chargeback speaks against the recycling, whenever it comes; against the account, where
    there is none."""
    card, recycling, now = snapshot.known_card(), snapshot.recycling, snapshot.now
    already_void, hold = card.state is CardState.VOID, snapshot.hold()
    ended = replace(
        card,
        state=CardState.VOID,
        held_since=None,
        hold_until=None,
        comes_back_until=None,
        version=card.version + 1,
    )
    closed = [] if hold is None else [hold]
    changed = None
    if recycling is not None and recycling.state is RecyclingState.IN_REVIEW:
        changed = recycling.rejected(CARD_VOIDED)
    elif recycling is not None and recycling.compensation is not None and _blocks_pending(command, snapshot):
        changed = replace(
            recycling,
            compensation=replace(recycling.compensation, state=CompensationState.BLOCKED),
            version=recycling.version + 1,
        )
        settlement = snapshot.open_review(ReviewKind.SETTLEMENT)
        closed += [] if settlement is None else [settlement]
    return Change(
        now=now,
        card=card if already_void else ended,
        card_event=None if already_void else CardEventKind.VOIDED,
        recycling=changed or recycling,
        recycling_changed=changed is not None,
        reviews=tuple(review.ended(ReviewState.CLOSED, now) for review in closed),
        valid_until=card.hold_until,
        outcome=OutcomeKind.CHARGEBACK if command.reason is VoidReason.CHARGEBACK else None,
    )


def _adds_to_void(command: Void, snapshot: Snapshot) -> bool:
    """Whether the command changes or tells anything of a card that has ended: by a recycle, or voided before.

    A chargeback is told once; whether it comes before or after a refund is for the payer's bank to choose.
    """
    told = command.reason is VoidReason.CHARGEBACK and not snapshot.charged_back
    return told or _blocks_pending(command, snapshot)


def _blocks_pending(command: Void, snapshot: Snapshot) -> bool:
    """A card paid back in money must not be compensated as well, even if recycling has cancelled it before."""
    recycling = snapshot.recycling
    pending = (
        recycling is not None
        and recycling.state is RecyclingState.APPROVED
        and recycling.compensation is not None
        and recycling.compensation.state is CompensationState.PENDING
    )
    return pending and command.reason in (VoidReason.REFUNDED, VoidReason.CHARGEBACK)
