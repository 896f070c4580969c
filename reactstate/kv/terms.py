"""What every engine checks and computes in the same way: keys, steps, sizes, times to live, counters.

All of it happens before anything is sent or written.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from reactstate.errors import ConflictError, InvalidKeyError, LimitExceededError, NotACounterError
from reactstate.kv.protocol import ABSENT, ANY, Add, Delete, Put, RangeExpect, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reactstate.kv.protocol import Entry, Limits, Ttl

__all__ = [
    "MAX_DEADLINE_MS",
    "add",
    "check_bound",
    "check_commit",
    "check_key",
    "check_value",
    "conflict",
    "deadline_of",
    "expects",
    "prefix_end",
    "span",
    "to_deadline",
    "to_moment",
    "ttl_ms",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_DAY_MS = 86_400_000

MAX_DEADLINE_MS: Final = 253_402_300_799_999
"""The last millisecond that a datetime can name (the year 9999)."""

_MIN_COUNTER, _MAX_COUNTER = -(1 << 63), (1 << 63) - 1
_MAX_DIGITS = 20


def check_key(key: Any, limits: Limits) -> None:
    """Refuse what cannot be a key.

    Raises:
        InvalidKeyError: It is no text, empty, or not encodable as UTF-8.
        LimitExceededError: It is longer than the engine takes.
    """
    if not isinstance(key, str):
        raise InvalidKeyError(f"a key is text, not a {type(key).__name__}")
    if not key:
        raise InvalidKeyError("a key is not empty; give it a name")
    size = len(key)
    if not key.isascii():
        try:
            size = len(key.encode())
        except UnicodeEncodeError as exc:
            raise InvalidKeyError(f"the key {key[:40]!r} holds a lone surrogate, which no store can keep") from exc
    if size > limits.max_key_bytes:
        raise LimitExceededError(
            f"a key of {size} bytes is longer than the {limits.max_key_bytes} that this store takes",
            limit=limits.max_key_bytes,
            actual=size,
        )


def check_bound(bound: Any) -> None:
    """Refuse what cannot be the prefix, start or end of a range of keys; the empty text can."""
    if not isinstance(bound, str):
        raise InvalidKeyError(f"a prefix or bound is text, not a {type(bound).__name__}")
    if not bound.isascii():
        try:
            bound.encode()
        except UnicodeEncodeError as exc:
            raise InvalidKeyError(f"{bound[:40]!r} holds a lone surrogate, which no key can") from exc


def check_value(value: Any, limits: Limits) -> None:
    """Refuse what cannot be a value.

    Raises:
        TypeError: It is not bytes.
        LimitExceededError: It is larger than the engine takes.
    """
    if type(value) is not bytes:
        raise TypeError(f"a value is bytes, not a {type(value).__name__}; encode it first")
    if len(value) > limits.max_value_bytes:
        raise LimitExceededError(
            f"a value of {len(value)} bytes is larger than the {limits.max_value_bytes} that this store takes",
            limit=limits.max_value_bytes,
            actual=len(value),
        )


def check_commit(steps: Sequence[Step], ranges: Sequence[RangeExpect], limits: Limits) -> None:
    """Refuse a commit that no state of the store could make right.

    Raises:
        InvalidKeyError: A key is no key, or two steps concern one key.
        LimitExceededError: A key, a value or the whole is too large.
        ValueError: A TTL is not more than 0.
        TypeError: A step is no step, a value not bytes, an expectation neither ANY, ABSENT nor a revision.
    """
    if len(steps) + len(ranges) > limits.max_steps:
        raise LimitExceededError(
            f"{len(steps) + len(ranges)} steps are more than the {limits.max_steps} of one commit; split them",
            limit=limits.max_steps,
            actual=len(steps) + len(ranges),
        )
    seen: set[str] = set()
    size = 0
    for step in steps:
        if not isinstance(step, Step):  # pyright: ignore[reportUnnecessaryIsInstance] - steps come from callers
            raise TypeError(f"a commit is made of Steps, not of a {type(step).__name__}")
        check_key(step.key, limits)
        seen.add(step.key)
        size += len(step.key)
        expect = step.expect
        if expect is not ANY and expect is not ABSENT and type(expect) is not int:
            raise TypeError(f"an expectation is ANY, ABSENT or a revision, not a {type(expect).__name__}")
        op = step.op
        if isinstance(op, Put):
            check_value(op.value, limits)
            size += len(op.value)
            if op.ttl is not None:
                ttl_ms(op.ttl)
        elif isinstance(op, Add):
            if type(op.delta) is not int:
                raise TypeError(f"a counter's delta is an integer, not a {type(op.delta).__name__}")
            if op.ttl is not None:
                ttl_ms(op.ttl)
        elif op is not None and not isinstance(op, Delete):  # pyright: ignore[reportUnnecessaryIsInstance] - as above
            raise TypeError(f"a step's op is Put, Delete, Add or None, not a {type(op).__name__}")
    if len(seen) != len(steps):
        raise InvalidKeyError("a commit holds at most one step for each key; put what is to happen to it into one")
    for span_ in ranges:
        if not isinstance(span_, RangeExpect):  # pyright: ignore[reportUnnecessaryIsInstance] - as above
            raise TypeError(f"ranges are RangeExpects, not a {type(span_).__name__}")
        check_bound(span_.start)
        if span_.end is not None:
            check_bound(span_.end)
        if type(span_.revision) is not int:
            raise TypeError(f"a range is expected since a revision, not since a {type(span_.revision).__name__}")
    if size > limits.max_commit_bytes:
        raise LimitExceededError(
            f"a commit of {size} bytes is larger than the {limits.max_commit_bytes} that this store takes; split it",
            limit=limits.max_commit_bytes,
            actual=size,
        )


def expects(step: Step, revision: int) -> bool:
    """Say whether *step*'s expectation holds for an entry of *revision* (0: there is none)."""
    expect = step.expect
    return expect is ANY or (revision == 0 if expect is ABSENT else (revision == expect and revision > 0))


