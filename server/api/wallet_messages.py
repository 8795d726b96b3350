"""Wallets, and what they can be used for, to messages: names and units only. Must not decide or look anything up."""

from __future__ import annotations

from card_recycling.v1 import types_pb2
from card_recycling.v1 import wallet_service_pb2 as pb

from server.api import names
from server.api.times import timestamp
from server.domain.policy import Benefit, ExchangeRate, Offer
from server.domain.recycling import Wallet
from server.domain.redemption import Redemption
from server.domain.wallet import Market, Posting


def wallet_message(wallet: Wallet) -> types_pb2.Wallet:
    """What an account holds."""
    return types_pb2.Wallet(
        account_id=wallet.account_id,
        balances=[
            types_pb2.Balance(
                platform=balance.platform,
                unit=names.UNIT.number(balance.unit),  # type: ignore[arg-type]
                amount=balance.amount,
            )
            for balance in wallet.balances
        ],
        coupons=[
            types_pb2.Coupon(
                coupon_id=str(coupon.coupon_id),
                platform=coupon.platform,
                basis_points=coupon.basis_points,
                max_discount_minor=coupon.max_discount_minor,
                expire_time=timestamp(coupon.expire_time),
            )
            for coupon in wallet.coupons
        ],
    )


def redemption_message(redemption: Redemption) -> pb.Redemption:
    """One offer taken."""
    return pb.Redemption(
        redemption_id=str(redemption.redemption_id or ""),
        request_id=str(redemption.request_id or ""),
        account_id=redemption.account_id,
        platform=redemption.platform,
        offer_id=redemption.offer_id,
        partner=redemption.partner,
        title=redemption.title,
        unit=names.UNIT.number(redemption.unit),  # type: ignore[arg-type]
        price=redemption.price,
        benefit=_benefit_message(redemption.benefit),
        expire_time=timestamp(redemption.expire_time),
        policy_revision=f"{redemption.platform}@{redemption.policy_revision}",
        create_time=timestamp(redemption.create_time),
    )


def posting_message(posting: Posting) -> pb.Posting:
    """A wallet's leg of a transfer."""
    return pb.Posting(
        posting_id=str(posting.posting_id),
        request_id=str(posting.request_id),
        kind=names.POSTING_KIND.number(posting.kind),  # type: ignore[arg-type]
        platform=posting.platform,
        unit=names.UNIT.number(posting.unit),  # type: ignore[arg-type]
        amount=posting.amount,
        recycling_id=str(posting.recycling_id or ""),
        redemption_id=str(posting.redemption_id or ""),
        create_time=timestamp(posting.create_time),
    )


def offer_message(market: Market, offer: Offer, wallet: Wallet | None) -> pb.Offer:
    """An offer in force; whether the owner of `wallet` could take it, where one is given."""
    return pb.Offer(
        platform=market.policy.platform,
        offer_id=offer.offer_id,
        partner=offer.partner,
        title=offer.title,
        unit=names.UNIT.number(offer.unit),  # type: ignore[arg-type]
        price=offer.price,
        benefit=_benefit_message(offer.benefit),
        account_max=offer.account_max,
        policy_revision=market.revision_name,
        affordable=None if wallet is None else market.is_affordable(offer, wallet),
    )


def rate_message(market: Market, rate: ExchangeRate) -> pb.ExchangeRate:
    """A rate in force."""
    return pb.ExchangeRate(
        platform=market.policy.platform,
        unit=names.UNIT.number(rate.unit),  # type: ignore[arg-type]
        to_platform=rate.to_platform,
        to_unit=names.UNIT.number(rate.to_unit),  # type: ignore[arg-type]
        give=rate.give,
        get=rate.get,
        spread_basis_points=rate.spread_basis_points,
        amount_max=rate.amount_max,
        policy_revision=market.revision_name,
    )


def _benefit_message(benefit: Benefit) -> pb.Benefit:
    return pb.Benefit(
        kind=names.BENEFIT_KIND.number(benefit.kind),  # type: ignore[arg-type]
        value_minor=benefit.value_minor,
        basis_points=benefit.basis_points,
        valid_days=benefit.valid_days,
    )
