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

REGISTRY_NAME: Final = "v2"
"""Changes whenever a feature is added, removed, moved or redefined."""

COUNT_MAX: Final = 200
"""Where the counts of the history saturate."""

_AGE_SECONDS_MAX: Final = 3_153_600_000.0
_YEAR_SECONDS: Final = 31_536_000.0
_SIGNAL_COUNT_MAX: Final = 1_000_000
_AMOUNT_MINOR_MAX: Final = 1_000_000_000_000
_DAY_MS: Final = 86_400_000
_GAP_VARIATION_MAX: Final = 10.0
_BONUS_SHARE_MAX: Final = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One column of the matrix. Unknown is NaN, and always admissible."""

    name: str
    meaning: str
    unit: str
    """"count", "seconds", "milliseconds", "minor units", "ratio" or "flag" (0 or 1)."""
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


def _ratio(name: str, window: str, meaning: str, direction: int, *, highest: float) -> Feature:
    return Feature(
        name=name, meaning=meaning, unit="ratio", window=window, direction=direction, lowest=0.0, highest=highest
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
    _count("device_cards_30d", "30 d", "different cards first seen on this device"),
    _count("device_rejects_30d", "30 d", "requests from this device that were rejected"),
    _count("device_confirmed_abuse", "ever", "other accounts on this device whose abuse was confirmed before"),
    _count("device_profiles_30d", "30 d", "different other fingerprint profiles first shown by this device"),
    _flag("device_capped", "whether the device's recycle attempts reached the cap of those read", 1, "30 d"),
    _count("profile_accounts_30d", "30 d", "other accounts first seen with the same profile; few: a rare one", 0),
    _count("look_alike_accounts_1h", "1 h", "other accounts that first recycled with the same profile and amount"),
    _count("look_alike_accounts_24h", "24 h", "other accounts that first recycled with the same profile and amount"),
    _signal("inconsistencies", "contradictions within the fingerprint", 1),
    _flag("emulator", "whether the device is an emulator", 1),
    _flag("rooted", "whether the device is rooted", 1),
    _flag("vpn", "whether the request came through a VPN", 1),
    _seconds("clock_skew_seconds", "distance of the device's clock from ours", 0, window=""),
    _seconds("account_age_seconds", "since the account was first seen; 0 for a new one", -1),
    _count("account_devices_30d", "30 d", "different devices first seen with this account"),
    _flag("account_device_is_new", "whether this account was never seen on this device before", 0, "ever"),
    _count("account_recycles_1h", "1 h", "recycle attempts of this account"),
    _count("account_recycles_24h", "24 h", "recycle attempts of this account"),
    _seconds("account_gap_seconds", "since this account's last recycle attempt", -1, window="30 d"),
    _ratio(
        "account_gap_variation",
        "30 d",
        "standard deviation over mean of the gaps between the last 20 recycle attempts; unknown below 3 gaps",
        0,
        highest=_GAP_VARIATION_MAX,
    ),
    _count("account_reactivations_30d", "30 d", "reactivations of this account"),
    _ratio(
        "account_bonus_share_30d",
        "30 d",
        "what was settled in money-like units over what was paid for the cards it was settled for; unknown without "
        "recycle attempts",
        1,
        highest=_BONUS_SHARE_MAX,
    ),
    _count("account_confirmed_abuse", "ever", "how often abuse of this account was confirmed before"),
    _flag("account_capped", "whether a read of the account's events reached its cap", 1, "30 d"),
    _signal("failed_card_entries_24h", "card numbers or codes entered wrongly by this account", 1, "24 h"),
    _signal("failed_logins_24h", "failed logins of the account", 1, "24 h"),
    _count("address_accounts_1h", "1 h", "other accounts first seen at this address (IPv6: /64)"),
    _count("address_accounts_24h", "24 h", "other accounts first seen at this address (IPv6: /64)"),
    _count("address_devices_24h", "24 h", "other devices first seen at this address (IPv6: /64)"),
    _count("prefix_recycles_1h", "1 h", "recycle attempts from this address's /24 (IPv6: /48)"),
    _flag("address_capped", "whether a count of the address or of its /24 reached its cap", 1, "24 h"),
    _flag("hosting", "whether the address lies in a hosting provider's range", 1),
    _flag(
        "timezone_mismatch",
        "whether the time zone's country differs from the address's or, without one, from the language's",
        1,
    ),
    _count(
        "linked_confirmed_abuse_30d",
        "30 d",
        "devices at two hops (another account on this device, another device of it) with abuse confirmed; the latest "
        "20 accounts and 20 devices of each, as of a minute ago",
    ),
    _count("card_prior_accounts", "ever", "other accounts that this card was seen with"),
    _seconds("card_age_seconds", "since the card was first seen", 0),
    _seconds("card_active_seconds", "since the card was activated", 0),
    _count("serial_neighbours_24h", "24 h", "other accounts that first recycled a card of the same 100 serials"),
    Feature(
        name="amount_minor",
        meaning="what was paid for the card",
        unit="minor units",
        window="",
        direction=0,
        lowest=0.0,
        highest=float(_AMOUNT_MINOR_MAX),
    ),
    _flag("tier_premium", "whether the card is of the tier PREMIUM", 0),
    _flag("reason_voluntary", "whether the card is handed back voluntarily", 0),
    _flag("reason_anomaly", "whether the card is taken back for a system anomaly", 0),
    _seconds("session_seconds", "length of the session", 0, window="", highest=_YEAR_SECONDS),
    _signal("page_views", "pages seen in the session", -1),
    _seconds("seconds_since_login", "since the last login", 0, window=""),
    Feature(
        name="form_fill_ms",
        meaning="how long filling in the form took",
        unit="milliseconds",
        window="",
        direction=-1,
        lowest=0.0,
        highest=float(_DAY_MS),
    ),
    _signal("captcha_failures", "failed captchas in the session", 1),
    _flag("copy_paste_used", "whether form fields were pasted", 0),
)
"""The features in the order of the matrix and of the SQL's columns."""

