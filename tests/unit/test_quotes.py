"""Quotes: what a token binds, how long it is good, and that nothing else passes for one."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.card import DAY, Card
from server.domain.compensation import terms
from server.domain.errors import Reason
from server.domain.quote import QuoteSigner, promised
from server.domain.recycling import Disposition, RecycleReason
from server.domain.snapshot import Conversion, Conversions
from tests.builders import (
    HIGH,
    MEDIUM,
    MICROSECOND,
    NOW,
    PLATFORMS,
    SIGNER,
    Account,
    active,
    document,
    issued,
    refused,
    shipped,
)

VOLUNTARY, VOUCHER = RecycleReason.VOLUNTARY, Disposition.VOUCHER
CARD = active("iqiyi", unused=18 * DAY)
TERMS = terms(CARD, shipped("iqiyi"), NOW)
TOKEN = SIGNER.sign(CARD, VOLUNTARY, "iqiyi@1", TERMS, VOUCHER, None, NOW + DAY)


def takeable(platform: str) -> Card:
    """A card that its platform takes back, and whose price does not step soon."""
    if platform == "netflix":
        return active("netflix", unused=-30 * DAY)
    return active(platform, unused=18 * DAY + timedelta(hours=1), paid_minor=30)


def test_token_holds_its_own_terms() -> None:
    """What was signed is good until its expiry."""
    assert SIGNER.holds(TOKEN, CARD, VOLUNTARY, "iqiyi@1", TERMS, VOUCHER, NOW) == NOW + DAY


@pytest.mark.parametrize(
    "card",
    [
        replace(CARD, account_id="account-2"),
        replace(CARD, card_id=UUID(int=7)),
        replace(CARD, version=CARD.version + 1),
    ],
)
def test_token_binds_account_card_and_version(card: Card) -> None:
    """It is for one card of one account, unchanged since."""
    assert SIGNER.holds(TOKEN, card, VOLUNTARY, "iqiyi@1", TERMS, VOUCHER, NOW) is None


def test_token_binds_reason_and_revision() -> None:
    """Another reason or another revision of the policy makes it stale."""
    assert SIGNER.holds(TOKEN, CARD, RecycleReason.EXPIRED, "iqiyi@1", TERMS, VOUCHER, NOW) is None
    assert SIGNER.holds(TOKEN, CARD, VOLUNTARY, "iqiyi@2", TERMS, VOUCHER, NOW) is None


def test_token_binds_fee_and_compensation() -> None:
    """One minor unit of difference, or no compensation at all, makes it stale."""
    assert TERMS.compensation is not None
    dearer = replace(TERMS, fee_minor=TERMS.fee_minor + 1)
    richer = replace(TERMS, compensation=replace(TERMS.compensation, amount=TERMS.compensation.amount + 1))
    for changed in (dearer, richer, replace(TERMS, compensation=None)):
        assert SIGNER.holds(TOKEN, CARD, VOLUNTARY, "iqiyi@1", changed, VOUCHER, NOW) is None


def test_token_of_another_key_is_stale() -> None:
    """Only the servers' own key makes tokens."""
    foreign = QuoteSigner(b"some other quote key").sign(CARD, VOLUNTARY, "iqiyi@1", TERMS, VOUCHER, None, NOW + DAY)
    assert SIGNER.holds(foreign, CARD, VOLUNTARY, "iqiyi@1", TERMS, VOUCHER, NOW) is None


def test_expiry_cannot_be_moved() -> None:
    """The expiry in the token is covered by its MAC."""
    expiry, _, mac = TOKEN.partition(".")
    for moved in (f"{int(expiry) + 1}.{mac}", f"0{expiry}.{mac}", f"{expiry}.{mac}="):
        assert SIGNER.holds(moved, CARD, VOLUNTARY, "iqiyi@1", TERMS, VOUCHER, NOW) is None


