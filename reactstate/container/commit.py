"""The commit path: recipe, draft, validation, version check, durable, visible, history, subscribers.

Contract
    Changes are applied one after another to a private tip. Those that wait are written together in one flush; after
    it each becomes visible and is announced, in order. Nothing is visible before it is durable, and nothing that
    failed leaves a trace: a failed flush puts the tip back to the head, fails the changes that were in it, and runs
    the recipes again that had built upon them. A change that cannot be stored at all fails alone.

Cancellation
    Once its recipe ran, a change is committed whether or not its caller still waits for it. Only a failing storage
    takes it back, together with the others: the recipe of a caller that is gone is not run again.

Refusals
    An error that was judged by a tip which is not durable yet (an expectation that failed, a transition that was
    refused, a recipe that raised) is reported only after that tip is; if its flush fails, the judgement is made anew.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from reactstate.errors import (
    CodecError,
    LimitExceededError,
    ReactStateError,
    StateValidationError,
    UnknownOutcomeError,
)
from reactstate.persistence.protocol import Record, Snapshot
from reactstate.state.document import schema_of, to_document
from reactstate.state.state import State
from reactstate.state.timeline import check_labels

if TYPE_CHECKING:
    from collections import deque

    from reactstate.persistence.protocol import StatePersistence
    from reactstate.state.change import StateChange, VersionedState
    from reactstate.state.timeline import Timeline

__all__ = ["Committer", "record_of", "snapshot_of", "twin_of"]

S = TypeVar("S", bound=State)

_PATIENCE: Final = 256
"""How many flushes after a failed compaction the next one is tried."""


def record_of(change: StateChange[Any], stored: Any = None) -> Record:
    """Return *change* as it is stored; *stored* makes its patch from another document than that of its old state.

    Raises:
        StateValidationError: Its actor or action is no text.
    """
    if change._actor is not None or change._what is not None:
        check_labels(change._actor, change._what)
    return Record(
        change._version,
        change.change_id_hex,
        change._timestamp_ns,
        change._type.value,
        change._actor,
        change._what,
        change._tags,
        change._target,
        change.patch if stored is None else stored(change),
    )


def snapshot_of(timeline: Timeline[Any], schema: dict[str, int]) -> Callable[[], Snapshot]:
    """Return what makes a snapshot of the head as it is now; safe to call in another thread."""
    head, state, created_ns = timeline.head, timeline.state, timeline._created_ns

    def make() -> Snapshot:
        document = None if state is None else to_document(state)
        return Snapshot(head._version, document, schema, head.change_id_hex, created_ns, head._timestamp_ns, head._tags)

    return make


class Committer(Generic[S]):
    """Writes the pending changes of one timeline, in groups.

    Args:
        timeline: Whose changes.
        persistence: Where they go.
        shown: Called with each change after it became the head.
        rebase: The stored documents are of another schema: write a full snapshot before the next change.
        bridge: Makes the patch of the next change that is written, where the stored document differs from today's
            under the same schema; None where it does not.
    """

    __slots__ = (
        "_bridge",
        "_failures",
        "_flushing",
        "_loop",
        "_patience",
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
        rebase: bool = False,
        bridge: Callable[[StateChange[S]], Any] | None = None,
    ) -> None:
        self._timeline = timeline
        self._persistence = persistence
        self._shown = shown
        self._rebase = rebase
        self._bridge = bridge
        self._schema = schema_of(timeline.cls)
        self._loop = asyncio.get_running_loop()
        self._waiting: list[asyncio.Future[VersionedState[S] | None]] = []
        self._turns: list[asyncio.Future[None]] = []
        self._flushing = 0
        self._failures = 0
        self._patience = 0
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

    async def judged(self) -> bool:
        """Say whether what the caller has just judged the tip by stands; wait until that is known."""
        return not self._timeline.pending or await self.stands()

    async def stands(self) -> bool:
        """Wait until the tip as it is now is durable, or was withdrawn; say whether it stands."""
        version, failures = self._timeline.tip_version, self._failures
        while self._failures == failures and self._timeline.version < version:
            turn: asyncio.Future[None] = self._loop.create_future()
            self._turns.append(turn)
            await turn
        return self._failures == failures

    async def settle(self) -> None:
        """Return when what is pending now was written or has failed, recipes that were run again included."""
        while self._timeline.pending and not await self.stands():
            continue

    # --- flushing -------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._scheduled = False
        if not self._timeline.pending or self._flushing:
            return
        self._flushing = len(self._timeline.pending)
        if self._rebase:
            self._watch(self._save(), self._rebased)
        else:
            self._write()

    def _rebased(self, error: Exception | None) -> None:
        if error is not None:
            self._done(error)
            return
        self._rebase = False
        self._flushing = len(self._timeline.pending)
        self._write()

    def _write(self) -> None:
        """Append what is to be flushed, or as much of it as can be stored."""
        while True:
            try:
                written = self._append(self._records())
            except Exception as exc:  # a record that cannot be stored, or a persistence that takes none
                if self._flushing > 1 and _is_of_one(exc):
                    self._flushing //= 2
                    continue
                self._done(exc if isinstance(exc, ReactStateError) else self._unstorable(exc))
                return
            self._watch(written, self._done)
            return

    def _append(self, records: list[Record]) -> Awaitable[None]:
        return self._persistence.append(records, self._schema)

    def _records(self) -> list[Record]:
        records: list[Record] = []
        bridge = self._bridge
        for change, _ in zip(self._timeline.pending, range(self._flushing), strict=False):
            records.append(record_of(change, bridge))
            bridge = None
        return records

    def _unstorable(self, exc: Exception) -> CodecError:
        error = CodecError(f"version {self._timeline.pending[0]._version} cannot be stored: {exc}")
        error.__cause__ = exc
        return error

    def _watch(self, written: Awaitable[None], then: Callable[[Exception | None], None]) -> None:
        """Call *then* with the error, or None, when *written* is done, which may be at once."""
        if isinstance(written, asyncio.Future):
            pending: asyncio.Future[None] = written
        else:
            rest: Awaitable[None] = written
            if not isinstance(written, Coroutine):  # what is done already needs no task
                step = written.__await__()
                try:
                    rest = _Begun(next(step), step)
                except StopIteration:
                    then(None)
                    return
                except Exception as exc:  # the error of the write, passed on to those who wait
                    then(exc)
                    return
            pending = self._loop.create_task(_wait_for(rest))
        if pending.done():
            then(_error_of(pending))
        else:
            pending.add_done_callback(lambda ended: then(_error_of(ended)))

    def _done(self, error: Exception | None) -> None:
        """End a flush: show what is durable, or withdraw everything that is pending."""
        count, self._flushing = self._flushing, 0
        ended, self._waiting = self._waiting[:count], self._waiting[count:]
        interrupt: BaseException | None = None
        if error is None:
            self._bridge = None
            interrupt = self._show(ended)
        else:
            self._failures += 1
            self._timeline.withdraw()
            for place, future in enumerate(ended):
                _fail(future, error if place == 0 else twin_of(error))
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
        if error is None and self._persistence.compaction_due:
            self.compact()
        if interrupt is not None:
            raise interrupt

    def _show(self, ended: list[asyncio.Future[VersionedState[S] | None]]) -> BaseException | None:
        """Make durable changes visible, all of them, even if a callback is interrupted by Ctrl-C; return that."""
        timeline, shown = self._timeline, self._shown
        pending: deque[StateChange[S]] = timeline.pending
        interrupt: BaseException | None = None
        for future in ended:
            change = pending.popleft()
            made = timeline.show(change)
            if not future.done():
                future.set_result(made)
            try:
                shown(change)
            except BaseException as exc:
                interrupt = interrupt or exc
        return interrupt

    # --- compaction -----------------------------------------------------------------------------------------------

    def compact(self) -> None:
        """Write a full snapshot in the background, unless one is being written or was refused a moment ago."""
        if self._patience:
            self._patience -= 1
        elif self._saving is None:
            self._saving = self._loop.create_task(self._save())
            self._saving.add_done_callback(self._compacted)

    def _compacted(self, task: asyncio.Task[None]) -> None:
        self._saving = None
        if not task.cancelled() and (error := task.exception()) is not None:
            import logging

            self._patience = _PATIENCE
            logging.getLogger("reactstate.container").warning(
                "the journal could not be compacted; it goes on growing until the next attempt: %s", error
            )

    async def _save(self) -> None:
        timeline = self._timeline
        oldest = timeline.history.oldest_version
        keep_since = timeline.version if oldest is None else oldest - 1
        snapshot = await asyncio.to_thread(snapshot_of(timeline, self._schema))
        await self._persistence.save(snapshot, keep_since=max(keep_since, 0))

    async def aclose(self) -> None:
        """Wait until everything that was accepted is written."""
        while self._timeline.pending:
            await self.stands()
        if self._saving is not None:
            await asyncio.wait([self._saving])

    def abandon(self, error: Exception) -> None:
        """Let those who wait wait no longer; what is under way still comes to its end."""
        for future in self._waiting:
            _fail(future, twin_of(error))


def _is_of_one(exc: Exception) -> bool:
    """Say whether an error of ``append`` may be due to a single record, so that the others can be written."""
    return isinstance(exc, CodecError | LimitExceededError | StateValidationError) or not isinstance(
        exc, ReactStateError
    )


class _Begun:
    """An awaitable that was begun outside of a task, and waits for *first*."""

    __slots__ = ("_first", "_step")

    def __init__(self, first: Any, step: Generator[Any, Any, None]) -> None:
        self._first = first
        self._step = step

    def __await__(self) -> Generator[Any, Any, None]:
        yield self._first
        yield from self._step


async def _wait_for(written: Awaitable[None]) -> None:
    await written


def _error_of(ended: asyncio.Future[None]) -> Exception | None:
    error = None if ended.cancelled() else ended.exception()
    if ended.cancelled() or not (error is None or isinstance(error, Exception)):
        return UnknownOutcomeError(
            "the write was cancelled, so it is not known whether it is durable; open the container anew to see"
        )
    return error


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # its caller may be gone: then nobody is to be blamed for not looking


def twin_of(error: Exception) -> Exception:
    """Return an equal error, so that two callers do not write their tracebacks into one."""
    try:
        twin = copy.copy(error)
    except Exception:  # an error of somebody else's persistence, with a constructor of its own
        return error
    twin.__cause__ = error.__cause__
    return twin
