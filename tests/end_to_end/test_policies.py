"""A platform's rules through real gRPC: made, tried, activated, and then decided by."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from card_recycling.v1 import policy_service_pb2 as pb
from card_recycling.v1 import types_pb2

from clients.python import RecyclingError
from tests.builders import document
from tests.end_to_end.conftest import Service, recycle
from tests.unit.test_cli import recycling

LEAD = timedelta(seconds=10)
SPREAD = {"spread_basis_points": 0, "amount_max": 1_000_000}


class Rules:
    """The rules of a platform that only one test has."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.client = service.client
        self.platform = f"p{uuid.uuid4().hex[:12]}"

    def text(self, **changes: Any) -> str:
        """Like iqiyi's, but for caps and devices, and changed."""
        body = document("iqiyi") | {"platform": self.platform}
        return json.dumps(body | {"risk": body["risk"] | {"velocity": []}} | changes)

    async def create(self, etag: str = "", **changes: Any) -> pb.PolicyRevision:
        """A draft."""
        request = pb.CreatePolicyRevisionRequest(document=self.text(**changes), actor="ops", note="a test", etag=etag)
        return (await self.client.create_policy_revision(request)).policy

    async def activate(self, revision: int, **more: Any) -> pb.PolicyRevision:
        """Its activation, as soon as may be unless told otherwise."""
        request = pb.ActivatePolicyRevisionRequest(platform=self.platform, revision=revision, actor="ops", **more)
        return (await self.client.activate_policy_revision(request)).policy

    async def govern(self, **changes: Any) -> pb.PolicyRevision:
        """Rules in force."""
        made = await self.create(**changes)
        await self.activate(made.revision)
        self.service.pass_time(LEAD)
        return made

    async def recycled(self, how_many: int = 1) -> list[types_pb2.Recycling]:
        """So many cards of 3,000, recycled."""
        cards = await self.service.issue(self.platform, how_many, paid_minor=3_000, face_value_minor=3_000)
        return [await self.service.recycled(card) for card in cards]

    async def backtest(self, revision: int, **more: Any) -> pb.BacktestPolicyResponse:
        """A back-test of a revision, over what was decided up to now."""
        self.service.pass_time(timedelta(microseconds=1))
        name = pb.PolicyName(platform=self.platform, revision=revision)
        return await self.client.backtest_policy(pb.BacktestPolicyRequest(revision=name, **more))


@pytest.fixture
def rules(service: Service) -> Rules:
    return Rules(service)


async def refused(call: Callable[[], Any]) -> RecyclingError:
    with pytest.raises(RecyclingError) as caught:
        await call()
    return caught.value


async def test_a_revision_is_made_tried_and_activated(rules: Rules) -> None:
    """What the back-test foretells of the same cards is what the revision then decides."""
    await rules.govern()
    before = await rules.recycled(3)
    draft = await rules.create(fee_basis_points=2_000)
    assert (draft.revision, draft.state) == (2, pb.POLICY_STATE_DRAFT)
    report = await rules.backtest(2)
    assert (report.revision, report.replayed, report.changed, report.pumpable) == (2, 3, 3, False)
    assert report.end == pb.BACKTEST_END_WINDOW
    assert f"{rules.platform}@1" in report.checked_with
    assert report.total.recorded.fee_minor == sum(each.fee_minor for each in before) == 900
    assert {example.recycling_id for example in report.examples} == {each.recycling_id for each in before}
    scheduled = await rules.activate(2, etag=draft.etag)
    assert scheduled.state == pb.POLICY_STATE_SCHEDULED
    assert scheduled.effective_time.ToJsonString() == (rules.service.now + LEAD).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    rules.service.pass_time(LEAD)
    after = await rules.recycled(3)
    assert report.total.candidate.fee_minor == sum(each.fee_minor for each in after) == 1_800
    assert {each.decision.policy_revision for each in after} == {f"{rules.platform}@2"}
    again = await rules.backtest(2, from_time=scheduled.effective_time)
    assert (again.replayed, again.changed) == (3, 0)


async def test_a_pump_is_refused_with_its_steps(rules: Rules) -> None:
    """A PreconditionFailure for each step; the back-test names the same."""
    await rules.govern()
    points = {"unit": "GROWTH_POINT", "to_platform": rules.platform, "to_unit": "COIN", "give": 1, "get": 2}
    draft = await rules.create(exchange=[points | SPREAD])
    error = await refused(lambda: rules.activate(draft.revision))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "POLICY_PUMPABLE")
    report = await rules.backtest(draft.revision)
    assert report.pumpable and report.pump_yield > 1
    assert error.steps == tuple(report.pump_steps)
    assert error.steps[1:] == (
        f"recycled for {rules.platform} GROWTH_POINT",
        f"exchanged for {rules.platform} COIN",
    )


@pytest.mark.parametrize("echoed", ["x", "规", "\ud800", "%\n"])
async def test_wrong_documents_are_told_of_however_long(rules: Rules, echoed: str) -> None:
    """What is wrong with a document is told with an echo of it, which must not outgrow what clients take."""
    many = 60_000 // len(json.dumps(echoed))
    error = await refused(lambda: rules.create(devices_max=echoed * many))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    (violation,) = error.field_violations
    assert violation.field == "document"
    assert violation.description.startswith("$.devices_max: '") and violation.description.endswith("of type 'integer'")


