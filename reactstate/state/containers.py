"""The drafts of lists, dicts, Maps and sets: they read and write like the built-ins."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, MutableSequence, MutableSet
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from reactstate.state.composites import DictKind, ListKind, MapKind, SetKind
from reactstate.state.draft import (
    Node,
    _check_depth,
    draft_of,
    explain,
    is_draft,
    node_of,
    register_maker,
    session_of,
    settle,
)
from reactstate.state.frozen import FrozenDict, FrozenList, FrozenSet
from reactstate.state.kinds import MISSING
from reactstate.state.maps import Map

if TYPE_CHECKING:
    from reactstate.state.edits import Edit, Path
    from reactstate.state.kinds import Kind

__all__ = ["DictDraft", "ListDraft", "MapDraft", "SetDraft"]

T = TypeVar("T")


class ContainerDraft(Node):
    """What the drafts of all containers have in common."""

    __slots__ = ()

    _item: Kind

    def __init__(self, kind: Any, base: Any, owner: Node, key: Any) -> None:
        self.kind = kind
        self.base = base
        self.owner = owner
        self.key = key
        self.dirty = False
        self.kids = None
        self.dirty_kids = {}
        self.session = session_of(owner)

    def _validated(self, kind: Kind, value: Any) -> Any:
        """Return *value* as one element."""
        try:
            made = kind.validate(settle(value))
        except ValidationError as exc:
            raise explain(exc, str(self.kind.annotation)) from exc
        if kind.recursive:
            _check_depth(kind, made, self)
        return made

    def _whole(self, value: Any, path: Path, edits: list[Edit], mark: int) -> Any:
        """Validate a container whose own annotation has validators or constraints, and say what changed then."""
        if len(edits) == mark or not self.kind.whole:
            return value
        value = self._validated(self.kind, value)
        del edits[mark:]
        self.kind.diff(self.base, value, path, edits)
        return value

    def __eq__(self, other: object) -> bool:
        return bool(self.current() == (node_of(other).current() if is_draft(other) else other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<draft of {self.current()!r}>"

    def __copy__(self) -> Any:
        return self.current()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self.current()


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
            self._work = FrozenDict(self.base)
        return self._work

    def _put(self, key: Any, value: Any) -> None:
        dict.__setitem__(self._writable(), key, value)

    def _drop(self, key: Any) -> None:
        dict.__delitem__(self._writable(), key)

    def _result(self) -> Any:
        return self.base if self._work is None else self._work

    # The mapping.

    def __getitem__(self, key: Any) -> Any:
        if self.kids is not None and key in self.kids:
            return self.kids[key]
        value = self._data()[key]
        if self.kind.value.editable:
            kid = draft_of(self.kind.value, value, self, key)
            if kid is not None:
                self.adopt(key, kid)
                return kid
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        self.check()
        key = self._validated(self.kind.key, key)
        value = self._validated(self.kind.value, value)
        self._put(key, value)
        if self.kids:
            self.forget(key)
        self._touched[key] = None
        self.touch()

    def __delitem__(self, key: Any) -> None:
        self._drop(key)
        self.forget(key)
        self._touched[key] = None
        self.touch()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._data())

    def __len__(self) -> int:
        return len(self._data())

    def __contains__(self, key: object) -> bool:
        return key in self._data()

    def __reversed__(self) -> Iterator[Any]:
        return reversed(list(self))

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Return the part at *key*, after setting it to *default* when there was none."""
        if key not in self:
            self[key] = default
        return self[key]

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

    def __ior__(self, other: Any) -> DictDraft:  # type: ignore[misc]
        self.update(other)
        return self

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Mapping):
            return self.copy() == (other.copy() if isinstance(other, DictDraft) else dict(other.items()))
        return False

    __hash__ = None  # type: ignore[assignment]

    def current(self) -> Any:
        self.check()
        if not self.dirty:
            return self.base
        made = dict(self._data().items())
        for key, kid in self.dirty_kids.items():
            made[key] = kid.current()
        return self._frozen(made)

    def _frozen(self, entries: dict[Any, Any]) -> Any:
        return FrozenDict(entries)

    def finish(self, path: Path, edits: list[Edit]) -> Any:
        base = self.base
        if not self.dirty:
            return base
        kind, value_kind, touched = self.kind, self.kind.value, self._touched
        start = len(edits)
        for key, kid in self.dirty_kids.items():
            mark = len(edits)
            made = kid.finish((path, kind, key), edits)
            if made is not kid.base:
                self._put(key, made)
            if key in touched:
                del edits[mark:]
        data = self._result()
        for key in touched:
            old, new = base.get(key, MISSING), data.get(key, MISSING)
            if old is new:
                continue
            mark = len(edits)
            if old is MISSING or new is MISSING:
                edits.append(((path, kind, key), old, new))
            else:
                value_kind.diff(old, new, (path, kind, key), edits)
                if len(edits) == mark:
                    self._put(key, old)
        if len(edits) == start:
            return base
        return self._whole(self._final(), path, edits, start)

    def _final(self) -> Any:
        return self._work


