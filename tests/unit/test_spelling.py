"""Whatever is written differently and means the same has one spelling, and so one hash."""

import ipaddress

import pytest
from card_recycling.v1 import recycling_service_pb2, review_service_pb2, types_pb2
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from migrations.risk_log import TraceHasher
from migrations.risk_signals import is_hosting
from migrations.spelling import host_address, one_spelling
from server.api.list_service import subject
from server.api.shape import check_shape
from server.domain.errors import Reason, Refusal
from server.domain.lists import SubjectKind

HASHER = TraceHasher(b"a trace key of tests")

GUISES = {
    "case": "Ab-12-STRASSE",
    "space about it": "\t ab-12-strasse\u00a0\r\n",
    "full width": "".join(chr(ord(char) + 0xFEE0) for char in "ab-12-strasse"),
    "folded letter": "ab-12-stra\u00dfe",
    "zero width space": "ab\u200b-12-strasse",
    "zero width joiner at the end": "ab-12-strasse\u200d",
    "byte order mark": "\ufeffab-12-strasse",
    "NUL at the end": "ab-12-strasse\x00",
    "control within": "ab-12\x07-strasse",
    "right-to-left mark": "ab-12-\u200fstrasse",
    "soft hyphen": "ab-12-stra\u00adsse",
    "variation selector": "ab-12\ufe0f-strasse",
    "Hangul filler": "ab-12\u3164-strasse",
    "tag": "ab-12-strasse\U000e0041",
    "private use": "ab-12-strasse\ue000",
}


@pytest.mark.parametrize("guise", GUISES.values(), ids=GUISES)
def test_id_in_another_guise_is_the_same(guise: str) -> None:
    """A device or a payout that was denied is denied however its id is spelt."""
    plain, spelt = (HASHER.traces(device_id=text, ip=None, profile={}) for text in ("ab-12-strasse", guise))
    assert spelt == plain
    assert subject(HASHER, SubjectKind.DEVICE, "ab-12-strasse").key == spelt.device_hash
    assert subject(HASHER, SubjectKind.PAYOUT, guise).key == HASHER.payout("ab-12-strasse")


@pytest.mark.parametrize("other", ["ab-13", "ab12", "\u0430b-12", "a b-12", "ab-12."])
def test_other_id_is_another(other: str) -> None:
    """Spelling is all that is taken from an id: other letters, even alike ones, are another device."""
    assert one_spelling(other) != one_spelling("ab-12")


@pytest.mark.parametrize("nothing", ["", " ", "\u200b\u200d", "\x00", "\u3164\ufe0f", "\u3000"])
def test_id_that_nobody_sees_is_none(nothing: str) -> None:
    """What leaves nothing to see is unknown, not a device that many share."""
    assert HASHER.traces(device_id=nothing, ip=None, profile={}).device_hash is None
    assert HASHER.payout(nothing) is None


@given(st.text(max_size=30))
def test_one_spelling_has_no_other(text: str) -> None:
    """A spelling stays as it is, whatever text it was made of."""
    spelt = one_spelling(text)
    assert one_spelling(spelt) == spelt


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=64))
def test_ordinary_id_keeps_its_meaning(text: str) -> None:
    """Of an id in plain letters nothing but case is dropped: hashes on record stay what they were."""
    assert one_spelling(text) == text.casefold()


@pytest.mark.parametrize("sign", ["\x00", "\n", "\u200b", "\u202e", "\ufeff", "\ue000", "\u00ad"])
@pytest.mark.parametrize(
    ("message", "field"),
    [
        (types_pb2.Device(), "device_id"),
        (review_service_pb2.ListEntriesRequest(subject_kind=types_pb2.SUBJECT_KIND_DEVICE), "subject"),
        *(
            (request, "payout_id")
            for request in (
                recycling_service_pb2.QuoteRecycleRequest(),
                recycling_service_pb2.RecycleRequest(),
                recycling_service_pb2.ReactivateRequest(),
                recycling_service_pb2.CompensateRequest(),
            )
        ),
    ],
    ids=lambda value: value.DESCRIPTOR.name if isinstance(value, Message) else repr(value),
)
def test_sign_that_no_honest_id_has_is_refused(message: Message, field: str, sign: str) -> None:
    """Calls with control, format or private characters in an id are refused, and the field is named."""
    asked = type(message)()
    asked.CopyFrom(message)
    setattr(asked, field, f"ab{sign}12")
    with pytest.raises(Refusal) as refused:
        check_shape(asked)
    assert refused.value.reason is Reason.FIELD_INVALID
    assert field in [named for named, _ in refused.value.fields]


