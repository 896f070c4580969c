"""``produce`` against the same program on a plain, mutable structure.

A program is drawn while it runs on the model. Then it runs once more, on a draft.
"""

from __future__ import annotations

import operator
from collections.abc import MutableMapping, MutableSequence
from collections.abc import Set as AbstractSet

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from reactstate.errors import FrozenStateError, StateValidationError
from reactstate.state.document import states_equal, to_document
from reactstate.state.draft import is_draft
from reactstate.state.edits import apply_edits, invert_edits
from reactstate.state.patch import apply_patch, documents_equal
from reactstate.state.produce import produce

from .laws import QUICK, assert_frozen, assert_given_back, assert_laws, assert_shared, identities
from .programs import Run, Writer, put_slice
from .structures import ROOTS, drawn, plain, thawed, thawless, type_of


@pytest.mark.parametrize("cls", ROOTS)
@settings(QUICK, max_examples=60)
@given(data=st.data())
def test_produce_does_what_the_same_program_does_to_a_plain_structure(cls, data):
    base = drawn(data, cls)
    pictured, made_of = plain(base), identities(base)
    writer = Writer(data, base)
    program = writer.write(10)

    def recipe(draft):
        run = Run(draft, program)
        assert plain(draft) == plain(writer.run.root)
        for held, model in zip(run.held, writer.run.held, strict=True):
            assert plain(held) == plain(model)

    produced = produce(base, recipe)
    assert plain(produced.state) == plain(writer.run.root)
    assert plain(base) == pictured
    assert list(map(id, identities(base))) == list(map(id, made_of))
    back = assert_laws(base, produced)
    assert_shared(writer.run.root, produced.state, writer.origins)
    assert_given_back(base, writer.run.root, back, writer.origins)


@pytest.mark.parametrize("cls", ROOTS)
@settings(QUICK, max_examples=20)
@given(data=st.data())
def test_a_program_that_undoes_itself_gives_the_base_itself(cls, data):
    base = drawn(data, cls)
    program = Writer(data, base).write(6)
    start = thawed(base)

    def recipe(draft):
        Run(draft, program)
        for name in cls.model_fields:
            setattr(draft, name, thawless(getattr(start, name)))

    produced = produce(base, recipe)
    assert produced.state is base
    assert (produced.patch, produced.inverse, produced.edits) == ([], [], [])


@pytest.mark.parametrize("cls", ROOTS)
@settings(QUICK, max_examples=20)
@given(data=st.data())
def test_many_changes_are_undone_at_once_and_their_patches_replayed(cls, data):
    base = state = drawn(data, cls)
    edits, patches, inverses = [], [], []
    for _ in range(3):
        program = Writer(data, state).write(4)
        produced = produce(state, lambda draft, program=program: Run(draft, program) and None)
        state = produced.state
        edits += produced.edits
        patches += produced.patch
        inverses = produced.inverse + inverses
    assert documents_equal(apply_patch(to_document(base), patches), to_document(state))
    assert documents_equal(apply_patch(to_document(state), inverses), to_document(base))
    for start, end, way in ((state, base, invert_edits(edits)), (base, state, edits)):
        made = apply_edits(start, way)
        assert plain(made) == plain(end)
        assert states_equal(made, end)
        assert_frozen(made)


@pytest.mark.parametrize("cls", ROOTS)
@settings(QUICK, max_examples=20)
@given(data=st.data())
def test_a_whole_new_state_and_a_mapping_of_fields_obey_the_same_laws(cls, data):
    base, other = drawn(data, cls), drawn(data, cls)
    names = data.draw(st.sets(st.sampled_from([*cls.model_fields])))
    model = thawed(other)
    fields = {name: thawless(getattr(model, name)) for name in names}
    for recipe, wanted in ((lambda _: other, names | set(cls.model_fields)), (fields, names)):
        produced = produce(base, recipe)
        for name in cls.model_fields:
            assert plain(getattr(produced.state, name)) == plain(getattr(other if name in wanted else base, name))
        assert_laws(base, produced)
    for name in cls.model_fields:
        if plain(getattr(other, name)) == plain(getattr(base, name)) or name not in names:
            assert getattr(produced.state, name) is getattr(base, name)


