from __future__ import annotations

from typing import Any

import pytest

from reactstate import ChangeType, ConflictError, ManualClock, NoHistoricalState, State, StateNotFoundError
from reactstate.state.timeline import Plan, Timeline


class Tally(State):
    n: int = 0


def begun() -> Timeline[Tally]:
    timeline = Timeline(Tally, ManualClock())
    push(timeline, Tally())
    show(timeline)
    return timeline


def push(timeline: Timeline[Tally], state: Any) -> Any:
    plan = timeline.plan_set(state)
    assert plan is not None
    change = timeline.push(plan.change_type, plan.state, plan.edits, None, plan.action, None, plan.target)
    timeline.pending.append(change)
    return change


def show(timeline: Timeline[Tally]) -> Any:
    return timeline.show(timeline.pending.popleft())


def do(timeline: Timeline[Tally], plan: Plan[Tally] | None) -> Any:
    assert plan is not None
    change = timeline.push(plan.change_type, plan.state, plan.edits, None, plan.action, None, plan.target)
    timeline.pending.append(change)
    return change


def test_what_is_pushed_is_seen_by_plans_and_by_nobody_else():
    timeline = begun()
    push(timeline, Tally(n=1))
    push(timeline, Tally(n=2))
    assert (timeline.version, timeline.state.n, timeline.tip_version, timeline.need_state().n) == (1, 0, 3, 2)
    assert [timeline.state_at(version).n for version in (1, 2, 3)] == [0, 1, 2]
    view = timeline.view()
    assert (view.tip_version, view.tip_state.n) == (1, 0)
    with pytest.raises(NoHistoricalState):
        view.at(2)
    assert timeline.current().version == 1
    assert show(timeline).version == 2
    assert show(timeline).state.n == 2


def test_what_is_withdrawn_leaves_no_trace_in_the_stacks_of_undo():
    timeline = begun()
    push(timeline, Tally(n=1))
    show(timeline)
    push(timeline, Tally(n=2))
    show(timeline)
    do(timeline, timeline.plan_undo())
    show(timeline)
    before = list(timeline.undoable), list(timeline.undone)
    do(timeline, timeline.plan_redo())
    do(timeline, timeline.plan_undo())
    do(timeline, timeline.plan_undo())
    push(timeline, Tally(n=9))
    timeline.withdraw()
    assert (timeline.undoable, timeline.undone) == before
    assert (timeline.tip_version, timeline.tip_state.n, len(timeline.pending)) == (4, 1, 0)


def test_pending_changes_can_be_undone_and_rolled_back():
    timeline = begun()
    for n in (1, 2, 3):
        push(timeline, Tally(n=n))
    assert do(timeline, timeline.plan_undo()).new_state.n == 2
    assert do(timeline, timeline.plan_undo()).new_state.n == 1
    assert do(timeline, timeline.plan_redo()).new_state.n == 2
    assert do(timeline, timeline.plan_rollback(3)).new_state.n == 3
    with pytest.raises(NoHistoricalState):
        timeline.plan_rollback(8)
    with pytest.raises(ValueError, match="1 or more"):
        timeline.plan_rollback(0)


def test_an_unmet_expectation_hands_back_the_tip_with_its_own_creation_time():
    clock = ManualClock()
    timeline = Timeline(Tally, clock)
    push(timeline, Tally())
    show(timeline)
    do(timeline, timeline.plan_delete())
    clock.advance(5)
    push(timeline, Tally(n=7))
    with pytest.raises(ConflictError) as caught:
        timeline.expect_version(1)
    current = caught.value.current
    assert (current.version, current.state.n) == (3, 7)
    assert current.metadata.created_at == current.timestamp
    timeline.expect_version(3)


def test_there_is_nothing_to_change_before_the_first_state_and_after_a_delete():
    timeline = Timeline(Tally, ManualClock())
    with pytest.raises(StateNotFoundError, match="nothing is stored"):
        timeline.need_state()
    assert timeline.plan_return(None, "undo") is None
    push(timeline, Tally())
    do(timeline, timeline.plan_delete())
    with pytest.raises(StateNotFoundError, match="deleted in version 2"):
        timeline.plan_delete()
    assert do(timeline, timeline.plan_return(Tally(n=3), "restore")).change_type is ChangeType.ROLLBACK


def test_the_stacks_of_undo_stay_as_short_as_the_history():
    timeline = Timeline(Tally, ManualClock(), history_size=5)
    for n in range(2100):
        push(timeline, Tally(n=n))
        show(timeline)
    assert len(timeline.undoable) < 1100
    for n in (2098, 2097, 2096, 2095, 2094):
        assert do(timeline, timeline.plan_undo()).new_state.n == n
    with pytest.raises(NoHistoricalState):
        timeline.plan_undo()


def test_a_restart_begins_the_history_anew():
    timeline = begun()
    push(timeline, Tally(n=1))
    newer = begun()
    for n in range(1, 9):
        push(newer, Tally(n=n))
        show(newer)
    timeline.pending.clear()
    timeline.restart(newer.head, newer.state, 0)
    assert (timeline.version, timeline.state.n, len(timeline.history)) == (9, 8, 0)
    assert timeline.at(9).n == 8
    with pytest.raises(NoHistoricalState):
        timeline.plan_undo()
