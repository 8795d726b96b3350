"""One recorded decision as a document: what was asked, read and answered, and the policy that governed it.

Knows what belongs to it; must not know how to decide.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from server.engine.recorded import Receipt, ReceiptInvalid

FORMAT = "card-recycling-decision/1"


class CaseInvalid(ValueError):
    """A document is no recorded decision, or its receipt cannot be read."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded decision with all that replaying it takes. `receipt` is the recorded text, byte by byte; `answer` is
    base64, `input_hash` hexadecimal; `policy` is the document that its revision names, None where there was none."""

    format: str
    account_id: str
    request_id: UUID
    method: str
    create_time: datetime
    input_hash: str
    answer: str
    receipt: str
    policy: Any = None

    @classmethod
    def of_row(cls, row: Mapping[str, Any], policy: str | None) -> Case:
        """The case of a row of `command`, and its policy's document (JSON)."""
        return cls(
            format=FORMAT,
            account_id=row["account_id"],
            request_id=row["request_id"],
            method=row["method"],
            create_time=row["create_time"],
            input_hash=row["input_hash"].hex(),
            answer=base64.b64encode(row["response"]).decode(),
            receipt=row["receipt"],
            policy=None if policy is None else json.loads(policy),
        )

    @classmethod
    def parse(cls, text: bytes) -> Case:
        """The case that `document` made. Raises CaseInvalid."""
        try:
            case = msgspec.json.decode(text, type=cls)
            base64.b64decode(case.answer, validate=True)
        except ValueError as error:
            raise CaseInvalid(str(error)) from error
        if case.format != FORMAT:
            raise CaseInvalid(f"its format is {case.format}, not {FORMAT}")
        return case

    def document(self) -> bytes:
        """JSON, to be kept and replayed anywhere."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def read_receipt(self) -> Receipt:
        """What the decision read. Raises CaseInvalid."""
        try:
            return Receipt.parse(self.receipt)
        except ReceiptInvalid as error:
            raise CaseInvalid(str(error)) from error

    def policy_sha256(self) -> str:
        """Of the policy's document, spelt as `put_policies` spells it; empty where there is none."""
        if self.policy is None:
            return ""
        return hashlib.sha256(json.dumps(self.policy, sort_keys=True).encode()).hexdigest()
