"""Lets the risk log expire: drops those of its partitions that are old enough.

Knows how to wait for the log without holding others up for long; which partition is next, and what is too young for it,
says `expire_risk_events` in the database.
"""

import asyncio
from datetime import timedelta

import asyncpg

LOCK_TIMEOUT_S = 1.0
ATTEMPTS_MAX = 30
EVENTS_KEPT_DAYS = range(180, 36_501)


class ExpiryError(Exception):
    """Nothing, or not all that is old enough, could be dropped; the message says why."""


async def expire_events(url: str, keep_days: int, *, attempts_max: int = ATTEMPTS_MAX) -> list[str]:
    """Drops those partitions of the risk log whose events are all older than `keep_days` days, and returns their names,
    oldest first. `url` is the owner's.

    A partition can be dropped only while nobody uses the log. Who comes while that is waited for waits too, so it is
    waited for a second at a time, with pauses. Raises `ExpiryError` when that was in vain `attempts_max` times (what
    was dropped by then stays so), and for a number of days that is not between 180 and 36,500.
    """
    if keep_days not in EVENTS_KEPT_DAYS:
        raise ExpiryError(
            f"events are kept for {EVENTS_KEPT_DAYS.start} to {EVENTS_KEPT_DAYS.stop - 1} days, not {keep_days}"
        )
    connection = await asyncpg.connect(
        url, timeout=30, server_settings={"lock_timeout": f"{LOCK_TIMEOUT_S * 1000:.0f}"}
    )
    expired: list[str] = []
    attempts = 0
    try:
        while True:
            try:
                name = await connection.fetchval("SELECT expire_risk_events($1)", timedelta(days=keep_days))
            except asyncpg.LockNotAvailableError:
                attempts += 1
                if attempts == attempts_max:
                    raise ExpiryError("the risk log is in use all the time: end long reads, and try again") from None
                await asyncio.sleep(LOCK_TIMEOUT_S)
                continue
            if name is None:
                return expired
            expired.append(name)
            attempts = 0
    finally:
        await connection.close()
