"""The habits of honest people, chosen to look as bad as honest people do.

Each habit shares a signal with some family of abuse: many accounts on one device or address, one price and one phone
for hundreds, cards recycled the moment they were issued, a new device on an old account, somebody else's card, serials
in a row, failed logins, rooted phones and data centres' addresses. What they do not share is all of it at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fraud_worker.simulation.cards import DAY_S, Hand, Scenario, Step, life
from fraud_worker.simulation.events import BLIND, Behavior, Device, Sight
from fraud_worker.simulation.world import Card, World


def _person(
    world: World,
    family: str,
    device: Device | None = None,
    *,
    account_id: str | None = None,
    ip: str | None = None,
    behave: Callable[[], Behavior] | None = None,
    sight: Sight | None = None,
    country: str | None = None,
) -> Hand:
    return Hand(
        family,
        0,
        account_id or world.new_id("a"),
        device or world.phone(),
        ip or world.home_address(),
        behave or world.weighted((world.human, world.quick, world.fumbling, world.blank), (77, 15, 4, 4)),
        sight or world.sight(),
        country,
    )


def _delay_s(world: World) -> float:
    """Between two steps of a card: at once, within minutes, or within weeks."""
    kind = world.uniform(0, 1)
    if kind < 0.2:
        return world.log_uniform(0.001, 5)
    return world.log_uniform(2, 1800) if kind < 0.5 else world.log_uniform(1800, 25 * DAY_S)


def _life(
    world: World, hand: Hand, start: float, price: int | None = None, *, at_once: bool = False, card: Card | None = None
) -> list[Step]:
    """The life of one honest card."""
    chance = world.chance
    if at_once:
        activate_after_s = world.log_uniform(0.001, 60) if chance(0.7) else None
        recycle_after_s: float | None = world.log_uniform(0.001, 300)
    else:
        activate_after_s = _delay_s(world) if chance(0.8) else None
        recycle_after_s = _delay_s(world) if chance(0.75) else None
    reactivations = int(chance(0.1)) + int(chance(0.01))
    steps = life(
        world,
        hand,
        card or world.card(price),
        start,
        activate_after_s=activate_after_s,
        recycle_after_s=recycle_after_s,
        attempts=1 + int(chance(0.5)) + int(chance(0.12)),
        reactivate_after_s=[world.log_uniform(0.5, 6 * DAY_S) for _ in range(reactivations)],
        paid_after_s=world.log_uniform(1, 5 * DAY_S) if chance(0.6) else None,
    )
    if recycle_after_s is not None and chance(0.01):
        last, hand, card, _ = steps[-1]
        steps.append((last + world.log_uniform(3600, 5 * DAY_S), hand, card, "COMPLAINT"))
    return steps


def owner(world: World, start: float) -> list[Step]:
    """One person with one or a few cards over weeks, of whom some move about."""
    person = _person(world, "owner")
    device = world.phone()
    steps = []
    moment = start
    for _ in range(world.weighted((1, 2, 3, 5), (55, 25, 14, 6))):
        steps += _life(world, person, moment)
        moment += DAY_S * world.rng.expovariate(1 / 9)
        if world.chance(0.2):
            person = _person(world, "owner", device, account_id=person.account_id, behave=person.behave)
    return steps


def sudden_owner(world: World, start: float) -> list[Step]:
    """Account, card and recycle all appear within seconds or minutes."""
    return _life(world, _person(world, "sudden_owner"), start, at_once=True)


def collector(world: World, start: float) -> list[Step]:
    """One person who clears out several cards of their own in a day, rarely dozens."""
    person = _person(world, "collector")
    cards = world.weighted((2, 3, 4, 6, 25), (40, 30, 18, 10, 2))
    spread_s = world.log_uniform(5, 80_000)
    block, platform = world.block() if world.chance(0.25) else None, world.platform()
    moments = sorted(start + world.uniform(0, spread_s) for _ in range(cards))
    return [
        step
        for number, moment in enumerate(moments)
        for step in _life(
            world,
            person,
            moment,
            at_once=world.chance(0.7),
            card=None if block is None else world.card(serial=block + number, platform=platform),
        )
    ]


def household(world: World, start: float) -> list[Step]:
    """Two to five accounts of one family on one tablet, over weeks; now and then two of them the same evening."""
    tablet, address, sight = world.phone(), world.home_address(), world.sight()
    steps = []
    moment = start
    members = world.weighted((2, 3, 4, 5), (62, 22, 10, 6))
    price = world.price() if world.chance(0.6) else None
    same_evening = world.rng.randrange(members - 1) if world.chance(0.75) else -1
    for member in range(members):
        person = _person(world, "household", tablet, ip=address, sight=sight)
        steps += _life(world, person, moment, price, at_once=world.chance(0.5))
        moment += world.log_uniform(0.5, 12_000) if member == same_evening else DAY_S * (2 + world.rng.expovariate(0.1))
    return steps


def campus(world: World, start: float) -> list[Step]:
    """Dozens to hundreds of students within an hour or two, behind the few addresses of their campus.

    Some were all given the same phone; some come through one caller, which passes on the same of all.
    """
    network = [world.new_address([world.campus_range()]) for _ in range(world.pick((1, 1, 2, 4)))]
    price = world.price() if world.chance(0.6) else None
    like = world.phone() if world.chance(0.4) else None
    sight = world.sight() if world.chance(0.4) else None
    steps = []
    for _ in range(int(world.log_uniform(20, 300))):
        device = world.same_phone(like) if like else None
        student = _person(world, "campus", device, ip=world.pick(network), sight=sight)
        steps += _life(world, student, start + world.uniform(0, 5400), price, at_once=world.chance(0.6))
    return steps


def company(world: World, start: float) -> list[Step]:
    """A company buys cards with serials in a row for its people, who recycle them over days from its one address.

    That address is a data centre's for every fourth company; some hand out the same phone.
    """
    address = world.new_address([world.hosting_range() if world.chance(0.25) else world.new_range()])
    price, platform, block = world.price(), world.platform(), world.block()
    like = world.phone() if world.chance(0.4) else None
    buyer = _person(world, "company")
    handed_over = world.chance(0.3)
    span_s = world.log_uniform(600, 6 * DAY_S)
    steps = []
    for number in range(int(world.log_uniform(5, 60))):
        device = world.same_phone(like) if like else None
        person = _person(world, "company", device, ip=address if world.chance(0.8) else None)
        card = world.card(price, block + number, platform=platform)
        if handed_over:
            # The company was issued them all, and its people use them under accounts of their own.
            steps.append((start + number * 0.01, buyer, card, "ISSUE"))
            moment = start + 5 + world.uniform(0, span_s)
            steps += _life(world, person, moment, at_once=world.chance(0.4), card=card)[1:]
        else:
            steps += _life(world, person, start + world.uniform(0, span_s), at_once=world.chance(0.5), card=card)
    return steps


def shop(world: World, start: float) -> list[Step]:
    """A shop's counter or an internet café: one or two devices, on which customers of all kinds come and go for days.

    They buy cards at the counter, serials in a row, or bring their own.
    """
    till = [world.phone() for _ in range(world.pick((1, 1, 2)))]
    address, sight = world.home_address(), world.sight()
    gap_s = world.log_uniform(600, 30_000)
    block, platform = world.block(), world.platform()
    steps = []
    moment = start
    for number in range(int(world.log_uniform(5, 35))):
        behave = world.weighted((world.human, world.quick, world.fumbling), (70, 20, 10))
        customer = _person(world, "shop", world.pick(till), ip=address, sight=sight, behave=behave)
        card = world.card(serial=block + number, platform=platform) if world.chance(0.5) else None
        if world.chance(0.5):
            steps += _life(world, customer, moment, at_once=world.chance(0.5), card=card)
        else:
            # Issued earlier, elsewhere; here it is only used.
            later = moment + world.log_uniform(3600, 12 * DAY_S)
            steps += _brought(world, customer, moment, later, card)
        moment += gap_s * world.rng.expovariate(1)
    return steps


def _brought(world: World, hand: Hand, issued_s: float, moment: float, card: Card | None) -> list[Step]:
    return life(
        world,
        hand,
        card or world.card(),
        issued_s,
        activate_after_s=None,
        recycle_after_s=moment - issued_s,
        paid_after_s=world.log_uniform(1, 3 * DAY_S) if world.chance(0.6) else None,
    )


def gift(world: World, start: float) -> list[Step]:
    """A card that was somebody else's first: given away, resold once or twice, or left over at work."""
    holders = [_person(world, "gift") for _ in range(world.weighted((2, 3, 4), (78, 16, 6)))]
    card = world.card()
    steps: list[Step] = [(start, holders[0], card, "ISSUE")]
    moment = start
    activates = holders[1] if len(holders) > 2 else holders[0] if world.chance(0.4) else None
    if activates:
        moment += _delay_s(world)
        steps.append((moment, activates, card, "ACTIVATE"))
    for tries in holders[2:-1]:
        moment += _delay_s(world)
        steps.append((moment, tries, card, "RECYCLE"))
    last = moment + world.log_uniform(30, 10 * DAY_S)
    taken = _life(world, holders[-1], last, card=card, at_once=world.chance(0.4))[1:]
    return steps + [step for step in taken if not (activates and step[3] == "ACTIVATE")]