class MapDraft(DictDraft):
    """The draft of a Map."""

    __slots__ = ()

    kind: MapKind

    def _writable(self) -> Any:
        self.check()
        if self._work is None:
            self._work = self.base._entries.mutate()
        return self._work

    def _put(self, key: Any, value: Any) -> None:
        self._writable()[key] = value

    def _drop(self, key: Any) -> None:
        del self._writable()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._final() if self._work is not None else self._data())

    def _final(self) -> Any:
        """Return a Map of the entries as they are now, and go on from it."""
        self.check()
        entries = self._work.finish()
        self._work = entries.mutate()
        return Map._of(entries)

    def current(self) -> Any:
        self.check()
        if not self.dirty:
            return self.base
        made = self.base if self._work is None else self._final()
        for key, kid in self.dirty_kids.items():
            made = made.set(key, kid.current())
        return made


class ListDraft(ContainerDraft, MutableSequence[Any]):
    """The draft of a list.

    Places before ``_shifted`` still correspond to the base, and their drafts are in ``kids``; from there on drafts
    stand in the working copy itself, so that they move with it.
    """

    __slots__ = ("_shifted", "_touched", "_work")

    kind: ListKind

    def __init__(self, kind: Any, base: Any, owner: Node, key: Any) -> None:
        super().__init__(kind, base, owner, key)
        self._work: Any = None
        self._touched: dict[int, None] = {}
        self._shifted = len(base)

    def _data(self) -> Any:
        self.check()
        return self.base if self._work is None else self._work

    def _shift(self, start: int) -> Any:
        """Return the working copy, about to change in length or order from *start* on."""
        self.check()
        if self._work is None:
            self._work = FrozenList(self.base)
        if start < self._shifted:
            for index in [one for one in self.kids or () if one >= start]:
                kid = (self.kids or {}).pop(index)
                self.dirty_kids.pop(index, None)
                list.__setitem__(self._work, index, kid)
                node_of(kid).key = None
            self._shifted = start
        self.touch()
        return self._work

    def _index(self, index: int) -> int:
        size = len(self._data())
        place = index + size if index < 0 else index
        if not 0 <= place < size:
            raise IndexError("list index out of range")
        return place

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        data = self._data()
        if not self.kind.item.editable:
            return data[index]
        place = self._index(index)
        if place < self._shifted:
            kid = None if self.kids is None else self.kids.get(place)
            if kid is None:
                kid = draft_of(self.kind.item, data[place], self, place)
                if kid is not None:
                    self.adopt(place, kid)
        else:
            kid = data[place]
            if not is_draft(kid):
                kid = draft_of(self.kind.item, data[place], self, None)
                if kid is not None:
                    list.__setitem__(self._work, place, kid)
        return data[place] if kid is None else kid

    def _validated_all(self, values: Iterable[Any]) -> list[Any]:
        return [self._validated(self.kind.item, value) for value in values]

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            values = self._validated_all(list(value))
            start = min(index.indices(len(self))[:2])
            list.__setitem__(self._shift(max(start, 0)), index, values)
            return
        place = self._index(index)
        made = self._validated(self.kind.item, value)
        if self._work is None:
            self._work = FrozenList(self.base)
        list.__setitem__(self._work, place, made)
        if place < self._shifted:
            self.forget(place)
            self._touched[place] = None
        self.touch()

    def __delitem__(self, index: Any) -> None:
        if isinstance(index, slice):
            places = range(*index.indices(len(self)))
            if places:
                list.__delitem__(self._shift(min(places)), index)
            return
        place = self._index(index)
        list.__delitem__(self._shift(place), place)

    def __len__(self) -> int:
        return len(self._data())

    def __iter__(self) -> Iterator[Any]:
        for place in itertools.count():
            if place >= len(self):
                return
            yield self[place]

    def _values(self) -> Iterator[Any]:
        """Iterate over the values as they are, without making drafts."""
        for place, value in enumerate(self._data()):
            yield (self.kids or {}).get(place, value) if place < self._shifted else value

    def __contains__(self, value: object) -> bool:
        return any(one is value or one == value for one in self._values())

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """Return the first place of *value*."""
        for place in range(*slice(start, stop).indices(len(self))):
            one = self[place]
            if one is value or one == value:
                return place
        raise ValueError(f"{value!r} is not in the list")

    def count(self, value: Any) -> int:
        """Return how often *value* is in the list."""
        return sum(1 for one in self._values() if one is value or one == value)

    def insert(self, index: int, value: Any) -> None:
        """Insert *value* before *index*."""
        made = self._validated(self.kind.item, value)
        size = len(self)
        place = max(index + size, 0) if index < 0 else min(index, size)
        list.insert(self._shift(place), place, made)

    def append(self, value: Any) -> None:
        """Add *value* at the end."""
        made = self._validated(self.kind.item, value)
        list.append(self._shift(len(self)), made)

    def extend(self, values: Iterable[Any]) -> None:
        """Add all of *values* at the end."""
        made = self._validated_all(list(values))
        list.extend(self._shift(len(self)), made)

    def pop(self, index: int = -1) -> Any:
        """Take out and return the item at *index*."""
        place = self._index(index)
        value = self[place]
        del self[place]
        if is_draft(value):
            node_of(value).owner = None
        return value

    def remove(self, value: Any) -> None:
        """Take out the first item that equals *value*."""
        self.pop(self.index(value))

    def clear(self) -> None:
        """Take out all items."""
        list.clear(self._shift(0))

    def reverse(self) -> None:
        """Reverse the order."""
        list.reverse(self._shift(0))

    def sort(self, *, key: Any = None, reverse: bool = False) -> None:
        """Sort in place, like ``list.sort``."""
        list.sort(self._shift(0), key=key, reverse=reverse)

    def copy(self) -> list[Any]:
        """Return a plain list of the values as they are now."""
        return list(self.current())

    def __add__(self, other: Any) -> list[Any]:
        return self.copy() + list(other)

    def __iadd__(self, values: Iterable[Any]) -> ListDraft:  # type: ignore[misc]
        self.extend(values)
        return self

    def __mul__(self, times: int) -> list[Any]:
        return self.copy() * times

    def __imul__(self, times: int) -> ListDraft:  # noqa: PYI034 - the draft itself
        values = self.copy()
        if times <= 0:
            self.clear()
        for _ in range(times - 1):
            self.extend(values)
        return self

    def __lt__(self, other: Any) -> bool:
        return bool(self.copy() < list(other))

    def __eq__(self, other: object) -> bool:
        return ContainerDraft.__eq__(self, other)

    __hash__ = None  # type: ignore[assignment]

    def current(self) -> Any:
        self.check()
        if not self.dirty:
            return self.base
        made = FrozenList([node_of(one).current() if is_draft(one) else one for one in self._data()])
        for place, kid in self.dirty_kids.items():
            if place is not None:
                list.__setitem__(made, place, kid.current())
        return made

    def finish(self, path: Path, edits: list[Edit]) -> Any:
        base = self.base
        if not self.dirty:
            return base
        kind, item = self.kind, self.kind.item
        start = len(edits)
        for place, kid in self.dirty_kids.items():
            if place is None:
                continue  # it stands in the working copy itself
            mark = len(edits)
            made = kid.finish((path, kind, place), edits)
            if self._work is None:
                self._work = FrozenList(base)
            list.__setitem__(self._work, place, made)
            if place in self._touched:
                del edits[mark:]
        data = self._data()
        for place in self._touched:
            if place < self._shifted and base[place] is not data[place]:
                mark = len(edits)
                item.diff(base[place], data[place], (path, kind, place), edits)
                if len(edits) == mark:
                    list.__setitem__(data, place, base[place])
        shifted = self._shifted
        if self._work is not None and (shifted < len(base) or shifted < len(data)):
            tail = [node_of(one).finish(None, []) if is_draft(one) else one for one in data[shifted:]]
            list.__setitem__(data, slice(shifted, None), tail)
            kind.diff_run(base[shifted:], tail, shifted, path, edits)
        if len(edits) == start:
            return base
        return self._whole(data, path, edits, start)


