"""What the shipped suites are run on: a test's event loop, its stores, its clock, and the choice of tests.

Contract
    Each test has an event loop of its own, so that the suites need no plugin for asynchronous tests and run beside any.
    Everything that a test opens is closed when it ends. A test that hangs fails after ``patience`` seconds.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar, cast

import pytest

from reactstate.clock import ManualClock
from reactstate.kv.options import StoreOptions
from reactstate.testing.integrity import Baseline, check_integrity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
    from pathlib import Path

    from reactstate.clock import Clock
    from reactstate.kv.protocol import Capability, Event, Watch
    from reactstate.kv.store import KeyValueStore

__all__ = ["Lab", "StoreLab", "StoreSuite", "SuiteClock", "collect", "promise", "together"]


class Lab(Protocol):
    """What runs a test."""

    def run(self, test: Callable[[], Coroutine[Any, Any, None]], needs: frozenset[Capability], lacks: Any) -> None:
        """Run *test*, which needs stores that declare *needs* and do not declare *lacks*."""
        ...


L = TypeVar("L", bound=Lab)
P = ParamSpec("P")
T = TypeVar("T")

_Test: TypeAlias = "Callable[Concatenate[Any, L, P], Coroutine[Any, Any, None]]"
_Collected: TypeAlias = "Callable[Concatenate[Any, L, P], None]"


class SuiteClock(ManualClock):
    """A manual clock whose time of day can be set back, as an operator may do."""

    __slots__ = ()

    def jump(self, by: timedelta) -> None:
        """Move the time of day by *by*, also back; ``monotonic`` does not notice."""
        self._now_ns += round(by / timedelta(microseconds=1)) * 1000


class StoreLab:
    """What one test works with.

    Args:
        suite: Whose ``open_store`` is called.
        folder: An empty directory.
        runner: The event loop.

    Attributes:
        store: The store under test, empty when the test begins.
        clock: The clock that it was opened with.
    """

    def __init__(self, suite: StoreSuite, folder: Path, runner: asyncio.Runner) -> None:
        self.clock: SuiteClock = SuiteClock()
        self._suite = suite
        self._folder = folder
        self._runner = runner
        self._stores: list[tuple[KeyValueStore, str, StoreOptions | None]] = []
        self._baselines: dict[int, Baseline] = {}
        self._abandoned: set[int] = set()

    @property
    def store(self) -> KeyValueStore:
        """The store under test."""
        return self._stores[0][0]

    def path(self, name: str) -> Path:
        """Return the path of a file of this test."""
        return self._folder / name

    async def open(self, name: str = "store", options: StoreOptions | None = None) -> KeyValueStore:
        """Open the store at the place *name*, a second time if it is open; it is closed when the test ends.

        Args:
            name: The place, below the test's directory; ``store`` is that of the store under test.
            options: With which options; skips the test when the suite's ``open_store`` takes none.
        """
        opens: Any = self._suite.open_store
        given: dict[str, Any] = {}
        if _takes_options(self._suite):
            given["options"] = options or StoreOptions()
        elif options is not None:
            pytest.skip("open_store takes no options")
        store: KeyValueStore = await opens(self._folder / name, self.clock, **given)
        self._stores.append((store, name, options))
        await self.rebase(store)
        return store

    async def reopen(self, store: KeyValueStore) -> KeyValueStore:
        """Close *store*, and open what is at its place."""
        name, options = next((name, options) for opened, name, options in self._stores if opened is store)
        await store.aclose()
        self.abandon(store)
        return await self.open(name, options)

    async def rebase(self, store: KeyValueStore) -> None:
        """Take what *store* holds now for right: the check at the end compares its events with this."""
        self._baselines[id(store)] = await Baseline.of(store)

    def abandon(self, store: KeyValueStore) -> None:
        """Leave *store* out of the check at the end: the test has closed it."""
        self._abandoned.add(id(store))

    # --- time ---------------------------------------------------------------------------------------------------

    @property
    def exact(self) -> bool:
        """Whether expiry follows the clock of the test to the millisecond."""
        return self.store.ttl_clock == "host" and self.store.ttl_resolution <= timedelta(milliseconds=1)

    def ttl(self, units: float) -> timedelta:
        """Return a time to live of so many units; see ``StoreSuite.unit``."""
        if self._suite.unit is not None:
            return units * self._suite.unit
        if self.store.ttl_clock == "host":
            return units * timedelta(seconds=1)
        return units * max(timedelta(milliseconds=250), 2 * self.store.ttl_resolution)

    async def pass_time(self, units: float) -> None:
        """Let so many units pass: on the test's clock at once, on a server's clock as the suite says."""
        if self.store.ttl_clock == "host":
            self.clock.advance(self.ttl(units))
        else:
            await self._suite.pass_server_time(self.ttl(units) + self.store.ttl_resolution)

    # --- events -------------------------------------------------------------------------------------------------

    async def take(self, watch: Watch, count: int) -> list[Event]:
        """Return the next *count* events."""
        return [await anext(watch) for _ in range(count)]

    async def until(self, watch: Watch, revision: int, key: str | None = None) -> list[Event]:
        """Return the events up to the one of *key* at *revision* (None: the first one at it)."""
        events: list[Event] = []
        while True:
            event = await anext(watch)
            events.append(event)
            if event.revision >= revision and (key is None or event.key == key):
                return events

    async def eventually(self, holds: Callable[[], bool]) -> None:
        """Return as soon as *holds*; meanwhile the test's clock stands still and other tasks run."""
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)

    # --- running ------------------------------------------------------------------------------------------------

    def run(self, test: Callable[[], Coroutine[Any, Any, None]], needs: frozenset[Capability], lacks: Any) -> None:
        """Open the store, run *test*, check that the store is whole, and close everything."""
        declared = self._runner.run(self._begin())
        try:
            missing = sorted(needs - declared)
            if missing:
                pytest.skip(f"the engine {self.store.engine!r} does not declare {', '.join(missing)}")
            if lacks in declared:
                pytest.skip(f"the engine {self.store.engine!r} declares {lacks}")
            self._runner.run(self._perform(test))
        finally:
            self._runner.run(self._end())

    async def _begin(self) -> frozenset[Capability]:
        return (await self.open()).capabilities

    async def _perform(self, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with asyncio.timeout(self._suite.patience):
            await test()
            for store, _, _ in self._stores:
                if id(store) not in self._abandoned:
                    await check_integrity(store, self._baselines[id(store)])

    async def _end(self) -> None:
        for store, _, _ in reversed(self._stores):
            await store.aclose()


class StoreSuite:
    """What the parts of ``KeyValueStoreConformance`` share.

    Attributes:
        capabilities: What the engine is expected to declare. When it is given, only the tests for it are collected,
            and one more checks that the store declares just that; None: tests for what the store does not declare
            are skipped, and say so.
        patience: The seconds after which a test that hangs fails.
        unit: The shortest time to live that tests use, but for those of milliseconds. None: a second on the test's
            clock; on a server's, where tests wait for it, 250 ms or twice the engine's resolution.
    """

    capabilities: ClassVar[frozenset[Capability] | None] = None
    patience: ClassVar[float] = 60.0
    unit: ClassVar[timedelta | None] = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Leave out the tests for what ``capabilities`` does not hold."""
        super().__init_subclass__(**keywords)
        if cls.capabilities is None:
            return
        for name in dir(cls):
            test = _promised(cls, name)
            if test is not None:
                fits = test.needs <= cls.capabilities and test.lacks not in cls.capabilities
                fits = fits and (not test.options or _takes_options(cls))
                setattr(cls, name, test.collected if fits else None)

    async def open_store(self, place: Path, clock: Clock, options: StoreOptions) -> KeyValueStore:
        """Open the store at *place*: the same place gives the same store again.

        Args:
            place: A path that is the test's own; an engine that is no file takes it as a name.
            clock: What decides about expiry, for engines of the host's clock.
            options: With which options. An override without this parameter is right too: the few tests that choose
                options are then left out.
        """
        raise NotImplementedError("override open_store to return a store of your engine")

    async def pass_server_time(self, span: timedelta) -> None:
        """Let *span* pass on the server's clock, for an engine whose ``ttl_clock`` is that; by default: wait."""
        await asyncio.sleep(span.total_seconds())

    @pytest.fixture
    def lab(self, tmp_path: Path) -> Iterator[StoreLab]:
        """Return what the test works with."""
        with asyncio.Runner() as runner:
            yield StoreLab(self, tmp_path, runner)


class _Promise:
    """A test, and what it needs."""

    __slots__ = ("collected", "lacks", "needs", "options")

    def __init__(
        self, collected: Any, needs: frozenset[Capability], lacks: Capability | None, *, options: bool
    ) -> None:
        self.collected = collected
        self.needs = needs
        self.lacks = lacks
        self.options = options


def _takes_options(suite: Any) -> bool:
    return "options" in inspect.signature(suite.open_store).parameters


def _promised(cls: type[Any], name: str) -> _Promise | None:
    """Return the test that the class would have under *name* if none had been left out."""
    for base in cls.__mro__:
        found = base.__dict__.get(name)
        if found is not None:
            promised = getattr(found, "promise", None)
            return promised if isinstance(promised, _Promise) else None
    return None


def promise(
    *needs: Capability, lacks: Capability | None = None, options: bool = False
) -> Callable[[_Test[L, P]], _Collected[L, P]]:
    """Make a test of a coroutine function.

    Args:
        *needs: It runs on stores that declare them.
        lacks: It runs on stores that do not declare it.
        options: Whether it opens stores with options of its own.
    """

    def wrap(test: _Test[L, P]) -> _Collected[L, P]:
        @functools.wraps(test)
        def collected(self: Any, lab: L, *args: P.args, **kwargs: P.kwargs) -> None:
            lab.run(lambda: test(self, lab, *args, **kwargs), frozenset(needs), lacks)

        test_: Any = collected
        test_.promise = _Promise(collected, frozenset(needs), lacks, options=options)
        return cast("_Collected[L, P]", test_)

    return wrap


async def collect(entries: AsyncIterator[T]) -> list[T]:
    """Return everything that an asynchronous iterator gives."""
    return [entry async for entry in entries]


async def together(*awaitables: Awaitable[T]) -> list[T]:
    """Return the results of what runs at the same time; the first error ends all."""
    return list(await asyncio.gather(*awaitables))
