"""A worker with a model of conversions, asked by the engine: decisions, quotes, replays, and how it goes without."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
from card_recycling.v1 import recycling_service_pb2, types_pb2
from fraud_scoring.v1 import fraud_scoring_service_pb2 as pb
from fraud_scoring.v1 import fraud_scoring_service_pb2_grpc as pb_grpc

from fraud_worker.conversion import ConversionModel
from fraud_worker.registry import REGISTRY_NAME
from fraud_worker.scorer import MODEL_FILE, ModelRefused
from server.api.messages import MessageRenderer
from server.domain.model_health import Window
from server.engine.engine import Engine
from server.scorer import GrpcFraudScorer
from tests.fraud_models import rewrite, write_conversion_model, write_model
from tests.integration.conftest import MakeWorld
from tests.integration.world import LOTTERY, PATIENCE_S, SIGNER, World, parsed, quote, recycle

BLENDED, PRIOR = types_pb2.PROBABILITY_SOURCE_BLENDED, types_pb2.PROBABILITY_SOURCE_PRIOR


@contextlib.contextmanager
def serving(folder: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A worker of the model in `folder`, and its address."""
    command = [sys.executable, "-m", "fraud_worker", "serve", "--listen", "127.0.0.1:0", "--model", str(folder), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().split()
            yield process, line[line.index("on") + 1]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model of abuse to which everybody is honest, and a model of conversions."""
    folder = tmp_path_factory.mktemp("models")
    thresholds = {"medium": 0.9999, "high": 0.9999, "rule": "by hand"}
    write_model(folder / "abuse", 1, thresholds=thresholds)
    write_conversion_model(folder / "conversion", 1)
    return folder / "abuse", folder / "conversion"


@contextlib.asynccontextmanager
async def engine_of(world: World, address: str) -> AsyncIterator[Engine]:
    """An engine on the database of `world` that asks the worker at `address`."""
    async with grpc.aio.insecure_channel(address) as channel:
        scorer = GrpcFraudScorer(channel, timeout_ms=int(PATIENCE_S * 1_000))
        engine = Engine(world.store, scorer, MessageRenderer(), SIGNER, LOTTERY, world.new_id)
        yield engine
        await engine.drain()


async def recycled(engine: Engine, card: types_pb2.Card, token: str = "") -> types_pb2.Recycling:
    """The recycling of `card`."""
    (outcome,) = await engine.submit([recycle(card, quote_token=token)])
    return parsed(outcome)


def best(recycling: types_pb2.Recycling) -> bool:
    """Whether what was done is worth as much as anything that was allowed."""
    worth = {each.disposition: each.y for each in recycling.decision.alternatives if each.allowed}
    return worth[recycling.disposition] == max(worth.values())


async def test_model_has_its_say_in_the_decision(new_world: MakeWorld, folders: tuple[Path, Path]) -> None:
    """P is blended of model and prior, by segment; the best Y wins; the receipt has what the model said. The world's
    fixture replays every decision."""
    world = await new_world()
    abuse, conversion = folders
    version = ConversionModel.load(conversion).version
    with serving(abuse, "--conversion", str(conversion)) as (_, address):
        async with engine_of(world, address) as engine:
            told = {}
            for segment in (None, "YOUNG", "MIDDLE", "SENIOR"):
                recycling = await recycled(engine, await world.issue("tencent", segment=segment))
                reset, cancel = recycling.decision.alternatives
                assert (reset.probability_source, cancel.probability_source) == (BLENDED, 0)
                assert reset.probability == (600 * reset.model_probability + 200 * reset.prior) / 800
                assert (reset.support, cancel.probability) == (600, 1.0)
                assert recycling.decision.conversion_model_version == version
                assert best(recycling)
                told[segment] = reset.model_probability
            assert told["MIDDLE"] > told["SENIOR"]
            iqiyi = await recycled(engine, await world.issue("iqiyi"))
            assert iqiyi.decision.conversion_model_version == ""  # nobody asked
    receipts = await world.owner.fetch(
        "SELECT receipt #>> '{score,conversions,model_version}' AS version FROM command WHERE method = 'Recycle'"
    )
    assert sorted(str(row["version"]) for row in receipts) == sorted([version] * 4 + ["None"])
    now = await world.store.now()
    seen = await world.store.judged(Window(from_time=now - timedelta(days=1), to_time=now + timedelta(days=1)), None, 9)
    assert sorted(request.conversion_model_version for request in seen) == ["", *[version] * 4]


async def test_quote_and_recycle_show_the_same_alternatives(new_world: MakeWorld, folders: tuple[Path, Path]) -> None:
    """Though the quote itself changes the features, a recycle that redeems it is weighed as the quote was."""
    world = await new_world()
    abuse, conversion = folders
    card = await world.issue("tencent", segment="MIDDLE", active=False)
    with serving(abuse, "--conversion", str(conversion)) as (_, address):
        async with engine_of(world, address) as engine:
            (outcome,) = await engine.submit([quote(card)])
            assert isinstance(outcome, bytes)
            quoted = recycling_service_pb2.QuoteRecycleResponse.FromString(outcome)
            got = await recycled(engine, card, quoted.quote_token)
    assert got.decision.alternatives == quoted.recycling.decision.alternatives
    assert got.disposition == quoted.recycling.disposition
    assert quoted.recycling.decision.alternatives[0].probability_source == BLENDED


async def test_prior_rules_without_the_worker(new_world: MakeWorld, folders: tuple[Path, Path]) -> None:
    """A worker that has gone takes the model with it: the decision is the prior's, and says so."""
    world = await new_world()
    abuse, conversion = folders
    first, second = await world.issue("tencent"), await world.issue("tencent")
    with serving(abuse, "--conversion", str(conversion)) as (process, address):
        async with engine_of(world, address) as engine:
            assert (await recycled(engine, first)).decision.alternatives[0].probability_source == BLENDED
            process.kill()
            process.wait()
            reset = (await recycled(engine, second)).decision.alternatives[0]
    assert (reset.probability_source, reset.probability, reset.HasField("model_probability")) == (PRIOR, 0.321, False)


async def test_prior_rules_without_a_model(new_world: MakeWorld, folders: tuple[Path, Path]) -> None:
    """A worker that was given no model of conversions scores as ever."""
    world = await new_world()
    with serving(folders[0]) as (_, address):
        async with engine_of(world, address) as engine:
            recycling = await recycled(engine, await world.issue("tencent"))
    assert recycling.decision.risk_band == types_pb2.RISK_BAND_LOW
    assert recycling.decision.alternatives[0].probability_source == PRIOR


def ask(address: str, asked: pb.ConversionColumns, rows: int = 2) -> pb.ScoreResponse:
    """The answer about rows of which nothing is known."""
    with grpc.insecure_channel(address) as channel:
        request = pb.ScoreRequest(feature_registry=REGISTRY_NAME, row_count=rows, conversions=asked)
        return pb_grpc.FraudScoringServiceStub(channel).Score(request, timeout=PATIENCE_S)


def test_questions_are_answered_in_order_or_refused(folders: tuple[Path, Path]) -> None:
    """News to the worker has no support; a row that is not there, or columns of other lengths, are an error."""
    abuse, conversion = folders
    with serving(abuse, "--conversion", str(conversion)) as (_, address):
        asked = pb.ConversionColumns(rows=[1, 0, 1], dispositions=[1, 2, 9], segments=[0, 3, 9])  # type: ignore[list-item]
        told = ask(address, asked).conversions
        assert (len(told.probabilities), list(told.support)) == (3, [600, 600, 0])
        assert not ask(address, pb.ConversionColumns()).HasField("conversions")
        for wrong in (
            pb.ConversionColumns(rows=[2], dispositions=[1], segments=[0]),  # type: ignore[list-item]
            pb.ConversionColumns(rows=[-1], dispositions=[1], segments=[0]),  # type: ignore[list-item]
            pb.ConversionColumns(rows=[0], dispositions=[], segments=[0]),  # type: ignore[list-item]
            pb.ConversionColumns(rows=[0] * 7, dispositions=[1] * 7, segments=[0] * 7),  # type: ignore[list-item]
        ):
            with pytest.raises(grpc.RpcError) as refused:
                ask(address, wrong)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with grpc.insecure_channel(address) as channel:
            told_of = pb_grpc.FraudScoringServiceStub(channel).GetModel(pb.GetModelRequest(), timeout=PATIENCE_S)
        assert told_of.conversion_model.model_version == ConversionModel.load(conversion).version


def test_changed_folder_is_refused(tmp_path: Path) -> None:
    """Like a model of abuse: other trees, another calibration under the old version, or inputs of somebody else."""
    write_conversion_model(tmp_path / "a")
    (tmp_path / "a" / MODEL_FILE).write_text("tree\n")
    write_conversion_model(tmp_path / "b", inputs=["x"])
    write_conversion_model(tmp_path / "c", support={"GIFT/CANCEL": 1})
    write_conversion_model(tmp_path / "d", self_test=[0.0] * 64)
    write_conversion_model(tmp_path / "e")
    content = b"no trees"
    (tmp_path / "e" / MODEL_FILE).write_bytes(content)
    rewrite(tmp_path / "e", model_sha256=hashlib.sha256(content).hexdigest())
    for name, why in (("a", "SHA-256"), ("b", "inputs"), ("c", "support"), ("d", "scores"), ("e", "no LightGBM model")):
        with pytest.raises(ModelRefused, match=why):
            ConversionModel.load(tmp_path / name)


def test_worker_refuses_a_model_of_the_other_kind(folders: tuple[Path, Path]) -> None:
    """Neither kind passes for the other."""
    with pytest.raises(ModelRefused):
        ConversionModel.load(folders[0])
