"""The simulated world: its phones, prices, serials, networks and ways to behave.

Knows what exists and how common it is. Must not know who is honest and how abuse is done, nor features or models.
"""

from __future__ import annotations

import ipaddress
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import accumulate
from typing import Final, TypeVar

from fraud_worker.simulation.events import SIGHTS, Behavior, Device, Sight

HOSTING: Final = tuple(
    ipaddress.IPv4Network(line)
    for line in files("migrations").joinpath("hosting_ranges.txt").read_text("utf-8").splitlines()
    if line and not line.startswith("#") and ":" not in line
)
"""Ranges of data centres, as the features know them; nobody's home lies in them."""

_DAY_S: Final = 86_400.0
_RESERVED: Final = {10, 100, 127, 169, 172, 192, 198, 203}
_HOME_OCTETS: Final = tuple(
    octet
    for octet in range(11, 224)
    if octet not in _RESERVED | {network.network_address.packed[0] for network in HOSTING}
)

_PRICES: Final = (2999, 1990, 2500, 990, 4500, 14900, 25800, 6800, 19800, 1500, 5900, 39800)
_PLATFORMS: Final = (("iqiyi", "IQ", "VOLUNTARY"), ("tencent", "TX", "SYSTEM_ANOMALY"), ("netflix", "NF", "EXPIRED"))
_REASONS: Final = ("VOLUNTARY", "SYSTEM_ANOMALY", "EXPIRED")
_BRANDS: Final = ("Pearl", "Nova", "Mate", "Redwood", "Aurora", "Find", "Reno", "Magic", "Edge", "Pixel")
_SCREENS: Final = ("1080x2400", "1440x3200", "720x1600", "1080x2340")
_IPHONE_SCREENS: Final = ("1170x2532", "1290x2796", "750x1334")
_DESKTOP_SCREENS: Final = ("1920x1080", "2560x1440", "1366x768")
_REGIONS: Final = (
    ("zh-CN", "Asia/Shanghai"),
    ("zh-TW", "Asia/Taipei"),
    ("zh-HK", "Asia/Hong_Kong"),
    ("ja-JP", "Asia/Tokyo"),
    ("en-SG", "Asia/Singapore"),
    ("en-US", "America/Los_Angeles"),
    ("en-US", "Asia/Shanghai"),
    ("zh-CN", "Australia/Sydney"),
)
_REGION_WEIGHTS: Final = (83, 3, 3, 2, 2, 2, 3, 2)
_ABROAD: Final = (
    *("Asia/Ho_Chi_Minh", "Asia/Manila", "Europe/Moscow", "America/New_York", "Europe/Berlin", "Asia/Bangkok"),
    *("Asia/Tokyo", "America/Los_Angeles", "Asia/Singapore"),
)
_COUNTRIES: Final = {
    "Asia/Shanghai": "CN",
    "Asia/Taipei": "TW",
    "Asia/Hong_Kong": "HK",
    "Asia/Tokyo": "JP",
    "Asia/Singapore": "SG",
    "America/Los_Angeles": "US",
    "America/New_York": "US",
    "Australia/Sydney": "AU",
    "Asia/Ho_Chi_Minh": "VN",
    "Asia/Manila": "PH",
    "Asia/Bangkok": "TH",
    "Europe/Moscow": "RU",
    "Europe/Berlin": "DE",
}
_SHOP_COUNTERS: Final = 60
_BLOCK: Final = 100
"""How many serials a seller gets at a time; neighbours differ in the last two digits."""

Thing = TypeVar("Thing")


@dataclass(slots=True, eq=False)
class Card:
    """A card and what its recycling would be about."""

    card_id: str
    platform: str
    tier: str
    amount_minor: int
    serial: str
    reason: str
    refused: bool = False
    """Whether its last recycle was."""

    @property
    def returns(self) -> bool:
        """Whether its platform gives recycled cards back."""
        return self.platform != "netflix"


