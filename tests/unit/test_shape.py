"""The shape of messages: hostile values are FIELD_INVALID by name, and what passes never crashes the parser."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
from card_recycling.v1 import (
    card_service_pb2,
    insights_service_pb2,
    policy_service_pb2,
    recycling_service_pb2,
    review_service_pb2,
    types_pb2,
    wallet_service_pb2,
)
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from migrations.risk_log import TraceHasher
from server.api import errors, paging
from server.api.requests import CommandParser
from server.api.shape import check_shape
from server.domain.commands import Command, IssueItem
from server.domain.errors import Reason, Refusal
from server.store import inputs
from tests.builders import ACCOUNT_ID, CARD_ID, RECYCLING_ID, REQUEST_ID

DEVICE: dict[str, Any] = {
    "device_id": "device-1",
    "os": "android",
    "model": "x1",
    "screen": "1080x2400",
    "ip": "192.0.2.7",
    "emulator": False,
}
BEHAVIOR: dict[str, Any] = {"session_seconds": 31.5, "page_views": 4, "failed_logins_24h": 0}
CIRCUMSTANCES: dict[str, Any] = {"device": DEVICE, "behavior": BEHAVIOR}
ACCOUNT: dict[str, Any] = {"account_id": ACCOUNT_ID}
REQUEST: dict[str, Any] = ACCOUNT | {"request_id": str(REQUEST_ID)}
CARD: dict[str, Any] = {"card_id": str(CARD_ID)}
RECYCLING: dict[str, Any] = {"recycling_id": str(RECYCLING_ID)}

RECYCLE = recycling_service_pb2.RecycleRequest(
    **REQUEST, **CARD, **CIRCUMSTANCES, reason=types_pb2.RECYCLE_REASON_VOLUNTARY
)
ITEM = card_service_pb2.IssueCardsRequest.Item(
    **REQUEST,
    platform="iqiyi",
    tier=types_pb2.TIER_BASIC,
    face_value_minor=2_999,
    paid_minor=1_999,
    currency="CNY",
    duration_days=30,
    external_serial="serial-1",
    activate_by_time=Timestamp(seconds=2_000_000_000, nanos=5_000),
)

GOOD: list[Message] = [
    recycling_service_pb2.QuoteRecycleRequest(
        **ACCOUNT, **CARD, **CIRCUMSTANCES, reason=types_pb2.RECYCLE_REASON_VOLUNTARY
    ),
    RECYCLE,
    recycling_service_pb2.ReactivateRequest(**REQUEST, **RECYCLING, **CIRCUMSTANCES),
    recycling_service_pb2.CompensateRequest(**REQUEST, **RECYCLING),
    recycling_service_pb2.CompensateRequest(
        **REQUEST,
        **RECYCLING,
        goodwill=recycling_service_pb2.Goodwill(unit=types_pb2.UNIT_COIN, amount=1, note="sorry"),
    ),
    recycling_service_pb2.GetRecyclingRequest(**ACCOUNT, **RECYCLING),
    recycling_service_pb2.RecordOutcomeRequest(
        **ACCOUNT,
        **RECYCLING,
        kind=recycling_service_pb2.OUTCOME_KIND_CHARGEBACK,
        time=Timestamp(seconds=1_700_000_000, nanos=5_000),
    ),
    recycling_service_pb2.ListRecyclingsRequest(**ACCOUNT, page_size=10),
    ITEM,
    card_service_pb2.GetCardRequest(**ACCOUNT, **CARD),
    card_service_pb2.ListCardsRequest(**ACCOUNT),
    card_service_pb2.ActivateCardRequest(**REQUEST, **CARD, **CIRCUMSTANCES, etag="v1"),
    card_service_pb2.VoidCardRequest(**REQUEST, **CARD, reason=card_service_pb2.VOID_REASON_CHARGEBACK),
    wallet_service_pb2.GetWalletRequest(**ACCOUNT),
    insights_service_pb2.GetModelHealthRequest(
        from_time=Timestamp(seconds=1_700_000_000),
        to_time=Timestamp(seconds=1_800_000_000),
        platform="iqiyi",
        mature_days=7,
    ),
]

IDS = [
    "",
    "x",
    "\x00",
    f"{REQUEST_ID}\n",
    f" {REQUEST_ID}",
    f"{{{REQUEST_ID}}}",
    str(REQUEST_ID).replace("-", ""),
    "é" * 36,
]
TEXT_127 = "a" * 127
NO_SECONDS = (-1, -62_135_596_801, 32_503_680_000, 253_402_300_800, 2**63 - 1, -(2**63))
HOSTILE: dict[str, list[Any]] = {
    "request_id": IDS,
    "card_id": IDS,
    "recycling_id": IDS,
    "account_id": ["", "\x00", "a\x00", "a\n", "a b", "é", "٣", "-a", "a" * 129, "a" * 60_000, "a'; DROP TABLE card"],
    "reason": [0, 4, 99, -1, 2**31 - 1, -(2**31)],
    "compensation_unit": [4, -1, 2**31 - 1],
    "quote_token": ["x" * 1_025],
    "payout_id": ["", "x" * 257],
    "etag": ["x" * 65],
    "page_size": [-1, 1_001, 2**31 - 1, -(2**31)],
    "page_token": ["x" * 257],
    "platform": ["", "Iqiyi", "iqiyi\n", "iqiyi\x00", "a" * 33, "1a", "é"],
    "tier": [0, 3, -1, 2**31 - 1],
    "segment": [4, -1, 2**31 - 1],
    "face_value_minor": [-1, 10**12 + 1, 2**63 - 1, -(2**63)],
    "paid_minor": [-1, 10**12 + 1, 2**63 - 1, -(2**63)],
    "currency": ["", "cny", "CN", "CNYY", "CNY\n", "€€€"],
    "duration_days": [0, -1, 3_661, 2**31 - 1, -(2**31)],
    "external_serial": ["", "a\n", "a\x00", "a b", "é", "a" * 65],
    "device.device_id": ["x" * 257],
    "device.os": ["x" * 65],
    "device.os_version": ["x" * 65],
    "device.app_version": ["x" * 65],
    "device.model": ["x" * 129],
    "device.screen": ["x" * 65],
    "device.timezone": ["x" * 65],
    "device.language": ["x" * 65],
    "device.ip": ["x", "1.2.3", "1.2.3.4\n", "01.2.3.4", "1.2.3.4/24", "::1 ", ":::", "1.2.3.256", "fe80::1%", "\x00"],
    "device.network": ["x" * 65],
    "device.user_agent": ["x" * 513],
    "device.attestation.challenge": [b"x" * 257],
    "device.attestation.counter": [-1, -(2**63)],
    "device.attestation.signature": [b"x" * 1_025],
    "behavior.session_seconds": [math.nan, math.inf, -math.inf, -1.0, -5e-324, 31_536_000.1, 1e308],
    "behavior.page_views": [-1, 1_000_001, 2**31 - 1, -(2**31)],
    "behavior.seconds_since_login": [math.nan, math.inf, -math.inf, -1.0, 3_153_600_001.0],
    "behavior.failed_logins_24h": [-1, 1_000_001, 2**31 - 1],
    "behavior.captcha_failures": [-1, 1_000_001, 2**31 - 1],
    "behavior.form_fill_ms": [-1, 86_400_001, 2**31 - 1],
    "behavior.failed_card_entries_24h": [-1, 1_000_001, 2**31 - 1],
    "device.clock_time": [{"seconds": seconds} for seconds in NO_SECONDS],
    "activate_by_time": [{"seconds": seconds} for seconds in NO_SECONDS],
    "kind": [0, 6, -1, 2**31 - 1],
    "time": [{"seconds": seconds} for seconds in NO_SECONDS],
    "from_time": [{"seconds": seconds} for seconds in NO_SECONDS],
    "to_time": [{"seconds": seconds} for seconds in NO_SECONDS],
    "mature_days": [-1, 367, 2**31 - 1, -(2**31)],
    "goodwill.unit": [0, 9],
    "goodwill.amount": [0, -1, 10**12 + 1, 2**63 - 1],
    "goodwill.note": ["", "x" * 501, "x\x00"],
}


def refusal_of(judge: Callable[[], object]) -> Refusal | None:
    """The Refusal that `judge` raises, if it does."""
    try:
        judge()
    except Refusal as refusal:
        return refusal
    return None


def owner(message: Message, path: str) -> tuple[Any, str]:
    """The message that holds the field at `path`, and the field's name."""
    *outer, name = path.split(".")
    for step in outer:
        message = getattr(message, step)
    return message, name


