from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
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
    AtomicState,
    FilePersistence,
    ManualClock,
    NoHistoricalState,
    State,
    StateConfig,
    StateContainer,
    StateNotFoundError,
    StorageError,
    StorageFailedError,
    UnknownOutcomeError,
    apply_patch,
    to_document,
)
from reactstate.testing.faults import FaultyFileSystem


class Board(State):
    title: str = ""
    cards: dict[str, int] = {}
    order: list[str] = []
    tags: set[str] = set()


class Eager(FilePersistence[Any]):
    """Asks for compaction all the time."""

    @property
    def compaction_due(self) -> bool:
        return self._journal is not None and self._journal.frame_bytes - self._counted_bytes > 500


NAMES = ["a", "b", "c", "d"]


class Model:
    """A container as one would write it on a page: all versions, and two stacks."""

    def __init__(self, size: int = 1000) -> None:
        self.size = size
        self.versions: list[Any] = [None]
        self.undoable: list[int] = []
        self.undone: list[int] = []

    @property
    def state(self) -> Any:
        return self.versions[-1]

    @property
    def version(self) -> int:
        return len(self.versions) - 1

    def kept(self, version: int) -> bool:
        return version >= 1 and self.version - self.size < version <= self.version

    def commit(self, state: Any) -> None:
        self.versions.append(state)
        self.undoable.append(self.version)
        self.undone.clear()

    def undo(self) -> bool:
        if not self.undoable or self.undoable[-1] <= 1 or not self.kept(self.undoable[-1]):
            return False
        target = self.undoable.pop()
        self.undone.append(target)
        self.versions.append(self.versions[target - 1])
        return True

    def redo(self) -> bool:
        if not self.undone or not self.kept(self.undone[-1]):
            return False
        target = self.undone.pop()
        self.undoable.append(target)
        self.versions.append(self.versions[target])
        return True

    def reachable(self, version: int) -> bool:
        return version >= 1 and (self.kept(version) or self.kept(version + 1))


def edited(document: Any, step: tuple[Any, ...]) -> Any:
    """Return the document that *step* makes; None stays None."""
    if document is None:
        return None
    verb, name, number = step
    made = {
        **document,
        "cards": dict(document["cards"]),
        "order": list(document["order"]),
        "tags": list(document["tags"]),
    }
    if verb == "title":
        made["title"] = name
    elif verb == "card":
        made["cards"][name] = number
    elif verb == "drop":
        made["cards"].pop(name, None)
    elif verb == "push":
        made["order"].insert(number % (len(made["order"]) + 1), name)
    elif verb == "sort":
        made["order"].sort()
    elif verb == "pop" and made["order"]:
        made["order"].pop(number % len(made["order"]))
    elif verb == "tag":
        made["tags"] = sorted({*made["tags"], name})
    elif verb == "untag":
        made["tags"] = sorted({*made["tags"]} - {name})
    return {**made, "cards": dict(sorted(made["cards"].items()))}


def recipe(draft: Board, step: tuple[Any, ...]) -> None:
    verb, name, number = step
    if verb == "title":
        draft.title = name
    elif verb == "card":
        draft.cards[name] = number
    elif verb == "drop":
        draft.cards.pop(name, None)
    elif verb == "push":
        draft.order.insert(number % (len(draft.order) + 1), name)
    elif verb == "sort":
        draft.order.sort()
    elif verb == "pop" and draft.order:
        draft.order.pop(number % len(draft.order))
    elif verb == "tag":
        draft.tags.add(name)
    elif verb == "untag":
        draft.tags.discard(name)


edits = st.tuples(
    st.sampled_from(["title", "card", "drop", "push", "sort", "pop", "tag", "untag"]),
    st.sampled_from(NAMES),
    st.integers(0, 5),
)
verbs = st.one_of(
    st.tuples(st.just("update"), edits),
    st.tuples(st.just("update"), edits),
    st.tuples(st.just("undo"), st.none()),
    st.tuples(st.just("undo"), st.none()),
    st.tuples(st.just("redo"), st.none()),
    st.tuples(st.just("rollback"), st.integers(1, 6)),
    st.tuples(st.just("delete"), st.none()),
    st.tuples(st.just("set"), st.sampled_from(NAMES)),
    st.tuples(st.just("reopen"), st.none()),
)


def predicted(model: Model, verb: str, argument: Any) -> bool:
    """Do it to the model; say whether it is allowed."""
    if verb == "undo":
        return model.undo()
    if verb == "redo":
        return model.redo()
    if verb == "rollback":
        goal = model.version - argument
        if not model.reachable(goal):
            return False
        if model.versions[goal] != model.state:
            model.commit(model.versions[goal])
        return True
    if verb == "set":
        state = {"cards": {}, "order": [], "tags": [], "title": argument}
        if state != model.state:
            model.commit(state)
        return True
    if model.state is None:
        return False
    state = None if verb == "delete" else edited(model.state, argument)
    if state != model.state:
        model.commit(state)
    return True


