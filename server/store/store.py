"""The engine's Store and the readers' queries over one asyncpg pool. Must not decide anything.

Every statement is one round trip and its own transaction. The pool connects as, or steps down to, the least-privilege
role `recycling_server`; statements are planned once for index access, since all of them touch few rows of large tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
from opentelemetry import trace

from server.domain.card import Card, CardState
from server.domain.commands import Command, IssueItem, WalletCommand
from server.domain.lists import EntryDraft, ListEntry, ListFilter
from server.domain.model_health import Window
from server.domain.outcome import NewOutcome
from server.domain.policy import Policy
from server.domain.reactivate import waiting
from server.domain.recycling import Recycling, Wallet
from server.domain.snapshot import RiskFacts, Snapshot
from server.engine.ports import (
    Answered,
    DeletedEntry,
    Entry,
    Features,
    IssuedEntry,
    JudgedRequest,
    Loaded,
    LoadedItem,
    OutcomeContext,
    PutEntry,
    StoreUnavailable,
)
from server.store import inputs, rows
from server.store.policy_document import parse_policy
from server.store.statements import statement

tracer = trace.get_tracer(__name__)

ROLE = "recycling_server"
STATEMENT_TIMEOUT_S = 10.0
ACQUIRE_TIMEOUT_S = 2.0
CHECK_TIMEOUT_S = 2.0

SESSION = {
    "role": ROLE,
    "application_name": "card-recycling",
    "timezone": "UTC",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_mergejoin": "off",
    "enable_material": "off",
    "random_page_cost": "1.0",
    "jit": "off",
    "statement_timeout": "15s",
    "idle_in_transaction_session_timeout": "15s",
}

_CANNOT_REACH = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedFunctionError,
)
"""It is down, going down, starting, full, only a standby, does not let us in, or has not been migrated."""


class StatementFailed(Exception):
    """The database refused a statement. Tells where, and no value of any row: what it says may be logged."""

    def __init__(self, error: asyncpg.PostgresError) -> None:
        place = error.constraint_name or error.table_name or "no constraint"
        super().__init__(f"{type(error).__name__} ({error.sqlstate}) at {place}")


class PostgresStore:
    """The database. Build it with `connect`; methods raise StoreUnavailable when it cannot be reached."""

    def __init__(self, pool: asyncpg.Pool, *, other_connections: int) -> None:
        self._pool = pool
        self._others = asyncio.Semaphore(other_connections)
        self._policies: dict[tuple[str, int], tuple[Policy, str]] = {}

    # The engine's port

    async def answered(self, commands: Sequence[Command]) -> list[Answered | None]:
        """What each command's request id was answered before."""
        requests = [{"account_id": command.account_id, "request_id": command.request_id} for command in commands]
        return [_answered(row) for row in await self._fetch_beside("answered", request=requests)]

    async def load(self, commands: Sequence[Command]) -> list[Loaded]:
        """All that the decisions may read, in one round trip."""
        with tracer.start_as_current_span("store.load", attributes=_span("load")):
            found = await self._fetch("load", command=[inputs.command_row(command) for command in commands])
        await self._learn_policies(commands, found)
        names = list(found[0].keys())
        first_feature = names.index("feature_position") + 1
        loaded = []
        for command, row in zip(commands, found, strict=True):
            features = dict(zip(names[first_feature:-1], tuple(row.values())[first_feature:-1], strict=True))
            loaded.append(
                Loaded(
                    answered=_answered(row),
                    account_version=row["account_version"] or 0,
                    snapshot=self._snapshot(command, row, features),
                    features=features,
                    assumed_rejected=bool(row["assumed_rejected"]),
                    policy_sha256=self._known_policy(command, row)[1],
                )
            )
        return loaded

    async def record(self, entries: Sequence[Entry]) -> set[int]:
        """Records in one transaction; returns the positions written. A dry run counts as written."""
        dry = {position for position, entry in enumerate(entries) if entry.command.dry_run}
        with tracer.start_as_current_span("store.record", attributes=_span("record")):
            try:
                claimed = await self._fetch("record", **inputs.entry_rows(entries))
            except asyncpg.DeadlockDetectedError:  # everyone in it lost a race
                return set()
        return dry | {row["position"] for row in claimed}

    async def load_items(self, items: Sequence[IssueItem]) -> list[LoadedItem]:
        """What issuing needs to know of each item."""
        item_rows = [
            {
                "account_id": item.account_id,
                "request_id": item.request_id,
                "platform": item.platform,
                "external_serial": item.external_serial,
            }
            for item in items
        ]
        with tracer.start_as_current_span("store.load", attributes=_span("issue_load")):
            found = await self._fetch_beside("issue_load", item=item_rows)
        policies: list[tuple[Policy | None, str]] = []
        for item, row in zip(items, found, strict=True):
            revision = row["policy_revision"]
            policies.append((None, "") if revision is None else await self._policy(item.platform, revision))
        return [
            LoadedItem(
                answered=_answered(row),
                now=row["now"],
                segment=row["segment"],
                serial_taken=row["serial_taken"],
                policy=policy,
                policy_revision=row["policy_revision"],
                policy_sha256=sha256,
            )
            for (policy, sha256), row in zip(policies, found, strict=True)
        ]

    async def record_items(self, entries: Sequence[IssuedEntry]) -> set[UUID]:
        """Issues in one transaction; returns the ids of the cards written."""
        card_rows = [
            {
                "account_id": entry.card.account_id,
                "request_id": entry.item.request_id,
                "input_hash": entry.item.input_hash(),
                "response": entry.response,
                "receipt": entry.receipt,
                "card_id": entry.card.card_id,
                "external_serial": entry.card.external_serial,
                "platform": entry.card.platform,
                "tier": entry.card.tier,
                "segment": entry.item.segment,
                "face_value_minor": entry.card.face_value_minor,
                "paid_minor": entry.card.paid_minor,
                "currency": entry.card.currency,
                "duration_days": entry.card.duration_days,
                "issue_time": entry.card.issue_time,
                "activate_by_time": entry.card.activate_by_time,
            }
            for entry in entries
        ]
        with tracer.start_as_current_span("store.record", attributes=_span("issue_record")):
            return {row["card_id"] for row in await self._fetch_beside("issue_record", card=card_rows)}

    # What readers ask

    async def card(self, account_id: str, card_id: UUID) -> tuple[Card, datetime] | None:
        """A card and the moment it was read at; None when the account has no such card."""
        found = await self._query("card", account_id, card_id)
        if not found:
            return None
        (row,) = found
        return await self.waiting_card(row["card"], row["recycling"], row["segment"]), row["now"]

    async def cards(self, account_id: str, before: tuple[datetime, UUID], how_many: int) -> list[tuple[Card, datetime]]:
        """A page of an account's cards, newest first, issued before `before`."""
        found = await self._query("cards", account_id, *before, how_many)
        return [(await self.waiting_card(row["card"], row["recycling"], row["segment"]), row["now"]) for row in found]

    async def waiting_card(self, card: rows.Row, recycling: rows.Row | None, segment: str | None) -> Card:
        """A card from its row; one that waits after `recycling` until as long as that one's policy says."""
        read = rows.card(card, segment)
        if recycling is None or read.state is not CardState.RECYCLED:
            return read
        live = rows.recycling(recycling)
        policy = await self.policy(live.platform, live.policy_revision)
        return waiting(read, live, policy.for_tier(read.tier))

    async def recycling(self, account_id: str, recycling_id: UUID) -> Recycling | None:
        """A recycling as it stands; None when the account has no such."""
        found = await self._query("recycling", account_id, recycling_id)
        return rows.recycling(found[0]["recycling"]).at(found[0]["now"]) if found else None

    async def recyclings(self, account_id: str, before: tuple[datetime, UUID], how_many: int) -> list[Recycling]:
        """A page of an account's recyclings, newest first, made before `before`."""
        found = await self._query("recyclings", account_id, *before, how_many)
        return [rows.recycling(row["recycling"]).at(row["now"]) for row in found]

    async def wallet(self, account_id: str) -> Wallet:
        """What an account holds."""
        (found,) = await self._query("wallet", account_id)
        return rows.wallet(account_id, found["balances"], found["coupons"])

    # The lists

    async def put_entry(self, draft: EntryDraft, entry_id: UUID) -> PutEntry:
        """Adds an entry, unless it expires too early, or another than the wanted one is in force."""
        subject = draft.subject
        (found,) = await self._query(
            "list_put", entry_id, draft.list, subject.kind, subject.key, draft.expire_time, draft.actor, draft.reason,
            draft.etag,
        )  # fmt: skip
        return PutEntry(now=found["now"], etag_before=found["etag"], version=found["version"])

    async def delete_entry(self, entry_id: UUID, end_id: UUID, actor: str, reason: str) -> DeletedEntry | None:
        """Ends an entry in force; None when there is none of this id."""
        found = await self._query("list_delete", entry_id, end_id, actor, reason)
        if not found:
            return None
        return DeletedEntry(entry=rows.list_entry(dict(found[0])), ended=found[0]["next_time"] is not None)

    async def entries(self, wanted: ListFilter, before: tuple[datetime, UUID], how_many: int) -> list[ListEntry]:
        """A page of list entries, newest first, put before `before`."""
        key = None if wanted.subject is None else wanted.subject.key
        found = await self._query(
            "list_entries", wanted.list, wanted.subject_kind, key, wanted.active_only, *before, how_many
        )
        return [rows.list_entry(dict(row)) for row in found]

    async def query(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        """The rows of a statement that neither loads nor records commands."""
        return await self._query(name, *arguments)

    async def query_alone(self, what: str, name: str, *arguments: Any) -> list[asyncpg.Record]:
        """As `query`, but on all servers only one at a time of those that name the same `what`: each sees what the one
        before it did. Two round trips."""
        return await self._run_beside(statement(name).text, *arguments, alone=what)

    # What became of recyclings

    async def load_outcome(self, told: NewOutcome) -> OutcomeContext | None:
        """What is known of the recycling that `told` names."""
        found = await self._query("outcome_load", told.account_id, told.recycling_id, told.kind, told.time)
        if not found:
            return None
        return OutcomeContext(
            account_id=found[0]["account_id"],
            recycled=found[0]["create_time"],
            now=found[0]["now"],
            recorded=rows.outcome(found[0]["outcome"]) if found[0]["outcome"] is not None else None,
        )

    async def record_outcome(self, account_id: str, told: NewOutcome) -> None:
        """Keeps an outcome, once."""
        arguments = (account_id, told.recycling_id, told.kind, told.time)
        if told.time is not None:
            await self._query("outcome_record", *arguments)
        else:
            await self.query_alone(f"outcomes of {told.recycling_id}", "outcome_record", *arguments)

    # How models fare

    async def now(self) -> datetime:
        """The database's clock."""
        (found,) = await self._query("now")
        moment: datetime = found["now"]
        return moment

    async def judged(
        self, window: Window, platform: str | None, rows_max: int, *, mature: timedelta | None = None
    ) -> list[JudgedRequest]:
        """The newest decisions of a window, with labels where `mature` is given."""
        found = await self._query("judged", window.from_time, window.to_time, platform, rows_max, mature)
        # Megabytes of JSON: beside the event loop.
        return await asyncio.to_thread(lambda: rows.judged(dict(row) for row in found))

    # Back-tests and start-up

    async def move_clock(self, moment: datetime) -> bool:
        """Moves a back-test database's clock forward to `moment`; False where the clock is real."""
        return bool(await self._query("move_clock", moment))

    async def check(self) -> None:
        """Returns when the database answers, with our tables and role. Raises StoreUnavailable or StatementFailed."""
        try:
            await asyncio.wait_for(self._run(statement("wallet").text, ""), CHECK_TIMEOUT_S)
        except TimeoutError:
            raise StoreUnavailable("it takes too long") from None

    async def close(self) -> None:
        """Closes the pool, when its work is done."""
        try:
            await asyncio.wait_for(self._pool.close(), STATEMENT_TIMEOUT_S)
        except TimeoutError:
            self._pool.terminate()

    # Inside

    async def _fetch(self, name: str, **row_sets: Sequence[rows.Row]) -> list[asyncpg.Record]:
        wanted = statement(name)
        return await self._run(wanted.text, *wanted.arguments(**row_sets))

    async def _fetch_beside(self, name: str, **row_sets: Sequence[rows.Row]) -> list[asyncpg.Record]:
        wanted = statement(name)
        return await self._run_beside(wanted.text, *wanted.arguments(**row_sets))

    async def _query(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        return await self._run_beside(statement(name).text, *arguments)

    async def _run_beside(self, text: str, *arguments: Any, alone: str | None = None) -> list[asyncpg.Record]:
        """Readers and issuers share what the engine's batches leave: they cannot starve them of connections."""
        try:
            # Not wait_for: in Python 3.11 that may swallow a cancellation, and then a background task never ends.
            async with asyncio.timeout(ACQUIRE_TIMEOUT_S):
                await self._others.acquire()
        except TimeoutError:
            raise StoreUnavailable("all connections are busy") from None
        try:
            return await self._run(text, *arguments, alone=alone)
        finally:
            self._others.release()

    async def _run(self, text: str, *arguments: Any, alone: str | None = None) -> list[asyncpg.Record]:
        try:
            try:
                return await self._run_once(text, *arguments, alone=alone)
            except asyncpg.OutdatedSchemaCacheError:  # a migration has added a column
                return await self._run_once(text, *arguments, alone=alone)
        except asyncpg.DeadlockDetectedError:
            raise
        except _CANNOT_REACH as error:
            if isinstance(error, ValueError):  # an InterfaceError too: an argument that cannot be encoded
                raise
            raise StoreUnavailable(type(error).__name__) from error
        except asyncpg.PostgresError as error:
            raise StatementFailed(error) from None

    async def _run_once(self, text: str, *arguments: Any, alone: str | None) -> list[asyncpg.Record]:
        fetched: list[asyncpg.Record]
        async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
            if alone is None:
                fetched = await connection.fetch(text, *arguments, timeout=STATEMENT_TIMEOUT_S)
                return fetched
            async with connection.transaction():
                # A statement of its own: the next one then sees what whoever held the lock has committed.
                await connection.execute(statement("lock").text, alone, timeout=STATEMENT_TIMEOUT_S)
                fetched = await connection.fetch(text, *arguments, timeout=STATEMENT_TIMEOUT_S)
                return fetched

    def _snapshot(self, command: Command, row: asyncpg.Record, features: Features) -> Snapshot:
        card = rows.card(row["card"], row["segment"]) if row["card"] is not None else None
        recycling = rows.recycling(row["recycling"]) if row["recycling"] is not None else None
        if card is not None and recycling is not None and _waits_after(row):
            policy_of_it, _ = self._policies[recycling.platform, recycling.policy_revision]
            card = waiting(card, recycling, policy_of_it.for_tier(card.tier))
        policy, _ = self._known_policy(command, row)
        return Snapshot(
            now=row["now"],
            card=card,
            recycling=recycling,
            policy=policy,
            policy_revision=row["policy_revision"],
            wallet=rows.wallet(command.account_id, row["balances"], row["coupons"]),
            facts=rows.risk_facts(command, row["list_hits"], features) if command.reads_lists else RiskFacts(),
            reviews=rows.reviews(row["reviews"]),
            charged_back=bool(row["charged_back"]),  # null without a card
            policy_until=row["policy_until"],
            bonus=row["bonus"] or 0,
            redemption=rows.redemption(row["redemption"]) if row["redemption"] is not None else None,
            used_30d=row["used_30d"] or 0,
        )

    async def _learn_policies(self, commands: Iterable[Command], found: Iterable[asyncpg.Record]) -> None:
        wanted = set()
        for command, row in zip(commands, found, strict=True):
            if (platform := _platform(command, row)) is not None:
                wanted.add((platform, row["policy_revision"]))
            if _waits_after(row):
                wanted.add((row["recycling"]["platform"], row["recycling"]["policy_revision"]))
        for platform, revision in wanted:
            if revision is not None:
                await self._policy(platform, revision)

    def _known_policy(self, command: Command, row: asyncpg.Record) -> tuple[Policy | None, str]:
        """The policy that governs a loaded command, with the terms of its card's tier, if it is about any, and its
        document's SHA-256."""
        platform, revision = _platform(command, row), row["policy_revision"]
        if platform is None or revision is None:
            return None, ""
        policy, sha256 = self._policies[platform, revision]
        return policy if row["card"] is None else policy.for_tier(row["card"]["tier"]), sha256

    async def policy(self, platform: str, revision: int) -> Policy:
        """A revision's rules."""
        policy, _ = await self._policy(platform, revision)
        return policy

    async def _policy(self, platform: str, revision: int) -> tuple[Policy, str]:
        """A revision never changes, so it is read once. Its SHA-256 comes with it, in hexadecimal."""
        key = (platform, revision)
        if key not in self._policies:
            (found,) = await self._run(statement("policy").text, platform, revision)
            policy = await asyncio.to_thread(parse_policy, found["document"])
            self._policies[key] = policy, found["document_sha256"].hex()
        return self._policies[key]


def _answered(row: asyncpg.Record) -> Answered | None:
    if row["input_hash"] is None:
        return None
    return Answered(input_hash=row["input_hash"], response=row["response"])


def _platform(command: Command, row: asyncpg.Record) -> str | None:
    """Whose rules govern a loaded command: the platform that it names, or that of its card."""
    if isinstance(command, WalletCommand):
        return command.platform
    return None if row["card"] is None else str(row["card"]["platform"])


def _waits_after(row: asyncpg.Record) -> bool:
    """Whether the card that was read waits after the recycling that was read, and not after another one."""
    card, recycling = row["card"], row["recycling"]
    return (
        recycling is not None
        and card["state"] == CardState.RECYCLED
        and card["live_recycling_id"] == recycling["recycling_id"]
    )


def _span(operation: str) -> dict[str, str]:
    """OpenTelemetry's names for a database call; the statement's text lies in `sql/`."""
    return {"db.system.name": "postgresql", "db.operation.name": operation}


async def connect(url: str, *, connections: int, connections_for_batches: int) -> PostgresStore:
    """A store over a new pool of at most `connections`, of which some are kept for the engine's batches.

    Connections are made when first needed, so the database may come up later. Raises ValueError for a URL that is none.
    """
    pool = await asyncpg.create_pool(
        url,
        min_size=0,
        max_size=connections,
        server_settings=SESSION,
        statement_cache_size=100,
        max_cached_statement_lifetime=0,
        max_cacheable_statement_size=0,
        init=_refuse_power,
        reset=_keep_session,
        timeout=ACQUIRE_TIMEOUT_S,
    )
    return PostgresStore(pool, other_connections=connections - connections_for_batches)


async def _refuse_power(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """A role that could change append-only tables must not serve."""
    if too_open := [row["name"] for row in await connection.fetch(statement("privileges").text)]:
        raise StoreUnavailable(f"its role may change append-only tables: {', '.join(too_open)}")


async def _keep_session(connection: asyncpg.Connection) -> None:
    """Nothing to reset: no statement changes its session. Saves a round trip on every release."""
