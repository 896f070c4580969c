"""StateContainer: one typed state, versioned, watched and durable.

Guarantees
    Durable before visible: nobody sees a change that a crash could take back (see ``durability``).
    All or nothing: a step that fails with any error but UnknownOutcomeError leaves the state, the version, the
    history, the disk and the subscribers as they were.
    Versions start at 1 and never repeat or go back: an undo is a new version with an old state.

Thread safety
    A container belongs to the event loop that opened it. ``state``, ``version``, ``current`` and ``history`` may be
    read from any thread, without waiting.
"""

from __future__ import annotations

from asyncio import get_running_loop
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar, TypeVarTuple, overload

from reactstate.clock import Clock, SystemClock
from reactstate.container.delivery import process_changes
from reactstate.container.edit import Edit
from reactstate.container.expect import NotExpectedError, check_guarded, expect_same, expect_version
from reactstate.container.follower import confirm
from reactstate.container.lifecycle import IN_RECIPE, Lifecycle
from reactstate.container.opening import begin, check_config, load
from reactstate.container.reads import BoundedStaleness, Consistency, Strong
from reactstate.container.snapshots import SnapshotShelf
from reactstate.kv.opening import Opening
from reactstate.persistence.memory import MemoryPersistence
from reactstate.state.change import ChangeType, StateChange, VersionedState
from reactstate.state.derive import View, select
from reactstate.state.document import to_document
from reactstate.state.history import check_steps, check_version
from reactstate.state.patch import diff
from reactstate.state.produce import run_recipe
from reactstate.state.state import State
from reactstate.state.timeline import Timeline, action_of, check_labels, check_tags

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping
    from datetime import datetime
    from typing import Self

    from reactstate.container.delivery import Delivery
    from reactstate.container.snapshots import SnapshotInfo
    from reactstate.kv.store import KeyValueStore
    from reactstate.kv.transaction import Guard, StoreTransaction
    from reactstate.persistence.protocol import StatePersistence
    from reactstate.state.config import StateConfig
    from reactstate.state.patch import Patch
    from reactstate.state.produce import Recipe
    from reactstate.state.timeline import Plan, Planner

__all__ = ["StateContainer"]

S = TypeVar("S", bound=State)
Ts = TypeVarTuple("Ts")
T = TypeVar("T")

_UPDATE = ChangeType.UPDATE
_IN_RECIPE = IN_RECIPE