def conflict(entries: dict[str, Entry], keys: Sequence[str]) -> ConflictError:
    """Return the error for expectations that failed at *keys*; *entries* are the current ones."""
    names = ", ".join(repr(key) for key in keys[:3]) + (", ..." if len(keys) > 3 else "")
    return ConflictError(
        f"what was expected at {names} is not there; nothing was written, and `entries` are the current ones",
        entries=entries,
        keys=keys,
    )


# --- counters ---------------------------------------------------------------------------------------------------


def add(key: str, value: bytes | None, delta: int) -> bytes:
    """Return the counter *value* (None: absent) plus *delta*.

    Raises:
        NotACounterError: *value* is not the decimal text of a signed 64-bit integer, or the sum is none.
    """
    total = (0 if value is None else _counter(key, value)) + delta
    if not _MIN_COUNTER <= total <= _MAX_COUNTER:
        raise NotACounterError(
            f"the counter {key!r} would leave the range of a signed 64-bit integer; nothing was added"
        )
    return b"%d" % total


def _counter(key: str, value: bytes) -> int:
    digits = value.removeprefix(b"-")
    if digits.isdigit() and len(digits) < _MAX_DIGITS:
        number = int(value)
        if b"%d" % number == value and _MIN_COUNTER <= number <= _MAX_COUNTER:
            return number
    raise NotACounterError(f"the value of {key!r} is no counter (the decimal text of a signed 64-bit integer)")


# --- time -------------------------------------------------------------------------------------------------------


def ttl_ms(ttl: Ttl) -> int:
    """Return a time to live in milliseconds, rounded up.

    Raises:
        ValueError: It is not more than 0.
        TypeError: It is neither a timedelta nor a number of seconds.
        LimitExceededError: It ends after the year 9999.
    """
    if isinstance(ttl, timedelta):
        # several times faster than dividing it; the microseconds, which are never negative, are rounded up
        ms = ttl.days * _DAY_MS + ttl.seconds * 1000 - (-ttl.microseconds // 1000)
    elif isinstance(ttl, (int, float)) and not isinstance(ttl, bool):  # pyright: ignore[reportUnnecessaryIsInstance] - it comes from callers
        if isinstance(ttl, float) and not math.isfinite(ttl):
            raise ValueError(f"a time to live is finite, not {ttl}; None lives for ever")
        ms = math.ceil(round(ttl * 1000, 6)) if abs(ttl) < MAX_DEADLINE_MS else int(ttl) * 1000
    else:
        raise TypeError(f"a time to live is a timedelta or seconds, not a {type(ttl).__name__}")
    if ms <= 0:
        raise ValueError(f"a time to live is more than 0, not {ttl}; delete the entry instead")
    if ms > MAX_DEADLINE_MS:
        raise LimitExceededError("a time to live ends before the year 10000", limit=MAX_DEADLINE_MS, actual=ms)
    return ms


def to_deadline(now_ms: int, ttl: Ttl) -> int:
    """Return when an entry written at *now_ms* expires, in milliseconds since 1970.

    Raises:
        LimitExceededError: That is after the year 9999.
    """
    deadline = now_ms + ttl_ms(ttl)
    if deadline > MAX_DEADLINE_MS:
        raise LimitExceededError("a time to live ends before the year 10000", limit=MAX_DEADLINE_MS, actual=deadline)
    return deadline


def to_moment(deadline_ms: int) -> datetime | None:
    """Return a deadline as ``expires_at``: an aware datetime, or None for 0."""
    return _EPOCH + deadline_ms * _MILLISECOND if deadline_ms else None


def deadline_of(entry: Entry) -> int:
    """Return when *entry* expires, in milliseconds since 1970; 0: never."""
    return 0 if entry.expires_at is None else round((entry.expires_at - _EPOCH) / _MILLISECOND)


# --- ranges -----------------------------------------------------------------------------------------------------


def prefix_end(prefix: str) -> str | None:
    """Return the first key after all keys that start with *prefix*; None: there is no such key."""
    # In UTF-8 order, which is code-point order; the surrogates between U+D7FF and U+E000 are no text.
    for place in range(len(prefix) - 1, -1, -1):
        point = ord(prefix[place])
        if point < 0x10FFFF:
            return prefix[:place] + chr(0xE000 if point == 0xD7FF else point + 1)
    return None


def span(prefix: str, start: str | None, end: str | None) -> tuple[str, str | None]:
    """Return the range ``[first, last)`` of keys that start with *prefix* and are in ``[start, end)``."""
    check_bound(prefix)
    first, last = prefix, prefix_end(prefix)
    if start is not None:
        check_bound(start)
        first = max(first, start)
    if end is not None:
        check_bound(end)
        last = end if last is None else min(last, end)
    return first, last
