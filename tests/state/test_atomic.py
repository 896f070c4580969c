from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any, Self

import pytest

from reactstate import (
    AtomicState,
    ChangeType,
    ClosedError,
    ConflictError,
    ManualClock,
    MergeUnsupportedError,
    NoHistoricalState,
    SnapshotNotFoundError,
    State,
    StateConfig,
    StateNotFoundError,
    StateValidationError,
    TransitionError,
    WrongContextError,
)


class Tally(State):
    n: int = 0
    twin: int = 0

    def merge(self, other: Self) -> Self:
        return type(self)(n=self.n + other.n)

    def check_transition(self, previous: Tally) -> None:
        if self.n < 0:
            raise TransitionError("never below zero")


class Plain(State):
    n: int = 0


def add(draft: Tally, one: int = 1) -> None:
    draft.n += one
    draft.twin += one


def in_threads(*functions: Any) -> None:
    failed: list[BaseException] = []

    def guarded(function: Any) -> None:
        try:
            function()
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_threads_lose_no_update_and_readers_see_no_mixture():
    tally = AtomicState(Tally())
    writing = threading.Event()
    wrong: list[Any] = []

    def writer() -> None:
        for _ in range(60):
            tally.update(add)

    def reader() -> None:
        while not writing.wait(0.0001):
            current = tally.current
            if not current.version - 1 == current.state.n == current.state.twin:
                wrong.append(current)
            if tally.at(current.version).n != current.version - 1:
                wrong.append(current)

    def writers() -> None:
        in_threads(*[writer] * 4)
        writing.set()

    in_threads(writers, reader, reader)
    assert wrong == []
    assert (tally.version, tally.state.n) == (241, 240)
    assert [change.new_state.n for change in tally.history] == list(range(241))


def test_callbacks_and_subscriptions_see_all_versions_in_order_from_many_threads():
    tally = AtomicState(Tally())
    heard: list[int] = []
    tally.on_change(lambda change: heard.append(change.version))
    subscription = tally.subscribe(buffer=10_000)
    in_threads(*[lambda: [tally.update(add) for _ in range(200)]] * 4)
    assert heard == list(range(2, 802))
    assert [subscription.next(timeout=1).version for _ in range(800)] == list(range(2, 802))
    assert subscription.get_nowait() is None


def test_subscribing_while_others_commit_misses_nothing():
    tally = AtomicState(Tally(), config=StateConfig(history_size=100_000, buffer_size=100_000))
    seen: list[list[int]] = []
    ended: list[None] = []

    def subscriber() -> None:
        try:
            for _ in range(20):
                since = tally.version
                subscription = tally.subscribe(since=since)
                seen.append([since] + [subscription.next(timeout=5).version for _ in range(3)])
        finally:
            ended.append(None)

    def writer() -> None:
        while len(ended) < 2:
            tally.update(add)

    in_threads(subscriber, subscriber, writer)
    assert len(seen) == 40
    assert all(versions == list(range(versions[0], versions[0] + 4)) for versions in seen)


def test_a_recipe_that_blocks_blocks_neither_readers_nor_other_writers():
    tally = AtomicState(Tally())
    inside, gate = threading.Event(), threading.Event()
    runs: list[int] = []

    def slow(draft: Tally) -> None:
        runs.append(draft.n)
        if len(runs) == 1:
            inside.set()
            assert gate.wait(5)
        draft.n += 100

    blocked = threading.Thread(target=tally.update, args=(slow,))
    blocked.start()
    assert inside.wait(5)
    assert tally.state.n == 0
    tally.update(add)
    assert tally.subscribe(since=0).get_nowait().version == 1
    gate.set()
    blocked.join()
    assert runs == [0, 1]  # it lost to the other writer, and ran again on the newer state
    assert (tally.state.n, tally.version) == (101, 3)


class Meeting(State):
    """What merges and recipes do while another thread is at work: the first of them lets it in."""

    n: int = 0

    def merge(self, other: Self) -> Self:
        others.pop()() if others else None
        return type(self)(n=max(self.n, other.n))


others: list[Any] = []


