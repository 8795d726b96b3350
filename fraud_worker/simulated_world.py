"""The simulated world: its phones, prices, networks and ways to behave, and the life of one card as a run of events.

Knows what the live system would have logged of an event, and how much of it a given caller sees. Must not know who is
honest and how abuse is done (`simulator`), nor features or models.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device as a caller describes it; None is unknown."""

    device_id: str | None
    os: str | None = None
    model: str | None = None
    screen: str | None = None
    language: str | None = None
    timezone: str | None = None
    user_agent: str | None = None
    emulator: bool | None = None
    rooted: bool | None = None
    vpn: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Behavior:
    """What a session looked like; None is unknown."""

    session_seconds: float | None = None
    page_views: int | None = None
    seconds_since_login: float | None = None
    failed_logins_24h: int | None = None
    captcha_failures: int | None = None
    copy_paste_used: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedEvent:
    """One event as the live system logs it, with the truth about it."""

    event_time: datetime
    event_kind: str
    account_id: str
    card_id: str
    platform: str
    tier: str
    reason: str | None = None
    amount_minor: int | None = None
    device: Device | None = None
    ip: str | None = None
    behavior: Behavior | None = None
    label: int | None = None
    """On each RECYCLE: 1 abuse, 0 honest."""
    label_time: datetime | None = None
    family: str
    """Which scenario made it; no feature may know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """How much of a request one caller passes on. Whole groups of fields are missing together."""

    device: bool = True
    profile_fields: int = 5
    """How many of os, model, screen, language, user agent; below three there is no profile to compare."""
    ip: bool = True
    behavior: bool = True

    def of_device(self, device: Device) -> Device | None:
        if not self.device:
            return None
        if self.profile_fields >= 5:
            return device
        known = ("os", "model", "screen", "language", "user_agent")[: self.profile_fields]
        flags = {name: getattr(device, name) for name in ("emulator", "rooted", "vpn")} if known else {}
        return Device(device_id=device.device_id, **{name: getattr(device, name) for name in known}, **flags)


FULL: Final = Sight()
SIGHTS: Final = (
    FULL,
    Sight(behavior=False),
    Sight(ip=False),
    Sight(profile_fields=0),
    Sight(profile_fields=2, behavior=False),
    Sight(profile_fields=2, ip=False, behavior=False),
    Sight(profile_fields=0, ip=False, behavior=False),
    Sight(profile_fields=0, ip=False),
    Sight(device=False, ip=False, behavior=False),
)
_PRICES: Final = (2999, 1990, 2500, 990, 4500, 14900, 25800, 6800, 19800, 1500, 5900, 39800)
_MODELS: Final = ("Pearl", "Nova", "Mate", "Redwood", "Aurora", "Find", "Reno", "Magic", "Edge", "Pixel")
_SCREENS: Final = ("1080x2400", "1170x2532", "1440x3200", "720x1600", "1080x2340", "1290x2796")
_LANGUAGES: Final = ("zh-CN", "zh-CN", "zh-CN", "en-US", "zh-TW", "zh-HK", "ja-JP")


class World:
    """Everything that people and abusers share. The same seed gives the same world, and then the same draws."""

    def __init__(self, seed: int) -> None:
        self.rng: Final = random.Random(seed)  # noqa: S311 - a simulation, not a secret
        self._name = f"s{seed}"
        self._ids = 0
        self._profiles = [self._profile() for _ in range(300)]
        # Zipf: the top phone alone is more than a quarter of all.
        self._profile_weights = _cumulative([1 / rank**1.1 for rank in range(1, 301)])
        self._price_weights = _cumulative([1 / rank for rank in range(1, len(_PRICES) + 1)])
        self._carrier_addresses = [self.new_address() for _ in range(25)]
        self._campus_ranges = [self.new_range() for _ in range(6)]

    def new_id(self, kind: str) -> str:
        """A new identifier that no other seed makes."""
        self._ids += 1
        return f"{self._name}-{kind}{self._ids}"

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def log_uniform(self, low: float, high: float) -> float:
        """Between `low` and `high`, each order of magnitude as likely as any other."""
        return math.exp(self.rng.uniform(math.log(low), math.log(high)))

    # --- things ---

    def phone(self) -> Device:
        """Somebody's own phone; popular ones are popular."""
        return self.same_phone(self.rng.choices(self._profiles, cum_weights=self._profile_weights)[0])

    def top_phone(self) -> Device:
        """A phone of the most popular profile."""
        return self.same_phone(self._profiles[0])

    def rare_phone(self) -> Device:
        """A phone whose profile is hardly seen elsewhere: a farm's rack, an image of an emulator."""
        return self._profile()

    def same_phone(self, like: Device) -> Device:
        """Another phone with the same profile."""
        rng = self.rng
        return replace(
            like,
            device_id=self.new_id("d"),
            emulator=self.chance(0.004),
            rooted=rng.random() < 0.02,
            vpn=rng.random() < 0.06,
        )

    def _profile(self) -> Device:
        rng = self.rng
        model, system = f"{rng.choice(_MODELS)} {rng.randrange(3, 60)}", rng.choice(("android", "android", "ios"))
        return Device(
            device_id=self.new_id("d"),
            os=system,
            model=model,
            screen=rng.choice(_SCREENS),
            language=rng.choice(_LANGUAGES),
            timezone="Asia/Shanghai",
            user_agent=f"vip/{rng.randrange(6, 10)}.{rng.randrange(12)} ({system}; {model})",
            emulator=False,
            rooted=False,
            vpn=False,
        )

    def price(self) -> int:
        """What somebody paid for a card, minor units: mostly one of a few price points."""
        if self.chance(0.08):
            return self.rng.randrange(1, 40_000)
        return self.rng.choices(_PRICES, cum_weights=self._price_weights)[0]

    def new_range(self) -> str:
        """A /24, as its first three numbers."""
        rng = self.rng
        return f"{rng.randrange(11, 224)}.{rng.randrange(256)}.{rng.randrange(256)}"

    def new_address(self, ranges: Sequence[str] = ()) -> str:
        """An address of one of `ranges`, or anywhere."""
        return f"{self.rng.choice(ranges) if ranges else self.new_range()}.{self.rng.randrange(1, 255)}"

    def home_address(self) -> str:
        """Where somebody recycles from: their own line, or one of the few addresses that a carrier's customers use."""
        return self.rng.choice(self._carrier_addresses) if self.chance(0.25) else self.new_address()

    def campus_range(self) -> str:
        return self.rng.choice(self._campus_ranges)

    # --- ways to behave ---

    def human(self) -> Behavior:
        """Somebody reading, hesitating and mistyping."""
        rng = self.rng
        session = min(7200.0, max(4.0, rng.lognormvariate(4.7, 0.95)))
        since_login = rng.choices(
            (session + rng.uniform(0, 20), rng.uniform(0, 120), self.log_uniform(60, 2_000_000)), (40, 20, 40)
        )[0]
        behavior = Behavior(
            session_seconds=round(session, 1),
            page_views=1 + int(session / rng.uniform(6, 30)),
            seconds_since_login=round(since_login, 1),
            failed_logins_24h=rng.choices((0, 1, 2, 3), (88, 9, 2, 1))[0],
            captcha_failures=rng.choices((0, 1, 2), (93, 6, 1))[0],
            copy_paste_used=self.chance(0.18),
        )
        return behavior if self.chance(0.85) else self._partly(behavior)

    def quick(self) -> Behavior:
        """Somebody who knows the way, or an import by the platform itself: short, but nothing fails."""
        rng = self.rng
        behavior = Behavior(
            session_seconds=round(self.log_uniform(0.3, 40), 2),
            page_views=rng.randrange(0, 5),
            seconds_since_login=round(rng.uniform(0, 90), 1),
            failed_logins_24h=0,
            captcha_failures=0,
            copy_paste_used=self.chance(0.3),
        )
        return behavior if self.chance(0.8) else self._partly(behavior)

    def blank(self) -> Behavior:
        """What a caller passes on that fills in zeros for what it does not measure."""
        return Behavior(
            session_seconds=0.0,
            page_views=0,
            seconds_since_login=0.0,
            failed_logins_24h=0,
            captcha_failures=0,
            copy_paste_used=False,
        )

    def script(self) -> Callable[[], Behavior]:
        """One script's sessions: seconds long, a page or two, and perhaps failing at what people pass."""
        rng = self.rng
        captcha, paste, partly = self.chance(0.7), self.chance(0.65), self.chance(0.15)

        def behave() -> Behavior:
            behavior = Behavior(
                session_seconds=round(self.log_uniform(0.1, 6), 2),
                page_views=rng.randrange(0, 3),
                seconds_since_login=round(
                    rng.choices((rng.uniform(0, 5), rng.uniform(0, 90), self.log_uniform(60, 100_000)), (55, 30, 15))[
                        0
                    ],
                    1,
                ),
                failed_logins_24h=rng.choices((0, 1, 2, 4), (60, 20, 12, 8))[0],
                captcha_failures=rng.choices((0, 1, 2, 3, 5), (20, 25, 25, 20, 10))[0] if captcha else 0,
                copy_paste_used=paste and self.chance(0.9),
            )
            return self._partly(behavior) if partly else behavior

        return behave

    def _partly(self, behavior: Behavior) -> Behavior:
        """The same, seen by a caller that measures only some of it."""
        known = {field.name: getattr(behavior, field.name) for field in fields(Behavior) if self.chance(0.5)}
        return Behavior(**known)


