"""The engine's Store, and what readers ask, as statements of `sql/` over one database. Must not decide anything."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
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
)
from server.store import inputs, rows
from server.store.database import Database, open_database
from server.store.policy_document import parse_policy

tracer = trace.get_tracer(__name__)


class PostgresStore:
    """What lasts. Methods raise StoreUnavailable when the database cannot be reached."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._policies: dict[tuple[str, int], tuple[Policy, str]] = {}

    # The engine's port

    async def answered(self, commands: Sequence[Command]) -> list[Answered | None]:
        """What each command's request id was answered before."""
        requests = [{"account_id": command.account_id, "request_id": command.request_id} for command in commands]
        return [_answered(row) for row in await self.database.fetch_beside("answered", request=requests)]

    async def load(self, commands: Sequence[Command]) -> list[Loaded]:
        """All that the decisions may read, in one round trip."""
        with tracer.start_as_current_span("store.load", attributes=_span("load")):
            found = await self.database.fetch("load", command=[inputs.command_row(command) for command in commands])
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
                claimed = await self.database.fetch("record", **inputs.entry_rows(entries))
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
            found = await self.database.fetch_beside("issue_load", item=item_rows)
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
            return {row["card_id"] for row in await self.database.fetch_beside("issue_record", card=card_rows)}

    # What readers ask

    async def card(self, account_id: str, card_id: UUID) -> tuple[Card, datetime] | None:
        """A card and the moment it was read at; None when the account has no such card."""
        found = await self.database.query("card", account_id, card_id)
        if not found:
            return None
        (row,) = found
        return await self.waiting_card(row["card"], row["recycling"], row["segment"]), row["now"]

    async def cards(self, account_id: str, before: tuple[datetime, UUID], how_many: int) -> list[tuple[Card, datetime]]:
        """A page of an account's cards, newest first, issued before `before`."""
        found = await self.database.query("cards", account_id, *before, how_many)
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
        found = await self.database.query("recycling", account_id, recycling_id)
        return rows.recycling(found[0]["recycling"]).at(found[0]["now"]) if found else None

    async def recyclings(self, account_id: str, before: tuple[datetime, UUID], how_many: int) -> list[Recycling]:
        """A page of an account's recyclings, newest first, made before `before`."""
        found = await self.database.query("recyclings", account_id, *before, how_many)
        return [rows.recycling(row["recycling"]).at(row["now"]) for row in found]

    async def wallet(self, account_id: str) -> Wallet:
        """What an account holds."""
        (found,) = await self.database.query("wallet", account_id)
        return rows.wallet(account_id, found["balances"], found["coupons"])

    # The lists

    async def put_entry(self, draft: EntryDraft, entry_id: UUID) -> PutEntry:
        """Adds an entry, unless it expires too early, or another than the wanted one is in force."""
        subject = draft.subject
        (found,) = await self.database.query(
            "list_put", entry_id, draft.list, subject.kind, subject.key, draft.expire_time, draft.actor, draft.reason,
            draft.etag,
        )  # fmt: skip
        return PutEntry(now=found["now"], etag_before=found["etag"], version=found["version"])

    async def delete_entry(self, entry_id: UUID, end_id: UUID, actor: str, reason: str) -> DeletedEntry | None:
        """Ends an entry in force; None when there is none of this id."""
        found = await self.database.query("list_delete", entry_id, end_id, actor, reason)
        if not found:
            return None
        return DeletedEntry(entry=rows.list_entry(dict(found[0])), ended=found[0]["next_time"] is not None)

    async def entries(self, wanted: ListFilter, before: tuple[datetime, UUID], how_many: int) -> list[ListEntry]:
        """A page of list entries, newest first, put before `before`."""
        key = None if wanted.subject is None else wanted.subject.key
        found = await self.database.query(
            "list_entries", wanted.list, wanted.subject_kind, key, wanted.active_only, *before, how_many
        )
        return [rows.list_entry(dict(row)) for row in found]

    # What became of recyclings

    async def load_outcome(self, told: NewOutcome) -> OutcomeContext | None:
        """What is known of the recycling that `told` names."""
        found = await self.database.query("outcome_load", told.account_id, told.recycling_id, told.kind, told.time)
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
            await self.database.query("outcome_record", *arguments)
        else:
            await self.database.query_alone(f"outcomes of {told.recycling_id}", "outcome_record", *arguments)

    # How models fare

    async def now(self) -> datetime:
        """The database's clock."""
        (found,) = await self.database.query("now")
        moment: datetime = found["now"]
        return moment

    async def judged(
        self, window: Window, platform: str | None, rows_max: int, *, mature: timedelta | None = None
    ) -> list[JudgedRequest]:
        """The newest decisions of a window, with labels where `mature` is given."""
        found = await self.database.query("judged", window.from_time, window.to_time, platform, rows_max, mature)
        # Megabytes of JSON: beside the event loop.
        return await asyncio.to_thread(lambda: rows.judged(dict(row) for row in found))

    # Back-tests and start-up

    async def move_clock(self, moment: datetime) -> bool:
        """Moves a back-test database's clock forward to `moment`; False where the clock is real."""
        return bool(await self.database.query("move_clock", moment))

    async def close(self) -> None:
        """Closes the connections, when their work is done."""
        await self.database.close()

    # Inside

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
            refused_before=bool(row["refused_before"]),
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
            (found,) = await self.database.query_at_once("policy", platform, revision)
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
    return PostgresStore(
        await open_database(url, connections=connections, connections_for_batches=connections_for_batches)
    )