def test_whatever_lost_to_another_thread_is_done_again_on_what_is_newer():
    meeting = AtomicState(Meeting(n=5))
    runs: list[int] = []

    def bump(draft: Meeting) -> None:
        draft.n += 1

    def look(draft: Meeting) -> None:
        runs.append(draft.n)
        others.pop()() if others else None

    others.append(lambda: in_threads(lambda: meeting.update(bump)))
    assert meeting.merge(Meeting(n=7)).version == 3  # a change that lost
    assert [change.new_state.n for change in meeting.history] == [5, 6, 7]
    others.append(lambda: in_threads(lambda: meeting.update(bump)))
    assert meeting.merge(Meeting(n=1)).version == 4  # no change, but that was judged by what is no longer current
    others.append(lambda: in_threads(lambda: meeting.update(bump)))
    assert meeting.update(look).version == 5
    assert runs == [8, 9]
    others.append(lambda: in_threads(meeting.close))
    with pytest.raises(ClosedError):
        meeting.merge(Meeting(n=100))
    assert (meeting.version, meeting.state.n) == (5, 9)


def test_coming_back_to_what_is_there_already_makes_no_version():
    tally = AtomicState(Tally())
    info = tally.snapshot()
    tally.update(add)
    tally.undo()
    assert tally.rollback(2).version == 3
    assert tally.rollback_to(1).version == 3
    assert tally.restore(info.id).version == 3


def test_it_has_the_verbs_of_a_container_without_await():
    clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
    tally = AtomicState(Tally(), clock=clock)
    made = tally.update(add, 2, actor="ada", action="two", tags={"t": 1}, expected_version=1)
    assert (made.version, made.state.n) == (2, 2)
    change = tally.history[-1]
    assert (change.actor, change.action, change.tags) == ("ada", "two", {"t": 1})
    assert tally.update(lambda d: None).version == 2
    tally.set(Tally(n=5), expected_version=2)
    tally.merge(Tally(n=4), actor="peer")
    assert (tally.state.n, tally.history[-1].change_type) == (9, ChangeType.MERGE)
    tally.rollback(2, action="back")
    assert (tally.state.n, tally.history[-1].action) == (2, "back")
    tally.rollback_to(4)
    tally.undo(actor="ada")
    tally.redo()
    assert tally.state.n == 9
    assert tally.compare_and_swap(tally.version, add)
    assert tally.compare_and_swap(tally.state, add)
    assert not tally.compare_and_swap(1, add)
    assert not tally.compare_and_swap(Tally(), add)
    assert (tally.get(), tally.at(2).n, tally.at(datetime(2027, 1, 1, tzinfo=UTC)).n) == (tally.state, 2, 11)
    assert tally.diff(2, 3) == [
        {"op": "replace", "path": "/n", "value": 5},
        {"op": "replace", "path": "/twin", "value": 0},
    ]
    tally.delete()
    assert not tally.compare_and_swap(Tally(), add)
    for call in (lambda: tally.update(add), tally.delete, lambda: tally.state, tally.get):
        with pytest.raises(StateNotFoundError):
            call()
    tally.set(Tally())
    assert tally.history[-1].change_type is ChangeType.CREATE
    assert tally.select(lambda state: state.n).value == 0
    assert "AtomicState(Tally" in repr(tally)


def test_edit_commits_at_the_end_of_its_block_or_conflicts():
    tally = AtomicState(Tally())
    with tally.edit(actor="ada", action="fill") as draft:
        draft.n = 3
    assert (tally.state.n, tally.history[-1].action) == (3, "fill")
    with tally.edit():
        pass
    assert tally.version == 2
    with pytest.raises(ConflictError), tally.edit() as draft:
        draft.n = 4
        tally.update(add)
    assert tally.state.n == 4
    with pytest.raises(ZeroDivisionError), tally.edit() as draft:
        draft.n = 9
        raise ZeroDivisionError
    with pytest.raises(TransitionError), tally.edit() as draft:
        draft.n = -1
    assert tally.state.n == 4


def test_snapshots_are_kept_in_memory():
    tally = AtomicState(Tally())
    info = tally.snapshot("start")
    tally.update(add)
    tally.restore(info.id, actor="ada")
    assert (tally.state.n, tally.history[-1].action) == (0, "restore")
    assert [one.name for one in tally.list_snapshots()] == ["start"]
    assert tally.delete_snapshot(info.id)
    assert not tally.delete_snapshot(info.id)
    with pytest.raises(SnapshotNotFoundError):
        tally.restore(info.id)
    with pytest.raises(StateValidationError):
        tally.snapshot("a\nb")