def mover(world: World, start: float) -> list[Step]:
    """A new phone on an account of weeks, or a journey: another address, clock and language, passwords forgotten."""
    home = _person(world, "mover")
    steps = _life(world, home, start)
    device, ip, country = world.phone(), world.home_address(), None
    if world.chance(0.5):
        device = world.abroad(device)
        if world.chance(0.25):
            ip, country = world.new_address([world.hosting_range()]), world.country()
        elif world.chance(0.25):
            country = "CN"  # roaming
    behave = world.weighted((world.human, world.fumbling, world.quick), (50, 35, 15))
    away = _person(world, "mover", device, account_id=home.account_id, ip=ip, behave=behave, country=country)
    moment = start + world.log_uniform(0.5 * DAY_S, 30 * DAY_S)
    card = world.card()
    issued = start + world.uniform(0, moment - start)
    steps += _brought_by(world, home, away, card, issued, moment)
    for _ in range(world.weighted((0, 1, 2), (60, 25, 15))):
        moment += world.log_uniform(60, 5 * DAY_S)
        steps += _life(world, away, moment, at_once=world.chance(0.5))
    return steps


def _brought_by(world: World, before: Hand, after: Hand, card: Card, issued_s: float, moment: float) -> list[Step]:
    """One card of one account, bought as `before` and recycled as `after`."""
    steps: list[Step] = [(issued_s, before, card, "ISSUE")]
    if world.chance(0.5):
        steps.append((issued_s + (moment - issued_s) * world.uniform(0, 0.9), before, card, "ACTIVATE"))
    steps.append((moment, after, card, "RECYCLE"))
    if world.chance(0.6):
        steps.append((moment + world.log_uniform(1, 5 * DAY_S), after, card, "COMPENSATE"))
    return steps


