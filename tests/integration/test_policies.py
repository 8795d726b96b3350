"""Policy revisions on a real database: made, checked, activated, and what then decides."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from card_recycling.v1 import recycling_service_pb2

from server.domain.errors import Reason, Refusal
from server.domain.revision import ACTIVATION_LEAD, Activation, PolicyRevision, PolicyState
from server.engine.policies import PolicyKeeper
from server.store.policies import PostgresPolicies
from server.store.policy_document import PolicyInvalid, put_policies, read_document
from tests.builders import document
from tests.conftest import FreshDatabase
from tests.integration.world import (
    PATIENCE_S,
    World,
    item,
    new_account,
    put_documents,
    quote,
    reactivate,
    reason,
    recycle,
)


@pytest.fixture
async def world(fresh_database: FreshDatabase) -> AsyncIterator[World]:
    """A world of its own, whose invariants hold at the end."""
    world = await World.create(await fresh_database())
    yield world
    broken = await world.broken()
    await world.close()
    assert broken == {}


@pytest.fixture
def policies(world: World) -> PostgresPolicies:
    return PostgresPolicies(world.store)


@pytest.fixture
def keeper(policies: PostgresPolicies) -> PolicyKeeper:
    return PolicyKeeper(policies, read_document)


def iqiyi(**changes: Any) -> str:
    return json.dumps(document("iqiyi") | {"offers": [], "exchange": []} | changes)


async def create(keeper: PolicyKeeper, text: str, **more: Any) -> PolicyRevision:
    return await keeper.create(text, **({"etag": "", "actor": "ops@example.com", "note": "a test"} | more))


def activation(revision: PolicyRevision, **more: Any) -> Activation:
    usual: dict[str, Any] = {"effective_time": None, "etag": "", "actor": "ops@example.com", "note": ""}
    return Activation(platform=revision.platform, revision=revision.revision, **(usual | more))


async def refusal(keeper: PolicyKeeper, wanted: Activation) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await keeper.activate(wanted)
    return caught.value


async def fee(world: World) -> int:
    """What a card of 3,000 pays as its fee now."""
    card = await world.issue(paid_minor=3_000, face_value_minor=3_000, active=False)
    return (await world.recycled(card)).fee_minor


async def test_a_draft_governs_nothing(world: World, keeper: PolicyKeeper) -> None:
    """Until it is activated decisions go on as before."""
    draft = await create(keeper, iqiyi(fee_basis_points=2_000))
    assert (draft.revision, draft.state, draft.effective_time) == (2, PolicyState.DRAFT, None)
    await world.move(timedelta(days=1))
    assert await fee(world) == 300


async def test_an_activation_governs_from_its_moment(
    world: World, keeper: PolicyKeeper, policies: PostgresPolicies
) -> None:
    """A microsecond before its time the former revision decides, from then on the new one."""
    draft = await create(keeper, iqiyi(fee_basis_points=2_000))
    scheduled = await keeper.activate(activation(draft))
    assert scheduled.state is PolicyState.SCHEDULED
    assert scheduled.effective_time == await world.store.now() + ACTIVATION_LEAD
    await world.move(ACTIVATION_LEAD - timedelta(microseconds=1))
    assert await fee(world) == 300
    await world.move(timedelta(microseconds=1))
    assert await fee(world) == 600
    in_force, former = await policies.in_force("iqiyi"), await policies.revision("iqiyi", 1)
    assert in_force is not None and (in_force.revision, in_force.state) == (2, PolicyState.IN_FORCE)
    assert former is not None and former.state is PolicyState.SUPERSEDED


async def test_a_former_revision_may_govern_again(world: World, keeper: PolicyKeeper) -> None:
    """Going back is an activation like any other."""
    draft = await create(keeper, iqiyi(fee_basis_points=2_000))
    await keeper.activate(activation(draft))
    await world.move(timedelta(minutes=1))
    await keeper.activate(Activation(platform="iqiyi", revision=1, effective_time=None, etag="", actor="a", note=""))
    await world.move(timedelta(minutes=1))
    assert await fee(world) == 300


async def test_a_recycling_keeps_its_revision(world: World, keeper: PolicyKeeper) -> None:
    """What was recycled with a window can come back, whatever the platform's rules are by then."""
    card = await world.issue(active=False)
    recycling = await world.recycled(card)
    draft = await create(
        keeper, iqiyi(reactivation=None, tiers={}, dispositions=[document("netflix")["dispositions"][0]])
    )
    await keeper.activate(activation(draft))
    await world.move(timedelta(minutes=1))
    assert recycling.decision.policy_revision == "iqiyi@1"

    assert isinstance(await world.run(reactivate(recycling)), bytes)


