"""The change log of a table as watches read it, and the look-out for other processes' commits.

Contract
    While somebody waits for events, the table is asked every 5 milliseconds whether another process has committed, and
    what has expired is swept every second of the store's clock, so that its events appear. While nobody waits, nothing
    runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from reactstate.errors import CompactedError, CorruptionError, StorageError, UnavailableError
from reactstate.kv.changelog import decode_changes
from reactstate.kv.watching import cursor_at

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from reactstate.clock import Clock
    from reactstate.kv.table import Table
    from reactstate.kv.watching import Changes, Waiters

__all__ = ["TableFeed"]

_POLL_S: Final = 0.005
_SWEEP_S: Final = 1.0
_LOG_ROWS: Final = 16


class TableFeed:
    """A change log that can be watched; see ``reactstate.kv.watching.Feed``.

    Args:
        table: Whose change log.
        loop: The store's event loop.
        waiters: Whom the store's own commits wake.
        clock: The store's clock.
        check: Refuses where the store must not be used.
        sweep: Has expired entries removed; None: they are never.

    Attributes:
        id: The table's id.
        closed: Whether the store was closed.
    """

    def __init__(
        self,
        table: Table,
        loop: asyncio.AbstractEventLoop,
        waiters: Waiters,
        clock: Clock,
        check: Callable[[], None],
        sweep: Callable[[], None] | None,
    ) -> None:
        self.id: str = table.id
        self._closed = False
        self._table = table
        self._loop = loop
        self._waiters = waiters
        self._clock = clock
        self._check = check
        self._sweep = sweep
        self._ticks: asyncio.TimerHandle | None = None
        self._token = 0
        self._swept_ms = 0
        self._woken = 0.0

    @property
    def closed(self) -> bool:
        """Whether the store was closed."""
        return self._closed

    def changes_after(self, revision: int, limit: int) -> list[Changes]:
        """Return the oldest commits above *revision*, whole ones, about *limit* events of them.

        Raises:
            CompactedError: Commits above *revision* are no longer in the log.
            CorruptionError: The log is damaged.
        """
        self._check()
        if revision < 0:  # a cursor in the middle of revision 0, which had no events
            self._check_floor(revision, gap=True)
        reader = self._table.latest
        commits: list[Changes] = []
        events, place = 0, revision
        while events < limit:
            rows = reader.log(place, _LOG_ROWS)
            for last, _, row in rows:
                found = [commit for commit in decode_changes(last, row) if commit[0] > revision]
                if commits and found and found[0][0] != commits[-1][0] + 1:
                    return commits  # what was trimmed between two readings is missed when the next ones are asked for
                commits.extend(found)
                events += sum(len(changes) for _, changes in found)
                place = last
                if events >= limit:  # a row can hold very many, whose decoding holds the event loop up
                    break
            if len(rows) < _LOG_ROWS:
                break
        # revisions follow each other without a gap, but for what was trimmed (perhaps since the rows were read)
        if not commits or commits[0][0] != revision + 1:
            self._check_floor(revision, gap=bool(commits))
        return commits

    def _check_floor(self, revision: int, *, gap: bool) -> None:
        reader = self._table.latest
        if reader.log_floor() > revision:
            raise CompactedError(
                f"the events after revision {revision} are no longer kept; read what is there, and go on from `resume`",
                resume=cursor_at(self.id, reader.revision()[0]),
            )
        if gap:
            raise CorruptionError(f"events are missing from the change log after revision {revision}")

    def wait(self) -> asyncio.Future[None]:
        """Return a future that is done when there may be more; on a closed store it is done at once."""
        if not self._closed:
            self._check()
        future = self._waiters.wait()
        if self._ticks is None and not self._closed:
            self._woken = self._loop.time()
            self._look()
            self._ticks = self._loop.call_later(_POLL_S, self._tick)
        return future

    def close(self) -> None:
        """End all watches."""
        self._closed = True
        if self._ticks is not None:
            self._ticks.cancel()
        self._waiters.close()

    def forget(self) -> None:
        """Stop looking, in a forked child."""
        if self._ticks is not None:
            self._ticks.cancel()

    def _look(self) -> bool:
        """Say whether another process may have committed since the last look."""
        try:
            token = self._table.token()
        except (StorageError, UnavailableError):
            return True  # the watches find out when they read
        changed = token != self._token
        self._token = token
        return changed

    def _tick(self) -> None:
        # those who wait no longer stay among the waiters until the next waking
        if all(future.done() for future in self._waiters._futures):
            self._ticks = None
            return
        now = self._loop.time()
        if self._look() or now - self._woken >= _SWEEP_S:
            self._woken = now
            self._waiters.wake()
        now_ms = self._clock.time_ns() // 1_000_000
        if self._sweep is not None and not 0 <= now_ms - self._swept_ms < _SWEEP_S * 1000:
            self._swept_ms = now_ms
            self._sweep()
        self._ticks = self._loop.call_later(_POLL_S, self._tick)