def undecided(world: World, start: float) -> list[Step]:
    """Somebody who takes the card back again and again, mostly over weeks, for whenever the next series comes out."""
    person = _person(world, "undecided")
    gap_s = world.log_uniform(60, 6 * DAY_S)
    return life(
        world,
        person,
        world.card(platform=world.returning_platform()),
        start,
        activate_after_s=_delay_s(world),
        recycle_after_s=_delay_s(world),
        reactivate_after_s=[gap_s * world.uniform(0.3, 2) for _ in range(world.pick((2, 2, 3, 3, 4, 6)))],
        paid_after_s=world.log_uniform(3600, 5 * DAY_S) if world.chance(0.4) else None,
    )


def private_person(world: World, start: float) -> list[Step]:
    """Rooted phones, emulators on a desktop, VPNs and data centres' addresses: players, developers, the cautious."""
    device = world.same_phone(world.phone(), emulator=0.25, rooted=0.4, vpn=0.6, skewed=0.12)
    if world.chance(0.3):
        device = world.abroad(device)
    if world.chance(0.1):
        device = world.contradicted(device)
    ip, country = world.home_address(), None
    if world.chance(0.6):
        ip, country = world.new_address([world.hosting_range()]), world.country()
    person = _person(world, "private_person", device, ip=ip, country=country)
    steps = []
    moment = start
    for _ in range(world.weighted((1, 2, 4), (60, 30, 10))):
        steps += _life(world, person, moment, at_once=world.chance(0.3))
        moment += world.log_uniform(60, 12 * DAY_S)
    return steps


