"""What devices and addresses become before they reach `risk_event`: keyed hashes, the same for serving and training.

Knows the fields of a fingerprint and how to hash them. Must not know requests, policies, models or the database.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass

from migrations.spelling import host_address, one_spelling

PROFILE_FIELDS = ("model", "os", "screen", "language", "channel", "user_agent", "age")
"""Fields that many devices share and that one hand behind many accounts tends to repeat."""

PROFILE_FIELDS_MIN = 3
"""With fewer known fields a profile says nothing, and has no hash."""

HASH_BYTES = 16

_SERIAL = re.compile(r"(.*[0-9])[0-9]{2}", re.DOTALL)


def serial_block(platform: str | None, serial: str | None) -> bytes | None:
    """The block of 100 serials that a card's serial belongs to, as the SQL function of this name has it (16 bytes).

    None where the serial does not end in three digits: such serials do not count up.
    """
    block = _SERIAL.fullmatch(serial or "")
    if block is None:
        return None
    return hashlib.sha256(f"{platform or ''}\x1f{block[1]}".encode()).digest()[:HASH_BYTES]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """The keyed hashes that one request leaves; None where the request did not say. 16 bytes each."""

    device_hash: bytes | None = None
    address_hash: bytes | None = None
    prefix_hash: bytes | None = None
    profile_hash: bytes | None = None


class TraceHasher:
    """Hashes fingerprints under one key (HMAC-SHA-256, truncated to 16 bytes, one domain for each kind of value)."""

    def __init__(self, key: bytes) -> None:
        """`key`: at least 16 secret bytes. Under another key the same device is another device."""
        if len(key) < 16:
            raise ValueError("the key of the trace hashes must have at least 16 bytes")
        self._key = key

    def traces(self, *, device_id: str | None, ip: str | None, profile: Mapping[str, str | None]) -> Traces:
        """The hashes of one request. Empty strings count as unknown; `ip` may be IPv4, IPv6 or unparsable (unknown)."""
        # Another spelling of an id is the same device, or an attempt to hide it.
        device = one_spelling(device_id or "")
        address_hash, prefix_hash = self._address(ip) if ip else (None, None)
        return Traces(
            device_hash=self._hash("device", device) if device else None,
            address_hash=address_hash,
            prefix_hash=prefix_hash,
            profile_hash=self._profile(profile),
        )

    def payout(self, payout_id: str) -> bytes | None:
        """The hash of where value finally goes; None when that is empty. Its spelling does not count, as
        that of devices' ids does not."""
        value = one_spelling(payout_id)
        return self._hash("payout", value) if value else None

    def _hash(self, domain: str, value: str) -> bytes:
        return hmac.digest(self._key, f"{domain}\x00{value}".encode("utf-8", "surrogatepass"), "sha256")[:HASH_BYTES]

    def _address(self, ip: str) -> tuple[bytes | None, bytes | None]:
        """An IPv4 address, also within one of IPv6, and its /24; an IPv6 address counts as its /64 (one subscriber) and
        has a /48."""
        address = host_address(ip)
        if address is None:
            return None, None
        drop_bits, range_bits = (0, 8) if address.version == 4 else (64, 80)
        value = int(address)
        return (
            self._hash(f"address{address.version}", str(value >> drop_bits)),
            self._hash(f"prefix{address.version}", str(value >> range_bits)),
        )

    def _profile(self, profile: Mapping[str, str | None]) -> bytes | None:
        values = [profile.get(field) or "" for field in PROFILE_FIELDS]
        if sum(map(bool, values)) < PROFILE_FIELDS_MIN:
            return None
        return self._hash("profile", "\x1f".join(values))
