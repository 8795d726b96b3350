"""One account of a sequence and those who act for it: operations become commands. Knows no answer."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from server.domain.card import VoidReason
from server.domain.commands import (
    Activate,
    BindDevice,
    Circumstances,
    Command,
    Compensate,
    Exchange,
    Grant,
    IssueItem,
    Lapse,
    OwnCommand,
    Reactivate,
    Recycle,
    Redeem,
    Resolve,
    Void,
    own_request_id,
)
from server.domain.recycling import RecycleReason, Unit
from server.domain.review import ReviewVerdict
from tests.integration.world import item
from tests.property import reference
from tests.property.holdings import Card, Recycling, Review
from tests.property.operations import AT, Kind, Operation
from tests.property.reference import Account
from tests.property.rules import PLATFORMS, REVISIONS

SIGNALS: dict[str, dict[str, bool]] = {"LOW": {}, "MEDIUM": {"emulator": True}, "HIGH": {"vpn": True}}
"""How a request tells the scorer of the tests what to say."""
PAIRS = [
    (Kind.RECYCLE, None),
    (Kind.RECYCLE, Kind.RECYCLE),
    (Kind.COMPENSATE, Kind.REACTIVATE),
    (Kind.RECYCLE, Kind.VOID),
    (Kind.ACTIVATE, Kind.RECYCLE),
    (Kind.REACTIVATE, Kind.REACTIVATE),
    (Kind.COMPENSATE, Kind.COMPENSATE),
    (Kind.RESOLVE, Kind.VOID),
    (Kind.COMPENSATE, Kind.VOID),
    (Kind.REACTIVATE, None),
    (Kind.REDEEM, Kind.REDEEM),
    (Kind.REDEEM, None),
    (Kind.EXCHANGE, Kind.EXCHANGE),
    (Kind.EXCHANGE, Kind.REDEEM),
    (Kind.REDEEM, Kind.REACTIVATE),
    (Kind.EXCHANGE, Kind.REACTIVATE),
    (Kind.COMPENSATE, Kind.REDEEM),
    (Kind.GRANT, Kind.GRANT),
]
"""What two callers want of one account at the same time; with None it is the very same request."""
OFFERS = sorted({(name, which) for name in PLATFORMS for each in REVISIONS[name] for which in each.rules.offers})
RATES = sorted({(name, *way) for name in PLATFORMS for each in REVISIONS[name] for way in each.rules.rates})
"""All that any revision offers."""
DEVICE_OF_ALL = uuid.uuid5(uuid.NAMESPACE_OID, "a device of all").bytes


@dataclass(frozen=True)
class Asked:
    """One command of one caller, and the band that its score will be in."""

    command: Command
    band: str


@dataclass
class Lane:
    """One account of a sequence, with the callers who act for it. Turns operations into commands."""

    account: Account
    others: Sequence[Lane]
    asked: list[Asked]
    issued: list[IssueItem]
    entries: dict[str, UUID]
    boundary: str = ""
    """What of its own the clock has just been moved to."""

    def kind_of(self, operation: Operation, now: datetime) -> Kind:
        """The operation's kind; at a boundary of its own mostly what that is about, and what can be done instead where
        there is nothing yet to do it with."""
        kind, account = operation.kind, self.account
        if kind is not Kind.NOTHING and self.boundary and operation.way % 4 != 3:
            choice = AT[self.boundary]
            kind = choice[operation.way % len(choice)]
        if kind in (Kind.NOTHING, Kind.LIST):
            return kind
        if not account.cards:
            return Kind.ISSUE
        if operation.way % 4 != 3:
            kind = self._possible(kind, now)
        if kind in (Kind.COMPENSATE, Kind.REACTIVATE, Kind.GRANT) and not account.recyclings:
            return Kind.RECYCLE
        if kind in (Kind.RESOLVE, Kind.CLAIM, Kind.LAPSE) and not account.reviews:
            return Kind.RECYCLE
        if kind is Kind.REDEEM_QUOTE and not account.quotes:
            return Kind.QUOTE
        return Kind.RECYCLE if kind is Kind.AGAIN and not self.asked else kind

    def _possible(self, kind: Kind, now: datetime) -> Kind:
        """The kind, or what has to come before it."""
        account = self.account
        approved = [each for each in account.recyclings.values() if each.state == "APPROVED"]
        if kind in (Kind.REDEEM, Kind.EXCHANGE) and not any(account.wallet.held.values()):
            kind = Kind.COMPENSATE
        if kind is Kind.COMPENSATE and not any(each.owed == "PENDING" for each in approved):
            kind = Kind.RECYCLE
        if kind is Kind.REACTIVATE and not any(each.card.state == "RECYCLED" for each in approved):
            kind = Kind.RECYCLE
        if kind in (Kind.RESOLVE, Kind.CLAIM) and not any(each.state == "OPEN" for each in account.reviews):
            kind = Kind.RECYCLE
        takeable = any(
            card.taken_by is None and card.hold is None and card.state_at(now) in reference.TAKES[card.platform]
            for card in account.cards.values()
        )
        return Kind.ISSUE if kind in (Kind.RECYCLE, Kind.QUOTE, Kind.REDEEM_QUOTE) and not takeable else kind

    def command(self, kind: Kind, operation: Operation, now: datetime) -> Command:
        """The command of an operation."""
        way = operation.way
        usual: dict[str, Any] = {
            "request_id": uuid.uuid4(),
            "account_id": self.account.account_id,
            "circumstances": self._circumstances(operation),
        }
        card, recycling, review = self.likely(kind, operation, now)
        card_id, recycling_id = self._named(card.card_id, way, "cards"), None
        if recycling is not None:
            recycling_id = self._named(recycling.recycling_id, way, "recyclings")
        match kind:
            case Kind.ACTIVATE:
                return Activate(**usual, card_id=card_id, etag=self._etag(card, way))
            case Kind.BIND:
                device = self._device(operation.place + way % 3)
                bound = replace(usual["circumstances"], device_hash=device)
                return BindDevice(**(usual | {"circumstances": bound}), card_id=card_id, etag=self._etag(card, way))
            case Kind.VOID:
                reason = list(VoidReason)[way % 3]
                return Void(**usual, card_id=card_id, reason=reason, etag=self._etag(card, way))
            case Kind.RECYCLE:
                return Recycle(**usual, card_id=card_id, dry_run=way == 22, **self._wish(card, way))
            case Kind.QUOTE:
                asked = usual | {"request_id": None, "dry_run": True, "quote": True}
                return Recycle(**asked, card_id=card_id, **self._wish(card, way))
            case Kind.REDEEM_QUOTE:
                quote = _recent(self.account.quotes, operation.place)
                of = quote.card if way < 21 else card
                return Recycle(**usual, card_id=of.card_id, quote_token=quote.token, **self._wish(of, 0))
            case Kind.COMPENSATE:
                return Compensate(**usual, recycling_id=recycling_id, dry_run=way == 22)
            case Kind.REACTIVATE:
                return Reactivate(**usual, recycling_id=recycling_id, dry_run=way == 22)
            case Kind.REDEEM:
                platform, offer_id = self._offer(operation)
                return Redeem(**usual, platform=platform, offer_id=offer_id, dry_run=way == 22)
            case Kind.EXCHANGE:
                return self._exchange(usual, operation)
            case Kind.GRANT:
                return self._grant(usual, recycling, recycling_id, way)
            case Kind.RESOLVE:
                assert review is not None
                return Resolve(
                    **usual,
                    recycling_id=review.recycling.recycling_id,
                    review_id=uuid.uuid4() if way == 20 else review.review_id,
                    verdict=ReviewVerdict.APPROVE if way % 3 else ReviewVerdict.DENY,
                    reviewer="anna" if way % 4 else "ben",
                )
            case Kind.LAPSE:
                assert review is not None and review.review_id is not None
                return Lapse(
                    request_id=own_request_id(Lapse.method, review.review_id),
                    account_id=self.account.account_id,
                    recycling_id=review.recycling.recycling_id,
                    review_id=review.review_id,
                )
            case Kind.AGAIN:
                return self._again(operation)
        raise AssertionError(kind)

    def item(self, operation: Operation, now: datetime) -> IssueItem:
        """A card to issue; at times the same as before."""
        way = operation.way
        if self.issued and way == 23:
            return self.issued[-1]
        paid = [2999, 1990, 1, 0, 999_999_999, 20][operation.place]
        deadline = [None, None, timedelta(days=11), timedelta(days=60), timedelta(0)][way % 5]
        return item(
            ["iqiyi", "tencent", "netflix"][way % 3],
            self.account.account_id,
            tier=["BASIC", "PREMIUM"][way % 2],
            segment=[None, "YOUNG", "MIDDLE", "SENIOR"][way % 4],
            paid_minor=paid,
            face_value_minor=paid + [0, 501][way % 2],
            duration_days=[30, 31, 1, 366][way // 6],
            activate_by_time=None if deadline is None else now + deadline,
        )

    def pair(self, operation: Operation, now: datetime) -> tuple[Command, Command]:
        """What two callers want at once."""
        first, second = PAIRS[operation.way % len(PAIRS)]
        plain = replace(operation, way=operation.way % 3)
        self.boundary = ""
        one = self.command(self._paired(first), plain, now)
        if second is None:
            return one, one
        return one, self.command(self._paired(second), plain, now)

    def _paired(self, kind: Kind) -> Kind:
        """The kind, where there is anything to do it to."""
        account = self.account
        if kind in (Kind.COMPENSATE, Kind.REACTIVATE, Kind.GRANT) and not account.recyclings:
            return Kind.RECYCLE
        return Kind.RECYCLE if kind is Kind.RESOLVE and not account.reviews else kind

    def likely(self, kind: Kind, operation: Operation, now: datetime) -> tuple[Card, Recycling | None, Review | None]:
        """What an operation is about: mostly something that it can be done to, if there is anything like that."""
        account, fitting = self.account, operation.way % 4 != 3

        def choose(found: Iterable[Any], fits: Callable[[Any], bool]) -> Any:
            every = list(found)
            fit = [each for each in every if fits(each)] if fitting else []
            return _recent(fit or every, operation.place) if every else None

        def takes(card: Card) -> bool:
            if kind is Kind.VOID and operation.way % 2:
                return card.taken_by is not None
            if kind is Kind.BIND and operation.way % 2 and not card.devices:
                return False
            return (
                card.taken_by is None
                and card.hold is None
                and card.state_at(now) in ({"ISSUED"} if kind is Kind.ACTIVATE else reference.TAKES[card.platform])
            )

        def pays(recycling: Recycling) -> bool:
            if kind is Kind.GRANT:
                return recycling.rules.goodwill is not None
            # Mostly what has not been paid yet is settled.
            fits = operation.way % 4 == 2 or (
                recycling.owed == "PENDING" if kind is Kind.COMPENSATE else recycling.card.state == "RECYCLED"
            )
            return recycling.state == "APPROVED" and fits

        def waits(review: Review) -> bool:
            claimed = review.claim_until is not None or self.boundary != "claim"
            return review.state == "OPEN" and claimed

        return (
            choose(account.cards.values(), takes),
            choose(account.recyclings.values(), pays),
            choose(account.reviews, waits),
        )

    def _offer(self, operation: Operation) -> tuple[str, str]:
        """Mostly one that the account could pay, of whichever revision."""
        held, way = self.account.wallet.held, operation.way
        if way == 20:
            return PLATFORMS[operation.place % 3], "gone"
        priced = [
            (platform, which)
            for platform, which in OFFERS
            for offer in (each.rules.offers.get(which) for each in REVISIONS[platform])
            if offer is not None and held[platform, offer.unit] >= offer.price
        ]
        chosen: tuple[str, str] = _recent(priced if priced and way % 4 != 3 else OFFERS, operation.place + way)
        return chosen

    def _exchange(self, usual: dict[str, Any], operation: Operation) -> Exchange:
        """Mostly of what is held; all of it, a part, one too many, or little."""
        held, way = self.account.wallet.held, operation.way
        fitting = [rate for rate in RATES if held[rate[:2]] > 0]
        platform, unit, to_platform, to_unit = _recent(fitting if fitting and way % 4 != 3 else RATES, operation.place)
        amount = held[platform, unit]
        wanted = [amount, amount // 2, min(amount, 1000), 101, amount + 1, 1, 10, amount // 3][way % 8]
        return Exchange(
            **usual,
            platform="netflix" if way == 20 else platform,
            unit=Unit(unit),
            amount=max(1, wanted),
            to_platform=to_platform,
            to_unit=Unit(to_unit),
            min_amount=98 if way == 11 else 0,
            dry_run=way == 22,
        )

    def _grant(self, usual: dict[str, Any], recycling: Recycling | None, recycling_id: UUID | None, way: int) -> Grant:
        """Mostly what the rules of `recycling` allow."""
        rule = recycling.rules.goodwill if recycling is not None else None
        unit, most = (Unit.COIN, 100) if rule is None else (Unit(rule.unit), rule.most)
        return Grant(
            **usual,
            recycling_id=recycling_id,
            unit=Unit.COUPON if way == 19 else unit,
            amount=[1, most // 4, most // 2, most, most + 1][way % 5] or 1,
            note="sorry",
        )

    def _circumstances(self, operation: Operation) -> Circumstances:
        """From the account's own device, from one that all share, or from none that is told."""
        device = [self._device(0), None, None, self._device(1), DEVICE_OF_ALL][operation.place]
        return Circumstances(signals=SIGNALS[operation.band], device_hash=device)

    def _device(self, number: int) -> bytes:
        return uuid.uuid5(uuid.NAMESPACE_OID, f"{self.account.account_id} {number}").bytes

    def _named(self, own: UUID, way: int, what: str) -> UUID:
        """The id, at times one that nobody has, or another account's."""
        if way == 20:
            return uuid.uuid4()
        foreign = [each for lane in self.others for each in getattr(lane.account, what)]
        return foreign[0] if way == 21 and foreign else own

    def _etag(self, card: Card, way: int) -> str:
        return f"v{card.version}" if way in (17, 18) else "v0" if way == 19 else ""

    def _wish(self, card: Card, way: int) -> dict[str, Any]:
        reason = RecycleReason(reference.REASONS[card.platform])
        unit = {16: Unit.GROWTH_POINT, 17: Unit(reference.UNITS[card.platform]), 18: Unit.COUPON}.get(way)
        if way % 4 == 1 and card.platform == "iqiyi":
            unit = Unit.GROWTH_POINT
        return {"reason": RecycleReason.EXPIRED if way == 19 else reason, "unit": unit}

    def _again(self, operation: Operation) -> Command:
        """An earlier request id: with the same input from elsewhere, or with another."""
        earlier: Command = _recent(self.asked, operation.place).command
        # The id of what time does is nobody's to take.
        if operation.way % 3 or isinstance(earlier, OwnCommand):
            now = self._circumstances(operation)
            # Of a device that is to be bound the request is about that very device.
            bound = earlier.circumstances.device_hash if isinstance(earlier, BindDevice) else now.device_hash
            return replace(earlier, circumstances=replace(now, device_hash=bound))
        return Void(
            request_id=earlier.request_id,
            account_id=self.account.account_id,
            card_id=_recent([*self.account.cards.values()], operation.place).card_id,
            reason=VoidReason.REVOKED,
        )


def _recent(found: Sequence[Any], place: int) -> Any:
    return found[-1 - place % len(found)]
