"""Shares of complaints, how sure they are, and what they let expect."""

from __future__ import annotations

import pytest

from server.domain.complaints import ENOUGH, ComplaintTally, Expected, Rate


def test_few_decisions_tell_no_share() -> None:
    """One below the bound nothing is told, at it the share and its interval are."""
    assert Rate(decisions=ENOUGH - 1, complaints=3).share is None
    assert Rate(decisions=ENOUGH - 1, complaints=3).interval is None
    assert Rate(decisions=ENOUGH, complaints=5).share == 0.1


@pytest.mark.parametrize(
    ("complaints", "decisions", "low", "high"),
    [(0, 50, 0.0, 0.071348), (5, 50, 0.043476, 0.213602), (50, 50, 0.928652, 1.0), (80, 1_000, 0.064748, 0.098466)],
)
def test_interval_is_wilsons(complaints: int, decisions: int, low: float, high: float) -> None:
    """By his formula, worked apart; where nobody complained, somebody still may."""
    assert Rate(decisions=decisions, complaints=complaints).interval == pytest.approx((low, high), abs=5e-6)


def test_a_segment_of_few_goes_by_all() -> None:
    """Its own rate is used from the bound on; of a class that nobody has seen nothing is expected, and that is told."""
    tally = ComplaintTally()
    for number in range(100):
        tally.add("VOUCHER", "YOUNG", complained=number < 10)
        tally.add("VOUCHER", None, complained=False)
    young, senior = tally.expected({"VOUCHER": 10}, "YOUNG"), tally.expected({"VOUCHER": 10}, "SENIOR")
    assert [young.value, senior.value] == pytest.approx([1, 0.5])
    assert tally.expected({"HELD": 7}, "YOUNG") == Expected(unknown=7)
