"""Plays many sequences on demand: `make properties [SEQUENCES=10000] [SEED=1] [WORKERS=N]`.

Sequences come in chunks of a hundred, chunk by chunk from consecutive seeds. A failure prints its chunk's seed, which
plays the same again alone, and the shortest sequence that still fails. Each sequence finds the database empty, so that
the last is as fast as the first.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from migrations.postgres import EmbeddedPostgres
from tests.property.chunks import CHUNK, Chunk, Finding, Played, work
from tests.property.operations import OPERATIONS
from tests.property.player import ANSWERED

WORKERS = 2 * (os.cpu_count() or 1)
"""More than there are cores, since each waits for its database half of the time."""

console = Console()


def main(
    sequence_count: Annotated[int, typer.Option("--sequences", min=1, help="How many sequences.")] = 10_000,
    first_seed: Annotated[int, typer.Option("--seed", min=0, help="Of the first chunk; the others count on.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with a database.")] = WORKERS,
) -> None:
    """Play sequences; exit code 1 when one fails."""
    chunks = [
        Chunk(first_seed + number, min(CHUNK, sequence_count - number * CHUNK))
        for number in range(-(-sequence_count // CHUNK))
    ]
    workers = min(workers, len(chunks))
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    started, played, findings = time.monotonic(), list[Played](), list[Finding]()
    with tempfile.TemporaryDirectory(prefix="recycling-lives-") as name:
        Path(name).chmod(0o711)
        with EmbeddedPostgres(Path(name) / "postgres", durable=False) as postgres:
            processes = []
            for number in range(workers):
                database = f"lives_{number}"
                postgres.create_database(database)
                urls = postgres.owner_url(database), postgres.server_url(database)
                processes.append(context.Process(target=work, args=(urls, chunks[number::workers], results)))
            for process in processes:
                process.start()
            _follow(processes, results, sequence_count, played, findings)
            for process in processes:
                process.join()
    used = sum(getattr(resource.getrusage(resource.RUSAGE_CHILDREN), field) for field in ("ru_utime", "ru_stime"))
    took = time.monotonic() - started
    console.print(_outcomes(played))
    console.print(_operations(played))
    crashed = [process.exitcode for process in processes if process.exitcode]
    done, last_seed = len(played), chunks[-1].seed
    console.print(
        f"{done} of {sequence_count} sequences of {OPERATIONS} operations went well, seeds {first_seed} to {last_seed},"
        f" in {took:.0f} s: {done * OPERATIONS / took:.0f} operations/s;"
        f" {used / max(done, 1):.2f} s of CPU each, the database's with it",
        highlight=False,
        soft_wrap=True,
    )
    sys.exit(1 if findings or crashed else 0)


def _follow(processes: Sequence[Any], results: Any, total: int, played: list[Played], findings: list[Finding]) -> None:
    """Shows how far the workers are, collects what they tell, and tells of failures as they come."""
    running = len(processes)
    columns = (
        TextColumn("sequences"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    started = time.monotonic()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=total, rate="")
        while running:
            try:
                told_by_one = results.get(timeout=1.0)
            except queue.Empty:
                if not any(process.is_alive() for process in processes):
                    break  # a worker died without a word
                continue
            if isinstance(told_by_one, Finding):
                findings.append(told_by_one)
                _tell(told_by_one)
            elif isinstance(told_by_one, Played):
                played.append(told_by_one)
                rate = len(played) / (time.monotonic() - started)
                progress.update(task, advance=1, rate=f"{rate:.1f}/s")
            else:
                running -= 1


def _tell(finding: Finding) -> None:
    number, of = finding.went_well + 1, finding.chunk
    console.print(f"\nFAILED: sequence {number} of the chunk of seed {of.seed}", style="bold red")
    console.print(finding.text, markup=False, highlight=False, soft_wrap=True)
    again = f"make properties SEED={of.seed} SEQUENCES={of.sequences}"
    console.print(f"the same again: {again}", markup=False, highlight=False)


def _outcomes(played: Sequence[Played]) -> Table:
    """A line a kind of command: how often, how many were answered, and why the others were refused."""
    table = Table("command", *(Column(name, justify="right") for name in ("calls", "answered", "%")), "refused because")
    total = sum((each.outcomes for each in played), Counter[tuple[str, str]]())
    for kind in sorted({kind for kind, _ in total}):
        of_kind = Counter({reason: number for (which, reason), number in total.items() if which == kind})
        calls, answered = of_kind.total(), of_kind.pop(ANSWERED, 0)
        why = ", ".join(f"{reason} {number}" for reason, number in of_kind.most_common())
        table.add_row(kind, str(calls), str(answered), f"{100 * answered / calls:.0f}", why)
    return table


def _operations(played: Sequence[Played]) -> str:
    """What accounts did, on one line."""
    total = sum((each.operations for each in played), Counter[str]())
    each_kind = ", ".join(f"{kind} {number}" for kind, number in total.most_common())
    return f"operations: {total.total()}: {each_kind}"


if __name__ == "__main__":
    typer.run(main)
