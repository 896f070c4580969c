"""Programs over a state: drawn step by step on the plain model, to be run once more on a draft.

Each step picks a part that is there, or one that an earlier step took hold of, and something that can be done to it.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import MutableSequence
from typing import get_args, get_origin

from hypothesis import strategies as st
from pydantic import JsonValue

from reactstate.state.draft import is_draft
from reactstate.state.maps import Map

from .structures import MEMBERS, Thing, drawn, height, hints, is_union, order, plain, stripped, thawed, thawless

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
