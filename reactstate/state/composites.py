"""The kinds of lists, mappings, sets and tuples."""

from __future__ import annotations

import json
from bisect import bisect_left
from operator import is_
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from reactstate.errors import DecodeError
from reactstate.state.edits import Members, Splice
from reactstate.state.frozen import (
    FrozenDict,
    FrozenList,
    FrozenSet,
    dict_delete,
    dict_set,
    list_set,
    set_remove,
    set_update,
    type_of,
)
from reactstate.state.kinds import MISSING, Kind, Wire, is_array, is_object, same_document, shown
from reactstate.state.maps import Map

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reactstate.state.edits import Edit, Path

__all__ = ["DictKind", "ListKind", "MapKind", "SetKind", "TupleKind", "wrong_wire"]


def compact(document: Any) -> str:
    """Return the compact JSON of a key's document."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, sort_keys=True)


def wrong_wire(expected: str, document: Any) -> DecodeError:
    """Return the error for a document of another type than *expected*."""
    return DecodeError(f"{expected} is expected, not {shown(document)}")


class ListKind(Kind):
    """A list of one kind of items."""

    wire: frozenset[Wire] = frozenset(("array",))
    editable = True

    def __init__(self, annotation: Any, item: Kind) -> None:
        self.annotation = annotation
        self.item = item
        self.natural: bool = item.natural
        self.custom: bool = item.custom
        self.recursive: bool = item.recursive
        self.versioned: bool = item.versioned

    @override
    def parts(self) -> Sequence[Kind]:
        return (self.item,)

    @override
    def encode(self, value: Any) -> Any:
        item = self.item
        return list(value) if item.plain else [item.encode(part) for part in value]

    @override
    def decode(self, document: Any) -> Any:
        if self.natural:
            return document
        if not is_array(document):
            raise wrong_wire("an array", document)
        return [self.item.decode(part) for part in document]

    @override
    def migrate(self, document: Any, stored: dict[str, int]) -> Any:
        if not self.item.versioned or not is_array(document):
            return document
        return [self.item.migrate(part, stored) for part in document]

    @override
    def seal(self, value: Any) -> Any:
        if type_of(value) not in {list, FrozenList}:
            raise ValueError(f"a {type_of(value).__name__} stands where a list is declared")
        sealed = [self.item.seal(part) for part in value]
        kept = type_of(value) is FrozenList and all(map(is_, sealed, value))
        return value if kept else FrozenList(sealed)

    @override
    def depth(self, value: Any) -> int:
        return 1 + max(map(self.item.depth, value), default=0) if self.recursive else 1

    @override
    def child(self, key: Any) -> Kind:
        return self.item

    @override
    def diff(self, old: Any, new: Any, path: Path, edits: list[Edit]) -> None:
        if old is new:
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

    @override
    def holds(self, value: Any) -> bool:
        return isinstance(value, list)

    @override
    def own(self, value: Any, owned: dict[int, Any]) -> Any:
        return _own(value, owned, FrozenList)

    @override
    def part(self, value: Any, key: Any) -> Any:
        return value[key]

    @override
    def replaced(self, value: Any, key: Any, new: Any) -> Any:
        list_set(value, key, new)
        return value

    def patched(self, value: Any, edit: Splice) -> Any:
        """Return the owned *value* with *edit* made."""
        list_set(value, slice(edit.start, edit.start + len(edit.removed)), edit.added)
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
    while start < shorter and same_document(item, old[start], new[start]):
        start += 1
    end = 0
    while end < shorter - start and same_document(item, old[-1 - end], new[-1 - end]):
        end += 1
    return start, len(old) - end, len(new) - end


def _shift(old: Sequence[Any], new: Sequence[Any], item: Kind) -> tuple[int, int] | None:
    """Find that *new* is *old* without its first parts and with others at its end, as a queue moves."""
    if not old or not new:
        return None
    for gone in range(1, len(old)):
        if old[gone] is new[0]:
            kept = len(old) - gone
            if kept <= len(new) and all(same_document(item, a, b) for a, b in zip(old[gone:], new, strict=False)):
                return gone, kept
            return None
    return None


class DictKind(Kind):
    """A dict."""

    wire: frozenset[Wire] = frozenset(("object",))
    editable = True

    def __init__(self, annotation: Any, key: Kind, value: Kind) -> None:
        self.annotation = annotation
        self.key = key
        self.value = value
        key.hashed = True
        self.natural: bool = key.text and value.natural
        self.custom: bool = key.custom or value.custom
        self.recursive: bool = value.recursive
        self.versioned: bool = value.versioned

    @override
    def parts(self) -> Sequence[Kind]:
        return self.key, self.value

    @override
    def encode(self, value: Any) -> Any:
        part = self.value
        if self.key.text:
            if part.plain:
                return {key: value[key] for key in sorted(value)}
            return {key: part.encode(value[key]) for key in sorted(value)}
        written = {self.token(key): part.encode(entry) for key, entry in value.items()}
        return {key: written[key] for key in sorted(written)}

    @override
    def decode(self, document: Any) -> Any:
        if self.natural:
            return document
        if not is_object(document):
            raise wrong_wire("an object", document)
        part = self.value
        if self.key.text:
            return {key: part.decode(entry) for key, entry in document.items()}
        try:
            found = {self._read_key(key): part.decode(entry) for key, entry in document.items()}
        except TypeError as exc:  # scalars come as they are written, to be validated later
            raise DecodeError("an array or object stands where a key of a mapping is expected") from exc
        if len(found) != len(document):
            raise DecodeError("two keys of an object stand for the same key of a mapping")
        return found

    def _read_key(self, token: str) -> Any:
        try:
            document = json.loads(token)
        except (ValueError, RecursionError) as exc:
            raise DecodeError(f"{shown(token)} is not the JSON of a mapping key") from exc
        return self.key.decode(document)

    @override
    def migrate(self, document: Any, stored: dict[str, int]) -> Any:
        if not self.value.versioned or not is_object(document):
            return document
        return {key: self.value.migrate(part, stored) for key, part in document.items()}

    @override
    def seal(self, value: Any) -> Any:
        if type_of(value) not in {dict, FrozenDict}:
            raise ValueError(f"a {type_of(value).__name__} stands where a dict is declared")
        sealed = {self.key.seal(key): self.value.seal(part) for key, part in value.items()}
        kept = type_of(value) is FrozenDict and _same_entries(sealed, value)
        return value if kept else FrozenDict(sealed)

    @override
    def depth(self, value: Any) -> int:
        return 1 + max(map(self.value.depth, value.values()), default=0) if self.recursive else 1

    @override
    def child(self, key: Any) -> Kind:
        return self.value

    @override
    def token(self, key: Any) -> str:
        return key if self.key.text else compact(self.key.encode(key))

    @override
    def diff(self, old: Any, new: Any, path: Path, edits: list[Edit]) -> None:
        if old is new:
            return
        for before, after in self._pairs(old, new):
            if before is MISSING:
                edits.append(((path, self, after), MISSING, new[after]))
            elif after is MISSING:
                edits.append(((path, self, before), old[before], MISSING))
            elif old[before] is not new[after]:
                self.value.diff(old[before], new[after], (path, self, after), edits)

    def _pairs(self, old: Any, new: Any) -> list[tuple[Any, Any]]:
        """Pair the keys of both that may differ in their values; MISSING stands for a key that is not there."""
        if self.key.exact:
            gone_or_kept = [
                (key, key if key in new else MISSING)
                for key, part in old.items()
                if key not in new or new[key] is not part
            ]
            return gone_or_kept + [(MISSING, key) for key in new if key not in old]
        was = {self.token(key): key for key in old}
        now = {self.token(key): key for key in new}
        # what goes comes first: another key that equals it (1 and True) may take its place
        gone = [(was[token], MISSING) for token in sorted(was.keys() - now.keys())]
        kept = [(was[token], now[token]) for token in was if token in now]
        return gone + kept + [(MISSING, now[token]) for token in sorted(now.keys() - was.keys())]

    @override
    def holds(self, value: Any) -> bool:
        return isinstance(value, dict)

    @override
    def own(self, value: Any, owned: dict[int, Any]) -> Any:
        return _own(value, owned, FrozenDict)

    @override
    def part(self, value: Any, key: Any) -> Any:
        return value.get(key, MISSING)

    @override
    def replaced(self, value: Any, key: Any, new: Any) -> Any:
        dict_set(value, key, new)
        return value

    @override
    def without(self, value: Any, key: Any) -> Any:
        dict_delete(value, key)
        return value


def _same_entries(sealed: Any, value: Any) -> bool:
    return len(sealed) == len(value) and all(map(is_, sealed, value)) and all(map(is_, sealed.values(), value.values()))


class MapKind(DictKind):
    """A Map."""

    @override
    def holds(self, value: Any) -> bool:
        return type_of(value) is Map

    @override
    def seal(self, value: Any) -> Any:
        if type_of(value) is not Map:
            raise ValueError(f"a {type_of(value).__name__} stands where a Map is declared")
        sealed = {self.key.seal(key): self.value.seal(part) for key, part in value.items()}
        return value if _same_entries(sealed, value) else Map(sealed)

    @override
    def _pairs(self, old: Any, new: Any) -> list[tuple[Any, Any]]:
        # a Map iterates in an order that changes from process to process; patches must not
        return sorted(super()._pairs(old, new), key=self._place_of)

    def _place_of(self, pair: tuple[Any, Any]) -> tuple[bool, str]:
        before, after = pair
        return after is not MISSING, self.token(before if after is MISSING else after)

    @override
    def own(self, value: Any, owned: dict[int, Any]) -> Any:
        return value

    @override
    def replaced(self, value: Any, key: Any, new: Any) -> Any:
        return value.set(key, new)

    @override
    def without(self, value: Any, key: Any) -> Any:
        return value.delete(key)


class SetKind(Kind):
    """A set or frozenset; its document is an array sorted by the elements' documents."""

    wire: frozenset[Wire] = frozenset(("array",))

    def __init__(self, annotation: Any, item: Kind, *, mutable: bool) -> None:
        self.annotation = annotation
        self.item = item
        item.hashed = True
        self.mutable: bool = mutable
        self.editable: bool = mutable
        self.exact: bool = item.exact
        self.custom: bool = item.custom

    @override
    def parts(self) -> Sequence[Kind]:
        return (self.item,)

    @override
    def encode(self, value: Any) -> Any:
        documents = list(value) if self.item.plain else [self.item.encode(part) for part in value]
        kinds = set(map(type_of, documents))
        return sorted(documents, key=None if kinds <= {str} or kinds <= {int, float} else _rank)

    def place(self, documents: list[Any], document: Any) -> int:
        """Return where in an array of this kind *document* is, or belongs."""
        return bisect_left(documents, _rank(document), key=_rank)

    @override
    def decode(self, document: Any) -> Any:
        if not is_array(document):
            raise wrong_wire("an array", document)
        try:
            return (set if self.mutable else frozenset)(self.item.decode(part) for part in document)
        except TypeError as exc:  # scalars come as they are written, to be validated later
            raise DecodeError("an array or object stands where an element of a set is expected") from exc

    @override
    def seal(self, value: Any) -> Any:
        if type_of(value) not in ({set, FrozenSet} if self.mutable else {frozenset}):
            raise ValueError(f"a {type_of(value).__name__} stands where a set is declared")
        sealed = [self.item.seal(part) for part in value]
        kept = type_of(value) is not set and all(map(is_, sealed, value))
        return value if kept else (FrozenSet if self.mutable else frozenset)(sealed)

    @override
    def depth(self, value: Any) -> int:
        return 1 + max(map(self.item.depth, value), default=0)

    @override
    def child(self, key: Any) -> Kind:
        return self.item

    @override
    def diff(self, old: Any, new: Any, path: Path, edits: list[Edit]) -> None:
        if old is new:
            return
        if self.item.exact:
            removed, added = frozenset(old - new), frozenset(new - old)
        else:
            was = {compact(self.item.encode(part)): part for part in old}
            now = {compact(self.item.encode(part)): part for part in new}
            removed = frozenset(part for token, part in was.items() if token not in now)
            added = frozenset(part for token, part in now.items() if token not in was)
        if not removed and not added:
            return
        edits.append(Members(path, self, removed, added) if self.mutable else (path, old, new))

    @override
    def holds(self, value: Any) -> bool:
        return isinstance(value, set if self.mutable else frozenset)

    @override
    def own(self, value: Any, owned: dict[int, Any]) -> Any:
        return _own(value, owned, FrozenSet)

    def patched(self, value: Any, edit: Members) -> Any:
        """Return the owned *value* with *edit* made."""
        set_remove(value, edit.removed)
        set_update(value, edit.added)
        return value