FEATURE_NAMES: Final = tuple(feature.name for feature in FEATURES)


def registry_sha256() -> str:
    """SHA-256, hex, of all that a model depends on: a model of another hash must not score these rows."""
    content = {"registry": REGISTRY_NAME, "features": [asdict(feature) for feature in FEATURES]}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def as_markdown() -> str:
    """The registry as the page docs/features.md: `fraud-worker features` prints it."""
    directions = {1: "up", -1: "down", 0: "free"}
    rows = [
        f"| `{feature.name}` | {feature.meaning} | {feature.unit} | {feature.window or 'the request'} "
        f"| {directions[feature.direction]} | {feature.lowest:,.0f} to {feature.highest:,.0f} |"
        for feature in FEATURES
    ]
    return _PAGE.format(
        name=REGISTRY_NAME, sha256=registry_sha256(), count=len(FEATURES), cap=COUNT_MAX, rows="\n".join(rows)
    )


_PAGE: Final = """# Features

Registry `{name}`, {count} features. This page is made by `fraud-worker features`; a test compares it.

- As of the request: earlier events only, those of the same moment in their sequence. Windows are half-open.
- "up": more of it never lowers a score; "down": never raises it; "free": either.
- Every feature's default is unknown (NaN): what a request does not say counts neither way. Counts saturate at {cap}.
- Flooding never helps: counts read first-seen pairs or events of one kind alone, and a reached cap is a feature.
  Who adds more than 20 accounts to a device can hide others from `linked_confirmed_abuse_30d`, and shows in
  `device_accounts_*` for it.
- What the service recycles by itself (AUTO_RECYCLE) is judged, and is no recycle attempt of its account.
- Abuse is confirmed from the moment its label became known. A log's label without `label_time` counts 30 days after its
  event.

| feature | meaning | unit | window | monotone | range |
|---|---|---|---|---|---|
{rows}

SHA-256 of the registry: `{sha256}`
"""
