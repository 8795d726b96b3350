"""The platforms' rules of the lives: what each revision says in words that the reference reckons with, and the document
that says the same to the service.

Each is a shipped policy or a variation of one; all of them together are sound, so that any may follow any. Caps are so
low that they are met, and count what an account does alone; what accounts share is counted in tests of features. None
where the service recycles by itself: nobody tells before or after which caller that came.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from fractions import Fraction
from typing import Any

from tests.integration.world import POLICIES

DAY = timedelta(days=1)
PLATFORMS = ("iqiyi", "tencent", "netflix")
TIERS = ("BASIC", "PREMIUM")
Holding = tuple[str, str]
"""A platform and one of its units."""
COIN: Holding = ("iqiyi", "COIN")


@dataclass(frozen=True)
class Pricing:
    """How a platform's bonus floats."""

    bonus_max: int
    minutes: int
    pool: int
    smoothing: int


@dataclass(frozen=True)
class Offer:
    """What `price` of a unit buys: `value` minor units of a partner's, or a coupon of so much for `life`; at most
    `often` times in 30 days."""

    unit: str
    price: int
    value: int
    often: int | None = None
    life: timedelta | None = None


@dataclass(frozen=True)
class Rate:
    """So many for so many, less the spread in basis points; at most so much at once."""

    give: int
    get: int
    spread: int
    most: int


@dataclass(frozen=True)
class Goodwill:
    """At most so much of a unit at once, and in 30 days."""

    unit: str
    most: int
    in_30_days: int


@dataclass(frozen=True)
class Cap:
    """From so many on, a counter of what the account has done asks for an action."""

    counter: str
    most: int
    action: str


@dataclass(frozen=True)
class Exploration:
    """The share of would-be refusals that is let through, of cards paid at most so much, and settled so much later."""

    share: int
    paid_max: int
    later: timedelta


@dataclass(frozen=True)
class Rules:
    """One revision of one platform. Shares are in basis points; what depends on the tier has its BASIC and its PREMIUM.
    `shares`: of the plain amount, for a segment's accounts that take growth points; `instant`: up to what a segment's
    are paid with the recycle; `feels`: how much a segment's take of the damage, where it is not all."""

    fee: tuple[int, int] = (0, 0)
    per_day: tuple[int, int] = (0, 0)
    discount: int = 0
    coupon_life: timedelta = 90 * DAY
    window: tuple[timedelta, timedelta] = (180 * DAY, 180 * DAY)
    hold: timedelta = 7 * DAY
    wait: timedelta = timedelta(0)
    automatic: bool = False
    devices_max: int = 5
    without_device: str = "APPROVE"
    without_score: str = "RULES_ONLY"
    instant: Mapping[str, int] = field(default_factory=dict)
    shares: Mapping[str, int] = field(default_factory=dict)
    feels: Mapping[str, int] = field(default_factory=dict)
    pricing: Pricing | None = None
    offers: Mapping[str, Offer] = field(default_factory=dict)
    rates: Mapping[tuple[str, str, str], Rate] = field(default_factory=dict)
    goodwill: Goodwill | None = None
    caps: Sequence[Cap] = ()
    exploration: Exploration | None = None

    def __deepcopy__(self, memo: object) -> Rules:
        """Itself: it never changes."""
        return self

    @property
    def bonus_max(self) -> int:
        """The most that pricing adds."""
        return self.pricing.bonus_max if self.pricing else 0


@dataclass(frozen=True)
class Revision:
    """Rules, and how they change the shipped document."""

    rules: Rules
    changes: Mapping[str, Any] = field(default_factory=dict)

    def document(self, platform: str) -> str:
        """The same for the service."""
        body = copy.deepcopy(json.loads((POLICIES / f"{platform}.json").read_text("utf-8")))
        explored = self.rules.exploration
        body["risk"] |= {
            "velocity": [
                {"counter": cap.counter, "max": cap.most, "action": cap.action} for cap in self.rules.caps
            ],
            "exploration": None if explored is None else {
                "share_basis_points": explored.share,
                "amount_max_minor": explored.paid_max,
                "settle_after_days": explored.later // DAY,
            },
            "without_device": self.rules.without_device,
        }  # fmt: skip
        for path, value in self.changes.items():
            *parents, name = path.split("/")
            part = body
            for parent in parents:
                part = part[parent]
            part[name] = value
        return json.dumps(body)


