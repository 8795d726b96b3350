"""What may be put on a list, and how what is said of a subject in clear becomes what requests leave of it."""

import copy
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from card_recycling.v1 import review_service_pb2 as pb
from card_recycling.v1 import types_pb2
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from migrations.risk_log import TraceHasher
from server.api.list_service import entry_message, subject
from server.api.shape import check_shape
from server.domain.errors import Reason, Refusal
from server.domain.lists import ListEntry, ListKind, Subject, SubjectKind
from tests.builders import NOW

HASHER = TraceHasher(b"a trace key of tests")
PUT = pb.PutListEntryRequest(
    list=types_pb2.LIST_KIND_DENY,
    subject_kind=types_pb2.SUBJECT_KIND_DEVICE,
    subject="device-1",
    expire_time=Timestamp(seconds=2_000_000_000),
    actor="ann@example.com",
    reason="a farm\nof phones",
    etag="v1",
)
DELETE = pb.DeleteListEntryRequest(entry_id=str(UUID(int=1)), actor="ann", reason="x")
SHOW = pb.ListEntriesRequest(subject_kind=types_pb2.SUBJECT_KIND_DEVICE, subject="device-1", page_size=10)


@pytest.mark.parametrize("good", [PUT, DELETE, SHOW, pb.ListEntriesRequest()])
def test_good_message_passes(good: Message) -> None:
    """What is well formed is not refused."""
    check_shape(good)


@pytest.mark.parametrize(
    ("good", "field", "value"),
    [
        *((PUT, "list", value) for value in (0, 4, -1)),
        *((PUT, "subject_kind", value) for value in (0, 5, -1)),
        *((PUT, "subject", value) for value in ("", "x" * 257)),
        *((PUT, "actor", value) for value in ("", " ", "a b", "-a", "a\n", "a\x00", "a" * 129)),
        *((PUT, "reason", value) for value in ("", " \n\t", "a\x00b", "x" * 1001)),
        (PUT, "etag", "x" * 65),
        *((DELETE, "entry_id", value) for value in ("", "x", f"{UUID(int=1)}\n")),
        *((DELETE, "actor", value) for value in ("", "a\x00")),
        *((DELETE, "reason", value) for value in ("", " ", "\x00")),
        *((SHOW, "list", value) for value in (4, -1)),
        *((SHOW, "subject_kind", value) for value in (5, -1, 0)),
        (SHOW, "subject", "x" * 257),
        *((SHOW, "page_size", value) for value in (-1, 1001)),
        (SHOW, "page_token", "x" * 257),
    ],
)
def test_hostile_value_is_refused_by_name(good: Message, field: str, value: Any) -> None:
    """One bad field is FIELD_INVALID, and named; a subject wants its kind."""
    message = copy.deepcopy(good)
    setattr(message, field, value)
    with pytest.raises(Refusal) as refused:
        check_shape(message)
    assert refused.value.reason is Reason.FIELD_INVALID
    assert [named for named, _ in refused.value.fields] == [field]


@pytest.mark.parametrize("text", ["10.1.2.3", "::ffff:10.1.2.3", "10.1.2.3/32"])
def test_address_is_that_of_requests(text: str) -> None:
    """A single address has the hash that a request from it leaves, however it is written."""
    traces = HASHER.traces(device_id=None, ip="10.1.2.3", profile={})
    assert subject(HASHER, SubjectKind.ADDRESS, text).key == traces.address_hash


def test_subscriber_of_ipv6_is_one_subject() -> None:
    """Addresses of one /64 are the same subject, as they are the same to the model."""
    one, other = (subject(HASHER, SubjectKind.ADDRESS, f"2001:db8:1:2::{end}") for end in (1, 2))
    assert one == other != subject(HASHER, SubjectKind.ADDRESS, "2001:db8:1:3::1")


@pytest.mark.parametrize(("text", "ip"), [("10.1.2.0/24", "10.1.2.99"), ("2001:db8:7::/48", "2001:db8:7:9::1")])
def test_range_is_that_of_requests(text: str, ip: str) -> None:
    """A range has the hash that requests out of it leave, and no address has it."""
    traces = HASHER.traces(device_id=None, ip=ip, profile={})
    key = subject(HASHER, SubjectKind.ADDRESS, text).key
    assert key == traces.prefix_hash != traces.address_hash


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (SubjectKind.ADDRESS, "10.1.2.3/24"),
        (SubjectKind.ADDRESS, "10.1.0.0/16"),
        (SubjectKind.ADDRESS, "10.1.2.0/25"),
        (SubjectKind.ADDRESS, "2001:db8::/32"),
        (SubjectKind.ADDRESS, "2001:db8::1/48"),
        (SubjectKind.ADDRESS, "example.com"),
        (SubjectKind.ADDRESS, "10.1.2"),
        (SubjectKind.ADDRESS, "1"),
        (SubjectKind.ACCOUNT, "an account"),
        (SubjectKind.ACCOUNT, "a\x00"),
        (SubjectKind.ACCOUNT, "a\n"),
        (SubjectKind.DEVICE, "  "),
        (SubjectKind.PAYOUT, "\t"),
    ],
)
def test_text_that_names_no_subject_is_refused(kind: SubjectKind, text: str) -> None:
    """What no request could ever match is a mistake, and named."""
    with pytest.raises(Refusal) as refused:
        subject(HASHER, kind, text)
    assert (refused.value.reason, refused.value.fields[0][0]) == (Reason.FIELD_INVALID, "subject")


def test_same_text_is_another_subject_of_another_kind() -> None:
    """A device and a payout of the same name have nothing in common."""
    keys = {subject(HASHER, kind, "abc").key for kind in (SubjectKind.ACCOUNT, SubjectKind.DEVICE, SubjectKind.PAYOUT)}
    assert len(keys) == 3


def test_only_accounts_are_shown_in_clear() -> None:
    """An answer names an account, and gives of anything else its hash only."""
    named = subject(HASHER, SubjectKind.DEVICE, "fingerprint-4711")
    assert entry_message(entry(named)).subject == named.key.hex()
    assert "fingerprint" not in str(entry_message(entry(named)))
    assert entry_message(entry(subject(HASHER, SubjectKind.ACCOUNT, "a-1"))).subject == "a-1"


def entry(named: Subject) -> ListEntry:
    """An entry about a subject."""
    return ListEntry(
        entry_id=UUID(int=1),
        list=ListKind.DENY,
        subject=named,
        version=1,
        expire_time=NOW + timedelta(days=1),
        actor="ann",
        reason="a farm",
        create_time=NOW,
        end_time=NOW + timedelta(days=1),
    )
