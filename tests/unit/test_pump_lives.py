"""The money-pump check against lives of a card under two revisions, played by the real rules."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from server.domain.card import DAY, Card, CardState
from server.domain.commands import Command, Compensate, Reactivate, Recycle
from server.domain.decision import check, decide
from server.domain.errors import Refusal
from server.domain.policy import Policy
from server.domain.pump import find_pump
from server.domain.recycling import Recycling, Unit, Wallet
from server.domain.snapshot import Snapshot
from server.store.policy_document import parse_policy
from tests.builders import ACCOUNT_ID, LOW, NOW, SIGNER, active, document, issued, own_reason

DAYS = 40
ZERO = timedelta(0)


@st.composite
def revisions(draw: st.DrawFn) -> Policy:
    """A revision of one platform: a refund, or points for each day, that may come back and may be changed."""
    by_day = draw(st.booleans())
    body: dict[str, Any] = document("tencent" if by_day else "iqiyi") | {
        "platform": "one",
        "pricing": None,
        "segments": {},
    }
    body["trigger"] = {"reasons": ["VOLUNTARY"], "card_states": ["ISSUED", "ACTIVE"]}
    body["tiers"] = {}
    body["face_value_per_day_min"] = draw(st.integers(1, 30))
    body["risk"] = {"never_refused_reasons": [], "without_score": "HOLD"}
    if by_day:
        body["compensation"]["renewed_card_earns"] = draw(st.booleans())
        other = "COIN"
    else:
        body["fee_basis_points"] = draw(st.sampled_from([0, 1_000]))
        other = "GROWTH_POINT"
    if draw(st.booleans()):
        body["segments"] = {"MIDDLE": {"units": [{"unit": other, "basis_points": draw(st.integers(1, 30)) * 1_000}]}}
    if draw(st.booleans()):
        full = draw(st.booleans())
        body["reactivation"] = {
            "dispositions": ["RESET_VALIDITY"],
            "window_days": draw(st.sampled_from([1, 180])),
            "validity": "FULL" if full else "AS_TAKEN",
            "renewals_max": 2,
        }
        body["dispositions"] = document("tencent")["dispositions"]
    else:
        body["reactivation"] = None
        body["dispositions"] = [document("tencent")["dispositions"][1]]
    if draw(st.booleans()):
        give, get = draw(st.integers(1, 6)), draw(st.integers(1, 6))
        body["exchange"] = [
            {"unit": "GROWTH_POINT", "to_platform": "one", "to_unit": "COIN", "give": give, "get": get,
             "spread_basis_points": draw(st.sampled_from([0, 1_000])), "amount_max": 10**9}
        ]  # fmt: skip
    return parse_policy(json.dumps(body))


@dataclass
class Life:
    """A card and its owner's wallet; `governs` is the revision in force, by its place."""

    policies: tuple[Policy, ...]
    card: Card
    now: datetime = NOW
    governs: int = 0
    recycling: Recycling | None = None
    wallet: Wallet = field(default_factory=lambda: Wallet(account_id=ACCOUNT_ID, balances=(), coupons=()))

    def do(self, command: Command) -> None:
        """One command, if the rules let it happen. What was recycled keeps its revision."""
        own = self.governs if isinstance(command, Recycle) or self.recycling is None else self.recycling.policy_revision
        policy = self.policies[own].for_tier(self.card.tier)
        snapshot = Snapshot(
            now=self.now, card=self.card, recycling=None if isinstance(command, Recycle) else self.recycling,
            policy=policy, policy_revision=own, wallet=self.wallet,
        )  # fmt: skip
        try:
            check(command, snapshot, SIGNER)
            change = decide(command, snapshot, LOW, recycling_id=uuid.uuid4(), review_id=uuid.uuid4(), signer=SIGNER)
        except Refusal:
            return
        assert change.card is not None
        self.card, self.recycling = change.card, change.recycling or self.recycling
        if (moved := change.transfer) is not None:
            self.wallet = self.wallet.after(moved.platform, moved.unit, moved.amount, moved.coupon)

    def worth(self) -> int:
        """The most that the wallet can be made into, by the exchanges of both revisions."""
        points = self.wallet.amount("one", Unit.GROWTH_POINT)
        changed = [rate.changed(points) for policy in self.policies for rate in policy.exchange]
        return self.wallet.amount("one", Unit.COIN) + max(changed, default=0)

    def play(self, step: str) -> None:
        """One step of what can happen to a card."""
        ids: dict[str, Any] = {"request_id": uuid.uuid4(), "account_id": ACCOUNT_ID}
        undone = self.recycling.recycling_id if self.recycling else None
        match step:
            case "wait":
                self.now += timedelta(days=13)
            case "switch":
                self.governs = 1 - self.governs
            case "settle" if undone:
                self.do(Compensate(recycling_id=undone, **ids))
            case "back" if undone:
                self.do(Reactivate(recycling_id=undone, **ids))
            case "activate" if self.card.state is CardState.ISSUED:
                self.card = replace(
                    self.card, state=CardState.ACTIVE, activate_time=self.now, expire_time=self.now + DAYS * DAY
                )
            case "COIN" | "GROWTH_POINT":
                reason = own_reason(self.policies[0])
                self.do(Recycle(card_id=self.card.card_id, reason=reason, unit=Unit(step), **ids))


STEPS = ("COIN", "GROWTH_POINT", "settle", "back", "wait", "switch", "activate")


def cards(policies: tuple[Policy, ...]) -> Iterator[Card]:
    """The cheapest that each revision lets be issued, new or nearly used up."""
    for policy in policies:
        price = policy.face_value_per_day_min * DAYS
        terms: dict[str, Any] = {
            "segment": "MIDDLE", "duration_days": DAYS, "paid_minor": price, "face_value_minor": price
        }  # fmt: skip
        yield issued("one", **terms)
        yield active("one", unused=2 * DAY, **terms)


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(revisions(), revisions()),
    st.lists(st.lists(st.sampled_from(STEPS), min_size=4, max_size=16), min_size=1, max_size=6),
)
def test_no_life_under_sound_revisions_pays_more_than_its_card(
    policies: tuple[Policy, Policy], lives: list[list[str]]
) -> None:
    """Whichever revision governs when, however often a card comes back: what it leaves is never worth more than its
    price, nor what it pays in all more than that of the validity it had."""
    if find_pump(policies) is not None:
        event("pumpable")
        return
    event("sound")
    for card in cards(policies):
        for steps in lives:
            life = Life(policies=policies, card=card)
            for step in steps:
                life.play(step)
                unused = card.unused_at(NOW)
                assert life.worth() <= card.face_value_minor * unused / card.duration, steps
