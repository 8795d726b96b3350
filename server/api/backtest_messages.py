"""Reports of back-tests to messages; must not know how one comes about."""

from __future__ import annotations

from card_recycling.v1 import policy_service_pb2 as pb

from server.api import names
from server.api.times import timestamp
from server.domain.backtest import Decided, DecisionClass, Difference, Group, Side, Skip, Trial
from server.domain.complaints import Rate
from server.engine.backtest import BacktestReport


def report_message(report: BacktestReport) -> pb.BacktestPolicyResponse:
    """What came out. Lists are in the order of the enums, so that two reports compare line by line."""
    tally, pump = report.tally, report.pump
    message = pb.BacktestPolicyResponse(
        platform=report.platform,
        revision=report.revision,
        from_time=timestamp(report.window.from_time),
        to_time=timestamp(report.window.to_time),
        end=names.BACKTEST_END.number(report.end),  # type: ignore[arg-type]
        scanned=report.scanned,
        replayed=tally.replayed,
        oldest_time=timestamp(tally.oldest_time),
        skipped=[
            pb.BacktestSkipped(why=names.BACKTEST_SKIP.number(why), decisions=tally.skipped[why])  # type: ignore[arg-type]
            for why in Skip
            if tally.skipped[why]
        ],
        changed=tally.changed,
        changes=[
            pb.BacktestChanged(change=names.BACKTEST_CHANGE.number(each), decisions=tally.differences[each])  # type: ignore[arg-type]
            for each in Difference
            if tally.differences[each]
        ],
        moves=[
            pb.BacktestMove(recorded=_class(old), candidate=_class(new), decisions=tally.moves[old, new])
            for old in DecisionClass
            for new in DecisionClass
            if tally.moves[old, new]
        ],
        refusals=[
            pb.BacktestRefusal(reason=reason, decisions=decisions)
            for reason, decisions in sorted(tally.refusals.items())
        ],
        total=_group(tally.total()),
        groups=map(_group, tally.groups()),
        complaint_rates=[_rate(*row) for row in tally.rates()],
        examples=map(_example, tally.examples()),
        pumpable=pump is not None,
        pump_steps=pump.steps if pump else (),
        checked_with=report.checked_with,
    )
    if pump is not None and pump.yields is not None:
        message.pump_yield = float(pump.yields)
    return message


def _group(group: Group) -> pb.BacktestGroup:
    return pb.BacktestGroup(
        segment=names.SEGMENT.number(group.segment),  # type: ignore[arg-type]
        tier=names.TIER.number(group.tier),  # type: ignore[arg-type]
        decisions=group.decisions,
        changed=group.changed,
        recorded=_side(group.recorded),
        candidate=_side(group.candidate),
        complaints=group.complaints,
    )


def _side(side: Side) -> pb.BacktestSide:
    expected = side.complaints
    return pb.BacktestSide(
        classes=[
            pb.BacktestClass(decision_class=_class(each), decisions=side.classes[each])
            for each in DecisionClass
            if each in side.classes
        ],
        fee_minor=side.fee_minor,
        money=[
            pb.BacktestMoney(
                unit=names.UNIT.number(unit),  # type: ignore[arg-type]
                amount=side.amounts.get(unit, 0),
                held_amount=side.held_amounts.get(unit, 0),
            )
            for unit in sorted(side.amounts.keys() | side.held_amounts.keys())
        ],
        complaints=pb.ExpectedComplaints(
            value=expected.value, low=expected.low, high=expected.high, unknown_decisions=expected.unknown
        ),
    )


def _rate(decision_class: str, segment: str | None, rate: Rate) -> pb.ComplaintRate:
    message = pb.ComplaintRate(
        decision_class=_class(decision_class),
        segment=names.SEGMENT.number(segment),  # type: ignore[arg-type]
        decisions=rate.decisions,
        complaints=rate.complaints,
    )
    if rate.share is not None and rate.interval is not None:
        message.rate = rate.share
        message.low, message.high = rate.interval
    return message


def _example(trial: Trial) -> pb.BacktestExample:
    return pb.BacktestExample(
        account_id=trial.account_id,
        recycling_id=str(trial.recycling_id),
        create_time=timestamp(trial.create_time),
        segment=names.SEGMENT.number(trial.segment),  # type: ignore[arg-type]
        tier=names.TIER.number(trial.tier),  # type: ignore[arg-type]
        changes=[names.BACKTEST_CHANGE.number(each) for each in Difference if each in trial.differences],  # type: ignore[misc]
        recorded=_decision(trial.recorded),
        candidate=_decision(trial.candidate),
    )


def _decision(decided: Decided) -> pb.BacktestDecision:
    return pb.BacktestDecision(
        decision_class=_class(decided.decision_class),
        refusal=decided.refusal or "",
        disposition=names.DISPOSITION.number(decided.disposition),  # type: ignore[arg-type]
        unit=names.UNIT.number(decided.unit),  # type: ignore[arg-type]
        amount=decided.amount,
        fee_minor=decided.fee_minor,
        settled_at_once=decided.settled_at_once,
    )


def _class(decision_class: str) -> pb.DecisionClass.ValueType:
    return names.DECISION_CLASS.number(decision_class)  # type: ignore[return-value]
