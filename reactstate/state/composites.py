"""The kinds of lists, mappings, sets, tuples, unions and JSON values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from reactstate.errors import DecodeError
from reactstate.state.edits import Members, Splice
from reactstate.state.frozen import FrozenDict, FrozenList, FrozenSet, freeze
from reactstate.state.kinds import MISSING, Kind, Scalar, Wire
from reactstate.state.maps import Map
from reactstate.state.models import ModelKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reactstate.state.edits import Edit, Path

__all__ = ["DictKind", "JsonKind", "ListKind", "MapKind", "SetKind", "TupleKind", "UnionKind"]


def compact(document: Any) -> str:
    """Return the compact JSON of a key's document."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, sort_keys=True)


def equal(kind: Kind, old: Any, new: Any) -> bool:
    """Say whether two values have the same document."""
    if old is new:
        return True
    edits: list[Edit] = []
    kind.diff(old, new, None, edits)
    return not edits


class ListKind(Kind):
    """A list of one kind of items."""

    wire: frozenset[Wire] = frozenset(("array",))
    editable = True

    def __init__(self, annotation: Any, item: Kind) -> None:
        self.annotation = annotation
        self.item = item
        self.natural = item.natural
        self.custom = item.custom
        self.recursive = item.recursive
        self.versioned = item.versioned

    def encode(self, value: Any) -> Any:
        item = self.item
        return list(value) if item.plain else [item.encode(part) for part in value]

    def decode(self, document: Any) -> Any:
        if self.natural:
            return document
        if not isinstance(document, list):
            raise DecodeError(f"an array is expected, not {type(document).__name__}")
        return [self.item.decode(part) for part in document]

    def migrate(self, document: Any, stored: dict[str, int]) -> Any:
        if not self.item.versioned or not isinstance(document, list):
            return document
        return [self.item.migrate(part, stored) for part in document]

    def seal(self, value: Any) -> Any:
        if type(value) not in {list, FrozenList}:
            raise ValueError(f"a {type(value).__name__} stands where a list is declared")
        return FrozenList([self.item.seal(part) for part in value])

    def depth(self, value: Any) -> int:
        return 1 + max(map(self.item.depth, value), default=0) if self.recursive else 1

    def child(self, key: Any) -> Kind:
        return self.item

    def token(self, key: Any) -> str:
        return str(key)

    def diff(self, old: Any, new: Any, path: Path, edits: list[Edit]) -> None:
        if old is new:
            return
        if not isinstance(old, list) or not isinstance(new, list):
            edits.append((path, old, new))
            return
        self.diff_run(old, new, 0, path, edits)

    def diff_run(self, old: Sequence[Any], new: Sequence[Any], offset: int, path: Path, edits: list[Edit]) -> None:
        """Append the edits between two runs of items that begin at *offset* of the list at *path*."""
        start, stop_old, stop_new = _trim(old, new, self.item)
        if start == stop_old and start == stop_new:
            return
        middle_old, middle_new = list(old[start:stop_old]), list(new[start:stop_new])
        start += offset
        shift = _shift(middle_old, middle_new, self.item)
        if shift is not None:
            gone, come = shift
            edits.append(Splice(path, self, start, middle_old[:gone], []))
            if come < len(middle_new):
                edits.append(Splice(path, self, start + come, [], middle_new[come:]))
        elif len(middle_old) == len(middle_new):
            for place, (before, after) in enumerate(zip(middle_old, middle_new, strict=True), start):
                self.item.diff(before, after, (path, self, place), edits)
        else:
            edits.append(Splice(path, self, start, middle_old, middle_new))

    def holds(self, value: Any) -> bool:
        return isinstance(value, list)

    def own(self, value: Any, owned: dict[int, Any]) -> Any:
        return _own(value, owned, FrozenList)

    def part(self, value: Any, key: Any) -> Any:
        return value[key]

    def replaced(self, value: Any, key: Any, new: Any) -> Any:
        list.__setitem__(value, key, new)
        return value

    def patched(self, value: Any, edit: Splice) -> Any:
        list.__setitem__(value, slice(edit.start, edit.start + len(edit.removed)), edit.added)
        return value


def _own(value: Any, owned: dict[int, Any], copy: Callable[[Any], Any]) -> Any:
    if id(value) in owned:
        return value
    made = copy(value)
    owned[id(made)] = made
    return made


def _trim(old: Sequence[Any], new: Sequence[Any], item: Kind) -> tuple[int, int, int]:
    """Return where two sequences begin to differ, and where they cease to."""
    start, shorter = 0, min(len(old), len(new))
    while start < shorter and equal(item, old[start], new[start]):
        start += 1
    end = 0
    while end < shorter - start and equal(item, old[-1 - end], new[-1 - end]):
        end += 1
    return start, len(old) - end, len(new) - end


