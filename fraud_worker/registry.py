"""The feature registry: the one definition of every feature a model sees.

Knows each feature's name, meaning, unit, window, direction and admissible range, and the order of the matrix. Must not
know how a feature is computed (the SQL function `risk_features`), carried (`fraud_scoring.v1.FeatureRow`) or scored;
tests hold both to this list.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Final

REGISTRY_NAME: Final = "v1"
"""Changes whenever a feature is added, removed, moved or redefined."""

COUNT_MAX: Final = 200
"""Where the counts of the history saturate."""

_AGE_SECONDS_MAX: Final = 3_153_600_000.0
_YEAR_SECONDS: Final = 31_536_000.0
_SIGNAL_COUNT_MAX: Final = 1_000_000
_AMOUNT_MINOR_MAX: Final = 1_000_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One column of the matrix. Unknown is NaN, and always admissible."""

    name: str
    meaning: str
    unit: str
    """"count", "seconds", "minor units" or "flag" (0 or 1)."""
    window: str
    """How far back it looks; "" where it is about the request itself."""
    direction: int
    """+1: more of it never lowers the score; -1: never raises it; 0: either."""
    lowest: float
    highest: float


def _count(name: str, window: str, meaning: str, direction: int = 1) -> Feature:
    return Feature(
        name=name,
        meaning=meaning,
        unit="count",
        window=window,
        direction=direction,
        lowest=0.0,
        highest=float(COUNT_MAX),
    )


def _seconds(
    name: str, meaning: str, direction: int, *, window: str = "ever", highest: float = _AGE_SECONDS_MAX
) -> Feature:
    return Feature(
        name=name, meaning=meaning, unit="seconds", window=window, direction=direction, lowest=0.0, highest=highest
    )


def _flag(name: str, meaning: str, direction: int, window: str = "") -> Feature:
    return Feature(name=name, meaning=meaning, unit="flag", window=window, direction=direction, lowest=0.0, highest=1.0)


def _signal(name: str, meaning: str, direction: int, window: str = "") -> Feature:
    return Feature(
        name=name,
        meaning=meaning,
        unit="count",
        window=window,
        direction=direction,
        lowest=0.0,
        highest=float(_SIGNAL_COUNT_MAX),
    )


FEATURES: Final[tuple[Feature, ...]] = (
    _count("device_accounts_1h", "1 h", "other accounts first seen on this device"),
    _count("device_accounts_24h", "24 h", "other accounts first seen on this device"),
    _count("device_accounts_30d", "30 d", "other accounts first seen on this device"),
    _count("device_accounts_ever", "ever", "other accounts first seen on this device"),
    _seconds("device_age_seconds", "since the device was first seen; 0 for a new one", -1),
    _count("device_recycles_24h", "24 h", "recycle attempts from this device"),
    _count("device_cards_30d", "30 d", "different cards seen on this device"),
    _count("device_profiles_30d", "30 d", "different other fingerprint profiles that this device showed"),
    _flag("device_capped", "whether the device's history reached the cap of events read", 1, "30 d"),
    _count("look_alike_accounts_1h", "1 h", "other accounts that recycled with the same profile and amount"),
    _count("look_alike_accounts_24h", "24 h", "other accounts that recycled with the same profile and amount"),
    _seconds("account_age_seconds", "since the account was first seen; 0 for a new one", -1),
    _count("account_devices_30d", "30 d", "different devices first seen with this account"),
    _flag("account_device_is_new", "whether this account was never seen on this device before", 0, "ever"),
    _count("account_recycles_1h", "1 h", "recycle attempts of this account"),
    _count("account_recycles_24h", "24 h", "recycle attempts of this account"),
    _seconds("account_gap_seconds", "since this account's last recycle attempt", -1, window="30 d"),
    _count("account_reactivations_30d", "30 d", "reactivations of this account"),
    _count("address_accounts_1h", "1 h", "other accounts first seen at this address (IPv6: /64)"),
    _count("address_accounts_24h", "24 h", "other accounts first seen at this address (IPv6: /64)"),
    _count("prefix_recycles_1h", "1 h", "recycle attempts from this address's /24 (IPv6: /48)"),
    _count("card_prior_accounts", "ever", "other accounts that this card was seen with"),
    _seconds("card_age_seconds", "since the card was first seen", 0),
    _seconds("card_active_seconds", "since the card was activated", 0),
    Feature(
        name="amount_minor",
        meaning="what was paid for the card",
        unit="minor units",
        window="",
        direction=0,
        lowest=0.0,
        highest=float(_AMOUNT_MINOR_MAX),
    ),
    _seconds("session_seconds", "length of the session", 0, window="", highest=_YEAR_SECONDS),
    _signal("page_views", "pages seen in the session", -1),
    _seconds("seconds_since_login", "since the last login", 0, window=""),
    _signal("failed_logins_24h", "failed logins of the account", 1, "24 h"),
    _signal("captcha_failures", "failed captchas in the session", 1),
    _flag("copy_paste_used", "whether form fields were pasted", 0),
    _flag("emulator", "whether the device is an emulator", 1),
    _flag("rooted", "whether the device is rooted", 1),
    _flag("vpn", "whether the request came through a VPN", 1),
)
"""The features in the order of the matrix, which is the order of `FeatureRow`'s fields and of the SQL's columns."""

FEATURE_NAMES: Final = tuple(feature.name for feature in FEATURES)


def registry_sha256() -> str:
    """SHA-256, hex, of all that a model depends on: a model of another hash must not score these rows."""
    content = {"registry": REGISTRY_NAME, "features": [asdict(feature) for feature in FEATURES]}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