async def test_a_quote_ends_with_its_revision(world: World, keeper: PolicyKeeper) -> None:
    """It is good until the planned change and stale from then on."""
    card = await world.issue(active=False)
    draft = await create(keeper, iqiyi(fee_basis_points=2_000))
    await keeper.activate(activation(draft))

    answer = recycling_service_pb2.QuoteRecycleResponse.FromString(await world.answer(quote(card)))
    await world.move(ACTIVATION_LEAD)
    assert reason(await world.run(recycle(card, quote_token=answer.quote_token))) is Reason.QUOTE_STALE


async def test_a_pump_is_not_activated(world: World, keeper: PolicyKeeper, policies: PostgresPolicies) -> None:
    """The refusal spells the cycle out, and nothing changes."""
    rate = {"unit": "GROWTH_POINT", "to_platform": "iqiyi", "to_unit": "COIN", "give": 1, "get": 1}
    draft = await create(
        keeper,
        iqiyi(
            fee_basis_points=200,
            exchange=[rate | {"spread_basis_points": 0, "amount_max": 1_000_000}],
            tiers={},
            pricing=None,
        ),
    )
    found = await refusal(keeper, activation(draft))
    assert found.reason is Reason.POLICY_PUMPABLE
    assert found.steps == (
        "iqiyi BASIC card, MIDDLE segment",
        "recycled for iqiyi GROWTH_POINT",
        "exchanged for iqiyi COIN",
    )
    still = await policies.revision("iqiyi", 2)
    assert still is not None and still.state is PolicyState.DRAFT


def changed(to_platform: str, give: int, get: int) -> dict[str, Any]:
    """A platform's points changed into another's: worth nothing, unless there is more of them in the end."""
    return {
        "unit": "GROWTH_POINT", "to_platform": to_platform, "to_unit": "GROWTH_POINT", "give": give, "get": get,
        "spread_basis_points": 0, "amount_max": 1_000,
    }  # fmt: skip


def tencent(**changes: Any) -> str:
    return json.dumps(document("tencent") | {"offers": [], "exchange": []} | changes)


async def test_two_halves_of_a_pump_cannot_both_be_activated(world: World, keeper: PolicyKeeper) -> None:
    """Each is sound with what governs; whichever comes second is refused, also when both come at once."""
    loses = await create(keeper, iqiyi(exchange=[changed("tencent", 11, 10)]))
    await keeper.activate(activation(loses))
    first = await create(keeper, tencent(exchange=[changed("iqiyi", 10, 11)]))
    second = await create(keeper, iqiyi(exchange=[changed("tencent", 10, 10)]))
    outcomes = await asyncio.gather(
        keeper.activate(activation(first)), keeper.activate(activation(second)), return_exceptions=True
    )
    refused = [o for o in outcomes if isinstance(o, Refusal)]
    assert [o.reason for o in refused] == [Reason.POLICY_PUMPABLE]


