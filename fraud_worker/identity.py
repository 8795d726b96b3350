"""A model's version: a name that changes with anything that the model's manifest says.

Knows how a manifest is written and hashed; must not know what its fields mean. The manifest holds the SHA-256 of the
trees, so that its own hash stands for trees, calibration, thresholds and the rest alike: two models that decide
differently never share a version, and who edits one under its old version is found out when it is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

VERSION_DIGITS: Final = 12

_NOT_COVERED: Final = ("version", "train_time")
"""The version itself; and when it was trained, which decides nothing: training the same anew gives the same version."""


def version_of(manifest: Mapping[str, Any]) -> str:
    """The version of what `manifest`, as JSON holds it, says: the first 12 hex digits of a SHA-256.

    Of JSON without spaces, keys in order, floats as short as they can be.
    """
    covered = {name: value for name, value in manifest.items() if name not in _NOT_COVERED}
    canonical = json.dumps(covered, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:VERSION_DIGITS]


def sealed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same manifest with the version that follows from it."""
    # As it will be read again: a tuple is a list, and a float that is whole stays a float.
    read = msgspec.json.decode(msgspec.json.encode(fields))
    return {"version": version_of(read)} | {name: value for name, value in read.items() if name != "version"}


def written(manifest: Mapping[str, Any]) -> bytes:
    """JSON with one line a field, and one a feature's bins: a diff of it can be read."""
    fields = dict(manifest)
    bins = fields.pop("feature_bins", None)
    lines = [f"  {_json(name)}: {_json(value)}" for name, value in fields.items()]
    if bins is not None:
        inner = ",\n".join(f"    {_json(name)}: {_json(value)}" for name, value in bins.items())
        lines.append(f'  "feature_bins": {{\n{inner}\n  }}')
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()
