"""Who may do what only some may, as far as it can be told while callers have no identities. Knows the metadata; must
not know what is allowed with it."""

from __future__ import annotations

import hmac

from server.api.guard import Context
from server.domain.errors import Reason, Refusal

AUTHORIZATION = "authorization"
SCHEME = "bearer"
"""Of whatever case (RFC 9110, 11.1)."""


class SupportRole:
    """Customer care: whoever knows its key, until callers have identities with grants of their own. Without a key
    nobody is."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def check(self, context: Context) -> None:
        """Raises Refusal METHOD_NOT_ALLOWED for a caller who does not show the key. How much of it was right cannot be
        told from how long that takes."""
        shown = [value for key, value in context.invocation_metadata() or () if key == AUTHORIZATION]
        given = shown[0] if len(shown) == 1 else ""
        scheme, _, key = (given if isinstance(given, str) else given.decode("latin-1")).partition(" ")
        right = hmac.compare_digest(key.encode(), self._key)
        if not self._key or scheme.lower() != SCHEME or not right:
            raise Refusal(Reason.METHOD_NOT_ALLOWED, "goodwill is granted by customer care only")