class Stopped(Exception):  # noqa: N818 - it is a mishap of the recipe, not an error
    pass


@pytest.mark.parametrize("cls", ROOTS)
@settings(QUICK, max_examples=20)
@given(data=st.data())
def test_a_recipe_that_raises_leaves_the_base_and_dead_drafts(cls, data):
    base = drawn(data, cls)
    pictured, made_of = plain(base), identities(base)
    program = Writer(data, base).write(6)
    drafts = []

    def recipe(draft, *, stop):
        run = Run(draft, program)
        drafts.extend([draft, *run.held])
        drafts.extend(part for one in [*drafts] for part in inside(one))
        if stop:
            raise Stopped

    for stop in (True, False):
        drafts.clear()
        if stop:
            with pytest.raises(Stopped):
                produce(base, lambda draft: recipe(draft, stop=True))
        else:
            state = produce(base, lambda draft: recipe(draft, stop=False)).state
            after = plain(state)
        for draft in drafts:
            assert_dead(draft)
        assert plain(base) == pictured
        assert list(map(id, identities(base))) == list(map(id, made_of))
    assert plain(state) == after


def inside(draft):
    """Yield the drafts of the parts of *draft*, at any depth."""
    if isinstance(draft, BaseModel):
        found = [getattr(draft, name) for name in type_of(draft).model_fields]
    elif isinstance(draft, MutableMapping):
        found = [*draft.values()]
    else:
        found = [*draft] if isinstance(draft, MutableSequence) else []
    for part in found:
        if is_draft(part):
            yield part
            yield from inside(part)


def assert_dead(draft):
    if isinstance(draft, BaseModel):
        name = next(iter(type_of(draft).model_fields))
        attempts = [lambda: getattr(draft, name), lambda: setattr(draft, name, None), lambda: delattr(draft, name)]
    else:
        attempts = [lambda: len(draft), lambda: list(draft), lambda: 0 in draft, lambda: draft.clear()]
        attempts += [lambda: draft == 0, lambda: draft.copy()]
        if isinstance(draft, AbstractSet):
            attempts += [lambda: draft.add(0), lambda: draft.discard(0)]
        else:
            attempts += [lambda: draft[0], lambda: draft.pop(0), lambda: operator.setitem(draft, 0, 0)]
    for attempt in attempts:
        with pytest.raises(FrozenStateError):
            attempt()
    assert "after its recipe" in repr(draft)


@pytest.mark.parametrize("cls", ROOTS)
@settings(QUICK, max_examples=20)
@given(data=st.data())
def test_a_refused_value_leaves_the_draft_as_it_was(cls, data):
    base = drawn(data, cls)
    writer = Writer(data, base)
    program = writer.write(6)

    def recipe(draft):
        run = Run(draft)
        for step in program:
            for attempt in wrong(run.at(step[1])):
                with pytest.raises(StateValidationError):
                    attempt()
            run.do(*step)

    produced = produce(base, recipe)
    assert plain(produced.state) == plain(writer.run.root)
    assert_laws(base, produced)


def wrong(draft):
    """Return attempts at values that fit nowhere."""
    bad = object()
    if isinstance(draft, BaseModel):
        return [*(lambda name=name: setattr(draft, name, bad) for name in type_of(draft).model_fields)]
    if isinstance(draft, MutableSequence):
        attempts = [lambda: draft.append(bad), lambda: draft.insert(0, bad), lambda: put_slice(draft, slice(0), [bad])]
        return [
            *attempts,
            lambda: draft.extend([*draft, bad]),
            lambda: operator.setitem(draft, slice(None), [*draft, bad]),
        ]
    if isinstance(draft, MutableMapping):
        old = [lambda key=key: operator.setitem(draft, key, bad) for key in draft]
        return [
            *old,
            lambda: operator.setitem(draft, bad, bad),
            lambda: draft.setdefault(bad, bad),
            lambda: draft.update({bad: bad}),
        ]
    return [lambda: draft.add(bad), lambda: draft.update([bad])]
