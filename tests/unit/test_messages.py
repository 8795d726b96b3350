"""Messages to commands and back: every name in both ways, and nothing of a device but its keyed hashes."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import combinations
from typing import Any

import pytest
from card_recycling.v1 import card_service_pb2, recycling_service_pb2, review_service_pb2, types_pb2
from google.protobuf import timestamp_pb2
from hypothesis import given
from hypothesis import strategies as st

from migrations.risk_log import TraceHasher
from server.api.messages import MessageRenderer, card_message, recycling_message
from server.api.requests import CommandParser
from server.api.wallet_messages import wallet_message
from server.domain.card import DAY, CardState, VoidReason
from server.domain.commands import Circumstances, Recycle
from server.domain.errors import Refusal
from server.domain.evidence import SharedTrait
from server.domain.recycling import (
    Compensation,
    CompensationState,
    Disposition,
    Priority,
    RecycleReason,
    RecyclingState,
    RiskBand,
    Unit,
)
from server.domain.review import ReviewKind, ReviewState, ReviewVerdict
from server.engine.ports import Entry, Loaded
from server.engine.receipt import receipt
from server.store import inputs
from tests.builders import ACCOUNT_ID, CARD_ID, LOW, MICROSECOND, NOW, RECYCLING_ID, REQUEST_ID, Account, active, issued

HASHER = TraceHasher(b"a trace key of tests")
PARSER = CommandParser(HASHER)


def recycle_request(**fields: Any) -> recycling_service_pb2.RecycleRequest:
    """A request to recycle, with whatever else."""
    return recycling_service_pb2.RecycleRequest(
        request_id=str(REQUEST_ID),
        account_id=ACCOUNT_ID,
        card_id=str(CARD_ID),
        reason=types_pb2.RECYCLE_REASON_VOLUNTARY,
        **fields,
    )


def circumstances(**device: Any) -> Circumstances:
    """What the server keeps of a device."""
    return PARSER.recycle(recycle_request(device=types_pb2.Device(**device))).circumstances


# Enums


@pytest.mark.parametrize(
    ("wire", "prefix", "domain"),
    [
        (types_pb2.CardState, "CARD_STATE_", CardState),
        (types_pb2.RecycleReason, "RECYCLE_REASON_", RecycleReason),
        (types_pb2.Priority, "PRIORITY_", Priority),
        (types_pb2.RecyclingState, "RECYCLING_STATE_", RecyclingState),
        (types_pb2.Disposition, "DISPOSITION_", Disposition),
        (types_pb2.Unit, "UNIT_", Unit),
        (types_pb2.CompensationState, "COMPENSATION_STATE_", CompensationState),
        (types_pb2.RiskBand, "RISK_BAND_", RiskBand),
        (card_service_pb2.VoidReason, "VOID_REASON_", VoidReason),
        (review_service_pb2.ReviewKind, "REVIEW_KIND_", ReviewKind),
        (review_service_pb2.ReviewState, "REVIEW_STATE_", ReviewState),
        (review_service_pb2.ReviewVerdict, "REVIEW_VERDICT_", ReviewVerdict),
        (review_service_pb2.SharedTrait, "SHARED_TRAIT_", SharedTrait),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_enum_is_complete_both_ways(wire: Any, prefix: str, domain: type[StrEnum]) -> None:
    """The wire names what the domain names, and nothing else but UNSPECIFIED, which is 0."""
    assert {name.removeprefix(prefix) for name, _ in wire.items()} == {"UNSPECIFIED", *domain}
    assert wire.Value(f"{prefix}UNSPECIFIED") == 0


def test_every_reason_is_parsed() -> None:
    """Each reason on the wire is the domain's of that name."""
    for reason in RecycleReason:
        request = recycle_request()
        request.reason = types_pb2.RecycleReason.Value(f"RECYCLE_REASON_{reason}")
        assert PARSER.recycle(request).reason is reason


def test_every_void_reason_is_parsed() -> None:
    """Each void reason on the wire is the domain's of that name."""
    for reason in VoidReason:
        request = card_service_pb2.VoidCardRequest(
            request_id=str(REQUEST_ID),
            account_id=ACCOUNT_ID,
            card_id=str(CARD_ID),
            reason=card_service_pb2.VoidReason.Value(f"VOID_REASON_{reason}"),
        )
        assert PARSER.void(request).reason is reason


