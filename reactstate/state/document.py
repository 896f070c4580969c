"""The canonical document of a state, and the way back."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from reactstate.errors import DecodeError, StateDefinitionError, StateValidationError, UnknownTypeError
from reactstate.state.fieldtypes import kind_of
from reactstate.state.kinds import MAX_DEPTH, Kind, is_array, is_object, same_document
from reactstate.state.models import ModelKind

if TYPE_CHECKING:
    from reactstate.state.state import State

__all__ = ["check_depth", "check_type_names", "from_document", "schema_of", "states_equal", "to_document"]

S = TypeVar("S", bound="State")

_TOO_DEEP = f"a state may be nested {MAX_DEPTH} levels deep"


def to_document(state: State) -> dict[str, Any]:
    """Return the canonical document of *state*: plain dicts, lists and scalars of JSON, mappings sorted by key.

    Raises:
        StateValidationError: It is nested too deeply to be stored.
    """
    try:
        document: dict[str, Any] = kind_of(type(state)).encode(state)
    except RecursionError as exc:
        raise StateValidationError(_TOO_DEEP) from exc
    return document


def from_document(cls: type[S], document: Any, schema: dict[str, int] | None = None) -> S:
    """Return the state of type *cls* that *document* stands for.

    Args:
        cls: The state's type.
        document: A canonical document; it is not changed, and becomes no part of the state.
        schema: The types and schema versions that wrote it (default: today's), root first.

    Raises:
        UnknownTypeError: It is the document of another type.
        SchemaVersionError: It is of a newer schema version, or a migration is missing.
        DecodeError: It does not fit the class: a field is unknown, is missing and has no default, or has a value that
            pydantic cannot make one of its type; or a migration raised.
    """
    kind = kind_of(cls)
    try:
        if schema is not None:
            document = _migrated(kind, document, schema)
        state: S = kind.read(kind.decode(document))
        check_depth(kind, state)
    except (ValidationError, StateValidationError, RecursionError) as exc:
        raise DecodeError(
            f"the stored document does not fit {kind.type_name}: {exc}\n"
            "if the class changed since it was stored, raise its schema_version and add a @migration"
        ) from exc
    return state


def _migrated(kind: ModelKind, document: Any, schema: dict[str, int]) -> Any:
    stored = next(iter(schema), None)
    if stored != kind.type_name:
        raise UnknownTypeError(
            f"a {stored!r} is stored here, and {kind.type_name!r} was asked for; "
            f"open it with its own class, or name this one type_name={stored!r}",
            expected=kind.type_name,
            found=stored,
        )
    if all(schema.get(name, version) == version for name, version in schema_of(kind.cls).items()):
        return document
    return kind.migrate(_copied(document), schema)


def _copied(document: Any) -> Any:
    """Copy a document, so that migrations may change what they are given."""
    if is_object(document):
        return {key: _copied(part) for key, part in document.items()}
    if is_array(document):
        return [_copied(part) for part in document]
    return document


def states_equal(a: State, b: State) -> bool:
    """Say whether two states have the same type and document, so that ``1``, ``True`` and ``1.0`` differ."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    return same_document(kind_of(type(a)), a, b)


def check_depth(kind: Kind, value: Any, outside: int = 0) -> None:
    """Refuse a value whose document would be nested beyond ``MAX_DEPTH``.

    Raises:
        StateValidationError: It would.
    """
    if not kind.recursive:
        return
    try:
        deep = kind.depth(value) + outside
    except RecursionError as exc:
        raise StateValidationError(_TOO_DEEP) from exc
    if deep > MAX_DEPTH:
        raise StateValidationError(f"{_TOO_DEEP}; this one is {deep} deep")


def schema_of(cls: type[Any]) -> dict[str, int]:
    """Return the schema version of *cls* and of every State nested in it, by type name; *cls* comes first."""
    return {kind.type_name: kind.schema_version for kind in _state_kinds(kind_of(cls)) if kind.type_name is not None}


def check_type_names(kind: ModelKind) -> None:
    """Refuse a class in which two nested States share one type name.

    Raises:
        StateDefinitionError: They do.
    """
    seen: dict[str, type[Any]] = {}
    for one in _state_kinds(kind):
        if one.type_name is not None and seen.setdefault(one.type_name, one.cls) is not one.cls:
            raise StateDefinitionError(
                f"{kind.cls.__name__}: two classes have the type name {one.type_name!r}; give one another type_name="
            )


def _state_kinds(kind: ModelKind) -> list[ModelKind]:
    """Return *kind* and those of all models in it, each once, in an order that depends on the class only."""
    found: dict[int, Kind] = {}
    waiting: deque[Kind] = deque([kind])
    while waiting:
        one = waiting.popleft()
        if id(one) not in found:
            found[id(one)] = one
            waiting.extend(one.parts())
    return [one for one in found.values() if isinstance(one, ModelKind)]
