"""The composition root: wires config, telemetry, store, scorer, engine and services; serves; drains. Only wires.

python -m server                         serve until SIGTERM or SIGINT
python -m server put-policies FOLDER     make the folder's policies the newest revisions, in force ten seconds later
python -m server put-policies --if-missing FOLDER   only of platforms that have none
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import hmac
import logging
import signal
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import grpc.aio
import uuid_utils.compat
import uvloop
from card_recycling.v1 import (
    card_service_pb2,
    card_service_pb2_grpc,
    insights_service_pb2,
    insights_service_pb2_grpc,
    policy_service_pb2,
    policy_service_pb2_grpc,
    recycling_service_pb2,
    recycling_service_pb2_grpc,
    review_service_pb2,
    review_service_pb2_grpc,
    wallet_service_pb2,
    wallet_service_pb2_grpc,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from opentelemetry.instrumentation.grpc import aio_client_interceptors, aio_server_interceptor
from pydantic import ValidationError

from migrations.risk_log import TraceHasher
from process import telemetry
from process.parsing import RefuseGarbage
from process.reflection import offer_reflection
from server.api.card_service import CardServicer
from server.api.event_stream import EventStreams
from server.api.guard import BATCH_BYTES_MAX, Guard
from server.api.insights_service import InsightsServicer
from server.api.list_service import ListEntries
from server.api.messages import MessageRenderer
from server.api.policy_service import PolicyServicer
from server.api.recycling_service import RecyclingServicer
from server.api.requests import CommandParser
from server.api.review_service import ReviewServicer
from server.api.roles import SupportRole
from server.api.wallet_service import WalletServicer
from server.config import Config, DatabaseConfig
from server.domain.lottery import Lottery
from server.domain.quote import QuoteSigner
from server.engine.backtest import PolicyBacktester
from server.engine.engine import Engine
from server.engine.feed import EventFeed
from server.engine.issue import Issuer
from server.engine.lists import ListKeeper
from server.engine.model_gauges import ModelGauges, keep_gauges
from server.engine.model_health import ModelHealthReporter
from server.engine.outcomes import OutcomeRecorder
from server.engine.policies import PolicyKeeper
from server.engine.pricing import keep_making_prices
from server.engine.relay import Relay
from server.engine.sweeper import keep_sweeping
from server.jetstream import JetStreamPublisher
from server.measurer import GrpcHealthMeasurer
from server.scorer import GrpcFraudScorer
from server.store.backtest import PostgresBacktests
from server.store.database import Database
from server.store.due import PostgresDue
from server.store.events import PostgresEvents
from server.store.policies import PostgresPolicies
from server.store.policy_document import PoliciesChanged, PolicyInvalid, parse_policy, put_policies, read_document
from server.store.prices import PostgresPrices
from server.store.reviews import PostgresReviews
from server.store.store import PostgresStore, connect
from server.store.wallets import PostgresWallets

log = logging.getLogger(__name__)

SomeConfig = TypeVar("SomeConfig", bound=DatabaseConfig)

SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (recycling_service_pb2, "RecyclingService"),
        (card_service_pb2, "CardService"),
        (review_service_pb2, "ReviewService"),
        (wallet_service_pb2, "WalletService"),
        (insights_service_pb2, "InsightsService"),
        (policy_service_pb2, "PolicyService"),
    )
)

SERVER_OPTIONS = [
    ("grpc.max_receive_message_length", BATCH_BYTES_MAX + 64 * 1024),
    ("grpc.max_send_message_length", 16 * 1024 * 1024),
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.absolute_max_metadata_size", 8 * 1024),
    ("grpc.max_concurrent_streams", 1000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.so_reuseport", 0),
]
"""The guard answers a message that is a little too large; one far too large ends at the transport."""

GARBAGE_MIN = 20_000
"""New objects before the collector looks for cycles among them; Python's own is 700."""


BATCHES_IN_FLIGHT = 2
"""The database works on one while Python works on the other."""

BACKGROUND_DRAIN_S = 5.0
"""How long the background tasks may take to let go of what they hold."""

ENGINE_DRAIN_S = 10.0
"""How long accepted work may take when the calls it came with have ended."""


def new_id() -> UUID:
    """A UUIDv7."""
    return uuid_utils.compat.uuid7()


def _key(config: Config, purpose: str) -> bytes:
    """One key a purpose, from the one secret (HMAC-SHA-256 as the derivation)."""
    return hmac.digest(config.secret_key.get_secret_value().encode(), purpose.encode(), hashlib.sha256)


