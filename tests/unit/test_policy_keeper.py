"""PolicyKeeper beside others: a check that takes long keeps nobody waiting."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

from server.domain.policy import Policy
from server.domain.revision import Activation, LiveRevision, PolicyRevision, RevisionDraft
from server.engine.policies import PolicyKeeper
from server.store.policy_document import parse_policy, read_document
from tests.builders import document

PLATFORMS = [f"platform-{number}" for number in range(8)]
UNITS = ("COIN", "GROWTH_POINT")


class ManyPlatforms:
    """A store of platforms whose units can all be changed into one another."""

    def __init__(self) -> None:
        self.policies = {name: parse_policy(json.dumps(changing(name))) for name in PLATFORMS}

    async def now(self) -> datetime:
        """See the port."""
        return datetime(2026, 3, 1, tzinfo=UTC)

    async def revision(self, platform: str, number: int | None) -> PolicyRevision | None:
        """See the port."""
        raise NotImplementedError

    async def add_revision(self, draft: RevisionDraft) -> int | None:
        """See the port."""
        raise NotImplementedError

    async def live_revisions(self) -> tuple[int, list[LiveRevision]]:
        """See the port."""
        return 1, [LiveRevision(platform=name, revision=1, superseded=None, planned=False) for name in PLATFORMS]

    async def policy(self, platform: str, revision: int) -> Policy:
        """See the port."""
        return self.policies[platform]

    async def activate(self, wanted: Activation, effective_time: datetime, set_version: int) -> bool:
        """See the port."""
        raise NotImplementedError


def changing(platform: str) -> dict[str, object]:
    """A policy that changes each of its units into every other one, at a loss."""
    ways = [
        {
            "unit": unit, "to_platform": to_platform, "to_unit": to_unit, "give": 999_983 - place, "get": 499_979,
            "spread_basis_points": 100, "amount_max": 1_000,
        }
        for unit in UNITS
        for place, to_platform in enumerate(PLATFORMS)
        for to_unit in UNITS
        if (to_platform, to_unit) != (platform, unit)
    ]  # fmt: skip
    return document("iqiyi") | {"platform": platform, "offers": [], "exchange": ways, "pricing": None}


async def test_check_of_many_ways_keeps_nobody_waiting() -> None:
    """While a set of policies is checked the event loop goes on: callers are served meanwhile."""
    store = ManyPlatforms()
    keeper = PolicyKeeper(store, read_document)
    checked = asyncio.create_task(keeper.pump_with(store.policies[PLATFORMS[0]]))
    rounds = 0
    while not checked.done():
        await asyncio.sleep(0)
        rounds += 1
    pump, checked_with = checked.result()
    assert (pump, len(checked_with)) == (None, len(PLATFORMS))
    assert rounds > 2, "the check began and ended within one round"
