from __future__ import annotations

import asyncio
import contextlib
import errno
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from reactstate import (
    ClosedError,
    CodecError,
    ConflictError,
    FilePersistence,
    ManualClock,
    MergeUnsupportedError,
    NoHistoricalState,
    ReactStateError,
    State,
    StateConfig,
    StateContainer,
    StateValidationError,
    StorageError,
    StorageFailedError,
    TransitionError,
    UnknownOutcomeError,
    to_document,
)
from reactstate.testing.faults import FaultyFileSystem


class Ledger(State):
    n: int = 0
    log: list[int] = []
    note: str = ""

    def check_transition(self, previous: Ledger) -> None:
        if self.n < previous.n - 100:
            raise TransitionError("too far back")


def book(draft: Ledger, number: int) -> None:
    draft.n += 1
    draft.log.append(number)


def book_long(draft: Ledger, number: int) -> None:
    book(draft, number)
    draft.note = f"{number}" * 20_000


class Disk(FaultyFileSystem):
    """Files in memory whose journal can be held before a write or a sync, and that refuse one on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = {"write": threading.Event(), "sync": threading.Event()}
        self.reached = {"write": threading.Event(), "sync": threading.Event()}
        self.refusals: dict[str, list[int]] = {"write": [], "sync": []}
        self.at_sync: Any = None
        self._journals: set[int] = set()
        for gate in self.gates.values():
            gate.set()

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        handle = super().open(path, write=write, create=create)
        if "journal-" in path:
            self._journals.add(handle)
        return handle

    def pwrite(self, handle: int, data: Any, offset: int) -> int:
        # Room in advance is zeros; what followers read is in another file.
        if handle in self._journals and any(data):
            self._pass("write")
        return super().pwrite(handle, data, offset)

    def sync(self, handle: int) -> None:
        if handle in self._journals:
            if self.at_sync is not None:
                self.at_sync()
            self._pass("sync")
        super().sync(handle)

    def _pass(self, what: str) -> None:
        if threading.current_thread() is not threading.main_thread():
            self.reached[what].set()
            assert self.gates[what].wait(10)
        if self.refusals[what]:
            raise OSError(self.refusals[what].pop(0), "refused")

    @contextlib.contextmanager
    def held(self, what: str) -> Iterator[None]:
        """Let the writing thread wait at its next write or sync until the block ends."""
        self.reached[what].clear()
        self.gates[what].clear()
        try:
            yield
        finally:
            self.gates[what].set()

    async def until(self, what: str) -> None:
        """Return when the writing thread waits there."""
        assert await asyncio.to_thread(self.reached[what].wait, 10)


@pytest.fixture
def files() -> Disk:
    return Disk()


def opened(files: FaultyFileSystem, what: Any = None, **arguments: Any) -> Any:
    options = {name: arguments.pop(name) for name in ("durability", "clock") if name in arguments}
    persistence: FilePersistence[Ledger] = FilePersistence("/d", filesystem=files, **options)
    return StateContainer.open(what if what is not None else Ledger(), persistence=persistence, **arguments)


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def head_of(files: FaultyFileSystem) -> tuple[int, Any]:
    """Return what a restart finds."""
    persistence: FilePersistence[Ledger] = FilePersistence("/d", filesystem=files)
    loaded = await persistence.load()
    await persistence.aclose()
    return (0, None) if loaded is None else (loaded.head.version, loaded.head.document)


def check_history(container: StateContainer[Ledger], log: list[int]) -> None:
    """Each kept version holds exactly the bookings up to it, in order; version 1 holds none."""
    versions = [change.version for change in container.history]
    assert versions == list(range(versions[0], container.version + 1))
    for change in container.history:
        assert change.new_state is not None
        assert change.new_state.log == log[: change.version - 1]
        assert change.new_state.n == change.version - 1


# --- durable, then visible ------------------------------------------------------------------------------------------


async def test_whoever_sees_a_change_could_lose_power_at_once_and_would_find_it_again(files):
    sightings: list[tuple[str, int, FaultyFileSystem]] = []

    def saw(who: str, version: int) -> None:
        sightings.append((who, version, files.after_crash("lost")))

    async with opened(files) as ledger:
        ledger.on_change(lambda change: saw("callback", change.version))

        def receive(_: Any, change: Any) -> None:
            saw("signal", change.version)

        ledger.changed.connect(receive)
        view = ledger.select(lambda state: state.n)
        view.on_change(lambda change: saw("view", ledger.version))
        files.at_sync = lambda: saw("everybody, at a sync", ledger.version)

        async def subscriber() -> None:
            async for change in ledger.subscribe():
                saw("subscription", change.version)

        async def watcher() -> None:
            async for state in ledger.watch():
                saw("watch", state.n + 1)

        async def caller(number: int) -> None:
            saw("caller", (await ledger.update(book, number)).version)

        watching = [asyncio.create_task(subscriber()), asyncio.create_task(watcher())]
        await turns()
        for burst in (1, 2, 5, 1, 8):
            await asyncio.gather(*(caller(number) for number in range(burst)))
        await ledger.flush()
        await turns()
    await asyncio.gather(*watching)
    seen_by = {who for who, _, _ in sightings}
    assert seen_by == {"callback", "signal", "view", "everybody, at a sync", "subscription", "watch", "caller"}
    for who in ("callback", "signal", "subscription", "caller"):
        assert [version for name, version, _ in sightings if name == who] == list(range(2, 19))
    for who, version, disk in sightings:
        found, document = await head_of(disk)
        assert found >= version, who
        assert found == 0 or document["n"] == found - 1


# --- refusals -------------------------------------------------------------------------------------------------------


def too_far(draft: Ledger) -> None:
    draft.n -= 1000


def late_refusals(ledger: StateContainer[Ledger]) -> list[tuple[Any, Any]]:
    """Calls that the tip after one booking refuses, and how."""
    return [
        (ledger.update(book, 9, expected_version=1), ConflictError),
        (ledger.delete(expected_version=1), ConflictError),
        (ledger.update(too_far), TransitionError),
        (ledger.update({"n": "no number"}), StateValidationError),
        (ledger.update(lambda draft: 1 // 0), ZeroDivisionError),
        (ledger.redo(), NoHistoricalState),
        (ledger.rollback_to(99), NoHistoricalState),
        (ledger.merge(Ledger()), MergeUnsupportedError),
        (ledger.compare_and_swap(Ledger(), book, 9), False),
    ]


async def test_every_refusal_waits_until_what_it_was_judged_by_is_durable(files):
    async with opened(files) as ledger:
        with files.held("sync"):
            first = asyncio.create_task(ledger.update(book, 0))
            await files.until("sync")
            refused = [(asyncio.ensure_future(call), expected) for call, expected in late_refusals(ledger)]
            same = asyncio.create_task(ledger.set(Ledger(n=1, log=[0])))
            await turns()
            assert not any(task.done() for task, _ in refused)
            assert not same.done()
        assert (await first).version == 2
        assert (await same).version == 2
        for task, expected in refused:
            if expected is False:
                assert await task is False
                continue
            with pytest.raises(expected) as caught:
                await task
            if isinstance(caught.value, ConflictError):
                assert caught.value.current.version == 2
        assert ledger.version == 2


# --- a disk that fails ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refused_frame", [1, 2, 3])
async def test_a_full_disk_fails_exactly_the_changes_of_that_flush(files, refused_frame):
    async with opened(files) as ledger:
        heard: list[int] = []
        ledger.on_change(lambda change: heard.append(change.new_state.log[-1]))
        tasks: list[asyncio.Task[Any]] = []
        waves = [[0, 1, 2], [3], [4, 5, 6, 7]]
        for number, wave in enumerate(waves, 1):
            with files.held("write"):
                tasks += [asyncio.create_task(ledger.update(book, one)) for one in wave]
                await files.until("write")
                behind = asyncio.create_task(ledger.update(book, 100 + number))
                await turns()
                if number == refused_frame:
                    files.refusals["write"].append(errno.ENOSPC)
            await asyncio.wait([*tasks, behind])
        failed = [place for place, task in enumerate(tasks) if task.exception() is not None]
        assert failed == waves[refused_frame - 1]
        errors = [tasks[place].exception() for place in failed]
        assert {type(error) for error in errors} == {StorageError}
        assert len({id(error) for error in errors}) == len(errors)
        log = list(ledger.state.log)
        assert log == heard == [one for n, w in enumerate(waves, 1) for one in [*(w * (n != refused_frame)), 100 + n]]
        check_history(ledger, log)
        await ledger.undo()
        assert list(ledger.state.log) == log[:-1]
    async with opened(files) as again:
        assert list(again.state.log) == log[:-1]
        await again.redo()
        assert list(again.state.log) == log


@pytest.mark.parametrize("unsynced", ["torn", "lost", "kept"])
async def test_after_a_failed_sync_the_outcome_is_unknown_until_the_state_is_opened_anew(files, unsynced):
    async with opened(files) as ledger:
        await ledger.update(book, 0)
        with files.held("sync"):
            inside = [asyncio.create_task(ledger.update(book, number)) for number in (1, 2)]
            await files.until("sync")
            behind = [asyncio.create_task(ledger.update(book, number)) for number in (3, 4)]
            refused = asyncio.create_task(ledger.update(book, 5, expected_version=2))
            await turns()
            files.refusals["sync"].append(errno.EIO)
        results = await asyncio.gather(*inside, *behind, refused, return_exceptions=True)
        assert [type(one) for one in results] == [UnknownOutcomeError] * 2 + [StorageFailedError] * 3
        assert len({id(one) for one in results}) == 5
        for one in results:
            assert "anew" in str(one)
            assert one.__cause__ is not None
        assert (ledger.version, list(ledger.state.log)) == (2, [0])
        with pytest.raises(StorageFailedError):
            await ledger.update(book, 6)
        with pytest.raises(StorageFailedError):
            await ledger.flush()
        assert [list(change.new_state.log) for change in ledger.history] == [[], [0]]
    after = files.after_crash(unsynced)
    async with opened(after) as again:
        log = list(again.state.log)
        assert log == [0, 1, 2] if unsynced == "kept" else log in ([0], [0, 1, 2])
        await again.update(book, 7)
        check_history(again, [*log, 7])


class Script:
    """Everything that writes, in waves of several callers, and what they were told."""

    def __init__(self, files: FaultyFileSystem) -> None:
        self.files = files
        self.told: dict[int, str] = {}
        self.order: list[int] = []
        self.seen: list[int] = []

    async def update(self, ledger: StateContainer[Ledger], recipe: Any, number: int) -> None:
        self.told[number] = "unknown"
        try:
            await ledger.update(recipe, number)
        except (UnknownOutcomeError, asyncio.CancelledError):
            return
        except StorageError:
            self.told[number] = "failed"
        else:
            self.told[number] = "done"
            self.order.append(number)

    async def play(self) -> None:
        config = StateConfig(history_size=30, snapshot_interval=4, max_snapshots=2)
        async with opened(self.files, config=config) as ledger:
            ledger.on_change(lambda change: self.seen.append(change.new_state.log[-1]))
            for wave in ([0], [1, 2, 3], [4, 5], [6, 7, 8], [9]):
                recipe = book_long if len(wave) > 2 else book
                await asyncio.gather(*(self.update(ledger, recipe, number) for number in wave))

    async def check(self, after: FaultyFileSystem) -> None:
        """What was acknowledged is there, in order; what failed is not; and everything goes on."""
        async with opened(after) as again:
            log = list(again.state.log)
            check_history(again, log)
            assert [number for number in log if self.told[number] == "done"] == self.order
            assert log == sorted(log)
            assert not [number for number in log if self.told[number] == "failed"]
            assert log[: len(self.seen)] == self.seen
            made = await again.update(book, 99)
            assert list(made.state.log) == [*log, 99]
            for info in await again.list_snapshots():
                await again.restore(info.id)
                assert again.state.n == info.version - 1


async def test_a_crash_at_any_call_loses_no_acknowledged_update_and_keeps_no_half_of_another(caplog):
    probe = FaultyFileSystem()
    await Script(probe).play()
    assert any("state-" in path for path in probe.paths()), "the journal was compacted on the way"
    for at in range(1, probe.calls + 1):
        for seed in range(2):
            files = FaultyFileSystem(seed=at * 2 + seed)
            files.crash(at=at)
            script = Script(files)
            with contextlib.suppress(ReactStateError):
                await script.play()
            for unsynced in ("torn", "lost", "kept"):
                await script.check(files.after_crash(unsynced))


@pytest.mark.parametrize("operation", ["pwrite", "fdatasync", "truncate", "rename", "open", "sync_directory", "remove"])
async def test_a_failure_at_any_call_leaves_what_the_callers_were_told(operation, caplog):
    probe = FaultyFileSystem()
    await Script(probe).play()
    for nth in range(1, probe.counts[operation] + 1):
        files = FaultyFileSystem(seed=nth)
        files.fail(operation, nth=nth, error=errno.ENOSPC)
        script = Script(files)
        with contextlib.suppress(ReactStateError):
            await script.play()
        for unsynced in ("torn", "lost", "kept"):
            await script.check(files.after_crash(unsynced))


# --- cancellation ---------------------------------------------------------------------------------------------------


async def edit(ledger: StateContainer[Ledger]) -> None:
    async with ledger.edit() as draft:
        draft.n = 7


VERBS: dict[str, Any] = {
    "update": lambda ledger: ledger.update({"n": 7}),
    "set": lambda ledger: ledger.set(Ledger(n=7)),
    "edit": edit,
    "compare_and_swap": lambda ledger: ledger.compare_and_swap(2, {"n": 7}),
    "delete": lambda ledger: ledger.delete(),
    "rollback": lambda ledger: ledger.rollback(),
    "undo": lambda ledger: ledger.undo(),
}


@pytest.mark.parametrize("place", ["write", "sync", "nowhere"])
@pytest.mark.parametrize("verb", sorted(VERBS))
async def test_a_verb_cancelled_at_any_await_happens_whole_or_not_at_all(verb, place):
    for steps in range(8):
        files = Disk()
        async with opened(files) as ledger:
            await ledger.update(book, 0)
            changes = ledger.subscribe()
            with files.held(place) if place != "nowhere" else contextlib.nullcontext():
                task = asyncio.ensure_future(VERBS[verb](ledger))
                await turns(steps)
                task.cancel()
                await asyncio.wait([task])
            await ledger.flush()
            # The first step runs the recipe: before it nothing has happened, after it nothing is withdrawn.
            assert ledger.version == (2 if steps == 0 else 3), steps
            assert steps == 0 or (await anext(changes)).version == 3
            changes.close()
            assert [change.version for change in ledger.history] == list(range(1, ledger.version + 1))
            seen = to_document(ledger.state) if ledger.current.exists else None
            assert (seen is None) == (verb == "delete" and steps > 0)
            await ledger.set(Ledger(n=50))
        assert await head_of(files) == (ledger.version, to_document(Ledger(n=50)))


@pytest.mark.parametrize("steps", range(12))
async def test_a_snapshot_or_restore_cancelled_at_any_await_happens_whole_or_not_at_all(files, steps):
    async with opened(files) as ledger:
        info = await ledger.snapshot("before")
        await ledger.update(book, 0)
        taking = asyncio.create_task(ledger.snapshot("cancelled"))
        await turns(steps)
        taking.cancel()
        restoring = asyncio.create_task(ledger.restore(info.id))
        await turns(steps)
        restoring.cancel()
        await asyncio.wait([taking, restoring])
        await ledger.flush()
        assert (ledger.version, ledger.state.n) in {(2, 1), (3, 0)}
    async with opened(files) as again:
        assert (again.version, again.state.n) == (ledger.version, ledger.state.n)
        for one in await again.list_snapshots():
            assert one.name in {"before", "cancelled"}
            await again.restore(one.id)
            assert again.state.n == one.version - 1


# --- the end --------------------------------------------------------------------------------------------------------


async def test_closing_amid_a_flush_that_fails_lets_those_finish_that_still_wait_behind_it(files):
    ledger = await opened(files)
    with files.held("write"):
        inside = asyncio.create_task(ledger.update(book, 0))
        await files.until("write")
        behind = [asyncio.create_task(ledger.update(book, number)) for number in (1, 2, 3)]
        judged = asyncio.create_task(ledger.update(book, 4, expected_version=1))
        gone = asyncio.create_task(ledger.update(book, 5))
        await turns()
        gone.cancel()
        files.refusals["write"].append(errno.ENOSPC)
        closing = asyncio.create_task(ledger.aclose())
        await turns()
    await closing
    with pytest.raises(StorageError):
        await inside
    assert [(await one).version for one in behind] == [2, 3, 4]
    with pytest.raises(ConflictError):
        await judged
    with pytest.raises(ClosedError):
        ledger.update(book, 6)
    assert (await head_of(files))[1]["log"] == [1, 2, 3]


# --- durability -----------------------------------------------------------------------------------------------------


async def test_with_interval_a_change_is_seen_at_once_and_a_power_cut_loses_at_most_the_last_interval(files):
    clock = ManualClock()
    async with opened(files, durability="interval", clock=clock) as ledger:
        assert await head_of(files.after_crash("lost")) == (1, to_document(Ledger()))
        with files.held("sync"):
            for number in range(5):
                assert (await ledger.update(book, number)).version == number + 2
            assert (await head_of(files.after_crash("kept")))[0] == 6
            assert (await head_of(files.after_crash("lost")))[0] == 1
            clock.advance(1.0)
            await files.until("sync")
        await ledger.update(book, 5)
        await ledger.flush()
        assert (await head_of(files.after_crash("lost")))[0] == 7
        await ledger.update(book, 6)
        for _ in range(20):
            found, document = await head_of(files.after_crash("torn"))
            assert (found, document["log"]) in [(7, list(range(6))), (8, list(range(7)))]
    assert (await head_of(files.after_crash("lost")))[0] == 8


async def test_a_sync_that_fails_in_the_background_is_told_by_the_next_update(files, caplog):
    clock = ManualClock()
    async with opened(files, durability="interval", clock=clock) as ledger:
        await ledger.update(book, 0)
        files.refusals["sync"].append(errno.EIO)
        clock.advance(1.0)
        with pytest.raises((UnknownOutcomeError, StorageFailedError)):
            await ledger.flush()
        with pytest.raises(StorageFailedError):
            await ledger.update(book, 1)
        assert ledger.version == 2


# --- what cannot be stored ------------------------------------------------------------------------------------------


@pytest.fixture
def few_digits() -> Iterator[None]:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    yield
    sys.set_int_max_str_digits(before)


@pytest.mark.parametrize("places", [*([place] for place in range(9)), [0, 1], [3, 8], list(range(9))])
async def test_a_change_that_cannot_be_encoded_fails_alone_wherever_it_stands_in_its_flush(files, few_digits, places):
    async with opened(files) as ledger:
        calls = [
            ledger.update(lambda draft: draft.log.append(10**2000)) if number in places else ledger.update(book, number)
            for number in range(9)
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [number for number, one in enumerate(results) if isinstance(one, CodecError)] == places
        rest = [number for number in range(9) if number not in places]
        assert [results[number].version for number in rest] == list(range(2, len(rest) + 2))
        assert list(ledger.state.log) == rest
        check_history(ledger, rest)
        await ledger.update(book, 9)
    assert (await head_of(files))[1]["log"] == [*rest, 9]


async def test_labels_that_are_no_text_are_refused_by_every_verb_wherever_the_state_is_kept(place):
    class Odd:
        __name__ = 5

        def __call__(self, draft: Ledger) -> None:
            draft.n += 1

    async with place.open(Ledger()) as ledger:
        for wrong in ({"actor": 5}, {"action": b"x"}, {"actor": "\ud800"}):
            with pytest.raises(StateValidationError):
                await ledger.update(book, 1, **wrong)
            with pytest.raises(StateValidationError):
                await ledger.compare_and_swap(1, book, 1, **wrong)
        assert ledger.version == 1
        await ledger.update(Odd())
        assert ledger.history[-1].action is None


# --- compaction -----------------------------------------------------------------------------------------------------


def page(draft: Ledger) -> None:
    draft.n += 1
    draft.note = f"{draft.n}," * 400


def check_pages(container: StateContainer[Ledger]) -> None:
    versions = [change.version for change in container.history]
    assert versions == list(range(versions[0], container.version + 1))
    for change in list(container.history)[-12:]:
        assert change.new_state is not None
        assert (change.new_state.n, change.new_state.note) == (change.version - 1, f"{change.version - 1}," * 400)


async def test_compaction_under_load_costs_no_version_whenever_the_power_is_cut(files):
    crashes: list[tuple[int, Any, FaultyFileSystem]] = []

    def crash_now_and_then(change: Any) -> None:
        if change.version % 23 == 0:
            crashes.extend((change.version, unsynced, files.after_crash(unsynced)) for unsynced in ("torn", "lost"))

    config = StateConfig(history_size=25)
    async with opened(files, Ledger(note="," * 400), config=config) as ledger:
        ledger.on_change(crash_now_and_then)

        async def work() -> None:
            for _ in range(60):
                await ledger.update(page)

        await asyncio.gather(*(work() for _ in range(8)))
        assert ledger.version == 481
        check_pages(ledger)
        # Without compaction the journal would hold all of it, some 750 KB.
        journal = sum(len(files.contents(path)) for path in files.paths() if "journal-" in path)
        assert journal < 500_000
    assert any("state-" in path for path in files.paths())
    assert len(crashes) == 40
    for version, unsynced, disk in crashes:
        async with opened(disk, config=config) as again:
            assert again.version >= version, unsynced
            assert len(again.history) == min(again.version, 25)
            check_pages(again)
    async with opened(files, config=config) as again:
        assert (again.version, len(again.history)) == (481, 25)
        check_pages(again)
        await again.undo()
        assert again.state.n == 479
