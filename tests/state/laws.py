"""What must hold of everything that ``produce`` makes."""

from __future__ import annotations

import enum
from datetime import datetime
from decimal import Decimal

from hypothesis import HealthCheck, settings
from pydantic import BaseModel

from reactstate.state.document import from_document, states_equal, to_document
from reactstate.state.edits import apply_edits, invert_edits
from reactstate.state.frozen import FrozenDict, FrozenList, FrozenSet
from reactstate.state.maps import Map
from reactstate.state.models import frozen_class
from reactstate.state.patch import apply_patch, documents_equal

from .structures import Thing, order, plain, type_of

QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def assert_frozen(value):
    if isinstance(value, BaseModel):
        cls = type_of(value)
        assert type(value) is frozen_class(cls)
        assert set(value.__dict__) == set(cls.model_fields)
        for name in cls.model_fields:
            assert_frozen(getattr(value, name))
    elif isinstance(value, Map | dict):
        assert type(value) in {Map, FrozenDict}
        for key, part in value.items():
            assert_frozen(key)
            assert_frozen(part)
    elif isinstance(value, list | set | tuple | frozenset):
        assert type(value) in {FrozenList, FrozenSet, tuple, frozenset}
        for part in value:
            assert_frozen(part)
    elif not isinstance(value, enum.Enum):
        assert type(value) in {bool, int, float, str, type(None), Decimal, datetime}


def identities(value):
    """Return every part of a published value: base must not only stay equal but be made of the same parts."""
    found = [value]
    if isinstance(value, BaseModel):
        found += [one for name in type_of(value).model_fields for one in identities(getattr(value, name))]
    elif isinstance(value, Map | dict):
        found += [one for key, part in value.items() for one in (key, *identities(part))]
    elif isinstance(value, list | tuple):
        found += [one for part in value for one in identities(part)]
    elif isinstance(value, set | frozenset):
        found += sorted(value, key=order)
    return found


def assert_shared(model, new, origins):
    """What the program left as it was is shared with the base, wherever it stands now."""
    _, old = origins.get(id(model), (None, None))
    if old is not None and plain(model) == plain(old):
        assert new is old
    elif isinstance(model, Thing):
        for name in model.cls.model_fields:
            assert_shared(getattr(model, name), getattr(new, name), origins)
    elif isinstance(model, dict):
        for key, part in model.items():
            assert_shared(part, new[key], origins)
    elif isinstance(model, list):
        for part, made in zip(model, new, strict=True):
            assert_shared(part, made, origins)


def assert_given_back(old, model, back, origins):
    """What the program left as it was, and where it was, is what the base has there after the way back."""
    _, origin = origins.get(id(model), (None, None))
    if origin is None or origin is not old:
        return
    if plain(model) == plain(old):
        assert back is old
    elif isinstance(model, Thing):
        for name in model.cls.model_fields:
            assert_given_back(getattr(old, name), getattr(model, name), getattr(back, name), origins)
    elif isinstance(model, dict):
        for key in old.keys() & model.keys():
            assert_given_back(old[key], model[key], back[key], origins)
    elif isinstance(model, list):
        for parts_there in zip(old, model, back, strict=False):
            assert_given_back(*parts_there, origins)


def assert_laws(base, produced):
    state, patch, inverse = produced
    before, after = to_document(base), to_document(state)
    assert documents_equal(to_document(from_document(type(state), after)), after)
    assert_frozen(state)
    assert documents_equal(apply_patch(before, patch), after)
    assert documents_equal(apply_patch(after, inverse), before)
    back = apply_edits(state, invert_edits(produced.edits))
    assert states_equal(back, base)
    assert documents_equal(to_document(back), before)
    assert_frozen(back)
    again = apply_edits(base, produced.edits)
    assert states_equal(again, state)
    assert_frozen(again)
    same = states_equal(base, state)
    assert same == (state is base) == (not patch) == (not inverse) == (not produced.edits)
    return back
