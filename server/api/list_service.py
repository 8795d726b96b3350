"""ReviewService's lists: messages to entries and back; what is said in clear of a subject ends here."""

from __future__ import annotations

import ipaddress
import re
from datetime import datetime
from uuid import UUID

from card_recycling.v1 import review_service_pb2 as pb

from migrations.risk_log import TraceHasher
from migrations.spelling import host_address
from server.api import names, paging
from server.api.guard import Context, Served
from server.api.ports import ListReader
from server.api.times import optional_time, timestamp
from server.domain.errors import Reason, Refusal
from server.domain.lists import EntryDraft, ListEntry, ListFilter, ListKind, Subject, SubjectKind
from server.engine.lists import ListKeeper

_ACCOUNT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")


class ListEntries:
    """Keeps the lists beside the model."""

    def __init__(self, keeper: ListKeeper, reader: ListReader, hasher: TraceHasher) -> None:
        self._keeper = keeper
        self._reader = reader
        self._hasher = hasher

    async def PutListEntry(self, request: pb.PutListEntryRequest, context: Context) -> Served:
        """See the proto."""
        draft = EntryDraft(
            list=ListKind(names.LIST_KIND.name(request.list)),
            subject=subject(self._hasher, SubjectKind(names.SUBJECT_KIND.name(request.subject_kind)), request.subject),
            expire_time=optional_time(request, "expire_time"),
            actor=request.actor,
            reason=request.reason,
            etag=request.etag,
        )
        return pb.PutListEntryResponse(entry=entry_message(await self._keeper.put(draft)))

    async def DeleteListEntry(self, request: pb.DeleteListEntryRequest, context: Context) -> Served:
        """See the proto."""
        entry = await self._keeper.delete(UUID(request.entry_id), request.actor, request.reason)
        return pb.DeleteListEntryResponse(entry=entry_message(entry))

    async def ListEntries(self, request: pb.ListEntriesRequest, context: Context) -> Served:
        """See the proto."""
        kind, subject_kind = names.LIST_KIND.known(request.list), names.SUBJECT_KIND.known(request.subject_kind)
        wanted = ListFilter(
            list=ListKind(kind) if kind else None,
            subject_kind=SubjectKind(subject_kind) if subject_kind else None,
            subject=(
                subject(self._hasher, SubjectKind(subject_kind), request.subject)
                if subject_kind and request.subject
                else None
            ),
            active_only=request.active_only,
        )
        size = paging.size(request)
        found = await self._reader.entries(wanted, paging.position(request), size + 1)
        shown, token = paging.page(request, found, size, _position)
        return pb.ListEntriesResponse(entries=map(entry_message, shown), next_page_token=token)


def subject(hasher: TraceHasher, kind: SubjectKind, text: str) -> Subject:
    """The subject that `text` names in clear, hashed as requests' own devices, addresses and payouts are.

    Raises Refusal FIELD_INVALID when it names none of its kind.
    """
    key: bytes | None
    match kind:
        case SubjectKind.ACCOUNT:
            key = text.encode() if _ACCOUNT_ID.fullmatch(text) else None
        case SubjectKind.DEVICE:
            key = hasher.traces(device_id=text, ip=None, profile={}).device_hash
        case SubjectKind.ADDRESS:
            key = _address_key(hasher, text)
        case SubjectKind.PAYOUT:
            key = hasher.payout(text)
    if key is None:
        problem = ("subject", f"is no {_WORDS[kind]}")
        raise Refusal(Reason.FIELD_INVALID, f"{problem[0]}: {problem[1]}", fields=(problem,))
    return Subject(kind=kind, key=key)


_WORDS = {
    SubjectKind.ACCOUNT: "account id",
    SubjectKind.DEVICE: "device id",
    SubjectKind.ADDRESS: "IP address, nor an IPv4 range of /24 or an IPv6 range of /48 or /64",
    SubjectKind.PAYOUT: "payout id",
}


def _address_key(hasher: TraceHasher, text: str) -> bytes | None:
    """The hash of an address, or of a range that requests leave a hash of."""
    if host_address(text) is not None:
        return hasher.traces(device_id=None, ip=text, profile={}).address_hash
    try:
        # Strict: 10.0.0.7/24 could mean the address as well as the range.
        network = ipaddress.ip_network(text.strip())
    except ValueError:
        return None
    first = str(network.network_address)
    traces = hasher.traces(device_id=None, ip=first, profile={})
    if network.prefixlen == network.max_prefixlen:
        return traces.address_hash
    host = host_address(first)
    if host is None or host.version != network.version:
        return None  # requests from there leave the hashes of IPv4 addresses
    if network.version == 6 and network.prefixlen == 64:
        return traces.address_hash
    is_range = network.prefixlen == (24 if network.version == 4 else 48)
    return traces.prefix_hash if is_range else None


def entry_message(entry: ListEntry) -> pb.ListEntry:
    """A list entry."""
    return pb.ListEntry(
        entry_id=str(entry.entry_id),
        list=names.LIST_KIND.number(entry.list),  # type: ignore[arg-type]
        subject_kind=names.SUBJECT_KIND.number(entry.subject.kind),  # type: ignore[arg-type]
        subject=entry.subject.shown,
        expire_time=timestamp(entry.expire_time),
        actor=entry.actor,
        reason=entry.reason,
        create_time=timestamp(entry.create_time),
        etag=entry.etag,
        end_time=timestamp(entry.end_time),
        ended_by=entry.ended_by,
        end_reason=entry.end_reason,
    )


def _position(entry: ListEntry) -> tuple[datetime, UUID]:
    return entry.create_time, entry.entry_id
