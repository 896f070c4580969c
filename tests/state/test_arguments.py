"""An argument that cannot be used is told at the call, by a typed error with a sentence, and changes nothing."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest

from reactstate import (
    AtomicState,
    Broadcast,
    ConflictError,
    FilePersistence,
    ManualClock,
    NoHistoricalState,
    SnapshotNotFoundError,
    State,
    StateContainer,
    StateValidationError,
)
from reactstate.state.history import check_steps, check_version, version_text
from reactstate.state.timeline import Timeline, action_of, check_labels, check_tags

NO_INTS = ["x", "1", 1.5, 1.0, True, False, None, [], b"1", datetime(2026, 1, 1, tzinfo=UTC)]
LONGEST = 10**5000
"""An int that Python refuses to print."""
HUGE = [10**30, LONGEST, -LONGEST]


class Tally(State):
    n: int = 0


class Text(str):
    __slots__ = ()


class Word(enum.StrEnum):
    ADA = "ada"


def add(draft: Tally) -> None:
    draft.n += 1


def made() -> AtomicState[Tally]:
    tally = AtomicState(Tally(), clock=ManualClock())
    for _ in range(3):
        tally.update(add)
    return tally


def timeline() -> Timeline[Tally]:
    return made()._timeline


WITH_A_VERSION: dict[str, Callable[[Any], Any]] = {
    "rollback_to": lambda one: made().rollback_to(one),
    "update": lambda one: made().update(add, expected_version=one),
    "set": lambda one: made().set(Tally(), expected_version=one),
    "delete": lambda one: made().delete(expected_version=one),
    "plan_rollback_to": lambda one: timeline().plan_rollback_to(one),
    "expect_version": lambda one: timeline().expect_version(one),
    "subscribe": lambda one: made().subscribe(since=one),
    "find": lambda one: made().history.find(one),
    "diff": lambda one: made().diff(1, one),
    "at": lambda one: made().at(one),
}
WITH_STEPS: dict[str, Callable[[Any], Any]] = {
    "rollback": lambda one: made().rollback(one),
    "plan_rollback": lambda one: timeline().plan_rollback(one),
    "get_previous": lambda one: made().history.get_previous(one),
}


OPTIONAL = {"update", "set", "delete", "subscribe"}
"""Those in which None says that no version is expected."""
OR_A_TIME = {"at", "diff"}


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        (call, wrong)
        for call in WITH_A_VERSION
        for wrong in NO_INTS
        if not (wrong is None and call in OPTIONAL) and not (isinstance(wrong, datetime) and call in OR_A_TIME)
    ],
    ids=repr,
)
def test_a_version_is_an_int(call: str, wrong: Any):
    with pytest.raises(TypeError, match=r"an int|a version or a datetime") as caught:
        WITH_A_VERSION[call](wrong)
    assert type(wrong).__name__ in str(caught.value)


@pytest.mark.parametrize("wrong", NO_INTS, ids=repr)
@pytest.mark.parametrize("call", WITH_STEPS)
def test_steps_are_an_int(call: str, wrong: Any):
    with pytest.raises(TypeError, match="steps must be an int from 1 on"):
        WITH_STEPS[call](wrong)


@pytest.mark.parametrize("call", WITH_STEPS)
def test_steps_are_1_or_more_and_no_more_than_are_kept(call: str):
    for wrong in (0, -1, -LONGEST):
        with pytest.raises(ValueError, match="1 or more"):
            WITH_STEPS[call](wrong)
    for wrong in (4, 10**30, LONGEST):
        with pytest.raises(NoHistoricalState) as caught:
            WITH_STEPS[call](wrong)
        assert (caught.value.oldest, caught.value.newest) == (1, 4)


@pytest.mark.parametrize("huge", HUGE, ids=["large", "longer than Python prints", "negative"])
@pytest.mark.parametrize("call", WITH_A_VERSION)
def test_a_version_of_any_size_is_looked_for(call: str, huge: int):
    expecting = call in {"update", "set", "delete", "expect_version"}
    wrong = ConflictError if expecting else ValueError if call == "subscribe" and huge < 0 else NoHistoricalState
    with pytest.raises(wrong):
        WITH_A_VERSION[call](huge)


def test_an_int_of_a_subclass_is_an_int():
    class Place(enum.IntEnum):
        FIRST = 1

    assert made().at(Place.FIRST).n == 0
    assert (check_version(Place.FIRST), check_steps(Place.FIRST)) == (1, 1)
    assert (version_text(7), version_text(1 << 70)) == ("7", "of 71 bits")


@pytest.mark.parametrize("wrong", ["2026-01-01", 0, date(2026, 1, 1), None], ids=repr)
def test_a_point_in_time_is_a_datetime(wrong: Any):
    with pytest.raises(TypeError, match="time zone"):
        made().history.find_time(wrong)
    with pytest.raises((TypeError, NoHistoricalState)):
        made().at(wrong)


def test_what_is_expected_is_a_state_or_a_version():
    tally = AtomicState(Tally())
    for wrong in (True, "1", 1.0, None):
        with pytest.raises(TypeError, match="a state or a version"):
            tally.compare_and_swap(wrong, add)
    assert not tally.compare_and_swap(LONGEST, add)
    assert tally.version == 1


def test_a_config_is_a_state_config():
    with pytest.raises(TypeError, match="StateConfig, not a dict"):
        AtomicState(Tally(), config={"history_size": 5})  # type: ignore[arg-type]


def test_an_id_that_no_snapshot_can_have_is_not_found():
    tally = made()
    for wrong in ([], {}, None, 5, "5"):
        with pytest.raises(SnapshotNotFoundError):
            tally.restore(wrong)
        assert tally.delete_snapshot(wrong) is False


# --- subscriptions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", [AtomicState, StateContainer])
async def test_a_subscription_that_cannot_be_is_refused_by_both_containers(container: Any):
    tally = container(Tally())
    for wrong in ("x", True, 1.5, []):
        with pytest.raises(TypeError, match="since must be an int"):
            tally.subscribe(since=wrong)
        with pytest.raises(TypeError, match="buffer must be an int"):
            tally.subscribe(buffer=wrong)
    for wrong, advice in ((0, "at least 1"), (-LONGEST, "at least 1"), (10**30, "at most"), (LONGEST, "at most")):
        with pytest.raises(ValueError, match=f"buffer must be {advice}"):
            tally.subscribe(buffer=wrong)
    for wrong in ("drop", [], LONGEST):
        with pytest.raises(ValueError, match="on_lag must be 'raise' or 'resync', not"):
            tally.subscribe(on_lag=wrong)
    with pytest.raises(ValueError, match="0 or more"):
        tally.subscribe(since=-1)
    assert tally._broadcast.subscribers == 0


def test_a_broadcast_checks_its_sizes_too():
    for wrong in ("x", True, 1.5, None):
        with pytest.raises(TypeError, match="capacity must be an int"):
            Broadcast(wrong)
    for wrong in (0, 10**30):
        with pytest.raises(ValueError, match="capacity must be at"):
            Broadcast(wrong)
    with pytest.raises(TypeError, match="since must be an int"):
        Broadcast[Any](5).subscribe(since="x")  # type: ignore[arg-type]


def test_a_timeout_is_a_number_of_seconds():
    subscription = made().subscribe()
    for wrong in ("1", True, [], datetime(2026, 1, 1, tzinfo=UTC)):
        with pytest.raises(TypeError, match="number of seconds"):
            subscription.next(timeout=wrong)
    with pytest.raises(ValueError, match="NaN"):
        subscription.next(timeout=float("nan"))
    for passed in (0, 0.0, -1, -LONGEST, float("-inf")):
        with pytest.raises(TimeoutError, match="within 0"):
            subscription.next(timeout=passed)


@pytest.mark.parametrize("timeout", [10**400, LONGEST, float("inf"), threading.TIMEOUT_MAX], ids=range(4))
def test_a_timeout_longer_than_a_lock_can_wait_waits(timeout: Any):
    tally = made()
    subscription = tally.subscribe()
    waiting = threading.Event()
    found: list[int] = []

    def reader() -> None:
        waiting.set()
        found.append(subscription.next(timeout=timeout).version)

    thread = threading.Thread(target=reader)
    thread.start()
    assert waiting.wait(5)
    tally.update(add)
    thread.join()
    assert found == [5]


# --- labels -------------------------------------------------------------------------------------------------------


def test_names_and_values_of_tags_are_of_the_types_that_every_format_can_store():
    for wrong in ({Text("a"): 1}, {Word.ADA: 1}, {1: 1}, {None: 1}, {LONGEST: 1}, {"\ud800": 1}):
        with pytest.raises(StateValidationError, match="the name of a tag is a str"):
            check_tags(wrong)
    for value in (Text("a"), Word.ADA, [], 1 << 63, float("nan"), "\ud800"):
        with pytest.raises(StateValidationError, match="tag 'a': "):
            check_tags({"a": value})
    assert check_tags({"a": "ä", "b": -(1 << 63), "c": 0.5, "d": True, "e": None}) is not None


def test_actor_and_action_are_exactly_str():
    for wrong in (Text("ada"), Word.ADA, 5, b"ada", "\ud800"):
        for labels in ((wrong, None), (None, wrong)):
            with pytest.raises(StateValidationError, match="is a str without lone surrogates"):
                check_labels(*labels)
    check_labels("ada", None)


def test_a_recipe_whose_name_is_no_plain_str_has_none():
    def recipe(draft: Tally) -> None:
        draft.n += 1

    class Called:
        __name__ = Text("called")

        def __call__(self, draft: Tally) -> None:
            draft.n += 1

    assert action_of(recipe) == "recipe"
    assert action_of(Called()) is None


@pytest.mark.parametrize("labels", [{"actor": Word.ADA}, {"action": Text("a")}, {"tags": {Text("a"): 1}}], ids=str)
@pytest.mark.parametrize("written", ["json", "msgpack", "cbor"])
async def test_memory_and_every_format_refuse_the_same_labels(labels: Any, written: Any, tmp_path: Any):
    tally = AtomicState(Tally())
    with pytest.raises(StateValidationError):
        tally.update(add, **labels)
    with pytest.raises(StateValidationError):
        tally.edit(**labels)
    assert tally.version == 1
    async with StateContainer.open(Tally(), persistence=FilePersistence(tmp_path, format=written)) as stored:
        with pytest.raises(StateValidationError):
            await stored.update(add, **labels)
        assert stored.version == 1