async def test_two_halves_of_a_pump_cannot_both_be_put(world: World, keeper: PolicyKeeper) -> None:
    """Nor one put while the other is activated."""
    second = await create(keeper, iqiyi(exchange=[changed("tencent", 10, 10)]))
    outcomes = await asyncio.gather(
        put_documents(world.server_url, json.loads(tencent(exchange=[changed("iqiyi", 10, 11)]))),
        keeper.activate(activation(second)),
        return_exceptions=True,
    )
    refused = [o for o in outcomes if isinstance(o, PolicyInvalid) or getattr(o, "reason", "") == "POLICY_PUMPABLE"]
    assert len(refused) == 1


async def test_a_policy_file_that_pumps_is_not_put(world: World) -> None:
    """What is put is checked as well."""
    body = document("tencent")
    body["compensation"]["renewed_card_earns"] = True
    with pytest.raises(PolicyInvalid, match="way to gain"):
        await put_documents(world.server_url, body)


async def test_an_activation_lies_ahead(world: World, keeper: PolicyKeeper) -> None:
    """Nothing that was decided meanwhile is decided by another revision than was in force."""
    draft = await create(keeper, iqiyi(fee_basis_points=2_000))
    too_early = await world.store.now() + ACTIVATION_LEAD - timedelta(microseconds=1)
    assert (await refusal(keeper, activation(draft, effective_time=too_early))).reason is Reason.FIELD_INVALID


async def test_etags_guard_the_platform(keeper: PolicyKeeper) -> None:
    """Who has not seen the newest revision or activation makes and activates none."""
    first = await create(keeper, iqiyi(fee_basis_points=2_000))
    with pytest.raises(Refusal) as caught:
        await create(keeper, iqiyi(fee_basis_points=3_000), etag="v1.1")
    assert caught.value.reason is Reason.ETAG_MISMATCH
    second = await create(keeper, iqiyi(fee_basis_points=3_000), etag=first.etag)
    assert (await refusal(keeper, activation(first, etag=first.etag))).reason is Reason.ETAG_MISMATCH
    assert (await keeper.activate(activation(first, etag=second.etag))).etag != second.etag


async def test_the_same_document_is_the_same_revision(keeper: PolicyKeeper) -> None:
    """However it is spaced; and the shipped one is the first."""
    made = await create(keeper, iqiyi(fee_basis_points=2_000))
    again = await create(keeper, json.dumps(json.loads(made.document), indent=4))
    assert again == made


async def test_each_caller_gets_his_own_revision(keeper: PolicyKeeper) -> None:
    """However many are made at once: the one with the document that was given."""
    outcomes = await asyncio.gather(
        *(create(keeper, iqiyi(fee_basis_points=fee)) for fee in range(1, 9)), return_exceptions=True
    )
    for fee, made in enumerate(outcomes, 1):
        if not isinstance(made, BaseException):
            assert json.loads(made.document)["fee_basis_points"] == fee


async def test_many_documents_at_once_are_numbered_in_turn(keeper: PolicyKeeper, policies: PostgresPolicies) -> None:
    """No two revisions share a number; who lost too often is told to retry."""
    outcomes = await asyncio.gather(
        *(create(keeper, iqiyi(fee_basis_points=fee)) for fee in range(1, 9)), return_exceptions=True
    )
    lost = [o for o in outcomes if isinstance(o, Refusal)]
    assert all(o.reason is Reason.CONFLICT_RETRY for o in lost)
    newest = await policies.revision("iqiyi", None)
    assert newest is not None and newest.revision == 1 + len(outcomes) - len(lost)


@pytest.mark.parametrize("text", ["{}", "[1]", "nonsense", '{"platform": "iqiyi"}', iqiyi(fee_basis_points=-1)])
async def test_a_bad_document_is_refused(keeper: PolicyKeeper, text: str) -> None:
    """The field at fault is the document, and the description says where in it."""
    with pytest.raises(Refusal) as caught:
        await create(keeper, text)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.fields[0][0] == "document"


async def test_a_revision_that_is_not_there_is_not_activated(keeper: PolicyKeeper) -> None:
    """Neither of this platform nor of another."""
    for platform, revision in (("iqiyi", 99), ("nobody", 1)):
        wanted = Activation(platform=platform, revision=revision, effective_time=None, etag="", actor="a", note="")
        assert (await refusal(keeper, wanted)).reason is Reason.POLICY_NOT_FOUND