_RANKS = {type(None): 0, bool: 1, int: 2, float: 2, str: 3}


def _rank(document: Any) -> tuple[int, Any]:
    """Return what the documents in an array of a set are sorted by: null, bools, numbers, strings, arrays."""
    group = _RANKS.get(type_of(document))
    return (4, compact(document)) if group is None else (group, document if group else 0)


class TupleKind(Kind):
    """A tuple of one kind (``tuple[X, ...]``) or of one kind per place; replaced as a whole."""

    wire: frozenset[Wire] = frozenset(("array",))

    def __init__(self, annotation: Any, items: list[Kind], *, variadic: bool) -> None:
        self.annotation = annotation
        self.items = items
        self.variadic = variadic
        self.exact: bool = all(item.exact for item in items)
        self.custom: bool = any(item.custom for item in items)
        self.recursive: bool = any(item.recursive for item in items)
        self.versioned: bool = any(item.versioned for item in items)

    @override
    def parts(self) -> Sequence[Kind]:
        return self.items

    def _kinds(self, length: int) -> list[Kind]:
        if self.variadic:
            return self.items * length
        if length != len(self.items):
            raise DecodeError(f"{len(self.items)} parts are expected, not {length}")
        return self.items

    @override
    def encode(self, value: Any) -> Any:
        return [kind.encode(part) for kind, part in zip(self._kinds(len(value)), value, strict=True)]

    @override
    def decode(self, document: Any) -> Any:
        if not is_array(document):
            raise wrong_wire("an array", document)
        return tuple([kind.decode(part) for kind, part in zip(self._kinds(len(document)), document, strict=True)])

    @override
    def migrate(self, document: Any, stored: dict[str, int]) -> Any:
        if not self.versioned or not is_array(document):
            return document
        kinds = self._kinds(len(document))
        return [kind.migrate(part, stored) for kind, part in zip(kinds, document, strict=True)]

    @override
    def seal(self, value: Any) -> Any:
        if type_of(value) is not tuple:
            raise ValueError(f"a {type_of(value).__name__} stands where a tuple is declared")
        if not self.variadic and len(value) != len(self.items):
            raise ValueError(f"{len(self.items)} parts are declared, not {len(value)}")
        sealed = tuple([kind.seal(part) for kind, part in zip(self._kinds(len(value)), value, strict=True)])
        return value if all(map(is_, sealed, value)) else sealed

    @override
    def depth(self, value: Any) -> int:
        kinds = self._kinds(len(value))
        return 1 + max((kind.depth(part) for kind, part in zip(kinds, value, strict=True)), default=0)

    @override
    def holds(self, value: Any) -> bool:
        return type_of(value) is tuple

    @override
    def child(self, key: Any) -> Kind:
        return self.items[0 if self.variadic else key]

    @override
    def diff(self, old: Any, new: Any, path: Path, edits: list[Edit]) -> None:
        if old is new:
            return
        if len(old) == len(new):
            kinds = self._kinds(len(old))
            if all(same_document(kind, a, b) for kind, a, b in zip(kinds, old, new, strict=True)):
                return
        edits.append((path, old, new))