def _shift(old: Sequence[Any], new: Sequence[Any], item: Kind) -> tuple[int, int] | None:
    """Find that *new* is *old* without its first parts and with others at its end, as a queue moves."""
    if not old or not new:
        return None
    for gone in range(1, len(old)):
        if old[gone] is new[0]:
            kept = len(old) - gone
            if kept <= len(new) and all(equal(item, a, b) for a, b in zip(old[gone:], new, strict=False)):
                return gone, kept
            return None
    return None


class DictKind(Kind):
    """A dict."""

    wire: frozenset[Wire] = frozenset(("object",))
    editable = True
    frozen: Any = FrozenDict

    def __init__(self, annotation: Any, key: Kind, value: Kind) -> None:
        self.annotation = annotation
        self.key = key
        self.value = value
        self.natural = key.text and value.natural
        self.custom = key.custom or value.custom
        self.recursive = value.recursive
        self.versioned = value.versioned

    def encode(self, value: Any) -> Any:
        part = self.value
        if self.key.text:
            if part.plain:
                return {key: value[key] for key in sorted(value)}
            return {key: part.encode(value[key]) for key in sorted(value)}
        written = {self.token(key): part.encode(entry) for key, entry in value.items()}
        return {key: written[key] for key in sorted(written)}

    def decode(self, document: Any) -> Any:
        if self.natural:
            return document
        if not isinstance(document, dict):
            raise DecodeError(f"an object is expected, not {type(document).__name__}")
        part = self.value
        if self.key.text:
            return {key: part.decode(entry) for key, entry in document.items()}
        return {self._read_key(key): part.decode(entry) for key, entry in document.items()}

    def _read_key(self, token: str) -> Any:
        try:
            document = json.loads(token)
        except (ValueError, RecursionError) as exc:
            raise DecodeError(f"{token!r} is not the JSON of a mapping key") from exc
        return self.key.decode(document)

    def migrate(self, document: Any, stored: dict[str, int]) -> Any:
        if not self.value.versioned or not isinstance(document, dict):
            return document
        return {key: self.value.migrate(part, stored) for key, part in document.items()}

    def seal(self, value: Any) -> Any:
        if type(value) not in {dict, FrozenDict}:
            raise ValueError(f"a {type(value).__name__} stands where a dict is declared")
        return FrozenDict({self.key.seal(key): self.value.seal(part) for key, part in value.items()})

    def depth(self, value: Any) -> int:
        return 1 + max(map(self.value.depth, value.values()), default=0) if self.recursive else 1

    def child(self, key: Any) -> Kind:
        return self.value

    def token(self, key: Any) -> str:
        return key if self.key.text else compact(self.key.encode(key))

    def diff(self, old: Any, new: Any, path: Path, edits: list[Edit]) -> None:
        if old is new:
            return
        if type(old) is not type(new):
            edits.append((path, old, new))
            return
        part = self.value
        for key in old:
            if key not in new:
                edits.append(((path, self, key), old[key], MISSING))
            else:
                before, after = old[key], new[key]
                if before is not after:
                    part.diff(before, after, (path, self, key), edits)
        for key in new:
            if key not in old:
                edits.append(((path, self, key), MISSING, new[key]))

    def holds(self, value: Any) -> bool:
        return isinstance(value, dict)

    def own(self, value: Any, owned: dict[int, Any]) -> Any:
        return _own(value, owned, FrozenDict)

    def part(self, value: Any, key: Any) -> Any:
        return value.get(key, MISSING)

    def replaced(self, value: Any, key: Any, new: Any) -> Any:
        dict.__setitem__(value, key, new)
        return value

    def without(self, value: Any, key: Any) -> Any:
        dict.__delitem__(value, key)
        return value


class MapKind(DictKind):
    """A Map."""

    def holds(self, value: Any) -> bool:
        return type(value) is Map

    def seal(self, value: Any) -> Any:
        if type(value) is not Map:
            raise ValueError(f"a {type(value).__name__} stands where a Map is declared")
        return Map({self.key.seal(key): self.value.seal(part) for key, part in value.items()})

    def own(self, value: Any, owned: dict[int, Any]) -> Any:
        return value

    def replaced(self, value: Any, key: Any, new: Any) -> Any:
        return value.set(key, new)

    def without(self, value: Any, key: Any) -> Any:
        return value.delete(key)


