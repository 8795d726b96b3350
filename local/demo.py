"""The demo: plays the story, shows what came of it, and says whether what is promised held.

Knows the promises and the tables; must not know who does what (`story`), nor how the service decides.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from card_recycling.v1 import types_pb2, wallet_service_pb2
from rich.console import Console
from rich.table import Table

from clients.python.client import RecyclingClient
from local.stack import Stack
from local.story import HONEST_OWNERS, Person, Story, Tally
from migrations.invariants import InvariantResult, check_invariants
from server.replay.audit import Audit, audit

FARM_REFUSED_MIN = 0.95
HONEST_REFUSED_MAX = 0.02
BURST_REFUSED_MIN = 0.80
WIDTH_IN_FILES = 150


def tell(stack: Stack, seed: int) -> bool:
    """Plays the story against `stack`, shows it, and returns whether everything promised held."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_IN_FILES)
    return asyncio.run(_tell(stack, seed, console))


async def _tell(stack: Stack, seed: int, console: Console) -> bool:
    async with RecyclingClient(stack.address, timeout_s=20) as client:
        story = Story(client, seed)
        await story.run(console)
        console.print(_decisions_table(story.tally), _examples_table(story.tally))
        console.print(await _wallets_table(client, story.people))
    invariants = await check_invariants(stack.database_url)
    console.print(_invariants_table(invariants))
    promises = _promises(story.tally, invariants, await audit(stack.database_url))
    table = Table(title="What the demo promises", title_justify="left")
    for heading in ("", "promise", "measured"):
        table.add_column(heading)
    for kept, promise, measured in promises:
        table.add_row("[green]kept[/]" if kept else "[bold red]BROKEN[/]", promise, measured)
    console.print(table)
    return all(kept for kept, _, _ in promises)


def _promises(tally: Tally, invariants: Sequence[InvariantResult], replays: Audit) -> list[tuple[bool, str, str]]:
    honest = [
        recycling.state != types_pb2.RECYCLING_STATE_APPROVED
        for group, _, recycling in tally.decisions
        if group == "honest owners"
    ]
    honest_refused = sum(honest) + tally.reactivations_refused + tally.settlements_held
    honest_requests = len(honest) + tally.reactivations_refused + tally.reactivated
    burst = [
        recycling.state != types_pb2.RECYCLING_STATE_APPROVED
        for group, _, recycling in tally.decisions
        if group == "scripted burst"
    ]
    farm_share = _share(sum(tally.farm_after_second), len(tally.farm_after_second))
    honest_share = _share(honest_refused, honest_requests)
    violated = [result.name for result in invariants if result.violations]
    return [
        (
            farm_share >= FARM_REFUSED_MIN,
            f"of the farm's requests after its second account at least {FARM_REFUSED_MIN:.0%} are refused or held",
            f"{farm_share:.1%} of {len(tally.farm_after_second)}",
        ),
        (
            _share(sum(burst), len(burst)) >= BURST_REFUSED_MIN,
            f"of the scripted burst's requests at least {BURST_REFUSED_MIN:.0%} are refused or held",
            f"{_share(sum(burst), len(burst)):.1%} of {len(burst)}",
        ),
        (
            len(honest) == HONEST_OWNERS and honest_share <= HONEST_REFUSED_MAX,
            f"of the honest owners' requests at most {HONEST_REFUSED_MAX:.0%} are refused or held",
            f"{honest_share:.1%} of {honest_requests}",
        ),
        (
            tally.retries > 0 and not tally.retries_unlike,
            "a request sent again with the same request_id gets the same answer",
            f"{tally.retries - tally.retries_unlike} of {tally.retries}",
        ),
        (
            tally.reactivated > 0 and tally.clawed_back > 0 and tally.settled > 0,
            "compensation settles; a card given back takes it along",
            f"{tally.settled} settled, {tally.reactivated} reactivated, {tally.clawed_back} clawed back",
        ),
        (not tally.errors, "no call fails", _counted(tally.errors) or "none"),
        (not violated, f"all {len(invariants)} invariants hold", ", ".join(violated) or "all hold"),
        (
            replays.decisions > 0 and not replays.otherwise,
            "each decision comes out of its receipt again as it was recorded",
            f"{replays.decisions - len(replays.otherwise)} of {replays.decisions}",
        ),
    ]


