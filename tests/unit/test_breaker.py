"""The circuit breaker, attempt by attempt."""

import asyncio

import pytest

from server.breaker import Breaker, BreakerOpen, BreakerState


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    """Opens after two failures, for ten seconds."""
    return Breaker(failures_max=2, pause_s=10.0, monotonic=clock)


def fail(breaker: Breaker) -> None:
    """A failure."""
    with pytest.raises(ZeroDivisionError), breaker.attempt():
        raise ZeroDivisionError


def opened(breaker: Breaker) -> None:
    """Two."""
    fail(breaker)
    fail(breaker)


def state_of(breaker: Breaker) -> BreakerState:
    """As of now: a property that a type checker does not take for constant."""
    return breaker.state


def refuses(breaker: Breaker) -> None:
    """Nothing is let through."""
    with pytest.raises(BreakerOpen), breaker.attempt():
        raise AssertionError("let through")


def test_open_for_a_pause_after_failures_in_a_row(breaker: Breaker, clock: Clock) -> None:
    """Nothing passes until the pause is over."""
    opened(breaker)
    clock.now_s += 9.9
    refuses(breaker)
    assert state_of(breaker) is BreakerState.OPEN
    clock.now_s += 0.1
    assert state_of(breaker) is BreakerState.HALF_OPEN


def test_one_attempt_finds_out_however_long_it_takes(breaker: Breaker, clock: Clock) -> None:
    """While it is under way no other begins, even when another pause has gone by."""
    opened(breaker)
    clock.now_s += 10
    with breaker.attempt():
        clock.now_s += 100
        refuses(breaker)
    assert state_of(breaker) is BreakerState.CLOSED


def test_failed_attempt_opens_again(breaker: Breaker, clock: Clock) -> None:
    """For another pause, and then another attempt is let through."""
    opened(breaker)
    clock.now_s += 10
    fail(breaker)
    refuses(breaker)
    clock.now_s += 10
    fail(breaker)


def test_cancelled_attempt_lets_another_find_out(breaker: Breaker, clock: Clock) -> None:
    """Who is cancelled has found out nothing, and stands in nobody's way."""
    opened(breaker)
    clock.now_s += 10
    with pytest.raises(asyncio.CancelledError), breaker.attempt():
        raise asyncio.CancelledError
    assert state_of(breaker) is BreakerState.HALF_OPEN
    with breaker.attempt():
        pass
    assert state_of(breaker) is BreakerState.CLOSED


def test_success_forgets_failures(breaker: Breaker) -> None:
    """Only failures in a row count."""
    for _ in range(3):
        fail(breaker)
        with breaker.attempt():
            pass
    assert state_of(breaker) is BreakerState.CLOSED


def test_openings_are_counted(breaker: Breaker, clock: Clock) -> None:
    """It opens at the failure that is one too many, and again at each try that fails; not before, nor by a success."""
    fail(breaker)
    assert breaker.opened == 0
    fail(breaker)
    assert breaker.opened == 1
    clock.now_s += 10.0
    fail(breaker)
    assert breaker.opened == 2
    clock.now_s += 10.0
    with breaker.attempt():
        pass
    assert breaker.opened == 2
