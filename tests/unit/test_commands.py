"""What makes two requests the same: the method and the business fields, and nothing of the circumstances."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import combinations
from uuid import UUID

import pytest

from server.domain.card import VoidReason
from server.domain.commands import (
    Activate,
    Circumstances,
    Command,
    Compensate,
    IssueItem,
    Reactivate,
    Recycle,
    Void,
)
from server.domain.recycling import RecycleReason, Unit
from tests.builders import ACCOUNT_ID, CARD_ID, RECYCLING_ID, REQUEST_ID

OTHER_ID = UUID(int=9)

RECYCLE = Recycle(request_id=REQUEST_ID, account_id=ACCOUNT_ID, card_id=CARD_ID, reason=RecycleReason.VOLUNTARY)
REACTIVATE = Reactivate(request_id=REQUEST_ID, account_id=ACCOUNT_ID, recycling_id=RECYCLING_ID)
COMPENSATE = Compensate(request_id=REQUEST_ID, account_id=ACCOUNT_ID, recycling_id=RECYCLING_ID)
ACTIVATE = Activate(request_id=REQUEST_ID, account_id=ACCOUNT_ID, card_id=CARD_ID)
VOID = Void(request_id=REQUEST_ID, account_id=ACCOUNT_ID, card_id=CARD_ID, reason=VoidReason.REFUNDED)
COMMANDS: tuple[Command, ...] = (RECYCLE, REACTIVATE, COMPENSATE, ACTIVATE, VOID)

ITEM = IssueItem(
    request_id=REQUEST_ID,
    account_id=ACCOUNT_ID,
    platform="iqiyi",
    tier="BASIC",
    segment="YOUNG",
    face_value_minor=2_000,
    paid_minor=1_000,
    currency="CNY",
    duration_days=30,
    external_serial="serial-1",
    activate_by_time=datetime(2031, 1, 1, tzinfo=UTC),
)


@pytest.mark.parametrize(
    ("command", "changed"),
    [
        (RECYCLE, replace(RECYCLE, card_id=OTHER_ID)),
        (RECYCLE, replace(RECYCLE, reason=RecycleReason.EXPIRED)),
        (RECYCLE, replace(RECYCLE, unit=Unit.COIN)),
        (RECYCLE, replace(RECYCLE, quote_token="1.x")),
        (REACTIVATE, replace(REACTIVATE, recycling_id=OTHER_ID)),
        (COMPENSATE, replace(COMPENSATE, recycling_id=OTHER_ID)),
        (ACTIVATE, replace(ACTIVATE, card_id=OTHER_ID)),
        (ACTIVATE, replace(ACTIVATE, etag="v1")),
        (VOID, replace(VOID, card_id=OTHER_ID)),
        (VOID, replace(VOID, reason=VoidReason.CHARGEBACK)),
        (VOID, replace(VOID, etag="v1")),
    ],
)
def test_business_fields_are_input(command: Command, changed: Command) -> None:
    """A request id with another card, reason, unit, quote or etag is another request."""
    assert command.input_hash() != changed.input_hash()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.method)
def test_circumstances_are_no_input(command: Command) -> None:
    """An honest retry may come from elsewhere, later and only to validate."""
    elsewhere = Circumstances(device_hash=b"d" * 16, address_hash=b"a" * 16, signals={"session_seconds": 12.5})
    assert replace(command, circumstances=elsewhere).input_hash() == command.input_hash()
    assert replace(command, dry_run=True).input_hash() == command.input_hash()
    assert replace(command, request_id=OTHER_ID).input_hash() == command.input_hash()


def test_method_is_input() -> None:
    """The same target under another method is another request."""
    assert len({command.input_hash() for command in COMMANDS}) == len(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.method)
def test_input_hash_is_stable(command: Command) -> None:
    """An equal command has an equal hash of 32 bytes."""
    assert replace(command).input_hash() == command.input_hash()
    assert len(command.input_hash()) == 32


def test_input_hash_outlives_releases() -> None:
    """Hashes are stored: what was hashed yesterday must hash the same tomorrow."""
    assert RECYCLE.input_hash().hex() == "f4ae12683ea47249bd3d2a4723a7a40da7733d34eddc180e3601264e47fa4aa4"
    assert ITEM.input_hash().hex() == "488c9e90d6e8ba0aac8ebb872b78b283180fa12a7c652edffdd7f8f8f104b1c2"


def test_every_field_of_an_item_is_input() -> None:
    """Two items that differ in any one field are different, down to a serial that reads like no serial."""
    items = [
        ITEM,
        replace(ITEM, platform="tencent"),
        replace(ITEM, tier="PREMIUM"),
        replace(ITEM, segment=None),
        replace(ITEM, face_value_minor=2_001),
        replace(ITEM, paid_minor=1_001),
        replace(ITEM, currency="EUR"),
        replace(ITEM, duration_days=31),
        replace(ITEM, external_serial=None),
        replace(ITEM, external_serial="None"),
        replace(ITEM, activate_by_time=None),
    ]
    assert all(one.input_hash() != other.input_hash() for one, other in combinations(items, 2))


def test_shared_keys_are_the_known_traces() -> None:
    """Only what is known can be had in common."""
    assert Circumstances().shared_keys() == ()
    assert Circumstances(device_hash=b"d", profile_hash=b"p").shared_keys() == (b"d", b"p")