def call(container: Any, verb: str, argument: Any) -> Any:
    if verb == "update":
        return container.update(recipe, argument, actor="ada", tags={"verb": argument[0]})
    if verb == "rollback":
        return container.rollback(argument)
    if verb == "set":
        return container.set(Board(title=argument))
    return getattr(container, verb)()


def document_of(container: Any) -> Any:
    return to_document(container.state) if container.current.exists else None


def told(container: Any) -> list[tuple[Any, ...]]:
    """Return everything that a history says, in a form that can be compared."""
    return [
        (
            change.version,
            change.change_type,
            change.change_id,
            change.timestamp,
            change.actor,
            change.action,
            dict(change.tags),
            change.patch,
            None if change.old_state is None else to_document(change.old_state),
            None if change.new_state is None else to_document(change.new_state),
        )
        for change in container.history
    ]


def check(container: Any, model: Model) -> None:
    assert container.version == model.version
    assert document_of(container) == model.state
    assert [change.version for change in container.history] == [
        version for version in range(1, model.version + 1) if model.kept(version)
    ]
    for change in container.history:
        old, new = model.versions[change.version - 1], model.versions[change.version]
        assert (None if change.new_state is None else to_document(change.new_state)) == new
        assert (None if change.old_state is None else to_document(change.old_state)) == old
        assert apply_patch(old, change.patch) == new
        assert apply_patch(new, change.inverse) == old


@settings(max_examples=60, deadline=None)
@given(st.lists(verbs, max_size=40), st.sampled_from([3, 6, 1000]), st.sampled_from([FilePersistence, Eager]))
def test_undo_redo_rollback_and_delete_follow_their_law_and_survive_a_restart(steps, size, kind):
    async def story() -> None:
        model, files = Model(size), FaultyFileSystem()
        config = StateConfig(history_size=size)
        clock = ManualClock()

        def opened(what: Any) -> Any:
            persistence = kind("/state", filesystem=files)
            return StateContainer.open(what, persistence=persistence, config=config, clock=clock)

        board = await opened(Board())
        model.commit(to_document(Board()))
        for verb, argument in steps:
            clock.advance(1)
            if verb == "reopen":
                before = told(board)
                await board.aclose()
                board = await opened(Board)
                assert told(board) == before
                continue
            if predicted(model, verb, argument):
                await call(board, verb, argument)
            else:
                with pytest.raises((NoHistoricalState, StateNotFoundError)):
                    await call(board, verb, argument)
            assert (board.version, document_of(board)) == (model.version, model.state)
        check(board, model)
        for version in range(model.version + 2):
            if model.reachable(version) and model.versions[version] is not None:
                assert to_document(await board.at(version)) == model.versions[version]
            else:
                with pytest.raises((NoHistoricalState, StateNotFoundError)):
                    await board.at(version)
        await board.aclose()

    asyncio.run(story())


@settings(max_examples=60, deadline=None)
@given(st.lists(verbs, max_size=40), st.sampled_from([3, 1000]))
def test_an_atomic_state_follows_the_same_law(steps, size):
    model = Model(size)
    board = AtomicState(Board(), config=StateConfig(history_size=size))
    model.commit(to_document(Board()))
    for verb, argument in steps:
        if verb == "reopen":
            continue
        if predicted(model, verb, argument):
            call(board, verb, argument)
        else:
            with pytest.raises((NoHistoricalState, StateNotFoundError)):
                call(board, verb, argument)
    check(board, model)


