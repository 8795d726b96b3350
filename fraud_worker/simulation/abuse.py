"""The eight families of abuse.

Knows what each family does. They are done by the same kind of hands, a `Crew`: what a crew has and is careless about is
drawn alike for all of them, so that families share mechanics as real ones do, and differ in what gives them away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fraud_worker.simulation.cards import DAY_S, Hand, Scenario, Step, life
from fraud_worker.simulation.events import Behavior, Device
from fraud_worker.simulation.world import Card, World

_SIGHTS: Final = (50, 14, 7, 7, 5, 5, 9, 3, 1)


class Crew:
    """The hands behind one campaign: their devices, lines and habits, and how careful they are."""

    def __init__(
        self,
        world: World,
        family: str,
        *,
        hands: Sequence[float] = (35, 50, 15),
        racks: Sequence[float] = (30, 40, 30),
        lines: Sequence[float] = (35, 28, 37),
        sights: Sequence[float] = _SIGHTS,
    ) -> None:
        """`hands`: how likely a script, piecework, or somebody unhurried. `racks`: ordinary phones, a rack of bought
        ones, emulators. `lines`: a home's, rented ones in homes, a data centre's."""
        self.world = world
        self.family = family
        self.behave = world.weighted((world.script(), world.worker, world.human), hands)
        if world.chance(0.03):
            self.behave = world.blank
        self.rack = world.weighted(("phones", "rack", "emulators"), racks)
        self.like = world.phone() if self.rack == "phones" or world.chance(0.3) else world.rare_phone()
        self.abroad = world.chance(0.35)
        self.contradicted = self.rack == "emulators" and world.chance(0.6)
        self.skewed = world.chance(0.4)
        line = world.weighted(("home", "rented", "hosting"), lines)
        self.home = world.home_address() if line == "home" else None
        self.ranges = [world.hosting_range() if line == "hosting" else world.new_range() for _ in range(4)]
        self.country = None if line == "home" else world.country()
        self.vpn = 0.06 if line == "home" else 0.4
        self.price = world.price() if world.chance(0.65) else None
        self.sight = world.sight(sights)
        self.aged_s = world.log_uniform(3_600, 15 * DAY_S) if world.chance(0.35) else 0.0
        self.takes_back = 0.6 if world.chance(0.35) else 0.0
        self.supplier = self.hand(self.device()) if world.chance(0.3) else None

    def device(self) -> Device:
        """One more device of theirs."""
        world = self.world
        emulator, rooted = {"phones": (0.02, 0.08), "rack": (0.02, 0.4), "emulators": (0.6, 0.4)}[self.rack]
        device = world.same_phone(
            self.like, emulator=emulator, rooted=rooted, vpn=self.vpn, skewed=0.6 if self.skewed else 0.07
        )
        if self.contradicted and world.chance(0.8):
            device = world.contradicted(device)
        return world.abroad(device) if self.abroad and world.chance(0.8) else device

    def address(self) -> str:
        """Where the next request comes from."""
        return self.home or self.world.new_address(self.ranges)

    def hand(self, device: Device, ip: str | None = None, account_id: str | None = None) -> Hand:
        """One of their accounts, new unless given, on a device of theirs."""
        account = account_id or self.world.new_id("a")
        return Hand(self.family, 1, account, device, ip or self.address(), self.behave, self.sight, self.country)

    def cash_out(
        self, hand: Hand, moment: float, *, card: Card | None = None, aged_s: float | None = None
    ) -> list[Step]:
        """A card that is recycled at `moment` or soon after, hardly used; bought then, or `aged_s` earlier.

        Some crews take it back and recycle it again; of some, the cards are bought by one account and used by others.
        """
        world = self.world
        if aged_s is None:
            aged_s = self.aged_s * world.uniform(0.6, 1)
        card = card or world.card(self.price)
        if world.chance(0.75):
            activate_after_s: float | None = aged_s + world.log_uniform(0.001, 60)
            recycle_after_s = world.log_uniform(0.001, 300)
        else:
            activate_after_s, recycle_after_s = None, aged_s + world.log_uniform(0.001, 120)
        steps = life(
            world,
            hand,
            card,
            moment - aged_s,
            activate_after_s=activate_after_s,
            recycle_after_s=recycle_after_s,
            attempts=1 + int(world.chance(0.4)) + int(world.chance(0.07)),
            reactivate_after_s=self.cycles(),
            paid_after_s=world.log_uniform(1, 40_000) if world.chance(0.8) else None,
        )
        if self.supplier and world.chance(0.8):
            steps[0] = (steps[0][0], self.supplier, card, "ISSUE")
        return steps

    def cycles(self) -> list[float]:
        """The pauses before a card is taken back, for each time that it is."""
        world = self.world
        if not world.chance(self.takes_back):
            return []
        cycle_s = world.log_uniform(2, 8_000)
        return [cycle_s * world.uniform(0.3, 2) for _ in range(world.pick((1, 1, 2, 3)))]

    def gaps(self, start: float, count: int, gap_s: float) -> list[float]:
        """`count` moments from `start` on, aged cards allowed for, about `gap_s` apart."""
        moment = start + self.aged_s
        moments = []
        for _ in range(count):
            moments.append(moment)
            moment += gap_s * self.world.rng.expovariate(1)
        return moments


def device_farm(world: World, start: float) -> list[Step]:
    """One to three devices, each with many accounts, seconds to minutes apart; some are wiped now and then."""
    crew = Crew(world, "device_farm")
    return _farmed(crew, start, int(world.log_uniform(8, 80)), world.log_uniform(2, 3_000))


def slow_drip(world: World, start: float) -> list[Step]:
    """The same over days: one more account on the device every few hours, a day or two."""
    crew = Crew(world, "slow_drip", hands=(20, 60, 20), lines=(50, 22, 28))
    return _farmed(crew, start, int(world.log_uniform(6, 40)), world.log_uniform(6_000, 150_000))


def _farmed(crew: Crew, start: float, accounts: int, gap_s: float) -> list[Step]:
    world = crew.world
    rack = [crew.device() for _ in range(world.weighted((1, 2, 3), (65, 22, 13)))]
    wiped_every = world.pick((3, 5, 8)) if world.chance(0.3) else 0
    steps = []
    for number, moment in enumerate(crew.gaps(start, accounts, gap_s)):
        if wiped_every and number % wiped_every == wiped_every - 1:
            rack[number % len(rack)] = crew.device()
        steps += crew.cash_out(crew.hand(rack[number % len(rack)]), moment)
    return steps


def account_ring(world: World, start: float) -> list[Step]:
    """Accounts with devices of their own, or two or three to one, of one make, at one price, from one range."""
    crew = Crew(world, "account_ring", hands=(30, 55, 15), lines=(0, 55, 45), sights=(80, 5, 5, 5, 2, 2, 0, 0, 1))
    crew.price = crew.price or world.price()
    crew.ranges = crew.ranges[:1]
    per_device = world.pick((1, 1, 2, 3))
    return _spread(crew, start, int(world.log_uniform(8, 70)), world.log_uniform(5, 12_000), per_device)


def _spread(crew: Crew, start: float, accounts: int, gap_s: float, per_device: int) -> list[Step]:
    steps = []
    device = crew.device()
    for number, moment in enumerate(crew.gaps(start, accounts, gap_s)):
        if number % per_device == 0:
            device = crew.device()
        steps += crew.cash_out(crew.hand(device), moment)
    return steps


def address_rotation(world: World, start: float) -> list[Step]:
    """Each account from a fresh address, rented or a data centre's; the devices behind are few, or wiped each time."""
    crew = Crew(world, "address_rotation", lines=(0, 45, 55), sights=(70, 10, 0, 10, 5, 0, 0, 0, 5))
    crew.ranges = [
        world.hosting_range() if world.chance(0.55) else world.new_range() for _ in range(world.pick((20, 60, 200)))
    ]
    crew.abroad = world.chance(0.6)
    per_device = world.pick((1, 1, 4, 12, 40))
    return _spread(crew, start, int(world.log_uniform(8, 70)), world.log_uniform(15, 20_000), per_device)


