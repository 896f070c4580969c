"""The kinds of unions and of free-form JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import override

from reactstate.errors import DecodeError
from reactstate.state.composites import DictKind, ListKind
from reactstate.state.frozen import FrozenDict, FrozenList, freeze, type_of
from reactstate.state.kinds import Kind, LiteralKind, NoneKind, Scalar, Wire, is_array, is_object, shown
from reactstate.state.models import ModelKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reactstate.state.edits import Edit, Path

__all__ = ["JsonKind", "UnionKind"]

_NUMBERS = frozenset[Wire](("bool", "int", "float"))


class UnionKind(Kind):
    """One of several kinds, told apart by what the document looks like, or by a discriminator field.

    Args:
        annotation: The union.
        members: Its kinds; a single one is a model whose annotation has validators.
        discriminator: The field whose document names the member, or None.
    """

    def __init__(self, annotation: Any, members: list[Kind], discriminator: str | None = None) -> None:
        self.annotation = annotation
        self.members = members
        self.discriminator = discriminator
        self.wire: frozenset[Wire] = frozenset[Wire]().union(*(member.wire for member in members))
        self.plain: bool = all(member.plain for member in members)
        values = [member for member in members if not isinstance(member, NoneKind)]
        self.natural: bool = all(member.natural for member in members) and (
            len(values) == 1 or all(member.plain or member.is_model for member in values)
        )
        self.exact: bool = all(member.exact for member in members) and (
            sum(bool(member.wire & _NUMBERS) for member in members) <= 1
        )
        self.custom: bool = any(member.custom for member in members)
        self.recursive: bool = any(member.recursive for member in members)
        self.editable: bool = any(member.editable for member in members)
        self.versioned: bool = any(member.versioned for member in members)

    @override
    def parts(self) -> Sequence[Kind]:
        return self.members

    @override
    def holds(self, value: Any) -> bool:
        return any(member.holds(value) for member in self.members)

    @override
    def of(self, value: Any) -> Kind:
        if len(self.members) == 1:
            return self.members[0].of(value)
        for member in self.members:
            if member.holds(value):
                return member.of(value)
        raise ValueError(f"a {type_of(value).__name__} is not one of the declared types")

    def tagged(self, discriminator: str, tag: Any) -> bool:
        """Say whether *tag* names a member."""
        return any(_tagged(member, discriminator, tag) for member in self.members)

    def _of_document(self, document: Any) -> Kind:
        if is_object(document) and self.discriminator is not None:
            tag = document.get(self.discriminator)
            for member in self.members:
                if _tagged(member, self.discriminator, tag):
                    return member
            raise DecodeError(f"{shown(tag)} is not a known {self.discriminator}")
        wire = _wire_of(document)
        candidates = [member for member in self.members if wire in member.wire]
        if not candidates:
            raise DecodeError(f"a document of type {wire} is not of the declared types")
        for member in candidates[:-1]:  # sets of literals, perhaps beside their own type
            if isinstance(member, LiteralKind) and (type_of(document), document) in member.members:
                return member
        return candidates[-1]

    @override
    def encode(self, value: Any) -> Any:
        return value if self.plain else self.of(value).encode(value)

    @override
    def decode(self, document: Any) -> Any:
        return document if self.natural else self._of_document(document).decode(document)

    @override
    def migrate(self, document: Any, stored: dict[str, int]) -> Any:
        return self._of_document(document).migrate(document, stored) if self.versioned else document

    @override
    def seal(self, value: Any) -> Any:
        return self.of(value).seal(value)

    @override
    def depth(self, value: Any) -> int:
        return self.of(value).depth(value)

    @override
    def diff(self, old: Any, new: Any, path: Path, edits: list[Edit]) -> None:
        if old is new:
            return
        before = self.of(old)
        if before is self.of(new):
            before.diff(old, new, path, edits)
        else:
            edits.append((path, old, new))


def _tagged(member: Kind, discriminator: str, tag: Any) -> bool:
    return isinstance(member, ModelKind | UnionKind) and member.tagged(discriminator, tag)


def _wire_of(document: Any) -> Wire:
    if document is None:
        return "null"
    if isinstance(document, bool):
        return "bool"
    if isinstance(document, int):
        return "int"
    if isinstance(document, float):
        return "float"
    if isinstance(document, str):
        return "string"
    return "array" if is_array(document) else "object"


_JSON_TYPES = {type(None), bool, int, float, str, list, dict, FrozenList, FrozenDict}


class JsonKind(Kind):
    """Any JSON value (pydantic's ``JsonValue``), without non-finite floats."""

    wire: frozenset[Wire] = frozenset(("null", "bool", "int", "float", "string", "array", "object"))
    natural = True
    recursive = True
    editable = True

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        self.mapping: DictKind = DictKind(annotation, Scalar(str, (str,), "string", exact=True), self)
        self.array: ListKind = ListKind(annotation, self)

    @override
    def parts(self) -> Sequence[Kind]:
        return self.mapping, self.array

    @override
    def holds(self, value: Any) -> bool:
        return type_of(value) in _JSON_TYPES

    @override
    def encode(self, value: Any) -> Any:
        if is_object(value):
            return {key: self.encode(value[key]) for key in sorted(value)}
        if is_array(value):
            return [self.encode(part) for part in value]
        return value

    @override
    def decode(self, document: Any) -> Any:
        return document

    @override
    def seal(self, value: Any) -> Any:
        return freeze(value)

    @override
    def depth(self, value: Any) -> int:
        if is_object(value):
            return 1 + max(map(self.depth, value.values()), default=0)
        if is_array(value):
            return 1 + max(map(self.depth, value), default=0)
        return 0

    @override
    def of(self, value: Any) -> Kind:
        if is_object(value):
            return self.mapping
        return self.array if is_array(value) else self

    @override
    def diff(self, old: Any, new: Any, path: Path, edits: list[Edit]) -> None:
        if old is new:
            return
        before = self.of(old)
        if before is not self and before is self.of(new):
            before.diff(old, new, path, edits)
        elif type(old) is not type(new) or not _same_number(old, new):
            edits.append((path, old, new))


def _same_number(old: Any, new: Any) -> bool:
    return bool(old == new) and (not isinstance(old, float) or old != 0.0 or str(old) == str(new))
