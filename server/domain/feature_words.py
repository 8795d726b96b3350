"""What each feature means, in words for reviewers: what a person is told of a request that no scorer explained.

The words are the scorer's own (a test compares them), kept here since they are needed most when the scorer is away.
Must not know models or scores.
"""

from __future__ import annotations

from typing import Final

MEANINGS: Final[dict[str, tuple[str, str, str]]] = {
    "device_accounts_1h": ("count", "other accounts first seen on this device", "1 h"),
    "device_accounts_24h": ("count", "other accounts first seen on this device", "24 h"),
    "device_accounts_30d": ("count", "other accounts first seen on this device", "30 d"),
    "device_accounts_ever": ("count", "other accounts first seen on this device", "ever"),
    "device_age_seconds": ("seconds", "since the device was first seen", "ever"),
    "device_recycles_24h": ("count", "recycle attempts from this device", "24 h"),
    "device_cards_30d": ("count", "different cards first seen on this device", "30 d"),
    "device_rejects_30d": ("count", "requests from this device that were rejected", "30 d"),
    "device_confirmed_abuse": ("count", "other accounts on this device whose abuse was confirmed before", "ever"),
    "device_profiles_30d": ("count", "different other fingerprint profiles first shown by this device", "30 d"),
    "device_capped": ("flag", "whether the device's recycle attempts reached the cap of those read", "30 d"),
    "profile_accounts_30d": ("count", "other accounts first seen with the same profile", "30 d"),
    "look_alike_accounts_1h": ("count", "other accounts that first recycled with the same profile and amount", "1 h"),
    "look_alike_accounts_24h": ("count", "other accounts that first recycled with the same profile and amount", "24 h"),
    "inconsistencies": ("count", "contradictions within the fingerprint", ""),
    "emulator": ("flag", "whether the device is an emulator", ""),
    "rooted": ("flag", "whether the device is rooted", ""),
    "vpn": ("flag", "whether the request came through a VPN", ""),
    "clock_skew_seconds": ("seconds", "distance of the device's clock from ours", ""),
    "account_age_seconds": ("seconds", "since the account was first seen", "ever"),
    "account_devices_30d": ("count", "different devices first seen with this account", "30 d"),
    "account_device_is_new": ("flag", "whether this account was never seen on this device before", "ever"),
    "account_recycles_1h": ("count", "recycle attempts of this account", "1 h"),
    "account_recycles_24h": ("count", "recycle attempts of this account", "24 h"),
    "account_gap_seconds": ("seconds", "since this account's last recycle attempt", "30 d"),
    "account_gap_variation": (
        "ratio",
        "standard deviation over mean of the gaps between the last 20 recycle attempts",
        "30 d",
    ),
    "account_reactivations_30d": ("count", "reactivations of this account", "30 d"),
    "account_bonus_share_30d": (
        "ratio",
        "what was settled in money-like units over what was paid for the cards it was settled for",
        "30 d",
    ),
    "account_confirmed_abuse": ("count", "how often abuse of this account was confirmed before", "ever"),
    "account_capped": ("flag", "whether a read of the account's events reached its cap", "30 d"),
    "failed_card_entries_24h": ("count", "card numbers or codes entered wrongly by this account", "24 h"),
    "failed_logins_24h": ("count", "failed logins of the account", "24 h"),
    "address_accounts_1h": ("count", "other accounts first seen at this address (IPv6: /64)", "1 h"),
    "address_accounts_24h": ("count", "other accounts first seen at this address (IPv6: /64)", "24 h"),
    "address_devices_24h": ("count", "other devices first seen at this address (IPv6: /64)", "24 h"),
    "prefix_recycles_1h": ("count", "recycle attempts from this address's /24 (IPv6: /48)", "1 h"),
    "address_capped": ("flag", "whether a count of the address or of its /24 reached its cap", "24 h"),
    "hosting": ("flag", "whether the address lies in a hosting provider's range", ""),
    "timezone_mismatch": (
        "flag",
        "whether the time zone's country differs from the address's or, without one, from the language's",
        "",
    ),
    "linked_confirmed_abuse_30d": (
        "count",
        "devices at two hops (another account on this device, another device of it) with abuse confirmed",
        "30 d",
    ),
    "card_prior_accounts": ("count", "other accounts that this card was seen with", "ever"),
    "card_age_seconds": ("seconds", "since the card was first seen", "ever"),
    "card_active_seconds": ("seconds", "since the card was activated", "ever"),
    "serial_neighbours_24h": ("count", "other accounts that first recycled a card of the same 100 serials", "24 h"),
    "amount_minor": ("minor units", "what was paid for the card", ""),
    "tier_premium": ("flag", "whether the card is of the tier PREMIUM", ""),
    "reason_voluntary": ("flag", "whether the card is handed back voluntarily", ""),
    "reason_anomaly": ("flag", "whether the card is taken back for a system anomaly", ""),
    "session_seconds": ("seconds", "length of the session", ""),
    "page_views": ("count", "pages seen in the session", ""),
    "seconds_since_login": ("seconds", "since the last login", ""),
    "form_fill_ms": ("milliseconds", "how long filling in the form took", ""),
    "captcha_failures": ("count", "failed captchas in the session", ""),
    "copy_paste_used": ("flag", "whether form fields were pasted", ""),
}
"""Unit, meaning and window of each feature, by its name."""

_UNITS_OF_TIME: Final = ((86_400.0, "day"), (3_600.0, "hour"), (60.0, "minute"), (1.0, "second"))
_WINDOWS: Final = {"1 h": " in the last hour", "24 h": " in the last 24 hours", "30 d": " in the last 30 days"}


def sentence(feature: str, value: float | int | bool) -> str:
    """What `value` of a feature says, as one sentence. A feature that is not known is told by its name."""
    unit, meaning, window = MEANINGS.get(feature, ("", feature.replace("_", " "), ""))
    subject = meaning.removeprefix("whether ")
    return f"{subject[:1].upper()}{subject[1:]}{_WINDOWS.get(window, '')}: {_told(unit, value)}."


def _told(unit: str, value: float | int | bool) -> str:
    if unit == "flag" or isinstance(value, bool):
        return "yes" if value else "no"
    if unit in ("seconds", "milliseconds"):
        seconds = value / 1000 if unit == "milliseconds" else value
        size, name = next(((size, name) for size, name in _UNITS_OF_TIME if seconds >= size), _UNITS_OF_TIME[-1])
        number = f"{seconds / size:.1f}".removesuffix(".0")
        return f"{number} {name}" if number == "1" else f"{number} {name}s"
    number = f"{value:,.2f}" if unit == "ratio" else f"{value:,.12g}"
    return f"{number} minor units" if unit == "minor units" else number
