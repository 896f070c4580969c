"""FaultyStore: any store, with the faults of a store that is far away.

Contract
    Without a fault it is the store that it wraps: same capabilities, limits, entries and revisions. A call that fails
    with UnavailableError has not reached the store. A commit whose reply is dropped has been applied. Watches may be
    woken late, so that several commits arrive at once, and in another order among themselves; the events of one watch
    stay in their order, and none is lost.

    What fails is decided by a seeded random source: the same seed and the same calls give the same faults. Counted
    faults come before those by probability. Reads of a snapshot, once it is taken, do not fail.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from reactstate.clock import SystemClock
from reactstate.errors import UnavailableError, UnknownOutcomeError
from reactstate.kv.store import KeyValueStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
    from datetime import timedelta
    from os import PathLike
    from typing import Self

    from reactstate.clock import Clock
    from reactstate.kv.options import StoreOptions, StoreStats
    from reactstate.kv.protocol import (
        Batch,
        Capability,
        Commit,
        Cursor,
        Entry,
        Event,
        Limits,
        RangeExpect,
        ReadView,
        Step,
        Watch,
    )

__all__ = ["FaultyStore", "StoreOperation"]

StoreOperation: TypeAlias = Literal["get", "get_many", "scan", "commit", "watch", "snapshot", "cursor"]
"""What can fail: the operations of the protocol. ``put`` and its siblings are commits."""

_OPERATIONS: Final[tuple[StoreOperation, ...]] = ("get", "get_many", "scan", "commit", "watch", "snapshot", "cursor")


class _Fault:
    """How often one kind of fault is still to come, and how likely it is otherwise."""

    __slots__ = ("calls", "probability", "seconds")

    def __init__(self) -> None:
        self.calls = 0
        self.probability = 0.0
        self.seconds = 0.0

    def set(self, calls: int | None, probability: float | None) -> None:
        """Set both, or add to the calls to come.

        Raises:
            ValueError: *calls* is negative, or *probability* not between 0 and 1.
        """
        if calls is None:
            calls = 0 if probability is not None else 1
        if calls < 0:
            raise ValueError(f"a fault concerns 0 calls or more, not {calls}")
        if probability is not None:
            if not 0 <= probability <= 1:
                raise ValueError(f"a probability is between 0 and 1, not {probability}")
            self.probability = probability
        self.calls += calls

    def strikes(self, dice: random.Random) -> bool:
        """Say whether it happens to this call."""
        if self.calls:
            self.calls -= 1
            return True
        return self.probability > 0 and dice.random() < self.probability


class FaultyStore(KeyValueStore):
    """A store that fails, delays, drops replies and wakes watches late, as a test asks for.

    Args:
        store: The store that does the work; closed with this one.
        seed: Decides which calls fail, when that is asked for by probability.
        clock: What delays are taken from.

    Attributes:
        calls: How often each operation was called, failed calls included.
        failed: How often each raised UnavailableError on purpose.
        dropped: How many replies to commits were dropped.
        latency: The seconds of the clock that every call takes; 0.0 by default.

    Example:
        >>> from reactstate.kv.memory import MemoryStore
        >>> store = FaultyStore(MemoryStore())
        >>> store.fail(2, on="commit")  # the next two commits raise UnavailableError
        >>> store.drop_reply(probability=0.1)  # every tenth commit is applied and raises UnknownOutcomeError
    """

    def __init__(self, store: KeyValueStore, *, seed: int = 0, clock: Clock | None = None) -> None:
        self.store: KeyValueStore = store
        self.engine: str = store.engine
        self.url: str = store.url
        self.capabilities: frozenset[Capability] = store.capabilities
        self.limits: Limits = store.limits
        self.options: StoreOptions = store.options
        self.ttl_clock: Literal["host", "server"] = store.ttl_clock
        self.ttl_resolution: timedelta = store.ttl_resolution
        self.calls: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.dropped: int = 0
        self.latency: float = 0.0
        self._clock = clock if clock is not None else SystemClock()
        self._dice = random.Random(seed)  # noqa: S311 - not for secrets
        self._failures = {operation: _Fault() for operation in _OPERATIONS}
        self._any_failure = _Fault()
        self._drops = _Fault()
        self._delays = _Fault()
        self._wakeups = 0

    # --- faults ---------------------------------------------------------------------------------------------------

    def fail(
        self, calls: int | None = None, *, probability: float | None = None, on: StoreOperation | None = None
    ) -> None:
        """Let calls raise UnavailableError without reaching the store.

        Args:
            calls: So many of the next ones, on top of those that are still to fail; 1 when nothing else is given.
            probability: From now on, each call as likely as this; 0 ends it.
            on: Which operation; None: any.

        Raises:
            ValueError: *calls* is negative, or *probability* not between 0 and 1.
        """
        (self._any_failure if on is None else self._failures[on]).set(calls, probability)

    def drop_reply(self, calls: int | None = None, *, probability: float | None = None) -> None:
        """Let commits be applied and then raise UnknownOutcomeError; the arguments are those of ``fail``.

        A commit that the store refuses says so: only the reply to one that went through is dropped.
        """
        self._drops.set(calls, probability)

    def delay(self, seconds: float, calls: int | None = None, *, probability: float | None = None) -> None:
        """Let calls take *seconds* of the clock before they reach the store; the arguments are those of ``fail``."""
        self._delays.set(calls, probability)
        self._delays.seconds = seconds

    def delay_wakeups(self, turns: int = 10) -> None:
        """Let each waiting watch be woken late, by up to *turns* turns of the event loop; 0 ends it.

        What is committed meanwhile arrives at once, and of two watches the second may be woken first.
        """
        if turns < 0:
            raise ValueError(f"a watch is woken late by 0 turns or more, not {turns}")
        self._wakeups = turns

    def heal(self) -> None:
        """End all faults and delays; the counts stay."""
        for fault in (*self._failures.values(), self._any_failure, self._drops, self._delays):
            fault.calls, fault.probability = 0, 0.0
        self._wakeups = 0
        self.latency = 0.0

    async def _reach(self, operation: StoreOperation) -> None:
        """Count the call, take the time that it takes, and fail if it is to."""
        self._strike(operation)
        seconds = self.latency + (self._delays.seconds if self._delays.strikes(self._dice) else 0.0)
        if seconds:
            await self._clock.sleep(seconds)

    def _strike(self, operation: StoreOperation) -> None:
        self.calls[operation] += 1
        if self._failures[operation].strikes(self._dice) or self._any_failure.strikes(self._dice):
            self.failed[operation] += 1
            raise UnavailableError(f"the store was made unreachable for this {operation}; nothing was changed")

    # --- the operations -------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Entry | None:
        """Return the entry under *key*, unless the call fails."""
        await self._reach("get")
        return await self.store.get(key)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Return the entries that there are, unless the call fails."""
        await self._reach("get_many")
        return await self.store.get_many(keys)

    async def scan(
        self,
        prefix: str = "",
        *,
        start: str | None = None,
        end: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> AsyncIterator[Entry]:
        """Iterate over the entries, unless the call fails, which is at the first entry."""
        await self._reach("scan")
        async for entry in self.store.scan(prefix, start=start, end=end, limit=limit, reverse=reverse):
            yield entry

    async def commit(self, steps: Sequence[Step], *, ranges: Sequence[RangeExpect] = ()) -> Commit:
        """Commit, unless the call fails; the reply may be dropped.

        Raises:
            UnavailableError: It was made to fail, and has changed nothing.
            UnknownOutcomeError: It was applied, and its reply dropped.
        """
        await self._reach("commit")
        done = await self.store.commit(steps, ranges=ranges)
        if self._drops.strikes(self._dice):
            self.dropped += 1
            raise UnknownOutcomeError("the reply to this commit was dropped; read the store to see what came of it")
        return done

    def watch(self, prefix: str = "", *, after: Cursor | None = None) -> Watch:
        """Watch, unless the call fails, which is at once; wake-ups may be late."""
        self._strike("watch")
        return _LateWatch(self.store.watch(prefix, after=after), self._turns)

    def _turns(self) -> int:
        return self._dice.randint(0, self._wakeups) if self._wakeups else 0

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[ReadView]:
        """Take a snapshot, unless the call fails."""
        await self._reach("snapshot")
        async with self.store.snapshot() as view:
            yield view

    async def cursor(self) -> Cursor:
        """Return the place in the events that is now, unless the call fails."""
        await self._reach("cursor")
        return await self.store.cursor()

    # --- what never fails on purpose ------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the store that it wraps."""
        if self._cleaner is not None:
            self._cleaner.cancel()
        await self.store.aclose()

    def stats(self) -> StoreStats:
        """Return what the store counted; calls that failed on purpose are not among it."""
        return self.store.stats()

    async def cleanup_expired(self) -> int:
        """Sweep the store."""
        return await self.store.cleanup_expired()

    async def flush(self) -> None:
        """Flush the store."""
        await self.store.flush()

    async def size_on_disk(self) -> int:
        """Return the bytes that the store takes on disk."""
        return await self.store.size_on_disk()

    async def memory_usage(self) -> int:
        """Return the bytes that the store takes in this process."""
        return await self.store.memory_usage()

    async def checkpoint(
        self, path: str | PathLike[str], *, progress: Callable[[int], None] | None = None, compress: bool = True
    ) -> int:
        """Write a checkpoint of the store."""
        return await self.store.checkpoint(path, progress=progress, compress=compress)

    async def restore(
        self, path: str | PathLike[str], *, replace: bool = False, progress: Callable[[int], None] | None = None
    ) -> int:
        """Restore a checkpoint into the store."""
        return await self.store.restore(path, replace=replace, progress=progress)

    async def _load(self, batches: AsyncIterator[Batch], *, revision: int, replace: bool) -> int:
        return await self.store._load(batches, revision=revision, replace=replace)


class _LateWatch:
    """A watch that is woken some turns of the event loop after it could have been."""

    def __init__(self, watch: Watch, turns: Callable[[], int]) -> None:
        self._watch = watch
        self._turns = turns

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        # Late before the event is taken, so that a wait which is cancelled loses none.
        for _ in range(self._turns()):
            await asyncio.sleep(0)
        return await anext(self._watch)

    async def aclose(self) -> None:
        await self._watch.aclose()
