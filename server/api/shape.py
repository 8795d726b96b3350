"""Whether a message has the shape the schema asks for. Knows protovalidate; must not know any rule itself."""

from __future__ import annotations

import protovalidate
from google.protobuf.message import Message
from protovalidate import ViolationPb

from server.domain.errors import Reason, Refusal


def check_shape(message: Message) -> None:
    """Raises Refusal FIELD_INVALID naming the fields at fault."""
    violations = protovalidate.collect_violations(message)
    if violations:
        fields = tuple((_field(violation.proto), violation.proto.message) for violation in violations)
        raise Refusal(Reason.FIELD_INVALID, "; ".join(f"{field}: {text}" for field, text in fields), fields=fields)


def _field(violation: ViolationPb) -> str:
    """E.g. `device.ip`. A rule over several fields is named by the one at fault: `issue_cards.paid_minor`. Repeated
    messages are checked one by one, so no index is needed."""
    if violation.field and violation.field.elements:
        return ".".join(element.field_name or "" for element in violation.field.elements)
    return violation.rule_id.rpartition(".")[2]