def test_unit_left_out_is_no_unit() -> None:
    """UNSPECIFIED leaves the choice to the policy; every other unit is the domain's."""
    assert PARSER.recycle(recycle_request()).unit is None
    for unit in Unit:
        request = recycle_request(compensation_unit=types_pb2.Unit.Value(f"UNIT_{unit}"))
        assert PARSER.recycle(request).unit is unit


@pytest.mark.parametrize("state", [CardState.RECYCLED, CardState.VOID, CardState.ISSUED])
def test_card_state_is_rendered(state: CardState) -> None:
    """A stored state is shown by its name."""
    message = card_message(issued(state=state), NOW)
    assert types_pb2.CardState.Name(message.state) == f"CARD_STATE_{state}"


def test_card_is_shown_as_it_stands_at_the_moment() -> None:
    """The same row is ACTIVE before its expiry and EXPIRED from it on."""
    card = active("iqiyi", unused=DAY)
    assert card_message(card, NOW + DAY - MICROSECOND).state == types_pb2.CARD_STATE_ACTIVE
    assert card_message(card, NOW + DAY).state == types_pb2.CARD_STATE_EXPIRED


@pytest.mark.parametrize("state", list(CompensationState))
@pytest.mark.parametrize("unit", list(Unit))
def test_compensation_is_rendered(unit: Unit, state: CompensationState) -> None:
    """Unit, amount and state are shown by name; a coupon's fields only where there are any."""
    recycling = Account(active("iqiyi", unused=DAY)).recycle().recycling
    assert recycling is not None
    shown = recycling_message(
        replace(recycling, compensation=Compensation(unit=unit, amount=7, state=state))
    ).compensation
    assert types_pb2.Unit.Name(shown.unit) == f"UNIT_{unit}"
    assert types_pb2.CompensationState.Name(shown.state) == f"COMPENSATION_STATE_{state}"
    assert shown.amount == 7
    assert not shown.HasField("basis_points")
    assert not shown.HasField("max_discount_minor")
    assert not shown.HasField("expire_time")


def test_recycling_without_compensation_shows_none() -> None:
    """Nothing is owed, so nothing is there."""
    recycling = Account(issued(paid_minor=0)).recycle().recycling
    assert recycling is not None
    assert not recycling_message(recycling).HasField("compensation")


@pytest.mark.parametrize("segment", [None, "YOUNG", "MIDDLE", "SENIOR"])
@pytest.mark.parametrize("tier", ["BASIC", "PREMIUM"])
def test_issue_item_is_rendered_as_it_was_parsed(tier: str, segment: str | None) -> None:
    """Tier and segment survive the way in and out; an unknown segment stays unknown."""
    item = PARSER.issue_item(
        card_service_pb2.IssueCardsRequest.Item(
            request_id=str(REQUEST_ID),
            account_id=ACCOUNT_ID,
            tier=types_pb2.Tier.Value(f"TIER_{tier}"),
            segment=types_pb2.Segment.Value(f"SEGMENT_{segment}") if segment else types_pb2.SEGMENT_UNSPECIFIED,
        )
    )
    assert (item.tier, item.segment) == (tier, segment)
    message = card_message(issued(tier=item.tier, segment=item.segment), NOW)
    assert types_pb2.Tier.Name(message.tier) == f"TIER_{tier}"
    assert types_pb2.Segment.Name(message.segment) == f"SEGMENT_{segment or 'UNSPECIFIED'}"


def test_optional_fields_left_out_are_none() -> None:
    """A serial and a bound that were not given are not there, and do not come back as zero."""
    item = PARSER.issue_item(
        card_service_pb2.IssueCardsRequest.Item(request_id=str(REQUEST_ID), tier=types_pb2.TIER_BASIC)
    )
    assert (item.external_serial, item.activate_by_time) == (None, None)
    message = card_message(issued(), NOW)
    for field in ("external_serial", "activate_by_time", "activate_time", "expire_time"):
        assert not message.HasField(field)


