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
from server.domain.revision import ACTIVATION_LEAD, lingers
from server.store.statements import statement


class PolicyInvalid(ValueError):
    """A policy document breaks its schema, or its parts do not go together."""


class PoliciesChanged(Exception):
    """Others changed the policies meanwhile, time and again."""


INTEGER_DIGITS_MAX = 30
PUT_ATTEMPTS_MAX = 5
"""So often policies are put again because others changed what they had been checked with."""


def parse_policy(document: str) -> Policy:
    """The policy of a JSON document. Raises PolicyInvalid saying what is wrong and where."""
    try:
        body = json.loads(document, parse_int=_integer, parse_constant=_no_constant, object_pairs_hook=_no_repeats)
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


def _integer(digits: str) -> int:
    """Python's own limit would speak of Python."""
    if len(digits) > INTEGER_DIGITS_MAX:
        raise ValueError(f"a number of more than {INTEGER_DIGITS_MAX} digits")
    return int(digits)


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


async def put_policies(url: str, folder: Path, *, if_missing: bool = False) -> dict[str, int]:
    """Makes every *.json policy of `folder` its platform's newest revision, and lets it govern from ACTIVATION_LEAD on
    (a platform's first: for all time), unless it is the newest already (a draft is activated; one that was superseded
    stays so); returns the revision of each platform. All of them come to govern, or none. `if_missing`: only of
    platforms that have none that ever governed or is to, so that nothing that was activated since is undone.

    Raises PolicyInvalid before anything is written, also when they, with what else governs or is planned to, would be a
    money pump; PoliciesChanged when others kept changing the policies.
    """
    documents = _documents(folder)
    connection = await asyncpg.connect(url, server_settings={"role": "recycling_server"})
    try:
        for _ in range(PUT_ATTEMPTS_MAX):
            if (put := await _put(connection, documents, if_missing=if_missing)) is not None:
                return put
    finally:
        await connection.close()
    raise PoliciesChanged("others keep changing the policies; try again")


async def _put(
    connection: asyncpg.Connection[asyncpg.Record], documents: list[tuple[str, str]], *, if_missing: bool
) -> dict[str, int] | None:
    """One try, without a transaction of its own: drafts govern nothing, and one statement activates all of them, unless
    the policies have changed since they were checked. None when they have."""
    live = await connection.fetch(statement("policies_live").text)
    governed = {row["platform"] for row in live}
    if if_missing:
        documents = [(platform, document) for platform, document in documents if platform not in governed]
    await _refuse_pumps(connection, documents, live)
    revisions: dict[str, int] = {}
    for platform, document in documents:
        revision = await connection.fetchval(
            statement("policy_add").text, platform, document, _sha256(document), "", None, None
        )
        if revision is None:
            return None
        revisions[platform] = revision
    drafts = []
    for platform, revision in revisions.items():
        (made,) = await connection.fetch(statement("policy_revision").text, platform, revision)
        if made["state"] == "DRAFT":
            drafts.append(platform)
    if not drafts:
        return revisions
    moment = await connection.fetchval(statement("now").text) + ACTIVATION_LEAD
    activated = await connection.fetch(
        statement("policy_activate").text,
        drafts,
        [revisions[platform] for platform in drafts],
        [moment if platform in governed else None for platform in drafts],
        live[0]["version"],
        None,
        None,
    )
    return revisions if activated else None


async def _refuse_pumps(
    connection: asyncpg.Connection[asyncpg.Record], documents: list[tuple[str, str]], live: list[asyncpg.Record]
) -> None:
    """As the activation of one revision is checked, with all others that count. They take over at one moment, so what
    they replace counts only by what it leaves behind."""
    governing: list[Policy] = [parse_policy(document) for _, document in documents]
    lingering: list[Policy] = []
    former: list[Policy] = []
    replaced = {platform for platform, document in documents if await _would_govern(connection, platform, document)}
    now = await connection.fetchval(statement("now").text)
    for row in live:
        if row["platform"] is None:
            continue
        policy = parse_policy(await connection.fetchval(statement("policy").text, row["platform"], row["revision"]))
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