def _decisions_table(tally: Tally) -> Table:
    table = Table(title="Decisions", title_justify="left")
    table.add_column("who")
    table.add_column("platform")
    for heading in ("requests", "approved", "held", "refused", "stopped %", "median score"):
        table.add_column(heading, justify="right")
    table.add_column("reasons")
    groups: dict[tuple[str, str], list[types_pb2.Recycling]] = {}
    for group, platform, recycling in tally.decisions:
        groups.setdefault((group, platform), []).append(recycling)
    for (group, platform), recyclings in sorted(
        groups.items(), key=lambda entry: (entry[0][0] != "honest owners", entry)
    ):
        states = Counter(r.state for r in recyclings)
        approved = states[types_pb2.RECYCLING_STATE_APPROVED]
        scores = sorted(r.decision.risk_score for r in recyclings)
        table.add_row(
            group,
            platform,
            str(len(recyclings)),
            str(approved),
            str(states[types_pb2.RECYCLING_STATE_IN_REVIEW]),
            str(states[types_pb2.RECYCLING_STATE_REJECTED]),
            f"{_share(len(recyclings) - approved, len(recyclings)):.1%}",
            f"{scores[len(scores) // 2]:.4f}",
            _counted(Counter(code for r in recyclings for code in r.decision.reason_codes)),
        )
    return table


def _examples_table(tally: Tally) -> Table:
    table = Table(title="One of each", title_justify="left")
    for heading in (
        "who",
        "platform",
        "state",
        "card becomes",
        "fee",
        "compensation",
        "score",
        "Y of the alternatives",
        "why",
    ):
        table.add_column(heading)
    seen = set()
    for group, platform, recycling in tally.decisions:
        kind = (group, platform, recycling.state)
        if kind in seen:
            continue
        seen.add(kind)
        decision = recycling.decision
        alternatives = "\n".join(
            f"{_name(types_pb2.Disposition, a.disposition)} {a.y:.0f}" for a in decision.alternatives
        )
        table.add_row(
            group,
            platform,
            _name(types_pb2.RecyclingState, recycling.state),
            _name(types_pb2.Disposition, recycling.disposition) if recycling.disposition else "-",
            str(recycling.fee_minor),
            _compensation(recycling),
            f"{decision.risk_score:.4f} {_name(types_pb2.RiskBand, decision.risk_band)}",
            alternatives,
            ", ".join(decision.reason_codes),
        )
    return table


async def _wallets_table(client: RecyclingClient, people: Sequence[Person]) -> Table:
    totals: Counter[tuple[str, str, str]] = Counter()
    holders: Counter[tuple[str, str, str]] = Counter()
    largest: dict[tuple[str, str, str], tuple[int, str]] = {}
    for person in people:
        wallet = (await client.get_wallet(wallet_service_pb2.GetWalletRequest(account_id=person.account_id))).wallet
        for balance in wallet.balances:
            key = (person.group, balance.platform, _name(types_pb2.Unit, balance.unit))
            totals[key] += balance.amount
            holders[key] += 1
            largest[key] = max(largest.get(key, (0, "")), (balance.amount, person.account_id))
    table = Table(title="Wallets at the end", title_justify="left")
    for heading in ("who", "platform", "unit"):
        table.add_column(heading)
    for heading in ("holders", "total", "largest"):
        table.add_column(heading, justify="right")
    for key in sorted(totals, reverse=True):
        amount, account_id = largest[key]
        table.add_row(*key, str(holders[key]), f"{totals[key]:,}", f"{amount:,} ({account_id})")
    return table


def _invariants_table(invariants: Sequence[InvariantResult]) -> Table:
    table = Table(title="Invariants", title_justify="left")
    table.add_column("no", justify="right")
    for heading in ("name", "", "meaning"):
        table.add_column(heading)
    for result in invariants:
        verdict = f"[bold red]violated {result.violations} times[/]" if result.violations else "[green]holds[/]"
        table.add_row(str(result.number), result.name, verdict, result.meaning)
    return table


def _compensation(recycling: types_pb2.Recycling) -> str:
    if not recycling.HasField("compensation"):
        return "-"
    compensation = recycling.compensation
    if compensation.unit == types_pb2.UNIT_COUPON:
        return f"{compensation.basis_points / 100:.0f} % coupon, at most {compensation.max_discount_minor}"
    return f"{compensation.amount} {_name(types_pb2.Unit, compensation.unit)}"


def _name(enum: object, number: int) -> str:
    """The short name of an enum's value: what follows the enum's own prefix."""
    names: list[str] = enum.keys()  # type: ignore[attr-defined]
    prefix = names[0].removesuffix("UNSPECIFIED")
    return str(enum.Name(number)).removeprefix(prefix)  # type: ignore[attr-defined]


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common())


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