@given(st.datetimes(datetime(1970, 1, 1), datetime(2999, 12, 31)))  # noqa: DTZ001 - hypothesis wants naive bounds
def test_time_survives_to_the_microsecond(naive: datetime) -> None:
    """In by one message and out by another, a time is the same."""
    moment = naive.replace(tzinfo=UTC)
    item = card_service_pb2.IssueCardsRequest.Item(request_id=str(REQUEST_ID), tier=types_pb2.TIER_BASIC)
    item.activate_by_time.CopyFrom(card_message(issued(activate_by_time=moment), NOW).activate_by_time)
    assert PARSER.issue_item(item).activate_by_time == moment


def test_answer_of_a_dry_run_has_no_id() -> None:
    """A quote and a validation show the recycling without an id."""
    account = Account(active("iqiyi", unused=DAY))
    command = Recycle(
        request_id=REQUEST_ID, account_id=ACCOUNT_ID, card_id=CARD_ID, reason=RecycleReason.VOLUNTARY, dry_run=True
    )
    answer = MessageRenderer().answer(command, account.run(command))
    assert recycling_service_pb2.RecycleResponse.FromString(answer).recycling.recycling_id == ""


def test_quote_shows_its_token_and_expiry() -> None:
    """The answer to a quote carries what the recycle needs."""
    account = Account(issued("iqiyi"))
    command = Recycle(
        request_id=None,
        account_id=ACCOUNT_ID,
        card_id=CARD_ID,
        reason=RecycleReason.VOLUNTARY,
        dry_run=True,
        quote=True,
    )
    change = account.run(command)
    shown = recycling_service_pb2.QuoteRecycleResponse.FromString(MessageRenderer().answer(command, change))
    assert shown.quote_token == change.quote_token != ""
    assert shown.quote_expire_time.ToDatetime(UTC) == NOW + timedelta(minutes=5)
    assert shown.recycling.request_id == ""


def test_wallet_is_rendered() -> None:
    """Balances by unit, and coupons with their terms."""
    account = Account(active("netflix", unused=-30 * DAY))
    account.recycle()
    account.compensate()
    message = wallet_message(account.wallet)
    assert [(b.platform, b.unit, b.amount) for b in message.balances] == [("netflix", types_pb2.UNIT_COUPON, 1)]
    (coupon,) = message.coupons
    assert coupon.coupon_id == str(account.recycling.recycling_id)
    assert (coupon.basis_points, coupon.max_discount_minor) == (500, 149)


# Signals


def test_signals_left_out_are_unknown() -> None:
    """No device and no session say nothing: no hash, no signal, no guess."""
    assert PARSER.recycle(recycle_request()).circumstances == Circumstances()


def test_false_and_zero_are_known() -> None:
    """What was said is kept, even where it is the type's zero value."""
    request = recycle_request(
        device=types_pb2.Device(emulator=False, rooted=True),
        behavior=types_pb2.Behavior(page_views=0, session_seconds=0.0, copy_paste_used=False),
    )
    assert PARSER.recycle(request).circumstances.signals == {
        "emulator": False,
        "rooted": True,
        "page_views": 0,
        "session_seconds": 0.0,
        "copy_paste_used": False,
    }


def test_every_optional_signal_is_read() -> None:
    """Each optional field of device and behaviour becomes a signal of its own name."""
    device, behavior = types_pb2.Device(), types_pb2.Behavior()
    names = set()
    for message in (device, behavior):
        for field in message.DESCRIPTOR.fields:
            if field.containing_oneof is not None:
                setattr(message, field.name, field.type == field.TYPE_BOOL or 3)
                names.add(field.name)
    assert set(PARSER.recycle(recycle_request(device=device, behavior=behavior)).circumstances.signals) == names


def test_signals_follow_from_the_device() -> None:
    """Contradictions, hosting ranges and places are told from raw values, which go no further."""
    device = types_pb2.Device(
        os="android", model="iPhone 13", ip="52.0.0.1", timezone="Asia/Shanghai", language="en-US"
    )
    assert PARSER.recycle(recycle_request(device=device)).circumstances.signals == {
        "inconsistencies": 1,
        "hosting": True,
        "timezone_mismatch": True,
    }


