"""Network addresses as settings tell them: whether they are any, and whether they stay on this machine (until there is
TLS, others must be asked for). Must not know what listens there."""

from __future__ import annotations

import ipaddress
import re

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]/]+):([0-9]{1,5})", re.ASCII)
PORT_MAX = 65_535


def is_address(text: str, *, any_port: bool = False) -> bool:
    """Whether it is HOST:PORT, with a host of IPv6 in brackets. `any_port`: port 0, for a free one, will do."""
    found = _ADDRESS.fullmatch(text)
    return found is not None and (0 if any_port else 1) <= int(found[2]) <= PORT_MAX


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT is of this machine alone; a name other than `localhost` is not."""
    host = address.rpartition(":")[0]
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
