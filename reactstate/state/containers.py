"""The drafts of dicts, Maps and sets: they read and write like the built-ins."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, MutableSet
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from typing_extensions import override

from reactstate.state.composites import DictKind, MapKind, SetKind
from reactstate.state.document import check_depth
from reactstate.state.draft import Node, draft_of, explain, is_draft, node_of, register_maker, session_of, settle
from reactstate.state.frozen import FrozenDict, FrozenSet, dict_delete, dict_set, set_add, set_remove
from reactstate.state.kinds import MISSING, Kind
from reactstate.state.maps import map_of

if TYPE_CHECKING:
    from reactstate.state.edits import Edit, Path

__all__ = ["ContainerDraft", "DictDraft", "MapDraft", "SetDraft"]

T = TypeVar("T")


class ContainerDraft(Node):
    """What the drafts of all containers have in common."""

    __slots__ = ()

    def __init__(self, kind: Any, base: Any, owner: Node, key: Any) -> None:
        self.place(kind, base, owner, key)

    def validated(self, kind: Kind, value: Any) -> Any:
        """Return *value* as one element of *kind*.

        Raises:
            StateValidationError: It does not fit.
        """
        self.check()
        try:
            made = kind.validate(settle(value))
        except ValueError as exc:
            raise explain(exc, self.where()) from exc
        check_depth(kind, made, self.level())
        return made

    def finished(self, kid: Node, part: Kind, path: Path, edits: list[Edit]) -> Any:
        """Finish the draft of a part of kind *part*, and validate the part when its own annotation asks for that."""
        mark = len(edits)
        made = kid.finish(path, edits)
        if made is not kid.base and part.whole:
            made = self.validated(part, made)
            del edits[mark:]
            part.diff(kid.base, made, path, edits)
        return made if len(edits) > mark else kid.base

    def __eq__(self, other: object) -> bool:
        return bool(self.current() == (node_of(other).current() if is_draft(other) else other))

    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __repr__(self) -> str:
        if not session_of(self).open:
            return f"<draft of a {type(self.base).__name__}, after its recipe>"
        return f"<draft of {self.current()!r}>"

    def __copy__(self) -> Any:
        return self.current()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self.current()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.current().__reduce_ex__(protocol)


class _Probe:
    """Equals a key, and catches the key that it is compared with."""

    __slots__ = ("found", "key")

    def __init__(self, key: Any) -> None:
        self.key = key
        self.found = key

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        if other != self.key:
            return False
        self.found = other
        return True


class DictDraft(ContainerDraft, MutableMapping[Any, Any]):
    """The draft of a dict."""

    __slots__ = ("_touched", "_work")

    kind: DictKind

    def __init__(self, kind: Any, base: Any, owner: Node, key: Any) -> None:
        super().__init__(kind, base, owner, key)
        self._work: Any = None
        self._touched: dict[Any, None] = {}

    # What differs between dict and Map: how to read and write the working copy.

    def _data(self) -> Any:
        self.check()
        return self.base if self._work is None else self._work

    def _writable(self) -> Any:
        self.check()
        if self._work is None:
            self._work = FrozenDict[Any, Any](self.base)
        return self._work

    def _put(self, key: Any, value: Any) -> None:
        dict_set(self._writable(), key, value)

    def _drop(self, key: Any) -> None:
        dict_delete(self._writable(), key)

    def _value(self) -> Any:
        """Return the value as it is now but for what was changed inside its parts."""
        return self._data()

    # The mapping.

    def __getitem__(self, key: Any) -> Any:
        value = self._data()[key]
        if not self.kind.value.editable:
            return value
        kid = None if self.kids is None else self.kids.get(key)
        if kid is None:
            key = self._standing(key)
            kid = draft_of(self.kind.value, value, self, key)
            if kid is None:
                return value
            self.adopt(key, kid)
        return kid

    def __setitem__(self, key: Any, value: Any) -> None:
        self.check()
        if self.kids is not None and is_draft(value) and self.kids.get(key) is value:
            return  # the draft that stands there already, as after ``draft.items["x"] += [1]``
        key = self.validated(self.kind.key, key)
        value = self.validated(self.kind.value, value)
        self._put(key, value)
        self.forget(key)
        self._touched[key] = None
        self.touch()

    def __delitem__(self, key: Any) -> None:
        key = self._standing(key)
        self._drop(key)
        self.forget(key)
        self._touched[key] = None
        self.touch()

    def _standing(self, key: Any) -> Any:
        """Return the key that stands here for *key*: ``1``, ``1.0`` and ``True`` are one key, and three in a patch."""
        if type(key) is str and self.kind.key.text:
            return key
        probe = _Probe(key)
        return probe.found if probe in self._data() else key

    def __iter__(self) -> Iterator[Any]:
        keys: Iterator[Any] = iter(self._value())
        return keys

    def __len__(self) -> int:
        return len(self._data())

    def __contains__(self, key: object) -> bool:
        return key in self._data()

    def __reversed__(self) -> Iterator[Any]:
        keys: list[Any] = [*self]
        return iter(keys[::-1])

    @override
    def popitem(self) -> tuple[Any, Any]:
        """Take out and return the entry that was added last."""
        for key in reversed(self):
            return key, self.pop(key)
        raise KeyError("popitem(): the dict is empty")

    @override
    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Return the part at *key*, after setting it to *default* when there was none."""
        if key not in self:
            key = self.validated(self.kind.key, key)  # "1" is the key 1, which may be there
            if key not in self:
                self[key] = default
        return self[key]

    @override
    def clear(self) -> None:
        """Remove all entries."""
        for key in list(self):
            del self[key]

    def copy(self) -> dict[Any, Any]:
        """Return a plain dict of the values as they are now."""
        return dict(self.current().items())

    def __or__(self, other: Any) -> dict[Any, Any]:
        return self.copy() | dict(other)

    def __ror__(self, other: Any) -> dict[Any, Any]:
        return dict(other) | self.copy()

    def __ior__(self, other: Any) -> DictDraft:  # noqa: PYI034 - it is the draft itself
        self.update(other)
        return self

    def __eq__(self, other: object) -> bool:
        self.check()
        if isinstance(other, DictDraft):
            return self.copy() == other.copy()
        return isinstance(other, Mapping) and self.copy() == other

    __hash__: ClassVar[None]  # type: ignore[assignment]

    @override
    def current(self) -> Any:
        self.check()
        if not self.dirty:
            return self.base
        made = dict(self._value().items())
        for key, kid in self.changed_kids():
            made[key] = kid.current()
        return self._published(made)

    def _published(self, entries: dict[Any, Any]) -> Any:
        return FrozenDict(entries)

    @override
    def finish(self, path: Path, edits: list[Edit]) -> Any:
        base = self.base
        if not self.dirty:
            return base
        kind, part, touched = self.kind, self.kind.value, self._touched
        start = len(edits)
        for key, kid in self.changed_kids():
            mark = len(edits)
            made = self.finished(kid, part, (path, kind, key), edits)
            if made is not kid.base:
                self._put(key, made)
            if key in touched:
                del edits[mark:]
        if not kind.key.exact and touched:
            # a key may have been replaced by one that equals it but has another document
            del edits[start:]
            kind.diff(base, self._value(), path, edits)
            return base if len(edits) == start else self._value()
        data = self._data()
        for key in touched:
            old, new = base.get(key, MISSING), data.get(key, MISSING)
            if old is MISSING or new is MISSING:
                if old is not new:
                    edits.append(((path, kind, key), old, new))
            elif old is not new:
                mark = len(edits)
                part.diff(old, new, (path, kind, key), edits)
                if len(edits) == mark:
                    self._put(key, old)
        return base if len(edits) == start else self._value()


