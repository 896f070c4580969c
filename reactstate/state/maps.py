"""Map: the field type for large keyed parts, a persistent hash map.

An update copies only the path to its entry, so that a change in a map of 100,000 entries costs about as much as in
one of 10 (hash array mapped trie after Bagwell, 2001, and Clojure; implemented by the library ``immutables``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from operator import is_
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard, TypeVar, get_args

import immutables
from pydantic_core import core_schema

from reactstate.state.frozen import refuse

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler

__all__ = ["Map", "map_of", "validate_map"]

K = TypeVar("K")
V = TypeVar("V")


class Map(MutableMapping[K, V]):
    """An immutable mapping with cheap updates; as a field it is edited through the draft like a dict.

    ``set``, ``delete`` and ``merged`` return a new Map that shares all other entries with this one. The iteration
    order is unspecified. The mutators of a dict are there for the type checker, since drafts have them; on a Map
    itself they raise FrozenStateError.

    Example:
        >>> a = Map({"x": 1})
        >>> b = a.set("y", 2)
        >>> a == {"x": 1}, b == {"x": 1, "y": 2}
        (True, True)
    """

    __slots__ = ("_entries",)

    _entries: immutables.Map[K, V]

    def __new__(cls, entries: Mapping[K, V] | Iterable[tuple[K, V]] = ()) -> Map[K, V]:
        """Copy *entries*, a mapping or an iterable of pairs."""
        return cls._of(immutables.Map(entries))

    @classmethod
    def _of(cls, entries: immutables.Map[K, V]) -> Map[K, V]:
        made = object.__new__(cls)
        made._entries = entries
        return made

    def __getitem__(self, key: K) -> V:
        return self._entries[key]

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __eq__(self, other: object) -> bool:
        if _is_map(other):
            return bool(self._entries == other._entries)
        if isinstance(other, Mapping):
            return bool(dict(self._entries.items()) == other)
        return NotImplemented

    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Map({dict(self._entries.items())!r})"

    def __copy__(self) -> Map[K, V]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Map[K, V]:
        return self

    def __reduce__(self) -> tuple[type[Map[K, V]], tuple[dict[K, V]]]:
        return type(self), (dict(self._entries.items()),)

    def set(self, key: K, value: V) -> Map[K, V]:
        """Return a Map with *key* set to *value*."""
        return self._of(self._entries.set(key, value))

    def delete(self, key: K) -> Map[K, V]:
        """Return a Map without *key*.

        Raises:
            KeyError: There is no such key.
        """
        return self._of(self._entries.delete(key))

    def merged(self, entries: Mapping[K, V] | Iterable[tuple[K, V]]) -> Map[K, V]:
        """Return a Map with all of *entries* set."""
        return self._of(self._entries.update(entries))

    if not TYPE_CHECKING:  # the type checker sees the mutators of MutableMapping, which drafts have
        __setitem__ = __delitem__ = pop = popitem = clear = update = setdefault = refuse

        def get(self, key: Any, default: Any = None) -> Any:
            """Return the value of *key*, or *default*."""
            return self._entries.get(key, default)
    else:

        def __setitem__(self, key: K, value: V) -> None: ...
        def __delitem__(self, key: K) -> None: ...

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        arguments = get_args(source)
        if arguments:
            entries = core_schema.dict_schema(
                handler.generate_schema(arguments[0]), handler.generate_schema(arguments[1])
            )
        else:
            entries = core_schema.dict_schema()
        return core_schema.no_info_wrap_validator_function(
            validate_map,
            entries,
            serialization=core_schema.plain_serializer_function_ser_schema(_to_dict),
        )


def _is_map(value: object) -> TypeGuard[Map[Any, Any]]:
    return type(value) is Map


def map_of(entries: immutables.Map[Any, Any]) -> Map[Any, Any]:
    """Return the Map of *entries*, which are shared."""
    return Map[Any, Any]._of(entries)


def _to_dict(value: Any) -> dict[Any, Any]:
    return dict(value.items())


def validate_map(value: Any, handler: core_schema.ValidatorFunctionWrapHandler) -> Map[Any, Any]:
    """Validate entry by entry; a Map whose entries all stay as they are is kept, and with it its sharing."""
    if not _is_map(value):
        return Map(handler(value))
    before = dict(value.items())
    after: dict[Any, Any] = handler(before)
    same = len(after) == len(before) and all(map(is_, after, before))  # 1, 1.0 and True are one key and three documents
    if same and all(map(is_, after.values(), before.values())):
        return value
    return Map(after)
