"""Policy documents: what the schema or the whole forbids is named; a new platform is a file and no code."""

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from server.domain.card import DAY
from server.domain.policy import Policy
from server.domain.recycling import Disposition, RecycleReason, Unit
from server.store.policy_document import PolicyInvalid, parse_policy, put_policies
from tests.builders import PLATFORMS, Account, active, document, issued

Edit = Callable[[dict[str, Any]], Any]


def edited(platform: str, edit: Edit) -> str:
    """A shipped policy's text after `edit`."""
    body = document(platform)
    edit(body)
    return json.dumps(body)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_shipped_policy_is_sound(platform: str) -> None:
    """The files that are shipped parse, and are named after their platform."""
    assert parse_policy(json.dumps(document(platform))).platform == platform


def test_schema_is_a_schema() -> None:
    """policy.schema.json is itself valid JSON Schema 2020-12."""
    jsonschema.Draft202012Validator.check_schema(
        json.loads(files("policies").joinpath("policy.schema.json").read_text("utf-8"))
    )


def test_schema_describes_every_field_of_a_policy() -> None:
    """Document and domain have the same fields by the same names."""
    schema = json.loads(files("policies").joinpath("policy.schema.json").read_text("utf-8"))
    assert set(schema["properties"]) - {"$schema"} == set(Policy.__dataclass_fields__)


@pytest.mark.parametrize("title", ["\ud800", "a\x00b", "\x1b[31m", "line\nbreak", "end\n"])
def test_texts_that_cannot_be_kept_or_printed_are_invalid(title: str) -> None:
    """The database takes no NUL and no half of a surrogate pair, and a title is one line."""
    offer = {
        "offer_id": "a", "partner": "shop", "title": title, "unit": "COIN", "price": 100,
        "benefit": {"kind": "PARTNER", "value_minor": 100},
    }  # fmt: skip
    with pytest.raises(PolicyInvalid, match="title"):
        parse_policy(json.dumps(document("iqiyi") | {"offers": [offer]}))


@pytest.mark.parametrize("text", ["", "{", "nonsense", "[]", "null", "1", '"iqiyi"'])
def test_text_that_is_no_policy_is_invalid(text: str) -> None:
    """What is not a JSON object never becomes a policy."""
    with pytest.raises(PolicyInvalid):
        parse_policy(text)


@pytest.mark.parametrize(
    "field",
    [
        "platform",
        "currency",
        "trigger",
        "fee_basis_points",
        "compensation",
        "dispositions",
        "reactivation",
        "settle_after_days",
        "risk",
    ],
)
def test_missing_field_is_named(field: str) -> None:
    """A policy says everything; silence is no default."""
    with pytest.raises(PolicyInvalid, match=f"'{field}' is a required property"):
        parse_policy(edited("iqiyi", lambda body: body.pop(field)))


