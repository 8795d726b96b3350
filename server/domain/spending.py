"""Redeem, Exchange and goodwill: what an account may do with its wallet's value, and what it may be given beyond the
rules. Pure.

None of it is scored: what lies in a wallet was judged when it was recycled, and these requests name no device. The
lists do have a say.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from server.domain.card import DAY
from server.domain.commands import Exchange, Grant, Redeem
from server.domain.errors import Reason, Refusal
from server.domain.lists import ListKind
from server.domain.policy import BenefitKind, ExchangeRate, Offer
from server.domain.recycling import Coupon, TransferKind, Unit
from server.domain.redemption import Redemption
from server.domain.snapshot import Change, Snapshot, Transfer

USAGE_WINDOW = timedelta(days=30)
"""For so long what was redeemed or granted counts against its limit."""

AMOUNT_MAX = 1_000_000_000_000
"""No transfer is larger."""


def check_redeem(command: Redeem, snapshot: Snapshot) -> None:
    offer = _offer(command, snapshot)
    _check_balance(snapshot, command.platform, offer.unit, offer.price)
    if offer.account_max is not None and snapshot.used_30d >= offer.account_max:
        raise Refusal(Reason.LIMIT_EXCEEDED, f"{offer.offer_id} may be taken {offer.account_max} times in 30 days")
    _check_lists(snapshot)


def decide_redeem(command: Redeem, snapshot: Snapshot, redemption_id: UUID) -> Change:
    """The price out of the wallet, the benefit on record, and a coupon into the wallet. A dry run has no id."""
    offer, now = _offer(command, snapshot), snapshot.now
    is_coupon = offer.benefit.kind is BenefitKind.COUPON
    paid = Transfer(
        kind=TransferKind.REDEMPTION,
        platform=command.platform,
        unit=offer.unit,
        amount=-offer.price,
        redemption_id=redemption_id,
    )
    wallet, received, expire_time = snapshot.wallet.after(paid.platform, paid.unit, paid.amount), None, None
    if is_coupon:
        expire_time = now + offer.benefit.valid_days * DAY
        coupon = Coupon(
            coupon_id=redemption_id,
            platform=command.platform,
            basis_points=offer.benefit.basis_points,
            max_discount_minor=offer.benefit.value_minor,
            expire_time=expire_time,
        )
        received = Transfer(
            kind=TransferKind.REDEMPTION,
            platform=command.platform,
            unit=Unit.COUPON,
            amount=1,
            redemption_id=redemption_id,
            coupon=coupon,
        )
        wallet = wallet.after(received.platform, received.unit, received.amount, coupon)
    return Change(
        now=now,
        card=None,
        wallet=wallet,
        transfer=paid,
        in_return=received,
        redemption=Redemption(
            redemption_id=None if command.dry_run else redemption_id,
            request_id=command.request_id,
            account_id=command.account_id,
            platform=command.platform,
            offer_id=offer.offer_id,
            partner=offer.partner,
            title=offer.title,
            unit=offer.unit,
            price=offer.price,
            benefit=offer.benefit,
            expire_time=expire_time,
            policy_revision=snapshot.known_revision(),
            create_time=now,
        ),
        valid_until=snapshot.policy_until,
    )


def check_exchange(command: Exchange, snapshot: Snapshot) -> None:
    rate = _rate(command, snapshot)
    _check_balance(snapshot, command.platform, command.unit, command.amount)
    if command.amount > rate.amount_max:
        raise Refusal(Reason.LIMIT_EXCEEDED, f"at most {rate.amount_max} are changed at once")
    received = rate.changed(command.amount)
    if not 1 <= received <= AMOUNT_MAX:
        raise Refusal(Reason.LIMIT_EXCEEDED, f"{command.amount} would be changed into {received}")
    if received < command.min_amount:
        raise Refusal(Reason.QUOTE_STALE, f"{command.amount} are changed into {received} now, less than wanted")
    _check_lists(snapshot)


def decide_exchange(command: Exchange, snapshot: Snapshot) -> Change:
    """One unit out of the wallet, and another into it."""
    received = _rate(command, snapshot).changed(command.amount)
    wallet = snapshot.wallet.after(command.platform, command.unit, -command.amount)
    return Change(
        now=snapshot.now,
        card=None,
        wallet=wallet.after(command.to_platform, command.to_unit, received),
        transfer=Transfer(
            kind=TransferKind.EXCHANGE, platform=command.platform, unit=command.unit, amount=-command.amount
        ),
        in_return=Transfer(
            kind=TransferKind.EXCHANGE, platform=command.to_platform, unit=command.to_unit, amount=received
        ),
        valid_until=snapshot.policy_until,
    )


def check_grant(command: Grant, snapshot: Snapshot) -> None:
    recycling, rule = snapshot.known_recycling(), snapshot.known_policy().goodwill
    if rule is None:
        raise Refusal(Reason.METHOD_NOT_ALLOWED, f"{recycling.platform} gives no goodwill")
    if command.unit is not rule.unit:
        problem = f"{recycling.platform} gives goodwill in {rule.unit}"
        raise Refusal(Reason.FIELD_INVALID, f"goodwill.unit: {problem}", fields=(("goodwill.unit", problem),))
    if command.amount > rule.amount_max:
        raise Refusal(Reason.LIMIT_EXCEEDED, f"a grant is at most {rule.amount_max}")
    if snapshot.used_30d + command.amount > rule.account_max:
        raise Refusal(Reason.LIMIT_EXCEEDED, f"an account is granted at most {rule.account_max} in 30 days")
    _check_lists(snapshot)


def decide_grant(command: Grant, snapshot: Snapshot) -> Change:
    """Value into the wallet beyond what the recycling pays, which stays as it is. Nothing ever takes it back."""
    recycling = snapshot.known_recycling()
    return Change(
        now=snapshot.now,
        card=snapshot.known_card(),
        recycling=recycling,
        wallet=snapshot.wallet.after(recycling.platform, command.unit, command.amount),
        transfer=Transfer(
            kind=TransferKind.GOODWILL, platform=recycling.platform, unit=command.unit, amount=command.amount
        ),
    )


def _offer(command: Redeem, snapshot: Snapshot) -> Offer:
    offers = snapshot.policy.offers if snapshot.policy is not None else ()
    for offer in offers:
        if offer.offer_id == command.offer_id:
            return offer
    raise Refusal(Reason.OFFER_NOT_FOUND, f"{command.platform} has no such offer now")


def _rate(command: Exchange, snapshot: Snapshot) -> ExchangeRate:
    rates = snapshot.policy.exchange if snapshot.policy is not None else ()
    wanted = (command.unit, command.to_platform, command.to_unit)
    for rate in rates:
        if (rate.unit, rate.to_platform, rate.to_unit) == wanted:
            return rate
    raise Refusal(
        Reason.EXCHANGE_NOT_OFFERED,
        f"{command.platform} {command.unit} is not changed into {command.to_platform} {command.to_unit} now",
    )


def _check_balance(snapshot: Snapshot, platform: str, unit: Unit, amount: int) -> None:
    held = snapshot.wallet.amount(platform, unit)
    if held < amount:
        raise Refusal(Reason.INSUFFICIENT_BALANCE, f"{amount} {platform} {unit} are needed, and {held} are held")


def _check_lists(snapshot: Snapshot) -> None:
    # Not for ever: a DENY entry may end, and what is held can then be used again.
    if any(hit.list is ListKind.DENY for hit in snapshot.facts.list_hits):
        raise Refusal(Reason.WALLET_HELD, "the wallet is held while its account or payout is listed")
