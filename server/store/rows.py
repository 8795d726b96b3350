"""Rows to domain values. Knows the columns that statements give; must not know when they are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import msgspec

from server.domain.card import Card, CardState
from server.domain.commands import Command
from server.domain.lists import ListEntry, ListHit, ListKind, Subject, SubjectKind
from server.domain.outcome import Outcome, OutcomeKind
from server.domain.policy import Benefit, BenefitKind, Counter
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
from server.domain.redemption import Redemption
from server.domain.review import Review, ReviewKind, ReviewState
from server.domain.snapshot import RiskFacts, Score
from server.engine.ports import JudgedRequest

Row = Mapping[str, Any]

_decision = msgspec.json.Decoder(Decision)
_balances = msgspec.json.Decoder(tuple[Balance, ...])
_list_hits = msgspec.json.Decoder(tuple[ListHit, ...])
_coupons = msgspec.json.Decoder(tuple[Coupon, ...])
_reviews = msgspec.json.Decoder(tuple[Review, ...])
_reason_codes = msgspec.json.Decoder(tuple[str, ...])


class _ConversionsOnRecord(msgspec.Struct):
    model_version: str


class _ScoreOnRecord(msgspec.Struct):
    """A score as receipts tell it; whatever else they tell of it is passed over."""

    probability: float
    medium_threshold: float
    high_threshold: float
    model_version: str
    shadows: list[_ScoreOnRecord] = []
    conversions: _ConversionsOnRecord | None = None


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


def redemption(row: Row) -> Redemption:
    """A redemption from its row."""
    return Redemption(
        redemption_id=row["redemption_id"],
        request_id=row["request_id"],
        account_id=row["account_id"],
        platform=row["platform"],
        offer_id=row["offer_id"],
        partner=row["partner"],
        title=row["title"],
        unit=Unit(row["unit"]),
        price=row["price"],
        benefit=Benefit(
            kind=BenefitKind(row["benefit"]),
            value_minor=row["value_minor"],
            basis_points=row["basis_points"],
            valid_days=row["valid_days"],
        ),
        expire_time=row["expire_time"],
        policy_revision=row["policy_revision"],
        create_time=row["create_time"],
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
                conversion_model_version=scored.conversions.model_version if scored and scored.conversions else "",
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


def risk_facts(command: Command, list_hits: str | None, features: Mapping[str, Any]) -> RiskFacts:
    """What risk goes by, from the command, the JSON aggregate of list hits (None: none) and the feature row."""
    return RiskFacts(
        list_hits=_list_hits.decode(list_hits) if list_hits else (),
        counts={counter: features[counter] for counter in Counter},
        without_device=command.without_device,
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


def _score(score: _ScoreOnRecord) -> Score:
    return Score(
        probability=score.probability,
        medium_threshold=score.medium_threshold,
        high_threshold=score.high_threshold,
        model_version=score.model_version,
    )
