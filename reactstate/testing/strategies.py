"""Hypothesis strategies for the values of states, for those who have hypothesis installed."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from reactstate.state.composites import DictKind, ListKind, SetKind, TupleKind
from reactstate.state.kinds import EnumKind, Kind, LiteralKind, NoneKind
from reactstate.state.models import ModelKind
from reactstate.state.unions import JsonKind, UnionKind

__all__ = ["document_values"]

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