class SetDraft(ContainerDraft, MutableSet[Any]):
    """The draft of a set."""

    __slots__ = ("_work",)

    kind: SetKind

    def __init__(self, kind: Any, base: Any, owner: Node, key: Any) -> None:
        super().__init__(kind, base, owner, key)
        self._work: Any = None

    @classmethod
    def _from_iterable(cls, it: Iterable[T]) -> set[T]:  # type: ignore[override]
        return set(it)

    def _data(self) -> Any:
        self.check()
        return self.base if self._work is None else self._work

    def _writable(self) -> Any:
        self.check()
        if self._work is None:
            self._work = FrozenSet(self.base)
        self.touch()
        return self._work

    def __contains__(self, value: object) -> bool:
        return value in self._data()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._data())

    def __len__(self) -> int:
        return len(self._data())

    def add(self, value: Any) -> None:
        """Add *value*."""
        made = self._validated(self.kind.item, value)
        set.add(self._writable(), made)

    def discard(self, value: Any) -> None:
        """Remove *value* if it is there."""
        set.discard(self._writable(), value)

    def clear(self) -> None:
        """Remove all elements."""
        set.clear(self._writable())

    def update(self, *others: Iterable[Any]) -> None:
        """Add all elements of *others*."""
        for value in itertools.chain(*others):
            self.add(value)

    def difference_update(self, *others: Iterable[Any]) -> None:
        """Remove all elements of *others*."""
        set.difference_update(self._writable(), *others)

    def intersection_update(self, *others: Iterable[Any]) -> None:
        """Keep only what is in all of *others*."""
        set.intersection_update(self._writable(), *others)

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

    def __ior__(self, it: Any) -> SetDraft:  # type: ignore[override,misc]
        self.update(it)
        return self

    def __ixor__(self, it: Any) -> SetDraft:  # type: ignore[override,misc]
        self.symmetric_difference_update(it)
        return self

    def __eq__(self, other: object) -> bool:
        return ContainerDraft.__eq__(self, other)

    __hash__ = None  # type: ignore[assignment]

    def current(self) -> Any:
        return FrozenSet(self._data()) if self.dirty else self.base

    def finish(self, path: Path, edits: list[Edit]) -> Any:
        if not self.dirty:
            return self.base
        start = len(edits)
        self.kind.diff(self.base, self._work, path, edits)
        if len(edits) == start:
            return self.base
        return self._whole(self._work, path, edits, start)


register_maker(DictKind, DictDraft)
register_maker(MapKind, MapDraft)
register_maker(ListKind, ListDraft)
register_maker(SetKind, SetDraft)
