"""The lists that ops keep beside the model: who is let through, never, or only under watch.

Holds no rule of what follows (that is `risk`); must not know how a device or an address becomes a subject.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class ListKind(StrEnum):
    """What being on a list means."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    WATCH = "WATCH"


class SubjectKind(StrEnum):
    """What an entry is about."""

    ACCOUNT = "ACCOUNT"
    DEVICE = "DEVICE"
    ADDRESS = "ADDRESS"  # one address, or a whole /24 or /48
    PAYOUT = "PAYOUT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whom an entry is about: an account's id in UTF-8, or the keyed hash (16 bytes) of what it is else."""

    kind: SubjectKind
    key: bytes

    @property
    def shown(self) -> str:
        """The account's id, or the hash in hexadecimal."""
        return self.key.decode() if self.kind is SubjectKind.ACCOUNT else self.key.hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListHit:
    """An entry in force that names the account, device, address or payout of a request."""

    list: ListKind
    subject_kind: SubjectKind
    entry_id: UUID

    @property
    def code(self) -> str:
        """The reason code, e.g. DENY_LISTED_DEVICE."""
        return f"{self.list}_LISTED_{self.subject_kind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListEntry:
    """One version of what a list says of a subject, in force within [create_time, end_time).

    `version` counts what was ever said of the subject on this list. `end_time` is when it ended or will end (None: not
    known); `ended_by` and `end_reason` tell who ended it before its `expire_time`, and why.
    """

    entry_id: UUID
    list: ListKind
    subject: Subject
    version: int
    expire_time: datetime | None
    actor: str
    reason: str
    create_time: datetime
    end_time: datetime | None
    ended_by: str = ""
    end_reason: str = ""

    @property
    def etag(self) -> str:
        """Changes with every version."""
        return f"v{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryDraft:
    """An entry to put. `etag`: that of the entry in force which it is to replace; empty where that does not matter."""

    list: ListKind
    subject: Subject
    expire_time: datetime | None
    actor: str
    reason: str
    etag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFilter:
    """Which entries are wanted; None is any."""

    list: ListKind | None = None
    subject_kind: SubjectKind | None = None
    subject: Subject | None = None
    active_only: bool = False