async def test_who_has_not_seen_the_newest_changes_nothing(rules: Rules) -> None:
    """An etag of before a revision or an activation is ETAG_MISMATCH."""
    first = await rules.create()
    await rules.create(fee_basis_points=2_000, etag=first.etag)
    assert (await refused(lambda: rules.create(fee_basis_points=3_000, etag=first.etag))).reason == "ETAG_MISMATCH"
    assert (await refused(lambda: rules.activate(1, etag=first.etag))).code == grpc.StatusCode.ABORTED


async def test_an_activation_must_lie_ahead(rules: Rules) -> None:
    """Ten seconds at least; the field at fault is named."""
    await rules.create()
    wanted = types_pb2.Recycling().create_time
    wanted.FromDatetime(rules.service.now + LEAD - timedelta(microseconds=1))
    error = await refused(lambda: rules.activate(1, effective_time=wanted))
    assert [violation.field for violation in error.field_violations] == ["effective_time"]


async def test_all_servers_decide_by_a_revision_from_its_time_on(rules: Rules) -> None:
    """A microsecond before by the former one, from then on by the new one, whichever server is asked."""
    await rules.govern()
    draft = await rules.create(fee_basis_points=2_000)
    with rules.service.another_server() as (_, address):
        other = rules.service.another_client(address)

        async def fees() -> list[int]:
            cards = await rules.service.issue(rules.platform, 2, paid_minor=3_000, face_value_minor=3_000)
            answers = [await rules.client.recycle(recycle(cards[0])), await other.recycle(recycle(cards[1]))]
            return [answer.recycling.fee_minor for answer in answers]

        await rules.activate(draft.revision)
        rules.service.pass_time(LEAD - timedelta(microseconds=1))
        assert await fees() == [300, 300]
        rules.service.pass_time(timedelta(microseconds=1))
        assert await fees() == [600, 600]


async def test_a_server_of_before_may_still_put_a_revision_in_force(rules: Rules) -> None:
    """While a new release rolls out, a row with its own effective time governs from then on."""
    await rules.govern()
    rules.service.pass_time(timedelta(hours=1))
    text = json.dumps(json.loads(rules.text(fee_basis_points=2_000)), sort_keys=True)
    async with rules.service.owner() as owner:
        await owner.execute(
            "INSERT INTO policy_revision (platform, revision, document, document_sha256, effective_time)"
            " VALUES ($1, 2, $2::text::jsonb, sha256(convert_to($2::text, 'UTF8')), $3)",
            rules.platform,
            text,
            rules.service.now,
        )
    (recycling_,) = await rules.recycled()
    assert (recycling_.decision.policy_revision, recycling_.fee_minor) == (f"{rules.platform}@2", 600)


async def test_revisions_come_in_pages(rules: Rules) -> None:
    """Newest first, none twice and none left out."""
    for fee in range(1_000, 1_005):
        await rules.create(fee_basis_points=fee)
        rules.service.pass_time(timedelta(seconds=1))
    request = pb.ListPoliciesRequest(platform=rules.platform, page_size=2)
    shown = []
    while True:
        page = await rules.client.list_policies(request)
        shown += [policy.revision for policy in page.policies]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert shown == [5, 4, 3, 2, 1]


async def test_the_program_keeps_policies(rules: Rules, tmp_path: Path) -> None:
    """Every command of `recycling policy`, as tables and as JSON."""
    await rules.govern()
    await rules.recycled(2)
    rules.service.pass_time(timedelta(seconds=1))
    file = tmp_path / "candidate.json"
    file.write_text(rules.text(fee_basis_points=2_000))
    address = ("--address", rules.service.stack.address, "--timeout", "30")
    now = ("--backtest-time", rules.service.now.isoformat())

    async def told(*arguments: str) -> str:
        done = await recycling("policy", *arguments, *address, COLUMNS="200")
        assert done.code == 0, done.err
        return done.out

    report = await told("backtest", str(file), *now)
    assert "Back-test of a document" in report and "no money pump" in report and "1,200" in report
    assert json.loads(await told("backtest", str(file), "--json"))["changed"] == 2
    made = json.loads(await told("create", str(file), "--note", "dearer", "--json"))
    assert (made["revision"], made["state"]) == (2, "POLICY_STATE_DRAFT")
    difference = await told("diff", rules.platform, f"{rules.platform}@2")
    assert "fee_basis_points" in difference and "2000" in difference and "window_days" not in difference
    assert "SCHEDULED" in await told("activate", rules.platform, "2")
    assert "dearer" in await told("list", rules.platform)
    assert json.loads(await told("show", rules.platform, "--json"))["revision"] == 1
    file.write_text(rules.text(fee_basis_points=100))
    report = await told("backtest", str(file))
    assert "POLICY_PUMPABLE" in report and f"recycled for {rules.platform} COIN" in report
    assert json.loads(await told("create", str(file), "--json"))["revision"] == 3
    refusal = await recycling("policy", "activate", rules.platform, "3", *address)
    assert refusal.code == 1
    assert refusal.err.startswith("POLICY_PUMPABLE") and f"  2. recycled for {rules.platform} COIN" in refusal.err