def put(message: Message, path: str, value: Any) -> None:
    """Sets the field at `path`."""
    holder, name = owner(message, path)
    if isinstance(value, dict):
        for key, part in value.items():
            setattr(getattr(holder, name), key, part)
    else:
        setattr(holder, name, value)


def has(message: Message, path: str) -> bool:
    """Whether messages of this type have a field at `path`."""
    descriptor: Any = message.DESCRIPTOR
    for name in path.split("."):
        field = descriptor.fields_by_name.get(name) if descriptor else None
        if field is None:
            return False
        descriptor = field.message_type
    return True


CASES = [
    pytest.param(good, path, value, id=f"{good.DESCRIPTOR.name}-{path}-{number}")
    for good in GOOD
    for path, values in HOSTILE.items()
    if has(good, path) and (not path.startswith("goodwill.") or good.HasField("goodwill"))
    for number, value in enumerate(values)
]


@pytest.mark.parametrize("message", GOOD, ids=lambda message: message.DESCRIPTOR.name)
def test_good_message_passes(message: Message) -> None:
    """What is well formed is not refused."""
    check_shape(message)


@pytest.mark.parametrize(("good", "path", "value"), CASES)
def test_hostile_value_is_refused_by_name(good: Message, path: str, value: Any) -> None:
    """One bad field is FIELD_INVALID, and named in a BadRequest."""
    message = copy.deepcopy(good)
    put(message, path, value)
    with pytest.raises(Refusal) as refused:
        check_shape(message)
    assert refused.value.reason is Reason.FIELD_INVALID
    # A price out of range may break the rule of both prices as well, which names the message.
    assert {path} <= {field for field, _ in refused.value.fields} <= {path, "paid_minor"}
    assert path in refused.value.message


