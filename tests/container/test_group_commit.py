from __future__ import annotations

import asyncio
import errno
import shutil
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from reactstate import (
    ClosedError,
    CodecError,
    ConflictError,
    FilePersistence,
    State,
    StateConfig,
    StateContainer,
    StateValidationError,
    StorageError,
    StorageFailedError,
    TransitionError,
    UnknownOutcomeError,
)
from reactstate.testing.faults import FaultyFileSystem


class Tally(State):
    n: int = 0
    log: list[int] = []

    def check_transition(self, previous: Tally) -> None:
        if self.n == -13:
            raise TransitionError("unlucky")


def add(draft: Tally, one: int = 1) -> None:
    draft.n += one


def note(draft: Tally, number: int) -> None:
    draft.log.append(number)


class GatedFiles(FaultyFileSystem):
    """A disk whose syncs wait until they are let through."""

    def __init__(self) -> None:
        super().__init__()
        import threading

        self.gate = threading.Event()
        self.gate.set()

    def sync(self, handle: int) -> None:
        self.gate.wait(10)
        super().sync(handle)


@pytest.fixture
async def gated(disk):
    disk.files = GatedFiles()
    async with disk.open(Tally()) as tally:
        try:
            yield disk.files, tally
        finally:
            disk.files.gate.set()


class Slow(FilePersistence[Any]):
    """A persistence that waits for a future, which may fail, before it writes."""

    blocked: asyncio.Future[None] | None = None

    def append(self, records: Any, schema: Any) -> Any:
        async def write() -> None:
            if self.blocked is not None:
                await self.blocked
            await FilePersistence.append(self, records, schema)

        return write()


@pytest.fixture
def slow(disk):
    return Slow("/state", filesystem=disk.files)


@pytest.fixture
async def tally(slow):
    async with StateContainer.open(Tally(), persistence=slow) as tally:
        yield tally


async def turns(n: int = 20) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def test_100_concurrent_durable_updates_cost_at_most_10_syncs(disk):
    async with disk.open(Tally()) as tally:
        before = disk.files.counts["fdatasync"]
        made = await asyncio.gather(*(tally.update(note, number) for number in range(100)))
        assert disk.files.counts["fdatasync"] - before <= 10
        assert [one.version for one in made] == list(range(2, 102))
        assert tally.state.log == list(range(100))
    disk.crash("lost")
    async with disk.open(Tally) as tally:
        assert tally.state.log == list(range(100))


def test_100_concurrent_durable_updates_cost_at_most_10_system_calls(tmp_path):
    """The same on real files, counted by strace where there is one and by the file system argument otherwise."""
    script = tmp_path / "burst.py"
    script.write_text(
        textwrap.dedent("""
        import asyncio, sys
        from reactstate import State, StateContainer
        class Tally(State):
            n: int = 0
        def add(draft): draft.n += 1
        async def main():
            async with StateContainer.open(Tally(), "file:" + sys.argv[1]) as tally:
                await asyncio.gather(*(tally.update(add) for _ in range(100)))
                assert tally.state.n == 100
        asyncio.run(main())
        """)
    )
    strace = shutil.which("strace")
    counted = tmp_path / "calls"
    tracing = [strace, "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", str(counted)] if strace else []
    probe = subprocess.run([*tracing, "true"], check=False, capture_output=True) if strace else None
    if probe is None or probe.returncode:  # strace is there, but may not trace
        tracing = []
    subprocess.run([*tracing, sys.executable, str(script), str(tmp_path / "state")], check=True)
    if tracing:
        calls = [line for line in counted.read_text().splitlines() if "sync(" in line]
        # Opening and closing sync as well: the directory, the first segment, version 1, the end.
        assert 1 <= len(calls) <= 10 + 8


