"""The draft of a list: it reads and writes like the built-in."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, MutableSequence
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from reactstate.state.composites import ListKind
from reactstate.state.containers import ContainerDraft
from reactstate.state.draft import Node, draft_of, is_draft, node_of, register_maker
from reactstate.state.frozen import FrozenList, list_delete, list_insert, list_set

if TYPE_CHECKING:
    from reactstate.state.edits import Edit, Path

__all__ = ["ListDraft"]


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

    def _writable(self) -> Any:
        self.check()
        if self._work is None:
            self._work = FrozenList[Any](self.base)
        return self._work

    def _shift(self, start: int) -> Any:
        """Return the working copy, about to change in length or order from *start* on."""
        work = self._writable()
        if start < self._shifted:
            kids = self.kids or {}
            for index in [one for one in kids if one >= start]:
                kid = kids.pop(index)
                self.dirty_kids.pop(index, None)
                list_set(work, index, kid)
                node_of(kid).key = None
            self._shifted = start
        self.touch()
        return work

    def _rearrange(self, values: Iterable[Any], start: int = 0) -> None:
        """Put *values*, which are validated or stood here before, in the place of all from *start* on."""
        list_set(self._shift(start), slice(start, None), list(values))

    def _index(self, index: Any) -> int:
        size = len(self._data())
        place = operator.index(index)
        place = place + size if place < 0 else place
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
                    list_set(self._work, place, kid)
        return data[place] if kid is None else kid

    def _held(self) -> list[Any]:
        """Return the values as they stand here, drafts where there are any."""
        held = list(self._data())
        for place, kid in (self.kids or {}).items():
            held[place] = kid
        return held

    def _validated_all(self, values: Iterable[Any]) -> list[Any]:
        return [self.validated(self.kind.item, value) for value in values]

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            values = self._validated_all(list(value))
            changed = self._held()
            changed[index] = values
            start, stop, _ = index.indices(len(self))
            start = max(min(start, stop), 0)
            self._rearrange(changed[start:], start)
            return
        place = self._index(index)
        if is_draft(value) and self._held_at(place) is value:
            return  # the draft that stands there already, as after ``draft.items[0] += [1]``
        made = self.validated(self.kind.item, value)
        if place < self._shifted:
            self.forget(place)
            self._touched[place] = None
        list_set(self._writable(), place, made)
        self.touch()

    def _held_at(self, place: int) -> Any:
        return (self.kids or {}).get(place) if place < self._shifted else self._work[place]

    def __delitem__(self, index: Any) -> None:
        if isinstance(index, slice):
            places = range(*index.indices(len(self)))
            if places:
                list_delete(self._shift(min(places)), index)
            return
        place = self._index(index)
        list_delete(self._shift(place), place)

    def __len__(self) -> int:
        return len(self._data())

    def __iter__(self) -> Iterator[Any]:
        for place in itertools.count():
            if place >= len(self):
                return
            yield self[place]

    def __contains__(self, value: object) -> bool:
        return any(one is value or one == value for one in self._held())

    @override
    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """Return the first place of *value*."""
        held = self._held()
        for place in range(*slice(start, stop).indices(len(held))):
            if held[place] is value or held[place] == value:
                return place
        raise ValueError(f"{value!r} is not in the list")

    @override
    def count(self, value: Any) -> int:
        """Return how often *value* is in the list."""
        return sum(1 for one in self._held() if one is value or one == value)

    @override
    def insert(self, index: int, value: Any) -> None:
        """Insert *value* before *index*."""
        made = self.validated(self.kind.item, value)
        size = len(self)
        place = max(index + size, 0) if index < 0 else min(index, size)
        list_insert(self._shift(place), place, made)

    @override
    def append(self, value: Any) -> None:
        """Add *value* at the end."""
        self.insert(len(self), value)

    @override
    def extend(self, values: Iterable[Any]) -> None:
        """Add all of *values* at the end."""
        size = len(self)
        self._rearrange(self._validated_all(list(values)), size)

    @override
    def pop(self, index: int = -1) -> Any:
        """Take out and return the item at *index*."""
        place = self._index(index)
        value = self[place]
        del self[place]
        if is_draft(value):
            node_of(value).owner = None
        return value

    @override
    def remove(self, value: Any) -> None:
        """Take out the first item that equals *value*."""
        del self[self.index(value)]

    @override
    def clear(self) -> None:
        """Take out all items."""
        self._rearrange(())

    @override
    def reverse(self) -> None:
        """Reverse the order."""
        self._rearrange(reversed(self._held()))

    def sort(self, *, key: Any = None, reverse: bool = False) -> None:
        """Sort in place, like ``list.sort``; the key function gets drafts only of what has one already."""
        self._rearrange(sorted(self._held(), key=key, reverse=reverse))

    def copy(self) -> list[Any]:
        """Return a plain list of the values as they are now."""
        return list(self.current())

    def __add__(self, other: Any) -> list[Any]:
        return self.copy() + list(other)

    def __radd__(self, other: Any) -> list[Any]:
        return list(other) + self.copy()

    def __iadd__(self, values: Iterable[Any]) -> ListDraft:  # type: ignore[misc]  # noqa: PYI034 - it is the draft itself
        self.extend(values)
        return self

    def __mul__(self, times: int) -> list[Any]:
        return self.copy() * times

    __rmul__ = __mul__

    def __imul__(self, times: int) -> ListDraft:  # noqa: PYI034 - it is the draft itself
        values = self.copy()
        if times <= 0:
            self.clear()
        for _ in range(times - 1):
            self.extend(values)
        return self

    def __lt__(self, other: Any) -> bool:
        return bool(self.copy() < list(other))

    def __le__(self, other: Any) -> bool:
        return bool(self.copy() <= list(other))

    def __gt__(self, other: Any) -> bool:
        return bool(self.copy() > list(other))

    def __ge__(self, other: Any) -> bool:
        return bool(self.copy() >= list(other))

    def __eq__(self, other: object) -> bool:
        return ContainerDraft.__eq__(self, other)

    __hash__: ClassVar[None]  # type: ignore[assignment]

    @override
    def current(self) -> Any:
        self.check()
        if not self.dirty:
            return self.base
        return FrozenList([node_of(one).current() if is_draft(one) else one for one in self._held()])

    @override
    def finish(self, path: Path, edits: list[Edit]) -> Any:
        base = self.base
        if not self.dirty:
            return base
        kind, item = self.kind, self.kind.item
        start = len(edits)
        for place, kid in self.changed_kids():
            if place is None:
                continue  # it stands in the working copy itself
            mark = len(edits)
            made = self.finished(kid, item, (path, kind, place), edits)
            if made is not kid.base:
                list_set(self._writable(), place, made)
            if place in self._touched:
                del edits[mark:]
        data, shifted = self._data(), self._shifted
        for place in self._touched:
            if place < shifted and base[place] is not data[place]:
                mark = len(edits)
                item.diff(base[place], data[place], (path, kind, place), edits)
                if len(edits) == mark:
                    list_set(data, place, base[place])
        if shifted < len(base) or shifted < len(data):
            tail = [self.finished(node_of(one), item, None, []) if is_draft(one) else one for one in data[shifted:]]
            list_set(data, slice(shifted, None), tail)
            kind.diff_run(base[shifted:], tail, shifted, path, edits)
        return base if len(edits) == start else data


register_maker(ListKind, ListDraft)
