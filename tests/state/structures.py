"""The states that programs are tried on, their values, and the plain, mutable model of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableSequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Literal, Optional, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st
from pydantic import BaseModel, Field, JsonValue

from reactstate.state.frozen import FrozenSet
from reactstate.state.maps import Map
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


def thawless(value):
    """Return what a user would assign to have the model *value* in a place."""
    if isinstance(value, Thing):
        return value.cls(**{name: thawless(getattr(value, name)) for name in value.cls.model_fields})
    if isinstance(value, dict):
        return {key: thawless(part) for key, part in value.items()}
    return [thawless(part) for part in value] if isinstance(value, list) else copy.deepcopy(value)