@pytest.mark.parametrize(
    ("place", "edit"),
    [
        (r"\$: .*'fees'", lambda body: body.update(fees=1)),
        (r"\$\.platform", lambda body: body.update(platform="Iqiyi")),
        (r"\$\.platform", lambda body: body.update(platform="")),
        (r"\$\.currency", lambda body: body.update(currency="cny")),
        (r"\$\.fee_basis_points", lambda body: body.update(fee_basis_points=-1)),
        (r"\$\.fee_basis_points", lambda body: body.update(fee_basis_points=10_001)),
        (r"\$\.fee_basis_points", lambda body: body.update(fee_basis_points=10.5)),
        (r"\$\.fee_basis_points", lambda body: body.update(fee_basis_points="10")),
        (r"\$\.settle_after_days", lambda body: body.update(settle_after_days=True)),
        (r"\$\.trigger\.reasons", lambda body: body["trigger"].update(reasons=[])),
        (r"\$\.trigger\.reasons\[0\]", lambda body: body["trigger"].update(reasons=["BOREDOM"])),
        (r"\$\.trigger\.reasons", lambda body: body["trigger"].update(reasons=["EXPIRED", "EXPIRED"])),
        (r"\$\.trigger\.card_states\[0\]", lambda body: body["trigger"].update(card_states=["VOID"])),
        (r"\$\.trigger\.card_states\[0\]", lambda body: body["trigger"].update(card_states=["RECYCLED"])),
        (r"\$\.trigger\.wait_after_expiry_days", lambda body: body["trigger"].update(wait_after_expiry_days=-1)),
        (r"\$\.compensation\.kind", lambda body: body["compensation"].update(kind="GIFT")),
        (r"\$\.compensation\.unit", lambda body: body["compensation"].update(unit="VOUCHER")),
        (r"\$\.compensation\.amount_max", lambda body: body["compensation"].update(amount_max=0)),
        (r"\$\.compensation\.amount_max", lambda body: body["compensation"].update(amount_max=10**12 + 1)),
        (r"\$\.compensation: .*'bonus'", lambda body: body["compensation"].update(bonus=1)),
        (r"\$\.dispositions", lambda body: body.update(dispositions=[])),
        (r"\$\.dispositions\[0\]\.probability", lambda body: body["dispositions"][0].update(probability=1.01)),
        (r"\$\.dispositions\[0\]\.probability", lambda body: body["dispositions"][0].update(probability=-0.01)),
        (r"\$\.dispositions\[0\]\.cost_minor", lambda body: body["dispositions"][0].update(cost_minor=-1)),
        (r"\$\.dispositions\[0\]\.disposition", lambda body: body["dispositions"][0].update(disposition="BURN")),
        (r"\$\.reactivation\.window_days", lambda body: body["reactivation"].update(window_days=0)),
        (r"\$\.reactivation\.validity", lambda body: body["reactivation"].update(validity="HALF")),
        (r"\$\.risk\.without_score", lambda body: body["risk"].update(without_score="APPROVE")),
        (r"\$\.risk\.without_device", lambda body: body["risk"].update(without_device="REJECT")),
    ],
)
def test_schema_violation_names_its_place(place: str, edit: Edit) -> None:
    """The message gives the JSON path of what is wrong."""
    with pytest.raises(PolicyInvalid, match=place):
        parse_policy(edited("iqiyi", edit))


@pytest.mark.parametrize(
    ("platform", "words", "edit"),
    [
        ("iqiyi", "REFUND .* GROWTH_POINT", lambda body: body["compensation"].update(unit="GROWTH_POINT")),
        ("iqiyi", "REFUND .* COUPON", lambda body: body["compensation"].update(unit="COUPON")),
        ("tencent", "PER_UNUSED_DAY .* COUPON", lambda body: body["compensation"].update(unit="COUPON")),
        ("netflix", "DISCOUNT .* COIN", lambda body: body["compensation"].update(unit="COIN")),
        ("tencent", "amount_per_day", lambda body: body["compensation"].pop("amount_per_day")),
        ("netflix", "basis_points", lambda body: body["compensation"].pop("basis_points")),
        ("netflix", "valid_days", lambda body: body["compensation"].pop("valid_days")),
        ("tencent", "fee", lambda body: body.update(fee_basis_points=1)),
        ("netflix", "fee", lambda body: body.update(fee_basis_points=1)),
        ("tencent", "disposition", lambda body: body["dispositions"].append(body["dispositions"][0])),
        ("tencent", "other than CANCEL", lambda body: body["reactivation"].update(dispositions=["CANCEL"])),
        ("iqiyi", "other than CANCEL", lambda body: body["reactivation"].update(dispositions=["RESET_VALIDITY"])),
        ("iqiyi", "other than CANCEL", lambda body: body.update(reactivation=None)),
        ("tencent", "CANCEL must be offered", lambda body: body["dispositions"].pop()),
        ("tencent", "cannot be paid in COIN", lambda body: body["compensation"].update(unit="COIN")),
        ("tencent", "renewals_max", lambda body: body["reactivation"].pop("renewals_max")),
        ("tencent", "renewals_max", lambda body: body["reactivation"].update(renewals_max=None)),
    ],
)
def test_unsound_combination_is_named(platform: str, words: str, edit: Edit) -> None:
    """Fields that are fine one by one and make no sound policy together."""
    with pytest.raises(PolicyInvalid, match=words):
        parse_policy(edited(platform, edit))


