"""Decides a recorded decision again, and says where the outcome differs from what was recorded. Pure.

Knows how a recorded command is asked again; must not know where cases come from. Nothing but the case is read: no
database, no clock, no key. A quote's token is taken at its word, since only the key's holder can check it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec
from card_recycling.v1 import (
    card_service_pb2,
    recycling_service_pb2,
    review_service_pb2,
    types_pb2,
    wallet_service_pb2,
)
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from server.api.messages import MessageRenderer
from server.domain.card import VoidReason
from server.domain.commands import (
    Activate,
    BindDevice,
    Circumstances,
    CloseWindow,
    Command,
    Compensate,
    Exchange,
    Expire,
    ExpireCoupon,
    Grant,
    IssueItem,
    Lapse,
    Reactivate,
    Redeem,
    Resolve,
    Void,
)
from server.domain.decision import check, decide
from server.domain.errors import Refusal
from server.domain.policy import Policy
from server.domain.quote import RedeemedQuotes
from server.domain.recycling import Unit
from server.domain.review import ReviewVerdict
from server.domain.snapshot import Change
from server.engine.issue import check_item, issued_card
from server.engine.ports import LoadedItem
from server.engine.receipt import effects, seal_of, verdict
from server.engine.recorded import Receipt, given_id, given_text, recycle_of, snapshot_of
from server.replay.case import Case, CaseInvalid
from server.store.policy_document import PolicyInvalid, parse_policy

ANSWERS: dict[str, type[Message]] = {
    "Recycle": recycling_service_pb2.RecycleResponse,
    "Reactivate": recycling_service_pb2.ReactivateResponse,
    "Compensate": recycling_service_pb2.CompensateResponse,
    "ActivateCard": card_service_pb2.ActivateCardResponse,
    "BindDevice": card_service_pb2.BindDeviceResponse,
    "VoidCard": card_service_pb2.VoidCardResponse,
    "ExpireCard": card_service_pb2.GetCardResponse,
    "CloseWindow": card_service_pb2.GetCardResponse,
    "ExpireCoupon": wallet_service_pb2.GetWalletResponse,
    "Redeem": wallet_service_pb2.RedeemResponse,
    "Exchange": wallet_service_pb2.ExchangeResponse,
    "ResolveReview": review_service_pb2.ResolveReviewResponse,
    "LapseHold": review_service_pb2.ResolveReviewResponse,
    "IssueCards": types_pb2.Card,
}
"""What each method's recorded bytes are."""

