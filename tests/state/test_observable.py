from __future__ import annotations

from typing import Any

import pytest

from reactstate import AtomicState, ClosedError, CompactedError, State, StateConfig, StateContainer
from reactstate.state.observable import Observable


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
