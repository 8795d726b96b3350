"""Domain values to the rows that statements take. Knows their inputs' columns; must not know when they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any
from uuid import UUID

import msgspec

from server.domain.card import MICROSECOND, Card, CardEventKind
from server.domain.commands import (
    Command,
    Compensate,
    ExpireCoupon,
    Grant,
    Reactivate,
    Recycle,
    Redeem,
    Resolve,
    WalletCommand,
)
from server.domain.recycling import (
    Coupon,
    Recycling,
    RecyclingState,
    Unit,
)
from server.domain.redemption import Redemption
from server.domain.review import Review, ReviewKind, ReviewState
from server.domain.snapshot import Change, Transfer
from server.engine.ports import Entry
from server.store.rows import Row

_json = msgspec.json.Encoder()


def command_row(command: Command) -> Row:
    """What `load` needs of a command."""
    circumstances = command.circumstances
    return {
        "account_id": command.account_id,
        "request_id": command.request_id,
        "card_id": command.card_id,
        "recycling_id": command.recycling_id,
        "review_id": command.review_id,
        "risk_kind": command.event_kind,
        "reason": _reason(command),
        "device_hash": circumstances.device_hash,
        "address_hash": circumstances.address_hash,
        "prefix_hash": circumstances.prefix_hash,
        "profile_hash": circumstances.profile_hash,
        "payout_hash": circumstances.payout_hash,
        "signals": _signals(circumstances.signals),
        "wants_wallet": isinstance(command, Compensate | ExpireCoupon | Grant | Reactivate | Resolve | WalletCommand),
        "wants_lists": command.reads_lists,
        "platform": command.platform if isinstance(command, WalletCommand) else None,
        "offer_id": command.offer_id if isinstance(command, Redeem) else None,
        "redemption_id": command.redemption_id,
        "grants": isinstance(command, Grant),
    }


def entry_rows(entries: Sequence[Entry]) -> dict[str, list[Row]]:
    """The inputs of `record` for decided commands; `position` is the place in `entries`."""
    inputs: dict[str, list[Row]] = {
        "command": [],
        "card": [],
        "recycling": [],
        "changed_recycling": [],
        "decided_recycling": [],
        "review": [],
        "ended_review": [],
        "transfer": [],
        "coupon": [],
        "redemption": [],
        "goodwill": [],
        "risk_event": [],
        "outcome": [],
    }
    for position, entry in enumerate(entries):
        change = entry.change
        # A dry run of what is judged counts like an attempt; one of what is not judged does nothing.
        if entry.command.event_kind is not None and (entry.command.scored or not entry.command.dry_run):
            inputs["risk_event"].append(_risk_event_row(position, entry))
        if entry.command.dry_run:
            continue
        if isinstance(entry.command, Recycle) and change.transfer is not None and not entry.command.automatic:
            inputs["risk_event"].append(_settlement_row(position, entry, change.transfer))
        inputs["command"].append(_recorded_command_row(position, entry))
        if change.card_event is not None:
            inputs["card"].append(_card_row(position, change))
        if change.recycling is not None and change.recycling_changed:
            if change.recycling.version == 1:
                payout_hash = entry.command.circumstances.payout_hash
                inputs["recycling"].append({**_recycling_row(position, change.recycling), "payout_hash": payout_hash})
            elif change.ends_recycling_hold:
                inputs["decided_recycling"].append(_recycling_row(position, change.recycling))
            else:
                inputs["changed_recycling"].append(_changed_recycling_row(position, change.recycling))
        for review in change.reviews:
            if review.state is ReviewState.OPEN:
                inputs["review"].append(_review_row(position, review, change))
            else:
                inputs["ended_review"].append(_ended_review_row(position, review))
        for transfer in change.transfers:
            inputs["transfer"].append(_transfer_row(position, transfer))
            if transfer.coupon is not None:
                inputs["coupon"].append(_coupon_row(position, transfer.coupon))
        if change.redemption is not None:
            inputs["redemption"].append(_redemption_row(position, change.redemption))
        if isinstance(entry.command, Grant) and change.recycling is not None:
            inputs["goodwill"].append(_goodwill_row(position, entry.command, change.recycling))
        if change.outcome is not None:
            # Not the card's live recycling: a card that is held for one, or freed of it by this very change, has none.
            recycling_id = None if change.recycling is None else change.recycling.recycling_id
            inputs["outcome"].append({"position": position, "recycling_id": recycling_id, "kind": change.outcome})
    # Two servers that lock the same accounts must do so in the same order.
    inputs["command"].sort(key=itemgetter("account_id"))
    return inputs


def _recorded_command_row(position: int, entry: Entry) -> Row:
    return {
        "position": position,
        "account_id": entry.command.account_id,
        "account_version": entry.account_version,
        "valid_until": entry.change.valid_until,
        "request_id": entry.command.request_id,
        "method": entry.command.method,
        "input_hash": entry.command.input_hash(),
        "response": entry.response,
        "receipt": entry.receipt,
        "now": entry.change.now,
    }


def _risk_event_row(position: int, entry: Entry) -> Row:
    circumstances, card, recycling = entry.command.circumstances, entry.change.known_card(), entry.change.recycling
    outcome = None
    if entry.command.scored:
        outcome = RecyclingState.IN_REVIEW if entry.change.held else RecyclingState.APPROVED
        outcome = RecyclingState.REJECTED if entry.change.refused else outcome
    return {
        "position": position,
        "unclaimed": entry.command.dry_run,
        "account_id": entry.command.account_id,
        "kind": entry.command.event_kind,
        "card_id": str(card.card_id),
        "platform": card.platform,
        "external_serial": card.external_serial,
        "tier": card.tier,
        "reason": _reason(entry.command),
        "recycling_id": None if recycling is None or entry.command.dry_run else recycling.recycling_id,
        "device_hash": circumstances.device_hash,
        "address_hash": circumstances.address_hash,
        "prefix_hash": circumstances.prefix_hash,
        "profile_hash": circumstances.profile_hash,
        "amount_minor": _event_amount(entry),
        "signals": _signals(circumstances.signals),
        "outcome": outcome,
        "now": entry.change.now,
    }


def _settlement_row(position: int, entry: Entry, transfer: Transfer) -> Row:
    """What is settled with the recycle is the event that Compensate would leave later, which knows no device."""
    return {
        **_risk_event_row(position, entry),
        "kind": Compensate.risk_kind,
        "reason": None,
        "device_hash": None,
        "address_hash": None,
        "prefix_hash": None,
        "profile_hash": None,
        "amount_minor": _settled_amount(transfer),
        "signals": None,
        "outcome": None,
    }


def _event_amount(entry: Entry) -> int | None:
    """What was paid for the card; of a settlement, what was settled."""
    if not isinstance(entry.command, Compensate):
        return entry.change.known_card().paid_minor
    return None if entry.change.transfer is None else _settled_amount(entry.change.transfer)


def _settled_amount(transfer: Transfer) -> int | None:
    """What was settled, where its unit is like money."""
    return transfer.amount if transfer.unit is Unit.COIN else None


def _reason(command: Command) -> str | None:
    return command.reason if isinstance(command, Recycle) else None


def _card_row(position: int, change: Change) -> Row:
    card = change.known_card()
    return {
        "position": position,
        "card_id": card.card_id,
        "event": change.card_event,
        "state": card.state,
        "activate_by_time": card.activate_by_time,
        "activate_time": card.activate_time,
        "expire_time": card.expire_time,
        "generation": card.generation,
        "renewals_used": card.renewals_used,
        "live_recycling_id": card.live_recycling_id,
        "held_since": card.held_since,
        "hold_until": card.hold_until,
        "recycling_id": _recycling_of_event(change, card),
        "version": card.version,
        "event_state": card.recorded_state,
        "expired_bound": card.expired_bound,
        "bound_device": change.bound_device,
        "waits_until": card.comes_back_until,
    }


def _recycling_of_event(change: Change, card: Card) -> UUID | None:
    """What a card's event is about: the recycling that it is held for, else the one that has taken it."""
    if change.card_event in (CardEventKind.HELD, CardEventKind.RELEASED) and change.recycling is not None:
        return change.recycling.recycling_id
    return card.live_recycling_id