async def test_a_planned_revision_counts_when_policies_are_put(world: World, keeper: PolicyKeeper) -> None:
    """What a file puts in force until then is checked with what takes over from it later."""
    planned = await create(keeper, iqiyi(exchange=[changed("tencent", 10, 10)]))
    await keeper.activate(activation(planned, effective_time=await world.store.now() + timedelta(days=1)))
    with pytest.raises(PolicyInvalid, match="way to gain"):
        await put_documents(
            world.server_url,
            json.loads(iqiyi(fee_basis_points=2_000)),
            json.loads(tencent(exchange=[changed("iqiyi", 10, 11)])),
        )


async def test_a_plan_that_was_replaced_counts_no_more(world: World, keeper: PolicyKeeper) -> None:
    """What another activation of the same moment displaced will never govern, so it stands in nobody's way."""
    await world.put_in_force(json.loads(iqiyi()), json.loads(tencent()))
    planned = await create(keeper, iqiyi(exchange=[changed("tencent", 10, 10)]))
    moment = await world.store.now() + timedelta(days=1)
    await keeper.activate(activation(planned, effective_time=moment))
    other = await create(keeper, tencent(exchange=[changed("iqiyi", 10, 11)]))
    assert (await refusal(keeper, activation(other))).reason is Reason.POLICY_PUMPABLE
    await keeper.activate(
        Activation(platform="iqiyi", revision=2, effective_time=moment, etag="", actor="a", note="never mind")
    )
    assert (await keeper.activate(activation(other))).state is PolicyState.SCHEDULED


async def test_a_platform_keeps_its_currency(keeper: PolicyKeeper) -> None:
    """Cards that were paid in one are not refunded in another, however much later."""
    foreign = await create(keeper, iqiyi(currency="JPY"))
    assert (await refusal(keeper, activation(foreign))).reason is Reason.POLICY_PUMPABLE


async def test_a_draft_is_put_in_force(world: World, keeper: PolicyKeeper, policies: PostgresPolicies) -> None:
    """A file that is a draft already is activated, not passed over."""
    draft = await create(keeper, iqiyi(fee_basis_points=2_000))
    await world.put_in_force(json.loads(iqiyi(fee_basis_points=2_000)))
    in_force = await policies.in_force("iqiyi")
    assert in_force is not None and in_force.revision == draft.revision


async def test_what_governs_is_in_force_though_planned_again(world: World, keeper: PolicyKeeper) -> None:
    """Planning the revision in force for later does not end it."""
    again = Activation(platform="iqiyi", revision=1, effective_time=None, etag="", actor="a", note="")
    assert (await keeper.activate(again)).state is PolicyState.IN_FORCE


async def test_an_old_server_puts_a_revision_in_force(world: World) -> None:
    """A row as servers of before activations insert it governs from its time on."""
    await world.owner.execute(
        "INSERT INTO policy_revision (platform, revision, document, document_sha256, effective_time)"
        " VALUES ('iqiyi', 2, $1::text::jsonb, sha256(convert_to($1::text, 'UTF8')),"
        "         service_clock() + interval '1 hour')",
        json.dumps(json.loads(iqiyi(fee_basis_points=2_000)), sort_keys=True),
    )
    assert await fee(world) == 300
    await world.move(timedelta(hours=1))
    assert await fee(world) == 600


async def test_cards_below_the_least_price_are_not_issued(world: World) -> None:
    """What a day's compensation may be worth is bounded by it."""
    await world.put_in_force(document("iqiyi") | {"face_value_per_day_min": 10})
    assert (await world.issue(face_value_minor=300, paid_minor=100, duration_days=30)).face_value_minor == 300

    (outcome,) = await world.issuer.issue(
        [item("iqiyi", new_account(), face_value_minor=299, paid_minor=100, duration_days=30)]
    )
    assert reason(outcome) is Reason.FIELD_INVALID