def test_expiry_is_exclusive() -> None:
    """Good up to a microsecond before its expiry."""
    assert SIGNER.holds(TOKEN, CARD, VOLUNTARY, "iqiyi@1", TERMS, VOUCHER, NOW + DAY - MICROSECOND) is not None
    assert SIGNER.holds(TOKEN, CARD, VOLUNTARY, "iqiyi@1", TERMS, VOUCHER, NOW + DAY) is None


@given(
    st.text(max_size=1_024)
    | st.from_regex(r"\A[0-9]{1,30}\.[A-Za-z0-9_-]{0,60}\Z")
    | st.sampled_from(["٣.x", "1", ".", "-1.x", "1e3.x", "²." + "x" * 43, "9" * 1_024, "0." * 500, TOKEN + "x"])
)
def test_garbage_is_stale(token: str) -> None:
    """No text but a token of ours passes, and none makes the check fail."""
    assert SIGNER.holds(token, CARD, VOLUNTARY, "iqiyi@1", TERMS, VOUCHER, NOW) is None


def test_forged_token_refuses_the_recycle() -> None:
    """QUOTE_STALE is the answer to a token that is not ours."""
    with refused(Reason.QUOTE_STALE):
        Account(CARD).recycle(quote_token="1.forged")


def test_key_needs_sixteen_bytes() -> None:
    """A short key is a mistake in the configuration."""
    with pytest.raises(ValueError, match="16"):
        QuoteSigner(b"x" * 15)


def test_token_binds_the_disposition() -> None:
    """What becomes of the card is part of what was quoted."""
    assert SIGNER.holds(TOKEN, CARD, VOLUNTARY, "iqiyi@1", TERMS, Disposition.CANCEL, NOW) is None


CONVERSIONS = Conversions(
    model_version="0123456789ab",
    of=(
        Conversion(disposition=Disposition.RESET_VALIDITY, probability=0.1 + 0.2, support=812),
        Conversion(disposition=Disposition.CANCEL, probability=1e-7, support=0),
    ),
)


def test_token_brings_what_the_model_said() -> None:
    """To the last bit; and no other word passes for it."""
    token = SIGNER.sign(CARD, VOLUNTARY, "iqiyi@1", TERMS, VOUCHER, CONVERSIONS, NOW + DAY)
    assert promised(token) == CONVERSIONS
    assert SIGNER.holds(token, CARD, VOLUNTARY, "iqiyi@1", TERMS, VOUCHER, NOW) == NOW + DAY
    for forged in (token.replace("812", "813"), token.replace("0123", "3123"), TOKEN + token[len(TOKEN) :]):
        assert SIGNER.holds(forged, CARD, VOLUNTARY, "iqiyi@1", TERMS, VOUCHER, NOW) is None


@pytest.mark.parametrize("told", ["CANCEL:0.5", "GIFT:0.5:1", "CANCEL:nan:1", "CANCEL:0.5:" + "9" * 900, "", "x,y"])
def test_senseless_words_in_a_token_are_none(told: str) -> None:
    """Anybody can write a token; nothing in it makes the check fail."""
    assert promised(f"1.mac.model.{told}") is None


# The quote as a command


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("after", [timedelta(0), timedelta(minutes=5) - MICROSECOND])
def test_quoted_terms_are_those_of_the_recycle(platform: str, after: timedelta) -> None:
    """Whoever recycles with the token, up to its last microsecond, gets what was quoted."""
    account = Account(takeable(platform))
    quote = account.quote()
    assert quote.quote_expire_time == NOW + timedelta(minutes=5)
    account.now += after
    account.recycle(quote_token=quote.quote_token)
    assert quote.recycling is not None
    quoted, got = quote.recycling.compensation, account.compensation
    assert quoted is not None
    assert (quoted.unit, quoted.amount, quoted.max_discount_minor) == (got.unit, got.amount, got.max_discount_minor)
    assert account.recycling.fee_minor == quote.recycling.fee_minor


