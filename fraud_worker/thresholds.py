"""Thresholds: where reviewing and rejecting a request get cheaper than letting it pass.

Knows a cost table and the share of honest requests that may be hit. Must not know models, nor what a band leads to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from fraud_worker.scorer import Thresholds

_MEDIUM_FPR_MAX: Final = 0.01
_HIGH_FPR_MAX: Final = 0.002


class CostsError(ValueError):
    """A cost table cannot be used; the message says why."""


class Costs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each outcome of a request costs, in any one unit.

    At probability p of abuse, approving costs `approve_abuse` p, reviewing `review_any`, rejecting `reject_honest`
    (1 - p).
    """

    approve_abuse: float = 10.0
    review_any: float = 4.0
    reject_honest: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.review_any < min(self.approve_abuse, self.reject_honest):
            raise ValueError("a review must cost something, and less than approving abuse or rejecting the honest")


def read_costs(path: Path) -> Costs:
    """The table in the JSON file `path`; what it leaves out has its default. Raises `CostsError`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Costs)
    except (OSError, msgspec.MsgspecError) as error:
        raise CostsError(f"{path}: {error}") from error


def cheapest(honest: npt.NDArray[np.float64], costs: Costs) -> Thresholds:
    """The cheapest thresholds by `costs`, or higher ones where too many of the `honest` scores reach them."""
    review_pays = costs.review_any / costs.approve_abuse
    reject_pays = 1 - costs.review_any / costs.reject_honest
    medium = max(review_pays, _exceeded_by(honest, _MEDIUM_FPR_MAX))
    return Thresholds(
        medium=medium,
        high=max(medium, reject_pays, _exceeded_by(honest, _HIGH_FPR_MAX)),
        rule=(
            f"medium: at least {review_pays:.2f} (the costs), and at most {_MEDIUM_FPR_MAX:.1%} of the honest reach it;"
            f" high: at least {reject_pays:.2f}, and at most {_HIGH_FPR_MAX:.1%}"
        ),
    )


def _exceeded_by(honest: npt.NDArray[np.float64], share: float) -> float:
    """The least threshold that at most `share` of `honest` reach."""
    descending = np.sort(honest)[::-1]
    return float(np.nextafter(descending[int(share * len(descending))], np.inf))
