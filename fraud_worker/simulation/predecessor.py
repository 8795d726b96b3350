"""The system that judged before there was a model: a few plain rules, and staff who look at some requests.

Knows one request, and which accounts its device has shown today. Must not know scenarios. Its answers are what the log
calls the outcome: they catch some abuse, and a few of the honest.
"""

from __future__ import annotations

import random
from typing import Final

from fraud_worker.simulation.events import Behavior, Device

_DAY_US: Final = 86_400_000_000
_ACCOUNTS_A_DAY: Final = 5
_CAPTCHAS: Final = 3
_ENTRIES: Final = 4
_SKEW_S: Final = 600.0
_FOUND_BY_STAFF: Final = 0.06
_MISTAKEN_BY_STAFF: Final = 0.002


class Predecessor:
    """Holds in memory the devices of one day."""

    def __init__(self, rng: random.Random) -> None:
        self._random = rng.random
        self._day = -1
        self._accounts: dict[str, set[str]] = {}

    def refuses(
        self, time_us: int, account_id: str, device: Device | None, behavior: Behavior | None, *, abuse: bool
    ) -> bool:
        """Whether a request of `account_id` at `time_us` is refused. `abuse`: what staff would find out."""
        day = time_us // _DAY_US
        if day != self._day:
            self._day = day
            self._accounts.clear()
        if device and device.device_id:
            accounts = self._accounts.setdefault(device.device_id, set())
            accounts.add(account_id)
            if len(accounts) > _ACCOUNTS_A_DAY:
                return True
            if device.emulator and (device.vpn or device.rooted or (device.clock_skew_seconds or 0.0) > _SKEW_S):
                return True
        if behavior and (
            (behavior.captcha_failures or 0) >= _CAPTCHAS or (behavior.failed_card_entries_24h or 0) >= _ENTRIES
        ):
            return True
        return self._random() < (_FOUND_BY_STAFF if abuse else _MISTAKEN_BY_STAFF)
