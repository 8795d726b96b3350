"""A world to try the engine in: a real database, the engine and the issuer over it, and a scorer that does as told."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from card_recycling.v1 import card_service_pb2, recycling_service_pb2, types_pb2

from migrations.invariants import check_invariants
from migrations.risk_log import TraceHasher
from server.api.list_service import subject
from server.api.messages import MessageRenderer
from server.domain.card import VoidReason
from server.domain.commands import (
    Activate,
    BindDevice,
    Circumstances,
    Command,
    Compensate,
    IssueItem,
    Reactivate,
    Recycle,
    Resolve,
    Void,
)
from server.domain.errors import Reason, Refusal
from server.domain.lists import EntryDraft, ListEntry, ListKind, SubjectKind
from server.domain.lottery import Lottery
from server.domain.outcome import NewOutcome, OutcomeKind
from server.domain.quote import QuoteSigner
from server.domain.recycling import RecycleReason
from server.domain.review import Review, ReviewVerdict
from server.domain.revision import ACTIVATION_LEAD
from server.domain.snapshot import Score
from server.engine.engine import Engine
from server.engine.issue import Issuer
from server.engine.lists import ListKeeper
from server.engine.ports import (
    Contribution,
    ConversionQuestion,
    DueKind,
    Explanation,
    Features,
    ScoreUnavailable,
    Store,
    StoreUnavailable,
)
from server.engine.queue import Outcome
from server.engine.sweeper import sweep
from server.replay.audit import audit
from server.replay.decision import Replay
from server.store.database import StatementFailed
from server.store.due import PostgresDue
from server.store.policy_document import put_policies
from server.store.reviews import PostgresReviews
from server.store.store import PostgresStore, connect

START = datetime(2026, 3, 1, tzinfo=UTC)
POLICIES = Path(__file__).resolve().parents[2] / "policies"
HASHER = TraceHasher(b"a key for the hashes of the tests")
SIGNER = QuoteSigner(b"a key for the quotes of the tests")
LOTTERY = Lottery(b"a key for the lots of the tests")
UNMINDED = {"velocity": [], "without_device": "APPROVE"}
"""Rules of risk under which neither a crowd on one device nor a missing one matters."""
PATIENCE_S = 30.0
"""How long a test waits for what must come."""

PLATFORM_OF = {
    "iqiyi": RecycleReason.VOLUNTARY,
    "tencent": RecycleReason.SYSTEM_ANOMALY,
    "netflix": RecycleReason.EXPIRED,
}

_names = itertools.count(1)


def new_account() -> str:
    """An account id that no other test has."""
    return f"account-{next(_names)}"


def by_signals(row: Features) -> float:
    """HIGH through a VPN, MEDIUM in an emulator, else LOW."""
    if row["vpn"]:
        return 0.9
    return 0.6 if row["emulator"] else 0.05


def by_all_features(row: Features) -> float:
    """A fingerprint of the whole row: any other feature gives another score, and very likely another band."""
    text = repr(sorted(row.items()))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def explanation(row: Features) -> Explanation:
    """VPN speaks for abuse, and the emulator more; the unknown speaks against, and what is left says nothing."""
    parts = {"emulator": 2.0 if row["emulator"] else 0.0, "vpn": 1.0 if row["vpn"] else -0.5, "rooted": 0.0}
    contributions = [
        Contribution(feature=name, reason_code=name.upper(), value=None, contribution=part, sentence=f"About {name}.")
        for name, part in parts.items()
    ]
    return Explanation(
        raw_score=sum(parts.values()), base_value=0.0, probability=0.5, contributions=tuple(contributions)
    )


@dataclass(kw_only=True)
class FakeScorer:
    """Scores by a function of the row, from 0.5 on MEDIUM and from 0.8 on HIGH; `down` makes it unavailable."""

    probability: Callable[[Features], float] = by_signals
    down: bool = False
    batches: list[int] = field(default_factory=list)
    mute: bool = False
    """Gives no explanations."""
    explained: list[int] = field(default_factory=list)

    async def explain(self, rows: Sequence[Features], model_version: str) -> list[Explanation]:
        """See the port: every known signal speaks for abuse."""
        self.explained.append(len(rows))
        if self.mute:
            raise ScoreUnavailable("told so")
        return [explanation(row) for row in rows]

    async def score(self, rows: Sequence[Features], questions: Sequence[ConversionQuestion] = ()) -> list[Score]:
        """See the port."""
        self.batches.append(len(rows))
        if self.down:
            raise ScoreUnavailable("told so")
        return [
            Score(probability=self.probability(row), medium_threshold=0.5, high_threshold=0.8, model_version="fake")
            for row in rows
        ]


class PassingStore:
    """A store before another one; tests override a step to make something happen there."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner

    async def answered(self, commands: Sequence[Command]) -> list[Any]:
        """See the port."""
        return await self.inner.answered(commands)

    async def load(self, commands: Sequence[Command]) -> list[Any]:
        """See the port."""
        return await self.inner.load(commands)

    async def record(self, entries: Sequence[Any]) -> set[int]:
        """See the port."""
        return await self.inner.record(entries)

    async def load_items(self, items: Sequence[IssueItem]) -> list[Any]:
        """See the port."""
        return await self.inner.load_items(items)

    async def record_items(self, entries: Sequence[Any]) -> set[UUID]:
        """See the port."""
        return await self.inner.record_items(entries)