def test_device_clock_is_compared_with_ours() -> None:
    """What the device's clock shows becomes how far it is off."""
    parser = CommandParser(HASHER, now=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    device = types_pb2.Device(clock_time=timestamp_pb2.Timestamp(seconds=1_767_225_600 - 90))
    assert parser.recycle(recycle_request(device=device)).circumstances.signals == {"clock_skew_seconds": 90.0}


# Addresses


@pytest.mark.parametrize("same", ["::ffff:192.0.2.7", "::FFFF:192.0.2.7", "::ffff:c000:207", "0:0:0:0:0:ffff:c000:207"])
def test_mapped_ipv4_is_ipv4(same: str) -> None:
    """An IPv4 address written as IPv6 is the same address."""
    assert circumstances(ip=same) == circumstances(ip="192.0.2.7")


def test_ipv4_has_its_24() -> None:
    """Neighbours share the /24 and not the address; the next /24 shares nothing."""
    one, neighbour, stranger = (circumstances(ip=ip) for ip in ("192.0.2.7", "192.0.2.255", "192.0.3.7"))
    assert one.address_hash != neighbour.address_hash
    assert one.prefix_hash == neighbour.prefix_hash
    assert one.prefix_hash != stranger.prefix_hash


def test_ipv6_counts_as_its_64_and_has_its_48() -> None:
    """One subscriber's addresses are one; a site's subscribers share the /48."""
    one, same, neighbour, stranger = (
        circumstances(ip=ip)
        for ip in ("2001:db8:1:2::1", "2001:DB8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:3::1", "2001:db8:2:2::1")
    )
    assert one == same
    assert one.address_hash != neighbour.address_hash
    assert one.prefix_hash == neighbour.prefix_hash
    assert one.prefix_hash != stranger.prefix_hash


def test_zone_does_not_change_an_address() -> None:
    """fe80::1 is the same wherever it is seen from."""
    assert circumstances(ip="fe80::1%eth0") == circumstances(ip="fe80::1")


@given(st.text(max_size=40))
def test_text_that_is_no_address_is_unknown(text: str) -> None:
    """The hasher takes any text; what does not parse leaves no hash, and never fails."""
    traces = HASHER.traces(device_id=None, ip=text, profile={})
    assert (traces.address_hash is None) == (traces.prefix_hash is None)


@given(st.ip_addresses(v=4), st.ip_addresses(v=6), st.text(min_size=1, max_size=20))
def test_domains_never_collide(v4: Any, v6: Any, text: str) -> None:
    """A device, an address, a prefix and a profile are never taken for one another, whatever they read like."""
    values = {str(v4), str(v6), text, str(int(v4)), str(int(v6) >> 64)}
    devices = {HASHER.traces(device_id=value, ip=None, profile={}).device_hash for value in values}
    others = [HASHER.traces(device_id=None, ip=str(ip), profile={}) for ip in (v4, v6)]
    profile = HASHER.traces(device_id=None, ip=None, profile={"model": text, "os": text, "screen": text}).profile_hash
    groups = [devices, {t.address_hash for t in others}, {t.prefix_hash for t in others}, {profile}]
    assert all(one.isdisjoint(other) for one, other in combinations(groups, 2))


def test_equal_numbers_of_both_families_differ() -> None:
    """0.0.0.1 and the /64 number 1 are not the same address, nor are their ranges."""
    four, six = circumstances(ip="0.0.0.1"), circumstances(ip="0:0:0:1::")
    assert four.address_hash != six.address_hash
    assert circumstances(ip="0.0.1.0").prefix_hash != circumstances(ip="0:0:1::").prefix_hash


def test_other_key_makes_other_hashes() -> None:
    """Without the key nobody can tell whose hash it is."""
    other = TraceHasher(b"another key of tests")
    values: dict[str, Any] = {"device_id": "d", "ip": "192.0.2.7", "profile": {"os": "a", "model": "b", "screen": "c"}}
    ours, theirs = HASHER.traces(**values), other.traces(**values)
    assert ours.device_hash != theirs.device_hash
    assert ours.address_hash != theirs.address_hash
    assert ours.prefix_hash != theirs.prefix_hash
    assert ours.profile_hash != theirs.profile_hash


def test_profile_needs_three_known_fields() -> None:
    """Two fields say nothing; a third makes a profile, and which fields they are matters."""
    assert circumstances(os="android", model="x").profile_hash is None
    known = {circumstances(**fields).profile_hash for fields in (
        {"os": "a", "model": "a", "screen": "a"},
        {"os": "a", "model": "a", "language": "a"},
        {"os": "a", "model": "a", "user_agent": "a"},
    )}  # fmt: skip
    assert len(known) == 3
    assert None not in known


# Privacy

RAW = {
    "device_id": "fingerprint-4711",
    "ip": "203.0.113.77",
    "model": "Nokia-3310-raw",
    "os": "symbian-raw",
    "os_version": "s60-raw",
    "app_version": "app-raw",
    "screen": "84x48-raw",
    "timezone": "Antarctica/Troll",
    "language": "tlh-raw",
    "network": "carrier-pigeon",
    "user_agent": "Raw/1.0",
}
PAYOUT = "DE02-raw-payout"


def test_raw_device_never_leaves_the_edge() -> None:
    """Command, stored rows, receipt and answer hold none of a device's or payout's text, in no encoding of it."""
    account = Account(active("iqiyi", unused=18 * DAY))
    device = types_pb2.Device(**RAW, emulator=True)  # type: ignore[arg-type]
    command = PARSER.recycle(recycle_request(device=device, payout_id=PAYOUT))
    snapshot = account.snapshot(command)
    loaded = Loaded(answered=None, account_version=1, snapshot=snapshot, features={"vpn": False})
    change = account.run(command)
    entry = Entry(
        command=command,
        account_version=1,
        change=change,
        response=MessageRenderer().answer(command, change),
        receipt=receipt(command, loaded, LOW, change),
    )
    kept = repr((command, inputs.command_row(command), inputs.entry_rows([entry]), entry))
    assert command.circumstances.payout_hash is not None
    for value in (*RAW.values(), PAYOUT):
        assert value not in kept
        assert value.encode().hex() not in kept
    assert not re.search(r"203\\?\.0", kept)
    assert repr(command.circumstances.device_hash) in kept


def test_hashes_have_sixteen_bytes() -> None:
    """As the tables want them."""
    found = circumstances(**RAW)
    assert {len(key) for key in found.shared_keys()} == {16}
    assert len(found.shared_keys()) == 4


def test_ids_are_parsed_whatever_their_case() -> None:
    """The same UUID in capitals is the same request."""
    request = recycle_request()
    request.request_id, request.card_id = request.request_id.upper(), request.card_id.upper()
    assert PARSER.recycle(request) == PARSER.recycle(recycle_request())
    named = recycling_service_pb2.CompensateRequest(request_id=str(REQUEST_ID), recycling_id=str(RECYCLING_ID).upper())
    assert PARSER.compensate(named).recycling_id == RECYCLING_ID


@pytest.mark.parametrize("nanos", [-1, 10**9, 2**31 - 1, -(2**31)])
def test_nanoseconds_that_are_none_are_refused(nanos: int) -> None:
    """A time with nanoseconds out of range is FIELD_INVALID, not another time."""
    item = card_service_pb2.IssueCardsRequest.Item(request_id=str(REQUEST_ID), tier=types_pb2.TIER_BASIC)
    item.activate_by_time.seconds, item.activate_by_time.nanos = 5, nanos
    with pytest.raises(Refusal) as refused:
        PARSER.issue_item(item)
    assert [field for field, _ in refused.value.fields] == ["activate_by_time"]


@pytest.mark.parametrize("device_id", ["AB-12", " ab-12", "ab-12\t"])
def test_device_id_is_the_same_in_another_guise(device_id: str) -> None:
    """Another case, or a space about it, makes no new device."""
    hasher = TraceHasher(b"k" * 32)
    plain = hasher.traces(device_id="ab-12", ip=None, profile={})
    assert hasher.traces(device_id=device_id, ip=None, profile={}) == plain


@pytest.mark.parametrize("device_id", ["", " ", "\t\n\u3000"])
def test_blank_device_id_names_no_device(device_id: str) -> None:
    """Nor do attributes without an id: they count for the profile, and for no device."""
    request = recycling_service_pb2.RecycleRequest(reason=types_pb2.RECYCLE_REASON_VOLUNTARY, account_id="a")
    request.request_id = request.card_id = str(REQUEST_ID)
    request.device.CopyFrom(types_pb2.Device(device_id=device_id, os="ios", model="m", screen="s", ip="192.0.2.7"))
    told = PARSER.recycle(request).circumstances
    assert not told.names_device and told.profile_hash is not None and told.address_hash is not None
    request.device.device_id = f"{device_id}x"
    assert PARSER.recycle(request).circumstances.names_device
