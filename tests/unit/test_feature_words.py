"""What reviewers are told of features when no scorer explained them."""

import pytest

from fraud_worker.registry import FEATURES
from server.domain.evidence import Signal, signals
from server.domain.feature_words import MEANINGS, sentence


def test_words_are_those_of_the_registry() -> None:
    """Each feature of the registry, and no other, has the unit, meaning and window that the registry gives it."""
    told = {feature.name: (feature.unit, feature.meaning.partition(";")[0], feature.window) for feature in FEATURES}
    assert told == MEANINGS


@pytest.mark.parametrize(
    ("feature", "value", "said"),
    [
        ("device_accounts_1h", 3, "Other accounts first seen on this device in the last hour: 3."),
        ("device_accounts_ever", 0, "Other accounts first seen on this device: 0."),
        ("account_recycles_24h", 1200, "Recycle attempts of this account in the last 24 hours: 1,200."),
        ("emulator", True, "The device is an emulator: yes."),
        ("emulator", False, "The device is an emulator: no."),
        ("vpn", 1.0, "The request came through a VPN: yes."),
        ("device_age_seconds", 0.0, "Since the device was first seen: 0 seconds."),
        ("device_age_seconds", 129_600.0, "Since the device was first seen: 1.5 days."),
        ("session_seconds", 61.0, "Length of the session: 1 minute."),
        ("form_fill_ms", 1500, "How long filling in the form took: 1.5 seconds."),
        ("amount_minor", 2999, "What was paid for the card: 2,999 minor units."),
        ("account_gap_seconds", 7200.0, "Since this account's last recycle attempt in the last 30 days: 2 hours."),
        ("hosting", True, "The address lies in a hosting provider's range: yes."),
        ("of_tomorrow_1h", 2, "Of tomorrow 1h: 2."),
    ],
)  # fmt: skip
def test_value_is_told_in_words(feature: str, value: float, said: str) -> None:
    """Meaning, window and value make one sentence, in units that people use; the unknown feature keeps its name."""
    assert sentence(feature, value) == said


def test_no_bare_name_is_shown() -> None:
    """Every known feature is told as a sentence without its name; what is unknown is left out."""
    told = signals({feature.name: 1.0 for feature in FEATURES} | {"vpn": None}, None)
    assert [signal.feature for signal in told] == [feature.name for feature in FEATURES if feature.name != "vpn"]
    for signal in told:
        assert "_" not in signal.sentence and signal.sentence[0].isupper() and signal.sentence.endswith(".")


def test_scorers_own_words_come_first() -> None:
    """Where the scorer explained its score, that is what is shown."""
    own = Signal(feature="vpn", value=1.0, sentence="The scorer's words.", contribution=0.4)
    assert signals({"vpn": True}, [own]) == (own,)
