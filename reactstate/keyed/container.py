"""KeyedContainer: many states of one type, each under its id and with its own version, over any store.

Guarantees
    A change is as durable as the store says before the call that made it returns, and all or nothing: a call that
    fails with any error but UnknownOutcomeError has changed nothing. Each commit expects the revision that it was made
    from, so no update is lost, whoever else writes: a recipe that lost runs again on what is there now.

    Each id has its own versions, 1, 2, 3 and so on. They never repeat or go back, also after a delete (which takes a
    version of its own) and a creation anew; there they may skip some.

    A lost reply is cleared up: the record names its change and those before it, and is read again until it is certain
    whether the change was made. UnknownOutcomeError is left for a store that stays out of reach until the deadline,
    and for a state that was deleted or changed many times meanwhile.

Thread safety
    A container belongs to the event loop that opened it. Any number of containers, in any number of processes, may be
    open on one collection.
"""

from __future__ import annotations

import weakref
from asyncio import get_running_loop
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, TypeVarTuple, cast

from reactstate.clock import SystemClock
from reactstate.errors import ConflictError, StateNotFoundError, StateValidationError
from reactstate.keyed.announcer import Announcer
from reactstate.keyed.change import KeyedChange
from reactstate.keyed.lifecycle import IN_RECIPE, Lifecycle
from reactstate.keyed.opening import check_open, open_store_at
from reactstate.keyed.records import Labels, Records
from reactstate.keyed.subscription import KeyedSubscription, KeyedWatch
from reactstate.keyed.writing import Planned, Writer
from reactstate.kv.opening import Opening
from reactstate.kv.protocol import Capability
from reactstate.kv.retry import until_available
from reactstate.state.change import ChangeType, StateChange, VersionedState
from reactstate.state.config import StateConfig
from reactstate.state.document import states_equal
from reactstate.state.produce import check_state_value, edit_between, run_recipe
from reactstate.state.state import State
from reactstate.state.timeline import action_of, check_labels, check_tags

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
    from typing import Self

    from blinker import Signal

    from reactstate.clock import Clock
    from reactstate.keyed.ids import Id
    from reactstate.keyed.records import Record
    from reactstate.keyed.writing import Plan, Written
    from reactstate.kv.protocol import Cursor, Entry
    from reactstate.kv.store import KeyValueStore
    from reactstate.kv.transaction import Guard
    from reactstate.state.observable import OnLag
    from reactstate.state.produce import Recipe

__all__ = ["KeyedContainer"]

S = TypeVar("S", bound=State)
Ts = TypeVarTuple("Ts")

_CREATE = ChangeType.CREATE
_UPDATE = ChangeType.UPDATE
_DELETE = ChangeType.DELETE


