"""Rows to domain and back. Knows the columns; must not know when they are read or written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from operator import itemgetter
from typing import Any

import msgspec

from server.domain.card import MICROSECOND, Card, CardState
from server.domain.commands import Command, Compensate, Reactivate, Recycle
from server.domain.recycling import (
    Balance,
    Compensation,
    CompensationState,
    Coupon,
    Decision,
    Disposition,
    Priority,
    RecycleReason,
    Recycling,
    RecyclingState,
    Unit,
    Wallet,
)
from server.domain.snapshot import Change
from server.engine.ports import Entry

Row = Mapping[str, Any]

_decision = msgspec.json.Decoder(Decision)
_balances = msgspec.json.Decoder(tuple[Balance, ...])
_coupons = msgspec.json.Decoder(tuple[Coupon, ...])
_json = msgspec.json.Encoder()


def card(row: Row, segment: str | None) -> Card:
    """A card from its row and its account's segment."""
    return Card(
        card_id=row["card_id"],
        account_id=row["account_id"],
        external_serial=row["external_serial"],
        platform=row["platform"],
        tier=row["tier"],
        segment=segment,
        state=CardState(row["state"]),
        face_value_minor=row["face_value_minor"],
        paid_minor=row["paid_minor"],
        currency=row["currency"],
        duration_days=row["duration_days"],
        issue_time=row["issue_time"],
        activate_by_time=row["activate_by_time"],
        activate_time=row["activate_time"],
        expire_time=row["expire_time"],
        generation=row["generation"],
        renewals_used=row["renewals_used"],
        live_recycling_id=row["live_recycling_id"],
        version=row["version"],
    )


def recycling(row: Row) -> Recycling:
    """A recycling from its row."""
    compensation = None
    if row["unit"] is not None:
        compensation = Compensation(
            unit=Unit(row["unit"]),
            amount=row["amount"],
            state=CompensationState(row["compensation_state"]),
            basis_points=row["basis_points"],
            expire_time=row["coupon_expire_time"],
            max_discount_minor=row["max_discount_minor"],
        )
    return Recycling(
        recycling_id=row["recycling_id"],
        request_id=row["request_id"],
        account_id=row["account_id"],
        card_id=row["card_id"],
        generation=row["generation"],
        reason=RecycleReason(row["reason"]),
        priority=Priority(row["priority"]),
        state=RecyclingState(row["state"]),
        disposition=Disposition(row["disposition"]) if row["disposition"] else None,
        fee_minor=row["fee_minor"],
        prior_state=CardState(row["prior_state"]),
        unused=timedelta(microseconds=row["unused_us"]),
        compensation=compensation,
        settle_after_time=row["settle_after_time"],
        settlement_held=row["settlement_held"],
        platform=row["platform"],
        policy_revision=row["policy_revision"],
        decision=_decision.decode(row["decision"]),
        create_time=row["create_time"],
        version=row["version"],
    )


def wallet(account_id: str, balances: str | None, coupons: str | None) -> Wallet:
    """A wallet from its JSON aggregates; None stands for none."""
    return Wallet(
        account_id=account_id,
        balances=_balances.decode(balances) if balances else (),
        coupons=_coupons.decode(coupons) if coupons else (),
    )


def command_row(command: Command) -> Row:
    """What `load` needs of a command."""
    circumstances = command.circumstances
    return {
        "account_id": command.account_id,
        "request_id": command.request_id,
        "card_id": command.card_id,
        "recycling_id": command.recycling_id,
        "risk_kind": command.risk_kind,
        "reason": _reason(command),
        "device_hash": circumstances.device_hash,
        "address_hash": circumstances.address_hash,
        "prefix_hash": circumstances.prefix_hash,
        "profile_hash": circumstances.profile_hash,
        "signals": _signals(circumstances.signals),
        "wants_wallet": isinstance(command, Compensate | Reactivate),
    }