def _is_traced(call: grpc.HandlerCallDetails) -> bool:
    """All calls but those for health, and streams, whose spans would never end. The library's own filter takes 13 us,
    this one 0.2."""
    method: str = call.method
    return not method.startswith("/grpc.health.") and not method.endswith("/WatchEvents")


class CannotListen(Exception):
    """An address cannot be bound."""


def assemble(
    config: Config, store: PostgresStore, channel: grpc.aio.Channel, feed: EventFeed
) -> tuple[grpc.aio.Server, Engine, health_aio.HealthServicer]:
    """A server with all its services, not yet started; the engine behind it, and its health."""
    hasher = TraceHasher(_key(config, "trace"))
    guard = Guard(store)
    renderer, parser = MessageRenderer(), CommandParser(hasher, guard.now)
    engine = Engine(
        store,
        GrpcFraudScorer(channel, timeout_ms=config.score_timeout_ms),
        renderer,
        QuoteSigner(_key(config, "quote")),
        Lottery(_key(config, "exploration")),
        new_id,
        batch_max=config.batch_max,
        queue_max=config.queue_max,
        batches_in_flight_max=BATCHES_IN_FLIGHT,
    )
    issuer, health = Issuer(store, renderer, new_id), health_aio.HealthServicer()
    server = grpc.aio.server(
        interceptors=[
            aio_server_interceptor(filter_=_is_traced),  # type: ignore[no-untyped-call]
            RefuseGarbage(),  # of health; ours are parsed by the guard
            guard,
        ],
        options=SERVER_OPTIONS,
    )
    recycling_service_pb2_grpc.add_RecyclingServiceServicer_to_server(
        RecyclingServicer(
            engine, OutcomeRecorder(store), store, parser, SupportRole(config.support_key.get_secret_value())
        ),
        server,
    )
    card_service_pb2_grpc.add_CardServiceServicer_to_server(
        CardServicer(engine, issuer, store, parser, EventStreams(feed)), server
    )
    lists = ListEntries(ListKeeper(store, new_id), store, hasher)
    review_service_pb2_grpc.add_ReviewServiceServicer_to_server(
        ReviewServicer(engine, PostgresReviews(store, claims_max=config.review_claims_max), parser, lists), server
    )
    wallet_service_pb2_grpc.add_WalletServiceServicer_to_server(
        WalletServicer(engine, store, PostgresWallets(store), parser), server
    )
    reporter = ModelHealthReporter(store, GrpcHealthMeasurer(channel))
    insights_service_pb2_grpc.add_InsightsServiceServicer_to_server(InsightsServicer(reporter, parser), server)
    policies = PostgresPolicies(store)
    keeper = PolicyKeeper(policies, read_document)
    backtester = PolicyBacktester(PostgresBacktests(store), keeper, parse_policy)
    policy_service_pb2_grpc.add_PolicyServiceServicer_to_server(PolicyServicer(keeper, policies, backtester), server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if config.reflection:
        offer_reflection(server, (*SERVICES, "grpc.health.v1.Health"))
    return server, engine, health


async def serve(config: Config) -> None:
    """Serves until SIGTERM or SIGINT, then drains: no new calls, calls in progress end, accepted work is recorded."""
    store = await connect(
        config.database_url.get_secret_value(),
        connections=config.database_connections,
        connections_for_batches=BATCHES_IN_FLIGHT,
    )
    tracing = telemetry.set_up_tracing("card-recycling-server")
    try:
        metrics = telemetry.set_up_metrics("card-recycling-server", listen=config.metrics_listen)
    except OSError as error:
        raise CannotListen(f"cannot listen on {config.metrics_listen}: is the port taken?") from error
    channel = grpc.aio.insecure_channel(
        config.fraud_worker,
        interceptors=aio_client_interceptors(),  # type: ignore[no-untyped-call]
        options=[("grpc.max_reconnect_backoff_ms", 1000), ("grpc.initial_reconnect_backoff_ms", 100)],
    )
    feed = EventFeed(PostgresEvents(store.database), watchers_max=config.watchers_max)
    server, engine, health = assemble(config, store, channel, feed)
    await set_health(health, serving=False)  # until the database was asked
    try:
        port = server.add_insecure_port(config.listen)
    except RuntimeError as error:
        raise CannotListen(f"cannot listen on {config.listen}: is the port taken?") from error
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await server.start()
    # What exists by now stays. Batches make many short-lived objects, hardly any of them in cycles.
    gc.freeze()
    gc.set_threshold(GARBAGE_MIN)
    print(f"server listening on {config.listen.rpartition(':')[0]}:{port}", flush=True)
    background = [
        asyncio.create_task(work)
        for work in (watch_health(store.database, health), feed.run(), *_chores(config, store, engine, channel, feed))
    ]
    await stop.wait()
    log.info("draining")
    feed.close()  # streams end at once, and go on elsewhere
    for task in background:
        task.cancel()
    await health.enter_graceful_shutdown()
    await server.stop(config.drain_s)
    await asyncio.wait(background, timeout=BACKGROUND_DRAIN_S)
    try:
        await asyncio.wait_for(engine.drain(), ENGINE_DRAIN_S)
    except TimeoutError:
        log.error("accepted work was left undone: its callers, gone by now, got no answer")
    await channel.close()
    await store.close()
    metrics.shutdown()
    tracing.shutdown()
    log.info("stopped")


def _chores(
    config: Config, store: PostgresStore, engine: Engine, channel: grpc.aio.Channel, feed: EventFeed
) -> Iterator[Coroutine[Any, Any, None]]:
    """What the service does of itself, without being called, as far as it is configured."""
    yield keep_making_prices(PostgresPrices(store))
    if config.sweep_every_s > 0:
        yield keep_sweeping(PostgresDue(store.database), engine, config.sweep_every_s)
    if config.nats_servers:
        yield relay(config, feed, PostgresEvents(store.database)).run()
    if config.model_health_every_s > 0:
        reporter = ModelHealthReporter(store, GrpcHealthMeasurer(channel))
        yield keep_gauges(reporter, ModelGauges(), config.model_health_every_s)


def relay(config: Config, feed: EventFeed, events: PostgresEvents) -> Relay:
    """Publishes the events to NATS, if this server is the one to do it. One relay a stream."""
    publisher = JetStreamPublisher(
        config.nats_servers,
        stream=config.nats_stream,
        subject=config.nats_subject,
        credentials=config.nats_credentials,
    )
    return Relay(config.nats_stream, new_id(), feed, events, publisher)


async def watch_health(database: Database, health: health_aio.HealthServicer) -> None:
    """Keeps health in step with the database: SERVING while it answers, and logs each change with its cause. A missing
    worker does not unserve: policies say what happens without a score."""
    cause: str | None = ""
    while True:
        known_cause = cause
        try:
            await database.check()
            cause = None
        except Exception as error:  # whatever it is, the service is not known to work
            cause = f"{type(error).__name__}: {error}"
        if cause is None and known_cause is not None:
            log.info("serving")
        elif cause != known_cause:
            log.warning("not serving: %s", cause)
        await set_health(health, serving=cause is None)
        await asyncio.sleep(1.0 if cause is None else 0.1)


async def set_health(health: health_aio.HealthServicer, *, serving: bool) -> None:
    """Says so for every service, and for the whole."""
    status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
    for name in ("", *SERVICES):
        await health.set(name, status)


def main() -> int:
    """Runs one of the two commands; returns the exit code."""
    match sys.argv[1:]:
        case []:
            return _main_serve()
        case ["put-policies", folder]:
            return _main_put_policies(Path(folder))
        case ["put-policies", "--if-missing", folder]:
            return _main_put_policies(Path(folder), if_missing=True)
    print(__doc__, file=sys.stderr)
    return 2


def _main_serve() -> int:
    config = _settings(Config)
    if config is None:
        return 2
    telemetry.set_up_logs(config.log_level)
    try:
        uvloop.run(serve(config))
    except (CannotListen, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _main_put_policies(folder: Path, *, if_missing: bool = False) -> int:
    config = _settings(DatabaseConfig)
    if config is None:
        return 2
    try:
        revisions = asyncio.run(put_policies(config.database_url.get_secret_value(), folder, if_missing=if_missing))
    except (PolicyInvalid, PoliciesChanged, asyncpg.PostgresError, OSError) as error:
        print(f"the policies were not put: {error}", file=sys.stderr)
        return 1
    for platform, revision in revisions.items():
        print(f"{platform}@{revision}")
    return 0


def _settings(kind: type[SomeConfig]) -> SomeConfig | None:
    """The settings, or None after saying what is wrong with them."""
    try:
        return kind()
    except ValidationError as error:
        for problem in error.errors():
            setting = ".".join(str(part) for part in problem["loc"]).upper() or "settings"
            print(f"{setting}: {problem['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        return None


if __name__ == "__main__":
    sys.exit(main())