# A fourth platform


def test_fourth_platform_is_just_a_file(tmp_path: Path) -> None:
    """Rules that no shipped platform has work from a document alone."""
    body = document("iqiyi") | {"platform": "fourth", "fee_basis_points": 2_500, "settle_after_days": 2}
    body["trigger"] = {"reasons": ["VOLUNTARY", "SYSTEM_ANOMALY"], "card_states": ["ACTIVE"]}
    file = tmp_path / "fourth.json"
    file.write_text(json.dumps(body))
    policies = {"fourth": parse_policy(file.read_text())}
    account = Account(active("fourth", unused=15 * DAY, paid_minor=1_001), policies=policies)
    account.recycle(reason=RecycleReason.SYSTEM_ANOMALY)
    assert account.recycling.fee_minor == 125
    assert account.recycling.settle_after_time == account.now + 2 * DAY
    assert (account.compensation.unit, account.compensation.amount) == (Unit.COIN, 375)


def test_fourth_platform_may_mix_what_the_three_do() -> None:
    """Points for an issued card, a reset and a voucher to choose from, in a currency of its own."""
    body = document("tencent") | {"platform": "fourth", "currency": "EUR"}
    body["compensation"] |= {"amount_per_day": 7}
    voucher = {"disposition": "VOUCHER", "cost": {"recycling_minor": 0}, "revenue_basis_points": 10_000}
    body["dispositions"].append(body["dispositions"][1] | voucher)
    body["reactivation"]["dispositions"] = ["RESET_VALIDITY", "VOUCHER"]
    account = Account(issued("fourth", currency="EUR"), policies={"fourth": parse_policy(json.dumps(body))})
    account.recycle()
    assert account.recycling.disposition is Disposition.VOUCHER
    assert (account.compensation.unit, account.compensation.amount) == (Unit.GROWTH_POINT, 210)


@pytest.mark.parametrize(
    "edit",
    [
        lambda body: body["dispositions"][0].update(probability=float("nan")),
        lambda body: body.update(platform="iqiyi\n"),
        lambda body: body.update(currency="CNY\n"),
    ],
)
def test_value_that_only_seems_fine_is_refused(edit: Edit) -> None:
    """NaN passes every bound, and a newline at the end passes a pattern's `$`: neither passes here."""
    with pytest.raises(PolicyInvalid):
        parse_policy(edited("iqiyi", edit))


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a": ' + "1" * 5_000 + "}", json.dumps(document("iqiyi"))[:-1] + ', "fee_basis_points": 0}'],
    ids=["nested", "digits", "repeated key"],
)
def test_hostile_document_is_refused(text: str) -> None:
    """What JSON readers choke on, or silently read another way, is invalid like anything else; nothing is said of what
    the service is made of."""
    with pytest.raises(PolicyInvalid) as error:
        parse_policy(text)
    assert "sys." not in str(error.value)


async def test_folder_without_policies_is_refused(tmp_path: Path) -> None:
    """Putting the policies of an empty or missing folder is an error, not a success that did nothing."""
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(PolicyInvalid, match="holds no policy"):
            await put_policies("postgresql://nobody@127.0.0.1:1/none", folder)


def test_revision_from_before_reviews_holds_for_seven_days() -> None:
    """A stored document without `review` still parses; revisions never change."""

    def without_review(body: dict[str, Any]) -> None:
        del body["review"]

    assert parse_policy(edited("iqiyi", without_review)).review.hold_days == 7
