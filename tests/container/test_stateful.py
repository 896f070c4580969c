"""A container over a disk with faults, step by step beside a toy model: a list of states and two stacks.

The model predicts the outcome of every call, whole groups of concurrent ones included: which changes share a flush,
which fail with it, and what those answer that were judged by it.
"""

from __future__ import annotations

import asyncio
import copy
import errno
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from reactstate import (
    ConflictError,
    FilePersistence,
    ManualClock,
    NoHistoricalState,
    ReactStateError,
    SnapshotNotFoundError,
    State,
    StateConfig,
    StateContainer,
    StateNotFoundError,
    StateValidationError,
    StorageError,
    StorageFailedError,
    TransitionError,
    UnknownOutcomeError,
    VersionedState,
    apply_patch,
    to_document,
)
from reactstate.testing.faults import FaultyFileSystem

Document = dict[str, Any] | None

NAMES = ["a", "b", "c"]
START: dict[str, Any] = {"n": 0, "books": {}, "order": []}


class Shelf(State):
    n: int = 0
    books: dict[str, int] = {}
    order: list[str] = []

    def merge(self, other: Shelf) -> Shelf:
        return Shelf(n=max(self.n, other.n), books={**self.books, **other.books}, order=list(self.order))

    def check_transition(self, previous: Shelf) -> None:
        if self.n < 0:
            raise TransitionError("below zero")


class Unnameable:
    """A recipe whose name cannot be stored, so that its change cannot be written."""

    __name__ = "\ud800"

    def __call__(self, draft: Shelf) -> None:
        draft.n += 7


