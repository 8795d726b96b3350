"""Cards, policies and an account in memory, for tests of the pure core. Needs no store and no worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import Any
from uuid import UUID

import pytest

from server.domain.card import DAY, Card, CardState, VoidReason
from server.domain.commands import Activate, Command, Compensate, Reactivate, Recycle, Resolve, Void
from server.domain.decision import check, decide
from server.domain.elapsed import overdue
from server.domain.errors import Reason, Refusal
from server.domain.outcome import OutcomeKind
from server.domain.policy import Policy
from server.domain.quote import QuoteSigner
from server.domain.recycling import Compensation, RecycleReason, Recycling, RecyclingState, Wallet
from server.domain.review import Review, ReviewState, ReviewVerdict
from server.domain.snapshot import Change, RiskFacts, Score, Snapshot
from server.store.policy_document import parse_policy

NOW = datetime(2030, 5, 17, 8, 30, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
ACCOUNT_ID = "account-1"
REQUEST_ID = UUID("01900000-0000-7000-8000-0000000000aa")
CARD_ID = UUID("01900000-0000-7000-8000-0000000000bb")
RECYCLING_ID = UUID("01900000-0000-7000-8000-0000000000cc")
SIGNER = QuoteSigner(b"a quote key of tests")
PLATFORMS = ("netflix", "iqiyi", "tencent")


def scored(probability: float) -> Score:
    """A score under thresholds 0.5 and 0.9."""
    return Score(probability=probability, medium_threshold=0.5, high_threshold=0.9, model_version="model-1")


LOW, MEDIUM, HIGH = scored(0.1), scored(0.5), scored(0.9)


def document(platform: str) -> dict[str, Any]:
    """A shipped policy as JSON."""
    body: dict[str, Any] = json.loads(files("policies").joinpath(f"{platform}.json").read_text("utf-8"))
    return body


@cache
def shipped(platform: str) -> Policy:
    """A shipped policy."""
    return parse_policy(json.dumps(document(platform)))


def issued(platform: str = "iqiyi", **changes: Any) -> Card:
    """An ISSUED card: 30 days for 2,999, issued a day before NOW, to be activated whenever."""
    fields: dict[str, Any] = {
        "card_id": CARD_ID,
        "account_id": ACCOUNT_ID,
        "external_serial": None,
        "platform": platform,
        "tier": "BASIC",
        "segment": None,
        "state": CardState.ISSUED,
        "face_value_minor": 2_999,
        "paid_minor": 2_999,
        "currency": "CNY",
        "duration_days": 30,
        "issue_time": NOW - DAY,
        "activate_by_time": None,
        "activate_time": None,
        "expire_time": None,
        "generation": 1,
        "renewals_used": 0,
        "live_recycling_id": None,
        "version": 1,
    }
    return Card(**(fields | changes))


def active(platform: str = "iqiyi", *, unused: timedelta, now: datetime = NOW, **changes: Any) -> Card:
    """An ACTIVE card with `unused` left at `now`; with a negative `unused` it has expired so long ago."""
    days: int = changes.get("duration_days", 30)
    times = {"activate_time": now + unused - days * DAY, "expire_time": now + unused}
    return issued(platform, state=CardState.ACTIVE, version=2, **(times | changes))


def own_reason(policy: Policy) -> RecycleReason:
    """A reason for which `policy` takes cards back."""
    return policy.trigger.reasons[0]


class Account:
    """One account in memory: commands pass `check` and `decide`, and what they change is kept.

    `now` moves, and `facts` change, at will.
    """

    def __init__(self, *cards: Card, policies: dict[str, Policy] | None = None, now: datetime = NOW) -> None:
        self.now = now
        self.cards = {card.card_id: card for card in cards}
        self.recyclings: dict[UUID, Recycling] = {}
        self.reviews: dict[UUID, Review] = {}
        self.wallet = Wallet(account_id=ACCOUNT_ID, balances=(), coupons=())
        self.policies = policies or {platform: shipped(platform) for platform in PLATFORMS}
        self.facts = RiskFacts()
        self.charged_back: set[UUID] = set()
        self._last_id = 0

    @property
    def card(self) -> Card:
        """The first card."""
        return next(iter(self.cards.values()))

    @property
    def recycling(self) -> Recycling:
        """The newest recycling."""
        return list(self.recyclings.values())[-1]

    @property
    def review(self) -> Review:
        """The newest review."""
        return list(self.reviews.values())[-1]

    @property
    def compensation(self) -> Compensation:
        """What the newest recycling pays."""
        assert self.recycling.compensation is not None
        return self.recycling.compensation

    def new_id(self) -> UUID:
        """An id not given before."""
        self._last_id += 1
        return UUID(int=RECYCLING_ID.int + self._last_id)

    def snapshot(self, command: Command) -> Snapshot:
        """What a store would load for `command`."""
        named = self.recyclings.get(command.recycling_id) if command.recycling_id else None
        card_id = command.card_id or (named.card_id if named else None)
        card = self.cards.get(card_id) if card_id else None
        reviews = tuple(
            review
            for review in self.reviews.values()
            if review.card_id == card_id and (review.state is ReviewState.OPEN or review.review_id == command.review_id)
        )
        held_for = next((r.recycling_id for r in reviews if r.state is ReviewState.OPEN and r.holds_card), None)
        live = (card.live_recycling_id or held_for) if card else None
        recycling = named if command.recycling_id else self.recyclings.get(live) if live else None
        return Snapshot(
            now=self.now,
            card=card,
            recycling=recycling,
            policy=self.policies[card.platform].for_tier(card.tier) if card else None,
            policy_revision=1 if card else None,
            wallet=self.wallet,
            facts=self.facts,
            reviews=reviews,
            refused_before=isinstance(command, Recycle) and command.automatic and self._has_refused(card),
            charged_back=(recycling.recycling_id if recycling else command.card_id) in self.charged_back,
        )

    def _has_refused(self, card: Card | None) -> bool:
        return any(
            card is not None
            and (each.card_id, each.generation) == (card.card_id, card.generation)
            and each.at(self.now).state is RecyclingState.REJECTED
            for each in self.recyclings.values()
        )

    def run(self, command: Command, score: Score | None = LOW) -> Change:
        """Checks, decides and keeps the change, and what time has done before. Raises Refusal as the service would."""
        while (due := overdue(self.snapshot(command))) is not None and due != command:
            self.run(due)
        snapshot = self.snapshot(command)
        check(command, snapshot, SIGNER)
        change = decide(command, snapshot, score, recycling_id=self.new_id(), review_id=self.new_id(), signer=SIGNER)
        if not command.dry_run:
            self._keep(change)
        return change

    def _keep(self, change: Change) -> None:
        if change.card is not None:
            self.cards[change.card.card_id] = change.card
        if change.recycling is not None and change.recycling_changed:
            assert change.recycling.recycling_id is not None
            self.recyclings[change.recycling.recycling_id] = change.recycling
        if change.outcome is OutcomeKind.CHARGEBACK:
            self.charged_back.add(change.known_card().card_id)
            if change.recycling is not None:
                assert change.recycling.recycling_id is not None
                self.charged_back.add(change.recycling.recycling_id)
        self.reviews |= {review.review_id: review for review in change.reviews}
        if (transfer := change.transfer) is not None:
            self.wallet = self.wallet.after(transfer.platform, transfer.unit, transfer.amount, transfer.coupon)

    # The commands, each on the first card or the newest recycling unless told otherwise

    def recycle(self, score: Score | None = LOW, *, card: Card | None = None, **fields: Any) -> Change:
        """Recycles for the policy's own reason."""
        chosen = card or self.card
        reason = fields.pop("reason", own_reason(self.policies[chosen.platform]))
        fields = {"request_id": self.new_id()} | fields
        return self.run(Recycle(account_id=ACCOUNT_ID, card_id=chosen.card_id, reason=reason, **fields), score)

    def quote(self, score: Score | None = LOW, **fields: Any) -> Change:
        """Asks for a quote."""
        return self.recycle(score, request_id=None, quote=True, dry_run=True, **fields)

    def reactivate(self, score: Score | None = LOW, *, recycling: Recycling | None = None, **fields: Any) -> Change:
        """Undoes a recycling."""
        named = (recycling or self.recycling).recycling_id
        return self.run(
            Reactivate(request_id=self.new_id(), account_id=ACCOUNT_ID, recycling_id=named, **fields), score
        )

    def compensate(self, *, recycling: Recycling | None = None, **fields: Any) -> Change:
        """Settles a compensation."""
        named = (recycling or self.recycling).recycling_id
        return self.run(Compensate(request_id=self.new_id(), account_id=ACCOUNT_ID, recycling_id=named, **fields))

    def activate(self, *, card: Card | None = None, **fields: Any) -> Change:
        """Activates a card."""
        chosen = (card or self.card).card_id
        return self.run(Activate(request_id=self.new_id(), account_id=ACCOUNT_ID, card_id=chosen, **fields))

    def void(self, reason: VoidReason = VoidReason.CHARGEBACK, *, card: Card | None = None, **fields: Any) -> Change:
        """Ends a card."""
        chosen = (card or self.card).card_id
        return self.run(Void(request_id=self.new_id(), account_id=ACCOUNT_ID, card_id=chosen, reason=reason, **fields))

    def resolve(
        self, verdict: ReviewVerdict = ReviewVerdict.APPROVE, *, review: Review | None = None, **fields: Any
    ) -> Change:
        """Gives a verdict on a review."""
        named = review or self.review
        usual: dict[str, Any] = {"request_id": self.new_id(), "reviewer": "reviewer-1"}
        return self.run(
            Resolve(
                account_id=ACCOUNT_ID,
                recycling_id=named.recycling_id,
                review_id=named.review_id,
                verdict=verdict,
                **(usual | fields),
            )
        )


@contextmanager
def refused(reason: Reason) -> Iterator[None]:
    """The block must raise a Refusal for `reason`."""
    with pytest.raises(Refusal) as caught:
        yield
    assert caught.value.reason is reason
