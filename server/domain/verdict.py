"""ResolveReview, and the lapse of a hold that nobody resolves: what the end of a review makes of things. Pure."""

from __future__ import annotations

from dataclasses import replace

from server.domain.card import CardEventKind
from server.domain.commands import Lapse, Resolve
from server.domain.errors import Reason, Refusal
from server.domain.reactivate import check_conditions, reactivated, waiting
from server.domain.recycle import taken
from server.domain.recycling import REVIEW_DENIED, REVIEW_EXPIRED, CompensationState
from server.domain.review import Review, ReviewKind, ReviewState, ReviewVerdict
from server.domain.snapshot import Change, Snapshot


def check_lapse(command: Lapse, snapshot: Snapshot) -> None:
    review = snapshot.known_review(command.review_id)
    if not review.is_lapsed_at(snapshot.now):
        raise Refusal(Reason.REVIEW_STATE_INVALID, "the hold has not lapsed, or has ended already")


def check_resolve(command: Resolve, snapshot: Snapshot) -> None:
    review = snapshot.known_review(command.review_id).at(snapshot.now)
    if review.state not in (ReviewState.OPEN, ReviewState.CLAIMED):
        raise Refusal(Reason.REVIEW_STATE_INVALID, f"the review is {review.state} already")
    if review.claimed_by is not None and review.claimed_by != command.reviewer:
        raise Refusal(Reason.REVIEW_CLAIMED, "another reviewer has claimed the review")
    if command.etag and command.etag != review.etag:
        raise Refusal(Reason.ETAG_MISMATCH, f"the review's etag is {review.etag}")
    if review.kind is ReviewKind.REACTIVATE and command.verdict is ReviewVerdict.APPROVE:
        check_conditions(snapshot)


def decide_lapse(command: Lapse, snapshot: Snapshot) -> Change:
    """As of the hold's end, whenever that is recorded."""
    review = snapshot.known_review(command.review_id)
    assert review.hold_until is not None
    ended = review.ended(ReviewState.EXPIRED, review.hold_until)
    return _not_granted(replace(snapshot, now=review.hold_until), ended, REVIEW_EXPIRED)


def decide_resolve(command: Resolve, snapshot: Snapshot) -> Change:
    """The verdict's effect. It must be recorded before the hold lapses."""
    review, now = snapshot.known_review(command.review_id), snapshot.now
    approved = command.verdict is ReviewVerdict.APPROVE
    state = ReviewState.APPROVED if approved else ReviewState.DENIED
    ended = review.ended(state, now, reviewer=command.reviewer, note=command.note)
    if review.kind is ReviewKind.SETTLEMENT:
        return _settlement(snapshot, ended)
    change = _granted(snapshot, ended) if approved else _not_granted(snapshot, ended, REVIEW_DENIED)
    return replace(change, valid_until=review.hold_until)


def _granted(snapshot: Snapshot, review: Review) -> Change:
    """What was held is done: a recycle on the terms of its own moment, a reactivation as of the verdict's."""
    if review.kind is ReviewKind.REACTIVATE:
        change = reactivated(snapshot)
        return replace(change, reviews=(review, *change.reviews))
    recycling = snapshot.known_recycling().approved()
    assert recycling.recycling_id is not None
    return Change(
        now=snapshot.now,
        card=taken(snapshot.known_card(), recycling, recycling.recycling_id, snapshot.known_policy()),
        card_event=CardEventKind.RECYCLED,
        recycling=recycling,
        recycling_changed=True,
        reviews=(review,),
    )


def _not_granted(snapshot: Snapshot, review: Review, reason_code: str) -> Change:
    """The card free again, with what it had. A denied reactivation gives back the window's unused move."""
    recycling, card, now = snapshot.known_recycling(), snapshot.known_card(), snapshot.now
    assert review.hold_until is not None
    changed = None
    if review.kind is ReviewKind.RECYCLE:
        changed = recycling.rejected(reason_code)
    elif now < review.hold_until:
        unused = review.hold_until - now
        changed = replace(recycling, window_moved=recycling.window_moved - unused, version=recycling.version + 1)
        card = waiting(card, changed, snapshot.known_policy())
    return Change(
        now=now,
        card=card.released(now),
        card_event=CardEventKind.RELEASED,
        recycling=changed or recycling,
        recycling_changed=changed is not None,
        reviews=(review,),
    )


def _settlement(snapshot: Snapshot, review: Review) -> Change:
    """What is owed may be paid, or never will be; the card is not touched."""
    recycling = snapshot.known_recycling()
    owed = recycling.compensation
    assert owed is not None and owed.state is CompensationState.PENDING, "a settled compensation waits for no review"
    if review.state is ReviewState.DENIED:
        owed = replace(owed, state=CompensationState.BLOCKED)
    return Change(
        now=snapshot.now,
        card=snapshot.known_card(),
        recycling=replace(recycling, settlement_held=False, compensation=owed, version=recycling.version + 1),
        recycling_changed=True,
        reviews=(review,),
    )