def blind_caller(world: World, start: float) -> list[Step]:
    """A caller passes on nothing but an account."""
    person = _person(world, "blind_caller", sight=BLIND)
    return _life(world, person, start, at_once=world.chance(0.5))


def bulk_import(world: World, start: float) -> list[Step]:
    """A partner's back office brings hundreds of its customers' cards, from its own few addresses in a data centre."""
    ranges = [world.hosting_range()]
    network = [world.new_address(ranges) for _ in range(world.pick((1, 2, 8)))]
    price, block, platform = world.price() if world.chance(0.6) else None, world.block(), world.platform()
    sight = world.weighted((BLIND, Sight(device=False), Sight(device=False, behavior=False)), (30, 40, 30))
    behave = world.pick((world.quick, world.blank))
    span_s = world.log_uniform(60, 20_000)
    steps = []
    for number in range(int(world.log_uniform(40, 400))):
        person = _person(world, "bulk_import", ip=world.pick(network), behave=behave, sight=sight)
        moment = start + world.uniform(0, span_s)
        steps += _life(world, person, moment, at_once=True, card=world.card(price, block + number, platform=platform))
    return steps


def rush(world: World, start: float) -> list[Step]:
    """A promotion: hundreds of new accounts within minutes, each with its own device.

    One caller sees the same of them all, so that equal phones, one price and neighbouring addresses are common.
    """
    sight = world.sight((34, 12, 6, 6, 10, 10, 10, 4, 8))
    like = world.pick((None, world.top_phone(), world.top_phone(), world.phone()))
    price = world.price() if world.chance(0.75) else None
    ranges = [world.new_range() for _ in range(world.pick((1, 3, 30)))] if world.chance(0.5) else ()
    behave = world.weighted((world.human, world.quick, world.blank), (75, 20, 5))
    block, platform = world.block() if world.chance(0.5) else None, world.platform()
    span_s = world.log_uniform(20, 3600)
    steps = []
    for number in range(int(world.log_uniform(60, 700))):
        device = world.same_phone(like) if like else None
        person = _person(world, "rush", device, ip=world.new_address(ranges), behave=behave, sight=sight)
        card = None if block is None else world.card(price, block + number, platform=platform)
        steps += _life(world, person, start + world.uniform(0, span_s), price, at_once=world.chance(0.9), card=card)
    return steps


# How often a scenario starts, in proportion: a campus is hundreds of accounts, an owner one.
HONEST: Final[dict[Scenario, float]] = {
    owner: 500.0,
    sudden_owner: 160.0,
    collector: 60.0,
    household: 150.0,
    campus: 2.5,
    company: 6.0,
    shop: 14.0,
    gift: 70.0,
    mover: 60.0,
    undecided: 40.0,
    private_person: 60.0,
    blind_caller: 25.0,
    bulk_import: 0.8,
    rush: 1.0,
}
