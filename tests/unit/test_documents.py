"""The documents against the code: tables are complete, both READMEs say the same, and what is named exists."""

import ast
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from card_recycling.v1 import (
    card_service_pb2,
    insights_service_pb2,
    policy_service_pb2,
    recycling_service_pb2,
    review_service_pb2,
    wallet_service_pb2,
)
from fraud_scoring.v1 import fraud_scoring_service_pb2

from clients.python import cli
from server.api.errors import CODES
from server.config import Config

PROJECT = Path(__file__).resolve().parents[2]
READMES = ("README.md", "README.zh-CN.md")
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md"), *PROJECT.glob("fraud_worker/model/*.md")])
SERVICES = (
    recycling_service_pb2,
    card_service_pb2,
    wallet_service_pb2,
    review_service_pb2,
    policy_service_pb2,
    insights_service_pb2,
    fraud_scoring_service_pb2,
)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`]+)`")


def text_of(name: str) -> str:
    return (PROJECT / name).read_text("utf-8")


def prose_of(name: str) -> str:
    """The document without its code blocks."""
    return FENCED.sub("", text_of(name))


def tables_of(name: str) -> list[list[list[str]]]:
    """Every table's rows of cells, its head among them."""
    tables: list[list[list[str]]] = []
    above = ""
    for line in prose_of(name).splitlines():
        if line.startswith("|") and not re.fullmatch(r"[|:\- ]+", line):
            if not above.startswith("|"):
                tables.append([])
            tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        above = line
    return tables


def table_with(name: str, cell: str) -> list[list[str]]:
    """The rows of the table that has a row with `cell`, its head left out."""
    (found,) = [table for table in tables_of(name) if any(cell in row for row in table)]
    return found[1:]


def named(cells: Sequence[str]) -> list[str]:
    """What stands there as code."""
    return [word for cell in cells for word in CODE.findall(cell)]


def rpcs() -> set[str]:
    """Every RPC of the contract."""
    return {
        method.name
        for file in SERVICES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


def test_every_proto_is_looked_at() -> None:
    """No service of the contract is left out of these tests."""
    files = {path.name for path in PROJECT.glob("protos/*/v1/*_service.proto")}
    assert files == {Path(module.DESCRIPTOR.name).name for module in SERVICES}


def test_both_readmes_have_the_same_code() -> None:
    """Commands and answers are the same in both languages, letter by letter."""
    english, chinese = (FENCED.findall(text_of(name)) for name in READMES)
    assert english == chinese


def test_both_readmes_have_the_same_headings() -> None:
    """As many, of the same levels, in the same order."""
    english, chinese = (re.findall(r"^(#+) ", prose_of(name), re.MULTILINE) for name in READMES)
    assert english == chinese


def test_both_readmes_have_the_same_tables() -> None:
    """Row by row they name the same RPCs, fields, files and commands."""
    english, chinese = (
        [[(len(row), sorted(named(row))) for row in table] for table in tables_of(name)] for name in READMES
    )
    assert english == chinese


def test_the_readmes_know_each_other() -> None:
    """Each is one click away from the other."""
    assert "](README.zh-CN.md)" in text_of("README.md")
    assert "](README.md)" in text_of("README.zh-CN.md")


@pytest.mark.parametrize("name", READMES)
def test_readme_tells_every_rpc_and_no_other(name: str) -> None:
    """The table of RPCs is that of the protos."""
    rows = table_with(name, "`QuoteRecycle`")
    assert sorted(word for row in rows for word in named(row[1:2])) == sorted(rpcs())


@pytest.mark.parametrize("name", READMES)
def test_readme_tells_every_setting_with_its_default(name: str) -> None:
    """The table of settings is that of `Config`."""
    rows = {word: row[1] for row in table_with(name, "`DATABASE_URL`") for word in named(row[:1])}
    assert set(rows) == {field.upper() for field in Config.model_fields}
    for field, about in Config.model_fields.items():
        default = about.get_default()
        if isinstance(default, bool):
            default = str(default).lower()
        if isinstance(default, int | float | str) and default != "":
            told = f"{default:g}" if isinstance(default, int | float) else default
            assert rows[field.upper()] == f"`{told}`", field


@pytest.mark.parametrize("name", READMES)
def test_readme_tells_every_reason_with_its_code(name: str) -> None:
    """The table of errors is that of the API."""
    rows = table_with(name, "`DEADLINE_REQUIRED`")
    told = {reason: named(row[1:2])[0] for row in rows for reason in named(row[:1])}
    assert told == {str(reason): code.name for reason, code in CODES.items()}


@pytest.mark.parametrize("name", READMES)
def test_readme_tells_every_target(name: str) -> None:
    """What `make help` lists stands in the README."""
    targets = set(re.findall(r"^([a-z-]+):.*## ", text_of("Makefile"), re.MULTILINE))
    told = {word.split()[1] for row in table_with(name, "`make demo`") for word in named(row[:1])}
    assert told == targets


def commands_of(app: typer.Typer, above: str = "") -> Iterator[str]:
    """Every command as it is typed, with the groups that it belongs to."""
    for command in app.registered_commands:
        assert command.callback is not None
        yield above + (command.name or command.callback.__name__.replace("_", "-"))
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from commands_of(group.typer_instance, f"{above}{group.name} ")


@pytest.mark.parametrize("name", READMES)
def test_readme_tells_every_command(name: str) -> None:
    """What `recycling --help` lists stands in the README."""
    told = {re.sub(r" --.*", "", word) for row in table_with(name, "`model-health`") for word in named(row[:1])}
    assert told == set(commands_of(cli.app))


@pytest.mark.parametrize("name", READMES)
def test_readme_shows_the_shipped_models_answers(name: str) -> None:
    """Answers that name a model name the one that `make run` serves."""
    shipped = json.loads(text_of("fraud_worker/model/manifest.json"))["version"]
    assert set(re.findall(r'"model_version": "(\w+)"', text_of(name))) == {shipped}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_document_names_no_machines_path(path: Path) -> None:
    """What stands there is true wherever the project lies."""
    found = re.findall(r"(?<![\w.$}~])/(?:work|root|home|Users|mnt|tmp)/\S*", path.read_text("utf-8"))
    assert found == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_the_project_lead_somewhere(path: Path) -> None:
    """Each names a file that is there."""
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", FENCED.sub("", path.read_text("utf-8"))):
        assert "://" in target or (path.parent / target).exists(), target


def seed_rows() -> list[list[str]]:
    return table_with("docs/seed.md", "S1")


def test_seed_has_a_row_for_each_part() -> None:
    """S1 to S17, in order, each with a test that shows what there is."""
    assert [row[0] for row in seed_rows()] == [f"S{number}" for number in range(1, 18)]
    assert all(named(row[5:6]) for row in seed_rows())


def test_seed_names_rpcs_that_exist() -> None:
    """Every RPC that it sends a reader to can be called."""
    told = {word for row in seed_rows() for word in named(row[3:4]) if word[0].isupper()}
    assert told <= rpcs()


def test_seed_names_policy_fields_that_exist() -> None:
    """Every field that it names is one of the schema."""
    schema = json.loads(text_of("policies/policy.schema.json"))
    told = {word for row in seed_rows() for word in named(row[4:5])}
    assert told
    assert {field for field in told if not any(resolved(schema, schema, field.split(".")))} == set()


def resolved(schema: dict[str, Any], at: dict[str, Any], path: Sequence[str]) -> Iterator[bool]:
    """True for each way in which `path` leads to a field below `at`."""
    if "$ref" in at:
        target: Any = schema
        for part in at["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        yield from resolved(schema, target, path)
    elif not path:
        yield True
    else:
        for other in (*at.get("oneOf", ()), *([at["items"]] if "items" in at else ())):
            yield from resolved(schema, other, path)
        if path[0] in at.get("properties", {}):
            yield from resolved(schema, at["properties"][path[0]], path[1:])


def test_seed_names_tests_that_exist() -> None:
    """Every test that it sends a reader to can be run."""
    for row in seed_rows():
        for test in named(row[5:6]):
            file, _, function = test.partition("::")
            tree = ast.parse(text_of(f"tests/{file}"))
            functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
            assert function in functions, test
