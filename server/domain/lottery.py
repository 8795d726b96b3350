"""Who is let through in spite of the model, so that it can learn from what it would have refused. Pure, given its key.

Knows how the lot of an account is drawn; must not know whose lot wins, nor what winning means (`risk`).
"""

from __future__ import annotations

import hmac
from datetime import UTC, datetime, timedelta

PERIOD = timedelta(days=30)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_PERIOD_US = PERIOD // _MICROSECOND


class Lottery:
    """Draws lots by HMAC-SHA-256. Nobody can tell a lot without the key, nor get another by asking again."""

    def __init__(self, key: bytes) -> None:
        """`key`: at least 16 secret bytes, the same on every server."""
        if len(key) < 16:
            raise ValueError("the key of the lottery must have at least 16 bytes")
        self._key = key

    def lot(self, account_id: str, device_hash: bytes | None, now: datetime) -> float | None:
        """The lot of an account, in [0, 1); None where the request names no device.

        It stays the same for 30 days, whatever the device: device ids cost nothing to make up, and whoever could draw
        anew with each would sooner or later win. When the 30 days begin differs from account to account, so that not
        all change at once.
        """
        if device_hash is None:
            return None
        account = account_id.encode()
        offset_us = self._number(b"offset", account) % _PERIOD_US
        period = ((now - _EPOCH) // _MICROSECOND + offset_us) // _PERIOD_US
        # 53 bits are what a float holds exactly, and keep the quotient below 1.
        return (self._number(b"lot %d" % period, account) >> 11) / 2**53

    def _number(self, purpose: bytes, account: bytes) -> int:
        """64 bits. The purpose holds no NUL, so that no two messages are alike."""
        return int.from_bytes(hmac.digest(self._key, purpose + b"\x00" + account, "sha256")[:8])
