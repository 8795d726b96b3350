"""Rows to domain and back. Knows the columns; must not know when they are read or written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from operator import itemgetter
from typing import Any
from uuid import UUID

import msgspec

from server.domain.card import MICROSECOND, Card, CardEventKind, CardState
from server.domain.commands import Command, Compensate, ExpireCoupon, Reactivate, Recycle, Resolve
from server.domain.lists import ListEntry, ListHit, ListKind, Subject, SubjectKind
from server.domain.outcome import Outcome, OutcomeKind
from server.domain.policy import Counter
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
    RiskBand,
    Unit,
    Wallet,
)
from server.domain.review import Review, ReviewKind, ReviewState
from server.domain.snapshot import Change, RiskFacts, Score
from server.engine.ports import Entry, JudgedRequest

Row = Mapping[str, Any]

_decision = msgspec.json.Decoder(Decision)
_balances = msgspec.json.Decoder(tuple[Balance, ...])
_list_hits = msgspec.json.Decoder(tuple[ListHit, ...])
_coupons = msgspec.json.Decoder(tuple[Coupon, ...])
_reviews = msgspec.json.Decoder(tuple[Review, ...])
_reason_codes = msgspec.json.Decoder(tuple[str, ...])
_json = msgspec.json.Encoder()


class _ScoreOnRecord(msgspec.Struct):
    """A score as receipts tell it; whatever else they tell of it is passed over."""

    probability: float
    medium_threshold: float
    high_threshold: float
    model_version: str
    shadows: list[_ScoreOnRecord] = []


_score_on_record = msgspec.json.Decoder(_ScoreOnRecord | None)
_features = msgspec.json.Decoder(dict[str, float | bool | None])


def card(row: Row, segment: str | None) -> Card:
    """A card from its row and its account's segment; of one that waits it is not known until when."""
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
        held_since=row["held_since"],
        hold_until=row["hold_until"],
        expired_bound=row["expired_bound"],
        bound_devices=tuple(row["bound_devices"]),
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
        hold_until=row["hold_until"],
        window_moved=timedelta(microseconds=row["window_moved_us"]),
    )


def review(row: Row) -> Review:
    """A review from its row."""
    return Review(
        review_id=row["review_id"],
        request_id=row["request_id"],
        account_id=row["account_id"],
        card_id=row["card_id"],
        recycling_id=row["recycling_id"],
        kind=ReviewKind(row["kind"]),
        platform=row["platform"],
        state=ReviewState(row["state"]),
        create_time=row["create_time"],
        hold_until=row["hold_until"],
        risk_score=row["risk_score"],
        risk_band=RiskBand(row["risk_band"]) if row["risk_band"] else None,
        reason_codes=_reason_codes.decode(row["reason_codes"]),
        policy_revision=row["policy_revision"],
        model_version=row["model_version"],
        claimed_by=row["claimed_by"],
        claim_until=row["claim_until"],
        reviewer=row["reviewer"],
        note=row["note"],
        resolve_time=row["resolve_time"],
        version=row["version"],
    )


def reviews(rows: str | None) -> tuple[Review, ...]:
    """Reviews from a JSON aggregate of their rows; None stands for none."""
    return _reviews.decode(rows) if rows else ()


def outcome(row: Row) -> Outcome:
    """An outcome from its row."""
    return Outcome(
        account_id=row["account_id"],
        recycling_id=row["recycling_id"],
        kind=OutcomeKind(row["kind"]),
        time=row["outcome_time"],
        record_time=row["record_time"],
        platform=row["platform"],
        policy_revision=row["policy_revision"],
        model_version=row["model_version"],
        risk_score=row["risk_score"],
        state=RecyclingState(row["state"]),
    )


def judged(rows: Iterable[Row]) -> list[JudgedRequest]:
    """Decisions on record, from the parts of their receipts."""
    requests = []
    for row in rows:
        scored = _score_on_record.decode(row["score"]) if row["score"] is not None else None
        requests.append(
            JudgedRequest(
                time=row["create_time"],
                features=_features.decode(row["features"]),
                score=scored and _score(scored),
                shadow=tuple(map(_score, scored.shadows)) if scored else (),
                label=row["label"],
            )
        )
    return requests


def wallet(account_id: str, balances: str | None, coupons: str | None) -> Wallet:
    """A wallet from its JSON aggregates; None stands for none."""
    return Wallet(
        account_id=account_id,
        balances=_balances.decode(balances) if balances else (),
        coupons=_coupons.decode(coupons) if coupons else (),
    )


