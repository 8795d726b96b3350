"""Augmentation: rows that a log does not hold, made of what it holds.

Knows which features a fresh device, an aged account and a new address change, and which way each count points. Must not
know how a log is read or trees are grown. Features are named here, and only here, one by one; a name that the registry
lacks is passed over. Unknown stays unknown.

- `disguised`: the log's abuse, had each abuser spent more on hiding. Evidence is only taken away: counts fall to those
  of a first sight and ages rise to those of honest accounts, while what stays (look-alikes, behaviour, serials, the
  profile) is the abuser's own.
- `excessive`: abuse of a kind that the log has not seen, told by one count that hardly any honest request reaches.
- `blanked`: the log's requests, honest and abusive alike, had their caller left things out. So what is unknown speaks
  neither for nor against, whoever happens to leave it out in the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

from fraud_worker.registry import FEATURE_NAMES, FEATURES

Matrix = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]

PARTS: Final = ("device", "age", "address")
"""What an attacker can renew: each account a fresh device, an account grown old before its use, a new address."""

DISGUISES: Final = tuple(parts for size in (1, 2, 3) for parts in combinations(PARTS, size))
"""Every combination of `PARTS`."""

WEIGHT_SHARE: Final = 0.3
"""All disguised copies together weigh this share of the abuse they were made from."""

EXCESS_WEIGHT_SHARE: Final = 0.2
"""All excessive copies together weigh this share of the log's abuse."""

BLANK_WEIGHT_SHARE: Final = 0.1
"""All blanked copies together weigh this share of the log's rows."""

_COPIES_ALWAYS: Final = 10_000
"""So many never cost much time, and a small log needs them most."""

_EXCESS_COPIES_MAX: Final = 10_000
_HONEST_MIN: Final = 50
"""From fewer, nobody can say what the honest do not reach."""
_HONEST_QUANTILE: Final = 0.999
_OLDER_SHARE: Final = 0.7
_GROWTH_MAX: Final = 3
"""From how many times as many later honest rows beyond what the older hardly reach a count counts as growing."""
_SHARE_OF_ONE_COUNT_MAX: Final = 0.1
"""Where few counts are known, these shall not bear the weight of all."""

_AGES: Final = ("account_age_seconds", "card_age_seconds", "card_active_seconds")
"""Drawn together from one honest row, so that they agree with one another."""
_DEVICE_AGE: Final = "device_age_seconds"
_OWN_ONLY: Final = ("device_cards_30d",)
"""A device of one's own has seen one's own card, and no other."""


_OF_DEVICE_ID: Final = ("device_", "linked_", "account_device_is_new")
_OF_DEVICE: Final = (
    "address_", "prefix_", "look_alike_", "profile_", "inconsistencies", "emulator", "rooted", "vpn",
    "clock_skew_seconds", "hosting", "timezone_mismatch",
)  # fmt: skip
_OF_BEHAVIOR: Final = (
    "failed_", "session_seconds", "page_views", "seconds_since_login", "form_fill_ms", "captcha_failures",
    "copy_paste_used",
)  # fmt: skip


def _named(*prefixes: str) -> tuple[int, ...]:
    return tuple(column for column, name in enumerate(FEATURE_NAMES) if name.startswith(prefixes))


BLANKS: Final = (
    _named(*_OF_DEVICE_ID),
    _named(*_OF_DEVICE_ID, *_OF_DEVICE),
    _named(*_OF_DEVICE_ID, *_OF_DEVICE, *_OF_BEHAVIOR),
)
"""What a caller leaves out: the device's id, the device with its address, or device and behaviour; as columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Rows to train on beside the real ones."""

    features: Matrix
    labels: Labels
    weights: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.weights)


def disguised(
    features: Matrix,
    labels: Labels,
    *,
    seed: int,
    disguises: tuple[tuple[str, ...], ...] = DISGUISES,
    weight_share: float = WEIGHT_SHARE,
) -> Copies:
    """Copies of the abusive rows under each of `disguises`; rows that a disguise does not change give no copy.

    At most as many copies as rows, or 10,000, drawn by `seed`; their weights sum to at most `weight_share` of those of
    the abusive rows.
    """
    draw = np.random.default_rng(seed)
    abuse, honest = features[labels == 1], features[labels == 0]
    made = [_changed(abuse, _disguise(abuse, honest, parts, draw)) for parts in disguises]
    copies = np.concatenate(made) if made else abuse[:0]
    most = max(len(features), _COPIES_ALWAYS)
    if len(copies) > most:
        copies = copies[np.sort(draw.choice(len(copies), most, replace=False))]
    # A disguise that changes nothing leaves its weight to nobody.
    possible = max(1, min(len(abuse) * len(disguises), most))
    return _abusive(copies, weight_share * len(abuse) / possible)