class MapDraft(DictDraft):
    """The draft of a Map."""

    __slots__ = ()

    @override
    def _writable(self) -> Any:
        self.check()
        if self._work is None:
            self._work = self.base._entries.mutate()
        return self._work

    @override
    def _put(self, key: Any, value: Any) -> None:
        self._writable()[key] = value

    @override
    def _drop(self, key: Any) -> None:
        del self._writable()[key]

    @override
    def _value(self) -> Any:
        """Return a Map of the entries as they are now, and go on from it."""
        self.check()
        if self._work is None:
            return self.base
        entries = self._work.finish()
        self._work = entries.mutate()
        return map_of(entries)

    @override
    def current(self) -> Any:
        made = self._value()
        for key, kid in self.changed_kids():
            made = made.set(key, kid.current())
        return made


class SetDraft(ContainerDraft, MutableSet[Any]):
    """The draft of a set."""

    __slots__ = ("_work",)

    kind: SetKind

    def __init__(self, kind: Any, base: Any, owner: Node, key: Any) -> None:
        super().__init__(kind, base, owner, key)
        self._work: Any = None

    @classmethod
    def _from_iterable(cls, it: Iterable[T]) -> Any:
        return set(it)

    def _data(self) -> Any:
        self.check()
        return self.base if self._work is None else self._work

    def _writable(self) -> Any:
        self.check()
        if self._work is None:
            self._work = FrozenSet[Any](self.base)
        self.touch()
        return self._work

    def __contains__(self, value: object) -> bool:
        return value in self._data()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._data())

    def __len__(self) -> int:
        return len(self._data())

    @override
    def add(self, value: Any) -> None:
        """Add *value*."""
        made = self.validated(self.kind.item, value)
        set_add(self._writable(), made)

    @override
    def discard(self, value: Any) -> None:
        """Remove *value* if it is there."""
        set_remove(self._writable(), (value,))

    @override
    def clear(self) -> None:
        """Remove all elements."""
        set_remove(self._writable(), list(self))

    def update(self, *others: Iterable[Any]) -> None:
        """Add all elements of *others*."""
        for value in itertools.chain(*others):
            self.add(value)

    def difference_update(self, *others: Iterable[Any]) -> None:
        """Remove all elements of *others*."""
        gone = set[Any]().union(*others)
        set_remove(self._writable(), gone)

    def intersection_update(self, *others: Iterable[Any]) -> None:
        """Keep only what is in all of *others*."""
        kept = self.copy().intersection(*others)
        set_remove(self._writable(), self.copy() - kept)

    def symmetric_difference_update(self, other: Iterable[Any]) -> None:
        """Keep what is in exactly one of both."""
        values = set(other)
        both = self._data() & values
        self.update(values - both)
        self.difference_update(both)

    def copy(self) -> set[Any]:
        """Return a plain set of the elements as they are now."""
        return set(self._data())

    def union(self, *others: Iterable[Any]) -> set[Any]:
        """Return a plain set."""
        return self.copy().union(*others)

    def intersection(self, *others: Iterable[Any]) -> set[Any]:
        """Return a plain set."""
        return self.copy().intersection(*others)

    def difference(self, *others: Iterable[Any]) -> set[Any]:
        """Return a plain set."""
        return self.copy().difference(*others)

    def symmetric_difference(self, other: Iterable[Any]) -> set[Any]:
        """Return a plain set."""
        return self.copy().symmetric_difference(other)

    def issubset(self, other: Iterable[Any]) -> bool:
        """Say whether all elements are in *other*."""
        return self.copy().issubset(other)

    def issuperset(self, other: Iterable[Any]) -> bool:
        """Say whether all of *other* is in here."""
        return self.copy().issuperset(other)

    @override
    def isdisjoint(self, other: Iterable[Any]) -> bool:
        """Say whether no element is in *other*."""
        return self.copy().isdisjoint(other)

    def __ior__(self, it: Any) -> SetDraft:  # type: ignore[misc]  # noqa: PYI034 - it is the draft itself
        self.update(it)
        return self

    def __ixor__(self, it: Any) -> SetDraft:  # type: ignore[misc]  # noqa: PYI034 - it is the draft itself
        self.symmetric_difference_update(it)
        return self

    def __eq__(self, other: object) -> bool:
        return ContainerDraft.__eq__(self, other)

    __hash__: ClassVar[None]  # type: ignore[assignment]

    @override
    def current(self) -> Any:
        data = self._data()
        return FrozenSet(data) if self.dirty else self.base

    @override
    def finish(self, path: Path, edits: list[Edit]) -> Any:
        if not self.dirty:
            return self.base
        start = len(edits)
        self.kind.diff(self.base, self._work, path, edits)
        return self.base if len(edits) == start else self._work


register_maker(DictKind, DictDraft)
register_maker(MapKind, MapDraft)
register_maker(SetKind, SetDraft)