def risk_facts(list_hits: str | None, features: Mapping[str, Any]) -> RiskFacts:
    """What risk goes by, from the JSON aggregate of list hits (None stands for none) and the feature row."""
    return RiskFacts(
        list_hits=_list_hits.decode(list_hits) if list_hits else (),
        counts={counter: features[counter] for counter in Counter},
    )


def list_entry(row: Row) -> ListEntry:
    """A list entry from its row and what came after it."""
    end_time = row["expire_time"]
    ended_by, end_reason = "", ""
    if row["next_time"] is not None and (end_time is None or row["next_time"] < end_time):
        end_time, ended_by, end_reason = row["next_time"], row["next_actor"], row["next_reason"]
    return ListEntry(
        entry_id=row["entry_id"],
        list=ListKind(row["list"]),
        subject=Subject(kind=SubjectKind(row["subject_kind"]), key=row["subject"]),
        version=row["version"],
        expire_time=row["expire_time"],
        actor=row["actor"],
        reason=row["reason"],
        create_time=row["create_time"],
        end_time=end_time,
        ended_by=ended_by,
        end_reason=end_reason,
    )


def command_row(command: Command) -> Row:
    """What `load` needs of a command."""
    circumstances = command.circumstances
    return {
        "account_id": command.account_id,
        "request_id": command.request_id,
        "card_id": command.card_id,
        "recycling_id": command.recycling_id,
        "review_id": command.review_id,
        "risk_kind": command.risk_kind,
        "reason": _reason(command),
        "device_hash": circumstances.device_hash,
        "address_hash": circumstances.address_hash,
        "prefix_hash": circumstances.prefix_hash,
        "profile_hash": circumstances.profile_hash,
        "payout_hash": circumstances.payout_hash,
        "signals": _signals(circumstances.signals),
        "wants_wallet": isinstance(command, Compensate | ExpireCoupon | Reactivate | Resolve),
        "wants_lists": command.reads_lists,
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
        "risk_event": [],
        "outcome": [],
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
        if change.transfer is not None:
            inputs["transfer"].append(
                {
                    "position": position,
                    "kind": change.transfer.kind,
                    "platform": change.transfer.platform,
                    "unit": change.transfer.unit,
                    "amount": change.transfer.amount,
                    "recycling_id": change.transfer.recycling_id,
                }
            )
            if change.transfer.coupon is not None:
                inputs["coupon"].append(_coupon_row(position, change.transfer.coupon))
        if change.outcome is not None and change.recycling is not None:
            # Not the card's live recycling: a card that is held for one, or freed of it by this very change, has none.
            row = {"position": position, "recycling_id": change.recycling.recycling_id, "kind": change.outcome}
            inputs["outcome"].append(row)
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
        outcome = RecyclingState.IN_REVIEW if entry.change.held else RecyclingState.APPROVED
        outcome = RecyclingState.REJECTED if entry.change.refused else outcome
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
        "held_since": card.held_since,
        "hold_until": card.hold_until,
        "recycling_id": _recycling_of_event(change),
        "version": card.version,
        "event_state": card.recorded_state,
        "expired_bound": card.expired_bound,
        "bound_device": change.bound_device,
        "waits_until": card.comes_back_until,
    }


def _recycling_of_event(change: Change) -> UUID | None:
    """What a card's event is about: the recycling that it is held for, else the one that has taken it."""
    if change.card_event in (CardEventKind.HELD, CardEventKind.RELEASED) and change.recycling is not None:
        return change.recycling.recycling_id
    return change.card.live_recycling_id


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


def _coupon_row(position: int, coupon: Coupon) -> Row:
    return {
        "position": position,
        "coupon_id": coupon.coupon_id,
        "platform": coupon.platform,
        "basis_points": coupon.basis_points,
        "max_discount_minor": coupon.max_discount_minor,
        "expire_time": coupon.expire_time,
    }


def _score(score: _ScoreOnRecord) -> Score:
    return Score(
        probability=score.probability,
        medium_threshold=score.medium_threshold,
        high_threshold=score.high_threshold,
        model_version=score.model_version,
    )


def _signals(signals: Mapping[str, float | int | bool]) -> str | None:
    return _json.encode(dict(signals)).decode() if signals else None