def test_every_field_of_a_request_is_tried() -> None:
    """A field that a request gains wants hostile values above, unless any value of it is harmless."""
    harmless = {"validate_only", "device.first_seen_time", "device.emulator", "device.rooted", "device.vpn"}
    harmless |= {"behavior.copy_paste_used"}
    messages = {"device", "behavior", "goodwill", "device.attestation"}
    found = {path for good in GOOD for path in paths(good.DESCRIPTOR)}
    assert found - harmless - messages == set(HOSTILE)


def paths(descriptor: Any, prefix: str = "") -> set[str]:
    """The fields of a message and of the messages in it; a time is one field."""
    found = set()
    for field in descriptor.fields:
        found.add(prefix + field.name)
        if field.message_type is not None and field.message_type.file.package == "card_recycling.v1":
            found |= paths(field.message_type, f"{prefix}{field.name}.")
    return found


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (review_service_pb2.ResolveReviewRequest(), "note"),
        (review_service_pb2.PutListEntryRequest(), "etag"),
        (review_service_pb2.PutListEntryRequest(), "reason"),
        (review_service_pb2.DeleteListEntryRequest(), "reason"),
        (policy_service_pb2.CreatePolicyRevisionRequest(), "actor"),
        (policy_service_pb2.CreatePolicyRevisionRequest(), "note"),
        (policy_service_pb2.CreatePolicyRevisionRequest(), "etag"),
        (policy_service_pb2.ActivatePolicyRevisionRequest(), "actor"),
        (policy_service_pb2.ActivatePolicyRevisionRequest(), "note"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_text_that_no_database_holds_is_refused_by_name(message: Message, field: str) -> None:
    """A NUL in what reaches the database as text is the caller's error, not an internal one."""
    put(message, field, "a\x00b")
    refusal = refusal_of(lambda: check_shape(message))
    assert refusal is not None
    assert field in {name for name, _ in refusal.fields}


@pytest.mark.parametrize("missing", ["request_id", "account_id", "card_id", "reason"])
def test_required_field_left_out_is_named(missing: str) -> None:
    """Nothing required has a default."""
    message: Message = copy.deepcopy(RECYCLE)
    message.ClearField(missing)
    with pytest.raises(Refusal) as refused:
        check_shape(message)
    assert [field for field, _ in refused.value.fields] == [missing]


def test_price_above_the_face_value_is_refused() -> None:
    """Nobody pays more than the price on the card."""
    item = copy.deepcopy(ITEM)
    put(item, "paid_minor", 3_000)
    with pytest.raises(Refusal) as refused:
        check_shape(item)
    assert refused.value.reason is Reason.FIELD_INVALID
    assert "paid_minor" in refused.value.message


@pytest.mark.parametrize("count", [0, 1_001])
def test_batch_holds_one_to_a_thousand(count: int) -> None:
    """An empty and an overlong batch are refused as a whole."""
    for message in (
        recycling_service_pb2.BatchRecycleRequest(requests=[recycling_service_pb2.RecycleRequest()] * count),
        card_service_pb2.IssueCardsRequest(items=[card_service_pb2.IssueCardsRequest.Item()] * count),
    ):
        with pytest.raises(Refusal, match="1 to 1000"):
            check_shape(message)


@pytest.mark.parametrize("count", [1, 1_000])
def test_batch_is_not_refused_for_its_items(count: int) -> None:
    """Each item is judged by itself: a batch of wrong ones passes as a batch."""
    check_shape(recycling_service_pb2.BatchRecycleRequest(requests=[recycling_service_pb2.RecycleRequest()] * count))
    check_shape(card_service_pb2.IssueCardsRequest(items=[card_service_pb2.IssueCardsRequest.Item()] * count))


def test_report_of_wrong_fields_is_bounded() -> None:
    """However much is wrong, so many fields are named and no more, and the sentence ends with how many are not."""
    message = copy.deepcopy(RECYCLE)
    for path, values in HOSTILE.items():
        if has(message, path):
            put(message, path, values[0])
    with pytest.raises(Refusal) as refused:
        check_shape(message)
    status = errors.status(refused.value)
    bad_request = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(bad_request)
    left_out = len(refused.value.fields) - len(bad_request.field_violations)
    assert 0 < left_out == len(refused.value.fields) - errors.DETAILS_MAX
    assert status.message.endswith(f" (and {left_out} more)")


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "AAAA",
        "é",
        "\x00",
        "=" * 32,
        "A" * 32,
        "f" * 32,
        "_" * 256,
        "f_" * 16,
        "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkw",
    ],
)
def test_page_token_not_of_ours_is_refused_or_harmless(token: str) -> None:
    """Any text is either a position in time or FIELD_INVALID naming the token."""
    refusal = refusal_of(lambda: paging.position(recycling_service_pb2.ListRecyclingsRequest(page_token=token)))
    assert refusal is None or (refusal.reason, refusal.fields[0][0]) == (Reason.FIELD_INVALID, "page_token")


