"""The terms of cards where nobody says them. Knows defaults only, so that telling them loads nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CardTerms:
    """What the log does not say about the cards to issue. `paid_minor` in minor units of `currency`."""

    platform: str = "iqiyi"
    currency: str = "CNY"
    duration_days: int = 365
    paid_minor: int = 2999


DEFAULT_TERMS = CardTerms()
