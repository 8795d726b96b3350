"""Compensate: whether a compensation may be settled, and what the wallet then holds. Pure."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from server.domain.errors import Reason, Refusal
from server.domain.lists import ListKind
from server.domain.recycling import CompensationState, Coupon, Recycling, RecyclingState, TransferKind
from server.domain.snapshot import Change, Snapshot, Transfer


def check_compensate(snapshot: Snapshot) -> None:
    recycling = snapshot.known_recycling()
    if recycling.state is not RecyclingState.APPROVED:
        raise Refusal(Reason.RECYCLING_STATE_INVALID, f"a recycling that is {recycling.state} pays nothing")
    if recycling.compensation is None:
        raise Refusal(Reason.RECYCLING_STATE_INVALID, "this recycling came with no compensation")
    if recycling.compensation.state is CompensationState.SETTLED:
        raise Refusal(Reason.ALREADY_COMPENSATED, "the compensation is settled already")
    if recycling.compensation.state is CompensationState.BLOCKED:
        raise Refusal(Reason.COMPENSATION_BLOCKED, "the card was paid back elsewhere, or a review denied the payment")
    if recycling.settlement_held:
        raise Refusal(Reason.SETTLEMENT_NOT_DUE, "settlement is held until a review")
    if snapshot.known_card().is_held_at(snapshot.now):
        # Paid now, it might be spent by the time that the verdict would take it back.
        raise Refusal(Reason.SETTLEMENT_NOT_DUE, "settlement waits for the review of the card's reactivation")
    if recycling.settle_after_time is not None and snapshot.now < recycling.settle_after_time:
        raise Refusal(Reason.SETTLEMENT_NOT_DUE, f"settlement is due from {recycling.settle_after_time.isoformat()}")
    # Not COMPENSATION_BLOCKED, which is for ever: a DENY entry may end, and what is owed is then due again.
    if any(hit.list is ListKind.DENY for hit in snapshot.facts.list_hits):
        raise Refusal(Reason.SETTLEMENT_NOT_DUE, "settlement is held while its account or payout is listed")


def decide_compensate(snapshot: Snapshot) -> Change:
    recycling = snapshot.known_recycling()
    assert recycling.recycling_id is not None
    paid, transfer = settled(recycling, recycling.recycling_id)
    coupon = transfer.coupon
    # What has expired meanwhile is paid and gone: no wallet counts it.
    lost = coupon is not None and coupon.expire_time <= snapshot.now
    return Change(
        now=snapshot.now,
        card=snapshot.known_card(),
        recycling=replace(paid, version=recycling.version + 1),
        recycling_changed=True,
        wallet=(
            snapshot.wallet
            if lost
            else snapshot.wallet.after(transfer.platform, transfer.unit, transfer.amount, coupon)
        ),
        transfer=transfer,
    )


def settled(recycling: Recycling, recycling_id: UUID) -> tuple[Recycling, Transfer]:
    """The recycling with its compensation paid, and what moves for it."""
    owed = recycling.compensation
    assert owed is not None
    coupon = None
    if owed.basis_points is not None and owed.expire_time is not None and owed.max_discount_minor is not None:
        coupon = Coupon(
            coupon_id=recycling_id,
            platform=recycling.platform,
            basis_points=owed.basis_points,
            max_discount_minor=owed.max_discount_minor,
            expire_time=owed.expire_time,
        )
    transfer = Transfer(
        kind=TransferKind.SETTLEMENT,
        platform=recycling.platform,
        unit=owed.unit,
        amount=owed.amount,
        recycling_id=recycling_id,
        coupon=coupon,
    )
    return replace(recycling, compensation=replace(owed, state=CompensationState.SETTLED)), transfer