class Disk(FaultyFileSystem):
    """Files in memory that refuse the next write or sync of the journal on demand."""

    def __init__(self, files: FaultyFileSystem) -> None:
        self.__dict__.update(files.__dict__)
        self.refuse: str | None = None
        self._journals: set[int] = set()

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        handle = super().open(path, write=write, create=create)
        if "journal-" in path:
            self._journals.add(handle)
        return handle

    def pwrite(self, handle: int, data: Any, offset: int) -> int:
        # Room in advance is zeros, and nobody minds when it is refused.
        if self.refuse == "write" and handle in self._journals and any(data):
            self.refuse = None
            super().pwrite(handle, data[: len(data) // 2], offset)
            raise OSError(errno.ENOSPC, "refused half-way")
        return super().pwrite(handle, data, offset)

    def sync(self, handle: int) -> None:
        if self.refuse == "sync" and handle in self._journals:
            self.refuse = None
            raise OSError(errno.EIO, "refused")
        super().sync(handle)


class Eager(FilePersistence[Any]):
    """Asks for compaction all the time."""

    @property
    def compaction_due(self) -> bool:
        return self._journal is not None and self._journal.frame_bytes - self._counted_bytes > 700


def edit(draft: Any, step: tuple[str, Any]) -> None:
    kind, value = step
    if kind == "add":
        draft.n += value
    elif kind == "put":
        draft.books[value] = draft.n
        draft.order.append(value)
    elif kind == "drop":
        draft.books.pop(value, None)
    elif kind == "sort":
        draft.order.sort()
    elif kind == "break":
        raise ZeroDivisionError
    else:
        draft.n = "no number"


def edited(document: dict[str, Any], step: tuple[str, Any]) -> dict[str, Any]:
    """Return what the step makes of a document; raise what the container is to raise."""
    plain = SimpleNamespace(**copy.deepcopy(document))
    edit(plain, step)
    if not isinstance(plain.n, int):
        raise StateValidationError("n")
    if plain.n < 0:
        raise TransitionError("below zero")
    return vars(plain)


class Call(NamedTuple):
    verb: str
    argument: Any = None
    expect: Any = None


class Entry(NamedTuple):
    version: int
    kind: str
    action: str | None
    document: Document
    target: int | None
    moment: datetime


class Model:
    """All versions, of which *size* are kept."""

    def __init__(self, size: int, moment: Callable[[], datetime]) -> None:
        self.size = size
        self.moment = moment
        self.entries: list[Entry] = []
        self.visible: int | None = None  # while others wait behind it; what is kept is counted from there

    def copy(self) -> Model:
        twin = Model(self.size, self.moment)
        twin.entries = list(self.entries)
        return twin

    @property
    def version(self) -> int:
        return len(self.entries)

    @property
    def document(self) -> Document:
        return self.entries[-1].document if self.entries else None

    @property
    def kept(self) -> list[Entry]:
        return self.entries[-self.size :]

    @property
    def forgotten(self) -> int:
        """The newest version whose change is not kept any more; its state still is."""
        return max(0, (self.version if self.visible is None else self.visible) - self.size)

    def at(self, version: int) -> Document:
        if not max(1, self.forgotten) <= version <= self.version:
            raise NoHistoricalState(str(version))
        return self.entries[version - 1].document

    def stacks(self) -> tuple[list[int], list[int]]:
        """Return what can be undone and what redone, newest last."""
        undoable: list[int] = []
        undone: list[int] = []
        for entry in self.entries:
            if entry.target is None:
                undoable.append(entry.version)
                undone = []
            else:
                source, goal = (undoable, undone) if entry.action == "undo" else (undone, undoable)
                assert source.pop() == entry.target
                goal.append(entry.target)
        return undoable, undone

    def entry(self, kind: str, action: str | None, document: Document, target: int | None = None) -> Entry | None:
        if document == self.document:
            return None
        return Entry(self.version + 1, kind, action, document, target, self.moment())

    def next(self, call: Call) -> Entry | None:
        """Return the version that *call* makes, None for none; raise what the container is to raise."""
        verb, argument, expect = call
        document = self.document
        if expect is not None and expect != (self.version if isinstance(expect, int) else document):
            raise ConflictError("expectation")
        if verb == "set":
            return self.entry("create" if document is None else "update", "set", argument)
        if verb in {"rollback", "rollback_to"}:
            goal = self.version - argument if verb == "rollback" else argument
            return self.entry("rollback", "rollback", self.at(goal))
        if verb in {"undo", "redo"}:
            stack = self.stacks()[verb == "redo"]
            if not stack or stack[-1] <= max(1, self.forgotten):
                raise NoHistoricalState(verb)
            return self.entry("rollback", verb, self.at(stack[-1] - (verb == "undo")), stack[-1])
        if document is None:
            raise StateNotFoundError(verb)
        if verb == "delete":
            return self.entry("delete", "delete", None)
        if verb == "merge":
            books = {**document["books"], **argument["books"]}
            made = {"n": max(document["n"], argument["n"]), "books": books, "order": document["order"]}
            return self.entry("merge", "merge", made)
        return self.entry("update", "edit", edited(document, argument))

    def answer(self, call: Call) -> tuple[Entry | None, Any]:
        """Return the version that *call* makes and what it answers: a version, a bool or an error."""
        try:
            entry = self.next(call)
        except (ReactStateError, ZeroDivisionError) as exc:
            swap = call.verb == "swap" and isinstance(exc, ConflictError)
            return None, False if swap else type(exc)
        version = self.version if entry is None else entry.version
        return entry, True if call.verb == "swap" else version

    def group(self, calls: dict[int, Call], fate: tuple[type[Exception], ...] = (), gone: Any = ()) -> dict[int, Any]:
        """Take *calls* in one after another, as if begun at once; return what each answers.

        Args:
            fate: The errors of the flushes to come; the last one of two is that of all that follow.
            gone: Whose callers have gone, so that they are not run again.
        """
        answers: dict[int, Any] = {}
        flushes = 0
        while calls:
            self.visible = head = self.version
            flushed: list[int] = []
            judged: dict[int, Call] = {}
            for place, call in calls.items():
                entry, answers[place] = self.answer(call)
                if entry is not None:
                    self.entries.append(entry)
                    flushed.append(place)
                elif flushed:
                    judged[place] = call
            if not flushed or flushes >= len(fate) != 2:
                break
            error = fate[min(flushes, len(fate) - 1)]
            flushes += 1
            del self.entries[head:]
            answers.update(dict.fromkeys(flushed, error))
            calls = {place: call for place, call in judged.items() if place not in gone}
        self.visible = None
        return answers


steps = st.one_of(
    st.tuples(st.just("add"), st.integers(-1, 3)),
    st.tuples(st.sampled_from(["put", "drop"]), st.sampled_from(NAMES)),
    st.sampled_from([("sort", None), ("break", None), ("spoil", None)]),
)
documents = st.builds(
    lambda n, books, order: {"n": n, "books": books, "order": order},
    st.integers(0, 5),
    st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3), max_size=2),
    st.lists(st.sampled_from(NAMES), max_size=2),
)
offsets = st.none() | st.integers(-1, 3)
"""Expectations, as seen from the visible version: right, right only behind others, or wrong."""

