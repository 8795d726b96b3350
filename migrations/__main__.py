"""`python -m migrations [--backtest] [--keep-events-days N]`: brings the database named by DATABASE_URL (its owner's
URL) up to date, and lets old parts of its risk log expire."""

import argparse
import asyncio
import os
import sys

import asyncpg

from migrations.expiry import EVENTS_KEPT_DAYS, ExpiryError, expire_events
from migrations.runner import MigrationError, migrate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m migrations", description=__doc__)
    parser.add_argument(
        "--backtest", action="store_true", help="make this new database one for back-tests: its clock may be shifted"
    )
    parser.add_argument(
        "--keep-events-days",
        type=int,
        metavar="N",
        help="drop those quarters of the risk log whose events are all older than N days"
        f" ({EVENTS_KEPT_DAYS.start} at least)",
    )
    arguments = parser.parse_args()
    url = os.environ.get("DATABASE_URL")
    if not url:
        parser.error("DATABASE_URL is not set")
    try:
        applied = asyncio.run(migrate(url, backtest=arguments.backtest))
        keep_days = arguments.keep_events_days
        expired = asyncio.run(expire_events(url, keep_days)) if keep_days is not None else []
    except (MigrationError, ExpiryError, asyncpg.PostgresError, OSError, ValueError) as error:
        print(f"migrations: {error}", file=sys.stderr)
        return 1
    print("\n".join(f"applied {name}" for name in applied) or "nothing to apply")
    print("".join(f"dropped {name}\n" for name in expired), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