class Machine(RuleBasedStateMachine):
    """A container over a disk that fails, loses power and has callers that give up, against the model."""

    @initialize(
        seed=st.integers(0, 1 << 16), size=st.sampled_from([4, 1000]), kind=st.sampled_from([FilePersistence, Eager])
    )
    def begin(self, seed: int, size: int, kind: Any) -> None:
        self.kind = kind
        self.loop = asyncio.new_event_loop()
        self.files = FaultyFileSystem(seed)
        self.model = Model(size)
        self.size = size
        self.heard: list[tuple[int, Any]] = []
        self.failed = False
        self.board: Any = None
        self.reopen(Board())
        self.model.commit(to_document(Board()))

    def run(self, awaitable: Any) -> Any:
        async def awaited() -> Any:
            return await awaitable

        return self.loop.run_until_complete(awaited())

    def settle(self) -> None:
        """Let what goes on in the background come to its end, so that a fault hits what it is meant for."""

        async def settled() -> None:
            await self.board._committer.settle()
            while self.board._committer._saving is not None:  # noqa: ASYNC110 - what is waited for tells nobody
                await asyncio.sleep(0.0001)

        self.run(settled())

    def reopen(self, what: Any = Board) -> None:
        persistence = self.kind("/state", filesystem=self.files)
        config = StateConfig(history_size=self.size)
        self.board = self.run(StateContainer.open(what, persistence=persistence, config=config))
        self.board.on_change(self.hear)
        self.failed = False

    def hear(self, change: Any) -> None:
        self.heard.append((change.version, None if change.new_state is None else to_document(change.new_state)))

    @rule(burst=st.lists(edits, min_size=1, max_size=8), cancelled=st.sets(st.integers(0, 7)))
    def update(self, burst: list[Any], cancelled: set[int]) -> None:
        async def story() -> list[Any]:
            running = [asyncio.ensure_future(call(self.board, "update", step)) for step in burst]
            await asyncio.sleep(0)
            for place in cancelled:
                if place < len(running):
                    running[place].cancel()
            outcome = await asyncio.gather(*running, return_exceptions=True)
            if self.board._committer is not None:
                await self.board._committer.settle()
            return outcome

        outcome = self.run(story())
        if self.failed:
            assert all(
                isinstance(one, StorageFailedError | asyncio.CancelledError | StateNotFoundError) or one.version
                for one in outcome
            )
            assert self.board.version == self.model.version
        else:
            for step in burst:
                predicted(self.model, "update", step)

    @precondition(lambda self: not self.failed)
    @rule(step=verbs.filter(lambda step: step[0] not in {"update", "reopen"}))
    def verb(self, step: tuple[str, Any]) -> None:
        if predicted(self.model, *step):
            self.run(call(self.board, *step))
        else:
            with pytest.raises((NoHistoricalState, StateNotFoundError)):
                self.run(call(self.board, *step))

    @precondition(lambda self: not self.failed and self.model.state is not None)
    @rule(title=st.text("xyz", min_size=3))
    def full_disk(self, title: str) -> None:
        if self.model.state["title"] == title:
            return
        self.settle()
        self.files.fail("pwrite", error=errno.ENOSPC)
        self.files.fail("pwrite", nth=2, error=errno.ENOSPC)
        self.files.fail("pwrite", nth=3, error=errno.ENOSPC)
        with pytest.raises(StorageError):
            self.run(self.board.update({"title": title}))
        self.files._faults.clear()

    @precondition(lambda self: not self.failed and self.model.state is not None)
    @rule(title=st.text("xyz", min_size=3))
    def failed_sync(self, title: str) -> None:
        if self.model.state["title"] == title:
            return
        self.settle()
        self.files.fail("fdatasync")
        with pytest.raises(UnknownOutcomeError):
            self.run(self.board.update({"title": title}))
        self.files._faults.clear()
        self.failed = True
        self.unknown = {**self.model.state, "title": title}

    @rule(unsynced=st.sampled_from(["torn", "lost", "kept"]))
    def power_cut(self, unsynced: Any) -> None:
        before = self.board
        files, self.files = self.files, self.files.after_crash(unsynced)
        files._faults.clear()
        with_unknown = self.failed
        self.run(before.aclose())
        self.reopen()
        if with_unknown and self.board.version == self.model.version + 1:
            self.model.commit(self.unknown)

    @rule()
    def restart(self) -> None:
        with_unknown = self.failed
        before = told(self.board)
        self.run(self.board.aclose())
        self.reopen()
        if with_unknown and self.board.version == self.model.version + 1:
            self.model.commit(self.unknown)
        else:
            assert told(self.board) == before

    @invariant()
    def agrees(self) -> None:
        if self.board is None:
            return
        assert (self.board.version, document_of(self.board)) == (self.model.version, self.model.state)
        for version, document in self.heard:
            assert self.model.versions[version] == document, "a subscriber saw what a crash took back"

    def teardown(self) -> None:
        if getattr(self, "board", None) is None:
            return
        check(self.board, self.model)
        heard = [version for version, _ in self.heard]
        assert heard == sorted(set(heard))
        self.run(self.board.aclose())
        self.loop.close()


def test_a_container_agrees_with_its_model_through_faults_crashes_and_impatient_callers():
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(edits, min_size=1, max_size=12), st.integers(1, 60), st.integers(0, 1 << 16))
def test_a_crash_at_any_call_takes_back_nothing_that_anybody_saw(steps, at, seed):
    async def story() -> None:
        files = FaultyFileSystem(seed)
        seen: list[tuple[int, Any]] = []
        acknowledged: list[Any] = []
        board = await StateContainer.open(Board(), persistence=FilePersistence("/state", filesystem=files))
        board.on_change(lambda change: seen.append((change.version, to_document(change.new_state))))
        files.crash(at=at)
        for step in steps:
            try:
                acknowledged.append(await call(board, "update", step))
            except (StorageError, UnknownOutcomeError):
                break
        seen.extend((one.version, to_document(one.state)) for one in acknowledged)
        seen.append((board.version, to_document(board.state)))
        after = files.after_crash("torn")
        with contextlib.suppress(StorageError, UnknownOutcomeError):
            await board.aclose()
        async with StateContainer.open(Board, persistence=FilePersistence("/state", filesystem=after)) as again:
            for version, document in seen:
                assert to_document(await again.at(version)) == document
            assert again.version <= board.version + 1

    asyncio.run(story())