class SetKind(Kind):
    """A set or frozenset; its document is an array sorted by the elements' documents."""

    wire: frozenset[Wire] = frozenset(("array",))

    def __init__(self, annotation: Any, item: Kind, *, mutable: bool) -> None:
        self.annotation = annotation
        self.item = item
        self.mutable = self.editable = mutable
        self.custom = item.custom

    def arrange(self, documents: list[Any]) -> list[Any]:
        """Return *documents* in their one order."""
        kinds = {type(document) for document in documents}
        if kinds <= {str} or kinds <= {int, float}:
            return sorted(documents)
        return sorted(documents, key=compact)

    def encode(self, value: Any) -> Any:
        return self.arrange(list(value) if self.item.plain else [self.item.encode(part) for part in value])

    def decode(self, document: Any) -> Any:
        if not isinstance(document, list):
            raise DecodeError(f"an array is expected, not {type(document).__name__}")
        return (set if self.mutable else frozenset)(self.item.decode(part) for part in document)

    def seal(self, value: Any) -> Any:
        if type(value) not in ({set, FrozenSet} if self.mutable else {frozenset}):
            raise ValueError(f"a {type(value).__name__} stands where a set is declared")
        return (FrozenSet if self.mutable else frozenset)([self.item.seal(part) for part in value])

    def depth(self, value: Any) -> int:
        return 1 + max(map(self.item.depth, value), default=0)

    def child(self, key: Any) -> Kind:
        return self.item

    def token(self, key: Any) -> str:
        return str(key)

    def diff(self, old: Any, new: Any, path: Path, edits: list[Edit]) -> None:
        if old is new:
            return
        if type(old) is not type(new) or not self.mutable:
            if type(old) is not type(new) or self.encode(old) != self.encode(new):
                edits.append((path, old, new))
            return
        removed, added = frozenset(old - new), frozenset(new - old)
        if removed or added:
            edits.append(Members(path, self, removed, added))
        elif not self.item.plain and self.encode(old) != self.encode(new):
            edits.append((path, old, new))

    def holds(self, value: Any) -> bool:
        return isinstance(value, set if self.mutable else frozenset)

    def own(self, value: Any, owned: dict[int, Any]) -> Any:
        return _own(value, owned, FrozenSet)

    def patched(self, value: Any, edit: Members) -> Any:
        set.difference_update(value, edit.removed)
        set.update(value, edit.added)
        return value


class TupleKind(Kind):
    """A tuple of one kind (``tuple[X, ...]``) or of one kind per place; replaced as a whole."""

    wire: frozenset[Wire] = frozenset(("array",))

    def __init__(self, annotation: Any, items: list[Kind], *, variadic: bool) -> None:
        self.annotation = annotation
        self.items = items
        self.variadic = variadic
        self.custom = any(item.custom for item in items)
        self.recursive = any(item.recursive for item in items)
        self.versioned = any(item.versioned for item in items)

    def _kinds(self, length: int) -> list[Kind]:
        if self.variadic:
            return self.items * length
        if length != len(self.items):
            raise DecodeError(f"{len(self.items)} parts are expected, not {length}")
        return self.items

    def encode(self, value: Any) -> Any:
        return [kind.encode(part) for kind, part in zip(self._kinds(len(value)), value, strict=True)]

    def decode(self, document: Any) -> Any:
        if not isinstance(document, list):
            raise DecodeError(f"an array is expected, not {type(document).__name__}")
        return tuple([kind.decode(part) for kind, part in zip(self._kinds(len(document)), document, strict=True)])

    def migrate(self, document: Any, stored: dict[str, int]) -> Any:
        if not self.versioned or not isinstance(document, list):
            return document
        kinds = self._kinds(len(document))
        return [kind.migrate(part, stored) for kind, part in zip(kinds, document, strict=True)]

    def seal(self, value: Any) -> Any:
        if type(value) is not tuple:
            raise ValueError(f"a {type(value).__name__} stands where a tuple is declared")
        if not self.variadic and len(value) != len(self.items):
            raise ValueError(f"{len(self.items)} parts are declared, not {len(value)}")
        return tuple([kind.seal(part) for kind, part in zip(self._kinds(len(value)), value, strict=True)])

    def depth(self, value: Any) -> int:
        kinds = self._kinds(len(value))
        return 1 + max((kind.depth(part) for kind, part in zip(kinds, value, strict=True)), default=0)

    def holds(self, value: Any) -> bool:
        return type(value) is tuple

    def child(self, key: Any) -> Kind:
        return self.items[0 if self.variadic else key]

    def token(self, key: Any) -> str:
        return str(key)

    def diff(self, old: Any, new: Any, path: Path, edits: list[Edit]) -> None:
        if old is new:
            return
        if type(old) is type(new) and len(old) == len(new):
            kinds = self._kinds(len(old))
            if all(equal(kind, a, b) for kind, a, b in zip(kinds, old, new, strict=True)):
                return
        edits.append((path, old, new))