async def test_nothing_is_visible_before_it_is_durable(gated):
    files, tally = gated
    heard: list[int] = []
    tally.on_change(lambda change: heard.append(change.version))
    watching = tally.watch()
    assert (await anext(watching)).n == 0
    view = tally.select(lambda state: state.n)
    subscription = tally.subscribe()
    files.gate.clear()
    running = [asyncio.ensure_future(tally.update(add)) for _ in range(3)]
    await turns()
    assert (tally.version, tally.state.n, heard, view.value, len(tally.history)) == (1, 0, [], 0, 1)
    assert tally.current.version == 1
    assert subscription.pending == 0
    assert await tally.at(1) == Tally()
    for early in (2, 4):
        with pytest.raises(Exception, match="not in the history"):
            await tally.at(early)
    files.gate.set()
    await asyncio.gather(*running)
    assert (tally.version, heard, view.value, subscription.pending) == (4, [2, 3, 4], 3, 3)
    assert (await anext(watching)).n == 3


async def test_updates_apply_one_after_another_in_the_order_of_their_calls(gated):
    files, tally = gated
    files.gate.clear()
    running = []
    for number in range(10):
        running.append(asyncio.ensure_future(tally.update(note, number)))
        await turns(3)
    files.gate.set()
    made = await asyncio.gather(*running)
    assert [one.version for one in made] == list(range(2, 12))
    assert [one.state.log for one in made] == [list(range(number + 1)) for number in range(10)]


@pytest.mark.parametrize(
    ("verb", "error"),
    [
        (lambda tally: tally.update(add, expected_version=1), ConflictError),
        (lambda tally: tally.update(lambda d: setattr(d, "n", -13)), TransitionError),
        (lambda tally: tally.update({"n": "x"}), StateValidationError),
        (lambda tally: tally.set(Tally(), expected_version=1), ConflictError),
    ],
)
async def test_a_refusal_is_reported_only_after_everything_before_it_is_durable(gated, verb, error):
    files, tally = gated
    files.gate.clear()
    first = asyncio.ensure_future(tally.update(add))
    await turns()
    second = asyncio.ensure_future(verb(tally))
    await turns()
    assert not second.done()
    files.gate.set()
    await first
    with pytest.raises(error):
        await second
    assert tally.version == 2


