"""What time has done and nobody has recorded, as the database finds it: each question one statement, on the store's
connections.

What is found is reserved for the asker for a minute. Must not decide anything: a command finds out whether it is so.
Methods raise StoreUnavailable when the database cannot be reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from server.domain.commands import CloseWindow, Command, Expire, ExpireCoupon, Lapse, Recycle
from server.engine.ports import DueKind
from server.store import rows
from server.store.database import Database


class PostgresDue:
    """Due work over the connections of `database`."""

    def __init__(self, database: Database) -> None:
        self._query = database.query

    async def due(self, kind: DueKind, how_many: int) -> Sequence[Command]:
        """The commands that record what is due, the earliest first, reserved."""
        match kind:
            case DueKind.HOLD:
                return [Lapse.of(rows.review(row["review"])) for row in await self._query("due_holds", how_many)]
            case DueKind.EXPIRY:
                found = await self._query("due_expiries", how_many)
                return [Expire.of(rows.card(row["card"], None)) for row in found]
            case DueKind.WINDOW:
                found = await self._query("due_windows", how_many)
                return [CloseWindow.of(rows.card(row["card"], None)) for row in found if row["card"] is not None]
            case DueKind.RECYCLE:
                found = await self._query("due_recycles", how_many)
                return [Recycle.of_itself(rows.card(row["card"], None)) for row in found]
            case DueKind.COUPON:
                found = await self._query("due_coupons", how_many)
                return [
                    ExpireCoupon.of(row["account_id"], row["coupon_id"], row["expired_since"], redeemed=row["redeemed"])
                    for row in found
                ]

    async def lags(self) -> dict[DueKind, timedelta]:
        """For how long the oldest item of each kind has been due; zero where nothing is."""
        return {DueKind(row["kind"]): row["lag"] for row in await self._query("due_oldest")}