NOBODY = UUID(int=0)
"""Stands for the id of what a decision did not make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a decision: as it was recorded, and as it comes out now; None where it is not there."""

    name: str
    recorded: Any
    recomputed: Any

    @property
    def same(self) -> bool:
        """Whether both are alike."""
        return bool(self.recorded == self.recomputed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """How one decision fared. `lacks`: what its receipt, an older one, does not hold; what needs that was not compared,
    or was taken from the answer."""

    case: Case
    fields: tuple[Field, ...]
    lacks: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether the decision came out as it was recorded."""
        return all(field.same for field in self.fields)


def replay(case: Case) -> Replay:
    """Decides `case` again. Raises CaseInvalid where its receipt cannot be read, or its method is not known."""
    receipt = case.read_receipt()
    if case.method not in ANSWERS:
        raise CaseInvalid(f"nobody knows how to replay {case.method}")
    fields = list(_identity(case, receipt))
    recorded = _recorded_answer(case)
    try:
        told, recomputed = _issued(case, receipt) if case.method == "IssueCards" else _decided(case, receipt, recorded)
    except (Refusal, PolicyInvalid, AssertionError, KeyError, IndexError, ValueError) as error:
        fields.append(Field(name="outcome", recorded="decided", recomputed=f"{type(error).__name__}: {error}"))
        return Replay(case=case, fields=tuple(fields), lacks=receipt.lacks())
    fields += _parts("answer", _flat(recorded), _flat(ANSWERS[case.method].FromString(recomputed)))
    # Unknown fields, or another order of them: no field shows these.
    if case.answer != base64.b64encode(recomputed).decode() and all(field.same for field in fields):
        fields.append(Field(name="answer", recorded=case.answer, recomputed=base64.b64encode(recomputed).decode()))
    if told is not None:
        fields.append(_moment(case, told.now))
        fields += _parts("verdict", receipt.verdict, verdict(told))
        if receipt.effects is not msgspec.UNSET:
            fields += _parts("effects", receipt.effects, effects(told))
    return Replay(case=case, fields=tuple(fields), lacks=receipt.lacks())


def _identity(case: Case, receipt: Receipt) -> list[Field]:
    """That receipt, policy and record belong together and are whole."""
    seal, right_seal = seal_of(case.receipt)
    fields = [
        Field(name="method", recorded=case.method, recomputed=receipt.method),
    ]
    if receipt.card is not None:
        fields.append(Field(name="account_id", recorded=case.account_id, recomputed=receipt.card.account_id))
    if case.method == "IssueCards":
        fields.append(_moment(case, receipt.now))
    if receipt.request_id is not None:
        fields.append(Field(name="request_id", recorded=str(case.request_id), recomputed=str(receipt.request_id)))
    if seal is not None:
        fields.append(Field(name="receipt's SHA-256", recorded=seal, recomputed=right_seal))
    if receipt.policy_sha256 is not msgspec.UNSET:
        fields.append(Field(name="policy's SHA-256", recorded=receipt.policy_sha256, recomputed=case.policy_sha256()))
    return fields


def _moment(case: Case, now: datetime) -> Field:
    """When it took effect: what time does as of its own moment, all else as of when it was read."""
    return Field(name="now", recorded=case.create_time.isoformat(), recomputed=now.isoformat())


def _recorded_answer(case: Case) -> Message:
    try:
        return ANSWERS[case.method].FromString(base64.b64decode(case.answer))
    except (DecodeError, ValueError) as error:
        raise CaseInvalid(f"its answer cannot be read: {error}") from error


# Commands


def _decided(case: Case, receipt: Receipt, recorded: Message) -> tuple[Change, bytes]:
    command, snapshot = command_of(case, receipt), snapshot_of(case.account_id, receipt, _policy(case))
    if command.input_hash().hex() != case.input_hash:
        raise CaseInvalid("what was asked, as its receipt tells it, has another hash than what was asked")
    quotes = RedeemedQuotes()
    check(command, snapshot, quotes)
    told = receipt.effects
    if told is msgspec.UNSET:  # the ids of new things are in no older receipt; the answer names them
        recycling, redemption = getattr(recorded, "recycling", None), getattr(recorded, "redemption", None)
        told_id = (recycling and recycling.recycling_id) or (redemption and redemption.redemption_id)
        recycling_id, review_id = UUID(told_id) if told_id else NOBODY, NOBODY
    else:
        new_id = told.get("redemption_id") or told.get("recycling", {}).get("recycling_id", NOBODY.hex)
        recycling_id = UUID(new_id)
        review_id = UUID(next(iter(told.get("opened", ())), NOBODY.hex))
    change = decide(command, snapshot, receipt.score, recycling_id=recycling_id, review_id=review_id, signer=quotes)
    return change, MessageRenderer().answer(command, change)


def command_of(case: Case, receipt: Receipt) -> Command:
    """What was asked. Raises KeyError for a method that has no command."""
    return _COMMANDS[case.method](case, receipt, receipt.input)


_Input = tuple[str | None, ...]


def _compensate(case: Case, receipt: Receipt, asked: _Input) -> Compensate | Grant:
    """A settlement, or where more was asked a grant of goodwill."""
    recycling_id = given_id(asked[1])
    if len(asked) == 2:
        return Compensate(request_id=case.request_id, account_id=case.account_id, recycling_id=recycling_id)
    return Grant(
        request_id=case.request_id,
        account_id=case.account_id,
        recycling_id=recycling_id,
        unit=Unit(given_text(asked[2])),
        amount=int(given_text(asked[3])),
        note=given_text(asked[4]),
    )


def _exchange(case: Case, receipt: Receipt, asked: _Input) -> Exchange:
    platform, unit, amount, to_platform, to_unit, min_amount = map(given_text, asked)
    return Exchange(
        request_id=case.request_id,
        account_id=case.account_id,
        platform=platform,
        unit=Unit(unit),
        amount=int(amount),
        to_platform=to_platform,
        to_unit=Unit(to_unit),
        min_amount=int(min_amount),
    )


def _resolve(case: Case, receipt: Receipt, asked: _Input) -> Resolve:
    return Resolve(
        request_id=case.request_id,
        account_id=case.account_id,
        recycling_id=_recycling_id(receipt),
        review_id=given_id(asked[0]),
        verdict=ReviewVerdict(given_text(asked[1])),
        reviewer=given_text(asked[2]),
        note=given_text(asked[3]),
        etag=given_text(asked[4]),
    )


def _recycling_id(receipt: Receipt) -> UUID | None:
    return receipt.recycling.recycling_id if receipt.recycling is not None else None


_COMMANDS: Mapping[str, Callable[[Case, Receipt, _Input], Command]] = {
    "Recycle": lambda case, receipt, _: recycle_of(case.account_id, receipt, case.request_id),
    "Reactivate": lambda case, _, asked: Reactivate(
        request_id=case.request_id, account_id=case.account_id, recycling_id=given_id(asked[1])
    ),
    "Compensate": _compensate,
    "Redeem": lambda case, _, asked: Redeem(
        request_id=case.request_id,
        account_id=case.account_id,
        platform=given_text(asked[0]),
        offer_id=given_text(asked[1]),
    ),
    "Exchange": _exchange,
    "ActivateCard": lambda case, _, asked: Activate(
        request_id=case.request_id, account_id=case.account_id, card_id=given_id(asked[0]), etag=given_text(asked[1])
    ),
    "BindDevice": lambda case, _, asked: BindDevice(
        request_id=case.request_id,
        account_id=case.account_id,
        card_id=given_id(asked[0]),
        etag=given_text(asked[2]),
        circumstances=Circumstances(device_hash=bytes.fromhex(given_text(asked[1]))),
    ),
    "ExpireCard": lambda case, _, asked: Expire(
        request_id=case.request_id, account_id=case.account_id, card_id=given_id(asked[0])
    ),
    "CloseWindow": lambda case, _, asked: CloseWindow(
        request_id=case.request_id, account_id=case.account_id, card_id=given_id(asked[0])
    ),
    # It may have been settled after its expiry; only the record tells.
    "ExpireCoupon": lambda case, receipt, asked: ExpireCoupon(
        request_id=case.request_id,
        account_id=case.account_id,
        recycling_id=None if receipt.redemption is not None else given_id(asked[1]),
        redemption_id=None if receipt.redemption is None else given_id(asked[1]),
        expired_since=case.create_time,
    ),
    "VoidCard": lambda case, _, asked: Void(
        request_id=case.request_id,
        account_id=case.account_id,
        card_id=given_id(asked[0]),
        reason=VoidReason(given_text(asked[1])),
        etag=given_text(asked[2]),
    ),
    "ResolveReview": _resolve,
    "LapseHold": lambda case, receipt, asked: Lapse(
        request_id=case.request_id,
        account_id=case.account_id,
        recycling_id=_recycling_id(receipt),
        review_id=given_id(asked[0]),
    ),
}
"""How the recorded input of each method, in the order of its `business_input`, becomes the command again."""


def _policy(case: Case) -> Policy | None:
    return None if case.policy is None else _parsed(msgspec.json.encode(case.policy).decode())


@lru_cache(maxsize=100)
def _parsed(document: str) -> Policy:
    """Many decisions go by few policies, and checking a document against its schema takes milliseconds."""
    return parse_policy(document)


# Issuing


def _issued(case: Case, receipt: Receipt) -> tuple[None, bytes]:
    card = receipt.card
    if card is None:
        raise CaseInvalid("its receipt lacks the card")
    asked = receipt.asked_segment if receipt.policy_sha256 is not msgspec.UNSET else card.segment
    item = IssueItem(
        request_id=case.request_id,
        account_id=case.account_id,
        platform=card.platform,
        tier=card.tier,
        segment=asked,
        face_value_minor=card.face_value_minor,
        paid_minor=card.paid_minor,
        currency=card.currency,
        duration_days=card.duration_days,
        external_serial=card.external_serial,
        activate_by_time=card.activate_by_time,
    )
    if receipt.policy_sha256 is not msgspec.UNSET:
        if item.input_hash().hex() != case.input_hash:
            raise CaseInvalid("what was asked, as its receipt tells it, has another hash than what was asked")
        read = LoadedItem(
            answered=None, now=receipt.now, segment=card.segment, serial_taken=False, policy=_policy(case)
        )
        check_item(item, read)
    again = issued_card(item, item.segment or card.segment, receipt.now, card.card_id)
    return None, MessageRenderer().card(again, receipt.now)


# Comparing


def _flat(message: Message) -> dict[str, Any]:
    flat: dict[str, Any] = {}

    def spread(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                spread(f"{prefix}.{key}" if prefix else key, part)
        else:
            flat[prefix] = value

    spread("", json_format.MessageToDict(message, preserving_proto_field_name=True))
    return flat


def _parts(name: str, recorded: Mapping[str, Any] | None, recomputed: Mapping[str, Any] | None) -> list[Field]:
    """A field for each part, recorded or recomputed, in plain JSON."""
    old, new = (msgspec.json.decode(msgspec.json.encode(part or {})) for part in (recorded, recomputed))
    return [Field(name=f"{name}.{part}", recorded=old.get(part), recomputed=new.get(part)) for part in {**old, **new}]
