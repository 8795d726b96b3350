"""Signals that follow from raw values: what contradicts itself, and that unknown values contradict nothing."""

from datetime import UTC, datetime, timedelta

import pytest

from migrations.risk_signals import clock_skew_seconds, derived_signals, inconsistencies, is_hosting, timezone_mismatch

ANDROID = "Mozilla/5.0 (Linux; Android 14; SM-S918B) AppleWebKit/537.36 Mobile"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15"
MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15"
WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36"


@pytest.mark.parametrize(
    ("os", "model", "screen", "user_agent", "emulator", "count"),
    [
        ("android", "SM-S918B", "1080x2400", ANDROID, False, 0),
        ("ANDROID", "Pixel 8", "1080X2400", "", None, 0),
        ("iOS", "iPhone15,3", "1290x2796", IPHONE, False, 0),
        ("iPadOS 17", "iPad13,1", "1640x2360", MAC, None, 0),
        ("windows", "", "1920x1080", WINDOWS, None, 0),
        ("HarmonyOS", "HUAWEI P60", "", ANDROID, None, 0),
        ("android", "iPhone 13", "", "", None, 1),
        ("ios", "Galaxy S23", "", ANDROID, None, 2),
        ("android", "Pixel 8", "", WINDOWS, None, 1),
        ("", "iPhone 13", "", ANDROID, None, 1),
        ("windows", "", "1080x2400", "", None, 1),
        ("android", "", "0x2400", "", None, 1),
        ("android", "sdk_gphone64_x86_64", "", "", False, 1),
        ("android", "sdk_gphone64_x86_64", "", "", True, 0),
        ("android", "sdk_gphone64_x86_64", "", "", None, 0),
        ("", "", "", "", False, None),
        ("android", "", "", "", None, None),
        ("BeOS", "Nokia 3310", "tiny", "curl/8", None, None),
    ],
)
def test_contradictions_are_counted(
    os: str, model: str, screen: str, user_agent: str, emulator: bool | None, count: int | None
) -> None:
    """Each pair of values that cannot be of one device counts once; None where nothing can be compared."""
    assert inconsistencies(os, model, screen, user_agent, emulator) == count


@pytest.mark.parametrize(
    ("timezone", "language", "country", "mismatch"),
    [
        ("Asia/Shanghai", "zh-CN", "", False),
        ("Asia/Shanghai", "zh-Hans-CN", "", False),
        ("Asia/Shanghai", "zh_CN.UTF-8", "", False),
        ("Asia/Calcutta", "en-IN", "", False),
        ("Europe/Luxembourg", "fr-LU", "", False),
        ("Asia/Shanghai", "en-US", "", True),
        ("Asia/Shanghai", "en-US", "CN", False),
        ("Asia/Shanghai", "zh-CN", "us", True),
        ("Asia/Shanghai", "zh", "", None),
        ("Asia/Shanghai", "es-419", "", None),
        ("Etc/UTC", "en-US", "", None),
        ("Mars/Olympus", "en-US", "US", None),
        ("", "en-US", "", None),
    ],
)
def test_time_zones_are_of_a_country(timezone: str, language: str, country: str, mismatch: bool | None) -> None:
    """The zone's country against the address's, else the language's region; old names of zones count, too."""
    assert timezone_mismatch(timezone, language, country) is mismatch


@pytest.mark.parametrize(
    ("ip", "hosting"),
    [
        ("52.0.0.0", True),
        ("52.31.255.255", True),
        ("52.32.0.0", False),
        ("51.255.255.255", False),
        ("0.0.0.0", False),
        ("255.255.255.255", False),
        ("::ffff:5.9.1.2", True),
        ("2001:db8::1", False),
        ("nowhere", None),
    ],
)
def test_hosting_ranges_hold_their_first_and_last_address(ip: str, hosting: bool | None) -> None:
    """A range ends where the next address begins; what is no address is unknown."""
    assert is_hosting(ip) is hosting


def test_clocks_are_off_either_way() -> None:
    """Slow or fast by as much is as far off; nothing is further off than a century."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert (
        clock_skew_seconds(now - timedelta(minutes=2), now)
        == clock_skew_seconds(now + timedelta(minutes=2), now)
        == 120
    )
    assert clock_skew_seconds(datetime(1, 1, 1, tzinfo=UTC), now) == 3_153_600_000


def test_nothing_follows_from_nothing() -> None:
    """Of unknown values no signal is made up."""
    nothing = dict.fromkeys(("os", "model", "screen", "user_agent"))
    assert derived_signals(fingerprint=nothing, emulator=None, ip=None, timezone=None, language=None) == {}
