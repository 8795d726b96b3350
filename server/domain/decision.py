"""The decisions: from a command, a snapshot and a score to the one change that follows. Pure.

Each command has a check (all that can refuse it before risk is looked at) and a decision. The order of the checks is
part of the contract: existence, state, trigger, risk. Must not know batches, statements or the wire.
"""

from __future__ import annotations

from uuid import UUID

from server.domain.commands import (
    Activate,
    BindDevice,
    CloseWindow,
    Command,
    Compensate,
    Exchange,
    Expire,
    ExpireCoupon,
    Grant,
    Lapse,
    Reactivate,
    Recycle,
    Redeem,
    Resolve,
    Void,
)
from server.domain.elapsed import (
    check_close_window,
    check_expire,
    check_expire_coupon,
    decide_close_window,
    decide_expire,
    decide_expire_coupon,
)
from server.domain.hub import uncertain
from server.domain.lifecycle import check_bind, check_card_command, decide_activate, decide_bind, decide_void
from server.domain.quote import QuoteSigner
from server.domain.reactivate import check_reactivate, decide_reactivate
from server.domain.recycle import check_recycle, decide_recycle
from server.domain.recycling import Disposition
from server.domain.settlement import check_compensate, decide_compensate
from server.domain.snapshot import Change, Score, Snapshot
from server.domain.spending import (
    check_exchange,
    check_grant,
    check_redeem,
    decide_exchange,
    decide_grant,
    decide_redeem,
)
from server.domain.verdict import check_lapse, check_resolve, decide_lapse, decide_resolve


def check(command: Command, snapshot: Snapshot, signer: QuoteSigner) -> None:
    """Raises Refusal when the command fails before risk is looked at."""
    match command:
        case Recycle():
            check_recycle(command, snapshot, signer)
        case Reactivate():
            check_reactivate(snapshot)
        case Compensate():
            check_compensate(snapshot)
        case Grant():
            check_grant(command, snapshot)
        case Redeem():
            check_redeem(command, snapshot)
        case Exchange():
            check_exchange(command, snapshot)
        case Activate() | Void():
            check_card_command(command, snapshot)
        case BindDevice():
            check_bind(command, snapshot)
        case Resolve():
            check_resolve(command, snapshot)
        case Lapse():
            check_lapse(command, snapshot)
        case Expire():
            check_expire(snapshot)
        case CloseWindow():
            check_close_window(snapshot)
        case ExpireCoupon():
            check_expire_coupon(command, snapshot)


def asked_of_model(command: Command, snapshot: Snapshot) -> tuple[Disposition, ...]:
    """The dispositions of which a conversion model may tell something before `command` is decided."""
    if not isinstance(command, Recycle) or command.quote_token:  # a quote holds what it was told
        return ()
    return uncertain(snapshot.known_card(), snapshot.known_policy())


def decide(
    command: Command,
    snapshot: Snapshot,
    score: Score | None,
    *,
    recycling_id: UUID,
    review_id: UUID,
    signer: QuoteSigner,
) -> Change:
    """The change that `command` makes. Call `check` first. `score` is None when none was needed, or none was to be had.
    The ids are for what is new; `recycling_id` is a redemption's, too.

    Raises Refusal FRAUD_SCORE_UNAVAILABLE when the policy needs a score that is missing.
    """
    match command:
        case Recycle():
            return decide_recycle(command, snapshot, score, recycling_id, review_id, signer)
        case Reactivate():
            return decide_reactivate(command, snapshot, score, review_id)
        case Compensate():
            return decide_compensate(snapshot)
        case Grant():
            return decide_grant(command, snapshot)
        case Redeem():
            return decide_redeem(command, snapshot, recycling_id)
        case Exchange():
            return decide_exchange(command, snapshot)
        case Activate():
            return decide_activate(snapshot)
        case BindDevice():
            return decide_bind(command, snapshot)
        case Void():
            return decide_void(command, snapshot)
        case Resolve():
            return decide_resolve(command, snapshot)
        case Lapse():
            return decide_lapse(command, snapshot)
        case Expire():
            return decide_expire(snapshot)
        case CloseWindow():
            return decide_close_window(snapshot)
        case ExpireCoupon():
            return decide_expire_coupon(command, snapshot)
    raise AssertionError(f"no decision for {type(command).__name__}")
