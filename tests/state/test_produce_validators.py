"""Fields that move together: model validators judge a change as a whole, when the recipe ends."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, model_validator

from reactstate.errors import StateValidationError
from reactstate.state.document import to_document
from reactstate.state.maps import Map
from reactstate.state.produce import produce
from reactstate.state.state import State

from .laws import QUICK, assert_laws


def check_order(self):
    if self.low > self.high:
        raise ValueError("low is above high")
    return self


class Ordered(State):
    low: int = 0
    high: int = 0
    marks: list[int] = []

    check_order = model_validator(mode="after")(check_order)


class PlainlyOrdered(BaseModel):
    low: int = 0
    high: int = 0
    marks: list[int] = []

    check_order = model_validator(mode="after")(check_order)


class OrderedBefore(State):
    low: int = 0
    high: int = 0
    marks: list[int] = []

    @model_validator(mode="before")
    @classmethod
    def check_order(cls, fields):
        if isinstance(fields, dict) and fields.get("low", 0) > fields.get("high", 0):
            raise ValueError("low is above high")
        return fields


class Ranges(State):
    one: Ordered = Ordered()
    plain: PlainlyOrdered = PlainlyOrdered()
    before: OrderedBefore = OrderedBefore()
    listed: list[Ordered] = [Ordered()]
    named: dict[str, PlainlyOrdered] = {"a": PlainlyOrdered()}
    kept: Map[str, OrderedBefore] = Map({"a": OrderedBefore()})


RANGES = {
    "one": lambda root: root.one,
    "plain": lambda root: root.plain,
    "before": lambda root: root.before,
    "listed": lambda root: root.listed[-1],
    "named": lambda root: root.named["a"],
    "kept": lambda root: root.kept["a"],
}
CHANGES = st.tuples(st.sampled_from([*RANGES]), st.sampled_from(["low", "high", "marks"]), st.integers(-2, 2))


@settings(QUICK, max_examples=120)
@given(st.lists(CHANGES, max_size=6), st.booleans())
def test_two_fields_move_together_and_are_judged_when_the_recipe_ends(changes, moved):
    base = Ranges()
    model = {place: {"low": 0, "high": 0, "marks": []} for place in RANGES}
    for place, name, value in changes:
        model[place][name] = [*model[place][name], value] if name == "marks" else value

    def recipe(draft):
        if moved:
            draft.listed.insert(0, Ordered(low=-1))
        for place, name, value in changes:
            part = RANGES[place](draft)
            part.marks.append(value) if name == "marks" else setattr(part, name, value)

    if any(fields["low"] > fields["high"] for fields in model.values()):
        with pytest.raises(StateValidationError, match="low is above high"):
            produce(base, recipe)
    else:
        produced = produce(base, recipe)
        for place, fields in model.items():
            assert RANGES[place](produced.state).model_dump() == fields
            if not any(fields.values()):
                assert RANGES[place](produced.state) is RANGES[place](base)
        assert_laws(base, produced)
    assert to_document(base) == to_document(Ranges())
