"""What a score costs: the worker, by itself and over its socket, against the bare model, and the feature rows in the
database. The rows are those of recycles that were made. Must not know how they were made."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import asyncpg
import grpc.aio
import lightgbm as lgb
import numpy as np
import numpy.typing as npt
from fraud_scoring.v1 import fraud_scoring_service_pb2 as pb
from fraud_scoring.v1 import fraud_scoring_service_pb2_grpc

from bench.measure import BenchError, Run, in_flight
from fraud_worker.registry import FEATURE_NAMES, REGISTRY_NAME
from fraud_worker.scorer import MODEL_FILE, Model
from fraud_worker.service import score_batch
from local.stack import DEFAULT_MODEL
from server.scorer import columns_of

ROWS = 256
CALLS = 100
"""A round has so many calls, one after the other."""

STATEMENTS = 30
"""So many statements are timed."""

FEATURES = """
SELECT * FROM risk_features($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::bytea[], $7::bytea[],
                            $8::bytea[], $9::bigint[], $10::text[], $11::text[], $12::json[], $13::timestamptz[],
                            $14::bigint[], $15::boolean[])
"""
_EVENTS = """
SELECT account_id, kind, card_id, device_hash, address_hash, prefix_hash, profile_hash, serial_block,
       amount_minor, tier, reason, signals, now() AS as_of, 9223372036854775807 AS as_of_seq, true AS leaves
FROM risk_event WHERE kind = 'RECYCLE' LIMIT $1
"""


class Scores:
    """The worker at an address, the model it serves, and that model's bare trees, over the same rows."""

    def __init__(self, worker_address: str, features: Sequence[dict[str, float | None]]) -> None:
        self._channel = grpc.aio.insecure_channel(worker_address)
        self._stub = fraud_scoring_service_pb2_grpc.FraudScoringServiceStub(self._channel)
        self._request = pb.ScoreRequest(
            feature_registry=REGISTRY_NAME,
            row_count=len(features),
            columns=columns_of(features),
        )
        self._matrix: npt.NDArray[np.float64] = np.array(
            [[row[name] for name in FEATURE_NAMES] for row in features], dtype=np.float64
        )
        self._model = Model.load(DEFAULT_MODEL)
        self._trees = lgb.Booster(model_file=str(DEFAULT_MODEL / MODEL_FILE))

    @classmethod
    async def of_receipts(cls, connection: asyncpg.Connection, worker_address: str) -> Scores:
        """Over the features that receipts tell."""
        found = await connection.fetch(
            "SELECT receipt -> 'features' AS features FROM command WHERE method = 'Recycle' LIMIT $1", ROWS
        )
        return cls(worker_address, [json.loads(row["features"]) for row in found])

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()

    async def ask_worker(self) -> Run:
        """Scores by the worker. Raises BenchError unless they are the model's."""
        run, answers = await in_flight(1, self._score, range(CALLS))
        expected = self._model.score(self._matrix)
        if not all(np.allclose(answer.scores, expected) for answer in answers):
            raise BenchError("the worker's scores are not its model's")
        return run

    async def score_batch(self) -> Run:
        """What the worker does between two messages: the request is in hand, the answer is made."""

        async def call(_: int) -> pb.ScoreResponse:
            return score_batch(self._model, self._request)[0]

        run, answers = await in_flight(1, call, range(CALLS))
        if not np.allclose(answers[0].scores, self._model.score(self._matrix)):
            raise BenchError("the scores are not the model's")
        return run

    async def predict(self) -> Run:
        """The bare trees, on one thread."""

        async def call(_: int) -> None:
            self._trees.predict(self._matrix, num_threads=1)

        run, _ = await in_flight(1, call, range(CALLS))
        return run

    async def _score(self, _: int) -> pb.ScoreResponse:
        return await self._stub.Score(self._request, timeout=10)


async def features_us_per_row(connection: asyncpg.Connection, rows: int) -> float:
    """Median time for one feature row of a statement that asks for so many, in microseconds."""
    events = await connection.fetch(_EVENTS, rows * STATEMENTS)
    times = []
    for first in range(0, len(events), rows):
        columns = zip(*(event.values() for event in events[first : first + rows]), strict=True)
        begin = time.perf_counter()
        await connection.fetch(FEATURES, *map(list, columns))
        times.append(time.perf_counter() - begin)
    return float(np.median(times)) * 1e6 / rows
