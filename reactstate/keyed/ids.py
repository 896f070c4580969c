"""The ids of a state type, and the text under which each is kept.

Form
    A class whose ``id`` is declared as one of str, int and UUID keeps a state under that id's own text: ``ada``,
    ``17``, ``6f0c...``. A class whose ids may be of several of these types keeps str ids as they are and puts a sign
    that no name begins with (U+0001) and the type before the others, so that ``1`` and ``"1"`` never meet. Both ways
    no two ids have one text, and the text tells the id. The declared types are part of where states are kept: a class
    that goes from one type to several looks for its states elsewhere.
"""

from __future__ import annotations

import types
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    NewType,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)
from uuid import UUID

from reactstate.errors import DecodeError, InvalidKeyError, StateDefinitionError, StateValidationError

if TYPE_CHECKING:
    from reactstate.state.state import State

__all__ = ["Id", "Ids"]

Id: TypeAlias = str | int | UUID
"""What names a state."""

_KINDS: Final[tuple[type[Id], ...]] = (str, int, UUID)
_MARK: Final = "\x01"
_TAGS: Final[dict[type[Id], str]] = {str: f"{_MARK}s", int: f"{_MARK}i", UUID: f"{_MARK}u"}


class Ids:
    """Which ids the states of one class have.

    Args:
        cls: The class.

    Raises:
        StateDefinitionError: It has no field or property ``id`` of its own, or one of another type.
    """

    __slots__ = ("_kinds", "_name", "_one")

    def __init__(self, cls: type[State]) -> None:
        self._name = cls.__name__
        self._kinds = _declared(cls)
        self._one: type[Id] | None = self._kinds[0] if len(self._kinds) == 1 else None

    @property
    def only_text(self) -> bool:
        """Whether every id is text, and kept under itself."""
        return self._one is str

    def text(self, id: object) -> str:  # noqa: A002 - the public name
        """Return the text of *id*.

        Raises:
            InvalidKeyError: It is of a type that the class does not have, or empty.
        """
        kind = _kind_of(id)
        if kind is None or kind not in self._kinds:
            names = " or ".join(one.__name__ for one in self._kinds)
            raise InvalidKeyError(f"the id of a {self._name} is {names}, not {type(id).__name__}")
        text = _plain(id, kind)
        if self._one is not None or (kind is str and not text.startswith(_MARK)):
            return text
        return _TAGS[kind] + text

    def of(self, state: State) -> str:
        """Return the text of the id of *state*.

        Raises:
            StateValidationError: Its id is of another type, or empty.
        """
        found: object = getattr(state, "id")  # noqa: B009 - State itself has no such attribute
        try:
            return self.text(found)
        except InvalidKeyError as exc:
            raise StateValidationError(f"this state cannot be kept: {exc}", exc) from exc

    def parse(self, text: str) -> Id:
        """Return the id whose text is *text*.

        Raises:
            DecodeError: It is that of none.
        """
        kind, plain = self._one, text
        if kind is None:
            kind = str
            if text.startswith(_MARK):
                kind = next((one for one in self._kinds if text.startswith(_TAGS[one])), None)
                plain = text[len(_MARK) + 1 :]
        try:
            found = None if kind is None else kind(plain)
        except ValueError:
            found = None
        if found is None or kind is None or _plain_or_none(found, kind) != plain:
            raise DecodeError(f"a {self._name} is kept under {text[:60]!r}, which is no id of one")
        return found

    def prefix(self, prefix: str) -> str:
        """Return what the texts of the ids begin with that are asked for by *prefix*.

        Raises:
            InvalidKeyError: It is no text.
        """
        if not isinstance(prefix, str):  # pyright: ignore[reportUnnecessaryIsInstance] - prefixes come from callers
            raise InvalidKeyError(f"a prefix is text, not a {type(prefix).__name__}")
        if self._one is None and prefix.startswith(_MARK):
            return _TAGS[str] + prefix
        return prefix


def _kind_of(value: object) -> type[Id] | None:
    if isinstance(value, bool):
        return None
    return next((kind for kind in _KINDS if isinstance(value, kind)), None)


def _plain(value: Any, kind: type[Id]) -> str:
    """Return the text of *value*, which may be of a subclass (an enum) with a text of its own."""
    if kind is UUID:
        return str(UUID(int=value.int))
    if kind is int:
        try:
            return int.__repr__(value)
        except ValueError as exc:
            raise InvalidKeyError(f"this int has too many digits for an id: {exc}") from exc
    text = str.__str__(value)
    if not text:
        raise InvalidKeyError("an id is not empty; give the state a name")
    return text


def _plain_or_none(value: Id, kind: type[Id]) -> str | None:
    try:
        return _plain(value, kind)
    except InvalidKeyError:
        return None


# --- what a class declares --------------------------------------------------------------------------------------

F = TypeVar("F")


def _declared(cls: type[State]) -> tuple[type[Id], ...]:
    field = cls.model_fields.get("id")
    if field is not None:
        found = _kinds_in(field.annotation)
    else:
        own: object = getattr(cls, "id", None)
        if not isinstance(own, property):
            raise StateDefinitionError(
                f"{cls.__name__} has no id, and many states need one each: give the class a field or property `id` of "
                "type str, int or UUID, or keep its one state in a StateContainer"
            )
        found = _kinds_in(_returned(own))
    if not found:
        raise StateDefinitionError(f"{cls.__name__}.id must be a str, int or UUID")
    return tuple(kind for kind in _KINDS if kind in found)


def _returned(own: property) -> Any:
    """Return what a property says that it gives; Any where it says nothing that can be understood."""
    try:
        return get_type_hints(own.fget).get("return", Any)
    except (NameError, TypeError, AttributeError):
        return Any


def _kinds_in(annotation: Any) -> set[type[Id]]:
    if annotation is Any or isinstance(annotation, TypeVar):
        return set(_KINDS)
    if isinstance(annotation, NewType):
        return _kinds_in(annotation.__supertype__)
    origin = get_origin(annotation)
    if origin in {Union, types.UnionType}:
        return {kind for part in get_args(annotation) for kind in _kinds_in(part)}
    if origin is Literal:
        return {kind for value in get_args(annotation) if (kind := _kind_of(value)) is not None}
    if hasattr(annotation, "__metadata__"):
        return _kinds_in(get_args(annotation)[0])
    if not isinstance(annotation, type) or issubclass(annotation, bool):
        return set()
    if issubclass(annotation, Enum):
        return {kind for one in annotation if (kind := _kind_of(one)) is not None}
    return {kind for kind in _KINDS if issubclass(annotation, kind)}
