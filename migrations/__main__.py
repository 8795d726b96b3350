"""`python -m migrations [--backtest]`: brings the database named by DATABASE_URL (its owner's URL) up to date."""

import argparse
import asyncio
import os
import sys

import asyncpg

from migrations.runner import MigrationError, migrate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m migrations", description=__doc__)
    parser.add_argument(
        "--backtest", action="store_true", help="make this new database one for back-tests: its clock may be shifted"
    )
    arguments = parser.parse_args()
    url = os.environ.get("DATABASE_URL")
    if not url:
        parser.error("DATABASE_URL is not set")
    try:
        applied = asyncio.run(migrate(url, backtest=arguments.backtest))
    except (MigrationError, asyncpg.PostgresError, OSError, ValueError) as error:
        print(f"migrations: {error}", file=sys.stderr)
        return 1
    print("\n".join(f"applied {name}" for name in applied) or "nothing to apply")
    return 0


if __name__ == "__main__":
    sys.exit(main())