# What passes must not crash

PARSER = CommandParser(TraceHasher(b"a trace key of tests"))
PARSERS: dict[str, Callable[[Any], Any]] = {
    "QuoteRecycleRequest": PARSER.quote,
    "RecycleRequest": PARSER.recycle,
    "ReactivateRequest": PARSER.reactivate,
    "CompensateRequest": PARSER.compensate,
    "ActivateCardRequest": PARSER.activate,
    "VoidCardRequest": PARSER.void,
    "RecordOutcomeRequest": PARSER.outcome,
    "GetModelHealthRequest": PARSER.health_question,
    "Item": PARSER.issue_item,
}
PARSED = [good for good in GOOD if good.DESCRIPTOR.name in PARSERS]

_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_STRING: st.text(max_size=80)
    | st.sampled_from([str(REQUEST_ID), "::ffff:1.2.3.4%é", "fe80::1%a%b", "0.0.0.0", "::", "a", "CNY", "None"]),
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1) | st.integers(0, 40),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1) | st.integers(0, 10**12),
    FieldDescriptor.CPPTYPE_ENUM: st.integers(-(2**31), 2**31 - 1) | st.integers(0, 5),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats() | st.floats(0, 10**6),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
}


@st.composite
def mangled(draw: st.DrawFn, good: Message) -> Message:
    """`good` with some of its fields, at any depth, set to anything or cleared."""
    message = copy.deepcopy(good)
    mangle(draw, message, share=draw(st.sampled_from([0.1, 0.3, 1.0])))
    return message


