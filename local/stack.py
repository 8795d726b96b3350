"""Starts and stops the whole service on one machine. Knows processes and their settings; must not know what they do.

Nothing here imports grpc: Postgres must be started before.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from migrations.postgres import EmbeddedPostgres
from migrations.runner import migrate
from server.store.policy_document import put_policies

PROJECT = Path(__file__).resolve().parent.parent
DEFAULT_MODEL = PROJECT / "fraud_worker" / "model"
DATABASE = "recycling"
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 40

_SECRETS = ("DATABASE_URL", "SECRET_KEY", "SUPPORT_KEY")
"""What a process gets only when it is given it, never from our own environment."""


class StackError(Exception):
    """A part of the service did not start, or ended by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to run the service. `folder` keeps the database and the secret; `database_url` is another Postgres's owner;
    `conversion` is the folder of a model of conversions; `challengers` are model folders whose scores decide nothing;
    `listen` and `worker_listen` are HOST:PORT, port 0 for any. `environment` is added to both processes'."""

    folder: Path
    backtest: bool = False
    durable: bool = True
    database_url: str | None = None
    model: Path = DEFAULT_MODEL
    conversion: Path | None = None
    challengers: Sequence[Path] = ()
    listen: str = "127.0.0.1:0"
    worker_listen: str = "127.0.0.1:0"
    environment: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None


class Process:
    """A part of the service, which dies with us. Its standard output is read for the line that tells its address."""

    def __init__(self, name: str, arguments: list[str], environment: Mapping[str, str], log: Path | None) -> None:
        self.name = name
        self._address: str | None = None
        inherited = {name: value for name, value in os.environ.items() if name not in _SECRETS}
        with contextlib.ExitStack() as files:
            errors = files.enter_context(log.open("ab")) if log else None
            self._popen = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "--", sys.executable, "-m", *arguments],
                cwd=PROJECT,
                env={**inherited, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    def address(self, timeout_s: float = START_TIMEOUT_S) -> str:
        """HOST:PORT, once it listens. Raises StackError when it ends instead, or has not said so in time."""
        if self._address is None:
            self._address = self._announced(timeout_s)
        return self._address

    def _announced(self, timeout_s: float) -> str:
        assert self._popen.stdout is not None
        deadline = time.monotonic() + timeout_s
        said = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._popen.stdout, selectors.EVENT_READ)
            while selector.select(max(0.0, deadline - time.monotonic())):
                part = os.read(self._popen.stdout.fileno(), 4096)
                if not part:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self._popen.wait(max(0.0, deadline - time.monotonic()))
                    raise StackError(f"the {self.name} did not start (exit code {self._popen.returncode})")
                said += part
                if line := re.search(rb" listening on (\S+).*\n", said):
                    return line[1].decode()
        raise StackError(f"the {self.name} did not start within {timeout_s:g} s")

    def running(self) -> bool:
        """Whether it still runs."""
        return self._popen.poll() is None

    def kill(self) -> None:
        """Ends it as a crash would."""
        self._popen.kill()
        self._popen.wait()

    def stop(self) -> int:
        """Asks it to end, waits, and returns its exit code."""
        if self.running():
            self._popen.send_signal(signal.SIGTERM)
        try:
            code = self._popen.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            code = self._popen.wait()
        if self._popen.stdout is not None:
            self._popen.stdout.close()
        return code