@pytest.mark.parametrize("platform", PLATFORMS)
def test_quote_lasts_five_minutes(platform: str) -> None:
    """From then on the token is stale, though the price is still the same."""
    account = Account(takeable(platform))
    token = account.quote().quote_token
    account.now += timedelta(minutes=5)
    with refused(Reason.QUOTE_STALE):
        account.recycle(quote_token=token)


def test_quote_ends_when_the_price_steps() -> None:
    """A price that falls within the five minutes ends the quote then."""
    account = Account(active("tencent", unused=18 * DAY + timedelta(minutes=2)))
    quote = account.quote()
    assert quote.quote_expire_time == NOW + timedelta(minutes=2) + MICROSECOND
    account.now += timedelta(minutes=2) + MICROSECOND
    with refused(Reason.QUOTE_STALE):
        account.recycle(quote_token=quote.quote_token)


def test_quote_ends_when_the_card_does() -> None:
    """An ISSUED card's quote ends with the time to activate it."""
    bound = NOW + timedelta(minutes=1)
    assert Account(issued("iqiyi", activate_by_time=bound)).quote().quote_expire_time == bound


@given(st.integers(1, 10**12), st.integers(1, 30 * DAY // MICROSECOND), st.integers(0, 300_000_000))
def test_live_token_never_meets_other_terms(paid: int, unused_us: int, after_us: int) -> None:
    """Before its expiry a token for an unchanged card is never stale, at any price and moment."""
    account = Account(active("iqiyi", unused=unused_us * MICROSECOND, paid_minor=paid))
    quote = account.quote()
    assert quote.quote_expire_time is not None
    account.now = min(NOW + after_us * MICROSECOND, quote.quote_expire_time - MICROSECOND)
    account.recycle(quote_token=quote.quote_token)


def test_changed_card_makes_the_quote_stale() -> None:
    """Activating the card in between changes its version."""
    account = Account(issued("iqiyi"))
    token = account.quote().quote_token
    account.activate()
    with refused(Reason.QUOTE_STALE):
        account.recycle(quote_token=token)


def test_quote_does_not_outlive_a_reactivation() -> None:
    """The next generation is another version of the card, though its price is the same."""
    account = Account(takeable("iqiyi"))
    token = account.quote().quote_token
    account.recycle()
    account.reactivate()
    with refused(Reason.QUOTE_STALE):
        account.recycle(quote_token=token)


def test_refused_quote_has_no_token() -> None:
    """Terms that would be refused are not held."""
    quote = Account(takeable("iqiyi")).quote(HIGH)
    assert quote.refused
    assert (quote.quote_token, quote.quote_expire_time) == ("", None)


def test_quoted_terms_hold_through_a_review() -> None:
    """A quote that would have to wait for a verdict has a token, and a recycle that redeems it waits on its terms."""
    account = Account(takeable("iqiyi"))
    quote = account.quote(MEDIUM)
    assert quote.held and not account.reviews
    held = account.recycle(MEDIUM, quote_token=quote.quote_token).recycling
    assert held is not None and quote.recycling is not None
    assert (held.fee_minor, held.compensation) == (quote.recycling.fee_minor, quote.recycling.compensation)


def test_risk_is_judged_afresh() -> None:
    """A good token does not save a request that has become suspicious."""
    account = Account(takeable("iqiyi"))
    token = account.quote().quote_token
    assert account.recycle(HIGH, quote_token=token).refused


def test_decision_under_a_quote_holds_no_longer_than_it() -> None:
    """A recycle decided within the quote must be recorded within it, too."""
    account = Account(takeable("iqiyi"))
    token = account.quote().quote_token
    assert account.recycle(quote_token=token).valid_until == NOW + timedelta(minutes=5)


def test_new_revision_makes_the_quote_stale() -> None:
    """The revision that quoted must be the one that decides, whatever it says."""
    assert document("iqiyi")["fee_basis_points"] == 1_000
    token = SIGNER.sign(CARD, VOLUNTARY, "iqiyi@0", TERMS, VOUCHER, None, NOW + timedelta(minutes=5))
    with refused(Reason.QUOTE_STALE):
        Account(CARD).recycle(quote_token=token)
