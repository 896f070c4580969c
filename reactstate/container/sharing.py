"""The commit path of a container that several processes share.

Contract
    A flush is one commit of the store, conditional on the head entry. Who loses fetches what the others wrote, makes
    it visible here, in order and once, and runs the waiting recipes again on the new head. Nothing is built upon a
    version that the store does not have.

    A refusal (an expectation that failed, a recipe that raised or changed nothing) is reported only after it is known
    that the state which it was judged by was the newest when the call was made, so that writes are linearizable,
    refused ones included.

Contention
    After a lost race the next attempt waits a little, longer each time and never the same as others do. When nothing
    of one's own was written for the deadline, those who wait get ContentionError.

Changes made elsewhere
    ``follow`` is woken when the head moves. Where the changes on the way are gone, or were written under another
    schema, the container loads what is stored anew; subscribers get the changes that they miss when all of them are
    kept, else one change with the action ``"resync"``.
"""

from __future__ import annotations

import logging
import random
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, Final, TypeVar

from reactstate.container.commit import Committer, twin_of
from reactstate.container.stored import Bridge, bridge_from, fill, stored_change
from reactstate.errors import (
    CompactedError,
    ConflictError,
    ContentionError,
    PatchError,
    ReactStateError,
    SchemaVersionError,
    StorageError,
    TransientError,
    UnavailableError,
    UnknownOutcomeError,
)
from reactstate.state.change import Origin
from reactstate.state.document import from_document, to_document
from reactstate.state.patch import apply_patch, documents_equal, invert
from reactstate.state.state import State
from reactstate.state.timeline import Timeline

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable

    from reactstate.clock import Clock
    from reactstate.container.lifecycle import Lifecycle
    from reactstate.kv.transaction import Guard
    from reactstate.persistence.protocol import Loaded, Record, StatePersistence
    from reactstate.state.change import StateChange

__all__ = ["SharedCommitter", "follow_store"]

S = TypeVar("S", bound=State)

_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.05
_CATCHING: Final = -1
_LOGGER = logging.getLogger("reactstate.container")


