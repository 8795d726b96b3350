"""What the simulated log is made of: an event with its device and its session, and how much of them a caller passes on.

Knows the fields only. Named tuples, unlike the rest of the project: millions of them are made, and written by columns.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Device(NamedTuple):
    """A device as a caller describes it; None is unknown."""

    device_id: str | None
    os: str | None = None
    model: str | None = None
    screen: str | None = None
    language: str | None = None
    timezone: str | None = None
    user_agent: str | None = None
    channel: str | None = None
    emulator: bool | None = None
    rooted: bool | None = None
    vpn: bool | None = None
    clock_skew_seconds: float | None = None
    """How far its clock is from ours, either way."""


class Behavior(NamedTuple):
    """What a session looked like; None is unknown."""

    session_seconds: float | None = None
    page_views: int | None = None
    seconds_since_login: float | None = None
    failed_logins_24h: int | None = None
    captcha_failures: int | None = None
    copy_paste_used: bool | None = None
    form_fill_ms: int | None = None
    failed_card_entries_24h: int | None = None


class SimulatedEvent(NamedTuple):
    """One event as the live system logs it, with the truth about it."""

    time_us: int
    """When, microseconds since 1970."""
    event_kind: str
    account_id: str
    card_id: str
    platform: str
    tier: str
    reason: str | None
    amount_minor: int | None
    """What was paid for the card; of a COMPENSATE, what the owner got."""
    serial: str
    ip: str | None
    country: str | None
    """Of the address."""
    outcome: str | None
    """On what is judged: what the system of rules that was there before answered."""
    label: int | None
    """On each RECYCLE and on most REACTIVATEs: 1 abuse, 0 honest."""
    label_time_us: int | None
    """When the label became known, microseconds since 1970."""
    family: str
    """Which scenario made it; no feature may know."""
    device: Device | None
    behavior: Behavior | None

    @property
    def event_time(self) -> datetime:
        return _EPOCH + timedelta(microseconds=self.time_us)

    @property
    def label_time(self) -> datetime | None:
        return None if self.label_time_us is None else _EPOCH + timedelta(microseconds=self.label_time_us)


class Sight(NamedTuple):
    """How much of a request one caller passes on. Whole groups of fields are missing together."""

    device: bool = True
    profile_fields: int = 5
    """How many of os, model, screen, language, user agent; below three there is no profile to compare."""
    ip: bool = True
    behavior: bool = True
    country: bool = False
    """Whether the caller looks up where the address is."""

    def of_device(self, device: Device) -> Device | None:
        if not self.device:
            return None
        if self.profile_fields >= len(_PROFILE):
            return device
        if not self.profile_fields:
            return Device(device.device_id)
        hidden = (*_PROFILE[self.profile_fields :], "timezone", "channel", "clock_skew_seconds")
        return device._replace(**dict.fromkeys(hidden))


_PROFILE: Final = ("os", "model", "screen", "language", "user_agent")

FULL: Final = Sight(country=True)
BLIND: Final = Sight(device=False, ip=False, behavior=False)
SIGHTS: Final = (
    FULL,
    Sight(behavior=False),
    Sight(ip=False),
    Sight(profile_fields=0, country=True),
    Sight(profile_fields=2, behavior=False),
    Sight(profile_fields=2, ip=False, behavior=False),
    Sight(profile_fields=0, ip=False, behavior=False),
    Sight(profile_fields=0, ip=False),
    BLIND,
)