@dataclass(kw_only=True)
class World:
    """One database with an engine, an issuer and the owner's connection. Its clock stands still unless moved."""

    owner_url: str
    server_url: str
    store: PostgresStore
    owner: asyncpg.Connection[Any]
    new_id: Callable[[], UUID]
    scorer: FakeScorer = field(default_factory=FakeScorer)

    def __post_init__(self) -> None:
        self.engine = self.another_engine()
        self.reviews = PostgresReviews(self.store)
        self.due = PostgresDue(self.store.database)
        self.issuer = Issuer(self.store, MessageRenderer(), self.new_id)
        self.lists = ListKeeper(self.store, self.new_id)

    @classmethod
    async def create(cls, urls: tuple[str, str], *, new_id: Callable[[], UUID] = uuid.uuid4) -> World:
        """A world in a new back-test database, at START, with the shipped policies but for three rules: caps, which
        much of what tests do on one device would reach, the one about requests without a device, which most are here,
        and pricing, whose periods would bound every decision."""
        owner_url, server_url = urls
        shipped = [json.loads((POLICIES / f"{platform}.json").read_text("utf-8")) for platform in PLATFORM_OF]
        await put_documents(
            server_url, *(body | {"risk": body["risk"] | UNMINDED, "pricing": None} for body in shipped)
        )
        store = await connect(server_url, connections=6, connections_for_batches=2)
        world = cls(
            owner_url=owner_url,
            server_url=server_url,
            store=store,
            owner=await asyncpg.connect(owner_url),
            new_id=new_id,
        )
        await store.move_clock(START)
        return world

    async def close(self) -> None:
        """Ends the work, closes the connections."""
        await self.engine.drain()
        await self.store.close()
        await self.owner.close()

    def another_engine(self, store: Store | None = None, **limits: int) -> Engine:
        """An engine beside the first, on the same database."""
        return Engine(store or self.store, self.scorer, MessageRenderer(), SIGNER, LOTTERY, self.new_id, **limits)

    # Doing

    async def run(self, command: Command) -> Outcome:
        """The outcome of one command."""
        (outcome,) = await asyncio.wait_for(self.engine.submit([command]), PATIENCE_S)
        return outcome

    async def issue(
        self, platform: str = "iqiyi", account_id: str | None = None, *, active: bool = True, **terms: Any
    ) -> types_pb2.Card:
        """A new card, activated unless it is not to be."""
        (outcome,) = await self.issuer.issue([item(platform, account_id or new_account(), **terms)])
        assert isinstance(outcome, bytes), outcome
        card = types_pb2.Card.FromString(outcome)
        if active:
            await self.answer(activate(card))
        return card

    async def issue_many(self, how_many: int, platform: str = "iqiyi", **terms: Any) -> list[types_pb2.Card]:
        """New cards, each of an account of its own, not activated."""
        outcomes = await self.issuer.issue([item(platform, new_account(), **terms) for _ in range(how_many)])
        return [types_pb2.Card.FromString(outcome) for outcome in outcomes if isinstance(outcome, bytes)]

    async def answer(self, command: Command) -> bytes:
        """The answer to a command that must succeed."""
        outcome = await self.run(command)
        assert isinstance(outcome, bytes), f"{outcome.reason}: {outcome.message}"
        return outcome

    async def recycled(self, card: types_pb2.Card, **more: Any) -> types_pb2.Recycling:
        """The recycling of `card`."""
        return parsed(await self.answer(recycle(card, **more)))

    async def settled(self, card: types_pb2.Card) -> types_pb2.Recycling:
        """The recycling of `card`, its compensation paid."""
        recycling = await self.recycled(card)
        answer = await self.answer(compensate(recycling))
        return recycling_service_pb2.CompensateResponse.FromString(answer).recycling

    async def held(self, card: types_pb2.Card, **more: Any) -> Review:
        """The review of a recycle of `card` that came from an emulator."""
        recycling = await self.recycled(card, **({"circumstances": circumstances(emulator=True)} | more))
        assert recycling.state == types_pb2.RECYCLING_STATE_IN_REVIEW
        return await self.review_of(recycling)

    async def held_again(self, recycling: types_pb2.Recycling) -> Review:
        """The review of a reactivation that came from an emulator."""
        answer = await self.answer(reactivate(recycling, circumstances=circumstances(emulator=True)))
        state = recycling_service_pb2.ReactivateResponse.FromString(answer).state
        assert state == recycling_service_pb2.REACTIVATION_STATE_IN_REVIEW
        return await self.review_of(recycling)

    async def review_of(self, recycling: types_pb2.Recycling) -> Review:
        """The newest review about `recycling`, as it stands."""
        found = await self.owner.fetchval(
            "SELECT review_id FROM review WHERE account_id = $1 AND recycling_id = $2"
            " ORDER BY create_time DESC LIMIT 1",
            recycling.account_id,
            UUID(recycling.recycling_id),
        )
        review = await self.reviews.review(found)
        assert review is not None
        return review

    async def move(self, delta: timedelta) -> datetime:
        """Moves the clock on; returns the new time."""
        moment: datetime = await self.owner.fetchval("SELECT service_clock()") + delta
        await self.store.move_clock(moment)
        return moment

    async def sweep(self, engine: Engine | None = None) -> dict[DueKind, int]:
        """Records what time has done, as much as one look finds; how much that was, by kind, where it was any."""
        found = await asyncio.wait_for(sweep(self.due, engine or self.engine), PATIENCE_S)
        return {kind: number for kind, number in found.items() if number}

    async def put_in_force(self, *bodies: dict[str, Any]) -> None:
        """Makes policies the newest revisions, and moves the clock on to when they govern."""
        await put_documents(self.server_url, *bodies)
        await self.move(ACTIVATION_LEAD)

    async def add_platform(self, name: str, **risk: Any) -> None:
        """A platform like iqiyi, with other rules of risk; it does not mind requests without a device."""
        body = json.loads((POLICIES / "iqiyi.json").read_text("utf-8")) | {"platform": name}
        body["risk"] |= {"without_device": "APPROVE"} | risk
        await put_documents(self.server_url, body)

    async def put(self, kind: str, subject_kind: str, text: str, **more: Any) -> ListEntry:
        """Puts a subject on a list."""
        usual: dict[str, Any] = {"expire_time": None, "actor": "ops@example.com", "reason": "a test"}
        named = subject(HASHER, SubjectKind(subject_kind), text)
        return await self.lists.put(EntryDraft(list=ListKind(kind), subject=named, **(usual | more)))

    # Looking

    async def rows_of(self, account_id: str) -> dict[str, list[dict[str, Any]]]:
        """All that the database holds of an account, by table."""
        tables = (
            "account",
            "card",
            "card_event",
            "recycling",
            "review",
            "posting",
            "wallet_balance",
            "coupon",
            "redemption",
            "goodwill",
            "command",
        )
        found = {}
        for table in (*tables, "risk_event"):
            # Sorted in Python: the order of the rows is no part of what they say.
            rows = await self.owner.fetch(f"SELECT * FROM {table} WHERE account_id = $1", account_id)
            found[table] = sorted((dict(row) for row in rows), key=repr)
        return found

    async def count(self, table: str, account_id: str) -> int:
        """How many rows of `table` an account has."""
        number: int = await self.owner.fetchval(f"SELECT count(*) FROM {table} WHERE account_id = $1", account_id)
        return number

    async def broken(self) -> dict[str, Any]:
        """The invariants that do not hold, with samples."""
        return {result.name: result.samples for result in await check_invariants(self.owner_url) if not result.holds}

    async def replayed_otherwise(self) -> tuple[Replay, ...]:
        """The recorded decisions that do not come out of their receipts as they were recorded."""
        return (await audit(self.server_url)).otherwise