@dataclass(slots=True, kw_only=True)
class Owner:
    """An account with what its requests come from; writes the events of its cards."""

    world: World
    family: str
    label: int
    account_id: str
    device: Device
    ip: str | None
    behave: Callable[[], Behavior]
    sight: Sight = FULL

    def card(
        self,
        issued: datetime,
        *,
        activate_after_s: float | None,
        recycle_after_s: float | None,
        attempts: int = 1,
        amount_minor: int | None = None,
        reactivate_after_s: Sequence[float] = (),
    ) -> list[SimulatedEvent]:
        """The events of one card. `recycle_after_s` counts from its activation, or its issue if there is none.

        A quote before the recycle and a retry after it are further `attempts`. Each of `reactivate_after_s` follows the
        last recycle, and is followed by another one.
        """
        rng = self.world.rng
        self._card_id = self.world.new_id("c")
        self._platform, self._tier = (
            rng.choice(("iqiyi", "iqiyi", "tencent", "netflix")),
            rng.choice(("BASIC", "PREMIUM")),
        )
        self._amount_minor = self.world.price() if amount_minor is None else amount_minor
        events = [self._event("ISSUE", issued)]
        moment = issued
        if activate_after_s is not None:
            moment += timedelta(seconds=activate_after_s)
            events.append(self._event("ACTIVATE", moment))
        if recycle_after_s is None:
            return events
        moment += timedelta(seconds=recycle_after_s)
        for attempt in range(attempts):
            moment += timedelta(seconds=self.world.log_uniform(0.02, 240) if attempt else 0)
            events.append(self._event("RECYCLE", moment))
        for gap_s in reactivate_after_s:
            moment += timedelta(seconds=gap_s)
            events.append(self._event("REACTIVATE", moment))
            moment += timedelta(seconds=gap_s * rng.uniform(0.3, 3))
            events.append(self._event("RECYCLE", moment))
        return events

    def _event(self, kind: str, moment: datetime) -> SimulatedEvent:
        # Whoever issues cards knows an account and a card, and no device.
        seen = self.sight if kind != "ISSUE" else Sight(device=False, ip=False, behavior=False)
        judged = kind == "RECYCLE"
        rng = self.world.rng
        return SimulatedEvent(
            event_time=moment,
            event_kind=kind,
            account_id=self.account_id,
            card_id=self._card_id,
            platform=self._platform,
            tier=self._tier,
            reason={"iqiyi": "VOLUNTARY", "tencent": "SYSTEM_ANOMALY", "netflix": "EXPIRED"}[self._platform]
            if judged
            else None,
            amount_minor=self._amount_minor if kind != "ISSUE" else None,
            device=seen.of_device(self.device),
            ip=self.ip if seen.ip else None,
            behavior=self.behave() if seen.behavior and kind in ("RECYCLE", "REACTIVATE") else None,
            label=self.label if judged else None,
            label_time=moment + timedelta(hours=rng.uniform(1, 24)) if judged else None,
            family=self.family,
        )

    _card_id: str = ""
    _platform: str = ""
    _tier: str = ""
    _amount_minor: int = 0


def _cumulative(weights: Sequence[float]) -> list[float]:
    total = 0.0
    return [total := total + weight for weight in weights]
