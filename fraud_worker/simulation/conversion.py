"""Whether simulated owners pay again after a recycle: the truth that a conversion model has to find in the log.

Knows how it depends on segment, disposition and behaviour. Must not know features or models. It draws by hashes of what
it is about, and from no sequence: the rest of a world is the same with it and without.

The shares by segment are the published ones; how behaviour moves them is made up.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final, NamedTuple

from fraud_worker.simulation.events import Behavior, SimulatedEvent

_DAY_US: Final = 86_400_000_000
_LATEST_DAYS: Final = 60.0
"""Nobody pays again later."""

_SEGMENTS: Final = ((0.30, "YOUNG"), (0.62, "MIDDLE"), (0.78, "SENIOR"), (1.0, None))
"""Up to which share of accounts, and which segment."""
_PAYS_AGAIN: Final = {"YOUNG": 0.321, "MIDDLE": 0.612, "SENIOR": 0.123, None: 0.234}
_OF_DISPOSITION: Final = {"RESET_VALIDITY": 0.35, "VOUCHER": 0.0, "CANCEL": -0.5}
_OF_ABUSE: Final = -3.0
_RESET_SHARE: Final = 0.6
"""Of what tencent takes; the predecessor tossed a coin."""


class Fate(NamedTuple):
    """What became of a recycle's card, whose it was, and what came of it; all None for what took no card."""

    disposition: str | None = None
    segment: str | None = None
    converted: int | None = None
    converted_time_us: int | None = None


def fate(event: SimulatedEvent) -> Fate:
    """What came of an event; each attempt on a card has a fate of its own."""
    if event.event_kind != "RECYCLE" or event.outcome != "APPROVED":
        return Fate()
    segment, disposition = segment_of(event.account_id), disposition_of(event)
    attempt = f"{event.card_id}:{event.time_us}"
    converted = _drawn("pays", attempt) < probability(event, segment, disposition)
    # Soon, if at all: half of them within a quarter of the time.
    after_us = int(_LATEST_DAYS * _DAY_US * _drawn("when", attempt) ** 2)
    return Fate(disposition, segment, int(converted), event.time_us + after_us if converted else None)


def segment_of(account_id: str) -> str | None:
    """The segment of an account."""
    place = _drawn("segment", account_id)
    return next(segment for share, segment in _SEGMENTS if place < share)


def disposition_of(event: SimulatedEvent) -> str:
    """What became of the card."""
    if event.platform == "tencent":
        return "RESET_VALIDITY" if _drawn("reset", event.card_id) < _RESET_SHARE else "CANCEL"
    return "VOUCHER" if event.platform == "iqiyi" else "CANCEL"


def probability(event: SimulatedEvent, segment: str | None, disposition: str) -> float:
    """How probable it is that the owner pays again: the truth."""
    share = _PAYS_AGAIN[segment]
    odds = math.log(share / (1 - share)) + _OF_DISPOSITION[disposition]
    odds += 0.4 if event.tier == "PREMIUM" else 0.0
    odds += _OF_ABUSE if event.label else 0.0
    odds += _of_session(event.behavior, is_young=segment == "YOUNG") if event.behavior else 0.0
    return 1 / (1 + math.exp(-odds))


def _of_session(behavior: Behavior, *, is_young: bool) -> float:
    """Who looks around comes back, the young above all; who had trouble does not."""
    pages = min(behavior.page_views or 0, 20)
    trouble = (behavior.failed_logins_24h or 0) + (behavior.captcha_failures or 0)
    return (0.12 if is_young else 0.07) * (pages - 5) - 0.5 * min(trouble, 3)


def _drawn(what: str, about: str) -> float:
    """From 0 to 1, the same for the same."""
    digest = hashlib.blake2b(f"{what}:{about}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
