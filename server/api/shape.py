"""Whether a message has the shape the schema asks for. Knows protovalidate; must not know any rule itself."""

from __future__ import annotations

import protovalidate
from google.protobuf.message import Message
from protovalidate import FieldPathPb

from server.domain.errors import Reason, Refusal

FIELDS_REPORTED_MAX = 20


def check_shape(message: Message) -> None:
    """Raises Refusal FIELD_INVALID naming the fields at fault."""
    violations = protovalidate.collect_violations(message)
    if violations:
        fields = tuple(
            (_path(violation.proto.field), violation.proto.message) for violation in violations[:FIELDS_REPORTED_MAX]
        )
        raise Refusal(Reason.FIELD_INVALID, "; ".join(f"{field}: {text}" for field, text in fields), fields=fields)


def _path(path: FieldPathPb | None) -> str:
    """E.g. `device.ip`. Repeated messages are checked one by one, so no index is needed."""
    return ".".join(element.field_name or "" for element in path.elements) if path else "(message)"
