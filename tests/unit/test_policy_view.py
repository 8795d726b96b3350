"""How `recycling policy` tells documents apart."""

from __future__ import annotations

from clients.python import policy_view
from tests.builders import document


def test_the_same_rules_do_not_differ() -> None:
    """However many lists they hold."""
    assert policy_view.differences(document("iqiyi"), document("iqiyi")) == {}


def test_an_entry_that_goes_moves_no_other() -> None:
    """Entries of a list are told apart by what names them, not by their place."""
    old, new = document("iqiyi"), document("iqiyi")
    gone, changed = new["risk"]["velocity"].pop(0), new["risk"]["velocity"][0]
    changed["max"] = 8
    assert policy_view.differences(old, new) == {
        f"risk.velocity[{gone['counter']} HOLD].max": (gone["max"], None),
        f"risk.velocity[{changed['counter']} HOLD].max": (20, 8),
    }