def scripted_burst(world: World, start: float) -> list[Step]:
    """Many accounts within minutes; devices and addresses rotate, the behaviour is a machine's."""
    crew = Crew(
        world, "scripted_burst", hands=(100, 0, 0), racks=(30, 30, 40), lines=(0, 50, 50),
        sights=(70, 0, 15, 10, 0, 0, 0, 5, 0),
    )  # fmt: skip
    crew.aged_s = 0.0
    count = int(world.log_uniform(20, 120))
    return _spread(crew, start, count, world.log_uniform(60, 1500) / count, world.pick((1, 1, 2, 6)))


def ping_pong(world: World, start: float) -> list[Step]:
    """Cards that are recycled and reactivated over and over, for what is paid each time.

    On one account or a few to a device, as many devices as it takes; alone at home, or as one more scheme of a farm.
    """
    crew = Crew(world, "ping_pong", hands=(35, 45, 20), racks=(40, 35, 25), lines=(45, 25, 30))
    rack = [crew.device() for _ in range(world.weighted((1, 2, 3), (65, 22, 13)))]
    cycle_s = world.log_uniform(2, 40_000)
    steps = []
    for moment in crew.gaps(
        start, world.weighted((1, 3, 5, 8, 13), (15, 25, 25, 20, 15)), world.log_uniform(30, 90_000)
    ):
        hand = crew.hand(world.pick(rack))
        card = world.card(crew.price, platform=world.returning_platform())
        cycles = [cycle_s * world.uniform(0.3, 2) for _ in range(int(world.log_uniform(2, 9)))]
        steps += life(
            world,
            hand,
            card,
            moment,
            activate_after_s=world.log_uniform(0.01, 600),
            recycle_after_s=world.log_uniform(0.01, 90_000),
            reactivate_after_s=cycles,
            paid_after_s=world.log_uniform(1, 40_000) if world.chance(0.8) else None,
        )
    return steps