def test_what_is_refused_leaves_everything_as_it_was():
    tally = AtomicState(Tally())
    heard: list[Any] = []
    tally.on_change(heard.append)

    def conflict(draft: Tally) -> None:
        raise ConflictError("mine")

    for call, error in (
        (lambda: tally.update({"n": "x"}), StateValidationError),
        (lambda: tally.update({"n": -1}), TransitionError),
        (lambda: tally.update(add, expected_version=7), ConflictError),
        (lambda: tally.set(Tally(n=1), expected_version=7), ConflictError),
        (lambda: tally.delete(expected_version=7), ConflictError),
        (lambda: tally.compare_and_swap(1, conflict), ConflictError),
        (lambda: tally.compare_and_swap("1", add), TypeError),
        (lambda: tally.update(add, tags={"a": []}), StateValidationError),
        (lambda: tally.update(add, actor=5), StateValidationError),
        (lambda: tally.set(Plain()), StateValidationError),
        (lambda: tally.rollback(0), ValueError),
        (lambda: tally.rollback(10**9), NoHistoricalState),
        (tally.undo, NoHistoricalState),
        (tally.redo, NoHistoricalState),
        (lambda: AtomicState(Tally), StateValidationError),
        (lambda: AtomicState(Plain()).merge(Plain(n=1)), MergeUnsupportedError),
    ):
        with pytest.raises(error):
            call()
    assert (tally.version, heard) == (1, [])
    with pytest.raises(ConflictError) as caught:
        tally.update(add, expected_version=7)
    assert caught.value.current == tally.current


def test_nothing_that_writes_nor_close_can_be_called_in_a_recipe_of_the_same_container():
    tally = AtomicState(Tally())
    info = tally.snapshot()
    tally.update(add)
    tally.undo()
    subscription = tally.subscribe()
    refused = [
        lambda: tally.update(add),
        lambda: tally.compare_and_swap(3, add),
        lambda: tally.set(Tally(n=9)),
        lambda: tally.merge(Tally(n=9)),
        tally.delete,
        tally.edit,
        tally.rollback,
        lambda: tally.rollback_to(1),
        tally.undo,
        tally.redo,
        tally.snapshot,
        lambda: tally.restore(info.id),
        lambda: tally.restore("no such snapshot"),
        lambda: tally.delete_snapshot(info.id),
        tally.close,
        lambda: tally.__exit__(None, None, None),
    ]
    met: list[Exception] = []

    def nested(draft: Tally) -> None:
        for call in refused:
            with pytest.raises(WrongContextError, match="after the update") as caught:
                call()
            met.append(caught.value)
        assert (tally.state.n, tally.version, len(tally.history), tally.list_snapshots()) == (0, 3, 3, [info])
        draft.n = 5

    assert tally.update(nested).version == 4
    assert len(met) == len(refused)
    assert subscription.get_nowait().version == 4  # nothing was closed
    tally.close()


def test_an_update_in_a_callback_is_delivered_after_the_current_change():
    tally, other = AtomicState(Tally()), AtomicState(Tally())
    tally, other = AtomicState(Tally()), AtomicState(Tally())

    def nested(draft: Tally) -> None:
        other.update(add)
        draft.n = 1

    tally.update(nested)
    assert (tally.state.n, other.state.n) == (1, 1)
    heard: list[int] = []

    def follow(change: Any) -> None:
        heard.append(change.version)
        if change.version < 5:
            tally.update(add)

    tally.on_change(follow)
    tally.update(add)
    assert heard == [3, 4, 5]


def test_closing_ends_subscriptions_and_refuses_updates():
    with AtomicState(Tally()) as tally:
        subscription = tally.subscribe()
        tally.update(add)
    assert subscription.get_nowait().version == 2
    with pytest.raises(ClosedError):
        subscription.get_nowait()
    for call in (
        lambda: tally.update(add),
        tally.undo,
        tally.subscribe,
        tally.snapshot,
        tally.edit,
        lambda: tally.restore("any"),
        lambda: tally.delete_snapshot("any"),
    ):
        with pytest.raises(ClosedError):
            call()
    assert tally.state.n == 1
    tally.close()
    late = AtomicState(Tally())

    def closing(draft: Tally) -> None:
        in_threads(late.close)
        draft.n = 1

    for write in (late.update, lambda recipe: late.compare_and_swap(1, recipe)):
        late._closed = False
        with pytest.raises(ClosedError):
            write(closing)
    assert late.version == 1


async def test_it_is_watched_on_an_event_loop_like_a_container():
    tally = AtomicState(Tally())
    watching = tally.watch()
    assert (await anext(watching)).n == 0
    thread = threading.Thread(target=lambda: [tally.update(add) for _ in range(50)])
    thread.start()
    newest = 0
    while newest < 50:
        newest = (await anext(watching)).n
    thread.join()
    slow = tally.subscribe(buffer=1, on_lag="resync")
    for _ in range(5):
        tally.update(add)
    assert (await anext(slow)).new_state.n == 55
