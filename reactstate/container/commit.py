"""The commit path: recipe, draft, validation, version check, durable, visible, history, subscribers.

Contract
    Changes are applied one after another to a private tip. Those that wait are written together in one flush; after
    it each becomes visible and is announced, in order. Nothing is visible before it is durable, and nothing that
    failed leaves a trace: a failed flush puts the tip back to the head, fails the changes that were in it, and runs
    the recipes again that had built upon them.

Cancellation
    Once its recipe ran, a change is committed whether or not its caller still waits for it.

Refusals
    An error that was judged by a tip which is not durable yet (an expectation that failed, a transition that was
    refused, a recipe that raised) is reported only after that tip is; if its flush fails, the judgement is made anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from reactstate.errors import ClosedError
from reactstate.persistence.protocol import Record, Snapshot
from reactstate.state.document import schema_of, to_document
from reactstate.state.state import State

if TYPE_CHECKING:
    from reactstate.persistence.protocol import StatePersistence
    from reactstate.state.change import StateChange, VersionedState
    from reactstate.state.timeline import Timeline

__all__ = ["Committer", "record_of", "snapshot_of"]

S = TypeVar("S", bound=State)


def record_of(change: StateChange[Any]) -> Record:
    """Return *change* as it is stored."""
    return Record(
        change._version,
        change.change_id_hex,
        change._timestamp_ns,
        change._type.value,
        change._actor,
        change._what,
        change._tags,
        change._target,
        change.patch,
    )


def snapshot_of(timeline: Timeline[Any], schema: dict[str, int]) -> Callable[[], Snapshot]:
    """Return what makes a snapshot of the head as it is now; safe to call in another thread."""
    head, state, created_ns = timeline.head, timeline.state, timeline._created_ns

    def make() -> Snapshot:
        document = None if state is None else to_document(state)
        return Snapshot(
            head._version, document, schema, head.change_id_hex, created_ns, head._timestamp_ns, head._tags
        )

    return make


class Committer(Generic[S]):
    """Writes the pending changes of one timeline, in groups.

    Args:
        timeline: Whose changes.
        persistence: Where they go.
        shown: Called with each change after it became the head.
        rebase: The stored documents are of another schema: write a full snapshot before the next change.
    """

    __slots__ = (
        "_failures",
        "_flushing",
        "_loop",
        "_persistence",
        "_rebase",
        "_saving",
        "_scheduled",
        "_schema",
        "_shown",
        "_timeline",
        "_turns",
        "_waiting",
    )

    def __init__(
        self,
        timeline: Timeline[S],
        persistence: StatePersistence[S],
        shown: Callable[[StateChange[S]], None],
        *,
        rebase: bool,
    ) -> None:
        self._timeline = timeline
        self._persistence = persistence
        self._shown = shown
        self._rebase = rebase
        self._schema = schema_of(timeline.cls)
        self._loop = asyncio.get_running_loop()
        self._waiting: list[asyncio.Future[VersionedState[S] | None]] = []
        self._turns: list[asyncio.Future[None]] = []
        self._flushing = 0
        self._failures = 0
        self._scheduled = False
        self._saving: asyncio.Task[None] | None = None

    async def wait(self, change: StateChange[S]) -> VersionedState[S] | None:
        """Return what *change*, which was just pushed, made, once it is visible; None: run its recipe again."""
        future: asyncio.Future[VersionedState[S] | None] = self._loop.create_future()
        self._timeline.pending.append(change)
        self._waiting.append(future)
        if not self._flushing and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)  # after those who are about to commit in this turn of the loop
        return await future

    async def stands(self) -> bool:
        """Wait until the tip as it is now is durable, or was withdrawn; say whether it stands."""
        tip, failures = self._timeline.tip, self._failures
        while any(change is tip for change in self._timeline.pending):
            turn: asyncio.Future[None] = self._loop.create_future()
            self._turns.append(turn)
            await turn
        return failures == self._failures

    async def drain(self) -> None:
        """Return when nothing is pending."""
        while self._timeline.pending:
            await self.stands()

    # --- flushing -------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._scheduled = False
        pending = self._timeline.pending
        if not pending or self._flushing:
            return
        self._flushing = len(pending)
        if self._rebase:
            self._watch(self._loop.create_task(self._save_and_append()))
            return
        try:
            written = self._append()
        except Exception as exc:  # what cannot be encoded, or the persistence refuses
            self._done(exc)
            return
        self._watch(written)

    def _append(self) -> Awaitable[None]:
        records = [record_of(change) for change, _ in zip(self._timeline.pending, range(self._flushing), strict=False)]
        return self._persistence.append(records, self._schema)

    async def _save_and_append(self) -> None:
        await self._save(full=True)
        self._rebase = False
        await self._append()

    def _watch(self, written: Awaitable[None]) -> None:
        """Go on when *written* is done, at once if it is already."""
        if isinstance(written, Coroutine):
            written = self._loop.create_task(written)
        if isinstance(written, asyncio.Future):
            if not written.done():
                written.add_done_callback(self._ended)
            else:
                self._ended(written)
            return
        try:
            written.__await__().send(None)  # type: ignore[attr-defined] - an awaitable that is done ends at its first step
        except StopIteration:
            self._done(None)
        except Exception as exc:  # the error of the write, passed on to those who wait
            self._done(exc)

    def _ended(self, written: asyncio.Future[None]) -> None:
        if written.cancelled():
            self._done(ClosedError("the container was closed before the change was written"))
        else:
            error = written.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            self._done(error)

    def _done(self, error: Exception | None) -> None:
        count, self._flushing = self._flushing, 0
        waiting = self._waiting
        ended, self._waiting = waiting[:count], waiting[count:]
        if error is None:
            timeline, shown = self._timeline, self._shown
            pending = timeline.pending
            for future in ended:
                change = pending.popleft()
                made = timeline.show(change)
                if not future.done():
                    future.set_result(made)
                shown(change)
        else:
            self._failures += 1
            self._timeline.withdraw()
            for future in ended:
                _fail(future, error)
            for future in self._waiting:  # built upon what is gone
                if not future.done():
                    future.set_result(None)
            self._waiting = []
        turns, self._turns = self._turns, []
        for turn in turns:
            if not turn.done():
                turn.set_result(None)
        if self._timeline.pending:
            self._flush()
        elif error is None and self._persistence.compaction_due:
            self.compact()

    # --- compaction -----------------------------------------------------------------------------------------------

    def compact(self) -> None:
        """Write a full snapshot in the background, unless one is being written."""
        if self._saving is None or self._saving.done():
            self._saving = self._loop.create_task(self._save(full=False))
            self._saving.add_done_callback(_log_failure)

    async def _save(self, *, full: bool) -> None:
        timeline = self._timeline
        oldest = timeline.history.oldest_version
        keep_since = timeline.version if oldest is None else oldest - 1
        make = snapshot_of(timeline, self._schema)
        snapshot = make() if full else await asyncio.to_thread(make)
        await self._persistence.save(snapshot, keep_since=max(keep_since, 0))

    async def aclose(self) -> None:
        """Wait until everything that was accepted is written."""
        await self.drain()
        if self._saving is not None and not self._saving.done():
            await asyncio.wait([self._saving])


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # its caller may be gone: then nobody is to be blamed for not looking


def _log_failure(task: asyncio.Task[None]) -> None:
    import logging

    if not task.cancelled() and (error := task.exception()) is not None:
        logging.getLogger("reactstate.container").warning(
            "the journal could not be compacted; it goes on growing until the next attempt: %s", error
        )