def insider_batch(world: World, start: float) -> list[Step]:
    """Somebody at the seller's takes a block of neighbouring serials for straw accounts, which a few hands recycle."""
    crew = Crew(world, "insider_batch", hands=(15, 60, 25), racks=(55, 30, 15), lines=(45, 30, 25))
    block, platform = world.block() + world.rng.randrange(40), world.platform()
    price = crew.price or world.price()
    phones = [crew.device() for _ in range(world.pick((1, 2, 4, 8)))]
    own_phones = world.chance(0.25)
    straws = int(world.log_uniform(6, 60))
    per_straw = world.pick((1, 1, 2, 3))
    span_s = world.log_uniform(600, 8 * DAY_S)
    steps: list[Step] = []
    hand = crew.hand(phones[0])
    for number in range(straws):
        if number % per_straw == 0:
            hand = crew.hand(crew.device() if own_phones else world.pick(phones))
        card = world.card(price, block + number, platform=platform)
        issued = start + number * world.log_uniform(0.05, 5)
        wait_s = crew.aged_s * world.uniform(0.8, 1) + world.uniform(0, span_s)
        steps += crew.cash_out(hand, issued + wait_s, card=card, aged_s=wait_s)
    return steps


def stolen_cards(world: World, start: float) -> list[Step]:
    """Other people's cards: their accounts are taken over, or the codes are tried on straw accounts.

    The victims' own steps are honest, and of the family `victim`.
    """
    crew = Crew(world, "stolen_cards", hands=(30, 45, 25), lines=(20, 35, 45))
    device = crew.device()
    victims = int(world.log_uniform(2, 25))
    gap_s = world.log_uniform(30, 30_000)
    takes_over = world.chance(0.55)
    held_s = world.log_uniform(0.5 * DAY_S, 12 * DAY_S)
    practised = crew.behave

    def guessing() -> Behavior:
        # Guessed passwords and codes fail first.
        failed = int(world.log_uniform(0.5, 9))
        session = practised()
        if takes_over:
            return session._replace(failed_logins_24h=failed)
        return session._replace(failed_card_entries_24h=failed)

    crew.behave = guessing
    steps: list[Step] = []
    straw = crew.hand(device)
    for number in range(victims):
        moment = start + held_s + number * gap_s * world.uniform(0.3, 1.7)
        if world.chance(0.2):
            device = crew.device()
        victim = Hand("victim", 0, world.new_id("a"), world.phone(), world.home_address(), world.human, world.sight())
        card = world.card()
        issued = moment - held_s * world.uniform(0.1, 1)
        steps.append((issued, victim, card, "ISSUE"))
        if world.chance(0.7):
            steps.append((issued + (moment - issued) * world.uniform(0, 0.9), victim, card, "ACTIVATE"))
        if takes_over:
            thief = crew.hand(device, account_id=victim.account_id)
        elif number % 3 == 0:
            thief = straw = crew.hand(device)
        else:
            thief = straw
        steps.append((moment, thief, card, "RECYCLE"))
        if world.chance(0.5):
            steps.append((moment + world.log_uniform(1, 120), thief, card, "RECYCLE"))
        for gap_s in crew.cycles() if card.returns else ():
            last = steps[-1][0]
            steps.append((last + gap_s, thief, card, "REACTIVATE"))
            steps.append((last + 2 * gap_s, thief, card, "RECYCLE"))
        last = steps[-1][0]
        if world.chance(0.8):
            steps.append((last + world.log_uniform(1, 20_000), thief, card, "COMPENSATE"))
        if world.chance(0.7):
            steps.append((last + world.log_uniform(3_600, 10 * DAY_S), victim, card, "COMPLAINT"))
    return steps


# How many of the requests of abuse are whose.
ABUSE: Final[dict[Scenario, float]] = {
    device_farm: 1.0,
    account_ring: 1.0,
    address_rotation: 1.0,
    scripted_burst: 1.0,
    slow_drip: 1.0,
    ping_pong: 1.0,
    insider_batch: 1.0,
    stolen_cards: 1.0,
}
