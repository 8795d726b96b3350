"""The receipt of a decision: all that it read, so that it can be replayed from the receipt alone.

Knows what a decision reads; must not know where receipts are kept. It holds no personal data: features are numbers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from server.domain.card import Card
from server.domain.commands import Command
from server.domain.snapshot import Change, Score
from server.engine.ports import Explanation, Loaded

_encoder = msgspec.json.Encoder()


def receipt(
    command: Command, loaded: Loaded, score: Score | None, change: Change, explanation: Explanation | None = None
) -> str:
    """JSON: the moment, what was asked, the snapshot's card, recycling, balances and reviews, the policy revision, the
    list hits, whether no device was named, the feature row, the lot, the score with its thresholds, model version,
    reason codes and what challengers said, how it came about, where that was asked; and what risk made of these."""
    snapshot = loaded.snapshot
    body: dict[str, Any] = {
        "now": snapshot.now,
        "method": command.method,
        "input": [None if part is None else str(part) for part in command.business_input()],
        "account_version": loaded.account_version,
        "card": snapshot.card,
        "recycling": snapshot.recycling,
        "balances": snapshot.wallet.balances,
        "reviews": snapshot.reviews,
        "policy_revision": snapshot.revision_name,
    }
    if snapshot.policy_until is not None:
        body["policy_until"] = snapshot.policy_until
    if snapshot.bonus:
        body["bonus"] = snapshot.bonus
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
    if (decision := change.decision) is not None:
        body["verdict"] = {
            "reason_codes": decision.reason_codes,
            "degraded_mode": decision.degraded_mode,
            "explored": decision.explored,
            "propensity": decision.propensity,
        }
    return _encoder.encode(body).decode()


def issue_receipt(card: Card) -> str:
    """JSON: the card as it was issued, which tells all that was read: its policy's currency, and the clock."""
    return _encoder.encode({"now": card.issue_time, "method": "IssueCards", "card": card}).decode()