def _recycling_row(position: int, recycling: Recycling) -> Row:
    return {
        "position": position,
        **_terms(recycling),
        "recycling_id": recycling.recycling_id,
        "card_id": recycling.card_id,
        "generation": recycling.generation,
        "reason": recycling.reason,
        "priority": recycling.priority,
        "state": recycling.state,
        "prior_state": recycling.prior_state,
        "unused_us": recycling.unused // MICROSECOND,
        "compensation_state": recycling.compensation and recycling.compensation.state,
        "settlement_held": recycling.settlement_held,
        "hold_until": recycling.hold_until,
        "platform": recycling.platform,
        "policy_revision": recycling.policy_revision,
        "decision": _json.encode(recycling.decision).decode(),
        "create_time": recycling.create_time,
        "version": recycling.version,
    }


def _terms(recycling: Recycling) -> dict[str, Any]:
    """What a recycling does and pays."""
    compensation = recycling.compensation
    return {
        "disposition": recycling.disposition,
        "fee_minor": recycling.fee_minor,
        "unit": compensation and compensation.unit,
        "amount": compensation and compensation.amount,
        "basis_points": compensation and compensation.basis_points,
        "coupon_expire_time": compensation and compensation.expire_time,
        "max_discount_minor": compensation and compensation.max_discount_minor,
        "settle_after_time": recycling.settle_after_time,
    }


