"""The receipt of a decision: all that it read, so that it can be replayed from the receipt alone, and what it did.

Knows what a decision reads; must not know where receipts are kept. It holds no personal data: features are numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from server.domain.card import Card
from server.domain.commands import Command, IssueItem
from server.domain.review import ReviewState
from server.domain.snapshot import Change, Score
from server.engine.ports import Explanation, Loaded, LoadedItem

_encoder = msgspec.json.Encoder()

SEAL = "sha256"
"""The receipt's last member: SHA-256 over the text before it."""


def receipt(
    command: Command, loaded: Loaded, score: Score | None, change: Change, explanation: Explanation | None = None
) -> str:
    """JSON: the moment, what was asked, the snapshot's card, recycling, balances, coupons and reviews, the policy
    revision with its SHA-256 and planned end, the bonus, the list hits, whether no device was named, the feature row,
    the lot, the score with its thresholds, model version, reason codes, what challengers said and what a model said of
    conversions, how it came about, where that was asked; what risk made of these, and what was done."""
    snapshot = loaded.snapshot
    body: dict[str, Any] = {
        "now": snapshot.now,
        "method": command.method,
        "request_id": command.request_id,
        "input": [None if part is None else str(part) for part in command.business_input()],
        "account_version": loaded.account_version,
        "card": snapshot.card,
        "recycling": snapshot.recycling,
        "balances": snapshot.wallet.balances,
        "coupons": snapshot.wallet.coupons,
        "reviews": snapshot.reviews,
        "policy_revision": snapshot.revision_name,
        "policy_sha256": loaded.policy_sha256,
    }
    rare: dict[str, Any] = {
        "policy_until": snapshot.policy_until,
        "bonus": snapshot.bonus,
        "charged_back": snapshot.charged_back,
    }
    rare |= {"redemption": snapshot.redemption, "used_30d": snapshot.used_30d}
    body |= {name: value for name, value in rare.items() if value}
    if command.reads_lists:
        body["list_hits"] = snapshot.facts.list_hits
    if command.scored:
        body["without_device"] = snapshot.facts.without_device
        body["lot"] = snapshot.facts.lot
        body["features"] = loaded.features
        body["score"] = score
        if explanation is not None:
            told = tuple(part for part in explanation.contributions if part.contribution)  # the rest adds nothing
            body["explanation"] = replace(explanation, contributions=told)
    if (found := verdict(change)) is not None:
        body["verdict"] = found
    body["effects"] = effects(change)
    return _sealed(body)


def issue_receipt(card: Card, item: IssueItem, found: LoadedItem) -> str:
    """JSON: the card as it was issued, which tells what was asked, and else its account's segment; the segment that was
    asked for, and the policy revision whose currency was compared."""
    return _sealed(
        {
            "now": card.issue_time,
            "method": "IssueCards",
            "request_id": item.request_id,
            "card": card,
            "asked_segment": item.segment,
            "policy_revision": f"{item.platform}@{found.policy_revision}",
            "policy_sha256": found.policy_sha256,
        }
    )


def verdict(change: Change) -> dict[str, Any] | None:
    """What risk made of the request; None where it had no say."""
    decision = change.decision
    if decision is None:
        return None
    return {
        "reason_codes": decision.reason_codes,
        "degraded_mode": decision.degraded_mode,
        "explored": decision.explored,
        "propensity": decision.propensity,
    }


def effects(change: Change) -> dict[str, Any]:
    """What `change` does beside the answer, which need not tell it: whatever is not None or empty. New things' ids are
    here, too."""
    recycling, transfer = change.recycling, change.transfer
    told: Mapping[str, Any] = {
        "card_event": change.card_event,
        "card_version": change.known_card().version if change.card_event else None,
        "recycling": None
        if recycling is None or not change.recycling_changed
        else {
            "recycling_id": recycling.recycling_id,
            "version": recycling.version,
            "state": recycling.state,
            "compensation_state": recycling.compensation and recycling.compensation.state,
            "settlement_held": recycling.settlement_held,
            "window_moved": recycling.window_moved,
        },
        "transfer": transfer and {"unit": transfer.unit, "amount": transfer.amount},
        "in_return": change.in_return
        and {
            "platform": change.in_return.platform,
            "unit": change.in_return.unit,
            "amount": change.in_return.amount,
        },
        "redemption_id": change.redemption and change.redemption.redemption_id,
        "opened": [each.review_id for each in change.reviews if each.state is ReviewState.OPEN],
        "ended": {str(each.review_id): each.state for each in change.reviews if each.state is not ReviewState.OPEN},
        "outcome": change.outcome,
        "valid_until": change.valid_until,
    }
    return {name: value for name, value in told.items() if value}


def seal_of(text: str) -> tuple[str | None, str]:
    """The seal that a receipt carries, None where it is from before there were any, and the seal that it should."""
    body, found, seal = text.rpartition(f',"{SEAL}":"')
    if not found:
        return None, ""
    return seal.removesuffix('"}'), hashlib.sha256(f"{body}}}".encode()).hexdigest()


def _sealed(body: Mapping[str, Any]) -> str:
    text = _encoder.encode(body)
    return f'{text[:-1].decode()},"{SEAL}":"{hashlib.sha256(text).hexdigest()}"}}'
