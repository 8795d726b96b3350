"""`python -m bench.metering`: what counting costs the hot path, without a running service."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from bench.measure import show
from local.stack import PROJECT
from server.domain.card import Card, CardState
from server.domain.commands import Circumstances, Recycle
from server.domain.decision import decide
from server.domain.lottery import Lottery
from server.domain.quote import QuoteSigner
from server.domain.recycling import RecycleReason, Wallet
from server.domain.snapshot import Score, Snapshot
from server.engine import meter
from server.engine.ports import Entry
from server.store.policy_document import parse_policy

ROUNDS = 9
COMMANDS_EACH = 20_000
BATCHES = (1, 16, 256)
NOW = datetime(2026, 3, 1, tzinfo=UTC)
DEVICE = bytes(16)


def main() -> None:
    """Measures counting while nobody reads metrics, then while somebody does, and drawing a lot.

    Time of the processor, best of some rounds: others use the machine, too.
    """
    entry = _entry()
    unread = {size: _us_per_command([entry] * size) for size in BATCHES}
    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
    for size in BATCHES:
        show(
            "metrics_us_per_command",
            _us_per_command([entry] * size),
            "us",
            batch=size,
            unread_us=round(unread[size], 2),
        )
    show("lot_us", _lot_us(), "us")


def _us_per_command(entries: Sequence[Entry]) -> float:
    batches = COMMANDS_EACH // len(entries)
    rounds = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        for _ in range(batches):
            meter.count_batch(len(entries))
            meter.count_decisions(entries)
        rounds.append((time.process_time() - begin) / (batches * len(entries)))
    return min(rounds) * 1e6


def _lot_us() -> float:
    lottery = Lottery(b"a key of the benches")
    rounds = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        for _ in range(COMMANDS_EACH):
            lottery.lot("account-1", DEVICE, NOW)
        rounds.append((time.process_time() - begin) / COMMANDS_EACH)
    return min(rounds) * 1e6


def _entry() -> Entry:
    """A recycle that was approved with a score, as nearly all are."""
    card = Card(
        card_id=UUID(int=1),
        account_id="account-1",
        external_serial=None,
        platform="iqiyi",
        tier="BASIC",
        segment=None,
        state=CardState.ISSUED,
        face_value_minor=2999,
        paid_minor=2999,
        currency="CNY",
        duration_days=30,
        issue_time=NOW - timedelta(days=1),
        activate_by_time=None,
        activate_time=None,
        expire_time=None,
        generation=1,
        renewals_used=0,
        live_recycling_id=None,
        version=1,
    )
    command = Recycle(
        request_id=UUID(int=2),
        account_id=card.account_id,
        card_id=card.card_id,
        reason=RecycleReason.VOLUNTARY,
        circumstances=Circumstances(device_hash=DEVICE),
    )
    snapshot = Snapshot(
        now=NOW,
        card=card,
        recycling=None,
        policy=parse_policy((PROJECT / "policies" / "iqiyi.json").read_text("utf-8")),
        policy_revision=1,
        wallet=Wallet(account_id=card.account_id, balances=(), coupons=()),
    )
    score = Score(probability=0.1, medium_threshold=0.5, high_threshold=0.9, model_version="bench")
    signer = QuoteSigner(b"a key of the benches")
    change = decide(command, snapshot, score, recycling_id=UUID(int=3), review_id=UUID(int=4), signer=signer)
    return Entry(command=command, account_version=1, change=change, response=b"", receipt="")


if __name__ == "__main__":
    main()
