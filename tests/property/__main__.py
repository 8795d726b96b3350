"""Plays many sequences on demand: `make properties [SEQUENCES=10000] [SEED=1] [WORKERS=2]`.

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

from migrations.postgres import EmbeddedPostgres
from tests.property.chunks import CHUNK, Chunk, Finding, work
from tests.property.operations import OPERATIONS

console = Console()


def main(
    sequence_count: Annotated[int, typer.Option("--sequences", min=1, help="How many sequences.")] = 10_000,
    first_seed: Annotated[int, typer.Option("--seed", min=0, help="Of the first chunk; the others count on.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with a database.")] = os.cpu_count() or 1,
) -> None:
    """Play sequences; exit code 1 when one fails."""
    chunks = [
        Chunk(first_seed + number, min(CHUNK, sequence_count - number * CHUNK))
        for number in range(-(-sequence_count // CHUNK))
    ]
    workers = min(workers, len(chunks))
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    started, outcomes, findings = time.monotonic(), Counter[str](), list[Finding]()
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
            done = _follow(processes, results, sequence_count, outcomes, findings)
            for process in processes:
                process.join()
    used = sum(getattr(resource.getrusage(resource.RUSAGE_CHILDREN), field) for field in ("ru_utime", "ru_stime"))
    took = time.monotonic() - started
    for outcome, number in sorted(outcomes.items()):
        console.print(f"{number:>10}  {outcome}", highlight=False)
    for finding in findings:
        console.print(f"\nFAILED in the chunk of seed {finding.chunk.seed}", style="bold red")
        console.print(finding.text, markup=False, highlight=False, soft_wrap=True)
        again = f"make properties SEED={finding.chunk.seed} SEQUENCES={finding.chunk.sequences}"
        console.print(f"the same again: {again}", markup=False, highlight=False)
    crashed = [process.exitcode for process in processes if process.exitcode]
    console.print(
        f"{done} sequences of {OPERATIONS} operations in {took:.0f} s, {done * OPERATIONS / took:.0f} operations/s;"
        f" {used / max(done, 1):.2f} s of CPU each, the database's with it",
        highlight=False,
    )
    sys.exit(1 if findings or crashed else 0)


def _follow(processes: Sequence[Any], results: Any, total: int, outcomes: Counter[str], findings: list[Finding]) -> int:
    """Shows how far the workers are, and collects what they tell; returns how many sequences went well."""
    done, running = 0, len(processes)
    columns = (TextColumn("sequences"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=total)
        while running:
            try:
                told_by_one = results.get(timeout=1.0)
            except queue.Empty:
                if not any(process.is_alive() for process in processes):
                    break  # a worker died without a word
                continue
            if isinstance(told_by_one, Finding):
                findings.append(told_by_one)
            elif isinstance(told_by_one, dict):
                outcomes.update(told_by_one)
                running -= 1
            else:
                done += 1
                progress.advance(task)
    return done


if __name__ == "__main__":
    typer.run(main)
