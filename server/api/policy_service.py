"""PolicyService: revisions to messages and back; must not know what is in a policy."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol
from uuid import UUID

from card_recycling.v1 import policy_service_pb2 as pb
from card_recycling.v1 import policy_service_pb2_grpc

from server.api import names, paging
from server.api.backtest_messages import report_message
from server.api.guard import Context, Served
from server.api.times import optional_time, timestamp
from server.domain.errors import Reason, Refusal
from server.domain.revision import Activation, PolicyRevision
from server.engine.backtest import BacktestQuestion, PolicyBacktester
from server.engine.policies import PolicyKeeper


class PolicyReader(Protocol):
    """Revisions as they stand. Raises StoreUnavailable when the database cannot be reached."""

    async def revision(self, platform: str, number: int | None) -> PolicyRevision | None:
        """A revision."""
        ...

    async def in_force(self, platform: str) -> PolicyRevision | None:
        """The revision that governs now."""
        ...

    async def revisions(
        self, platform: str | None, before: tuple[datetime, UUID], how_many: int
    ) -> list[tuple[PolicyRevision, tuple[datetime, UUID]]]:
        """Revisions made before a position, newest first."""
        ...


class PolicyServicer(policy_service_pb2_grpc.PolicyServiceServicer):
    """Keeps the platforms' rules."""

    def __init__(self, keeper: PolicyKeeper, reader: PolicyReader, backtester: PolicyBacktester) -> None:
        self._keeper = keeper
        self._reader = reader
        self._backtester = backtester

    async def GetPolicy(self, request: pb.GetPolicyRequest, context: Context) -> Served:
        """See the proto."""
        if request.HasField("revision"):
            found = await self._reader.revision(request.platform, request.revision)
        else:
            found = await self._reader.in_force(request.platform)
        if found is None:
            raise Refusal(Reason.POLICY_NOT_FOUND, "no such policy")
        return pb.GetPolicyResponse(policy=revision_message(found))

    async def ListPolicies(self, request: pb.ListPoliciesRequest, context: Context) -> Served:
        """See the proto."""
        size = paging.size(request)
        platform = request.platform if request.HasField("platform") else None
        found = await self._reader.revisions(platform, paging.position(request), size + 1)
        shown, token = paging.page(request, found, size, lambda row: row[1])
        return pb.ListPoliciesResponse(policies=[revision_message(row) for row, _ in shown], next_page_token=token)

    async def CreatePolicyRevision(self, request: pb.CreatePolicyRevisionRequest, context: Context) -> Served:
        """See the proto."""
        made = await self._keeper.create(request.document, etag=request.etag, actor=request.actor, note=request.note)
        return pb.CreatePolicyRevisionResponse(policy=revision_message(made))

    async def ActivatePolicyRevision(self, request: pb.ActivatePolicyRevisionRequest, context: Context) -> Served:
        """See the proto."""
        wanted = Activation(
            platform=request.platform,
            revision=request.revision,
            effective_time=optional_time(request, "effective_time"),
            etag=request.etag,
            actor=request.actor,
            note=request.note,
        )
        return pb.ActivatePolicyRevisionResponse(policy=revision_message(await self._keeper.activate(wanted)))

    async def BacktestPolicy(self, request: pb.BacktestPolicyRequest, context: Context) -> Served:
        """See the proto."""
        named = request.revision
        asked = BacktestQuestion(
            named=(named.platform, named.revision) if request.HasField("revision") else None,
            document=request.document,
            from_time=optional_time(request, "from_time"),
            to_time=optional_time(request, "to_time"),
            rows_max=request.rows_max,
            complaint_days=request.complaint_days,
            examples_max=request.examples_max if request.HasField("examples_max") else None,
        )
        return report_message(await self._backtester.run(asked, context.time_remaining()))


def revision_message(revision: PolicyRevision) -> pb.PolicyRevision:
    """A revision."""
    return pb.PolicyRevision(
        platform=revision.platform,
        revision=revision.revision,
        document=revision.document,
        document_sha256=revision.document_sha256.hex(),
        state=names.POLICY_STATE.number(revision.state),  # type: ignore[arg-type]
        effective_time=timestamp(revision.effective_time),
        create_time=timestamp(revision.create_time),
        actor=revision.actor,
        note=revision.note,
        etag=revision.etag,
    )
