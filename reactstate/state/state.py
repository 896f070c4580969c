"""State: a typed value that never changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from reactstate.errors import (
    FrozenStateError,
    MergeUnsupportedError,
    StateDefinitionError,
    StateValidationError,
)
from reactstate.state.schema import install, opened

if TYPE_CHECKING:
    from typing import Self

__all__ = ["State", "migration", "refuse_assignment", "state_key"]

F = TypeVar("F", bound=Callable[[Any], Any])

_RESERVED = ("merge", "check_transition")


class migration:  # noqa: N801 - a decorator
    """Mark a function over the raw document as the step from one schema version to the next.

    It is written in the class body, takes the document as it was stored and returns the document of the next version.
    It may change and return its argument. Documents of States nested in it are still of their stored versions.

    Args:
        from_version: The schema version that it starts from.

    Example:
        >>> class Cart(State, type_name="shop.cart", schema_version=2):
        ...     owner: str
        ...     items: dict[str, int] = {}
        ...
        ...     @migration(from_version=1)
        ...     def items_become_counted(document):
        ...         return {**document, "items": {name: 1 for name in document["items"]}}
    """

    def __init__(self, *, from_version: int) -> None:
        if from_version < 1:
            raise StateDefinitionError("schema versions start at 1")
        self.from_version = from_version
        self.function: Callable[[Any], Any] | None = None

    def __call__(self, function: Any) -> Any:
        self.function = function.__func__ if isinstance(function, staticmethod | classmethod) else function
        return self

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self.function


def refuse_assignment(self: Any, name: str, value: Any = None) -> None:
    """Refuse to set or delete an attribute of a published state.

    Raises:
        FrozenStateError: Always, but for a state whose after-validators are running.
    """
    if self in opened:
        _assign_while_validating(self, name, value)
        return
    raise FrozenStateError(
        f"{type(self).__name__}.{name} cannot be set: states never change; "
        f"use container.update(lambda draft: ...) and set draft.{name}"
    )


def _assign_while_validating(state: Any, name: str, value: Any) -> None:
    from reactstate.state.fieldtypes import kind_of

    kind = kind_of(type(state))
    if name not in kind.fields:
        raise FrozenStateError(f"{type(state).__name__} has no field {name!r}; a validator may only set fields")
    if kind.draft_class is None:
        kind.prepare()
    state.__dict__[name] = kind.rules.assign(state.__dict__, name, value)[0][name]


def _refuse_deletion(self: Any, name: str) -> NoReturn:
    raise FrozenStateError(f"{type(self).__name__}.{name} cannot be deleted: states never change")


class _InstanceOnly:
    """An attribute of BaseModel that the class itself hides, so that fields may have its name."""

    def __init__(self, name: str, original: Any) -> None:
        self._name = name
        self._original = original

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            raise AttributeError(self._name)
        return self._original.__get__(instance, owner)


class State(BaseModel):
    """The base class of all states: a pydantic model whose instances never change.

    Lists, dicts and sets in it are frozen as well, so that a published state can be shared by everyone who reads it.
    It changes by drafts: ``container.update(lambda draft: ...)`` or ``produce(state, recipe)``.

    Class keywords:
        type_name: The name under which states are stored (default: the class name; never an import path).
        schema_version: The version of the fields (default 1). Raise it when they change, and add a ``@migration``.

    Raises:
        StateDefinitionError: When the class is defined: a field could not be stored and read back unchanged.
        FrozenStateError: An instance is assigned to.
    """

    model_config = ConfigDict(validate_default=True, ignored_types=(migration,))

    if TYPE_CHECKING:
        __reactstate_type_name__: ClassVar[str]
        __reactstate_schema_version__: ClassVar[int]
        __reactstate_migrations__: ClassVar[dict[int, Callable[[Any], Any]]]

        def __init_subclass__(cls, *, type_name: str | None = None, schema_version: int = 1, **kwargs: Any) -> None: ...

    else:
        __setattr__ = refuse_assignment
        __delattr__ = _refuse_deletion

        def __init_subclass__(cls, *, type_name=None, schema_version=1, **kwargs):
            super().__init_subclass__(**kwargs)
            if "__reactstate_derived__" in cls.__dict__:
                return
            _define(cls, type_name, schema_version)

        @classmethod
        def __pydantic_init_subclass__(cls, *, type_name=None, schema_version=1, **kwargs):
            super().__pydantic_init_subclass__(**kwargs)

        @classmethod
        def __pydantic_on_complete__(cls):
            super().__pydantic_on_complete__()
            if "__reactstate_type_name__" in cls.__dict__:
                _complete(cls)

        @classmethod
        def model_rebuild(cls, *, force=False, _parent_namespace_depth=2, **kwargs):
            done = super().model_rebuild(force=force, _parent_namespace_depth=_parent_namespace_depth + 1, **kwargs)
            if force and cls.__pydantic_complete__:
                _complete(cls)
            return done

        def model_copy(self, *, update=None, deep=False):
            """Return a copy with *update* set, validated like any other change."""
            if not update:
                return super().model_copy(deep=deep)
            from reactstate.state.produce import produce

            return produce(self, update).state

        @classmethod
        def model_construct(cls, _fields_set=None, **values):
            """Validate *values* like the constructor: an unchecked state could not be stored."""
            return cls.model_validate(values, by_name=True)

    def check_transition(self, previous: Self) -> None:
        """Refuse a change by raising TransitionError; called with the state before, after all validators.

        The default allows everything.
        """

    def merge(self, other: Self) -> Self:
        """Return what this state and *other* become together; used by ``container.merge``.

        Raises:
            MergeUnsupportedError: The class does not define it.
        """
        raise MergeUnsupportedError(
            f"{type(self).__name__} does not define merge(self, other); add it to the class to merge states"
        )


def _hide_inherited_names() -> None:
    for name in dir(BaseModel):
        if name.startswith(("_", "model_")):
            continue
        original = next(cls.__dict__[name] for cls in BaseModel.__mro__ if name in cls.__dict__)
        type.__setattr__(State, name, _InstanceOnly(name, original))


_hide_inherited_names()


def _define(cls: type[Any], type_name: str | None, schema_version: int) -> None:
    """Take the class keywords, before pydantic collects the fields."""
    for name in _RESERVED:
        if name in cls.__dict__.get("__annotations__", {}):
            raise StateDefinitionError(f"{cls.__name__}.{name} cannot be a field: State has a method of that name")
    if not isinstance(schema_version, int) or schema_version < 1:
        raise StateDefinitionError(f"{cls.__name__}: schema_version must be a whole number from 1 on")
    found: dict[int, Callable[[Any], Any]] = {}
    for value in cls.__dict__.values():
        if isinstance(value, migration) and value.function is not None:
            if value.from_version in found or value.from_version >= schema_version:
                raise StateDefinitionError(
                    f"{cls.__name__}: a migration from version {value.from_version} "
                    f"{'is there twice' if value.from_version in found else 'needs a higher schema_version'}"
                )
            found[value.from_version] = value.function
    type.__setattr__(cls, "__reactstate_type_name__", type_name if type_name is not None else cls.__name__)
    type.__setattr__(cls, "__reactstate_schema_version__", schema_version)
    type.__setattr__(cls, "__reactstate_migrations__", found)


def _complete(cls: type[Any]) -> None:
    """Check the fields and harden the schema, once pydantic knows them all."""
    from reactstate.state.document import check_type_names
    from reactstate.state.fieldtypes import kind_of

    generic = cls.__pydantic_generic_metadata__
    if generic["parameters"]:
        return  # a template; its parametrisations are checked
    origin = generic["origin"]
    if origin is not None:
        name = cls.__name__.replace(origin.__name__, origin.__reactstate_type_name__, 1)
        type.__setattr__(cls, "__reactstate_type_name__", name)
        type.__setattr__(cls, "__reactstate_schema_version__", origin.__reactstate_schema_version__)
        type.__setattr__(cls, "__reactstate_migrations__", origin.__reactstate_migrations__)
    check_type_names(kind_of(cls))
    install(cls)
    kind_of(cls).guarded = cls.check_transition is not State.check_transition


def state_key(state: State) -> str:
    """Return the key of *state*: its own field or property ``id`` (str, int or UUID) as text, else its type name.

    Raises:
        StateValidationError: ``id`` is there and is of another type, or empty.
    """
    cls = type(state)
    if "id" not in cls.model_fields and not isinstance(getattr(cls, "id", None), property):
        return cls.__reactstate_type_name__
    value = state.id  # type: ignore[attr-defined]
    if isinstance(value, bool) or not isinstance(value, str | int | UUID) or value == "":
        raise StateValidationError(f"{cls.__name__}.id must be a str, int or UUID that is not empty, not {value!r}")
    return str(value)