@pytest.mark.parametrize("fair", ["ab-12", "\u00e4\u00e9 7", "\u0434\u043e\u043c", "\u540d\u524d", "{0A1B}", "x=/+"])
def test_visible_id_is_accepted(fair: str) -> None:
    """Letters of any script, digits, signs and blanks make an id."""
    check_shape(types_pb2.Device(device_id=fair))


CARRIERS = [
    "::ffff:203.0.113.7",
    "::FFFF:cb00:7107",
    "::ffff:0:203.0.113.7",
    "::203.0.113.7",
    "64:ff9b::203.0.113.7",
    "2002:cb00:7107::",
    "2002:cb00:7107:1:2:3:4:5",
    "2001:0:4136:e378:8000:63bf:34ff:8ef8",
    "::ffff:203.0.113.7%eth0",
    " 203.0.113.7\n",
]


@pytest.mark.parametrize("carrier", CARRIERS)
def test_ipv4_within_ipv6_is_itself(carrier: str) -> None:
    """An IPv4 address that was denied is denied however it comes, as are its /24 and hosts that rent it out."""
    plain, carried = (HASHER.traces(device_id=None, ip=ip, profile={}) for ip in ("203.0.113.7", carrier))
    assert host_address(carrier) == ipaddress.ip_address("203.0.113.7")
    assert carried == plain
    assert subject(HASHER, SubjectKind.ADDRESS, carrier).key == plain.address_hash
    assert is_hosting(carrier) == is_hosting("203.0.113.7")


@pytest.mark.parametrize("ip", ["::", "::1", "2001:db8::203.0.113.7", "fe80::1", "2003:cb00:7107::", "64:ff9b:1::1"])
def test_other_ipv6_stays_ipv6(ip: str) -> None:
    """An address whose last bits could be read as IPv4, and which is none, is left as it is."""
    assert host_address(ip) == ipaddress.ip_address(ip)


@pytest.mark.parametrize(
    "ip", ["", "203.0.113.007", "0xcb007107", "3405803783", "203.0.113", "example.com", "1.2.3.4/32"]
)
def test_doubtful_address_names_nobody(ip: str) -> None:
    """What systems read in different ways is no address."""
    assert host_address(ip) is None


@pytest.mark.parametrize("zoned", ["fe80::1%eth0", "fe80::1%1", "fe80::2"])
def test_zone_is_no_part_of_an_entry(zoned: str) -> None:
    """An entry about an address holds in any zone, and for the whole /64."""
    assert subject(HASHER, SubjectKind.ADDRESS, zoned) == subject(HASHER, SubjectKind.ADDRESS, "fe80::1")


def test_64_is_what_one_address_of_it_is() -> None:
    """An entry about a /64, in full or by any address in it, meets every host in it, and none outside."""
    entry = subject(HASHER, SubjectKind.ADDRESS, "2001:db8:1:2::/64")
    assert entry == subject(HASHER, SubjectKind.ADDRESS, "2001:db8:1:2:aaaa::9")
    for ip, same in (("2001:db8:1:2:ffff:ffff:ffff:ffff", True), ("2001:db8:1:3::", False)):
        assert (HASHER.traces(device_id=None, ip=ip, profile={}).address_hash == entry.key) is same


@pytest.mark.parametrize("text", ["2002:cb00:7107::/48", "64:ff9b::/64", "2001::/48", "::ffff:203.0.113.0/120"])
def test_range_that_carries_ipv4_is_refused(text: str) -> None:
    """No request leaves the hash of such a range, so an entry about it could never hold."""
    with pytest.raises(Refusal):
        subject(HASHER, SubjectKind.ADDRESS, text)