def entry_rows(entries: Sequence[Entry]) -> dict[str, list[Row]]:
    """The inputs of `record` for decided commands; `position` is the place in `entries`."""
    inputs: dict[str, list[Row]] = {
        "command": [],
        "card": [],
        "recycling": [],
        "changed_recycling": [],
        "transfer": [],
        "coupon": [],
        "risk_event": [],
    }
    for position, entry in enumerate(entries):
        change = entry.change
        # A dry run of what is judged counts like an attempt; one of what is not judged does nothing.
        if entry.command.risk_kind is not None and (entry.command.scored or not entry.command.dry_run):
            inputs["risk_event"].append(_risk_event_row(position, entry))
        if entry.command.dry_run:
            continue
        inputs["command"].append(_recorded_command_row(position, entry))
        if change.card_event is not None:
            inputs["card"].append(_card_row(position, change))
        if change.recycling is not None and change.recycling_changed:
            if change.recycling.version == 1:
                inputs["recycling"].append(_recycling_row(position, change.recycling))
            else:
                inputs["changed_recycling"].append(_changed_recycling_row(position, change.recycling))
        if change.transfer is not None:
            inputs["transfer"].append(
                {
                    "position": position,
                    "platform": change.transfer.platform,
                    "unit": change.transfer.unit,
                    "amount": change.transfer.amount,
                    "recycling_id": change.transfer.recycling_id,
                }
            )
            if change.transfer.coupon is not None:
                inputs["coupon"].append(_coupon_row(position, change.transfer.coupon))
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
    circumstances, card, recycling = entry.command.circumstances, entry.change.card, entry.change.recycling
    outcome = None
    if entry.command.scored:
        outcome = RecyclingState.REJECTED if entry.change.refused else RecyclingState.APPROVED
    return {
        "position": position,
        "unclaimed": entry.command.dry_run,
        "account_id": entry.command.account_id,
        "kind": entry.command.risk_kind,
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


def _event_amount(entry: Entry) -> int | None:
    """What was paid for the card; of a settlement, what was settled, where its unit is like money."""
    if not isinstance(entry.command, Compensate):
        return entry.change.card.paid_minor
    transfer = entry.change.transfer
    return transfer.amount if transfer is not None and transfer.unit is Unit.COIN else None


def _reason(command: Command) -> str | None:
    return command.reason if isinstance(command, Recycle) else None


def _card_row(position: int, change: Change) -> Row:
    card = change.card
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
        "version": card.version,
    }


def _recycling_row(position: int, recycling: Recycling) -> Row:
    compensation = recycling.compensation
    return {
        "position": position,
        "recycling_id": recycling.recycling_id,
        "card_id": recycling.card_id,
        "generation": recycling.generation,
        "reason": recycling.reason,
        "priority": recycling.priority,
        "state": recycling.state,
        "disposition": recycling.disposition,
        "fee_minor": recycling.fee_minor,
        "prior_state": recycling.prior_state,
        "unused_us": recycling.unused // MICROSECOND,
        "unit": compensation and compensation.unit,
        "amount": compensation and compensation.amount,
        "basis_points": compensation and compensation.basis_points,
        "coupon_expire_time": compensation and compensation.expire_time,
        "max_discount_minor": compensation and compensation.max_discount_minor,
        "compensation_state": compensation and compensation.state,
        "settle_after_time": recycling.settle_after_time,
        "settlement_held": recycling.settlement_held,
        "platform": recycling.platform,
        "policy_revision": recycling.policy_revision,
        "decision": _json.encode(recycling.decision).decode(),
        "create_time": recycling.create_time,
        "version": recycling.version,
    }


def _changed_recycling_row(position: int, recycling: Recycling) -> Row:
    return {
        "position": position,
        "recycling_id": recycling.recycling_id,
        "state": recycling.state,
        "compensation_state": recycling.compensation and recycling.compensation.state,
        "version": recycling.version,
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
