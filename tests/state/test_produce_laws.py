"""``produce`` against the same program on a plain, mutable structure.

A program is drawn while it runs on the model: each step picks a part that is there, or one that an earlier step took
hold of, and something that can be done to it. Then it runs once more, on a draft.
"""

from __future__ import annotations

import copy
import enum
import inspect
import operator
from collections.abc import Mapping, MutableMapping, MutableSequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Literal, Optional, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, JsonValue, model_validator

from reactstate.errors import FrozenStateError, StateValidationError
from reactstate.state.document import from_document, states_equal, to_document
from reactstate.state.draft import is_draft
from reactstate.state.edits import apply_edits, invert_edits
from reactstate.state.frozen import FrozenDict, FrozenList, FrozenSet
from reactstate.state.maps import Map
from reactstate.state.models import frozen_class
from reactstate.state.patch import apply_patch, documents_equal
from reactstate.state.produce import produce
from reactstate.state.state import State

# --- the states ---------------------------------------------------------------------------------------------------


class Leaf(State):
    name: str = ""
    marks: list[int] = []
    flags: set[str] = set()


class Point(BaseModel):
    x: int = 0
    path: list[int] = []
    leaf: Leaf = Leaf()


class Cat(State):
    type: Literal["cat"] = "cat"
    toys: list[str] = []


class Dog(BaseModel):
    type: Literal["dog"] = "dog"
    tricks: dict[str, int] = {}
    home: Optional[Leaf] = None  # noqa: UP045 - both spellings are allowed


Pet = Annotated[Union[Cat, Dog], Field(discriminator="type")]  # noqa: UP007 - both spellings are allowed
Number = bool | int | float | None


class Models(State):
    """Models in models, in containers, and in each other."""

    leaf: Leaf = Leaf()
    point: Point = Point()
    best: Leaf | None = None
    spot: Point | None = None
    pet: Pet | None = None
    leaves: list[Leaf] = []
    points: list[Point] = []
    pets: list[Pet] = []
    named: dict[str, Leaf] = {}
    placed: Map[int, Point] = Map()
    kept: Map[str, Pet] = Map()


class Containers(State):
    """Containers in containers."""

    count: int = 0
    numbers: list[int] = []
    rows: list[list[int]] = []
    boxes: list[dict[str, list[int]]] = []
    groups: dict[str, set[str]] = {}
    tables: dict[int, dict[str, int]] = {}
    cells: Map[int, list[int]] = Map()
    layers: Map[str, Map[int, set[int]]] = Map()
    either: list[int] | dict[str, int] | None = None
    optional: list[list[str] | None] = []
    span: tuple[int, ...] = ()
    fixed: frozenset[int] = frozenset()


class Lookalikes(State):
    """Values that are equal and have different documents, free-form JSON, and keys that are not str."""

    ratio: float = 0.0
    number: Number = None
    mixed: list[Number] = []
    members: set[Number] = set()
    weights: set[float] = set()
    pairs: set[tuple[int, float]] = set()
    odd: dict[bool | int, list[int]] = {}
    keyed: dict[float, int] = {}
    mapped: Map[bool | int, list[int]] = Map()
    labels: dict[int | str, set[int]] = {}
    routes: dict[tuple[int, float], int] = {}
    free: JsonValue = None
    frees: list[JsonValue] = []
    json_by_name: dict[str, JsonValue] = {}


ROOTS = (Models, Containers, Lookalikes)

# --- values -------------------------------------------------------------------------------------------------------