class Stack:
    """The running service. `address` is the server's; `database_url` is for ops, `server_url` what the server uses.
    `postgres` is the embedded one, None where the database is another's."""

    def __init__(
        self, settings: Settings, database_url: str, server_url: str, postgres: EmbeddedPostgres | None
    ) -> None:
        self.settings = settings
        self.postgres = postgres
        self.database_url = database_url
        self.server_url = server_url
        self._secrets = {
            "SECRET_KEY": os.environ.get("SECRET_KEY") or _secret(settings.folder),
            "DATABASE_URL": server_url,
            "SUPPORT_KEY": os.environ.get("SUPPORT_KEY", ""),
        }
        with contextlib.ExitStack() as started:
            self.worker = self.start_worker(settings.worker_listen)
            started.callback(self.worker.stop)
            self.worker_address = self.worker.address()
            self.server = self.start_server(settings.listen)
            started.callback(self.server.stop)
            self.address = self.server.address()
            started.pop_all()

    def start_worker(self, listen: str) -> Process:
        """A fraud worker; ask the result for its address."""
        model = str(self.settings.model)
        arguments = ["fraud_worker", "serve", "--model", model, "--listen", listen, "--reflection"]
        if self.settings.conversion is not None:
            arguments += ["--conversion", str(self.settings.conversion)]
        for challenger in self.settings.challengers:
            arguments += ["--challenger", str(challenger)]
        return self._process("fraud worker", arguments, {})

    def start_server(self, listen: str) -> Process:
        """A server that uses the worker; ask the result for its address."""
        environment = {"LISTEN": listen, "FRAUD_WORKER": self.worker_address, "REFLECTION": "true"}
        return self._process("server", ["server"], self._secrets | environment)

    def restart_worker(self) -> None:
        """A new worker process at the same address."""
        self.worker.stop()
        self.worker = self.start_worker(self.worker_address)
        self.worker.address()

    def restart_server(self) -> None:
        """A new server process at the same address."""
        self.server.stop()
        self.server = self.start_server(self.address)
        self.server.address()

    def _process(self, name: str, arguments: list[str], environment: Mapping[str, str]) -> Process:
        return Process(name, arguments, {**self.settings.environment, **environment}, self.settings.log)

    def dead(self) -> str | None:
        """The name of a part that has ended by itself, if there is one."""
        if self.postgres is not None and not self.postgres.running():
            return "embedded Postgres"
        return next((process.name for process in (self.worker, self.server) if not process.running()), None)

    def stop(self) -> None:
        """Server first, so that nothing it accepted lacks a worker."""
        self.server.stop()
        self.worker.stop()


@contextlib.contextmanager
def running(settings: Settings) -> Iterator[Stack]:
    """The service, from an empty machine to serving; everything is stopped at the end. Raises StackError."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as parts:
        if settings.database_url is None:
            postgres = parts.enter_context(EmbeddedPostgres(settings.folder / "postgres", durable=settings.durable))
            postgres.create_database(DATABASE)
            owner_url, server_url = postgres.owner_url(DATABASE), postgres.server_url(DATABASE)
        else:
            postgres = None
            owner_url = server_url = settings.database_url
        _prepare_database(owner_url, server_url, backtest=settings.backtest)
        stack = Stack(settings, owner_url, server_url, postgres)
        parts.callback(stack.stop)
        wait_until_serving(stack)
        yield stack


def _prepare_database(owner_url: str, server_url: str, *, backtest: bool) -> None:
    try:
        asyncio.run(migrate(owner_url, backtest=backtest))
        asyncio.run(put_policies(server_url, PROJECT / "policies", if_missing=True))
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise StackError(f"the database cannot be prepared: {' '.join(str(error).split())}") from error


def wait_until_serving(stack: Stack) -> None:
    """Returns when the server's health says SERVING. Raises StackError after a minute, or when a part has ended."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    deadline = time.monotonic() + START_TIMEOUT_S
    with grpc.insecure_channel(stack.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < deadline:
            if dead := stack.dead():
                raise StackError(f"the {dead} has ended")
            with contextlib.suppress(grpc.RpcError):
                status = health.Check(health_pb2.HealthCheckRequest(), timeout=1).status
                if status == health_pb2.HealthCheckResponse.SERVING:
                    return
            time.sleep(0.02)
    raise StackError("the server does not serve")


@contextlib.contextmanager
def private_file(file: Path, text: str) -> Iterator[None]:
    """While it lasts, `file` holds `text`, for nobody else to read."""
    file.unlink(missing_ok=True)
    _write_private(file, text)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _secret(folder: Path) -> str:
    """The secret of this folder's service, made once."""
    file = folder / "secret_key"
    if not file.exists():
        _write_private(file, secrets.token_urlsafe(48))
    return file.read_text()


def _write_private(file: Path, text: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as new:
        new.write(text)
