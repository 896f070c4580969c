"""What a memory store checks and works out before anything is written, of commits and of loads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

from reactstate.errors import ConflictError, NotACounterError
from reactstate.kv.protocol import ABSENT, ANY, Add, Delete, Put, Step
from reactstate.kv.terms import add, check_key, check_value, conflict, to_deadline
from reactstate.kv.versions import Versions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from reactstate.kv.memory_log import MemoryLog
    from reactstate.kv.protocol import Batch, Entry, Limits, RangeExpect

__all__ = ["Write", "changed_keys", "failures", "loaded", "plan", "quick_plan", "refusal"]

Write: TypeAlias = tuple[str, bytes | None, int]
"""A key, the value to write there (None: remove the entry), and the deadline (0: none)."""


def quick_plan(table: Versions, steps: Sequence[Step], now_ms: int, limits: Limits) -> list[Write] | None:
    """Return what ``plan`` would, in half of the time, or None if anything is out of the ordinary.

    Ordinary steps would pass ``check_commit``, their keys are ASCII, their expectations hold, and no entry that they
    meet has expired.
    """
    values, revisions, of = table.values, table.revisions, table.of
    max_key, max_value = limits.max_key_bytes, limits.max_value_bytes
    work: list[Write] = []
    size = 0
    for step in steps:
        if type(step) is not Step:
            return None
        key, op, expect = step.key, step.op, step.expect
        if type(key) is not str or not key or not key.isascii() or len(key) > max_key:
            return None
        if of and key in of and of[key] <= now_ms:
            return None
        if expect is not ANY:
            if expect is ABSENT:
                if key in revisions:
                    return None
            elif type(expect) is not int or revisions.get(key) != expect:
                return None
        size += len(key)
        if type(op) is Put:
            value = op.value
            if type(value) is not bytes or len(value) > max_value:
                return None
            size += len(value)
            work.append((key, value, 0 if op.ttl is None else to_deadline(now_ms, op.ttl)))
        elif type(op) is Delete:
            if key in values:
                work.append((key, None, 0))
        elif type(op) is Add and type(op.delta) is int and op.ttl is None:
            try:
                work.append((key, add(key, values.get(key), op.delta), of.get(key, 0)))
            except NotACounterError:  # if nothing else is wrong, plan meets it again
                return None
        elif op is not None:
            return None
    count = len(steps)
    if size > limits.max_commit_bytes or count > limits.max_steps:
        return None
    if count == 1 or (count == 2 and steps[0].key != steps[1].key) or len({step.key for step in steps}) == count:
        return work
    return None


def failures(table: Versions, steps: Sequence[Step], now_ms: int) -> list[str]:
    """Return the keys of the steps whose expectation does not hold."""
    failed: list[str] = []
    revisions, of = table.revisions, table.of
    for step in steps:
        expect = step.expect
        if expect is ANY:
            continue
        key = step.key
        revision = revisions.get(key, 0)
        if of and 0 < of.get(key, 0) <= now_ms:
            revision = 0
        if revision != (0 if expect is ABSENT else expect) or (revision == 0 and expect is not ABSENT):
            failed.append(key)
    return failed


def changed_keys(log: MemoryLog, ranges: Sequence[RangeExpect]) -> tuple[list[str], bool]:
    """Return the keys that were written or removed in *ranges*, and whether the log goes back far enough for all."""
    changed: set[str] = set()
    known = True
    for span in ranges:
        if span.revision < log.floor:
            known = False
        else:
            changed |= log.touched(span.revision, span.start, span.end)
    return sorted(changed), known


def refusal(entries: dict[str, Entry], failed: Sequence[str], *, known: bool) -> ConflictError:
    """Return the error for expectations that failed at *failed*; *known*: the log goes back far enough."""
    if known:
        return conflict(entries, failed)
    return ConflictError(
        "a range was read before the oldest change that is kept, so it cannot be shown to be unchanged; nothing was "
        "written: read the range anew",
        entries=entries,
        keys=failed,
    )


def plan(table: Versions, steps: Sequence[Step], now_ms: int) -> list[Write]:
    """Return what is to be done, in the order of the steps.

    Raises:
        NotACounterError: An ``Add`` meets what is no counter, or would overflow.
        LimitExceededError: A time to live ends after the year 9999.
    """
    values, of = table.values, table.of
    work: list[Write] = []
    for step in steps:
        key, op = step.key, step.op
        if isinstance(op, Put):
            work.append((key, op.value, 0 if op.ttl is None else to_deadline(now_ms, op.ttl)))
        elif op is not None:
            value, deadline = values.get(key), of.get(key, 0)
            if 0 < deadline <= now_ms:
                value = None
            if isinstance(op, Add):
                if value is None:
                    deadline = 0 if op.ttl is None else to_deadline(now_ms, op.ttl)
                work.append((key, add(key, value, op.delta), deadline))
            elif value is not None:
                work.append((key, None, 0))
    return work


async def loaded(batches: AsyncIterator[Batch], limits: Limits, revision: int) -> Versions:
    """Return a new table of *batches*, which is to be settled; that is quick if it is by *revision*.

    Raises:
        InvalidKeyError: A key is none.
        LimitExceededError: A key or value is larger than *limits* say.
    """
    table = Versions()
    async for batch in batches:
        if max(map(len, batch.keys), default=0) * 4 > limits.max_key_bytes:
            for key in batch.keys:
                check_key(key, limits)
        size = sum(map(len, batch.values))
        if size > limits.max_value_bytes:  # else none of them can be
            for value in batch.values:
                check_value(value, limits)
        table.fill(batch.keys, batch.values, batch.deadlines, revision, size)
        await asyncio.sleep(0)
    return table