def mangle(draw: st.DrawFn, message: Any, share: float) -> None:
    """Mangles about `share` of a message's fields."""
    for field in message.DESCRIPTOR.fields:
        if draw(st.floats(0, 1)) > share:
            continue
        if draw(st.integers(0, 9)) == 0:
            message.ClearField(field.name)
        elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            getattr(message, field.name).SetInParent()
            mangle(draw, getattr(message, field.name), share=1.0 if share == 1.0 else 0.5)
        elif field.type == FieldDescriptor.TYPE_BYTES:
            setattr(message, field.name, draw(st.binary(max_size=300)))
        else:
            setattr(message, field.name, draw(_SCALARS[field.cpp_type]))


@pytest.mark.parametrize("good", PARSED, ids=lambda message: message.DESCRIPTOR.name)
@given(data=st.data())
def test_message_that_passes_is_parsed(good: Message, data: st.DataObject) -> None:
    """Any message is refused for its shape or becomes a command that can be hashed and stored; nothing else happens."""
    message = data.draw(mangled(good))
    # Nanoseconds that are none are left to the parser.
    refusal = refusal_of(lambda: check_shape(message)) or refusal_of(lambda: PARSERS[good.DESCRIPTOR.name](message))
    if refusal is not None:
        assert (refusal.reason, bool(refusal.fields)) == (Reason.FIELD_INVALID, True)
        errors.status(refusal)
        return
    command = PARSERS[good.DESCRIPTOR.name](message)
    if isinstance(command, Command | IssueItem):
        assert len(command.input_hash()) == 32
    if isinstance(command, Command):
        inputs.command_row(command)


@given(data=st.binary(max_size=200))
def test_bytes_that_parse_are_judged(data: bytes) -> None:
    """Any bytes that are a message at all are refused for their shape or parsed."""
    message = recycling_service_pb2.RecycleRequest()
    try:
        message.ParseFromString(RECYCLE.SerializeToString() + data)
    except DecodeError:
        return
    if refusal_of(lambda: check_shape(message)) is None:
        PARSER.recycle(message)


def test_uncommon_addresses_pass_and_are_parsed() -> None:
    """Zones and mapped addresses that the schema accepts never fail the hasher."""
    for ip in ("fe80::1%a%b", "fe80::1%a/b", "::ffff:1.2.3.4%é", "::", "0.0.0.0", "::1.2.3.4"):
        message = recycling_service_pb2.RecycleRequest()
        message.CopyFrom(RECYCLE)
        message.device.CopyFrom(types_pb2.Device(ip=ip))
        check_shape(message)
        PARSER.recycle(message)
