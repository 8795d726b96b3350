"""Signals that follow from the raw values of one request: contradictions, hosting ranges, time zones, clocks.

Raw values end at the edge, so that the signals are computed there, and alike in the loader of event logs. Knows how
devices describe themselves. Must not know requests, hashes, models or the database. Unknown values contradict nothing.
"""

from __future__ import annotations

import ipaddress
import re
from bisect import bisect_right
from collections.abc import Mapping
from datetime import datetime
from functools import cache, lru_cache
from importlib.resources import files
from typing import Final

from migrations.spelling import host_address

FINGERPRINT_FIELDS: Final = ("os", "model", "screen", "user_agent")
"""What `inconsistencies` compares."""

CLOCK_SKEW_SECONDS_MAX: Final = 3_153_600_000.0

Signals = dict[str, float | int | bool]


def derived_signals(
    *,
    fingerprint: Mapping[str, str | None],
    emulator: bool | None,
    ip: str | None,
    timezone: str | None,
    language: str | None,
    country: str | None = None,
) -> Signals:
    """`inconsistencies`, `hosting` and `timezone_mismatch`, as far as they can be told.

    `country` is that of the address (ISO 3166, two letters), where it is known.
    """
    values = (fingerprint.get(field) or "" for field in FINGERPRINT_FIELDS)
    found: dict[str, float | int | bool | None] = {
        "inconsistencies": inconsistencies(*values, emulator),
        "hosting": is_hosting(ip) if ip else None,
        "timezone_mismatch": timezone_mismatch(timezone or "", language or "", country or ""),
    }
    return {name: value for name, value in found.items() if value is not None}


def clock_skew_seconds(clock_time: datetime, now: datetime) -> float:
    """How far a device's clock is off, either way."""
    return min(abs((clock_time - now).total_seconds()), CLOCK_SKEW_SECONDS_MAX)


# --- fingerprints ------------------------------------------------------------------------------------------------

_APPLE_PHONE = re.compile(r"\b(iphone|ipad|ipod)", re.IGNORECASE)
_MAC = re.compile(r"macintosh|\bmac ?os|\bos ?x\b|\bmacbook|\bimac\b", re.IGNORECASE)
_ANDROID = re.compile(r"android|harmony ?os|\bemui\b|\bmiui\b|\bcoloros\b", re.IGNORECASE)
_WINDOWS = re.compile(r"\bwindows\b|\bwin(10|11|32|64)\b", re.IGNORECASE)
_LINUX = re.compile(r"linux|ubuntu|\bx11\b|\bcros\b", re.IGNORECASE)
_APPLE_OS = re.compile(r"^\s*(ios|ipados|iphone os|iphone|ipad)\b", re.IGNORECASE)
_ANDROID_MODEL = re.compile(
    r"\b(samsung|galaxy|sm-[a-z]\d|pixel \d|redmi|xiaomi|huawei|honor|oppo|vivo|oneplus|realme|sdk_gphone)",
    re.IGNORECASE,
)
_EMULATOR = re.compile(
    r"emulator|simulator|sdk_gphone|google_sdk|android sdk built for|genymotion|bluestacks|nox ?player|ldplayer|memu\b"
    r"|vbox|virtualbox|goldfish|ranchu",
    re.IGNORECASE,
)
_SCREEN = re.compile(r"^\s*(\d{1,5})\s*[xX*]\s*(\d{1,5})\b", re.IGNORECASE)
_SCREEN_PIXELS_MAX = 10_000
_PHONE_SHAPE = 1.9
"""No computer's screen stands this much higher than wide."""


@lru_cache(maxsize=65_536)
def inconsistencies(os: str, model: str, screen: str, user_agent: str, emulator: bool | None) -> int | None:
    """How many contradictions a fingerprint holds; None where too little is known to contradict itself.

    System against model, system against user agent, model against user agent, screen against system (or against
    itself), and an emulator's name on what says that it is none.
    """
    os_family, model_family, agent_family = _os_family(os), _model_family(model), _agent_family(user_agent)
    size = _SCREEN.match(screen)
    checks = [
        _differ(os_family, model_family),
        _differ(os_family, agent_family),
        _differ(model_family, agent_family) if not os_family else None,
        _screen_contradicts(int(size[1]), int(size[2]), os_family) if size else None,
        bool(_EMULATOR.search(f"{model} {user_agent}")) if emulator is False and (model or user_agent) else None,
    ]
    told = [check for check in checks if check is not None]
    return sum(told) if told else None