class World:
    """Everything that people and abusers share. The same seed gives the same world, and then the same draws."""

    def __init__(self, seed: int, *, carriers: int = 25) -> None:
        """`carriers`: the addresses behind which all of the carriers' customers are."""
        self.rng: Final = random.Random(seed)  # noqa: S311 - a simulation, not a secret
        self._random = self.rng.random
        self._name = f"s{seed}"
        self._ids = 0
        self._profiles = [self._profile() for _ in range(300)]
        # Zipf: the top phone alone is more than a quarter of all.
        self._profile_weights = list(accumulate(1 / rank**1.1 for rank in range(1, 301)))
        self._price_weights = list(accumulate(1 / rank for rank in range(1, len(_PRICES) + 1)))
        self._carrier_addresses = [self.new_address() for _ in range(carriers)]
        self._campus_ranges = [self.new_range() for _ in range(6)]
        self._counters = [self._fresh_block() for _ in range(_SHOP_COUNTERS)]

    def new_id(self, kind: str) -> str:
        """A new identifier that no other seed makes."""
        self._ids += 1
        return f"{self._name}-{kind}{self._ids}"

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def log_uniform(self, low: float, high: float) -> float:
        """Between `low` and `high`, each order of magnitude as likely as any other."""
        return low * math.exp(self._random() * math.log(high / low))

    def pick(self, things: Sequence[Thing]) -> Thing:
        """One of `things`, each as likely as any other."""
        return things[int(self._random() * len(things))]

    def weighted(self, things: Sequence[Thing], weights: Sequence[float]) -> Thing:
        """One of `things`, as likely as its weight."""
        left = self._random() * sum(weights)
        for thing, weight in zip(things, weights, strict=True):
            left -= weight
            if left < 0:
                return thing
        return things[-1]

    # --- devices ---

    def phone(self) -> Device:
        """Somebody's own phone; popular ones are popular."""
        weights = self._profile_weights
        return self.same_phone(self._profiles[bisect_right(weights, self._random() * weights[-1])])

    def top_phone(self) -> Device:
        """A phone of the most popular profile."""
        return self.same_phone(self._profiles[0])

    def rare_phone(self) -> Device:
        """A phone whose profile is hardly seen elsewhere: a farm's rack, an image of an emulator."""
        return self.same_phone(self._profile())

    def same_phone(
        self, like: Device, *, emulator: float = 0.015, rooted: float = 0.03, vpn: float = 0.06, skewed: float = 0.07
    ) -> Device:
        """Another phone with the same profile; each of the flags with the probability given."""
        random = self._random
        return Device(
            self.new_id("d"),
            like.os,
            like.model,
            like.screen,
            like.language,
            like.timezone,
            like.user_agent,
            like.channel,
            random() < emulator,
            random() < rooted,
            random() < vpn,
            round(self.log_uniform(15, 90_000) if random() < skewed else 0.05 + 2.5 * random() ** 2, 3),
        )

    def abroad(self, device: Device) -> Device:
        """The same device with its clock in another country."""
        return device._replace(timezone=self.pick(_ABROAD))

    def contradicted(self, device: Device) -> Device:
        """The same device as a careless imitation of another: its fields do not belong together."""
        other = self._profile()
        if self.chance(0.5):
            return device._replace(user_agent=_agent(self, "windows", "PC"))
        return device._replace(os="android" if device.os == "ios" else "ios", user_agent=other.user_agent)

    def _profile(self) -> Device:
        kind = self._random()
        if kind < 0.3:
            system, model, screen = "ios", f"iPhone {self.rng.randrange(8, 18)}", self.pick(_IPHONE_SCREENS)
        elif kind < 0.93:
            model = f"{self.pick(_BRANDS)} {self.rng.randrange(3, 60)}"
            system, screen = "android", self.pick(_SCREENS)
        else:
            system, model, screen = "windows", "PC", self.pick(_DESKTOP_SCREENS)
        language, timezone = self.weighted(_REGIONS, _REGION_WEIGHTS)
        channel = "web" if system == "windows" else self.pick(("app", "app", "app", "mini_program", "web"))
        agent = _agent(self, system, model)
        return Device(None, system, model, screen, language, timezone, agent, channel, False, False, False, 0.0)

    # --- cards ---

    def price(self) -> int:
        """What somebody paid for a card, minor units: mostly one of a few price points."""
        if self._random() < 0.08:
            return self.rng.randrange(1, 40_000)
        weights = self._price_weights
        return _PRICES[bisect_right(weights, self._random() * weights[-1])]

    def card(self, amount_minor: int | None = None, serial: int | None = None, *, platform: int | None = None) -> Card:
        """A new card; by default somebody's from anywhere, and as often as not the next one of a shop's counter.

        `platform`: see `platform`.
        """
        random = self._random
        amount = self.price() if amount_minor is None else amount_minor
        name, letters, reason = _PLATFORMS[self.platform() if platform is None else platform]
        if random() < 0.03:
            reason = self.pick(_REASONS)
        if serial is None:
            serial = self._counter_serial() if random() < 0.4 else int(random() * 10_000_000_000)
        tier = "PREMIUM" if random() < (0.25 if amount < 3_000 else 0.75) else "BASIC"
        return Card(self.new_id("c"), name, tier, amount, f"{letters}-{serial:010d}", reason)

    def platform(self) -> int:
        """The number of a platform; some are more popular."""
        return int(0.45 + 2.55 * self._random() ** 1.7)

    def returning_platform(self) -> int:
        """The number of a platform that gives recycled cards back."""
        return int(self._random() * 1.4)

    def block(self) -> int:
        """The first serial of a block that nobody else sells from."""
        return int(self._random() * 100_000_000) * _BLOCK

    def _counter_serial(self) -> int:
        counter = int(self._random() * _SHOP_COUNTERS)
        serial = self._counters[counter]
        self._counters[counter] = serial + 1 if (serial + 1) % _BLOCK else self.block()
        return serial

    def _fresh_block(self) -> int:
        return self.block() + int(self._random() * _BLOCK)

    # --- networks ---

    def new_range(self) -> str:
        """A /24 of people's homes, as its first three numbers."""
        random = self._random
        return f"{self.pick(_HOME_OCTETS)}.{int(random() * 256)}.{int(random() * 256)}"

    def hosting_range(self) -> str:
        """A /24 of a data centre."""
        network = self.pick(HOSTING)
        address = network.network_address + int(self._random() * network.num_addresses)
        return str(address).rpartition(".")[0]

    def new_address(self, ranges: Sequence[str] = ()) -> str:
        """An address of one of `ranges`, or anywhere."""
        return f"{self.pick(ranges) if ranges else self.new_range()}.{1 + int(self._random() * 254)}"

    def home_address(self) -> str:
        """Where somebody recycles from: their own line, or one of the few addresses that a carrier's customers use."""
        kind = self._random()
        if kind < 0.25:
            return self.pick(self._carrier_addresses)
        if kind < 0.37:
            bits = int(self._random() * 2**44)
            return f"240e:{bits >> 32:x}:{bits >> 16 & 0xFFFF:x}:{bits & 0xFFFF:x}::1"
        return self.new_address()

    def country(self) -> str:
        """Where a data centre or a rented line is: as likely at home as anywhere abroad."""
        return "CN" if self._random() < 0.5 else self.pick(("US", "SG", "JP", "HK", "DE", "VN", "RU"))

    def campus_range(self) -> str:
        return self.pick(self._campus_ranges)

    # --- callers, and ways to behave ---

    def sight(self, weights: Sequence[float] = (50, 12, 6, 6, 5, 5, 8, 3, 5)) -> Sight:
        """How much some caller passes on, by the weights of `SIGHTS`."""
        return self.weighted(SIGHTS, weights)

    def human(self) -> Behavior:
        """Somebody reading, hesitating and mistyping."""
        random, gauss, exp = self._random, self.rng.gauss, math.exp
        session = min(7200.0, max(4.0, exp(4.6 + 0.95 * gauss(0.0, 1.0))))
        return self._measured(
            session,
            1 + int(session / (6 + 24 * random())),
            self._since_login(session),
            _few(random(), 0.86, 0.96, 0.99),
            _few(random(), 0.90, 0.97, 0.99),
            random() < 0.22,
            int(1000 * min(session, exp(2.5 + 0.7 * gauss(0.0, 1.0)))),
            _few(random(), 0.88, 0.96, 0.985),
            0.12,
        )

    def fumbling(self) -> Behavior:
        """Somebody who forgot the password, or cannot read the captcha or the card."""
        random = self._random
        human = self.human()
        return human._replace(
            failed_logins_24h=int(random() * 6),
            captcha_failures=int(random() * 5),
            failed_card_entries_24h=int(random() * 6),
        )

    def quick(self) -> Behavior:
        """Somebody who knows the way, or an import by the platform itself: short, but little fails."""
        random = self._random
        session = self.log_uniform(0.4, 45)
        return self._measured(
            session,
            int(random() * 5),
            90 * random(),
            _few(random(), 0.96, 0.99, 1),
            _few(random(), 0.96, 0.99, 1),
            random() < 0.45,
            int(1000 * min(session, self.log_uniform(0.15, 9))),
            _few(random(), 0.95, 0.99, 1),
            0.15,
        )

    def blank(self) -> Behavior:
        """What a caller passes on that fills in zeros for what it does not measure."""
        return Behavior(0.0, 0, 0.0, 0, 0, False, 0, 0)

    def worker(self) -> Behavior:
        """Somebody paid by the piece: practised, pasting from a list that is not quite in order."""
        random = self._random
        session = min(900.0, math.exp(3.5 + 0.7 * self.rng.gauss(0.0, 1.0)))
        return self._measured(
            session,
            1 + int(random() * (2 + session / 15)),
            self._since_login(session) if random() < 0.4 else session + 15 * random(),
            _few(random(), 0.74, 0.90, 0.96),
            _few(random(), 0.78, 0.92, 0.97),
            random() < 0.66,
            int(1000 * min(session, math.exp(1.45 + 0.6 * self.rng.gauss(0.0, 1.0)))),
            _few(random(), 0.66, 0.86, 0.94),
            0.12,
        )

    def script(self) -> Callable[[], Behavior]:
        """One script's sessions: seconds long, a page or two, and perhaps failing at what people pass."""
        random = self._random
        fails, paste, partly = self.chance(0.6), self.chance(0.6), 0.5 if self.chance(0.15) else 0.0
        # A careful script waits between its steps.
        slow = self.log_uniform(3, 30) if self.chance(0.35) else 1.0

        def behave() -> Behavior:
            session = slow * self.log_uniform(0.2, 6)
            return self._measured(
                session,
                int(random() * (3 if slow == 1.0 else 5)),
                self._since_login(session) if random() < 0.3 else session + 5 * random(),
                _few(random(), 0.70, 0.86, 0.93),
                _few(random(), 0.35, 0.62, 0.80) if fails else _few(random(), 0.9, 0.97, 0.99),
                paste and random() < 0.9,
                int(1000 * min(session, slow * self.log_uniform(0.03, 1.5))),
                _few(random(), 0.65, 0.83, 0.91),
                partly,
            )

        return behave

    def _since_login(self, session_s: float) -> float:
        kind = self._random()
        if kind < 0.4:
            return session_s + 20 * self._random()
        return 120 * self._random() if kind < 0.6 else self.log_uniform(60, 2_000_000)

    def _measured(
        self,
        session_s: float,
        page_views: int,
        since_login_s: float,
        failed_logins: int,
        captchas: int,
        paste: bool,
        form_ms: int,
        failed_entries: int,
        partly: float,
    ) -> Behavior:
        """The session; with probability `partly` as a caller sees it that measures only some of it."""
        session, since_login = round(session_s, 2), round(since_login_s, 1)
        whole = (session, page_views, since_login, failed_logins, captchas, paste, form_ms, failed_entries)
        random = self._random
        if random() >= partly:
            return Behavior(*whole)
        return Behavior(*(value if random() < 0.5 else None for value in whole))  # type: ignore[arg-type]


def country_of(timezone: str | None) -> str | None:
    """The country of those whose clocks show `timezone`."""
    return _COUNTRIES.get(timezone or "")


def _few(draw: float, none: float, one: float, two: float) -> int:
    """A small count: 0, 1, 2 or 3 to 5, by where the draw falls."""
    if draw < none:
        return 0
    if draw < one:
        return 1
    return 2 if draw < two else 3 + int((draw - two) * 2.99 / (1 - two))


def _agent(world: World, system: str, model: str) -> str:
    rng = world.rng
    version = f"vip/{rng.randrange(6, 10)}.{rng.randrange(12)}"
    if system == "ios":
        return f"Mozilla/5.0 (iPhone; CPU iPhone OS {rng.randrange(14, 19)}_{rng.randrange(6)} like Mac OS X) {version}"
    if system == "android":
        return f"Mozilla/5.0 (Linux; Android {rng.randrange(9, 16)}; {model}) {version}"
    return f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/{rng.randrange(110, 140)}.0 {version}"
