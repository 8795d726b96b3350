"""What time does by itself to cards and coupons, as commands that record it as of its moment. Pure.

What callers see follows from row and time (`Card.at`, `Wallet`), and never waits for these; must not know who looks for
what is due, nor when.
"""

from __future__ import annotations

from server.domain.card import CardEventKind
from server.domain.commands import CloseWindow, Expire, ExpireCoupon, Lapse, OwnCommand
from server.domain.errors import Reason, Refusal
from server.domain.recycling import CompensationState, TransferKind, Unit
from server.domain.snapshot import Change, Snapshot, Transfer


def overdue(snapshot: Snapshot) -> OwnCommand | None:
    """The first of what time has done to the card and is not recorded yet. It must be, before anything else is
    decided."""
    hold, card, now = snapshot.hold(), snapshot.card, snapshot.now
    if hold is not None and hold.is_lapsed_at(now):
        return Lapse.of(hold)
    if card is not None and card.has_expired(now):
        return Expire.of(card)
    return CloseWindow.of(card) if card is not None and card.has_closed(now) else None


def check_expire(snapshot: Snapshot) -> None:
    if not snapshot.known_card().has_expired(snapshot.now):
        raise Refusal(Reason.CARD_STATE_INVALID, "the card has not expired, or is known to have")


def decide_expire(snapshot: Snapshot) -> Change:
    """As of the card's bound, whenever that is recorded."""
    card = snapshot.known_card()
    bound = card.bound()
    assert bound is not None
    return Change(now=bound, card=card.expired(), card_event=CardEventKind.EXPIRED)


def check_close_window(snapshot: Snapshot) -> None:
    if not snapshot.known_card().has_closed(snapshot.now):
        raise Refusal(Reason.CARD_STATE_INVALID, "the card does not wait, or may still come back")


def decide_close_window(snapshot: Snapshot) -> Change:
    """As of the window's end. The recycling and what it pays stay as they are."""
    card = snapshot.known_card()
    assert card.comes_back_until is not None
    return Change(
        now=card.comes_back_until,
        card=card.closed(),
        card_event=CardEventKind.CLOSED,
        recycling=snapshot.known_recycling(),
    )


def check_expire_coupon(command: ExpireCoupon, snapshot: Snapshot) -> None:
    if snapshot.now < command.expired_since:
        raise Refusal(Reason.RECYCLING_STATE_INVALID, "the coupon has not expired")
    if command.redemption_id is not None:
        redeemed = snapshot.redemption
        assert redeemed is not None and redeemed.expire_time is not None, "a coupon that nobody has redeemed"
        assert redeemed.expire_time <= command.expired_since
        return
    owed = snapshot.known_recycling().compensation
    if owed is None or owed.unit is not Unit.COUPON or owed.state is not CompensationState.SETTLED:
        raise Refusal(Reason.RECYCLING_STATE_INVALID, "this recycling has given no coupon")
    assert owed.expire_time is not None and owed.expire_time <= command.expired_since


def decide_expire_coupon(command: ExpireCoupon, snapshot: Snapshot) -> Change:
    """The coupon out of the wallet, which has not counted it since it expired."""
    giver = snapshot.redemption or snapshot.known_recycling()
    return Change(
        now=command.expired_since,
        card=snapshot.card,
        recycling=snapshot.recycling,
        wallet=snapshot.wallet,
        transfer=Transfer(
            kind=TransferKind.EXPIRY,
            platform=giver.platform,
            unit=Unit.COUPON,
            amount=-1,
            recycling_id=command.recycling_id,
            redemption_id=command.redemption_id,
        ),
    )