async def test_what_was_judged_by_a_change_that_failed_is_judged_anew(slow, tally):
    slow.blocked = asyncio.get_running_loop().create_future()
    first = asyncio.ensure_future(tally.update(add, 5))
    await turns()
    judged = [
        asyncio.ensure_future(tally.compare_and_swap(1, add)),
        asyncio.ensure_future(tally.update(add, 10, expected_version=1)),
        asyncio.ensure_future(tally.update({"n": 5})),
        asyncio.ensure_future(tally.update(lambda draft: 1 // (draft.n - 5))),
    ]
    await turns()
    blocked, slow.blocked = slow.blocked, None
    blocked.set_exception(StorageError("no"))
    with pytest.raises(StorageError):
        await first
    swapped, refused, assigned, divided = await asyncio.gather(*judged, return_exceptions=True)
    assert swapped is True  # there was no version 2 after all, so version 1 was still there
    assert refused.current.state.n == 1
    assert (assigned.version, assigned.state.n) == (3, 5)
    assert isinstance(divided, ZeroDivisionError)


async def test_a_change_that_changes_nothing_waits_for_what_it_saw(gated):
    files, tally = gated
    files.gate.clear()
    first = asyncio.ensure_future(tally.update({"n": 5}))
    await turns()
    same = asyncio.ensure_future(tally.update({"n": 5}))
    await turns()
    assert not same.done()
    files.gate.set()
    assert (await same).version == (await first).version == 2


async def test_a_full_disk_fails_what_was_in_the_flush_and_the_container_stays_usable(disk):
    async with disk.open(Tally()) as tally:
        await tally.update(add)
        heard: list[int] = []
        tally.on_change(lambda change: heard.append(change.version))
        before = tally.current, list(tally.history)
        disk.files.fail("pwrite", error=errno.ENOSPC)
        disk.files.fail("pwrite", nth=2, error=errno.ENOSPC)
        outcome = await asyncio.gather(*(tally.update(add) for _ in range(5)), return_exceptions=True)
        assert all(type(one) is StorageError for one in outcome)
        assert len({id(one) for one in outcome}) == 5
        assert all(isinstance(one.__cause__, OSError) for one in outcome)
        assert (tally.current, list(tally.history), heard) == (*before, [])
        made = await tally.update(add)
        assert (made.version, made.state.n, heard) == (3, 2, [3])
    disk.crash("lost")
    async with disk.open(Tally) as tally:
        assert (tally.version, tally.state.n) == (3, 2)


async def test_what_waited_behind_a_failed_flush_is_run_again_on_what_is_there(gated):
    files, tally = gated
    files.gate.clear()
    first = asyncio.ensure_future(tally.update(add, 1))
    await turns()
    seen: list[int] = []

    def later(draft: Tally) -> None:
        seen.append(draft.n)
        draft.n += 10

    behind = asyncio.ensure_future(tally.update(later))
    await turns()
    files.fail("fdatasync", nth=2)  # the one that waits at the gate counts once it is through
    files.gate.set()
    await first
    with pytest.raises(UnknownOutcomeError):
        await behind
    assert (seen, tally.state.n) == ([1], 1)


async def test_a_failed_write_takes_back_what_was_built_upon_it(slow, tally, disk):
    slow.blocked = asyncio.get_running_loop().create_future()
    first = asyncio.ensure_future(tally.update(add, 1))
    await turns()
    behind = [asyncio.ensure_future(tally.update(add, 10)), asyncio.ensure_future(tally.undo())]
    gone = asyncio.ensure_future(tally.update(add, 1000))
    await turns()
    gone.cancel()
    blocked, slow.blocked = slow.blocked, None
    blocked.set_exception(StorageError("no"))
    outcome = await asyncio.gather(first, *behind, gone, return_exceptions=True)
    assert type(outcome[0]) is StorageError
    assert (outcome[1].version, outcome[1].state.n) == (2, 10)
    assert (outcome[2].version, outcome[2].state.n) == (3, 0)  # the undo met the change that was run again
    assert isinstance(outcome[3], asyncio.CancelledError)  # nobody is left to run this recipe again
    assert [change.version for change in tally.history] == [1, 2, 3]
    await tally.redo()
    await tally.aclose()
    async with disk.open(Tally) as again:
        assert (again.version, again.state.n) == (4, 10)


async def test_a_failed_sync_is_never_tried_again_and_says_that_the_outcome_is_unknown(disk):
    tally = await disk.open(Tally())
    await tally.update(add)
    heard: list[int] = []
    tally.on_change(lambda change: heard.append(change.version))
    disk.files.fail("fdatasync")
    outcome = await asyncio.gather(*(tally.update(add) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in outcome] == [UnknownOutcomeError] * 3
    for verb in (tally.update(add), tally.set(Tally(n=9)), tally.undo(), tally.snapshot()):
        with pytest.raises(StorageFailedError):
            await verb
    assert (tally.state.n, tally.version, heard) == (1, 2, [])
    syncs = disk.files.counts["fdatasync"]
    await tally.aclose()
    assert disk.files.counts["fdatasync"] == syncs
    disk.crash("kept")
    async with disk.open(Tally) as again:
        assert again.state.n in {1, 4}
        assert again.version in {2, 5}
        await again.update(add)


async def test_a_change_that_cannot_be_stored_fails_alone(disk):
    huge = 10**5000
    async with disk.open(Tally()) as tally:
        verbs = [tally.update(add) for _ in range(10)]
        verbs.insert(4, tally.update({"log": [huge]}))
        verbs.insert(8, tally.update(add, actor=5))
        outcome = await asyncio.gather(*verbs, return_exceptions=True)
        failed = [number for number, one in enumerate(outcome) if isinstance(one, Exception)]
        assert set(failed) <= {4, 8}
        assert 8 in failed
        assert isinstance(outcome[8], StateValidationError)
        if 4 in failed:
            assert isinstance(outcome[4], CodecError | StateValidationError)
        assert tally.state.n == 10
        assert tally.version == 13 - len(failed)
    disk.crash("lost")
    async with disk.open(Tally) as tally:
        assert tally.state.n == 10


async def test_an_error_that_no_record_is_to_blame_for_fails_the_whole_flush_once(disk):
    class Refusing(FilePersistence[Tally]):
        error: Exception | None = None
        calls = 0

        def append(self, records: Any, schema: Any) -> Any:
            self.calls += 1
            if self.error is not None:
                raise self.error
            return super().append(records, schema)

    refusing = Refusing("/state", filesystem=disk.files)
    async with StateContainer.open(Tally(), persistence=refusing) as tally:
        refusing.error, refusing.calls = StorageError("no"), 0
        outcome = await asyncio.gather(*(tally.update(add) for _ in range(8)), return_exceptions=True)
        assert [type(one) for one in outcome] == [StorageError] * 8
        assert refusing.calls == 1
        refusing.error = KeyError("a bug")
        outcome = await asyncio.gather(*(tally.update(add) for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in outcome] == [CodecError] * 3
        assert isinstance(outcome[0].__cause__, KeyError)
        refusing.error = None
        assert (await tally.update(add)).version == 2


@pytest.mark.parametrize("form", ["coroutine", "future", "awaitable", "ready"])
async def test_any_awaitable_will_do_for_a_persistence_of_ones_own(disk, form):
    class Pause:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            yield from asyncio.sleep(0.001).__await__()

    class Own(FilePersistence[Tally]):
        fail = False

        def append(self, records: Any, schema: Any) -> Any:
            inner = super().append(records, schema)

            async def write() -> None:
                await Pause()
                await inner
                if self.fail:
                    raise StorageError("no")

            class Slow:
                def __await__(self):
                    yield from Pause().__await__()
                    yield from write().__await__()

            if form == "ready":
                return inner
            return {"coroutine": write, "future": lambda: asyncio.ensure_future(write()), "awaitable": Slow}[form]()

    own = Own("/state", filesystem=disk.files)
    async with StateContainer.open(Tally(), persistence=own) as tally:
        await asyncio.gather(*(tally.update(add) for _ in range(5)))
        assert tally.state.n == 5
        if form != "ready":
            own.fail = True
            with pytest.raises(StorageError):
                await tally.update(add)
            assert tally.state.n == 5
            own.fail = False


async def test_a_write_that_was_cancelled_has_an_unknown_outcome(disk):
    class Hanging(FilePersistence[Tally]):
        task: asyncio.Future[None] | None = None

        def append(self, records: Any, schema: Any) -> Any:
            if self._journal.last_version == 0:
                return super().append(records, schema)
            self.task = asyncio.get_running_loop().create_future()
            return self.task

    hanging = Hanging("/state", filesystem=disk.files)
    async with StateContainer.open(Tally(), persistence=hanging) as tally:
        running = asyncio.ensure_future(tally.update(add))
        await turns()
        hanging.task.cancel()
        with pytest.raises(UnknownOutcomeError):
            await running


@pytest.mark.parametrize("place_of_cancel", range(8))
async def test_cancelling_a_caller_withdraws_nothing_once_its_recipe_ran(gated, place_of_cancel):
    files, tally = gated
    files.gate.clear()
    ran: list[int] = []

    def recipe(draft: Tally) -> None:
        ran.append(1)
        draft.n += 1

    running = asyncio.ensure_future(tally.update(recipe))
    other = asyncio.ensure_future(tally.update(add, 100))
    for _ in range(place_of_cancel):
        await asyncio.sleep(0)
    running.cancel()
    files.gate.set()
    await other
    with pytest.raises(asyncio.CancelledError):
        await running
    assert tally.state.n == (101 if ran else 100)
    assert len(ran) <= 1
    assert (await tally.update(add)).version == tally.version


async def test_cancelled_callers_do_not_bring_a_flush_out_of_step(disk):
    async with disk.open(Tally()) as tally:
        running = [asyncio.ensure_future(tally.update(note, number)) for number in range(20)]
        await asyncio.sleep(0)
        for number in (0, 3, 19):
            running[number].cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await tally.flush()
        assert tally.state.log == list(range(20))
        assert [change.version for change in tally.history] == list(range(1, 22))


def test_a_callback_that_is_interrupted_keeps_no_durable_change_from_being_shown(disk):
    loop = asyncio.new_event_loop()
    tally = loop.run_until_complete(disk.open(Tally()).__aenter__())
    heard: list[int] = []

    def interrupted(change: Any) -> None:
        heard.append(change.version)
        if change.version == 3:
            raise KeyboardInterrupt

    async def burst() -> None:
        await asyncio.gather(*(tally.update(add) for _ in range(5)))

    tally.on_change(interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(burst())
    assert (tally.version, tally.state.n) == (6, 5)
    loop.run_until_complete(tally.update(add))
    assert heard == [2, 3, 4, 5, 6, 7]
    loop.run_until_complete(tally.aclose())
    loop.close()


async def test_closing_writes_what_was_accepted_and_refuses_what_comes_later(gated):
    files, tally = gated
    files.gate.clear()
    accepted = [asyncio.ensure_future(tally.update(add)) for _ in range(3)]
    await turns()
    closing = asyncio.ensure_future(tally.aclose())
    await turns()
    with pytest.raises(ClosedError):
        tally.update(add)
    late = tally._update(add, (), None, None, None, None)
    with pytest.raises(ClosedError):
        await late
    files.gate.set()
    await asyncio.gather(*accepted, closing)
    assert tally.state.n == 3
    with pytest.raises(ClosedError):
        tally.update(add)
    with pytest.raises(ClosedError):
        tally.subscribe()
    with pytest.raises(ClosedError):
        await tally.get()
    await tally.aclose()


async def test_a_close_that_was_cancelled_is_carried_out_all_the_same(disk):
    tally = await disk.open(Tally())
    await tally.update(add)
    closing = asyncio.ensure_future(tally.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await tally.aclose()
    async with disk.open(Tally) as again:
        assert again.state.n == 1


async def test_closing_gives_up_after_its_deadline_and_lets_nobody_wait_for_ever(disk):
    disk.files = GatedFiles()
    tally = await disk.open(Tally(), deadline=0.02)
    disk.files.gate.clear()
    running = asyncio.ensure_future(tally.update(add))
    await turns()
    with pytest.raises(TimeoutError, match=r"0\.02 s"):
        await tally.aclose()
    with pytest.raises(UnknownOutcomeError):
        await running
    disk.files.gate.set()
    await tally._persistence.aclose()


async def test_flush_makes_everything_durable_whatever_durability_says(new_place):
    place = new_place(durability="never")
    tally = await place.open(Tally())
    await asyncio.gather(*(tally.update(add) for _ in range(5)))
    await tally.flush()
    files = place.files
    place.crash("lost")
    async with place.open(Tally) as again:
        assert again.state.n == 5
    place.files = files
    await tally.aclose()


@pytest.mark.parametrize("durability", ["interval", "never"])
async def test_without_disk_a_change_survives_a_killed_process(new_place, durability):
    place = new_place(durability=durability, flush_interval=1000.0)
    tally = await place.open(Tally())
    await tally.update(add)
    before = place.files
    place.crash("kept")
    async with place.open(Tally) as again:
        assert again.state.n == 1
    place.files = before
    await tally.aclose()


async def test_the_journal_is_compacted_under_a_load_that_never_pauses(new_place):
    place = new_place()
    config = StateConfig(history_size=5)
    async with place.open(Tally(), config=config) as tally:
        going = True

        async def writer(number: int) -> None:
            while going:
                await tally.update({"log": [number] * 200})

        writers = [asyncio.ensure_future(writer(number)) for number in range(4)]
        while not any(path.endswith(".rss") for path in place.files.paths()):
            await tally.update(add)
        going = False
        await asyncio.gather(*writers)
        state, versions = tally.state, [change.version for change in tally.history]
    async with place.open(Tally, config=config) as tally:
        assert tally.state == state
        assert [change.version for change in tally.history] == versions
        assert tally.history[0].old_state is not None


async def test_a_compaction_that_fails_costs_nothing_but_room(disk, caplog):
    async with disk.open(Tally()) as tally:
        disk.files.fail("rename", error=errno.ENOSPC)
        for number in range(400):
            await tally.update({"log": [number] * 100})
        assert "could not be compacted" in caplog.text
        assert caplog.text.count("could not be compacted") == 1
        state = tally.state
    async with disk.open(Tally) as tally:
        assert (tally.state, tally.version) == (state, 401)
