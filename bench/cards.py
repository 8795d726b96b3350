"""Fresh cards, each of its own account, and honest requests to take them back.

A card is known by its number, from which its ids follow, in Python as in SQL. They are issued by the server's own
statement, three weeks before: a card that comes back in the second it was issued is suspicious.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
from card_recycling.v1 import recycling_service_pb2, types_pb2

from server.store.statements import statement

PLATFORM = "iqiyi"
AGE = timedelta(days=21)
ISSUED_TOGETHER = 1000
_PRICES_MINOR = (2999, 1990, 2500, 990)

ACCOUNT_ID_SQL = "'bench-' || :number"
CARD_ID_SQL = "('01900000-0000-7000-8000-' || lpad(to_hex(:number::bigint), 12, '0'))::uuid"


def account_id(number: int) -> str:
    """The account of a card."""
    return f"bench-{number}"


def card_id(number: int) -> UUID:
    """The id of a card."""
    return UUID(f"01900000-0000-7000-8000-{number:012x}")


class Cards:
    """Hands out card numbers, each once."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._issued = 0
        self._taken = 0

    async def issue(self, how_many: int) -> None:
        """Issues so many more, and lets the planner know."""
        issue = statement("issue_record")
        for first in range(self._issued, self._issued + how_many, ISSUED_TOGETHER):
            numbers = range(first, min(first + ISSUED_TOGETHER, self._issued + how_many))
            await self._connection.fetch(issue.text, *issue.arguments(card=[_row(number) for number in numbers]))
        self._issued += how_many

    def take(self, how_many: int) -> range:
        """The numbers of so many cards."""
        first, self._taken = self._taken, self._taken + how_many
        assert self._taken <= self._issued, "more cards must be issued"
        return range(first, self._taken)


def _row(number: int) -> dict[str, object]:
    return {
        "account_id": account_id(number),
        "request_id": uuid4(),
        "input_hash": bytes(32),
        "response": bytes(150),
        "receipt": "{}",
        "card_id": card_id(number),
        "external_serial": None,
        "platform": PLATFORM,
        "tier": "BASIC",
        "segment": None,
        "face_value_minor": 2999,
        "paid_minor": _PRICES_MINOR[number % len(_PRICES_MINOR)],
        "currency": "CNY",
        "duration_days": 31,
        "issue_time": datetime.now(UTC) - AGE,
        "activate_by_time": None,
    }


def recycle_requests(numbers: Sequence[int]) -> list[recycling_service_pb2.RecycleRequest]:
    """One request for each card, from its owner's own device and address."""
    return [_request(number) for number in numbers]


def _request(number: int) -> recycling_service_pb2.RecycleRequest:
    draw = random.Random(number)
    return recycling_service_pb2.RecycleRequest(
        request_id=str(uuid4()),
        account_id=account_id(number),
        card_id=str(card_id(number)),
        reason=types_pb2.RECYCLE_REASON_VOLUNTARY,
        device=types_pb2.Device(
            device_id=f"device-{number}",
            os="android",
            os_version=str(draw.randrange(10, 17)),
            app_version="9.4.1",
            model=f"Model {draw.randrange(300)}",
            screen="1080x2400",
            timezone="Asia/Shanghai",
            language="zh-CN",
            ip=f"2a01:{number >> 16:x}:{number & 0xFFFF:x}::1",
            network="wifi",
            user_agent=f"Mozilla/5.0 (Linux; Android 14; Build/{draw.randrange(1_000_000)})",
            emulator=False,
            rooted=False,
            vpn=False,
        ),
        behavior=types_pb2.Behavior(
            session_seconds=draw.uniform(60, 900),
            page_views=draw.randrange(4, 40),
            seconds_since_login=draw.uniform(60, 86_400),
            failed_logins_24h=0,
            captcha_failures=0,
            copy_paste_used=False,
        ),
    )
