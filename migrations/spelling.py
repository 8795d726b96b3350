"""One spelling for what can be written in many ways: ids that others made, and internet addresses.

Lists and features compare hashes, which tell any two spellings apart: so each value is brought into one spelling before
it is hashed, the same for serving, lists and training. Knows Unicode and the transition mechanisms of IPv6. Must not
know hashes, requests, models or the database.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from functools import lru_cache
from typing import Final

# Default_Ignorable_Code_Point of Unicode, without those that are of category C anyway: they take no room on any screen.
_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_SPACE: Final = re.compile(r"\s+")

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_TRANSLATED: Final = ipaddress.IPv6Network("::ffff:0:0:0/96")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
_IPV4_BITS: Final = 0xFFFF_FFFF

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def one_spelling(text: str) -> str:
    """An id (of a device, of where value goes) as it is compared; empty where nothing of it can be seen.

    Ids are opaque, but case, width and other compatibility forms (NFKC) do not tell two of them apart, nor does what
    nobody sees: control, format, private and unassigned characters, and white space beyond one blank within. Different
    letters that look alike stay different.
    """
    if text.isascii() and text.isprintable() and " " not in text:  # nearly all
        return text.casefold()
    return _one_spelling(text)


@lru_cache(maxsize=4096)
def _one_spelling(text: str) -> str:
    # Folding may leave what NFKC changes, and dropping may bring together what it composes; three rounds end that.
    for _ in range(3):
        text = unicodedata.normalize("NFKC", text).casefold()
        text = _SPACE.sub(" ", _INVISIBLE.sub("", text))
        text = "".join(char for char in text if not unicodedata.category(char).startswith("C")).strip()
    return text


def host_address(text: str) -> Address | None:
    """The address of the host that `text` names; None where it names none.

    An IPv6 address that only carries an IPv4 one is that: mapped (::ffff:0:0/96), translated (::ffff:0:0:0/96),
    compatible (::/96), NAT64 (64:ff9b::/96), 6to4 (2002::/16) and Teredo (2001::/32, its client's). Zones are dropped:
    they are names of the machine that wrote them.
    """
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        return None
    if address.version == 4:
        return address
    value = int(address)
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    # :: and ::1 are addresses of IPv6 in their own right.
    if address in _NAT64 or address in _TRANSLATED or (address in _COMPATIBLE and value > 1):
        return ipaddress.IPv4Address(value & _IPV4_BITS)
    return ipaddress.IPv6Address(value)
