"""Hypothesis strategies for the values of states and for what goes into stores; they need hypothesis."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from reactstate.kv.protocol import ABSENT, ANY, Add, Delete, Put, RangeExpect, Step
from reactstate.state.composites import DictKind, ListKind, SetKind, TupleKind
from reactstate.state.kinds import EnumKind, Kind, LiteralKind, NoneKind
from reactstate.state.models import ModelKind
from reactstate.state.unions import JsonKind, UnionKind

if TYPE_CHECKING:
    from reactstate.kv.protocol import Expectation, Operation, Ttl

__all__ = ["commits", "counters", "document_values", "keys", "operations", "ranges", "steps", "ttls", "values"]

_MANY = 3
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=_MANY) | st.dictionaries(_TEXT, inner, max_size=_MANY),
    max_leaves=5,
)


def document_values(kind: Kind) -> st.SearchStrategy[Any]:
    """Return a strategy for what pydantic can make values of *kind* of; models are dicts of their fields by name.

    Raises:
        hypothesis.errors.ResolutionFailed: When drawn from: hypothesis does not know one of the types.
    """
    return _Values().of(kind)


class _Values:
    """Strategies by kind; those of models are made once, as they may contain themselves."""

    def __init__(self) -> None:
        self._models: dict[type[Any], st.SearchStrategy[Any]] = {}

    def of(self, kind: Kind) -> st.SearchStrategy[Any]:
        if isinstance(kind, ModelKind):
            return self._model(kind)
        if isinstance(kind, UnionKind):
            return st.one_of([self.of(member) for member in kind.members])
        if isinstance(kind, JsonKind):
            return _JSON
        if isinstance(kind, ListKind):
            return st.lists(self.of(kind.item), max_size=_MANY)
        if isinstance(kind, DictKind):
            return st.dictionaries(self.of(kind.key), self.of(kind.value), max_size=_MANY)
        if isinstance(kind, SetKind):
            made = st.sets if kind.mutable else st.frozensets
            return made(self.of(kind.item), max_size=_MANY)
        if isinstance(kind, TupleKind):
            if kind.variadic:
                return st.lists(self.of(kind.items[0]), max_size=_MANY).map(tuple)
            return st.tuples(*[self.of(item) for item in kind.items])
        return _scalar(kind)

    def _model(self, kind: ModelKind) -> st.SearchStrategy[Any]:
        cls = kind.cls
        if cls not in self._models:
            self._models[cls] = st.deferred(lambda: self._fields(kind))
        return self._models[cls]

    def _fields(self, kind: ModelKind) -> st.SearchStrategy[Any]:
        required = {name: self.of(kind.fields[name]) for name in kind.names if self._needed(kind, name)}
        optional = {name: self.of(kind.fields[name]) for name in kind.names if name not in required}
        return st.fixed_dictionaries(required, optional=optional)

    def _needed(self, kind: ModelKind, name: str) -> bool:
        return bool(kind.cls.model_fields[name].is_required())


def _scalar(kind: Kind) -> st.SearchStrategy[Any]:
    if isinstance(kind, NoneKind):
        return st.none()
    if isinstance(kind, LiteralKind):
        return st.sampled_from(list(kind.members.values()))
    if isinstance(kind, EnumKind):
        members: list[Any] = [*kind.annotation]
        return st.sampled_from(members)
    if kind.text:
        return _TEXT
    return st.from_type(kind.annotation)


# --- what goes into stores ----------------------------------------------------------------------------------------

_SIGNS = "\0 %_*?[]/\\:~aAb1é\u0301\ud7ff\ue000\uffff\U00010000\U0010ffff"
_MAX_COUNTER = (1 << 63) - 1


def keys(*, max_size: int = 8) -> st.SearchStrategy[str]:
    """Return a strategy for keys: short, often equal or prefixes of each other, with what engines get wrong."""
    few = st.text(st.sampled_from(_SIGNS), min_size=1, max_size=min(max_size, 3))
    return few | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=max_size)


def values(*, max_size: int = 64) -> st.SearchStrategy[bytes]:
    """Return a strategy for values, counters among them."""
    return st.binary(max_size=max_size) | counters()


def counters() -> st.SearchStrategy[bytes]:
    """Return a strategy for the values of counters."""
    return st.integers(-_MAX_COUNTER - 1, _MAX_COUNTER).map(lambda number: b"%d" % number)


def ttls() -> st.SearchStrategy[Ttl | None]:
    """Return a strategy for times to live, from a millisecond to a week, and None."""
    spans = st.timedeltas(timedelta(milliseconds=1), timedelta(days=7))
    return st.none() | spans | st.floats(0.001, 7 * 86_400) | st.integers(1, 7 * 86_400)


def operations() -> st.SearchStrategy[Operation | None]:
    """Return a strategy for what a step does."""
    deltas = st.integers(-3, 3) | st.integers(-_MAX_COUNTER - 1, _MAX_COUNTER)
    return st.none() | st.builds(Put, values(), ttls()) | st.just(Delete()) | st.builds(Add, deltas, ttls())


def steps(
    key: st.SearchStrategy[str] | None = None, expect: st.SearchStrategy[Expectation] | None = None
) -> st.SearchStrategy[Step]:
    """Return a strategy for steps.

    Args:
        key: Their keys; by default ``keys()``.
        expect: Their expectations; by default ANY, ABSENT and small revisions.
    """
    if expect is None:
        expect = st.sampled_from([ANY, ABSENT]) | st.integers(1, 50)
    return st.builds(Step, keys() if key is None else key, operations(), expect)


def commits(
    key: st.SearchStrategy[str] | None = None,
    expect: st.SearchStrategy[Expectation] | None = None,
    *,
    max_size: int = 5,
) -> st.SearchStrategy[list[Step]]:
    """Return a strategy for the steps of one commit, at most one a key; the arguments are those of ``steps``."""
    return st.lists(steps(key, expect), max_size=max_size, unique_by=lambda step: step.key)


def ranges(key: st.SearchStrategy[str] | None = None) -> st.SearchStrategy[RangeExpect]:
    """Return a strategy for ranges that a commit expects to be unchanged, some of them empty or without an end."""
    bound = (keys() if key is None else key) | st.just("")
    return st.builds(RangeExpect, bound, st.none() | bound, st.integers(0, 50))
