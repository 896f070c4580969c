from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reactstate.kv.memory import MemoryStore
from reactstate.kv.protocol import Add, RangeExpect
from reactstate.kv.terms import add, check_commit, check_key, check_value
from reactstate.testing import strategies

LIMITS = MemoryStore.limits


@given(strategies.keys(), strategies.values())
def test_keys_and_values_are_ones_that_stores_take(key, value):
    check_key(key, LIMITS)
    check_value(value, LIMITS)


@given(strategies.counters())
def test_counters_can_be_added_to(value):
    assert add("n", value, 0) == value


@given(strategies.commits(), st.lists(strategies.ranges(), max_size=2))
def test_commits_are_ones_that_stores_take(steps, ranges):
    check_commit(steps, ranges, LIMITS)
    assert len({step.key for step in steps}) == len(steps)


@given(strategies.commits(st.sampled_from("abc"), st.just(7), max_size=2), strategies.ranges(st.just("k")))
def test_keys_and_expectations_can_be_chosen(steps, one):
    assert len(steps) <= 2
    for step in steps:
        assert step.key in {"a", "b", "c"}
        assert step.expect == 7
        assert not isinstance(step.op, Add) or -(1 << 63) <= step.op.delta < 1 << 63
    assert isinstance(one, RangeExpect)
    assert {one.start, one.end} <= {"k", "", None}
