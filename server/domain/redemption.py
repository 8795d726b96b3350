"""What was redeemed: the record of one offer taken, which is its partner's notice, too. Holds no rule."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from server.domain.policy import Benefit
from server.domain.recycling import Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Redemption:
    """One offer taken: `price` of the platform's `unit` paid for `benefit`, on the terms of `policy_revision`.

    Its id is that of the coupon, where it gave one; None in a dry run. `expire_time` is a coupon's.
    """

    redemption_id: UUID | None
    request_id: UUID | None
    account_id: str
    platform: str
    offer_id: str
    partner: str
    title: str
    unit: Unit
    price: int
    benefit: Benefit
    expire_time: datetime | None
    policy_revision: int
    create_time: datetime
