"""WaitingRoom: where the tasks of one process wait for one lock, each at its place in the store's queue.

Contract
    A place is an entry with a lease of its own, which the room renews for all who wait in it. Places are taken up in
    the order of the revisions that created them. Only the first in the queue tries to acquire the lock; it is woken by
    the store's events, and by the clock when the lease that it waits for ends. One watch serves all who wait here.

    A place is given up with the acquiring commit, when its waiter times out or is cancelled, and when its lease runs
    out, because its process is gone or stood still for too long; a waiter that finds its place gone queues anew.

    While somebody waits, an entry says so, which those who come later expect to be absent. It has a lease too, and is
    removed by the commit with which the last in the queue acquires the lock or leaves.

Caveats
    On an engine without TOTAL_ORDER two waiters that come at the same time may change places.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from reactstate.errors import (
    ClosedError,
    CompactedError,
    ConflictError,
    LockTimeoutError,
    ReactStateError,
    UnavailableError,
)
from reactstate.kv.protocol import ABSENT, Delete, EventKind, Put, Step
from reactstate.kv.retry import resolve, until_available
from reactstate.kv.terms import deadline_of
from reactstate.locks.waiter import Waiter

if TYPE_CHECKING:
    from reactstate.kv.protocol import Event, Expectation, Ttl, Watch
    from reactstate.locks.guard import LockGuard
    from reactstate.locks.layout import LockKeys
    from reactstate.locks.manager import Locks

__all__ = ["PLACE_S", "WaitingRoom"]

PLACE_S: Final = 3.0
"""How long a place is kept for a waiter that gives no sign of life."""

_SHORTEST_WAIT_S: Final = 0.05
_PAUSE_S: Final = 0.05
_CHUNK: Final = 500


class WaitingRoom:
    """Those of one ``Locks`` who wait for one lock.

    Args:
        locks: Acquires for them.
        keys: The lock.
    """

    __slots__ = ("_first", "_keys", "_local", "_locks", "_queue", "_queued", "_tasks")

    def __init__(self, locks: Locks, keys: LockKeys) -> None:
        self._locks = locks
        self._keys = keys
        self._local: dict[str, Waiter] = {}
        self._queue: dict[str, int] = {}
        self._first: str | None = None
        self._queued: Expectation = ABSENT
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits here."""
        return not self._local

    async def acquire(self, ttl: Ttl, ms: int, end: float | None) -> LockGuard:
        """Wait for the lock; see ``Locks.acquire``.

        Args:
            ttl: How long the lease is.
            ms: The same in milliseconds.
            end: When to give up, in seconds of ``monotonic``.
        """
        clock = self._locks.clock
        waiter = self._enter()
        if end is not None:
            waiter.set_timer("timeout", clock, max(end - clock.monotonic(), 0.0), waiter.time_out)
        guard: LockGuard | None = None
        try:
            while guard is None:
                if not waiter.ticket:
                    await self._queue_up(waiter, end)
                await waiter.woken()
                if waiter.error is not None:
                    raise waiter.error
                if waiter.gone:
                    del self._local[waiter.key]
                    waiter.move()
                    self._local[waiter.key] = waiter
                elif waiter.late:
                    raise LockTimeoutError(
                        f"the lock {self._keys.name!r} was not acquired in time; its holder keeps it, or others were "
                        "first: wait for longer, or try again"
                    )
                elif self._first == waiter.key:
                    guard = await self._try(waiter, ttl, ms, end)
            return guard
        finally:
            waiter.close()
            del self._local[waiter.key]
            sign = self._sign_of(waiter.key)
            if not self._local:
                self._stop()
            if guard is None:
                await self._locks._finish(self._leave(waiter.key, sign, last=not self._local))

    # --- coming and going ------------------------------------------------------------------------------------------

    def _enter(self) -> Waiter:
        waiter = Waiter(self._keys.waiting)
        self._local[waiter.key] = waiter
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._follow()), loop.create_task(self._renew())]
        return waiter

    async def _queue_up(self, waiter: Waiter, end: float | None) -> None:
        store, key = self._locks.store, waiter.key
        steps = (Step(key, Put(b"", PLACE_S), ABSENT), Step(self._keys.queued, Put(b"", PLACE_S)))

        async def attempt() -> int:
            return (await store.commit(steps)).revision

        async def applied() -> int | None:
            found = await store.get(key)
            return None if found is None else found.revision

        ticket = await resolve(attempt, applied, clock=self._locks.clock, deadline=self._locks._until(end))
        waiter.ticket = waiter.revision = ticket

    async def _leave(self, key: str, sign: tuple[Step, ...], *, last: bool) -> None:
        store, place = self._locks.store, Step(key, Delete())
        try:
            try:
                await store.commit((place, *sign))
            except ConflictError:  # somebody else has come to wait
                await store.commit((place,))
            if last and not sign:  # who is cancelled while it queues up has not learned of the sign that it left
                await self._remove_sign()
        except ReactStateError:
            return  # it lapses by itself

    async def _remove_sign(self) -> None:
        """Remove the sign that somebody waits, if nobody does; who comes meanwhile writes it anew."""
        store, keys = self._locks.store, self._keys
        found = await store.get(keys.queued)
        if found is not None and not [entry async for entry in store.scan(keys.waiting, limit=1)]:
            await store.commit((Step(keys.queued, Delete(), found.revision),))

    def _sign_of(self, key: str) -> tuple[Step, ...]:
        """Return what removes the sign that somebody waits, if nobody does but the one whose place is *key*."""
        if self._queued is ABSENT or self._queue.keys() != {key}:
            return ()
        return (Step(self._keys.queued, Delete(), self._queued),)

    def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        self._queue.clear()
        self._first = None

    # --- the first in the queue ------------------------------------------------------------------------------------

    async def _try(self, waiter: Waiter, ttl: Ttl, ms: int, end: float | None) -> LockGuard | None:
        """Acquire the lock if it is free; else have the waiter woken when it may be."""
        locks, keys = self._locks, self._keys
        held = await until_available(
            lambda: locks.store.get_many(keys.leases), clock=locks.clock, deadline=locks._until(end)
        )
        if held:
            self._wait_for(waiter, max(map(deadline_of, held.values())))
            return None
        # With the place it gives up what a repetition of this commit expects, so that one which arrives late is refused.
        steps = (*keys.free, Step(waiter.key, Delete(), waiter.revision), *self._sign_of(waiter.key))
        try:
            return await locks._take(keys, ttl, ms, steps, locks._until(end))
        except ConflictError as exc:
            if keys.queued in exc.keys:
                found = exc.entries.get(keys.queued)
                self._queued = ABSENT if found is None else found.revision
            if waiter.key in exc.keys:
                found = exc.entries.get(waiter.key)
                waiter.gone = found is None
                waiter.revision = 0 if found is None else found.revision
            waiter.wake()
            return None

    def _wait_for(self, waiter: Waiter, deadline_ms: int) -> None:
        """Wake *waiter* when a lease that ends at *deadline_ms* has run out."""
        clock = self._locks.clock
        left = (deadline_ms * 1_000_000 - clock.time_ns()) / 1e9
        # A store whose time stands still, after its clock was set back, keeps an entry for longer.
        waiter.set_timer("lease", clock, left if left > 0 else _SHORTEST_WAIT_S, waiter.wake)

    # --- the queue -------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Keep the queue as the store has it, and wake whose turn it is."""
        locks = self._locks
        try:
            while True:
                watch = await until_available(self._look, clock=locks.clock, deadline=locks.deadline)
                try:
                    await self._listen(watch)
                except UnavailableError:
                    await locks.clock.sleep(_PAUSE_S)
                finally:
                    await watch.aclose()
        except Exception as exc:  # whatever it is, nobody who waits here now would be woken any more
            for waiter in self._local.values():
                waiter.error = exc
                waiter.wake()
            self._stop()

    async def _look(self) -> Watch:
        """Read the queue; return the watch that tells what happens to it from then on."""
        store, keys = self._locks.store, self._keys
        placed = [waiter for waiter in self._local.values() if waiter.ticket]
        watch = store.watch(keys.prefix)
        queue: dict[str, int] = {}
        queued: Expectation = ABSENT
        try:
            async for entry in store.scan(keys.prefix):
                if entry.key.startswith(keys.waiting):
                    queue[entry.key] = int(entry.value) if entry.value.isdigit() else entry.revision
                elif entry.key == keys.queued:
                    queued = entry.revision
        except BaseException:
            await watch.aclose()
            raise
        self._queue, self._queued = queue, queued
        for waiter in placed:
            if waiter.key not in queue:
                waiter.gone = True
                waiter.wake()
        self._find_first()
        return watch

    async def _listen(self, watch: Watch) -> None:
        """Note what happens, until events were missed.

        Raises:
            ClosedError: The store was closed.
            UnavailableError: It could not be reached.
        """
        try:
            async for event in watch:
                self._note(event)
        except CompactedError:
            return
        raise ClosedError(f"{self._locks.store.url} was closed, so nobody can wait for its locks any longer")

    def _note(self, event: Event) -> None:
        key, is_put = event.key, event.kind is EventKind.PUT
        if key.startswith(self._keys.waiting):
            if not is_put:
                self._drop(key)
            elif key not in self._queue:
                self._queue[key] = event.revision
                if self._first is None or event.revision < self._queue[self._first]:
                    self._find_first()
        elif key == self._keys.queued:
            self._queued = event.revision if is_put else ABSENT
        elif not is_put:
            self._wake_first()

    def _drop(self, key: str) -> None:
        """Take a place that is gone out of the queue."""
        self._queue.pop(key, None)
        waiter = self._local.get(key)
        if waiter is not None:
            waiter.gone = True
            waiter.wake()
        if key == self._first:
            self._find_first()

    def _find_first(self) -> None:
        queue = self._queue
        self._first = min(queue, key=queue.__getitem__) if queue else None
        self._wake_first()

    def _wake_first(self) -> None:
        waiter = None if self._first is None else self._local.get(self._first)
        if waiter is not None:
            waiter.wake()

    # --- keeping the places ----------------------------------------------------------------------------------------

    async def _renew(self) -> None:
        """Renew the places of all who wait here."""
        chunk = max(1, min(_CHUNK, self._locks.store.limits.max_steps - 1))
        while True:
            await self._locks.clock.sleep(PLACE_S / 3)
            places = [(waiter, waiter.key) for waiter in self._local.values() if waiter.ticket]
            for start in range(0, len(places), chunk):
                await self._renew_some(places[start : start + chunk])

    async def _renew_some(self, places: list[tuple[Waiter, str]]) -> None:
        while places:
            steps = [Step(key, Put(b"%d" % waiter.ticket, PLACE_S), waiter.revision) for waiter, key in places]
            try:
                done = await self._locks.store.commit((*steps, Step(self._keys.queued, Put(b"", PLACE_S))))
            except ConflictError as exc:
                for waiter, key in places:
                    if key in exc.keys and (found := exc.entries.get(key)) is not None:
                        waiter.revision = found.revision  # the reply to an earlier renewal was lost
                missing = exc.entries.keys() ^ exc.keys
                places = [place for place in places if place[1] not in missing]
                continue  # those whose place is gone hear of it from the watch
            except ReactStateError:
                return  # the next renewal may succeed, in time
            for waiter, key in places:
                waiter.revision = done.entries[key].revision
            return
