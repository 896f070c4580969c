"""Lists, dicts and sets that cannot be changed: what published states are made of.

They are subclasses of the built-ins, so isinstance, equality, pydantic and orjson take them as such. Copies are
themselves (nothing can change), pickles and the results of ``+``, ``|``, slices and ``copy()`` are plain built-ins.

Caveat
    Python lets C code and unbound built-in methods through: ``heapq.heappush(frozen, x)``, ``list.append(frozen, x)``
    and ``frozen.__init__(...)`` change a frozen container without a word. ``frozen.sort()`` raises, ``sorted`` is fine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from reactstate.errors import FrozenStateError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "FrozenDict",
    "FrozenList",
    "FrozenSet",
    "dict_delete",
    "dict_set",
    "freeze",
    "list_delete",
    "list_insert",
    "list_set",
    "refuse",
    "set_add",
    "set_remove",
    "set_update",
    "type_of",
]

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")

type_of: Callable[[object], type[Any]] = type
"""``type`` of one argument, of which type checkers make no more than is known."""

# Drafts and undo work on frozen containers of their own, before anybody else sees them.
list_set: Callable[[Any, Any, Any], None] = list[Any].__setitem__
list_delete: Callable[[Any, Any], None] = list[Any].__delitem__
list_insert: Callable[[Any, int, Any], None] = list[Any].insert
dict_set: Callable[[Any, Any, Any], None] = dict[Any, Any].__setitem__
dict_delete: Callable[[Any, Any], None] = dict[Any, Any].__delitem__
set_add: Callable[[Any, Any], None] = set[Any].add
set_update: Callable[..., None] = set[Any].update
set_remove: Callable[..., None] = set[Any].difference_update


def refuse(self: object, *_: Any, **__: Any) -> NoReturn:
    """Refuse every change, with the advice to use ``update``.

    Raises:
        FrozenStateError: Always.
    """
    kind = type(self).__name__
    raise FrozenStateError(
        f"a {kind} inside a published state cannot be changed; change the draft in "
        "container.update(lambda draft: ...), or copy it with list(...), dict(...) or set(...)"
    )


class FrozenList(list[T]):
    """A list inside a published state."""

    __slots__ = ()

    if not TYPE_CHECKING:  # for the type checker it is a list, as drafts have its mutators
        append = extend = insert = pop = remove = clear = sort = reverse = refuse
        __setitem__ = __delitem__ = __iadd__ = __imul__ = refuse

    def __copy__(self) -> FrozenList[T]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenList[T]:
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[type[list[T]], tuple[list[T]]]:
        return list, (list(self),)


class FrozenDict(dict[K, V]):
    """A dict inside a published state."""

    __slots__ = ()

    if not TYPE_CHECKING:  # as above
        pop = popitem = clear = update = setdefault = refuse
        __setitem__ = __delitem__ = __ior__ = refuse
        fromkeys = dict.fromkeys

    def __copy__(self) -> FrozenDict[K, V]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenDict[K, V]:
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[type[dict[K, V]], tuple[dict[K, V]]]:
        return dict, (dict(self),)


class FrozenSet(set[T]):
    """A set inside a published state."""

    __slots__ = ()

    if not TYPE_CHECKING:  # as above
        add = remove = discard = pop = clear = refuse
        update = intersection_update = difference_update = symmetric_difference_update = refuse
        __ior__ = __iand__ = __isub__ = __ixor__ = refuse

    def __copy__(self) -> FrozenSet[T]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenSet[T]:
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[type[set[T]], tuple[list[T]]]:
        return set, (list(self),)

    # set's own operators build their result as the left operand's type, which would make a frozen one.
    def copy(self) -> set[T]:
        """Return a plain set of the same elements."""
        return set(self)

    def union(self, *others: Any) -> set[Any]:
        """Return a plain set."""
        return set(self).union(*others)

    def intersection(self, *others: Any) -> set[Any]:
        """Return a plain set."""
        return set(self).intersection(*others)

    def difference(self, *others: Any) -> set[T]:
        """Return a plain set."""
        return set(self).difference(*others)

    def symmetric_difference(self, other: Any) -> set[Any]:
        """Return a plain set."""
        return set(self).symmetric_difference(other)

    def __or__(self, other: Any) -> Any:
        return set(self) | other

    def __and__(self, other: Any) -> Any:
        return set(self) & other

    def __sub__(self, other: Any) -> Any:
        return set(self) - other

    def __xor__(self, other: Any) -> Any:
        return set(self) ^ other


def freeze(value: Any) -> Any:
    """Return *value*, made of the types of JSON, with every list and dict in it in its frozen form."""
    kind = type_of(value)
    if kind is list or kind is FrozenList:
        return FrozenList([freeze(item) for item in value])
    if kind is dict or kind is FrozenDict:
        return FrozenDict({key: freeze(item) for key, item in value.items()})
    return value