class KeyedContainer(Lifecycle, Generic[S]):
    """Many states of one type, each under its ``id`` and with its own version.

    Made by ``await KeyedContainer.open(Type, url)``, and made to be subclassed: ``open`` returns the class that it was
    called on.

    Attributes:
        cache_size: How many decoded states are kept, so that reading one that has not changed decodes nothing.

    Example:
        >>> class Cart(State):
        ...     id: str
        ...     items: dict[str, int] = {}
        >>> async def main() -> int:
        ...     async with KeyedContainer.open(Cart, "sqlite:shop.db") as carts:
        ...         await carts.put(Cart(id="ada"))
        ...         made = await carts.update("ada", lambda draft: draft.items.update(apple=2))
        ...         return made.version
    """

    cache_size: ClassVar[int] = 10_000

    def __init__(self) -> None:
        raise TypeError(f"open it: await {type(self).__name__}.open(Type, url)")

    @classmethod
    def open(
        cls,
        state_type: type[S],
        url: str | None = None,
        *,
        key: str | None = None,
        store: KeyValueStore | None = None,
        config: StateConfig | None = None,
        clock: Clock | None = None,
        deadline: float = 30.0,
    ) -> Opening[Self]:
        """Open a container; await it, or use it with ``async with``.

        Args:
            state_type: The type of its states; it has a field or property ``id`` of type str, int or UUID.
            url: Where they are kept, such as ``sqlite:shop.db``; the container closes what it opens.
            key: The collection's name (default: the type name).
            store: An open store, instead of a URL; it stays open. With neither, states are kept in memory.
            config: ``buffer_size`` (how many changed ids wait for a subscriber) and ``on_lag`` count here.
            clock: Tells the time of each change.
            deadline: Seconds after which a call gives up when the store cannot be reached or others keep writing
                first, and ``aclose`` gives up waiting.

        Raises:
            StateDefinitionError: The type has no such ``id``.
            UnsupportedError: The store has no CAS or TRANSACTIONS, or the URL needs an engine that is not there.
            SettingsError: An argument has a value that cannot be used.
            InvalidKeyError: *key* is no name.
        """

        async def make() -> Self:
            check_open(state_type, url, key, store, config, deadline)
            time = clock if clock is not None else SystemClock()
            name = key if key is not None else state_type.__reactstate_type_name__
            records = Records(state_type, name, cls.cache_size)
            opened = store if store is not None else await open_store_at(url, time)
            try:
                opened.require("keyed container", Capability.CAS, Capability.TRANSACTIONS)
                self = cls.__new__(cls)
                self._setup(records, opened, config or StateConfig(), time, deadline, owns_store=store is None)
            except BaseException:
                if store is None:
                    await opened.aclose()
                raise
            return self

        return Opening(make)

    def _setup(
        self,
        records: Records[S],
        store: KeyValueStore,
        config: StateConfig,
        clock: Clock,
        deadline: float,
        *,
        owns_store: bool,
    ) -> None:
        self._live(store, deadline, owns_store=owns_store)
        self._records = records
        self._clock = clock
        self._config = config
        self._writer = Writer(records, store, clock, deadline)
        self._watching: weakref.WeakSet[KeyedSubscription[S] | KeyedWatch[S]] = weakref.WeakSet()
        self._announcer = Announcer[S](self, self._turns, self._subscribe_all, records.key, clock)

    # --- reading --------------------------------------------------------------------------------------------------

    async def get(self, id: Id) -> S | None:  # noqa: A002 - the public name
        """Return the state *id*, or None when there is none.

        Raises:
            CodecError: What is stored cannot be read by today's class; it was left as it is.
            InvalidKeyError: *id* is no id of such a state.
            UnavailableError: The store stayed out of reach until the deadline.
        """
        if get_running_loop() is not self._loop or self._closed or self._refusal is not None:
            self._check_loop()
        record = await self._writer.read(self._records.key(id))
        return None if record is None else record.state

    async def current(self, id: Id) -> VersionedState[S] | None:  # noqa: A002 - the public name
        """Return the state *id* with its version and metadata, or None when there is none; it raises as ``get`` does."""
        self._check_loop()
        record = await self._writer.read(self._records.key(id))
        return None if record is None else record.versioned()

    async def get_many(self, ids: Iterable[Id]) -> dict[Id, S]:
        """Return the states that there are, by id, in the order asked for; it raises as ``get`` does."""
        self._check_loop()
        keys = {self._records.key(id): id for id in ids}  # noqa: A001 - the public name
        wanted = list(keys)
        entries = await until_available(
            lambda: self._store.get_many(wanted), clock=self._clock, deadline=self._deadline
        )
        return {keys[key]: self._records.read(entries[key]).state for key in wanted if key in entries}

    def scan(self, prefix: str = "", *, limit: int | None = None, reverse: bool = False) -> AsyncIterator[S]:
        """Iterate over the states whose ids begin with *prefix*, without holding them all in memory.

        They come in the order of their keys: that of the ids as text, in which ``10`` is before ``9``, and ``/`` and
        ``%`` count as ``%``. What is written meanwhile may or may not be seen.

        Args:
            prefix: Only ids whose text begins with it; no sign in it has a meaning of its own. In a class whose ids
                are of several types, a prefix finds those that are text.
            limit: At most so many.
            reverse: From the last to the first.

        Raises:
            CodecError: (while iterating) A state cannot be read by today's class; ``ids`` names them all.
            InvalidKeyError: *prefix* is no text.
            ValueError: *limit* is negative.
        """
        return self._states(self._entries(prefix, limit, reverse=reverse))

    def ids(self, prefix: str = "", *, limit: int | None = None, reverse: bool = False) -> AsyncIterator[Id]:
        """Iterate over the ids that begin with *prefix*, in the order of ``scan``, without decoding the states."""
        return self._found_ids(self._entries(prefix, limit, reverse=reverse))

    async def count(self, prefix: str = "") -> int:
        """Return how many states there are whose ids begin with *prefix*; it reads them all."""
        found = 0
        async for _ in self._entries(prefix, None):
            found += 1
        return found

    def _entries(self, prefix: str, limit: int | None, *, reverse: bool = False) -> AsyncIterator[Entry]:
        self._check_call()
        if limit is not None and limit < 0:
            raise ValueError(f"limit is how many states at most, not {limit}")
        return self._read_entries(self._records.prefix(prefix), limit, reverse)

    async def _read_entries(self, prefix: str, limit: int | None, reverse: bool) -> AsyncIterator[Entry]:
        self._check_loop()
        if limit == 0:
            return
        entries = self._store.scan(prefix, limit=limit, reverse=reverse)
        try:
            async for entry in entries:
                yield entry
                self._check_loop()
        finally:
            await _let_go(entries)

    async def _states(self, entries: AsyncIterator[Entry]) -> AsyncIterator[S]:
        try:
            async for entry in entries:
                yield self._records.read(entry, keep=False).state
        finally:
            await _let_go(entries)

    async def _found_ids(self, entries: AsyncIterator[Entry]) -> AsyncIterator[Id]:
        try:
            async for entry in entries:
                yield self._records.id_at(entry.key)
        finally:
            await _let_go(entries)

    # --- writing --------------------------------------------------------------------------------------------------

    def put(
        self,
        state: S,
        *,
        expected_version: int | None = None,
        actor: str | None = None,
        action: str | None = None,
        tags: Mapping[str, Any] | None = None,
        guard: Guard | None = None,
    ) -> Coroutine[Any, Any, VersionedState[S]]:
        """Create *state*, or put it in place of the one with its id; return what is there now.

        A state that is equal to the current one makes no version.

        Args:
            state: A whole state.
            expected_version: Only replace this version; 0: only create.
            actor: Who makes the change.
            action: What is done (default: ``"put"``).
            tags: Anything else worth keeping with the version: str keys, scalar values.
            guard: A lock in the same store, whose holder alone may write.

        Raises:
            StateValidationError: It is no state of this type, or its id cannot be used.
            TransitionError: ``check_transition`` refused the change.
            ConflictError: The state is not of *expected_version*; ``current`` is what is there.
            LeaseLostError: The lock of *guard* is held no longer.
            LimitExceededError: The state is larger than the store takes.
            ContentionError: Others kept writing first until the deadline.
            UnavailableError: The store stayed out of reach until the deadline; nothing was changed.
            UnknownOutcomeError: It is not known whether the change was made.
            WrongContextError: It was called inside a recipe, or on another event loop.
        """
        self._check_call()

        def plan(base: Record[S] | None) -> Planned[S] | None:
            if base is None:
                return Planned(_CREATE, state)
            found, edits = edit_between(base.state, state)
            return Planned(_UPDATE, found) if edits else None

        async def run() -> VersionedState[S]:
            check_state_value(self._records.cls, state)
            written = await self._write(
                self._records.key_of(state), plan, expected_version, actor, action or "put", tags, guard
            )
            return _made(written)

        return run()

    def update(
        self,
        id: Id,  # noqa: A002 - the public name
        recipe: Callable[[S, *Ts], object] | Mapping[str, Any],
        *args: *Ts,
        expected_version: int | None = None,
        actor: str | None = None,
        action: str | None = None,
        tags: Mapping[str, Any] | None = None,
        guard: Guard | None = None,
    ) -> Coroutine[Any, Any, VersionedState[S]]:
        """Change the state *id* by *recipe*; return what is there now.

        Args:
            id: Which one.
            recipe: A synchronous function of a draft, or a mapping of field names to values. It must be pure: it reads
                its draft, not the container, and may run more than once.
            *args: Further arguments for the recipe.
            expected_version: Only change this version.
            actor: Who makes the change.
            action: What is done (default: the recipe's name).
            tags: Anything else worth keeping with the version: str keys, scalar values.
            guard: A lock in the same store, whose holder alone may write.

        Raises:
            StateNotFoundError: There is no such state.
            StateValidationError: A value does not fit, or the recipe changed the id.
            TransitionError: ``check_transition`` refused the change.
            ConflictError: The state is not of *expected_version*; ``current`` is what is there.
            InvalidKeyError: *id* is no id of such a state.
            LeaseLostError, LimitExceededError, ContentionError, UnavailableError, UnknownOutcomeError,
            WrongContextError: As ``put``.
        """
        self._check_call()

        def plan(base: Record[S] | None) -> Planned[S] | None:
            if base is None:
                raise StateNotFoundError(f"there is no {self._records.cls.__name__} {id!r}; put one first")
            return self._changed(base, recipe, args)

        async def run() -> VersionedState[S]:
            name = action if action is not None else action_of(recipe)
            written = await self._write(self._records.key(id), plan, expected_version, actor, name, tags, guard)
            return _made(written)

        return run()

    def compare_and_swap(
        self,
        id: Id,  # noqa: A002 - the public name
        expected: S | int,
        recipe: Callable[[S, *Ts], object] | Mapping[str, Any],
        *args: *Ts,
        actor: str | None = None,
        action: str | None = None,
        tags: Mapping[str, Any] | None = None,
        guard: Guard | None = None,
    ) -> Coroutine[Any, Any, bool]:
        """Change the state *id* by *recipe* if it is *expected*, a state or a version; say whether it was.

        Where there is no state, it is not as expected. Else it does and raises what ``update`` does.
        """
        self._check_call()
        if not isinstance(expected, State | int) or isinstance(expected, bool):  # pyright: ignore[reportUnnecessaryIsInstance] - it comes from callers
            raise TypeError(f"expected is a state or a version, not a {type(expected).__name__}")

        def plan(base: Record[S] | None) -> Planned[S] | None:
            if base is None or not (
                base.version == expected if isinstance(expected, int) else states_equal(base.state, expected)
            ):
                raise _NotExpectedError("the state is not the expected one; read it and try again")
            return self._changed(base, recipe, args)

        async def run() -> bool:
            name = action if action is not None else action_of(recipe)
            try:
                await self._write(self._records.key(id), plan, None, actor, name, tags, guard)
            except _NotExpectedError:
                return False
            return True

        return run()

    def delete(
        self,
        id: Id,  # noqa: A002 - the public name
        *,
        expected_version: int | None = None,
        guard: Guard | None = None,
    ) -> Coroutine[Any, Any, bool]:
        """Remove the state *id*; say whether there was one.

        When a reply is lost while another deletes the same state, both may say that there was one.

        Args:
            id: Which one.
            expected_version: Only remove this version.
            guard: A lock in the same store, whose holder alone may write.

        Raises:
            ConflictError: The state is not of *expected_version*; ``current`` is what is there.
            CodecError: What is stored cannot be read by today's class, so its version is not known.
            InvalidKeyError: *id* is no id of such a state.
            LeaseLostError, ContentionError, UnavailableError, UnknownOutcomeError, WrongContextError: As ``put``.
        """
        self._check_call()

        def plan(base: Record[S] | None) -> Planned[S] | None:
            return None if base is None else Planned(_DELETE, base.state)

        async def run() -> bool:
            written = await self._write(self._records.key(id), plan, expected_version, None, "delete", None, guard)
            return written.change_type is not None

        return run()

    async def _write(
        self,
        key: str,
        plan: Plan[S],
        expected_version: int | None,
        actor: str | None,
        action: str | None,
        tags: Mapping[str, Any] | None,
        guard: Guard | None,
    ) -> Written[S]:
        self._check_loop()
        if actor is not None or action is not None:
            check_labels(actor, action)
        if expected_version is not None and (type(expected_version) is not int or expected_version < 0):
            raise ValueError(f"expected_version is a version, or 0 for none, not {expected_version!r}")
        labels = Labels(actor, action, check_tags(tags))

        def guarded(base: Record[S] | None) -> Planned[S] | None:
            if expected_version is not None:
                _expect_version(base, expected_version)
            before, self._refusal = self._refusal, IN_RECIPE
            try:
                return plan(base)
            finally:
                self._refusal = before

        turns = self._turns
        await turns.take(key)
        try:
            written = await self._writer.write(key, guarded, labels, guard)
            if written.change_type is not None and written.revision and self._announcer.active:
                change = KeyedChange(
                    self._records.id_at(key),
                    written.change_type,
                    written.record,
                    written.version,
                    written.revision,
                    None,
                )
                self._announcer.tell(key, change)
        finally:
            turns.give(key)
            self._rest()
        return written

    def _changed(self, base: Record[S], recipe: Recipe, args: tuple[Any, ...]) -> Planned[S] | None:
        state, edits = run_recipe(base.state, recipe, args)
        if not edits:
            return None
        ids = self._records.ids
        if ids.of(state) != ids.of(base.state):
            raise StateValidationError(
                "a recipe cannot change the id; put the state under its new id and delete the old"
            )
        return Planned(_UPDATE, state)

    # --- watching -------------------------------------------------------------------------------------------------

    def subscribe(
        self,
        prefix: str = "",
        *,
        since: Cursor | None = None,
        buffer: int | None = None,
        on_lag: OnLag | None = None,
    ) -> KeyedSubscription[S]:
        """Return an iterator over what becomes of the states whose ids begin with *prefix*, live from this call.

        It gives the newest state of each changed id, whoever changed it; see ``reactstate.keyed.subscription``.

        Args:
            prefix: Only ids whose text begins with it.
            since: Go on after this cursor, which a change or a subscription gave, here or in another process.
            buffer: How many changed ids wait for the reader before the store's change log does (default:
                ``StateConfig.buffer_size``).
            on_lag: ``"raise"``: CompactedError when the changes asked for are no longer kept. ``"resync"``: every
                current state instead, as changes with ``resync=True`` (needs SNAPSHOT_READS).

        Raises:
            UnsupportedError: The store has no WATCH.
            InvalidKeyError: *since* is no cursor.
            ValueError: *buffer* or *on_lag* has a value that cannot be used.
            WrongContextError: It was called inside a recipe, or away from the container's event loop.
        """
        self._check_watcher()
        buffer = self._config.buffer_size if buffer is None else buffer
        on_lag = self._config.on_lag if on_lag is None else on_lag
        if buffer < 1:
            raise ValueError(f"buffer must be at least 1, not {buffer}")
        if on_lag not in {"raise", "resync"}:
            raise ValueError(f"on_lag must be 'raise' or 'resync', not {on_lag!r}")
        self._store.require("subscription", Capability.WATCH)
        if on_lag == "resync":
            self._store.require("subscription with on_lag='resync'", Capability.SNAPSHOT_READS)
        made = KeyedSubscription(
            self._records,
            self._store,
            self._clock,
            self._records.prefix(prefix),
            since=since,
            buffer=buffer,
            resync=on_lag == "resync",
            deadline=self._deadline,
        )
        self._watching.add(made)
        return made

    def watch(self, id: Id) -> KeyedWatch[S]:  # noqa: A002 - the public name
        """Return an iterator over the newest state of *id*: what is there first, then after each burst of changes.

        None stands for no state. States in between are skipped.

        Raises:
            UnsupportedError: The store has no WATCH.
            InvalidKeyError: *id* is no id of such a state.
        """
        self._check_watcher()
        self._store.require("watch", Capability.WATCH)
        key = self._records.key(id)
        made = KeyedWatch[S](self._store, key, lambda: self._writer.read(key))
        self._watching.add(made)
        return made

    def on_change(self, function: Callable[[KeyedChange[S]], Any]) -> Callable[[], None]:
        """Call *function* after each change, in the order of versions of each id; return the function that ends this.

        Changes of this container are told before the call that makes them returns, others as the store tells of them.
        An exception in it is logged and goes no further.

        Raises:
            UnsupportedError: The store has no WATCH.
            TypeError: It is a coroutine function; use ``subscribe`` in a task of your own.
        """
        self._check_watcher()
        self._announcer.start()
        return self._announcer.notifier.on_change(function)

    @property
    def changed(self) -> Signal:
        """The blinker signal, sent as ``changed.send(container, change=change)`` after each change; as ``on_change``."""
        self._check_watcher()
        self._announcer.start()
        return self._announcer.notifier.changed

    def _subscribe_all(self, since: Cursor | None) -> KeyedSubscription[S]:
        resyncs = self._store.supports(Capability.SNAPSHOT_READS)
        return self.subscribe(since=since, on_lag="resync" if resyncs else "raise")

    def _end_watching(self) -> None:
        self._announcer.end()
        for one in list(self._watching):
            one.close()

    def __repr__(self) -> str:
        records = self._records
        return f"{type(self).__name__}({records.cls.__name__}, key={records.collection!r}, store={self._store!r})"


class _NotExpectedError(ConflictError):
    """What ``compare_and_swap`` expected is not there; told apart from a recipe's own ConflictError."""


async def _let_go(entries: AsyncIterator[Entry]) -> None:
    """Close an iterator that may not have been read to its end."""
    aclose = getattr(entries, "aclose", None)
    if aclose is not None:
        await aclose()


def _made(written: Written[S]) -> VersionedState[S]:
    record = cast("Record[S]", written.record)  # a write that deletes nothing leaves a state
    return record.versioned()


def _expect_version(base: Record[Any] | None, expected: int) -> None:
    found = 0 if base is None else base.version
    if found != expected:
        nothing: StateChange[Any] = StateChange(0, _DELETE, None, [], 0, None, None, None)
        raise ConflictError(
            f"version {expected} was expected, but the state is at version {found}; read it and try again",
            current=VersionedState[Any](None, nothing, 0) if base is None else base.versioned(),
        )