_IQIYI_OFFERS = {
    "jd-voucher-10": Offer("COIN", 1000, 1000, often=5),
    "ad-free-week": Offer("COIN", 30, 25, often=1),
    "renewal-coupon": Offer("COIN", 500, 450, often=2, life=90 * DAY),
    "premiere-ticket": Offer("GROWTH_POINT", 1000, 900, often=4),
}
_IQIYI_RATES = {
    ("GROWTH_POINT", "iqiyi", "COIN"): Rate(10, 9, 200, 1_000_000),
    ("COIN", "tencent", "GROWTH_POINT"): Rate(1, 10, 300, 100_000),
}
_IQIYI = Rules(
    fee=(1000, 800),
    window=(180 * DAY, 210 * DAY),
    without_score="HOLD",
    instant={"YOUNG": 10_000},
    shares={"MIDDLE": 10_500},
    pricing=Pricing(bonus_max=300, minutes=60, pool=1_000_000, smoothing=2500),
    offers=_IQIYI_OFFERS,
    rates=_IQIYI_RATES,
    goodwill=Goodwill("COIN", 2000, 5000),
    caps=[Cap("account_recycles_24h", 5, "HOLD")],
    exploration=Exploration(1000, 2500, 14 * DAY),
)
_TENCENT = Rules(
    per_day=(10, 12),
    instant={"YOUNG": 5000},
    feels={"YOUNG": 8940, "MIDDLE": 2870, "SENIOR": 5680},
    pricing=Pricing(bonus_max=500, minutes=60, pool=1_000_000, smoothing=2500),
    offers={
        "music-month": Offer("GROWTH_POINT", 300, 25, often=3),
        "renewal-coupon": Offer("GROWTH_POINT", 200, 18, life=60 * DAY),
    },
    rates={("GROWTH_POINT", "iqiyi", "COIN"): Rate(10, 1, 300, 100_000)},
    goodwill=Goodwill("GROWTH_POINT", 500, 1000),
    caps=[Cap("account_reactivations_30d", 2, "HOLD")],
)
_NETFLIX = Rules(discount=500, wait=30 * DAY, automatic=True, devices_max=4)

_CHEAP = {"price": 30, "account_max": 1, "benefit": {"kind": "PARTNER", "value_minor": 25}}
"""Makes an offer one that poor accounts could take again and again, if they were let."""


def _with_a_cheap_offer() -> list[dict[str, Any]]:
    shipped = json.loads((POLICIES / "iqiyi.json").read_text("utf-8"))["offers"]
    return [each | _CHEAP if each["offer_id"] == "ad-free-week" else each for each in shipped]


