from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reactstate import AtomicState, ManualClock, NoHistoricalState, State, StateConfig
from reactstate.state.history import History


class Tally(State):
    n: int = 0


def add(draft: Tally) -> None:
    draft.n += 1


def made(versions: int, **config: Any) -> tuple[AtomicState[Tally], ManualClock]:
    clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
    tally = AtomicState(Tally(), config=StateConfig(**config), clock=clock)
    for _ in range(versions - 1):
        clock.advance(1)
        tally.update(add)
    return tally, clock


def test_a_history_is_a_sequence_oldest_first():
    history = made(12)[0].history
    assert len(history) == 12
    assert [change.version for change in history] == list(range(1, 13))
    assert [change.version for change in reversed(history)] == list(range(12, 0, -1))
    assert [history[place].version for place in (0, 5, -1)] == [1, 6, 12]
    assert [change.version for change in history[2:4]] == [3, 4]
    assert history[3] in history
    assert (history.oldest_version, history.newest_version) == (1, 12)
    assert repr(history) == "History(1..12)"
    with pytest.raises(IndexError):
        history[12]


def test_get_previous_counts_back_from_the_newest():
    history = made(12)[0].history
    assert [history.get_previous(steps).version for steps in (1, 2, 11)] == [11, 10, 1]
    assert history.get_previous().version == 11
    for steps in (12, 10**9):
        with pytest.raises(NoHistoricalState) as caught:
            history.get_previous(steps)
        assert (caught.value.oldest, caught.value.newest) == (1, 12)
    for steps in (0, -1):
        with pytest.raises(ValueError, match="1 or more"):
            history.get_previous(steps)


def test_an_empty_history_says_that_nothing_is_kept():
    history: History[Tally] = History(10, None, ManualClock())
    assert (len(history), history.oldest_version, history.newest_version) == (0, None, None)
    for call in (lambda: history.find(1), history.get_previous, lambda: history.find_time(datetime.now(UTC))):
        with pytest.raises(NoHistoricalState):
            call()


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 50])
def test_every_kept_state_is_right_however_few_are_held(size):
    history = made(40, history_size=size)[0].history
    assert len(history) == min(size, 40)
    for change in history:
        assert change.new_state == Tally(n=change.version - 1)
        assert change.old_state == (Tally(n=change.version - 2) if change.version > 1 else None)


def test_what_is_too_old_goes_but_the_newest_stays():
    tally, clock = made(10, history_retention=timedelta(seconds=4))
    assert [change.version for change in tally.history] == [6, 7, 8, 9, 10]
    clock.advance(2)
    assert tally.history.oldest_version == 8
    with pytest.raises(NoHistoricalState):
        tally.history.find(7)
    clock.advance(10**6)
    assert [change.version for change in tally.history] == [10]
    assert tally.history[0].old_state == Tally(n=8)


def test_readers_of_many_threads_never_remove_the_newest():
    tally, clock = made(2, history_retention=timedelta(seconds=1))
    going = True
    wrong: list[int] = []

    def reader() -> None:
        while going:
            if len(tally.history) < 1 or tally.history.newest_version is None:
                wrong.append(1)

    threads = [threading.Thread(target=reader) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        clock.advance(0.9)
        tally.update(add)
    going = False
    for thread in threads:
        thread.join()
    assert wrong == []


def test_find_time_needs_a_time_zone_and_copes_with_a_clock_that_goes_back():
    class Jumping(ManualClock):
        now = 5_000_000_000

        def time_ns(self) -> int:
            return self.now

    clock = Jumping()
    tally = AtomicState(Tally(), clock=clock)
    clock.now = 2_000_000_000
    tally.update(add)
    clock.now = 3_000_000_000
    tally.update(add)
    moment = datetime(1970, 1, 1, tzinfo=UTC)
    assert tally.history.find_time(moment + timedelta(seconds=2)).version == 2
    assert tally.history.find_time(moment + timedelta(seconds=9)).version == 3
    with pytest.raises(NoHistoricalState):
        tally.history.find_time(moment + timedelta(seconds=1))
    with pytest.raises(ValueError, match="time zone"):
        tally.history.find_time(datetime(2026, 1, 1))
