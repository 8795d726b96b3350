"""Whose hand does what to which card: the steps that scenarios plan, and the events that come of them.

Knows the order in which a card lives, and what the live system would have logged of each step. Must not know who is
honest and how abuse is done. A step is small and becomes an event only when its time has come, so that what is still to
happen takes little memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from fraud_worker.simulation.events import FULL, Behavior, Device, Sight, SimulatedEvent
from fraud_worker.simulation.predecessor import Predecessor
from fraud_worker.simulation.world import Card, World, country_of

DAY_S: Final = 86_400.0


class Hand:
    """Somebody who acts on an account: with which device, from where, how, through which caller."""

    __slots__ = ("account_id", "behave", "country", "device", "family", "ip", "label", "sight")

    def __init__(
        self,
        family: str,
        label: int,
        account_id: str,
        device: Device,
        ip: str | None,
        behave: Callable[[], Behavior],
        sight: Sight = FULL,
        country: str | None = None,
    ) -> None:
        """`country`: of the address; by default where the device's clock is."""
        self.family = family
        self.label = label
        self.account_id = account_id
        self.device = sight.of_device(device)
        self.ip = ip if sight.ip else None
        self.country = (country or country_of(device.timezone)) if sight.country and ip else None
        self.behave = behave
        self.sight = sight


Step: TypeAlias = tuple[float, Hand, Card, str]
"""When (seconds since the start of the log), who, on which card, what (an event kind)."""

Scenario: TypeAlias = Callable[[World, float], list[Step]]
"""Takes the second at which it starts; returns its steps, those of one card in their order, none before the start."""


def life(
    world: World,
    hand: Hand,
    card: Card,
    issued_s: float,
    *,
    activate_after_s: float | None,
    recycle_after_s: float | None,
    attempts: int = 1,
    reactivate_after_s: Sequence[float] = (),
    paid_after_s: float | None = None,
) -> list[Step]:
    """The steps of one card in one hand. `recycle_after_s` counts from its activation, or its issue if there is none.

    A quote before the recycle and a retry after it are further `attempts`. Each of `reactivate_after_s` follows the
    last recycle, and is followed by another one; nobody tries it where the platform has no such thing. `paid_after_s`
    from the last recycle its compensation is paid.
    """
    steps: list[Step] = [(issued_s, hand, card, "ISSUE")]
    moment = issued_s
    if activate_after_s is not None:
        moment += activate_after_s
        steps.append((moment, hand, card, "ACTIVATE"))
    if recycle_after_s is None:
        return steps
    moment += recycle_after_s
    for attempt in range(attempts):
        if attempt:
            moment += world.log_uniform(0.02, 240)
        steps.append((moment, hand, card, "RECYCLE"))
    for gap_s in reactivate_after_s if card.returns else ():
        moment += gap_s
        steps.append((moment, hand, card, "REACTIVATE"))
        moment += gap_s * world.uniform(0.3, 3)
        steps.append((moment, hand, card, "RECYCLE"))
    if paid_after_s is not None:
        steps.append((moment + paid_after_s, hand, card, "COMPENSATE"))
    return steps


def event(
    world: World, predecessor: Predecessor, time_us: int, hand: Hand, card: Card, kind: str
) -> SimulatedEvent | None:
    """What the log says of a step. Issuing, paying and complaining know an account and a card, and no device.

    None where it does not happen: a card whose recycle was refused is neither paid for nor taken back.
    """
    if card.refused and kind in _ONLY_OF_RECYCLED:
        return None
    amount = card.amount_minor
    device = ip = country = behavior = outcome = label = label_time_us = None
    if kind == "COMPENSATE":
        least, most = _PAID_PERCENT[card.platform]
        amount = max(1, int(amount * world.uniform(least, most) / 100))
    if kind not in _FROM_A_BACKEND:
        device, ip, country = hand.device, hand.ip, hand.country
    if kind in JUDGED:
        if hand.sight.behavior:
            behavior = hand.behave()
        refused = predecessor.refuses(time_us, hand.account_id, device, behavior, abuse=hand.label == 1)
        outcome = "REJECTED" if refused else "APPROVED"
        if kind == "RECYCLE":
            card.refused = refused
        if kind == "RECYCLE" or world.chance(_REACTIVATIONSJUDGED):
            label = hand.label
            label_time_us = time_us + int(_known_after_s(world, label) * 1_000_000)
    # By position, which is twice as fast as by name.
    return SimulatedEvent(
        time_us,
        kind,
        hand.account_id,
        card.card_id,
        card.platform,
        card.tier,
        card.reason if kind == "RECYCLE" else None,
        amount,
        card.serial,
        ip,
        country,
        outcome,
        label,
        label_time_us,
        hand.family,
        device,
        behavior,
    )


JUDGED: Final = frozenset(("RECYCLE", "REACTIVATE"))
_FROM_A_BACKEND: Final = frozenset(("ISSUE", "COMPENSATE", "COMPLAINT"))
_ONLY_OF_RECYCLED: Final = frozenset(("COMPENSATE", "REACTIVATE"))
_PAID_PERCENT: Final = {"iqiyi": (60, 95), "tencent": (20, 40), "netflix": (2, 8)}
"""From the least that is paid for a card to the most: it depends on how much of its time is left."""
_REACTIVATIONSJUDGED: Final = 0.7


def _known_after_s(world: World, label: int) -> float:
    """A chargeback comes days to weeks later; honest is known when the window for it, counted from the sale, closes.

    The two take about as long, so that the youngest labels of a log are no other mix than the older ones.
    """
    days = world.uniform(1, 14)
    return DAY_S * (days * world.uniform(0.8, 1.2) if label else days)
