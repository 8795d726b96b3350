"""The platforms' rules of the lives: what each revision says in words that the reference reckons with, and the document
that says the same to the service.

Each is a shipped policy or a variation of one; all of them together are sound, so that any may follow any. None
explores: whom the lottery picks only the service knows. Nor has any a cap: those count features, tried elsewhere.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from tests.integration.world import POLICIES

DAY = timedelta(days=1)
PLATFORMS = ("iqiyi", "tencent", "netflix")
TIERS = ("BASIC", "PREMIUM")


@dataclass(frozen=True)
class Pricing:
    """How a platform's bonus floats."""

    bonus_max: int
    minutes: int
    pool: int
    smoothing: int


@dataclass(frozen=True)
class Rules:
    """One revision of one platform. Shares are in basis points; what depends on the tier has its BASIC and its PREMIUM.
    `shares`: of the plain amount, for a segment's accounts that take growth points; `instant`: up to what a segment's
    are paid with the recycle."""

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
    pricing: Pricing | None = None

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
        body["risk"] |= {"velocity": [], "exploration": None, "without_device": self.rules.without_device}
        for path, value in self.changes.items():
            *parents, name = path.split("/")
            part = body
            for parent in parents:
                part = part[parent]
            part[name] = value
        return json.dumps(body)


_IQIYI = Rules(
    fee=(1000, 800),
    window=(180 * DAY, 210 * DAY),
    without_score="HOLD",
    instant={"YOUNG": 10_000},
    shares={"MIDDLE": 10_500},
    pricing=Pricing(bonus_max=300, minutes=60, pool=1_000_000, smoothing=2500),
)
_TENCENT = Rules(
    per_day=(10, 12),
    instant={"YOUNG": 5000},
    pricing=Pricing(bonus_max=500, minutes=60, pool=1_000_000, smoothing=2500),
)
_NETFLIX = Rules(discount=500, wait=30 * DAY, automatic=True, devices_max=4)

REVISIONS: dict[str, Sequence[Revision]] = {
    "iqiyi": [
        Revision(replace(_IQIYI, devices_max=1), {"devices_max": 1}),
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
            ),
            {
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
            ),
            {
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
                pricing=Pricing(bonus_max=500, minutes=60, pool=3, smoothing=10_000),
            ),
            {
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
        Revision(replace(_TENCENT, without_device="HOLD_SETTLEMENT", pricing=None), {"pricing": None}),
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
            replace(_NETFLIX, wait=timedelta(0), automatic=False, hold=1 * DAY, without_device="HOLD"),
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


POINT_SHARE_MAX = max(share for each in REVISIONS["iqiyi"] for share in each.rules.shares.values())