async def put_documents(server_url: str, *bodies: dict[str, Any]) -> None:
    """Makes policies the newest revisions."""
    with tempfile.TemporaryDirectory() as folder:
        for body in bodies:
            Path(folder, f"{body['platform']}.json").write_text(json.dumps(body), "utf-8")
        await put_policies(server_url, Path(folder))


async def answers(store: PostgresStore) -> bool:
    """Whether the database behind `store` can be served from."""
    try:
        await store.database.check()
    except (StoreUnavailable, StatementFailed):
        return False
    return True


# Commands


def item(platform: str, account_id: str, **terms: Any) -> IssueItem:
    """A card to issue, for 29.99 and 30 days unless said otherwise."""
    usual: dict[str, Any] = {
        "request_id": uuid.uuid4(),
        "account_id": account_id,
        "platform": platform,
        "tier": "BASIC",
        "segment": None,
        "face_value_minor": 2999,
        "paid_minor": 2999,
        "currency": "CNY",
        "duration_days": 30,
        "external_serial": None,
        "activate_by_time": None,
    }
    return IssueItem(**(usual | terms))


def activate(card: types_pb2.Card, **more: Any) -> Activate:
    """ActivateCard."""
    return Activate(**(_common(card) | {"card_id": UUID(card.card_id)} | more))


