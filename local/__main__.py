"""`python -m local run | demo | replay`: the service on one machine, as `make` starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from local.stack import DEFAULT_MODEL, PROJECT, Settings, Stack, StackError, private_file, running
from migrations.postgres import EmbeddedPostgresError
from migrations.runner import MigrationError

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
console = Console(stderr=True)

LOCAL = PROJECT / ".local"
PORT_DEFAULT = 50051


@app.command()
def run(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; when it is taken, a free one.")] = PORT_DEFAULT,
    backtest: Annotated[bool, typer.Option(help="A separate database, whose clock callers may move.")] = False,
    model: Annotated[Path, typer.Option(help="Model directory of the fraud worker.")] = DEFAULT_MODEL,
    conversion: Annotated[
        Path | None, typer.Option(help="Directory of a model of whether owners pay again; none by default.")
    ] = None,
    challenger: Annotated[
        list[Path] | None, typer.Option(help="Directory of a model that scores in shadow; repeatable.")
    ] = None,
) -> None:
    """Serve until Ctrl-C, on the embedded Postgres or on DATABASE_URL."""
    settings = Settings(
        folder=LOCAL / ("backtest" if backtest else "run"),
        backtest=backtest,
        database_url=os.environ.get("DATABASE_URL"),
        model=model.resolve(),
        conversion=conversion and conversion.resolve(),
        challengers=[folder.resolve() for folder in challenger or ()],
        listen=f"127.0.0.1:{port if _is_free(port) else 0}",
    )
    url_file = settings.folder / "database_url"
    with (
        _stopped_by_signals(is_the_end=True),
        _started(settings) as stack,
        private_file(url_file, stack.database_url),
    ):
        console.print(f"[bold green]serving on {stack.address}[/]  (Ctrl-C stops)")
        console.print(f"  grpcurl -plaintext -max-time 5 {stack.address} list", highlight=False)
        console.print(f"  .venv/bin/recycling --address {stack.address} --help", highlight=False)
        console.print(
            f"  DATABASE_URL=$(cat {url_file.relative_to(PROJECT)}) .venv/bin/recycling verify",
            highlight=False,
            soft_wrap=True,
        )
        while (dead := stack.dead()) is None:
            time.sleep(0.2)
        raise StackError(f"the {dead} has ended")


@app.command()
def demo(
    model: Annotated[Path, typer.Option(help="Model directory of the fraud worker.")] = DEFAULT_MODEL,
    seed: Annotated[int, typer.Option(help="Of the story's people and devices.")] = 7,
    conversion: Annotated[
        Path | None, typer.Option(help="Directory of a model of whether owners pay again; none by default.")
    ] = None,
) -> None:
    """Tell a story through the public API, show it, verify it, stop everything."""
    from local.demo import tell

    with _stopped_by_signals(), _scratch("demo") as folder:
        settings = replace(_played(folder, model), conversion=conversion and conversion.resolve())
        with _started(settings) as stack:
            kept = tell(stack, seed)
    raise typer.Exit(0 if kept else 1)


@app.command()
def replay(
    events: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Event log, CSV or Parquet.")],
    model: Annotated[Path, typer.Option(help="Model directory of the fraud worker.")] = DEFAULT_MODEL,
) -> None:
    """Play an event log through a new back-test service, then verify."""
    import subprocess

    from clients.python.event_log import LogError, read_events

    try:
        read_events(events)
    except LogError as error:
        raise typer.BadParameter(str(error), param_hint="--events") from error
    with _stopped_by_signals(), _scratch("replay") as folder:
        settings = _played(folder, model)
        with _started(settings) as stack:
            command = [sys.executable, "-m", "clients.python.cli"]
            played = subprocess.run(
                [*command, "--address", stack.address, "replay", "--events", str(events)], check=False
            )
            if played.returncode == 2:  # used wrongly: nothing was played
                raise typer.Exit(2)
            environment = {**os.environ, "DATABASE_URL": stack.database_url}
            verified = subprocess.run([*command, "verify"], env=environment, check=False)
    raise typer.Exit(played.returncode or verified.returncode)


def _played(folder: Path, model: Path) -> Settings:
    """Settings of a service whose time its callers play: nothing happens there that they do not ask for."""
    return Settings(
        folder=folder,
        backtest=True,
        durable=False,
        model=model,
        environment={"SWEEP_EVERY_S": "0"},
        log=folder / "service.log",
    )


@contextlib.contextmanager
def _started(settings: Settings) -> Iterator[Stack]:
    try:
        with contextlib.ExitStack() as parts:
            with console.status("starting Postgres, the fraud worker and the server"):
                stack = parts.enter_context(running(settings))
            yield stack
            console.print("stopping")
    except (StackError, EmbeddedPostgresError, MigrationError) as error:
        console.print(str(error), style="bold red", highlight=False, markup=False, soft_wrap=True)
        if settings.log and settings.log.exists():
            console.print(settings.log.read_text(errors="replace")[-4000:], highlight=False, markup=False)
        raise typer.Exit(1) from error


@contextlib.contextmanager
def _scratch(purpose: str) -> Iterator[Path]:
    """A folder that no other run uses, emptied by the next one that takes it."""
    import fcntl

    LOCAL.mkdir(exist_ok=True)
    for number in range(1, 100):
        folder = LOCAL / f"{purpose}-{number}"
        folder.mkdir(exist_ok=True)
        with (folder / "in-use").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            (folder / "service.log").unlink(missing_ok=True)
            yield folder
            return
    raise typer.Exit(1)


@contextlib.contextmanager
def _stopped_by_signals(*, is_the_end: bool = False) -> Iterator[None]:
    """SIGTERM and Ctrl-C both stop everything in order, and the exit code tells which; 0 where that `is_the_end`."""
    code = 128 + signal.SIGINT

    def terminated(*_: object) -> None:
        nonlocal code
        code = 128 + signal.SIGTERM
        signal.raise_signal(signal.SIGINT)  # which asyncio knows how to take

    # A shell starts jobs in the background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    except KeyboardInterrupt:
        console.print("stopped")
        raise typer.Exit(0 if is_the_end else code) from None


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


if __name__ == "__main__":
    app()
