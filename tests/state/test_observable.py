from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reactstate import (
    AtomicState,
    ChangeType,
    ClosedError,
    CompactedError,
    ManualClock,
    State,
    StateConfig,
    StateContainer,
    apply_patch,
)
from reactstate.state.observable import Observable

START = datetime(2026, 1, 1, tzinfo=UTC)


class Tally(State):
    n: int = 0


def add(draft: Tally) -> None:
    draft.n += 1


@pytest.fixture(params=[AtomicState, StateContainer])
def tally(request) -> Any:
    return request.param(Tally())


def test_both_containers_offer_the_same_to_those_who_watch(tally):
    assert isinstance(tally, Observable)
    names = {name for name in dir(Observable) if not name.startswith("_")}
    assert names == {"changed", "current", "history", "on_change", "state", "subscribe", "version", "watch"}


def test_state_version_and_current_are_one_reading(tally):
    current = tally.current
    assert (current.state, current.version) == (tally.state, tally.version) == (Tally(), 1)
    assert tally.current == current


def test_a_subscription_takes_the_buffer_and_behaviour_of_the_container_unless_told_otherwise():
    tally = AtomicState(Tally(), config=StateConfig(buffer_size=2, on_lag="resync"))
    resynced, patient = tally.subscribe(), tally.subscribe(buffer=50)
    for _ in range(10):
        tally.update(add)
    assert resynced.get_nowait().action == "resync"
    assert patient.get_nowait().version == 2


def test_a_resync_says_what_it_is_and_fits_whatever_the_subscriber_had():
    tally = AtomicState(Tally(), config=StateConfig(buffer_size=1, on_lag="resync"), clock=ManualClock())
    lagging = tally.subscribe()
    for _ in range(5):
        tally.update(add)
    change = lagging.get_nowait()
    assert (change.action, change.change_type, change.version, change.actor) == ("resync", ChangeType.UPDATE, 6, None)
    assert (change.old_state, change.new_state, change.timestamp) == (None, tally.state, tally.current.timestamp)
    for had in (None, {"n": 3}, {"another": "document"}):
        assert apply_patch(had, change.patch) == {"n": 5}
    assert lagging.get_nowait() is None
    for _ in range(3):
        tally.set(Tally())
        tally.delete()
    change = lagging.get_nowait()
    assert (change.action, change.change_type) == ("resync", ChangeType.DELETE)
    assert (change.old_state, change.new_state, apply_patch({"n": 5}, change.patch)) == (None, None, None)


def test_a_resync_is_of_one_version_while_others_commit():
    clock = ManualClock()
    tally = AtomicState(Tally(), clock=clock)
    going = True
    wrong: list[Any] = []

    def reader() -> None:
        while going:
            change = tally._resync()
            if (
                change.timestamp - START != timedelta(seconds=change.version - 1)
                or change.new_state.n + 1 != change.version
            ):
                wrong.append(change)

    threads = [threading.Thread(target=reader) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(500):
        clock.advance(1)
        tally.update(add)
    going = False
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_resync_before_anything_is_stored_is_nothing():
    tally = AtomicState(Tally())
    assert tally._resync().version == 1
    tally._timeline.restart(type(tally._timeline)(Tally, tally._clock).head, None, 0)
    assert tally._resync() is None


def test_since_needs_the_versions_in_between(tally):
    assert tally.subscribe(since=0).pending == 1
    assert tally.subscribe(since=1).pending == 0
    small = AtomicState(Tally(), config=StateConfig(history_size=1))
    for _ in range(3):
        small.update(add)
    with pytest.raises(CompactedError) as caught:
        small.subscribe(since=1)
    assert caught.value.resume == 3
    small._timeline.restart(small._timeline.head, small.state, 0)
    with pytest.raises(CompactedError) as caught:
        small.subscribe(since=3)
    assert caught.value.resume == 4


def test_a_closed_container_takes_no_subscriptions():
    tally = AtomicState(Tally())
    tally.close()
    with pytest.raises(ClosedError):
        tally.subscribe()
    with pytest.raises(ClosedError):
        tally.watch()