def _changed_recycling_row(position: int, recycling: Recycling) -> Row:
    return {
        "position": position,
        "recycling_id": recycling.recycling_id,
        "state": recycling.state,
        "compensation_state": recycling.compensation and recycling.compensation.state,
        "settlement_held": recycling.settlement_held,
        "window_moved_us": recycling.window_moved // MICROSECOND,
        "version": recycling.version,
    }


def _review_row(position: int, review: Review, change: Change) -> Row:
    held = change.recycling if review.kind is ReviewKind.RECYCLE else None
    return {
        "position": position,
        "review_id": review.review_id,
        "card_id": review.card_id,
        "recycling_id": review.recycling_id,
        "kind": review.kind,
        "platform": review.platform,
        "create_time": review.create_time,
        "hold_until": review.hold_until,
        "risk_score": review.risk_score,
        "risk_band": review.risk_band,
        "reason_codes": _json.encode(review.reason_codes).decode(),
        "policy_revision": review.policy_revision,
        "model_version": review.model_version,
        "terms": None if held is None else _json.encode(_terms(held)).decode(),
    }


def _ended_review_row(position: int, review: Review) -> Row:
    return {
        "position": position,
        "review_id": review.review_id,
        "state": review.state,
        "reviewer": review.reviewer,
        "note": review.note,
        "resolve_time": review.resolve_time,
        "version": review.version,
    }


def _transfer_row(position: int, transfer: Transfer) -> Row:
    return {
        "position": position,
        "kind": transfer.kind,
        "platform": transfer.platform,
        "unit": transfer.unit,
        "amount": transfer.amount,
        "recycling_id": transfer.recycling_id,
        "redemption_id": transfer.redemption_id,
    }


def _redemption_row(position: int, redemption: Redemption) -> Row:
    return {
        "position": position,
        "redemption_id": redemption.redemption_id,
        "platform": redemption.platform,
        "policy_revision": redemption.policy_revision,
        "offer_id": redemption.offer_id,
        "partner": redemption.partner,
        "title": redemption.title,
        "unit": redemption.unit,
        "price": redemption.price,
        "benefit": redemption.benefit.kind,
        "value_minor": redemption.benefit.value_minor,
        "basis_points": redemption.benefit.basis_points,
        "valid_days": redemption.benefit.valid_days,
        "expire_time": redemption.expire_time,
    }


def _goodwill_row(position: int, command: Grant, recycling: Recycling) -> Row:
    return {
        "position": position,
        "recycling_id": recycling.recycling_id,
        "platform": recycling.platform,
        "policy_revision": recycling.policy_revision,
        "unit": command.unit,
        "amount": command.amount,
        "note": command.note,
    }


def _coupon_row(position: int, coupon: Coupon) -> Row:
    return {
        "position": position,
        "coupon_id": coupon.coupon_id,
        "platform": coupon.platform,
        "basis_points": coupon.basis_points,
        "max_discount_minor": coupon.max_discount_minor,
        "expire_time": coupon.expire_time,
    }


def _signals(signals: Mapping[str, float | int | bool]) -> str | None:
    return _json.encode(dict(signals)).decode() if signals else None