REVISIONS: dict[str, Sequence[Revision]] = {
    "iqiyi": [
        Revision(replace(_IQIYI, devices_max=1), {"devices_max": 1, "offers": _with_a_cheap_offer()}),
        Revision(
            replace(
                _IQIYI,
                fee=(1200, 500),
                window=(180 * DAY, 20 * DAY),
                hold=3 * DAY,
                devices_max=1,
                without_device="HOLD",
                instant={"YOUNG": 2000, "MIDDLE": 2000},
                shares={"SENIOR": 9000},
                pricing=Pricing(bonus_max=300, minutes=30, pool=4, smoothing=10_000),
                offers={
                    "jd-voucher-10": Offer("COIN", 120, 100, often=1),
                    "renewal-coupon": Offer("COIN", 500, 450, often=2, life=1 * DAY),
                    "premiere-ticket": Offer("GROWTH_POINT", 1000, 800),
                },
                rates={("COIN", "tencent", "GROWTH_POINT"): Rate(3, 20, 0, 1000)},
                goodwill=Goodwill("GROWTH_POINT", 100, 150),
                caps=[
                    Cap("account_recycles_24h", 3, "HOLD"),
                    Cap("account_recycles_24h", 6, "REFUSE"),
                    Cap("account_devices_30d", 3, "HOLD"),
                ],
                exploration=None,
            ),
            {
                "offers": [
                    {
                        "offer_id": "jd-voucher-10",
                        "partner": "jd",
                        "title": "A voucher",
                        "unit": "COIN",
                        "price": 120,
                        "benefit": {"kind": "PARTNER", "value_minor": 100},
                        "account_max": 1,
                    },
                    {
                        "offer_id": "renewal-coupon",
                        "partner": "iqiyi",
                        "title": "A coupon",
                        "unit": "COIN",
                        "price": 500,
                        "account_max": 2,
                        "benefit": {"kind": "COUPON", "value_minor": 450, "basis_points": 1000, "valid_days": 1},
                    },
                    {
                        "offer_id": "premiere-ticket",
                        "partner": "cinema",
                        "title": "A ticket",
                        "unit": "GROWTH_POINT",
                        "price": 1000,
                        "benefit": {"kind": "PARTNER", "value_minor": 800},
                    },
                ],
                "exchange": [
                    {
                        "unit": "COIN",
                        "to_platform": "tencent",
                        "to_unit": "GROWTH_POINT",
                        "give": 3,
                        "get": 20,
                        "spread_basis_points": 0,
                        "amount_max": 1000,
                    },
                ],
                "goodwill": {"unit": "GROWTH_POINT", "amount_max": 100, "account_max": 150},
                "fee_basis_points": 1200,
                "tiers": {"PREMIUM": {"fee_basis_points": 500, "window_days": 20}},
                "review": {"hold_days": 3},
                "devices_max": 1,
                "segments": {
                    "YOUNG": {"settle_with_recycle": True},
                    "MIDDLE": {"settle_with_recycle": True},
                    "SENIOR": {"units": [{"unit": "GROWTH_POINT", "basis_points": 9000}]},
                },
                "instant_settlement_max": 2000,
                "pricing": {
                    "bonus_max_basis_points": 300,
                    "period_minutes": 30,
                    "pool_capacity": 4,
                    "smoothing_basis_points": 10_000,
                },
            },
        ),
        Revision(
            replace(
                _IQIYI,
                fee=(0, 0),
                window=(180 * DAY, 180 * DAY),
                without_device="REFUSE",
                without_score="REJECT",
                instant={},
                shares={},
                pricing=None,
                offers={},
                goodwill=None,
                caps=[],
                exploration=Exploration(500, 3000, 1 * DAY),
            ),
            {
                "offers": [],
                "goodwill": None,
                "fee_basis_points": 0,
                "tiers": {},
                "risk/without_score": "REJECT",
                "segments": {},
                "pricing": None,
            },
        ),
    ],
    "tencent": [
        Revision(_TENCENT),
        Revision(
            replace(
                _TENCENT,
                per_day=(7, 9),
                window=(180 * DAY, 30 * DAY),
                devices_max=0,
                without_device="REFUSE",
                instant={"SENIOR": 100},
                feels={},
                pricing=Pricing(bonus_max=500, minutes=60, pool=3, smoothing=10_000),
                rates={},
                caps=[Cap("account_recycles_1h", 2, "HOLD"), Cap("account_reactivations_30d", 1, "REFUSE")],
            ),
            {
                "exchange": [],
                "compensation/amount_per_day": 7,
                "tiers": {"PREMIUM": {"amount_per_day": 9, "window_days": 30}},
                "devices_max": 0,
                "segments": {"SENIOR": {"settle_with_recycle": True}},
                "instant_settlement_max": 100,
                "pricing": {
                    "bonus_max_basis_points": 500,
                    "period_minutes": 60,
                    "pool_capacity": 3,
                    "smoothing_basis_points": 10_000,
                },
            },
        ),
        Revision(replace(_TENCENT, without_device="HOLD_SETTLEMENT", pricing=None, caps=[]), {"pricing": None}),
    ],
    "netflix": [
        Revision(_NETFLIX),
        Revision(
            replace(
                _NETFLIX,
                discount=300,
                coupon_life=2 * DAY,
                wait=5 * DAY,
                instant={"YOUNG": 1},
                without_device="HOLD_SETTLEMENT",
            ),
            {
                "compensation/basis_points": 300,
                "compensation/valid_days": 2,
                "trigger/wait_after_expiry_days": 5,
                "segments": {"YOUNG": {"settle_with_recycle": True}},
                "instant_settlement_max": 1,
            },
        ),
        Revision(
            replace(
                _NETFLIX,
                wait=timedelta(0),
                automatic=False,
                hold=1 * DAY,
                without_device="HOLD",
                caps=[Cap("account_recycles_24h", 1, "HOLD"), Cap("account_recycles_24h", 2, "REFUSE")],
            ),
            {
                "trigger/wait_after_expiry_days": 0,
                "trigger/automatic": False,
                "review": {"hold_days": 1},
            },
        ),
    ],
}
"""The first of each governs when a sequence begins."""


def best_money(tier: str) -> int:
    """The most that a REFUND can pay of its base, under whichever revision."""
    every = (revision.rules for revision in REVISIONS["iqiyi"])
    return max(10_000 - rules.fee[TIERS.index(tier)] + rules.bonus_max for rules in every)


def best_points(tier: str) -> int:
    """The most points for ten thousand unused days."""
    every = (revision.rules for revision in REVISIONS["tencent"])
    return max(rules.per_day[TIERS.index(tier)] * (10_000 + rules.bonus_max) for rules in every)


def best_discount() -> int:
    """The greatest share of what was paid that a coupon takes off."""
    return max(revision.rules.discount for revision in REVISIONS["netflix"])


def _best() -> dict[Holding, Fraction]:
    """What one of a unit can be made into at best, in minor units: by any offer, after any exchanges."""
    every = [(name, revision.rules) for name in PLATFORMS for revision in REVISIONS[name]]
    best: dict[Holding, Fraction] = {COIN: Fraction(1)}
    for platform, rules in every:
        for offer in rules.offers.values():
            holding = platform, offer.unit
            best[holding] = max(best.get(holding, Fraction(0)), Fraction(offer.value, offer.price))
    for platform, rules in every * len(best):
        for (unit, *to), rate in rules.rates.items():
            kept = Fraction(rate.get * (10_000 - rate.spread), rate.give * 10_000)
            best[platform, unit] = max(best[platform, unit], kept * best[to[0], to[1]])
    return best


BEST = _best()