class SharedCommitter(Committer[S]):
    """Writes the pending changes of one container, and takes over what others wrote.

    Args:
        container: Whose changes.
        persistence: Where they go; a shared one.
        clock: Tells the time, and waits.
        deadline: For how many seconds races may be lost.
        loaded: What was stored when the container was opened.
        rebase: As for Committer.
        bridge: As for Committer.
    """

    __slots__ = (
        "_adrift",
        "_clock",
        "_confirmed",
        "_container",
        "_deadline",
        "_failed",
        "_failure",
        "_guards",
        "_losing_since",
        "_losses",
        "_raw",
        "_round",
    )

    def __init__(
        self,
        container: Lifecycle[S],
        persistence: StatePersistence[S],
        clock: Clock,
        deadline: float,
        loaded: Loaded | None,
        *,
        rebase: bool = False,
        bridge: Bridge | None = None,
    ) -> None:
        super().__init__(container._timeline, persistence, container._shown, rebase=rebase, bridge=bridge)
        self._container = container
        self._clock = clock
        self._deadline = deadline
        self._losses = 0
        self._losing_since = 0.0
        self._round = 0
        self._confirmed = 0
        self._failed = 0
        self._failure: Exception | None = None
        self._adrift = False
        self._guards: dict[int, Guard] = {}
        self._raw: tuple[Any, dict[str, int]] | None = None
        if loaded is not None and (rebase or bridge is not None):
            self._raw = (loaded.head.document, loaded.head.schema)

    # --- judging --------------------------------------------------------------------------------------------------

    async def judged(self) -> bool:
        """Say whether the tip that the caller has just judged by was the newest state of the store."""
        timeline = self._timeline
        version, failures = timeline.tip_version, self._failures
        # What is being written now may have been committed, and followed by others, before the call was made.
        if 0 < len(timeline.pending) <= self._flushing and not await self.stands():
            return False
        if timeline.pending:
            return await self.stands()  # a flush that began after the call proves that nobody came before it
        if self._failures == failures and timeline.version == version:
            await self.confirm()
        return self._failures == failures

    async def confirm(self) -> None:
        """Return when everything that was committed before this call is visible here.

        Raises:
            UnavailableError: The store could not be reached.
            CodecError: What is stored cannot be read by today's class.
            StorageError: The store holds less than what was seen here.
        """
        needed = self._round + 1
        while self._confirmed < needed:
            if not self._flushing:
                await self._catch_up(lost=False)
                continue
            await self._turn()
            if self._failed >= needed and self._failure is not None:
                raise twin_of(self._failure)  # who waits for the same look does not wait for another deadline

    async def _turn(self) -> None:
        """Return when what is under way has ended."""
        turn: asyncio.Future[None] = self._loop.create_future()
        self._turns.append(turn)
        await turn

    # --- flushing -------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._adrift and self._timeline.pending and not self._flushing:
            self._scheduled = False
            self._flushing = _CATCHING
            self._container._spawn(self._lose())
            return
        super()._flush()

    def guard(self, change: StateChange[S], guard: Guard) -> None:
        """Let *change*, which was just pushed, be written only while *guard* holds its lock."""
        self._guards[change._version] = guard

    def _write(self) -> None:
        self._begin_round()
        if self._guards:
            self._flushing = self._guarded_alike()
        super()._write()

    def _guarded_alike(self) -> int:
        """Return how many of the changes that are to be flushed have the guard of the first: they fail together."""
        guards, pending = self._guards, self._timeline.pending
        first = guards.get(pending[0]._version)
        alike = takewhile(lambda change: guards.get(change._version) is first, islice(pending, self._flushing))
        return sum(1 for _ in alike)

    def _append(self, records: list[Record]) -> Awaitable[None]:
        guard = self._guards.get(records[0].version) if self._guards else None
        if guard is None:
            return super()._append(records)
        return self._persistence.append_guarded(records, self._schema, guard)

    def _begin_round(self) -> None:
        self._round += 1
        self._container._asked = self._clock.monotonic()

    def _fail_round(self, error: Exception) -> None:
        self._failed, self._failure = self._round, error

    def _end_round(self) -> None:
        self._failure = None
        self._confirmed = self._round
        self._container._confirmed = self._container._asked

    def _done(self, error: Exception | None) -> None:
        if isinstance(
            error, ConflictError | SchemaVersionError
        ):  # the latter: another has taken the state to a new schema
            self._flushing = _CATCHING
            self._container._spawn(self._lose())
            return
        if error is None:
            self._losses = 0
            self._raw = None
            self._end_round()
            for change in islice(self._timeline.pending, self._flushing) if self._guards else ():
                self._guards.pop(change._version, None)
        elif isinstance(error, UnavailableError | UnknownOutcomeError):
            self._fail_round(error)
        if error is not None:
            self._guards.clear()
        super()._done(error)

    def _rebased(self, error: Exception | None) -> None:
        if error is None:
            self._raw = None  # the stored document is today's now
        super()._rebased(error)

    async def _lose(self) -> None:
        """After a lost race: catch up, so that the recipes can run again, or say that it cannot be done."""
        try:
            await self._pause()
            await self._catch_up(lost=True)
        except Exception as exc:  # passed on to those who wait
            self._fail_all(exc)

    def _hold_flushes(self) -> None:
        """Let nothing be written until ``_release``."""
        self._flushing = _CATCHING

    def _fail_all(self, exc: Exception) -> None:
        """Pass *exc* on to everybody who waits for a write."""
        error = exc if isinstance(exc, ReactStateError) else self._unstorable(exc)
        self._flushing = len(self._timeline.pending)
        self._guards.clear()
        super()._done(error)

    async def _pause(self) -> None:
        self._losses += 1
        now = self._clock.monotonic()
        if self._losses == 1:
            self._losing_since = now
            return
        if now - self._losing_since > self._deadline:
            losses, self._losses = self._losses, 0
            raise ContentionError(
                f"other writers came first {losses} times within {self._deadline} s; try again when there are fewer, "
                "or make fewer, larger updates"
            )
        longest = min(_FIRST_PAUSE_S * 2 ** min(self._losses, 10), _LONGEST_PAUSE_S)
        await self._clock.sleep(random.uniform(0, longest))  # noqa: S311 - it only has to differ from the others'

    # --- catching up ----------------------------------------------------------------------------------------------

    async def _catch_up(self, *, lost: bool) -> None:
        """Take over what others wrote; nothing is flushed meanwhile.

        Args:
            lost: A race was lost: on success the waiting changes are flushed, or their recipes run again.
        """
        self._flushing = _CATCHING
        try:
            self._begin_round()
            await self._fetch()
            self._end_round()
        except BaseException as exc:
            if isinstance(exc, Exception):
                self._fail_round(exc)
            if not lost:
                self._release()
            raise
        self._release()

    def _release(self) -> None:
        """Let flushes go on."""
        self._flushing = 0
        turns, self._turns = self._turns, []
        for turn in turns:
            if not turn.done():
                turn.set_result(None)
        if self._timeline.pending:
            self._flush()
        elif self._losses:
            self._loop.call_soon(self._rest)  # after the recipes that are about to run again

    def _rest(self) -> None:
        """Forget lost races when nobody is left who lost them."""
        if not self._timeline.pending:
            self._losses = 0

    async def _fetch(self) -> None:
        persistence, version = self._persistence, self._timeline.version
        if not self._adrift:
            try:
                fetched = await persistence.fetch(version)
                if fetched.version < version:
                    raise StorageError(
                        f"the store holds version {fetched.version} of this state, older than version {version}, which "
                        "was seen here: it was restored or replaced; open the container again"
                    )
                if not fetched.records:
                    return
                if version:  # else nothing says of which schema the records are
                    self._adopt(fetched.records)
                    return
            except (CompactedError, PatchError):
                pass
        # Until what was loaded is shown here too, records that follow it do not follow what is here.
        self._adrift = True
        self._reload(await persistence.load(history=self._timeline.history.size))
        self._adrift = False

    def _adopt(self, records: list[Record]) -> None:
        """Make the next records visible, in order."""
        timeline = self._timeline
        cls = timeline.cls
        if self._raw is None:
            schema = self._schema
            document = None if timeline.state is None else to_document(timeline.state)
        else:
            document, schema = self._raw
        origin = Origin(cls, schema, raw=self._raw is not None)
        changes: list[StateChange[S]] = []
        for record in records:
            if record.inverse is None:
                record.inverse = invert(document, record.patch)
            document = apply_patch(document, record.patch)
            changes.append(stored_change(record, origin))
        state: Any = None if document is None else from_document(cls, document, schema)
        self._drop()
        timeline.adopt_run(changes, state)
        origin.end(changes[-1], document if origin.raw else None)
        if not self._rebase:
            differs = state is not None and not documents_equal(to_document(state), document)
            self._raw = (document, schema) if differs else None
            self._bridge = bridge_from(document) if differs else None
        else:
            self._raw = (document, schema)
        self._tell(changes)

    def _reload(self, loaded: Loaded | None) -> None:
        """Go on from what is stored, when the records on the way to it cannot simply be added."""
        timeline = self._timeline
        before = timeline.version
        if loaded is None or loaded.head.version < before or not _leads_on(timeline.head, loaded):
            raise StorageError(
                f"the store no longer holds version {before} of this state, which was seen here: it was restored or "
                "replaced; open the container again"
            )
        fresh: Timeline[S] = Timeline(
            timeline.cls, timeline.history._clock, timeline.history.size, timeline.history.retention
        )
        self._rebase, self._bridge = fill(fresh, loaded)
        differs = self._rebase or self._bridge is not None
        self._raw = (loaded.head.document, loaded.head.schema) if differs else None
        if loaded.head.version == before:
            return
        self._drop()
        timeline.take_over(fresh)
        missed = [change for change in timeline.history if change._version > before]
        if not missed or missed[0]._version > before + 1:
            change = self._container._resync()
            missed = [] if change is None else [change]
        self._tell(missed)

    def _tell(self, changes: list[StateChange[S]]) -> None:
        """Tell everybody of all *changes*, even if a callback is interrupted by Ctrl-C."""
        interrupt: BaseException | None = None
        for change in changes:
            try:
                self._container._shown(change)
            except BaseException as exc:
                interrupt = interrupt or exc
        if interrupt is not None:
            raise interrupt

    def _drop(self) -> None:
        """Withdraw what waits: it was built upon a head that has moved, so its recipes run again."""
        self._failures += 1
        if not self._timeline.pending:
            return
        self._timeline.withdraw()
        self._guards.clear()
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


def _leads_on(head: StateChange[Any], loaded: Loaded) -> bool:
    """Say whether what is stored goes on from *head*, as far as its history tells."""
    if loaded.head.version == head._version:
        return head._version == 0 or loaded.head.change_id == head.change_id_hex
    records = (record for era in loaded.history for record in era.records)
    return all(record.change_id == head.change_id_hex for record in records if record.version == head._version)


async def follow_store(container: Lifecycle[S], committer: SharedCommitter[S]) -> None:
    """Make what others write visible here, until the container is closed."""
    try:
        async for _ in container._persistence.watch_head():
            while not container._closed:
                try:
                    await committer.confirm()
                    break
                except (TransientError, UnknownOutcomeError) as exc:
                    _LOGGER.warning("the store cannot be followed at the moment; trying again: %s", exc)
                    await container._clock.sleep(_LONGEST_PAUSE_S * 10)
        if not container._closed:
            _LOGGER.error("the store was closed under this container, so its subscriptions end")
            container._end_watching()
    except Exception:
        _LOGGER.exception("following the store ended; open the container again to see newer changes")
        container._end_watching()
