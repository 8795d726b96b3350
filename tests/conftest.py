"""What all tests share: one scratch Postgres a session, and new databases on it."""

import itertools
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from migrations.postgres import EmbeddedPostgres
from migrations.runner import migrate

# How long an example takes says more of a shared machine than of the code.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

FreshDatabase = Callable[..., Awaitable[tuple[str, str]]]


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """A temporary folder that every account can pass through; pytest's own ones are closed to root's Postgres."""
    with tempfile.TemporaryDirectory(prefix="recycling-test-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


@pytest.fixture(scope="session")
def postgres(open_folder: Path) -> Iterator[EmbeddedPostgres]:
    """A scratch Postgres for the whole session."""
    with EmbeddedPostgres(open_folder / "postgres", durable=False) as running:
        yield running


@pytest.fixture(scope="session")
def fresh_database(postgres: EmbeddedPostgres) -> FreshDatabase:
    """Gives a function that makes a new, migrated database and returns its (owner URL, server URL)."""
    numbers = itertools.count(1)

    async def make(*, backtest: bool = True) -> tuple[str, str]:
        name = f"test_{os.getpid()}_{next(numbers)}"
        postgres.create_database(name)
        await migrate(postgres.owner_url(name), backtest=backtest)
        return postgres.owner_url(name), postgres.server_url(name)

    return make