calls = st.one_of(
    st.tuples(st.just("update"), steps, offsets),
    st.tuples(st.just("update"), steps),
    st.tuples(st.just("swap"), steps, st.integers(-1, 3) | documents),
    st.tuples(st.just("set"), documents, offsets),
    st.tuples(st.just("merge"), documents),
    st.tuples(st.just("delete"), st.none(), offsets),
    st.tuples(st.just("rollback"), st.integers(1, 4)),
    st.tuples(st.just("rollback_to"), st.integers(0, 9)),
    st.tuples(st.sampled_from(["undo", "redo", "undo"])),
).map(lambda parts: Call(*parts))
groups = st.lists(calls, min_size=1, max_size=7)


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.broken = False
        self.snapshots: dict[str, tuple[int, Document]] = {}

    @initialize(seed=st.integers(0, 99), size=st.sampled_from([4, 1000]), eager=st.booleans())
    def begin(self, seed: int, size: int, eager: bool) -> None:
        self.kind = Eager if eager else FilePersistence
        self.config = StateConfig(history_size=size)
        self.model = Model(size, self.now)
        self.files = Disk(FaultyFileSystem(seed))
        self.run(self.open(Shelf()))
        self.model.entries.append(Entry(1, "create", None, START, None, self.now()))

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock.time_ns() / 1e9, UTC)

    def run(self, story: Awaitable[Any]) -> Any:
        """Return what *story* returns, once all that goes on behind it has come to its end."""

        async def told() -> Any:
            found = await story
            committer = self.container._committer
            assert committer is not None
            await committer.settle()  # those whose callers have gone
            while committer._saving is not None:
                await asyncio.wait([committer._saving])
                await asyncio.sleep(0)
            return found

        return self.runner.run(told())

    async def open(self, what: Any) -> None:
        kept = self.kind("/shelf", filesystem=self.files, clock=self.clock)
        self.container = await StateContainer.open(what, persistence=kept, config=self.config, clock=self.clock)
        self.broken = False
        self.changes = self.container.subscribe()
        self.heard = self.container.version
        self.called: list[int] = []
        self.container.on_change(lambda change: self.called.append(change.version))

    async def outcome(self, *asked: Awaitable[Any]) -> list[Any]:
        return await asyncio.gather(*asked, return_exceptions=True)

    def resolved(self, call: Call) -> Call:
        """Turn an expectation that is counted from the visible version into a version."""
        return call._replace(expect=call.expect + self.model.version) if isinstance(call.expect, int) else call

    def begun(self, call: Call) -> Awaitable[Any]:
        container, (verb, argument, expect) = self.container, call
        match verb:
            case "update":
                return container.update(edit, argument, expected_version=expect)
            case "swap":
                return container.compare_and_swap(
                    Shelf(**expect) if isinstance(expect, dict) else expect, edit, argument
                )
            case "set":
                return container.set(Shelf(**argument), expected_version=expect)
            case "merge":
                return container.merge(Shelf(**argument))
            case "delete":
                return container.delete(expected_version=expect)
            case "undo" | "redo":
                return getattr(container, verb)()
        return getattr(container, verb)(argument)

    async def together(self, calls: list[Call], gone: set[int], *, close: bool = False) -> list[Any]:
        """Begin all *calls* at once, let the callers of *gone* go, and return what the others got."""
        tasks = [asyncio.ensure_future(self.begun(call)) for call in calls]
        await asyncio.sleep(0)
        for place in gone:
            if place < len(tasks):
                tasks[place].cancel()
        closing = [self.container.aclose()] if close else []
        return (await self.outcome(*tasks, *closing))[: len(tasks)]

    def compare(self, calls: list[Call], answers: dict[int, Any], found: list[Any]) -> None:
        for place, expected in answers.items():
            got = found[place]
            if isinstance(got, asyncio.CancelledError):
                continue
            if isinstance(got, VersionedState):
                # Who changed nothing is told what is current by then.
                assert expected <= got.version <= self.model.version, calls[place]
                document = to_document(got.state) if got.exists else None
                assert document == self.model.entries[got.version - 1].document, calls[place]
            else:
                assert (type(got) if isinstance(got, Exception) else got) is expected, calls[place]

    def one(self, call: Call) -> None:
        answers = self.model.group({0: call})
        self.compare([call], answers, self.run(self.together([call], set())))

    @precondition(lambda self: not self.broken)
    @rule(group=groups, gone=st.sets(st.integers(0, 6), max_size=3), close=st.booleans())
    def many(self, group: list[Call], gone: set[int], close: bool) -> None:
        group = [self.resolved(call) for call in group]
        answers = self.model.group(dict(enumerate(group)), gone=gone)
        self.compare(group, answers, self.run(self.together(group, gone, close=close)))
        if close:
            self.hear()
            self.run(self.open(Shelf))

    @precondition(lambda self: not self.broken)
    @rule(group=groups, gone=st.sets(st.integers(0, 6), max_size=2), back=st.integers(0, 2))
    def many_on_a_full_disk(self, group: list[Call], gone: set[int], back: int) -> None:
        for _ in range(back):
            self.one(Call("undo"))
        group = [self.resolved(call) for call in group]
        answers = self.model.group(dict(enumerate(group)), (StorageError,), gone)
        self.files.refuse = "write"
        self.compare(group, answers, self.run(self.together(group, gone)))
        self.files.refuse = None
        for _ in range(back):
            self.one(Call("redo"))

    @precondition(lambda self: not self.broken)
    @rule(group=groups)
    def many_on_a_failing_disk(self, group: list[Call]) -> None:
        group = [self.resolved(call) for call in group]
        attempted = self.model.copy()
        attempted.group(dict(enumerate(group)))
        answers = self.model.group(dict(enumerate(group)), (UnknownOutcomeError, StorageFailedError))
        self.files.refuse = "sync"
        self.compare(group, answers, self.run(self.together(group, set())))
        self.broken = self.files.refuse is None
        self.files.refuse, self.attempted = None, attempted

    @precondition(lambda self: not self.broken and self.model.document is not None)
    @rule(size=st.integers(1, 8), bad=st.sets(st.integers(0, 7), min_size=1, max_size=3))
    def some_that_cannot_be_stored(self, size: int, bad: set[int]) -> None:
        bad = {place for place in bad if place < size}

        good = Call("update", ("add", 1))

        async def story() -> list[Any]:
            odd = self.container.update
            return await self.outcome(*(odd(Unnameable()) if one in bad else self.begun(good) for one in range(size)))

        found = self.run(story())
        for place, got in enumerate(found):
            if place in bad:
                assert isinstance(got, StateValidationError)
            else:
                assert self.model.group({0: good}) == {0: got.version}

    @precondition(lambda self: not self.broken and self.model.document is not None)
    @rule(step=steps, between=st.none() | calls)
    def a_draft_in_a_block(self, step: tuple[str, Any], between: Call | None) -> None:
        """The block ends with ConflictError when the state moved meanwhile and the draft is good."""
        start, (_, answer) = self.model.version, self.model.answer(Call("update", step))
        between = None if between is None else self.resolved(between)

        async def story() -> None:
            async with self.container.edit(action="edit") as draft:
                edit(draft, step)
                if between is not None:
                    await self.outcome(self.begun(between))

        if between is not None and step[0] not in {"break", "spoil"}:
            self.model.group({0: between})
        if isinstance(answer, int):
            answer = self.model.group({0: Call("update", step, start)})[0]
        [got] = self.run(self.outcome(story()))
        assert got is None if isinstance(answer, int) else type(got) is answer

    @precondition(lambda self: not self.broken and self.model.document is not None)
    @rule(name=st.text("xyz", max_size=3))
    def snapshot(self, name: str) -> None:
        info = self.run(self.container.snapshot(name))
        assert (info.name, info.version, info.automatic) == (name, self.model.version, False)
        self.snapshots[info.id] = self.model.version, self.model.document

    @precondition(lambda self: not self.broken)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        found = data.draw(st.sampled_from([*self.snapshots, "0" * 32]))
        if found not in self.snapshots:
            [got] = self.run(self.outcome(self.container.restore(found)))
            assert isinstance(got, SnapshotNotFoundError)
            return
        if (entry := self.model.entry("rollback", "restore", self.snapshots[found][1])) is not None:
            self.model.entries.append(entry)
        assert self.run(self.container.restore(found)).version == self.model.version

    @rule()
    def restart(self) -> None:
        self.run(self.container.aclose())
        if self.broken:
            self.model = self.attempted  # what was written is there, for nothing has crashed
        self.run(self.open(Shelf))

    @rule(group=groups, at=st.integers(1, 30), unsynced=st.sampled_from(["torn", "lost", "kept"]))
    def crash(self, group: list[Call], at: int, unsynced: Any) -> None:
        group = [self.resolved(call) for call in group]
        before = self.model.copy()
        after, found = self.attempted if self.broken else self.model, []
        self.files.crash(at=1 if self.broken else at)
        if not self.broken:
            after.group(dict(enumerate(group)))
            found = self.run(self.together(group, set()))
        self.run(self.outcome(self.container.aclose()))
        self.files = Disk(self.files.after_crash(unsynced))
        self.run(self.open(Shelf))
        version = self.container.version
        assert version in {before.version, after.version}
        if any(isinstance(got, VersionedState) and got.version > before.version for got in found):
            assert version == after.version
        self.model = after if version == after.version else before

    @rule(data=st.data())
    def look_around(self, data: st.DataObject) -> None:
        """Read any version, any moment, the difference of two versions, the whole history and the snapshots."""
        version = data.draw(st.integers(0, self.model.version + 1))
        self.look(version, self.container.at(version))
        moment = data.draw(st.sampled_from(self.model.entries)).moment
        moment += timedelta(seconds=data.draw(st.sampled_from([-0.5, 0, 0.5])))
        known = [entry for entry in self.model.kept if entry.moment <= moment]
        self.look(known[-1].version if known else 0, self.container.at(moment))
        kept = [entry for entry in self.model.kept if entry.document is not None]
        if kept:
            old, new = data.draw(st.sampled_from(kept)), data.draw(st.sampled_from(kept))
            patch = self.run(self.container.diff(old.version, new.version))
            assert apply_patch(old.document, patch) == new.document
        self.check_history(len(self.model.kept))
        infos = {info.id: info.version for info in self.run(self.container.list_snapshots())}
        assert infos == {found: version for found, (version, _) in self.snapshots.items()}

    def look(self, version: int, asked: Awaitable[Shelf]) -> None:
        [got] = self.run(self.outcome(asked))
        _, expected = self.model.answer(Call("rollback_to", version))
        if expected is NoHistoricalState:
            assert isinstance(got, NoHistoricalState)
        elif (document := self.model.at(version)) is None:
            assert isinstance(got, StateNotFoundError)
        else:
            assert to_document(got) == document

    def check_history(self, newest: int) -> None:
        history = self.container.history
        assert len(history) == len(self.model.kept)
        for change, entry in list(zip(history, self.model.kept, strict=True))[-newest:]:
            assert (change.version, change.change_type.value, change.action) == entry[:3]
            assert change.timestamp == entry.moment
            new, old = change.new_state, change.old_state
            assert (None if new is None else to_document(new)) == entry.document
            before = self.model.entries[entry.version - 2].document if entry.version > 1 else None
            assert (None if old is None else to_document(old)) == before
            assert apply_patch(before, change.patch) == entry.document
            assert apply_patch(entry.document, change.inverse) == before

    def hear(self) -> None:
        """Read what was announced: every version, once, in order."""

        async def story() -> list[int]:
            return [(await anext(self.changes)).version for _ in range(self.model.version - self.heard)]

        versions = list(range(self.heard + 1, self.model.version + 1))
        assert self.run(asyncio.wait_for(story(), 5)) == self.called == versions
        self.heard = self.model.version
        self.called.clear()

    @invariant()
    def container_and_model_agree(self) -> None:
        container, document = self.container, self.model.document
        assert container.version == container.current.version == self.model.version
        assert container.current.exists == (document is not None)
        if document is not None:
            assert to_document(container.state) == document
        self.check_history(3)
        self.hear()
        self.clock.advance(1)

    def teardown(self) -> None:
        if hasattr(self, "container"):
            self.run(self.outcome(self.container.aclose()))
        self.runner.close()


def test_a_container_does_what_its_model_predicts_through_groups_faults_crashes_and_restarts():
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