def recycle(card: types_pb2.Card, **more: Any) -> Recycle:
    """Recycle, for the reason that the card's platform takes."""
    usual = _common(card) | {
        "card_id": UUID(card.card_id),
        "reason": PLATFORM_OF.get(card.platform, RecycleReason.VOLUNTARY),
    }
    return Recycle(**(usual | more))


def quote(card: types_pb2.Card, **more: Any) -> Recycle:
    """QuoteRecycle."""
    return recycle(card, request_id=None, dry_run=True, quote=True, **more)


def bind(card: types_pb2.Card, device: str, **more: Any) -> BindDevice:
    """BindDevice."""
    usual = _common(card) | {"card_id": UUID(card.card_id), "circumstances": circumstances(device)}
    return BindDevice(**(usual | more))


def news(
    recycling: types_pb2.Recycling, kind: OutcomeKind, after: timedelta = timedelta(days=1), **more: Any
) -> NewOutcome:
    """That something became of `recycling`, `after` it."""
    usual: dict[str, Any] = {
        "account_id": recycling.account_id,
        "recycling_id": UUID(recycling.recycling_id),
        "kind": kind,
        "time": recycling.create_time.ToDatetime(UTC) + after,
    }
    return NewOutcome(**(usual | more))


def void(card: types_pb2.Card, reason: VoidReason, **more: Any) -> Void:
    """VoidCard."""
    return Void(**(_common(card) | {"card_id": UUID(card.card_id), "reason": reason} | more))


def compensate(recycling: types_pb2.Recycling, **more: Any) -> Compensate:
    """Compensate."""
    return Compensate(**(_common(recycling) | {"recycling_id": UUID(recycling.recycling_id)} | more))


def reactivate(recycling: types_pb2.Recycling, **more: Any) -> Reactivate:
    """Reactivate."""
    return Reactivate(**(_common(recycling) | {"recycling_id": UUID(recycling.recycling_id)} | more))


def resolve(review: Review, verdict: ReviewVerdict = ReviewVerdict.APPROVE, **more: Any) -> Resolve:
    """ResolveReview."""
    usual: dict[str, Any] = {
        "request_id": uuid.uuid4(),
        "account_id": review.account_id,
        "recycling_id": review.recycling_id,
        "review_id": review.review_id,
        "verdict": verdict,
        "reviewer": "anna",
    }
    return Resolve(**(usual | more))


def again(command: Any, **changed: Any) -> Any:
    """The command with other fields."""
    return replace(command, **changed)


def circumstances(
    device: str | None = None,
    ip: str | None = None,
    model: str | None = None,
    payout: str = "",
    **signals: float | bool,
) -> Circumstances:
    """What the API makes of a device."""
    profile = {"model": model, "os": "android", "screen": "1080x2400"} if model else {}
    traces = HASHER.traces(device_id=device, ip=ip, profile=profile)
    return Circumstances(
        device_hash=traces.device_hash,
        address_hash=traces.address_hash,
        prefix_hash=traces.prefix_hash,
        profile_hash=traces.profile_hash,
        payout_hash=HASHER.payout(payout),
        signals=signals,
    )


def _common(owned: types_pb2.Card | types_pb2.Recycling) -> dict[str, Any]:
    return {"request_id": uuid.uuid4(), "account_id": owned.account_id}


# Outcomes


def parsed(outcome: Outcome) -> types_pb2.Recycling:
    """The recycling in the answer to a Recycle."""
    assert isinstance(outcome, bytes), f"{outcome.reason}: {outcome.message}"
    return recycling_service_pb2.RecycleResponse.FromString(outcome).recycling


def card_of(outcome: Outcome) -> types_pb2.Card:
    """The card in the answer to a Reactivate."""
    assert isinstance(outcome, bytes), f"{outcome.reason}: {outcome.message}"
    return recycling_service_pb2.ReactivateResponse.FromString(outcome).card


def voided(outcome: Outcome) -> types_pb2.Card:
    """The card in the answer to a VoidCard."""
    assert isinstance(outcome, bytes), f"{outcome.reason}: {outcome.message}"
    return card_service_pb2.VoidCardResponse.FromString(outcome).card


def reason(outcome: Outcome) -> Reason | None:
    """Why not; None for an answer."""
    return outcome.reason if isinstance(outcome, Refusal) else None


def numbered_ids(space: int) -> Callable[[], UUID]:
    """Ids that count up: the same ones in each world that uses the same `space`."""
    numbers = itertools.count(1)
    return lambda: UUID(int=(space << 64) + next(numbers), version=4)


def unique(name: str) -> str:
    """`name` with something that no other test, nor another run, has."""
    return f"{name}-{os.getpid()}-{next(_names)}"
