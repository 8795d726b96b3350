"""`python -m bench`: measures the whole service, and prints one JSON line a figure; progress goes to standard error."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import uvloop
from card_recycling.v1 import recycling_service_pb2 as pb

from bench import transactions
from bench.cards import Cards, recycle_requests
from bench.measure import BenchError, Run, middle_rate, progress, show, summary
from bench.recycles import BATCH_ITEMS, BATCHES_IN_FLIGHT, UNARY_IN_FLIGHT, RecycleClient
from bench.scores import ROWS, Scores, features_us_per_row
from local.stack import PROJECT, Process, Settings, Stack, running
from server.store.database import SESSION

ROUNDS = 5
UNARY_EACH = 2_000
BATCHED_EACH = 8_000
TRANSACTIONS_EACH = 250 * transactions.CLIENTS
WARM_UP = 1_000

ENVIRONMENT = {"SCORE_TIMEOUT_MS": "5000"}
"""On a machine that others use too, a late score must be late and not missing."""

DURABILITY = ("fsync", "full_page_writes", "synchronous_commit")


class Bench:
    """A running service with cards to take back."""

    def __init__(self, stack: Stack, folder: Path, owner: asyncpg.Connection, client: RecycleClient) -> None:
        self._stack = stack
        self._folder = folder
        self._owner = owner
        self._client = client
        self._cards = Cards(owner)

    async def run(self) -> None:
        """Measures everything."""
        durability = {name: await self._owner.fetchval("SELECT current_setting($1)", name) for name in DURABILITY}
        if set(durability.values()) != {"on"}:
            raise BenchError(f"the database is not durable: {durability}")
        progress("issuing cards")
        await self._cards.issue(2 * WARM_UP + ROUNDS * (UNARY_EACH + BATCHED_EACH + TRANSACTIONS_EACH))
        await self._client.recycle_batched(self._requests(WARM_UP))
        _, answers = await self._client.recycle_fresh(self._requests(WARM_UP))
        # What the planner knows of tables that were empty a moment ago is worth nothing.
        await self._owner.execute("VACUUM (ANALYZE)")
        await self.unary(answers[0])
        await self.batched(durability)
        await self.scored()

    async def unary(self, answer: pb.RecycleResponse) -> None:
        """Unary recycles against a server that only echoes, and against the same recycles once more."""
        echo_process = Process("echo", ["bench.echo", answer.SerializeToString().hex()], {}, self._folder / "echo.log")
        fresh: list[Run] = []
        echoed: list[Run] = []
        replayed: list[Run] = []
        async with AsyncExitStack() as parts:
            parts.callback(echo_process.stop)
            echo = RecycleClient(echo_process.address())
            parts.push_async_callback(echo.close)
            await echo.recycle(recycle_requests(range(WARM_UP)))
            for number in range(ROUNDS):
                progress(f"unary, round {number + 1} of {ROUNDS}")
                requests = self._requests(UNARY_EACH)
                run, answers = await self._client.recycle_fresh(requests)
                fresh.append(run)
                run, _ = await echo.recycle(requests)
                echoed.append(run)
                run, again = await self._client.recycle(requests)
                replayed.append(run)
                if _by_request(answers) != _by_request(again):
                    raise BenchError("a repeated request got another answer")
        parties = {"recycle": summary(fresh), "calls_in_flight": UNARY_IN_FLIGHT}
        show(
            "unary_recycle_over_echo",
            middle_rate(fresh) / middle_rate(echoed),
            "ratio",
            **parties,
            echo=summary(echoed),
            answer_bytes=answer.ByteSize(),
            request_bytes=requests[0].ByteSize(),
        )
        show(
            "idempotent_replay_over_fresh",
            middle_rate(replayed) / middle_rate(fresh),
            "ratio",
            **parties,
            replay=summary(replayed),
        )

    async def batched(self, durability: dict[str, str]) -> None:
        """Batches of recycles against one transaction each."""
        script = await transactions.make_script(self._owner)
        batches: list[Run] = []
        singles: list[Run] = []
        for number in range(ROUNDS):
            progress(f"batched, round {number + 1} of {ROUNDS}")
            batches.append(await self._client.recycle_batched(self._requests(BATCHED_EACH)))
            before = await self._recyclings()
            numbers = self._cards.take(TRANSACTIONS_EACH)
            singles.append(await transactions.transact(script, numbers, self._stack.server_url, self._folder))
            recorded = await self._recyclings() - before
            if recorded != TRANSACTIONS_EACH:
                raise BenchError(f"pgbench made {TRANSACTIONS_EACH} transactions and recorded {recorded} recyclings")
        show(
            "batch_recycle_over_pgbench",
            middle_rate(batches) / middle_rate(singles),
            "ratio",
            batch=summary(batches),
            items_a_batch=BATCH_ITEMS,
            batches_in_flight=BATCHES_IN_FLIGHT,
            pgbench=summary(singles),
            pgbench_clients=transactions.CLIENTS,
            postgres=await self._owner.fetchval("SHOW server_version"),
            **durability,
        )

    async def scored(self) -> None:
        """The fraud worker and the features."""
        scores = await Scores.of_receipts(self._owner, self._stack.worker_address)
        progress("scores and features")
        asked: list[Run] = []
        scored: list[Run] = []
        predicted: list[Run] = []
        for _ in range(ROUNDS):
            asked.append(await scores.ask_worker())
            scored.append(await scores.score_batch())
            predicted.append(await scores.predict())
        await scores.close()
        # Times: 1.1 is a tenth longer than the bare trees take.
        for figure, runs in (("score_batch_over_predict", scored), ("score_call_over_predict", asked)):
            show(
                figure,
                middle_rate(predicted) / middle_rate(runs),
                "ratio",
                rows=ROWS,
                worker=summary(runs),
                predict=summary(predicted),
            )
        server = await asyncpg.connect(self._stack.server_url, server_settings=SESSION)
        per_row_us = {rows: await features_us_per_row(server, rows) for rows in (1, ROWS)}
        await server.close()
        show(
            "features_us_per_row",
            per_row_us[ROWS],
            "us",
            rows=ROWS,
            alone_us=round(per_row_us[1]),
            events=await self._owner.fetchval("SELECT count(*) FROM risk_event"),
        )

    def _requests(self, how_many: int) -> list[pb.RecycleRequest]:
        return recycle_requests(self._cards.take(how_many))

    async def _recyclings(self) -> int:
        found: int = await self._owner.fetchval("SELECT count(*) FROM recycling")
        return found


def _by_request(answers: list[pb.RecycleResponse]) -> dict[str, bytes]:
    return {answer.recycling.request_id: answer.SerializeToString(deterministic=True) for answer in answers}


async def measure(stack: Stack, folder: Path) -> None:
    """Every figure of a running service."""
    async with AsyncExitStack() as parts:
        owner = await asyncpg.connect(stack.database_url)
        parts.push_async_callback(owner.close)
        client = RecycleClient(stack.address)
        parts.push_async_callback(client.close)
        await Bench(stack, folder, owner, client).run()


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one run. A durable database may keep its data elsewhere, so that is removed too."""
    local = PROJECT / ".local"
    local.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="bench-", dir=local) as name:
        folder = Path(name)
        folder.chmod(0o711)
        try:
            yield folder
        finally:
            data = folder / "postgres" / "data"
            if data.is_symlink():
                shutil.rmtree(data.resolve().parent, ignore_errors=True)


def main() -> None:
    """Runs everything. What goes wrong ends the run with a traceback."""
    begin = time.monotonic()
    with scratch() as folder:
        log = folder / "service.log"
        try:
            with running(Settings(folder=folder, log=log, environment=ENVIRONMENT)) as stack:
                show("cold_start_s", time.monotonic() - begin, "s")
                uvloop.run(measure(stack, folder))
        except Exception:
            progress(log.read_text()[-2000:] if log.exists() else "")
            raise
    progress(f"took {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