SCALARS = {
    bool: st.booleans(),
    int: st.sampled_from([0, 1, 2, -1, -2, 1 << 70]),  # -1 and -2 have one hash
    float: st.sampled_from([0.0, -0.0, 1.0, 2.0]),
    str: st.sampled_from(["", "a", "b", "~/ä"]),
    type(None): st.none(),
}
MEMBERS = {**SCALARS, float: st.sampled_from([0.0, -0.0, 1.0, 2.0, float("inf")])}
JSON = st.recursive(
    st.none() | st.sampled_from([True, False, 0, 1, 1.0, 0.0, -0.0, "", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS[str], inner, max_size=3),
    max_leaves=6,
)
MODEL_TYPES = (Leaf, Point, Cat, Dog, *ROOTS)


def stripped(annotation):
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def is_union(annotation):
    return annotation is not JsonValue and get_origin(annotation) in {Union, type(int | str)}


def values(annotation, scalars=SCALARS):
    """What a user would assign to a place of *annotation*."""
    annotation = stripped(annotation)
    if annotation in scalars:
        return scalars[annotation]
    if annotation is JsonValue:
        return JSON
    if annotation in MODEL_TYPES:
        return st.builds(annotation, **{name: values(hint) for name, hint in hints(annotation).items()})
    if is_union(annotation):
        return st.one_of([values(member, scalars) for member in get_args(annotation)])
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is list:
        return st.lists(values(arguments[0]), max_size=3)
    if origin in {set, frozenset}:
        made = st.lists(values(arguments[0], MEMBERS), max_size=4)
        return made.map(set if origin is set else frozenset)
    if origin is tuple:
        if arguments[1:] == (...,):
            return st.lists(values(arguments[0], scalars), max_size=3).map(tuple)
        return st.tuples(*(values(argument, scalars) for argument in arguments))
    key, value = arguments
    made = st.dictionaries(values(key, MEMBERS), values(value), max_size=3)
    return made.map(Map) if origin is Map else made


def hints(model):
    found = get_type_hints(model, include_extras=True)
    return {name: found[name] for name in model.model_fields}


STRATEGIES = {}


def drawn(data, annotation, scalars=SCALARS):
    key = str(annotation), scalars is MEMBERS
    if key not in STRATEGIES:
        STRATEGIES[key] = values(annotation, scalars)
    return data.draw(STRATEGIES[key])


# --- the model ----------------------------------------------------------------------------------------------------


class Thing:
    """A mutable stand-in for a model."""

    def __init__(self, cls, fields):
        self.cls = cls
        self.__dict__.update(fields)

    def __eq__(self, other):
        return plain(self) == plain(other)

    __hash__ = None


def thawed(value, origins=None):
    """Return a mutable copy of *value*; *origins* learns which part of it each new part was made of."""
    if isinstance(value, BaseModel):
        made = Thing(type_of(value), {name: thawed(getattr(value, name), origins) for name in type(value).model_fields})
    elif isinstance(value, Mapping):
        made = {key: thawed(part, origins) for key, part in value.items()}
    elif isinstance(value, list):
        made = [thawed(part, origins) for part in value]
    else:
        return copy.deepcopy(value) if type(value) is not FrozenSet else set(value)
    if origins is not None:
        origins[id(made)] = (made, value)
    return made


def type_of(value):
    """Return the declared class of a model, its published form, its draft or its stand-in."""
    if isinstance(value, Thing):
        return value.cls
    return next(cls for cls in type(value).__mro__ if not hasattr(cls, "__reactstate_derived__"))


def plain(value):
    """Return a picture of a value, a draft or a model, in which all that documents tell apart differs."""
    if isinstance(value, BaseModel | Thing):
        cls = type_of(value)
        return cls.__name__, tuple((name, plain(getattr(value, name))) for name in cls.model_fields)
    if isinstance(value, Mapping):
        return "mapping", tuple(sorted((repr(key), plain(part)) for key, part in value.items()))
    if isinstance(value, AbstractSet):
        return "set", tuple(sorted(map(repr, value)))
    if isinstance(value, tuple):
        return "tuple", tuple(map(plain, value))
    if isinstance(value, MutableSequence):
        return "list", tuple(map(plain, value))
    return "scalar", repr(value)


def order(value):
    return repr(plain(value))


def height(picture):
    return 1 + max(map(height, picture), default=0) if isinstance(picture, tuple) else 0


# --- programs -----------------------------------------------------------------------------------------------------

# What can be done to a draft or to the model. The value of a part is assigned, not the part itself. The names of the
# parameters say what is drawn for them: see Writer.


def value_of(holder, value):
    return copy.deepcopy(value) if isinstance(holder, list | dict | Thing) else value


def incoming(holder, key, value):
    """As ``value_of``; but what is assigned to the place where it stands stays what it is."""
    if isinstance(holder, Thing | list | dict):
        look_up = {Thing: getattr, list: operator.getitem, dict: dict.get}[type(holder)]
        if look_up(holder, key) is value:
            return value
    return value_of(holder, value)


def values_of(holder, values):
    return [value_of(holder, value) for value in values]


def put_back(holder, at):
    value = value_of(holder, holder.pop(at))
    holder.insert(at, value) if isinstance(holder, MutableSequence) else operator.setitem(holder, at, value)


def put_slice(holder, where, several):
    if where.step is None or len(several) == len(range(*where.indices(len(holder)))):
        holder[where] = values_of(holder, several)


def swap(holder, at, other):
    one, two = holder[at], holder[other]
    holder[at] = incoming(holder, at, two)
    holder[other] = incoming(holder, other, one)


def update(holder, pairs):
    holder.update((key, incoming(holder, key, value)) for key, value in pairs)


def keep_all(holder, members):
    """Of two elements that are equal a draft keeps its own; which one a set keeps depends on their sizes."""
    if isinstance(holder, set):
        holder -= {one for one in holder if one not in members}
    else:
        holder.intersection_update(members)


def take(holder, at):
    return holder.pop(at)


ASSIGN = (lambda holder, name, value: setattr(holder, name, incoming(holder, name, value)),)
OF_BOTH = (
    lambda holder, at, value: operator.setitem(holder, at, incoming(holder, at, value)),
    lambda holder, at: operator.setitem(holder, at, holder[at]),
    lambda holder, at, same: operator.setitem(holder, at, same),
    lambda holder, at: operator.delitem(holder, at),
    lambda holder: holder.clear(),
    put_back,
    swap,
    take,
    take,
)
OF_LISTS = (
    lambda holder, value: holder.append(value_of(holder, value)),
    lambda holder, near, value: holder.insert(near, value_of(holder, value)),
    lambda holder, several: holder.extend(values_of(holder, several)),
    lambda holder, several: operator.iadd(holder, values_of(holder, several)),
    lambda holder, where: operator.delitem(holder, where),
    lambda holder, times: operator.setitem(holder, slice(None), values_of(holder, [*holder] * times)),
    lambda holder, times: operator.imul(holder, times) if is_draft(holder) else imul(holder, times),
    lambda holder, at: holder.remove(holder[at]),
    lambda holder: holder.sort(key=order),
    lambda holder: holder.sort(key=order, reverse=True),
    lambda holder: holder.reverse(),
    put_slice,
)
OF_MAPPINGS = (
    lambda holder, key, value: operator.setitem(holder, key, incoming(holder, key, value)),
    lambda holder, key, value: holder.setdefault(key, value_of(holder, value)),
    lambda holder, key: holder.pop(key, None),
    lambda holder, pairs: (
        operator.ior(holder, dict(pairs)) if is_draft(holder) else update(holder, dict(pairs).items())
    ),
    update,
)
OF_SETS = (
    lambda holder, member: holder.add(member),
    lambda holder, member: holder.discard(member),
    lambda holder, member: holder.remove(member) if member in holder else None,
    lambda holder, members: holder.update(members),
    lambda holder, members: holder.difference_update(members),
    lambda holder, members: holder.symmetric_difference_update(members),
    lambda holder, members: operator.ior(holder, members),
    lambda holder, members: operator.isub(holder, members),
    lambda holder, members: operator.ixor(holder, members),
    lambda holder, members: operator.iand(holder, members) if is_draft(holder) else keep_all(holder, members),
    lambda holder: holder.clear(),
    keep_all,
)
CALLS = {Thing: ASSIGN, list: OF_BOTH + OF_LISTS, dict: OF_BOTH + OF_MAPPINGS, set: OF_SETS}


def imul(holder, times):
    if times > 0:
        holder += copy.deepcopy(holder * (times - 1))
    else:
        holder.clear()


class Part:
    """An argument that is a part of the state, or one that was taken hold of."""

    def __init__(self, place):
        self.place = place


class Fresh:
    """An argument that is a new value."""

    def __init__(self, value):
        self.value = value


class Run:
    """The execution of a program, of calls and the places of what they are made on, on a draft or on the model."""

    def __init__(self, root, program=()):
        self.root = root
        self.held = []
        for step in program:
            self.do(*step)

    def at(self, place):
        start, *way = place
        node = self.root if start is None else self.held[start]
        for key in way:
            node = getattr(node, key[1:]) if isinstance(key, str) and key.startswith(".") else node[key]
        return node

    def argument(self, argument):
        if isinstance(argument, Fresh):
            return thawed(argument.value) if isinstance(self.root, Thing) else argument.value
        if isinstance(argument, list):
            return [self.argument(one) for one in argument]
        return self.at(argument.place) if isinstance(argument, Part) else argument

    def do(self, call, place, arguments, holds):
        holder = self.at(place)
        result = holder if call is None else call(holder, *map(self.argument, arguments))
        if holds:
            self.held.append(result)


class Writer:
    """Draws a program, step by step, while it runs on the model."""

    def __init__(self, data, base):
        self.data = data
        self.base = base
        self.origins = {}
        self.run = Run(thawed(base, self.origins))
        self.program = []
        self.kinds = []

    def write(self, length):
        for _ in range(self.data.draw(st.integers(1, length))):
            step = self.step()
            self.run.do(*step)
            self.program.append(step)
        return self.program

    def step(self):
        self.everything = [*parts(self.run.root, type(self.base), (None,))]
        for register, held in enumerate(self.run.held):
            self.everything += parts(held, self.kinds[register], (register,))
        holder, kind, place = self.pick(self.everything)
        call = self.pick((None, *CALLS[type(holder)] * 2))
        arguments = [] if call is None else self.arguments(call, holder, kind)
        if arguments is None or call is None:  # nothing is there to do it to
            call = None
            self.kinds.append(kind)
            return call, place, [], True
        taken = holder[arguments[0]] if call is take else None
        holds = isinstance(taken, Thing | list | dict | set)
        if holds:
            self.kinds.append(kind_of_part(taken, item_of(kind)))
        return call, place, arguments, holds

    def pick(self, choices):
        return self.data.draw(st.sampled_from(choices))

    def arguments(self, call, holder, kind):
        size = len(holder) if isinstance(holder, list | dict) else 0
        names = [*inspect.signature(call).parameters][1:]
        if {"at", "other"} & {*names} and not size:
            return None
        drawn_so_far = {}
        for name in names:
            drawn_so_far[name] = self.parameter(name, holder, kind, drawn_so_far)
        return [*drawn_so_far.values()]

    def parameter(self, name, holder, kind, earlier):
        draw = self.data.draw
        if name == "name":
            return self.pick([*kind.model_fields])
        if name in {"at", "other"}:
            return draw(st.integers(0, len(holder) - 1)) if isinstance(holder, list) else self.pick([*holder])
        if name == "same":
            return Fresh(thawless(holder[earlier["at"]]))
        if name == "near":
            return draw(st.integers(-len(holder) - 1, len(holder) + 1))
        if name == "where":
            edge = st.none() | st.integers(-len(holder) - 1, len(holder) + 1)
            return slice(draw(edge), draw(edge), self.pick([None, None, 2, -1]))
        if name == "times":
            return self.pick([0, 1, 2] if len(holder) < 8 else [0, 1])
        if name == "key":
            return drawn(self.data, key_of(kind), MEMBERS)
        if name == "member":
            return drawn(self.data, item_of(kind), MEMBERS)
        if name == "members":
            return Fresh({drawn(self.data, item_of(kind), MEMBERS) for _ in range(draw(st.integers(0, 3)))})
        if name == "pairs":
            return [[drawn(self.data, key_of(kind), MEMBERS), self.value(kind)] for _ in range(draw(st.integers(0, 3)))]
        if name == "several":
            return [self.value(kind) for _ in range(draw(st.integers(0, 3)))]
        return self.value(kind) if "name" not in earlier else self.value(kind, earlier["name"])

    def value(self, kind, name=None):
        """A new value, or a part of the same type from elsewhere."""
        annotation = item_of(kind) if name is None else hints(kind)[name]
        wanted = members_of(annotation)
        fitting = [place for part, kind, place in self.everything if kind in wanted and height(plain(part)) < 16]
        if fitting and self.data.draw(st.booleans()):
            return Part(self.pick(fitting))
        return Fresh(drawn(self.data, annotation))


def item_of(kind):
    return JsonValue if kind is JsonValue else get_args(kind)[-1]


def key_of(kind):
    return str if kind is JsonValue else get_args(kind)[0]


def members_of(annotation):
    annotation = stripped(annotation)
    if not is_union(annotation):
        return [annotation]
    return [one for member in get_args(annotation) for one in members_of(member)]


def kind_of_part(value, annotation):
    """Return the member of *annotation* that the part *value* of the model is of."""
    if isinstance(value, Thing):
        return value.cls
    return next(one for one in members_of(annotation) if one is JsonValue or get_origin(one) in KINDS[type(value)])


KINDS = {list: {list}, dict: {dict, Map}, set: {set}}


def parts(value, annotation, place):
    """Yield every model and mutable container in the model *value*, with what it is declared as and where it is."""
    if not isinstance(value, Thing | list | dict | set):
        return
    kind = kind_of_part(value, annotation)
    yield value, kind, place
    if isinstance(value, Thing):
        for name, hint in hints(kind).items():
            yield from parts(getattr(value, name), hint, (*place, f".{name}"))
    elif not isinstance(value, set):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from parts(part, item_of(kind), (*place, key))


def thawless(value):
    """Return what a user would assign to have the model *value* in a place."""
    if isinstance(value, Thing):
        return value.cls(**{name: thawless(getattr(value, name)) for name in value.cls.model_fields})
    if isinstance(value, dict):
        return {key: thawless(part) for key, part in value.items()}
    return [thawless(part) for part in value] if isinstance(value, list) else copy.deepcopy(value)


# --- what must hold -----------------------------------------------------------------------------------------------


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
    else:
        assert type(value) in {bool, int, float, str, type(None), Decimal, datetime, Size}


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


QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


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


# --- keys that are equal -----------------------------------------------------------------------------------------


class Size(enum.StrEnum):
    SMALL = "small"


class Keyed(State):
    ints: dict[int, list[int]] = {1: [0]}
    cells: Map[int, list[int]] = Map({1: [0]})
    names: dict[str, list[int]] = {"small": [0]}
    sizes: Map[Size, list[int]] = Map({Size.SMALL: [0]})
    floats: dict[float, list[int]] = {0.0: [0]}
    mixed: Map[bool | int, list[int]] = Map({False: [0]})
    grid: Map[tuple[int, float], list[int]] = Map({(1, 0.0): [0]})
    money: dict[Decimal, list[int]] = {Decimal("1.0"): [0]}
    days: dict[datetime, list[int]] = {datetime(2024, 1, 1, tzinfo=UTC): [0]}


EQUAL = {
    "ints": [True, 1.0, Decimal(1)],
    "cells": [True, 1.0, Decimal(1)],
    "names": [Size.SMALL],
    "sizes": ["small"],
    "floats": [0, -0.0, False],
    "mixed": [0, 0.0],
    "grid": [(True, 0), (1.0, -0.0)],
    "money": [1, 1.0, Decimal("1.00")],
    "days": [datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))],
}
BY_KEY = {
    "edit": lambda part, key: part[key].append(1),
    "edit what is there by default": lambda part, key: part.setdefault(key, []).append(1),
    "delete": lambda part, key: operator.delitem(part, key),
    "pop": lambda part, key: part.pop(key).append(1),
    "put": lambda part, key: operator.setitem(part, key, [1]),
    "update": lambda part, key: part.update({key: [1]}),
    "put back": put_back,
}


@pytest.mark.parametrize("call", BY_KEY.values(), ids=[*BY_KEY])
@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in EQUAL.items() for key in keys], ids=str)
def test_a_part_is_found_by_a_key_that_equals_its_own_which_it_keeps(name, key, call):
    base = Keyed()
    own = next(iter(getattr(base, name)))
    produced = produce(base, lambda draft: call(getattr(draft, name), key))
    if call is not put_back:
        assert all(type(made) is type(own) for made in getattr(produced.state, name))
    assert_laws(base, produced)
    after = [*getattr(produced.state, name)]
    assert after == ([] if call in {BY_KEY["delete"], BY_KEY["pop"]} else [own])


# --- two fields that move together --------------------------------------------------------------------------------


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