class StateContainer(Lifecycle[S]):
    """Holds the current state and its version, and leads from one to the next.

    Made by ``StateContainer(initial)`` in memory, or by ``await StateContainer.open(...)`` with a persistence. Made
    to be subclassed: ``open`` returns the class that it was called on.

    Args:
        initial: The first state; it becomes version 1.
        config: How much is kept, and so on.
        clock: Tells the time of each change.

    Example:
        >>> class Cart(State):
        ...     items: dict[str, int] = {}
        >>> async def main() -> int:
        ...     async with StateContainer(Cart()) as cart:
        ...         await cart.update(lambda draft: draft.items.update(apple=2), actor="ada")
        ...         return cart.version
    """

    def __init__(self, initial: S, *, config: StateConfig | None = None, clock: Clock | None = None) -> None:
        config = check_config(config)
        clock = clock if clock is not None else SystemClock()
        timeline = begin(initial, config, clock)
        self._setup(timeline, MemoryPersistence[S](clock), config, clock, 30.0)
        timeline.show(timeline.push(ChangeType.CREATE, initial, [(None, None, initial)], None, None, None))

    @classmethod
    def open(
        cls,
        initial_or_type: S | type[S],
        url: str | None = None,
        *,
        key: str | None = None,
        store: KeyValueStore | None = None,
        persistence: StatePersistence[S] | None = None,
        config: StateConfig | None = None,
        clock: Clock | None = None,
        deadline: float = 30.0,
    ) -> Opening[Self]:
        """Open a container, loaded; await it, or use it with ``async with``.

        Args:
            initial_or_type: The first state, used only when nothing is stored; or its type, to open what is stored
                (with nothing stored the container is at version 0 until ``set``).
            url: Where it is kept: ``None`` or ``memory:`` nowhere, ``file:directory`` in files, ``sqlite:app.db`` or
                ``lmdb:directory`` in a store that several processes may share.
            key: Under which name, in a place that holds many (default: ``type_name/state_key``).
            store: A key-value store to keep it in, instead of a URL; it stays open when the container is closed.
            persistence: Where it is kept, instead of a URL.
            config: How much is kept, and so on.
            clock: Tells the time of each change.
            deadline: Seconds after which ``aclose`` gives up waiting.

        Raises:
            AlreadyOpenError: Another container or process has it open.
            CodecError: What is stored cannot be read by today's class; nothing was changed.
            StorageError: It cannot be read or written, or is damaged.
            UnsupportedError: The URL needs an engine that is not there.
        """

        async def make() -> Self:
            self = cls.__new__(cls)
            await load(
                self,
                initial_or_type,
                url,
                key=key,
                store=store,
                persistence=persistence,
                config=check_config(config),
                clock=clock if clock is not None else SystemClock(),
                deadline=deadline,
            )
            return self

        return Opening(make)

    def _setup(
        self,
        timeline: Timeline[S],
        persistence: StatePersistence[S],
        config: StateConfig,
        clock: Clock,
        deadline: float,
    ) -> None:
        self._start(timeline, config.buffer_size, config.on_lag)
        self._live(persistence, deadline)
        self._clock = clock
        self._asked = self._confirmed = clock.monotonic()
        self._shelf: SnapshotShelf[S] = SnapshotShelf(timeline.cls, persistence, clock, config)
        self._snapshots = config.snapshot_interval is not None

    # --- writing --------------------------------------------------------------------------------------------------

    def update(
        self,
        recipe: Callable[[S, *Ts], object] | Mapping[str, Any],
        *args: *Ts,
        actor: str | None = None,
        action: str | None = None,
        tags: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
        guard: Guard | None = None,
    ) -> Coroutine[Any, Any, VersionedState[S]]:
        """Change the state by *recipe*; return what is current once it is durable and visible.

        Args:
            recipe: A synchronous function of a draft, or a mapping of field names to values. It must be pure: it reads
                its draft, not the container, and may run more than once.
            *args: Further arguments for the recipe.
            actor: Who makes the change.
            action: What is done (default: the recipe's name).
            tags: Anything else worth keeping with the change: str keys, scalar values.
            expected_version: Only change this version.
            guard: A lock in the same store, whose holder alone may write.

        Raises:
            StateValidationError: A value does not fit.
            TransitionError: ``check_transition`` refused the change.
            ConflictError: The state is not of *expected_version*.
            StateNotFoundError: There is no state.
            LeaseLostError: The lock of *guard* is held no longer; nothing was changed.
            UnsupportedError: *guard* is a lock of another store, or there is no store.
            WrongContextError: It was called inside a recipe, or on another event loop.
            StorageError: It could not be written; nothing was changed.
            UnknownOutcomeError: It may or may not be on disk; the persistence must be opened anew.
        """
        if self._refusal is not None:
            self._check_call()
        if guard is not None:
            check_guarded(guard, self._persistence.store)
        if expected_version is not None:
            check_version(expected_version, "expected_version")
        return self._update(recipe, args, actor, action, tags, expected_version, guard)

    async def _update(
        self,
        recipe: Recipe,
        args: tuple[Any, ...],
        actor: str | None,
        action: str | None,
        tags: Mapping[str, Any] | None,
        expected_version: int | None,
        guard: Guard | None = None,
    ) -> VersionedState[S]:
        # The path of ``_commit``, written out: it is the one that everything goes through.
        if get_running_loop() is not self._loop or self._closed:
            self._check_loop()
        if actor is not None or action is not None:
            check_labels(actor, action)
        if tags is not None:
            tags = check_tags(tags)
        timeline, committer = self._timeline, self._committer
        while True:
            try:
                if expected_version is not None:
                    timeline.expect_version(expected_version)
                base = timeline.tip_state
                if base is None:
                    base = timeline.need_state()
                self._refusal = _IN_RECIPE
                try:
                    state, edits = run_recipe(base, recipe, args)
                finally:
                    self._refusal = None
            except Exception:
                if committer is None or await committer.judged():
                    raise
                continue
            if state is base:
                if committer is None or await committer.judged():
                    return timeline.current()
                continue
            if action is None:
                action = action_of(recipe)
            if committer is None:
                change = timeline.advance(state, edits, actor, action, tags)
                broadcast = self._broadcast
                if broadcast._live or broadcast._ring:
                    broadcast.publish(change, change._version)
                self._notifier.deliver(change)
                if self._snapshots:
                    self._consider_snapshot(change)
                return VersionedState(state, change, timeline._created_ns)
            change = timeline.push(_UPDATE, state, edits, actor, action, tags)
            if guard is not None and self._sharing is not None:
                self._sharing.guard(change, guard)
            made = await committer.wait(change)
            if made is not None:
                return made

    def compare_and_swap(
        self,
        expected: S | int,
        recipe: Callable[[S, *Ts], object] | Mapping[str, Any],
        *args: *Ts,
        actor: str | None = None,
        action: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> Coroutine[Any, Any, bool]:
        """Change the state by *recipe* if it is *expected*, a state or a version; say whether it was."""
        self._check_call()
        if not isinstance(expected, State | int) or isinstance(expected, bool):  # pyright: ignore[reportUnnecessaryIsInstance] - it comes from callers
            raise TypeError(f"expected is a state or a version, not a {type(expected).__name__}")
        return self._compare_and_swap(expected, recipe, args, actor, action, tags)

    async def _compare_and_swap(
        self,
        expected: S | int,
        recipe: Recipe,
        args: tuple[Any, ...],
        actor: str | None,
        action: str | None,
        tags: Mapping[str, Any] | None,
    ) -> bool:
        try:
            await self._commit(
                lambda timeline: timeline.plan_update(recipe, args), actor, action, tags, expect_same(expected)
            )
        except NotExpectedError:
            return False
        return True

    def set(
        self,
        new_state: S,
        *,
        actor: str | None = None,
        action: str | None = None,
        tags: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
    ) -> Coroutine[Any, Any, VersionedState[S]]:
        """Put a whole new state in place of the current one; when there is none this creates it."""
        self._check_call()
        check = expect_version(expected_version)
        return self._commit(lambda timeline: timeline.plan_set(new_state), actor, action, tags, check)

    def merge(
        self, other: S, *, actor: str | None = None, action: str | None = None, tags: Mapping[str, Any] | None = None
    ) -> Coroutine[Any, Any, VersionedState[S]]:
        """Merge *other* into the state, by the state's own ``merge``.

        Raises:
            MergeUnsupportedError: The class does not define it.
        """
        self._check_call()
        return self._commit(lambda timeline: timeline.plan_merge(other), actor, action, tags)

    def delete(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        tags: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
    ) -> Coroutine[Any, Any, VersionedState[S]]:
        """Remove the state; its history stays, and the next ``set`` creates it with the next version."""
        self._check_call()
        check = expect_version(expected_version)
        return self._commit(lambda timeline: timeline.plan_delete(), actor, action, tags, check)

    def edit(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> Edit[S]:
        """Return an ``async with`` block whose draft starts from the visible state and is committed at its end.

        Nothing is locked: when the state moved meanwhile the block ends with ConflictError. An exception in the block
        discards the draft.
        """
        self._check_call()
        return Edit(self, actor, action, tags)

    def rollback(
        self,
        steps: int = 1,
        *,
        actor: str | None = None,
        action: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> Coroutine[Any, Any, VersionedState[S]]:
        """Come back to the version *steps* before the current one, as a new version.

        Raises:
            ValueError: *steps* is less than 1.
            NoHistoricalState: That version is not kept.
        """
        self._check_call()
        check_steps(steps)
        return self._commit(lambda timeline: timeline.plan_rollback(steps), actor, action, tags)

    def rollback_to(
        self,
        version: int,
        *,
        actor: str | None = None,
        action: str | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> Coroutine[Any, Any, VersionedState[S]]:
        """Come back to *version*, as a new version.

        Raises:
            NoHistoricalState: It is not kept.
        """
        self._check_call()
        check_version(version)
        return self._commit(lambda timeline: timeline.plan_rollback_to(version), actor, action, tags)

    def undo(
        self, *, actor: str | None = None, tags: Mapping[str, Any] | None = None
    ) -> Coroutine[Any, Any, VersionedState[S]]:
        """Revert the newest change that is neither undo nor redo nor already undone, whoever made it.

        Raises:
            NoHistoricalState: There is nothing left to undo; version 1 cannot be undone.
        """
        self._check_call()
        return self._commit(lambda timeline: timeline.plan_undo(), actor, None, tags)

    def redo(
        self, *, actor: str | None = None, tags: Mapping[str, Any] | None = None
    ) -> Coroutine[Any, Any, VersionedState[S]]:
        """Bring back the change that was undone last; any other change ends this.

        Raises:
            NoHistoricalState: There is nothing to redo.
        """
        self._check_call()
        return self._commit(lambda timeline: timeline.plan_redo(), actor, None, tags)

    async def _commit(
        self,
        planner: Planner[S],
        actor: str | None,
        action: str | None,
        tags: Mapping[str, Any] | None,
        check: Callable[[Timeline[S]], None] | None = None,
    ) -> VersionedState[S]:
        """Lead from the tip to the next version; see ``reactstate.container.commit``."""
        self._check_loop()
        check_labels(actor, action)
        tags = check_tags(tags)
        timeline, committer = self._timeline, self._committer
        while True:
            try:
                if check is not None:
                    check(timeline)
                plan = self._plan(planner)
            except Exception:
                if committer is None or await committer.judged():
                    raise
                continue
            if plan is None:
                if committer is None or await committer.judged():
                    return timeline.current()
                continue
            name = action if action is not None else plan.action
            change = timeline.push(plan.change_type, plan.state, plan.edits, actor, name, tags, plan.target)
            if committer is None:
                shown = timeline.show(change)
                self._shown(change)
                return shown
            made = await committer.wait(change)
            if made is not None:
                return made

    def _plan(self, planner: Planner[S]) -> Plan[S] | None:
        before, self._refusal = self._refusal, _IN_RECIPE
        try:
            return planner(self._timeline)
        finally:
            self._refusal = before

    def _shown(self, change: StateChange[S]) -> None:
        """Tell everybody of a change that was just made the head."""
        self._broadcast.publish(change, change._version)
        self._notifier.deliver(change)
        if self._snapshots:
            self._consider_snapshot(change)

    # --- snapshots ------------------------------------------------------------------------------------------------

    def snapshot(self, name: str = "") -> Coroutine[Any, Any, SnapshotInfo]:
        """Keep the current state under *name*, durably, until it is deleted.

        Raises:
            StateNotFoundError: There is no state.
            StorageError: It could not be written.
        """
        self._check_call()
        return self._snapshot(name)

    async def _snapshot(self, name: str) -> SnapshotInfo:
        self._check_loop()
        return await self._shelf.put(self.current, name)

    def restore(
        self, snapshot_id: str, *, actor: str | None = None, tags: Mapping[str, Any] | None = None
    ) -> Coroutine[Any, Any, VersionedState[S]]:
        """Come back to the state of a snapshot, as a new version.

        Raises:
            SnapshotNotFoundError: No snapshot has that id.
        """
        self._check_call()
        return self._restore(snapshot_id, actor, tags)

    async def _restore(self, snapshot_id: str, actor: str | None, tags: Mapping[str, Any] | None) -> VersionedState[S]:
        self._check_loop()
        _, state = await self._shelf.get(snapshot_id)
        return await self._commit(lambda timeline: timeline.plan_return(state, "restore"), actor, None, tags)

    async def list_snapshots(self) -> list[SnapshotInfo]:
        """Return the snapshots, oldest first."""
        self._check_loop()
        return await self._shelf.list()

    def delete_snapshot(self, snapshot_id: str) -> Coroutine[Any, Any, bool]:
        """Remove a snapshot; say whether it was there."""
        self._check_call()
        return self._delete_snapshot(snapshot_id)

    async def _delete_snapshot(self, snapshot_id: str) -> bool:
        self._check_loop()
        return await self._shelf.delete(snapshot_id)

    def _consider_snapshot(self, change: StateChange[S]) -> None:
        """Take a snapshot by itself when its time has come."""
        if change._origin is None and self._shelf.is_due(change):  # who made the change takes the snapshot
            self._spawn(self._shelf.take(self._timeline.current()))

    # --- reading --------------------------------------------------------------------------------------------------

    async def at(self, version: int | datetime) -> S:
        """Return the state at a version, or the one that was current at a point in time.

        Raises:
            NoHistoricalState: It is not kept.
            StateNotFoundError: It was deleted then.
            ValueError: The point in time has no time zone.
        """
        return self._timeline.view().at(version)

    async def diff(self, old: int, new: int) -> Patch:
        """Return the JSON Patch from version *old* to version *new*.

        Raises:
            NoHistoricalState: One of them is not kept.
            StateNotFoundError: The state was deleted in one of them.
        """
        view = self._timeline.view()
        return diff(to_document(view.at(old)), to_document(view.at(new)))

    async def get(self, consistency: Consistency | None = None) -> S:
        """Return the state, as fresh as *consistency* asks (default: ``Eventual()``, the local value).

        The local value of a container that alone writes is always current. One that shares its state with other
        processes looks at the store, and one that was opened read-only at what its writer has published, when
        *consistency* needs it.

        Raises:
            StateNotFoundError: There is no state.
            StorageError: What is published cannot be read.
            UnavailableError: The store could not be reached.
        """
        self._check_loop()
        if consistency is not None and not isinstance(consistency, Consistency):  # pyright: ignore[reportUnnecessaryIsInstance] - it comes from callers
            raise TypeError(f"Strong(), BoundedStaleness(...) or Eventual() is needed, not {consistency!r}")
        late = isinstance(consistency, BoundedStaleness) and self.replication_lag > consistency.max_lag
        if self._remote and (late or isinstance(consistency, Strong)):
            if self._sharing is not None:
                await self._sharing.confirm()
            else:
                began = self._clock.monotonic()
                await confirm(self)
                self._confirmed = began
        return self.state

    @property
    def replication_lag(self) -> timedelta:
        """How long ago the last look at the newest state began; zero for a container that alone writes."""
        if not self._remote:
            return timedelta(0)
        return timedelta(seconds=self._clock.monotonic() - self._confirmed)

    def select(self, fn: Callable[[S], T], *, equal: Callable[[T, T], bool] | None = None) -> View[T]:
        """Return the view ``fn(state)``, which announces a change when its value differs."""
        return select(self, fn, equal=equal)

    @overload
    async def process(
        self,
        name: str,
        handler: Callable[[StateChange[S]], Awaitable[Any]],
        *,
        delivery: Literal["at_most_once", "at_least_once"] = ...,
    ) -> None: ...
    @overload
    async def process(
        self,
        name: str,
        handler: Callable[[StateChange[S], StoreTransaction], Awaitable[Any]],
        *,
        delivery: Literal["exactly_once"],
    ) -> None: ...
    async def process(
        self, name: str, handler: Callable[..., Awaitable[Any]], *, delivery: Delivery = "at_least_once"
    ) -> None:
        """Hand every change to *handler* until the container is closed or the handler raises.

        Args:
            name: The consumer's name; its cursor is stored under it.
            handler: An asynchronous function of a change; with ``"exactly_once"`` of a change and a StoreTransaction,
                whose writes are committed together with the cursor.
            delivery: ``"at_most_once"``, ``"at_least_once"`` or ``"exactly_once"`` (needs a store).

        Raises:
            CompactedError: The cursor is older than the changes that are kept.
            AlreadyOpenError: A consumer of that name is active.
            ReadOnlyError: ``"at_least_once"`` on a container that was opened read-only, which can store no cursor.
            UnsupportedError: ``"exactly_once"`` without a store.
        """
        self._check_loop()
        await process_changes(self, name, handler, delivery)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._timeline.cls.__name__}, version={self.version})"