class UnionKind(Kind):
    """One of several kinds, told apart by what the document looks like, or by a discriminator field.

    Args:
        annotation: The union.
        members: Its kinds.
        discriminator: The field whose document names the member, or None.
    """

    def __init__(self, annotation: Any, members: list[Kind], discriminator: str | None = None) -> None:
        self.annotation = annotation
        self.members = members
        self.discriminator = discriminator
        self.wire = frozenset[Wire]().union(*(member.wire for member in members))
        self.plain = all(member.plain for member in members)
        self.natural = all(member.plain or (member.natural and member.is_model) for member in members)
        self.custom = any(member.custom for member in members)
        self.recursive = any(member.recursive for member in members)
        self.editable = any(member.editable for member in members)
        self.versioned = any(member.versioned for member in members)

    def holds(self, value: Any) -> bool:
        return any(member.holds(value) for member in self.members)

    def of(self, value: Any) -> Kind:
        for member in self.members:
            if member.holds(value):
                return member
        raise ValueError(f"a {type(value).__name__} is not one of the declared types")

    def _of_document(self, document: Any) -> Kind:
        if isinstance(document, dict) and self.discriminator is not None:
            tag = document.get(self.discriminator)
            for member in self.members:
                if isinstance(member, ModelKind) and member.tagged(self.discriminator, tag):
                    return member
            raise DecodeError(f"{tag!r} is not a known {self.discriminator}")
        wire = _document_wire(document)
        candidates = [member for member in self.members if wire in member.wire]
        if not candidates:
            raise DecodeError(f"a document of type {wire} is not of the declared types")
        for member in candidates[:-1]:
            try:
                member.decode(document)
            except DecodeError:
                continue
            return member
        return candidates[-1]

    def encode(self, value: Any) -> Any:
        return value if self.plain else self.of(value).encode(value)

    def decode(self, document: Any) -> Any:
        return document if self.natural else self._of_document(document).decode(document)

    def migrate(self, document: Any, stored: dict[str, int]) -> Any:
        return self._of_document(document).migrate(document, stored) if self.versioned else document

    def seal(self, value: Any) -> Any:
        return self.of(value).seal(value)

    def depth(self, value: Any) -> int:
        return self.of(value).depth(value)

    def diff(self, old: Any, new: Any, path: Path, edits: list[Edit]) -> None:
        if old is new:
            return
        before = self.of(old)
        if before is self.of(new):
            before.diff(old, new, path, edits)
        else:
            edits.append((path, old, new))


def _document_wire(document: Any) -> Wire:
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
    return "array" if isinstance(document, list) else "object"


_JSON_TYPES = {type(None), bool, int, float, str, list, dict, FrozenList, FrozenDict}


class JsonKind(Kind):
    """Any JSON value (pydantic's ``JsonValue``), without non-finite floats."""

    wire: frozenset[Wire] = frozenset(("null", "bool", "int", "float", "string", "array", "object"))
    natural = True
    recursive = True
    editable = True

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        self.mapping = DictKind(annotation, Scalar(str, (str,), "string"), self)
        self.array = ListKind(annotation, self)

    def holds(self, value: Any) -> bool:
        return type(value) in _JSON_TYPES

    def encode(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self.encode(value[key]) for key in sorted(value)}
        if isinstance(value, list):
            return [self.encode(part) for part in value]
        return value

    def decode(self, document: Any) -> Any:
        return document

    def seal(self, value: Any) -> Any:
        return freeze(value)

    def depth(self, value: Any) -> int:
        if isinstance(value, dict):
            return 1 + max(map(self.depth, value.values()), default=0)
        if isinstance(value, list):
            return 1 + max(map(self.depth, value), default=0)
        return 0

    def child(self, key: Any) -> Kind:
        return self

    def token(self, key: Any) -> str:
        return str(key)

    def of(self, value: Any) -> Kind:
        if isinstance(value, dict):
            return self.mapping
        return self.array if isinstance(value, list) else self

    def diff(self, old: Any, new: Any, path: Path, edits: list[Edit]) -> None:
        if old is new:
            return
        if isinstance(old, dict) and isinstance(new, dict):
            self.mapping.diff(old, new, path, edits)
        elif isinstance(old, list) and isinstance(new, list):
            self.array.diff(old, new, path, edits)
        elif type(old) is not type(new) or not _same_number(old, new):
            edits.append((path, old, new))


def _same_number(old: Any, new: Any) -> bool:
    return bool(old == new) and (not isinstance(old, float) or old != 0.0 or str(old) == str(new))
