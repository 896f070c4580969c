"""Counters: what many tasks add to one counter at a time goes in one commit.

Contract
    Each increment is applied once or not at all, and gets the sum right after it, as if they had come one after
    another. Increments of one coordination store to one counter, made while an earlier one is being committed, share
    the next commit. An increment whose caller is cancelled may still be made.

    A counter keeps the time to live that it was created with.
"""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Final

from reactstate.errors import NotACounterError
from reactstate.kv.protocol import Add, Operation
from reactstate.kv.terms import add

if TYPE_CHECKING:
    from collections.abc import Callable

    from reactstate.coordination.writing import Writer
    from reactstate.keyed.lifecycle import Turns
    from reactstate.kv.protocol import Entry, Ttl

__all__ = ["Counters"]

_MAX_SHARED: Final = 4096


class _Increment:
    __slots__ = ("delta", "done", "ttl")

    def __init__(self, delta: int, ttl: Ttl | None, done: asyncio.Future[int] | None) -> None:
        self.delta = delta
        self.ttl = ttl
        self.done = done


class _Sums:
    """What a run of increments makes of a counter."""

    __slots__ = ("_increments", "_name", "outcomes")

    def __init__(self, name: str, increments: list[_Increment]) -> None:
        self._name = name
        self._increments = increments
        self.outcomes: list[int | NotACounterError] = []

    def plan(self, entry: Entry | None) -> Operation | None:
        """Note the sum after each increment, or why it cannot be made; return what to commit."""
        outcomes: list[int | NotACounterError] = []
        self.outcomes = outcomes
        value = before = None if entry is None else entry.value
        ttl: Ttl | None = None
        for one in self._increments:
            try:
                after = add(self._name, value, one.delta)
            except NotACounterError as exc:
                outcomes.append(exc)
                continue
            if value is None:
                ttl = one.ttl
            value = after
            outcomes.append(int(after))
        if value is None or (value == before and all(isinstance(one, NotACounterError) for one in outcomes)):
            return None
        return Add(int(value) - (0 if before is None else int(before)), ttl)


class Counters:
    """The counters of one coordination store.

    Args:
        writer: Commits.
        turns: Who may write to which key.
        rest: Called when a write has ended.
    """

    __slots__ = ("_rest", "_tasks", "_turns", "_waiting", "_writer")

    def __init__(self, writer: Writer, turns: Turns, rest: Callable[[], None]) -> None:
        self._writer = writer
        self._turns = turns
        self._rest = rest
        self._waiting: dict[str, list[_Increment]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def increment(self, key: str, name: str, delta: int, ttl: Ttl | None) -> int:
        """Add *delta* to the counter at *key*, which messages call *name*; return the sum.

        Raises:
            NotACounterError: It is no counter, or would leave the range of a signed 64-bit integer.
            ContentionError: Others kept writing first until the deadline.
            UnavailableError: The store stayed out of reach until the deadline; nothing was added.
            UnknownOutcomeError: It is not known whether it was added.
        """
        if key not in self._turns:
            await self._turns.take(key)
            try:
                (outcome,) = await self._add(key, name, [_Increment(delta, ttl, None)])
            finally:
                self._give(key)
            if isinstance(outcome, NotACounterError):
                raise outcome
            return outcome
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.get(key)
        if waiting is None or len(waiting) >= _MAX_SHARED:
            waiting = self._waiting[key] = []
            task = asyncio.get_running_loop().create_task(self._share(key, name, waiting))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        waiting.append(_Increment(delta, ttl, done))
        return await done

    def _give(self, key: str) -> None:
        self._turns.give(key)
        self._rest()

    async def _share(self, key: str, name: str, waiting: list[_Increment]) -> None:
        """Make the increments that wait, once it is their turn."""
        await self._turns.take(key)
        if self._waiting.get(key) is waiting:
            del self._waiting[key]
        try:
            increments = [one for one in waiting if one.done is not None and not one.done.done()]
            outcomes: list[int | Exception] = []
            try:
                outcomes.extend(await self._add(key, name, increments))
            except Exception as exc:
                # one error for each of them: a raised error belongs to the task that handles it
                outcomes.extend(_another(exc) for _ in increments)
            for one, outcome in zip(increments, outcomes, strict=True):
                if one.done is None or one.done.done():
                    continue
                if isinstance(outcome, Exception):
                    one.done.set_exception(outcome)
                else:
                    one.done.set_result(outcome)
        finally:
            for one in waiting:
                if one.done is not None:
                    one.done.cancel()
            self._give(key)

    async def _add(self, key: str, name: str, increments: list[_Increment]) -> list[int | NotACounterError]:
        sums = _Sums(name, increments)
        await self._writer.write(key, sums.plan)
        return sums.outcomes


def _another(error: Exception) -> Exception:
    other = copy.copy(error)
    other.__cause__ = error.__cause__
    return other