def excessive(features: Matrix, labels: Labels, *, seed: int, weight_share: float = EXCESS_WEIGHT_SHARE) -> Copies:
    """Copies of honest rows, in each of which one risk count lies above nearly all the honest of the log.

    The rows are in the order of time. At most half as many copies as rows, or 10,000. Passed over are counts that the
    honest themselves fill to near their cap, and those whose bound the honest outgrow, as happens with what is counted
    since ever: soon many of them would be where abuse was taught to be. One count bears at most a tenth of the weight.
    """
    draw = np.random.default_rng(seed)
    honest = features[labels == 0]
    bounds = {
        column: bound
        for column, feature in enumerate(FEATURES)
        if feature.unit == "count" and feature.direction == 1
        for bound in [_hardly_reached(honest[:, column])]
        if 3 * bound + 3 <= feature.highest and not _grows(honest[:, column])
    }
    each = max(1, min(len(features) // 2, _EXCESS_COPIES_MAX) // max(1, len(bounds)))
    made = [honest[:0]]
    for column, bound in bounds.items():
        known = honest[~np.isnan(honest[:, column])]
        rows = known[draw.integers(0, len(known), each)]
        rows[:, column] = np.round(draw.uniform(bound + 1, 3 * bound + 3, each))
        made.append(rows)
    copies = np.concatenate(made)
    weight = weight_share * float((labels == 1).sum()) * min(1.0, len(bounds) * _SHARE_OF_ONE_COUNT_MAX)
    return _abusive(copies, weight / max(1, len(copies)))


def blanked(
    features: Matrix,
    labels: Labels,
    weights: npt.NDArray[np.float64],
    *,
    seed: int,
    weight_share: float = BLANK_WEIGHT_SHARE,
) -> Copies:
    """Copies of all rows, under each of `BLANKS`; at most as many as rows, or 10,000, drawn by `seed`."""
    most = max(len(features), _COPIES_ALWAYS)
    rows, blanks = (part.ravel() for part in np.indices((len(features), len(BLANKS))))
    if len(rows) > most:
        chosen = np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False))
        rows, blanks = rows[chosen], blanks[chosen]
    copies = features[rows]
    for number, columns in enumerate(BLANKS):
        copies[np.ix_(blanks == number, list(columns))] = np.nan
    weighed = weights[rows]
    return Copies(
        features=copies,
        labels=labels[rows],
        weights=weighed * (weight_share * weights.sum() / max(weighed.sum(), np.finfo(float).tiny)),
    )


def _abusive(copies: Matrix, weight: float) -> Copies:
    return Copies(features=copies, labels=np.ones(len(copies), dtype=np.int8), weights=np.full(len(copies), weight))


def _hardly_reached(values: Matrix) -> float:
    known = values[~np.isnan(values)]
    return float(np.quantile(known, _HONEST_QUANTILE, method="higher")) if len(known) >= _HONEST_MIN else np.inf


def _grows(values: Matrix) -> bool:
    """Whether later rows exceed what the older hardly reach much more often than those, and not by mere chance."""
    older, later = np.split(values, [int(len(values) * _OLDER_SHARE)])
    later = later[~np.isnan(later)]
    expected = (1 - _HONEST_QUANTILE) * len(later)
    return int((later > _hardly_reached(older)).sum()) > _GROWTH_MAX * (expected + 1)


def together(*parts: Copies) -> Copies:
    """All of `parts`."""
    return Copies(
        features=np.concatenate([part.features for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        weights=np.concatenate([part.weights for part in parts]),
    )


def _disguise(abuse: Matrix, honest: Matrix, parts: tuple[str, ...], draw: np.random.Generator) -> Matrix:
    rows = abuse.copy()
    if "age" in parts:
        _grow_old(rows, honest, draw)
    if "device" in parts:
        _renew_device(rows, draw)
    if "address" in parts:
        for column in _columns("address_", "prefix_"):
            _set(rows, column, 0.0)
    return rows


def _grow_old(rows: Matrix, honest: Matrix, draw: np.random.Generator) -> None:
    """An account that grew old elsewhere before it came here: bought, or kept in store. Device and address stay."""
    ages = [FEATURE_NAMES.index(name) for name in _AGES if name in FEATURE_NAMES]
    donors = honest[np.isfinite(honest[:, ages]).any(axis=1)]
    if not len(donors):
        return
    donor = donors[draw.integers(0, len(donors), len(rows))]
    for column in ages:
        _set(rows, column, np.where(np.isnan(donor[:, column]), rows[:, column], donor[:, column]))


def _renew_device(rows: Matrix, draw: np.random.Generator) -> None:
    for column in _columns("device_", "linked_"):
        _set(rows, column, np.fmin(rows[:, column], 1.0) if FEATURE_NAMES[column] in _OWN_ONLY else 0.0)
    # Half of them first show it now, half have had it for as long as the account.
    account_age = rows[:, FEATURE_NAMES.index(_AGES[0])]
    with_account = draw.random(len(rows)) < 0.5
    _set(rows, FEATURE_NAMES.index(_DEVICE_AGE), np.where(with_account & np.isfinite(account_age), account_age, 0.0))


def _columns(*prefixes: str) -> list[int]:
    """The risk counts and flags of a trace: what more of raises the score, and a first sight has none of."""
    return [
        column
        for column, feature in enumerate(FEATURES)
        if feature.name.startswith(prefixes) and feature.direction == 1
    ]


def _set(rows: Matrix, column: int, value: float | Matrix) -> None:
    rows[:, column] = np.where(np.isnan(rows[:, column]), np.nan, value)


def _changed(before: Matrix, after: Matrix) -> Matrix:
    same = (before == after) | (np.isnan(before) & np.isnan(after))
    changed: Matrix = after[~same.all(axis=1)]
    return changed
