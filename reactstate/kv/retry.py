"""Trying again: what a layer above a store does when the store cannot be reached, or does not answer.

Contract
    Engines do not retry. The layers do, here and nowhere else, with an exponential back-off and full jitter, until a
    deadline in seconds of the clock that they were given; all waiting goes through ``clock.sleep``.

    Only what is safe to repeat is repeated: reads, and commits whose written keys carry an expectation, so that a
    second arrival of the same commit is refused. After a lost reply the store is asked what became of the commit
    before anything else is done, and asked again when a repetition is refused, because the first one may have arrived
    late.

    When the deadline passes, ``UnavailableError`` means that nothing was applied, and ``UnknownOutcomeError`` that a
    commit was sent whose fate could not be learned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar, cast

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from reactstate.errors import ConflictError, LeaseLostError, StorageError, UnavailableError, UnknownOutcomeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tenacity import RetryCallState

    from reactstate.clock import Clock

__all__ = ["attempts", "resolve", "until_available"]

T = TypeVar("T")

_FIRST_WAIT_S: Final = 0.01
_LONGEST_WAIT_S: Final = 1.0


class _Unanswered(UnavailableError):  # noqa: N818 - it never leaves this module
    """A commit was sent and not answered."""


def attempts(clock: Clock, deadline: float, *errors: type[Exception]) -> AsyncRetrying:
    """Make the loop that runs an asynchronous function again after *errors*: call it with the function.

    What an attempt raises ends the loop, unless it is one of *errors*; of these the last one is raised when the next
    wait would pass the deadline. The first attempt is always made.

    Args:
        clock: Measures the deadline, and sleeps.
        deadline: Seconds from now.
        errors: After which another attempt is made.
    """
    end = clock.monotonic() + deadline

    def late(state: RetryCallState) -> bool:
        return clock.monotonic() + state.upcoming_sleep >= end

    return AsyncRetrying(
        sleep=clock.sleep,
        stop=late,
        wait=wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S),
        retry=retry_if_exception_type(errors),
        reraise=True,
    )


async def until_available(read: Callable[[], Awaitable[T]], *, clock: Clock, deadline: float) -> T:
    """Return what *read* returns, calling it again while the store cannot be reached.

    Args:
        read: What may be repeated.
        clock: Measures the deadline, and sleeps.
        deadline: For how many seconds.

    Raises:
        UnavailableError: The store stayed out of reach until the deadline.
    """
    began = clock.monotonic()
    try:
        return await read()
    except UnavailableError:
        left = deadline - (clock.monotonic() - began)
        if left <= 0:
            raise

    async def again() -> T:
        return await read()

    return cast("T", await attempts(clock, left, UnavailableError)(again))


async def resolve(
    attempt: Callable[[], Awaitable[T]],
    applied: Callable[[], Awaitable[T | None]],
    *,
    clock: Clock,
    deadline: float,
) -> T:
    """Return what *attempt*, a conditional commit, returns; find out what became of it when its reply is lost.

    Args:
        attempt: Commits. A repetition must be refused with ConflictError when an earlier one was applied: every key
            that it writes carries an expectation.
        applied: Reads what became of the attempts so far: what *attempt* would have returned when one was applied,
            None when none was, as yet. It may raise what ends the loop: ConflictError, or UnknownOutcomeError when
            the store can no longer tell.
        clock: Measures the deadline, and sleeps.
        deadline: For how many seconds.

    Raises:
        ConflictError: The expectation failed, and none of the attempts was applied.
        UnavailableError: The store stayed out of reach until the deadline; nothing was applied.
        UnknownOutcomeError: It is not known whether an attempt was applied.
    """
    uncertain: UnknownOutcomeError | None = None
    began = clock.monotonic()
    try:
        return await attempt()
    except UnavailableError:
        pass
    except UnknownOutcomeError as exc:
        uncertain = exc

    async def again() -> T:
        nonlocal uncertain
        if uncertain is not None and (found := await applied()) is not None:
            return found
        try:
            return await attempt()
        except UnknownOutcomeError as exc:
            uncertain = exc
            raise _Unanswered(str(exc)) from exc
        except LeaseLostError as exc:
            if uncertain is None:
                raise
            raise UnknownOutcomeError(
                "the lock was lost before the store said what became of the commit that it guarded; read what is there"
            ) from exc
        except ConflictError:
            if uncertain is None or (found := await applied()) is None:
                raise
            return found

    left = deadline - (clock.monotonic() - began)
    try:
        return cast("T", await attempts(clock, left, UnavailableError)(again))
    except (UnavailableError, StorageError) as exc:
        if uncertain is None:
            raise
        raise UnknownOutcomeError(
            f"the store gave no answer within {deadline:g} s, so it is not known whether the commit was applied; read "
            "what is there once it can be reached"
        ) from exc
