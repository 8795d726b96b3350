"""Policy files and stored policy documents to the domain's Policy. Knows the schema; holds no rule of any platform."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import asyncpg
import jsonschema
import msgspec
from jsonschema.exceptions import best_match

from server.domain.policy import Policy
from server.domain.pump import find_pump
from server.domain.revision import lingers
from server.store.statements import statement


class PolicyInvalid(ValueError):
    """A policy document breaks its schema, or its parts do not go together."""


def parse_policy(document: str) -> Policy:
    """The policy of a JSON document. Raises PolicyInvalid saying what is wrong and where."""
    try:
        body = json.loads(document, parse_constant=_no_constant, object_pairs_hook=_no_repeats)
        if (wrong := best_match(_validator().iter_errors(body))) is not None:
            raise wrong
        if body["risk"]["without_score"] == "REFUSE":  # its former name, in revisions that stand for ever
            body["risk"]["without_score"] = "REJECT"
        return msgspec.convert(body, Policy)
    except jsonschema.ValidationError as error:
        raise PolicyInvalid(f"{error.json_path}: {error.message}") from error
    except RecursionError as error:
        raise PolicyInvalid("nested too deeply") from error
    except ValueError as error:
        raise PolicyInvalid(str(error)) from error


def read_document(document: str) -> tuple[str, str]:
    """The platform of a JSON document, and the text that is kept of it. Raises PolicyInvalid."""
    return parse_policy(document).platform, json.dumps(json.loads(document), sort_keys=True)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    body = dict(pairs)
    if len(body) < len(pairs):
        raise ValueError(f"a key comes twice among {', '.join(key for key, _ in pairs)}")
    return body


@cache
def _validator() -> Any:
    """Made once: to check the schema itself takes far longer than to check a document by it."""
    schema = json.loads(files("policies").joinpath("policy.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def _documents(folder: Path) -> list[tuple[str, str]]:
    documents: list[tuple[str, str]] = []
    for file in sorted(folder.glob("*.json")):
        if file.name == "policy.schema.json":
            continue
        try:
            documents.append(read_document(file.read_text("utf-8")))
        except ValueError as error:
            raise PolicyInvalid(f"{file.name}: {error}") from error
    if not documents:
        raise PolicyInvalid(f"{folder} holds no policy (*.json)")
    return documents


async def put_policies(url: str, folder: Path) -> dict[str, int]:
    """Makes every *.json policy of `folder` its platform's newest revision, in force at once, unless it is already (a
    draft is activated; one that was superseded stays so); returns the revision of each platform. Raises PolicyInvalid
    before anything is written, also when they, with what else governs or is planned to, would be a money pump."""
    documents = _documents(folder)
    connection = await asyncpg.connect(url, server_settings={"role": "recycling_server"})
    try:
        async with connection.transaction():
            await connection.execute(statement("policy_set_claim").text)
            await _refuse_pumps(connection, documents)
            return {
                platform: await connection.fetchval(statement("policy_put").text, platform, document, _sha256(document))
                for platform, document in documents
            }
    finally:
        await connection.close()


async def _refuse_pumps(connection: asyncpg.Connection[asyncpg.Record], documents: list[tuple[str, str]]) -> None:
    """As the activation of one revision is checked, with all others that count."""
    governing: list[Policy] = [parse_policy(document) for _, document in documents]
    lingering: list[Policy] = []
    former: list[Policy] = []
    replaced = {platform for platform, document in documents if await _would_govern(connection, platform, document)}
    now = await connection.fetchval("SELECT service_clock()")
    for row in await connection.fetch(statement("policies_live").text):
        if row["platform"] is None:
            continue
        text = await connection.fetchval(statement("policy").text, row["platform"], row["revision"])
        policy = parse_policy(text)
        if row["planned"] or (row["superseded"] is None and policy.platform not in replaced):
            governing.append(policy)
            continue
        former.append(policy)
        if lingers(policy, row["superseded"] or now, now):
            lingering.append(policy)
    if (pump := find_pump(governing, lingering, former)) is not None:
        raise PolicyInvalid(f"there would be a way to gain: {pump}")


async def _would_govern(connection: asyncpg.Connection[asyncpg.Record], platform: str, document: str) -> bool:
    """Whether putting `document` puts it in the place of what governs."""
    newest = await connection.fetchrow(statement("policy_revision").text, platform, None)
    return newest is None or newest["document_sha256"] != _sha256(document) or newest["state"] == "DRAFT"


def _sha256(document: str) -> bytes:
    return hashlib.sha256(document.encode()).digest()
