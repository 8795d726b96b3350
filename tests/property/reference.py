"""How accounts must fare, told a second time: from the platforms' rules in words, and not from the server's code.

Of the server it knows the commands, which say what is asked, and nothing else. Times are exact; `now` is an argument.
Nothing waits for being recorded: what time does has happened at its moment, a version for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from server.domain.commands import (
    Activate,
    BindDevice,
    Command,
    Compensate,
    Exchange,
    Grant,
    IssueItem,
    Lapse,
    Reactivate,
    Recycle,
    Redeem,
    Resolve,
    Void,
)
from tests.property.holdings import (
    DAY,
    POINT,
    Card,
    No,
    Quote,
    Recycling,
    Review,
    Terms,
    Told,
    base,
    best_disposition,
    card_says,
    price,
    price_steps,
    recycling_says,
)
from tests.property.market import Market
from tests.property.rules import COIN, Rules, best_discount, best_money, best_points
from tests.property.wallets import BEST_WORTH, WORTH, Wallet

REASONS = {"netflix": "EXPIRED", "iqiyi": "VOLUNTARY", "tencent": "SYSTEM_ANOMALY"}
TAKES = {"netflix": {"EXPIRED"}, "iqiyi": {"ISSUED", "ACTIVE"}, "tencent": {"ISSUED", "ACTIVE"}}
UNITS = {"netflix": "COUPON", "iqiyi": "COIN", "tencent": POINT}
LEASE = timedelta(minutes=15)
FACE_A_DAY = 2
"""Cards of tencent, whose points are worth something, have so much of face value a day at least."""
QUOTE_LIFE = timedelta(minutes=5)


@dataclass(frozen=True)
class Judged:
    """What the world thinks of a request: the `band` of its score, None without one, and the `lot` that the lottery has
    drawn, None without a device."""

    band: str | None
    lot: float | None


class Account:
    """One account. Every method is told the time, and lets pass what has passed by then."""

    def __init__(self, account_id: str, market: Market) -> None:
        self.account_id = account_id
        self.market = market
        self.segment: str | None = None
        self.trades: list[tuple[str, str, str, datetime]] = []
        """Platform, tier, ISSUED or REACTIVATED or RECYCLED, and when."""
        self.cards: dict[UUID, Card] = {}
        self.recyclings: dict[UUID, Recycling] = {}
        self.reviews: list[Review] = []
        self.quotes: list[Quote] = []
        self.accused = 0
        """How often a chargeback spoke against it, for want of a recycling."""
        self.wallet = Wallet()
        self.deeds: list[tuple[str, datetime, bytes | None]] = []
        """What caps count: the kind of request, when it was judged, and from which device."""
        self.seen: int | None = None
        """How many of the deeds a request sees that another server answers at the same time; None: all of them."""
        self.lists: dict[str, datetime | None] = {}
        self.answers: dict[UUID, tuple[Any, bytes]] = {}

    # Time

    def pass_time(self, now: datetime) -> None:
        """Holds that have ended by themselves are over, the request refused; then the card's own bounds run again."""
        for review in self.reviews:
            if review.state == "OPEN" and review.until is not None and review.until <= now:
                self._end(review, "EXPIRED", review.until)
        for card in self.cards.values():
            card.pass_time(now)

    def boundaries(self, now: datetime) -> Iterator[tuple[str, datetime]]:
        """The moments at which time alone will change something, each with what it ends."""
        for card in self.cards.values():
            if card.state in ("ISSUED", "ACTIVE") and card.bound is not None:
                yield "validity", card.bound
                yield "wait", card.bound + self.market.rules(card.platform, now).wait
            step = price_steps(card, now, self._terms(card, now)) if card.hold is None else None
            if step is not None:
                yield "price", step
        for recycling in self.recyclings.values():
            if recycling.state == "APPROVED" and recycling.card.state == "RECYCLED":
                yield "window", recycling.window_end
            if recycling.state == "APPROVED" and recycling.owed == "PENDING":
                yield "due", recycling.due
        for review in self.reviews:
            if review.state == "OPEN" and review.until is not None:
                yield "hold", review.until
            if review.state == "OPEN" and review.claim_until is not None:
                yield "claim", review.claim_until
        yield from self.wallet.boundaries(now)
        yield from (("quote", quote.until) for quote in self.quotes)
        yield from (("list", until) for until in self.lists.values() if until is not None)

    # What all must obey

    def apply(self, command: Command, judged: Judged, now: datetime) -> Told:
        """What `command` must answer, its effects kept unless it is a dry run. Raises No."""
        self.pass_time(now)
        match command:
            case Recycle():
                return self._recycle(command, judged, now)
            case Reactivate():
                return self._reactivate(command, judged, now)
            case Redeem():
                rules = self.market.rules(command.platform, now)
                return self.wallet.redeem(command, rules, self._listed(now), now)
            case Exchange():
                rules = self.market.rules(command.platform, now)
                return self.wallet.exchange(command, rules, self._listed(now))
            case Grant():
                return self.wallet.grant(command, self._recycling(command.recycling_id), self._listed(now), now)
            case Compensate():
                return self._compensate(command, now)
            case Activate():
                return self._activate(command, now)
            case BindDevice():
                return self._bind(command, now)
            case Void():
                return self._void(command, now)
            case Resolve():
                return self._resolve(command, now)
            case Lapse():
                return self._lapse(command)
        raise AssertionError(command)

    def issue(self, item: IssueItem, now: datetime) -> Told:
        """A new card."""
        if item.activate_by_time is not None and item.activate_by_time <= now:
            raise No("FIELD_INVALID")
        if item.platform == "tencent" and item.face_value_minor < FACE_A_DAY * item.duration_days:
            raise No("FIELD_INVALID")
        self.segment = item.segment or self.segment
        card = Card(
            card_id=item.request_id,
            platform=item.platform,
            tier=item.tier,
            face=item.face_value_minor,
            paid=item.paid_minor,
            days=item.duration_days,
            bound=item.activate_by_time,
        )
        self.trades.append((card.platform, card.tier, "ISSUED", now))
        return Told({**card_says(card, now, ""), "paid_minor": item.paid_minor, "tier": f"TIER_{item.tier}"}, card)

    def worth(self, now: datetime) -> int:
        """V: what the account holds and has got, is owed and can still get of its cards under the best of revisions and
        bonuses, in `WORTH`s of a minor unit."""
        total = self.wallet.worth(now)
        for recycling in self.recyclings.values():
            if recycling.state == "APPROVED" and recycling.owed == "PENDING":
                total += _value(recycling)
        return total + sum(self._future(card, now) for card in self.cards.values() if card.state != "VOID")

    def _future(self, card: Card, now: datetime) -> int:
        """The largest payout that a card can still bring, beyond what is owed for it already, less what it must give
        back for that."""
        if card.state != "RECYCLED":
            expired = card.state_at(now) == "EXPIRED" and card.platform != "netflix"
            return 0 if expired else self._best(card, card.unused_at(now))
        taken = card.taken_by
        assert taken is not None
        open_hold = card.hold is not None
        if card.platform == "tencent" or not (open_hold or now < taken.window_end):
            return 0
        counted = _value(taken) if taken.owed in ("PENDING", "SETTLED") else 0
        return max(0, self._best(card, taken.unused) - counted)

    def _best(self, card: Card, unused: timedelta) -> int:
        """The best that such a card can be paid."""
        if card.platform == "iqiyi":
            return base(card, unused) * best_money(card.tier) * BEST_WORTH[COIN] // 10_000
        if card.platform == "tencent":
            points = unused // DAY * best_points(card.tier) if card.renewals == 0 else 0
            return points * BEST_WORTH["tencent", POINT] // 10_000
        return card.paid * best_discount() * WORTH // 10_000

    # Cards

    def _card(self, card_id: UUID | None) -> Card:
        if card_id not in self.cards or card_id is None:
            raise No("CARD_NOT_FOUND")
        return self.cards[card_id]

    def _activate(self, command: Activate, now: datetime) -> Told:
        card = self._card(command.card_id)
        if command.etag and command.etag != f"v{card.version}":
            raise No("ETAG_MISMATCH")
        if card.state_at(now) != "ISSUED" or card.hold:
            raise No("CARD_STATE_INVALID")
        card.state, card.activated, card.bound, card.version = "ACTIVE", True, now + card.days * DAY, card.version + 1
        self._done("ACTIVATE", command, now)
        return Told(card_says(card, now))

    def _bind(self, command: BindDevice, now: datetime) -> Told:
        card, device = self._card(command.card_id), command.circumstances.device_hash
        assert device is not None
        if command.etag and command.etag != f"v{card.version}":
            raise No("ETAG_MISMATCH")
        if card.hold or card.state_at(now) not in ("ISSUED", "ACTIVE"):
            raise No("CARD_STATE_INVALID")
        if device not in card.devices:
            if len(card.devices) >= self.market.rules(card.platform, now).devices_max:
                raise No("LIMIT_EXCEEDED")
            card.devices.append(device)
            card.version += 1
        return Told(card_says(card, now))

    def _void(self, command: Void, now: datetime) -> Told:
        card = self._card(command.card_id)
        if command.etag and command.etag != f"v{card.version}":
            raise No("ETAG_MISMATCH")
        taken = card.taken_by
        if card.hold is not None and card.hold.kind == "RECYCLE":
            taken = card.hold.recycling
        blocks = taken is not None and taken.state == "APPROVED" and taken.owed == "PENDING"
        blocks = blocks and command.reason in ("REFUNDED", "CHARGEBACK")
        # What a bank takes back is told once of each recycling, or of a card without one, even of one that has ended.
        tells = command.reason == "CHARGEBACK" and not (card if taken is None else taken).charged_back
        if card.state == "VOID" and not blocks and not tells:
            raise No("CARD_STATE_INVALID")
        if tells:
            card.charged_back = True
            if taken is None:
                self.accused += 1
            else:
                taken.charged_back = True
        if card.hold is not None:
            if card.hold.kind == "RECYCLE":
                card.hold.recycling.reject()
            card.hold.state, card.hold = "CLOSED", None
        if blocks and taken is not None:
            taken.owed = "BLOCKED"
            self._close_settlement(taken)
        if card.state != "VOID":
            card.state, card.version = "VOID", card.version + 1
        return Told(card_says(card, now))

    # Recycling and back

    def _recycle(self, command: Recycle, judged: Judged, now: datetime) -> Told:
        card = self._card(command.card_id)
        state, rules = card.state_at(now), self.market.rules(card.platform, now)
        if card.taken_by is not None:
            raise No("CARD_ALREADY_RECYCLED")
        if card.hold is not None or state not in TAKES[card.platform]:
            raise No("CARD_STATE_INVALID")
        if command.reason != REASONS[card.platform] or (command.automatic and not rules.automatic):
            raise No("TRIGGER_NOT_ALLOWED")
        if state == "EXPIRED" and card.bound is not None and now < card.bound + rules.wait:
            raise No("TRIGGER_NOT_ALLOWED")
        terms = self._terms(card, now, command.unit)
        if command.quote_token:
            found = [quote for quote in self.quotes if quote.token == command.quote_token]
            if not found or found[0].card is not card or found[0].version != card.version:
                raise No("QUOTE_STALE")
            if now >= found[0].until or found[0].terms != self._quoted(terms):
                raise No("QUOTE_STALE")
            if found[0].disposition != best_disposition(card, self.segment, now, rules):
                raise No("QUOTE_STALE")
        score = judged.band
        if command.automatic and score is None:
            raise No("FRAUD_SCORE_UNAVAILABLE")
        # An anomaly is never refused, nor what the service does by itself; it only waits for its payment.
        may_refuse = card.platform != "tencent" and not command.automatic
        explored = may_refuse and self._explores(rules, judged, card, now)
        asked, waits = self._risk(
            rules, "LOW" if explored else score, now, command.without_device, may_refuse=may_refuse
        )
        self._done("AUTO_RECYCLE" if command.automatic else "RECYCLE", command, now)
        action = asked if may_refuse else "APPROVE"
        refused = any(each.card is card and each.state == "REJECTED" for each in self.recyclings.values())
        waits = waits or (command.automatic and refused)
        recycling = Recycling(
            recycling_id=command.card_id or UUID(int=0),
            card=card,
            state={"APPROVE": "APPROVED", "HOLD": "IN_REVIEW", "REFUSE": "REJECTED"}[action],
            disposition=best_disposition(card, self.segment, now, rules),
            fee=terms.fee,
            amount=terms.amount,
            cap=terms.cap,
            owed="PENDING" if terms.amount else "",
            settlement_held=action == "APPROVE" and (score is None or waits or asked != "APPROVE"),
            created=now,
            unused=card.unused_at(now),
            rules=rules,
            unit=terms.unit,
            coupon_until=now + rules.coupon_life if terms.cap else None,
            due=now + (rules.exploration.later if explored and rules.exploration else timedelta(0)),
        )
        if action == "REFUSE":
            recycling.reject()
        instant = rules.instant.get(self.segment or "", 0)
        at_once = action == "APPROVE" and score == "LOW" and not recycling.settlement_held
        if at_once and recycling.owed and recycling.amount <= instant:
            recycling.owed = "SETTLED"
        says = {**recycling_says(recycling, "recycling."), "recycling.version": 1}
        if command.quote and action != "REFUSE":
            ends = (
                now + QUOTE_LIFE,
                price_steps(card, now, terms),
                card.bound if card.state_at(now) != "EXPIRED" else None,
                self.market.changes(card.platform, now),
                self.market.period_ends(rules, now),
            )
            until = min(end for end in ends if end is not None)
            made = Quote("", card, card.version, self._quoted(terms), recycling.disposition, until)
            return Told({**says, "quote_expire_time": until}, made)
        if command.dry_run:
            return Told(says)
        if action == "APPROVE":
            self._take(card, recycling, now)
        if recycling.owed == "SETTLED":
            self._pay(recycling)
        if action == "HOLD":
            self._hold(card, Review("RECYCLE", recycling, now, now + rules.hold))
        elif recycling.settlement_held and recycling.amount:
            self.reviews.append(Review("SETTLEMENT", recycling, now, None))
        return Told(says, recycling)

    def is_due(self, card: Card, now: datetime) -> bool:
        """Whether the service should recycle the card by itself."""
        rules = self.market.rules(card.platform, now)
        free = card.taken_by is None and card.hold is None and card.state_at(now) == "EXPIRED"
        return rules.automatic and free and card.bound is not None and card.bound + rules.wait <= now

    def _terms(self, card: Card, now: datetime, unit: str | None = None) -> Terms:
        """The price now. Raises No where the unit is not offered."""
        rules, share = self.market.rules(card.platform, now), None
        if unit is not None and unit != UNITS[card.platform]:
            share = rules.shares.get(self.segment or "") if unit == POINT else None
            if share is None:
                raise No("FIELD_INVALID")
        return price(card, now, rules, self.market.bonus(card.platform, card.tier, now), share)

    def _quoted(self, terms: Terms) -> tuple[Any, ...]:
        """What a quote binds: the revision, too, even where another would say the same."""
        return (terms.fee, terms.amount, terms.cap, terms.unit if terms.amount else "", terms.rules)

    def _reactivate(self, command: Reactivate, judged: Judged, now: datetime) -> Told:
        recycling = self._recycling(command.recycling_id)
        card = recycling.card
        self._check_way_back(recycling, now)
        if card.hold is not None:
            raise No("CARD_STATE_INVALID")
        rules = recycling.rules
        action, _ = self._risk(rules, judged.band, now, command.without_device, may_refuse=True, settles=False)
        self._done("REACTIVATE", command, now)
        state = {"APPROVE": "APPROVED", "HOLD": "IN_REVIEW", "REFUSE": "REJECTED"}[action]
        says: dict[str, Any] = {"state": f"REACTIVATION_STATE_{state}"}
        if command.dry_run:
            return Told(says)
        if action == "APPROVE":
            self._give_back(recycling, now)
        elif action == "HOLD":
            self._hold(card, Review("REACTIVATE", recycling, now, now + rules.hold))
            recycling.moved += rules.hold
        return Told({**says, **card_says(card, now), **recycling_says(recycling, "recycling.")})

    def _check_way_back(self, recycling: Recycling, now: datetime) -> None:
        card = recycling.card
        if recycling.state != "APPROVED":
            raise No("RECYCLING_STATE_INVALID")
        if card.platform == "netflix":
            raise No("REACTIVATION_NOT_ALLOWED")
        if card.platform == "tencent" and card.renewals:
            raise No("RENEWALS_EXHAUSTED")
        if recycling.disposition != {"iqiyi": "VOUCHER", "tencent": "RESET_VALIDITY"}[card.platform]:
            raise No("REACTIVATION_NOT_ALLOWED")
        if now >= recycling.window_end:
            raise No("REACTIVATION_WINDOW_CLOSED")
        if card.state != "RECYCLED":
            raise No("CARD_STATE_INVALID")
        if recycling.owed == "SETTLED" and self.wallet.held[card.platform, recycling.unit] < recycling.amount:
            raise No("COMPENSATION_SPENT")

    def _give_back(self, recycling: Recycling, now: datetime) -> None:
        card = recycling.card
        if recycling.owed == "SETTLED":
            self.wallet.held[card.platform, recycling.unit] -= recycling.amount
        recycling.owed = {"SETTLED": "CLAWED_BACK", "PENDING": "CANCELLED"}.get(recycling.owed, recycling.owed)
        recycling.state = "REVERSED"
        self._close_settlement(recycling)
        card.taken_by, card.hold, card.expired = None, None, False
        self.trades.append((card.platform, card.tier, "REACTIVATED", now))
        card.generation += 1
        card.version += 1
        if card.platform == "tencent":
            card.state, card.activated, card.bound = "ACTIVE", True, now + card.days * DAY
            card.renewals += 1
        elif card.activated:
            card.state, card.bound = "ACTIVE", now + recycling.unused
        else:
            card.state = "ISSUED"
            card.bound = None if card.bound is None else card.bound + (now - recycling.created)

    def _compensate(self, command: Compensate, now: datetime) -> Told:
        recycling = self._recycling(command.recycling_id)
        if recycling.state != "APPROVED" or not recycling.owed:
            raise No("RECYCLING_STATE_INVALID")
        if recycling.owed != "PENDING":
            raise No({"SETTLED": "ALREADY_COMPENSATED", "BLOCKED": "COMPENSATION_BLOCKED"}[recycling.owed])
        held = recycling.settlement_held or recycling.card.hold is not None
        if held or now < recycling.due or "DENY" in self._listed(now):
            raise No("SETTLEMENT_NOT_DUE")
        if command.dry_run:
            return Told({})
        recycling.owed = "SETTLED"
        self._pay(recycling)
        self._done("COMPENSATE", command, now)
        return Told(recycling_says(recycling, "recycling."))

    def _pay(self, recycling: Recycling) -> None:
        if recycling.coupon_until is not None:
            self.wallet.coupons.append(recycling)
        else:
            self.wallet.held[recycling.platform, recycling.unit] += recycling.amount

    # Reviews

    def _resolve(self, command: Resolve, now: datetime) -> Told:
        review = next((each for each in self.reviews if each.review_id == command.review_id), None)
        if review is None:
            raise No("REVIEW_NOT_FOUND")
        if review.state != "OPEN":
            raise No("REVIEW_STATE_INVALID")
        if review.claim_until is not None and now < review.claim_until and review.reviewer != command.reviewer:
            raise No("REVIEW_CLAIMED")
        recycling, approved = review.recycling, command.verdict == "APPROVE"
        if review.kind == "REACTIVATE" and approved:
            self._check_way_back(recycling, now)
        self._end(review, "APPROVED" if approved else "DENIED", now)
        return Told(
            {
                "review.state": f"REVIEW_STATE_{review.state}",
                **recycling_says(recycling, "recycling."),
                **card_says(recycling.card, now),
            }
        )

    def _lapse(self, command: Lapse) -> Told:
        review = next((each for each in self.reviews if each.review_id == command.review_id), None)
        if review is None or review.state != "EXPIRED":
            raise No("REVIEW_NOT_FOUND" if review is None else "REVIEW_STATE_INVALID")
        return Told({"review.state": "REVIEW_STATE_EXPIRED"})

    def claim(self, review: Review, reviewer: str, now: datetime) -> bool:
        """Whether `reviewer` gets the review."""
        self.pass_time(now)
        taken = review.claim_until is not None and now < review.claim_until and review.reviewer != reviewer
        if review.state != "OPEN" or taken:
            return False
        review.reviewer, review.claim_until = reviewer, now + LEASE
        return True

    def _end(self, review: Review, state: str, moment: datetime) -> None:
        review.state = state
        recycling, card, granted = review.recycling, review.recycling.card, state == "APPROVED"
        if review.kind == "SETTLEMENT":
            recycling.settlement_held = False
            recycling.owed = recycling.owed if granted else "BLOCKED"
        elif review.kind == "RECYCLE" and granted:
            recycling.state = "APPROVED"
            self._take(card, recycling, moment)
        elif review.kind == "RECYCLE":
            recycling.reject()
            card.release(moment)
        elif granted:
            self._give_back(recycling, moment)
        else:
            assert review.until is not None
            recycling.moved -= review.until - moment
            card.release(moment)

    # Parts

    def _recycling(self, recycling_id: UUID | None) -> Recycling:
        if recycling_id is None or recycling_id not in self.recyclings:
            raise No("RECYCLING_NOT_FOUND")
        return self.recyclings[recycling_id]

    def _listed(self, now: datetime) -> set[str]:
        return {kind for kind, until in self.lists.items() if until is None or now < until}

    def _risk(
        self, rules: Rules, score: str | None, now: datetime, nameless: bool, *, may_refuse: bool, settles: bool = True
    ) -> tuple[str, bool]:
        """What risk asks for, and whether settlement must wait in any case: lists over band and missing device; no
        score is what the revision says it is."""
        listed = self._listed(now)
        if "DENY" in listed:
            return "REFUSE", False
        if score is None and may_refuse and rules.without_score == "REJECT":
            raise No("FRAUD_SCORE_UNAVAILABLE")
        asks = {{"LOW": "APPROVE", "MEDIUM": "HOLD", "HIGH": "REFUSE", None: "APPROVE"}[score]}
        waits = False
        if nameless and rules.without_device == "HOLD_SETTLEMENT":
            waits = settles
            asks.add("APPROVE" if settles else "HOLD")
        elif nameless:
            asks.add(rules.without_device)
        asks |= self._capped(rules, now)
        if "ALLOW" in listed:
            asks, waits = set(), False
        if "WATCH" in listed or (score is None and may_refuse and rules.without_score == "HOLD"):
            asks.add("HOLD")
        return next((action for action in ("REFUSE", "HOLD") if action in asks), "APPROVE"), waits

    def _capped(self, rules: Rules, now: datetime) -> set[str]:
        """What the caps ask for that are reached."""
        return {cap.action for cap in rules.caps if self._counted(cap.counter, now) >= cap.most}

    def _counted(self, counter: str, now: datetime) -> int:
        deeds = self.deeds[: self.seen]
        if counter == "account_devices_30d":
            first = {device: moment for _, moment, device in reversed(deeds) if device is not None}
            return sum(moment >= now - 30 * DAY for moment in first.values())
        wanted, span = {
            "account_recycles_1h": ("RECYCLE", timedelta(hours=1)),
            "account_recycles_24h": ("RECYCLE", DAY),
            "account_reactivations_30d": ("REACTIVATE", 30 * DAY),
        }[counter]
        return sum(kind == wanted and moment >= now - span for kind, moment, _ in deeds)

    def _explores(self, rules: Rules, judged: Judged, card: Card, now: datetime) -> bool:
        """Whether the lottery lets a request through that nothing but its band speaks against."""
        rule, lot = rules.exploration, judged.lot
        if rule is None or lot is None or judged.band != "HIGH" or card.paid > rule.paid_max:
            return False
        return lot < rule.share / 10_000 and not self._listed(now) and not self._capped(rules, now)

    def _done(self, kind: str, command: Command, now: datetime) -> None:
        """Caps count it from now on, a dry run too."""
        self.deeds.append((kind, now, command.circumstances.device_hash))

    def _take(self, card: Card, recycling: Recycling, now: datetime) -> None:
        card.state = "VOID" if recycling.disposition == "CANCEL" else "RECYCLED"
        card.taken_by, card.hold, card.version = recycling, None, card.version + 1
        self.trades.append((card.platform, card.tier, "RECYCLED", now))

    def _hold(self, card: Card, review: Review) -> None:
        card.hold, card.version = review, card.version + 1
        self.reviews.append(review)

    def _close_settlement(self, recycling: Recycling) -> None:
        for review in self.reviews:
            if review.recycling is recycling and review.kind == "SETTLEMENT" and review.state == "OPEN":
                review.state = "CLOSED"


def _value(recycling: Recycling) -> int:
    """What it pays, as a worth."""
    if recycling.cap:
        return recycling.cap * WORTH
    return recycling.amount * BEST_WORTH[recycling.platform, recycling.unit] if recycling.amount else 0
