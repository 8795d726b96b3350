"""What reviewers ask of the database, across accounts: on the store's connections, each question one statement.

Must not decide anything. Methods raise StoreUnavailable when the database cannot be reached.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from server.domain.evidence import ENTRIES_MAX, AccountRequest, Evidence, SharedTrait, Signal, SimilarCase, signals
from server.domain.review import CLAIM_LEASE, CLAIMS_MAX, Review, ReviewState
from server.store import rows
from server.store.store import PostgresStore

_STORED = {
    ReviewState.CLAIMED: [ReviewState.OPEN],
    ReviewState.EXPIRED: [ReviewState.OPEN, ReviewState.EXPIRED],
}
"""Under which stored states to look for a state as of now, where that is not the state itself."""


class _ExplanationOnRecord(msgspec.Struct):
    """How a score came about, as receipts tell it; whatever else they tell of it is passed over."""

    contributions: list[Signal]


_features = msgspec.json.Decoder(dict[str, float | int | bool | None])
_explanation = msgspec.json.Decoder(_ExplanationOnRecord | None)
_shared = msgspec.json.Decoder(tuple[tuple[SharedTrait, ...], ...])
_requests = msgspec.json.Decoder(tuple[AccountRequest, ...])


class PostgresReviews:
    """Reviews over the same connections as `store`. A reviewer has at most `claims_max` claimed at once."""

    def __init__(self, store: PostgresStore, *, claims_max: int = CLAIMS_MAX) -> None:
        self._query = store.database.query
        self._query_alone = store.database.query_alone
        self._claims_max = claims_max
        self._waiting_card = store.waiting_card

    async def review(self, review_id: UUID) -> Review | None:
        """A review as it stands; None when there is no such."""
        found = await self._query("review", review_id)
        return rows.review(found[0]["review"]).at(found[0]["now"]) if found else None

    async def reviews(
        self, state: ReviewState | None, platform: str | None, after: tuple[datetime, UUID], how_many: int
    ) -> list[Review]:
        """A page of reviews as they stand, oldest first, opened after `after`."""
        stored = _STORED.get(state, [state]) if state else [s for s in ReviewState if s is not ReviewState.CLAIMED]
        found = await self._query("reviews", stored, state, platform, *after, how_many)
        return [rows.review(row["review"]).at(row["now"]) for row in found]

    async def claim(self, review_id: UUID | None, reviewer: str, platform: str | None) -> Review | None:
        """Claims a review, or renews the claim; None when it, or any, could not be had, or the reviewer has enough."""
        found = await self._query_alone(
            f"claims of {reviewer}", "claim_review", review_id, reviewer, CLAIM_LEASE, platform, self._claims_max
        )
        return rows.review(found[0]["review"]).at(found[0]["now"]) if found else None

    async def may_claim(self, reviewer: str) -> bool:
        """Whether a reviewer has fewer claims than one may have."""
        (found,) = await self._query("claims", reviewer)
        return int(found["claims"]) < self._claims_max

    async def evidence(self, review: Review) -> Evidence:
        """What a reviewer is shown beside `review`, as of now."""
        (row,) = await self._query(
            "review_evidence", review.account_id, review.request_id, review.create_time, ENTRIES_MAX
        )
        now = row["now"]
        explanation = _explanation.decode(row["explanation"]) if row["explanation"] else None
        similar = [rows.recycling(each).at(now) for each in row["similar_recyclings"]]
        shared = _shared.decode(row["similar_shared"]) if row["similar_shared"] else ()
        return Evidence(
            now=now,
            signals=signals(
                _features.decode(row["features"]) if row["features"] else {}, explanation and explanation.contributions
            ),
            similar=tuple(
                SimilarCase(shared=traits, recycling=recycling)
                for traits, recycling in zip(shared, similar, strict=True)
            ),
            cards=tuple(
                [
                    (await self._waiting_card(each, after, row["segment"])).at(now)
                    for each, after in zip(row["cards"], row["waits_after"], strict=True)
                ]
            ),
            recyclings=tuple(rows.recycling(each).at(now) for each in row["recyclings"]),
            reviews=tuple(rows.review(each).at(now) for each in row["reviews"]),
            requests=_requests.decode(row["requests"]) if row["requests"] else (),
        )