async def test_a_card_below_a_later_least_price_earns_less(world: World) -> None:
    """Its days are worth proportionately fewer points, which is how the invariants price it, too."""
    card = await world.issue("tencent", active=False, face_value_minor=299, paid_minor=100, duration_days=30)
    await world.put_in_force(document("tencent") | {"face_value_per_day_min": 20, "pricing": None})
    recycling = await world.recycled(card)
    assert recycling.compensation.amount == 10 * 30 * 299 // (20 * 30)


async def test_what_was_activated_is_not_undone_by_setting_up_again(
    world: World, keeper: PolicyKeeper, policies: PostgresPolicies, tmp_path: Path
) -> None:
    """Each deployment may put the shipped files where there are none, and only there."""
    await keeper.activate(activation(await create(keeper, iqiyi(fee_basis_points=2_000))))
    await world.move(timedelta(minutes=1))
    for body in (document("iqiyi"), document("iqiyi") | {"platform": "fourth"}):
        (tmp_path / f"{body['platform']}.json").write_text(json.dumps(body), "utf-8")
    assert await put_policies(world.server_url, tmp_path, if_missing=True) == {"fourth": 1}
    in_force = await policies.in_force("iqiyi")
    assert in_force is not None and in_force.revision == 2
    assert await put_policies(world.server_url, tmp_path, if_missing=True) == {}


async def test_what_is_put_governs_only_once_it_can_be_seen(world: World, tmp_path: Path) -> None:
    """A decision that is made while policies are being put goes by the one it saw, which is the one in force."""
    card = await world.issue(active=False)
    (tmp_path / "iqiyi.json").write_text(iqiyi(fee_basis_points=2_000), "utf-8")
    (tmp_path / "tencent.json").write_text(tencent(), "utf-8")
    drafting = await asyncpg.connect(world.owner_url)
    try:
        await drafting.transaction().start()
        await drafting.execute(
            "INSERT INTO policy_revision (platform, revision, document, document_sha256, effective_time)"
            " VALUES ('tencent', 2, '{}', sha256('x'), 'infinity')"
        )
        putting = asyncio.create_task(put_policies(world.server_url, tmp_path))
        await until_somebody_waits(world, putting)
        await world.move(timedelta(seconds=1))
        assert (await world.recycled(card)).decision.policy_revision == "iqiyi@1"
    finally:
        await drafting.close()  # undoes the draft, so that who waits goes on
    assert await putting == {"iqiyi": 2, "tencent": 2}
    assert "decided_by_the_policy_in_force" not in await world.broken()
    assert await fee(world) == 300
    await world.move(ACTIVATION_LEAD)
    assert await fee(world) == 600


async def test_policies_put_twice_at_once_are_put_once(world: World, tmp_path: Path) -> None:
    """Each who puts a folder is told the same revisions, of a platform that was there and of a new one."""
    for body in (document("iqiyi") | {"fee_basis_points": 2_000}, document("iqiyi") | {"platform": "fourth"}):
        (tmp_path / f"{body['platform']}.json").write_text(json.dumps(body | {"offers": [], "exchange": []}), "utf-8")
    put = await asyncio.gather(*(put_policies(world.server_url, tmp_path) for _ in range(3)))
    assert put == [{"fourth": 1, "iqiyi": 2}] * 3
    activations = await world.owner.fetchval("SELECT count(*) FROM policy_activation WHERE platform = 'iqiyi'")
    assert activations == 2


async def until_somebody_waits(world: World, unless: asyncio.Task[Any]) -> None:
    """Returns once a statement on the world's database waits for another's transaction, or `unless` is done."""

    async def waits() -> None:
        while not unless.done() and not await world.owner.fetchval(
            "SELECT EXISTS (SELECT FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)"
            "               WHERE NOT l.granted AND a.datname = current_database())"
        ):
            pass

    await asyncio.wait_for(waits(), PATIENCE_S)