def _os_family(os: str) -> str | None:
    if _APPLE_OS.search(os):
        return "ios"
    return _first((("android", _ANDROID), ("windows", _WINDOWS), ("mac", _MAC), ("linux", _LINUX)), os)


def _model_family(model: str) -> str | None:
    return _first((("ios", _APPLE_PHONE), ("android", _ANDROID_MODEL), ("mac", _MAC)), model)


def _agent_family(user_agent: str) -> str | None:
    # The order matters: Android calls itself Linux, and iPhones "like Mac OS X".
    return _first(
        (("windows", _WINDOWS), ("android", _ANDROID), ("ios", _APPLE_PHONE), ("mac", _MAC), ("linux", _LINUX)),
        user_agent,
    )


def _first(families: tuple[tuple[str, re.Pattern[str]], ...], text: str) -> str | None:
    return next((family for family, pattern in families if pattern.search(text)), None)


def _differ(one: str | None, other: str | None) -> bool | None:
    """Whether two families contradict; a tablet that asks for computers' pages says that it is one."""
    if one is None or other is None:
        return None
    return one != other and {one, other} not in ({"ios", "mac"}, {"android", "linux"})


def _screen_contradicts(width: int, height: int, os_family: str | None) -> bool:
    if not (0 < width <= _SCREEN_PIXELS_MAX and 0 < height <= _SCREEN_PIXELS_MAX):
        return True
    return os_family in ("windows", "mac") and height >= _PHONE_SHAPE * width


# --- addresses ---------------------------------------------------------------------------------------------------


def is_hosting(ip: str) -> bool | None:
    """Whether an address lies in a range of `hosting_ranges.txt`; None for what is no address."""
    address = host_address(ip)
    if address is None:
        return None
    firsts, lasts = _hosting_ranges()[address.version]
    place = bisect_right(firsts, int(address)) - 1
    return place >= 0 and int(address) <= lasts[place]


@cache
def _hosting_ranges() -> dict[int, tuple[list[int], list[int]]]:
    """First and last addresses of the ranges, in order, by version of IP."""
    text = files("migrations").joinpath("hosting_ranges.txt").read_text("utf-8")
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    networks = [ipaddress.ip_network(line) for line in lines if line]
    ranges: dict[int, tuple[list[int], list[int]]] = {4: ([], []), 6: ([], [])}
    for version, (firsts, lasts) in ranges.items():
        # Without overlaps, so that the last range that begins before an address is the only one that may hold it.
        for network in ipaddress.collapse_addresses(n for n in networks if n.version == version):  # type: ignore[type-var]
            firsts.append(int(network.network_address))
            lasts.append(int(network.broadcast_address))
    return ranges


# --- places ------------------------------------------------------------------------------------------------------

_LANGUAGE_REGION = re.compile(r"^[a-z]{2,3}(?:[-_][a-z]{4})?[-_]([a-z]{2})(?:[-_.@].*)?$", re.IGNORECASE)
_COUNTRY = re.compile(r"^[a-z]{2}$", re.IGNORECASE)


@lru_cache(maxsize=65_536)
def timezone_mismatch(timezone: str, language: str, country: str) -> bool | None:
    """Whether the country of an IANA time zone is another than `country`, or where that is unknown, than the region of
    the BCP 47 `language`; None where one of the two is unknown."""
    of_zone = _country_of_zone().get(timezone.strip())
    if _COUNTRY.match(country):
        other: str | None = country
    else:
        region = _LANGUAGE_REGION.match(language.strip())
        other = region[1] if region else None
    if of_zone is None or other is None:
        return None
    return of_zone != other.upper()


@cache
def _country_of_zone() -> dict[str, str]:
    """The country of each time zone that has one, from tzdata's zone.tab; old names are those they link to."""
    folder = files("tzdata").joinpath("zoneinfo")
    lines = folder.joinpath("zone.tab").read_text("utf-8").splitlines()
    countries = {
        zone: country
        for country, _, zone, *_ in (line.split("\t") for line in lines if line and not line.startswith("#"))
    }
    for line in folder.joinpath("tzdata.zi").read_text("utf-8").splitlines():
        kind, *names = line.split(" ")
        if kind == "L" and names[0] in countries:
            countries.setdefault(names[1], countries[names[0]])
    return countries
