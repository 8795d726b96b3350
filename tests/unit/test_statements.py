"""How sets of rows become a statement's arrays, and that every statement file is well formed."""

import re
from importlib.resources import files

import pytest

from server.store.statements import Statement, statement

NAMES = sorted(file.name.removesuffix(".sql") for file in files("server.store").joinpath("sql").iterdir())


def test_input_becomes_unnested_arrays() -> None:
    """`:card(...)` names its columns and types where it is read."""
    made = Statement("SELECT * FROM :card(card_id uuid, state text) WHERE true")
    assert made.text == "SELECT * FROM unnest($1::uuid[], $2::text[]) AS card (card_id, state) WHERE true"
    assert made.inputs == {"card": ("card_id", "state")}


def test_input_may_have_another_name_in_the_statement() -> None:
    """`AS` gives the rows a shorter name; callers still use the input's."""
    made = Statement("FROM :card(card_id uuid) AS i JOIN x")
    assert made.text == "FROM unnest($1::uuid[]) AS i (card_id) JOIN x"
    assert list(made.inputs) == ["card"]


def test_parameters_are_numbered_through() -> None:
    """A second input goes on counting where the first ended."""
    made = Statement(":a(x integer, y integer) :b(z bigint)")
    assert "$1::integer[], $2::integer[]" in made.text
    assert "$3::bigint[]" in made.text


def test_input_may_span_lines() -> None:
    """A long list of columns is wrapped."""
    made = Statement(":a(x integer,\n     y text)")
    assert made.text == "unnest($1::integer[], $2::text[]) AS a (x, y)"


def test_casts_are_left_alone() -> None:
    """Two colons are a cast and no input."""
    assert Statement("SELECT x::text, y::uuid[]").text == "SELECT x::text, y::uuid[]"


def test_arguments_are_one_array_a_column() -> None:
    """Rows come in any order of keys, and may hold more than the statement wants."""
    made = Statement(":a(x integer, y text) :b(z text)")
    rows: list[dict[str, object]] = [{"y": "one", "x": 1, "more": True}, {"x": 2, "y": None}]
    assert made.arguments(a=rows, b=[{"z": "three"}]) == [[1, 2], ["one", None], ["three"]]


def test_input_left_out_has_no_rows() -> None:
    """A batch without transfers gives empty arrays, one for each column."""
    assert Statement(":a(x integer, y text) :b(z text)").arguments(b=[]) == [[], [], []]


def test_row_must_have_every_column() -> None:
    """A forgotten column is a mistake and not a null."""
    with pytest.raises(KeyError, match="y"):
        Statement(":a(x integer, y text)").arguments(a=[{"x": 1}])


@pytest.mark.parametrize("name", NAMES)
def test_statement_file_says_what_it_does(name: str) -> None:
    """Each file opens with a sentence."""
    source = files("server.store").joinpath("sql", f"{name}.sql").read_text("utf-8")
    assert re.match(r"-- [A-Z][^\n]+", source)


@pytest.mark.parametrize("name", NAMES)
def test_statement_has_no_input_left_over(name: str) -> None:
    """Every input is understood, and parameters are numbered from 1 without a gap."""
    text = re.sub(r"--[^\n]*", "", statement(name).text)
    assert not re.search(r"(?<!:):\w+\s*\(", text)
    numbers = {int(number) for number in re.findall(r"\$(\d+)", text)}
    assert numbers == set(range(1, len(numbers) + 1))


def test_statement_is_read_once() -> None:
    """The same name gives the same statement."""
    assert statement("load") is statement("load")
