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

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, TypeVarTuple, cast

from reactstate.clock import SystemClock
from reactstate.errors import ConflictError, StateNotFoundError, StateValidationError
from reactstate.keyed.change import KeyedChange
from reactstate.keyed.lifecycle import IN_RECIPE
from reactstate.keyed.opening import check_open, open_store_at
from reactstate.keyed.records import Labels, Records
from reactstate.keyed.watches import Watches
from reactstate.keyed.writing import Planned, Writer
from reactstate.kv.opening import Opening
from reactstate.kv.protocol import Capability
from reactstate.state.change import ChangeType, StateChange, VersionedState
from reactstate.state.config import StateConfig
from reactstate.state.document import states_equal
from reactstate.state.history import version_text
from reactstate.state.produce import check_state_value, edit_between, run_recipe
from reactstate.state.state import State
from reactstate.state.timeline import action_of, check_labels, check_tags

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from typing import Self

    from reactstate.clock import Clock
    from reactstate.keyed.ids import Id
    from reactstate.keyed.records import Record
    from reactstate.keyed.writing import Plan, Written
    from reactstate.kv.store import KeyValueStore
    from reactstate.kv.transaction import Guard
    from reactstate.state.produce import Recipe

__all__ = ["KeyedContainer"]

S = TypeVar("S", bound=State)
Ts = TypeVarTuple("Ts")

_CREATE = ChangeType.CREATE
_UPDATE = ChangeType.UPDATE
_DELETE = ChangeType.DELETE


class KeyedContainer(Watches[S]):
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
        self._writer = Writer(records, store, clock, deadline)
        self._begin_telling(config)

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
            LeaseLostError: As ``put``; also LimitExceededError, ContentionError, UnavailableError, UnknownOutcomeError
                and WrongContextError.
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

    def __repr__(self) -> str:
        records = self._records
        return f"{type(self).__name__}({records.cls.__name__}, key={records.collection!r}, store={self._store!r})"


class _NotExpectedError(ConflictError):
    """What ``compare_and_swap`` expected is not there; told apart from a recipe's own ConflictError."""


def _made(written: Written[S]) -> VersionedState[S]:
    record = cast("Record[S]", written.record)  # a write that deletes nothing leaves a state
    return record.versioned()


def _expect_version(base: Record[Any] | None, expected: int) -> None:
    found = 0 if base is None else base.version
    if found != expected:
        nothing: StateChange[Any] = StateChange(0, _DELETE, None, [], 0, None, None, None)
        raise ConflictError(
            f"version {version_text(expected)} was expected, but the state is at version {found}; read it and try again",
            current=VersionedState[Any](None, nothing, 0) if base is None else base.versioned(),
        )
