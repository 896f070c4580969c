"""State: a typed value that never changes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar, cast
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from pydantic_core import SchemaValidator, core_schema
from typing_extensions import override

from reactstate.errors import (
    FrozenStateError,
    MergeUnsupportedError,
    StateDefinitionError,
    StateValidationError,
)
from reactstate.state.fieldtypes import MODELS, UndefinedTypeError, kind_of
from reactstate.state.frozen import type_of
from reactstate.state.schema import install, opened

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

__all__ = ["State", "migration", "refuse_assignment", "refuse_deletion", "state_key"]

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

    def __call__(self, function: F) -> F:
        """Take the function."""
        # a staticmethod, if it was made one, gives its function
        self.function = getattr(function, "__func__", function)
        return cast("F", self)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self.function


def refuse_assignment(self: Any, name: str, value: Any = None) -> None:
    """Refuse to set an attribute of a published state.

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
    kind = kind_of(type_of(state))
    if name not in kind.fields:
        raise FrozenStateError(f"{type(state).__name__} has no field {name!r}; a validator may only set fields")
    if kind.draft_class is None:
        kind.prepare()
    state.__dict__[name] = kind.rules.assign(state.__dict__, name, value)[0][name]


def refuse_deletion(self: Any, name: str) -> NoReturn:
    """Refuse to delete an attribute of a published state.

    Raises:
        FrozenStateError: Always.
    """
    raise FrozenStateError(f"{type(self).__name__}.{name} cannot be deleted: states never change")


def _restore(cls: type[Any], schema: dict[str, int], document: Any) -> Any:
    """Return a state that was pickled, which goes the way of every stored document."""
    from reactstate.state.document import from_document

    return from_document(cls, document, schema)


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

    # types that pydantic does not know are let through to be refused, with advice, by the check of the fields
    model_config: ClassVar[ConfigDict] = ConfigDict(
        validate_default=True, arbitrary_types_allowed=True, ignored_types=(migration,)
    )

    if TYPE_CHECKING:
        __reactstate_type_name__: ClassVar[str]
        __reactstate_schema_version__: ClassVar[int]
        __reactstate_migrations__: ClassVar[dict[int, Callable[[Any], Any]]]

        def __init_subclass__(cls, *, type_name: str | None = None, schema_version: int = 1, **kwargs: Any) -> None: ...

    else:
        # Hidden from type checkers: to them a draft is its model, whose fields can be set.
        __setattr__ = refuse_assignment
        __delattr__ = refuse_deletion

        def __init_subclass__(cls, *, type_name: str | None = None, schema_version: int = 1, **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            if "__reactstate_derived__" not in cls.__dict__:
                _define(cls, type_name, schema_version)

        @classmethod
        def __pydantic_init_subclass__(
            cls, *, type_name: str | None = None, schema_version: int = 1, **kwargs: Any
        ) -> None:
            del type_name, schema_version  # __init_subclass__ has taken them
            super().__pydantic_init_subclass__(**kwargs)

        @classmethod
        def __pydantic_on_complete__(cls) -> None:
            super().__pydantic_on_complete__()
            if "__reactstate_type_name__" in cls.__dict__:
                _complete(cls)

        @classmethod
        @override
        def model_rebuild(
            cls,
            *,
            force: bool = False,
            raise_errors: bool = True,
            _parent_namespace_depth: int = 2,
            _types_namespace: Any = None,
        ) -> bool | None:
            was_complete = cls.__pydantic_complete__
            done = super().model_rebuild(
                force=force,
                raise_errors=raise_errors,
                _parent_namespace_depth=_parent_namespace_depth + 1,
                _types_namespace=_types_namespace,
            )
            if was_complete and done:
                _complete(cls)  # pydantic calls its hook the first time only
            return done

        @override
        def __copy__(self) -> Self:
            return self

        @override
        def __deepcopy__(self, memo: Any = None) -> Self:
            return self

        @override
        def __reduce__(self) -> Any:
            # in pickles too, lists and dicts are plain: a state is built anew, so that it is frozen and migrated
            from reactstate.state.document import schema_of, to_document

            return _restore, (type(self), schema_of(type(self)), to_document(self))

        @override
        def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
            """Return a copy with *update* set, validated like any other change; without one, the state itself."""
            if not update:
                return self
            from reactstate.state.produce import produce

            return produce(self, update).state

        @classmethod
        @override
        def model_construct(cls, _fields_set: set[str] | None = None, **values: Any) -> Self:
            """Validate *values* like the constructor: an unchecked state could not be stored."""
            return cls.model_validate(values, by_name=True)

    # Any, so that a class may name itself where it overrides these
    def check_transition(self, previous: Any) -> None:
        """Refuse a change by raising TransitionError; called with the state before, after all validators.

        It is called for every change that leads from one state to another, a rollback, undo or restore too; not when a
        state is created or deleted. It must be pure: it may run more than once, and for a change that is not made. The
        default allows everything.

        Any other exception in it is taken for a mistake in the class, not for a refusal: it reaches the caller as it
        is. The state, the version and the history stay as they were in either case, and nobody is told.
        """

    def merge(self, other: Any) -> Self:  # noqa: ARG002 - subclasses use it
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


def _define(cls: type[State], type_name: str | None, schema_version: int) -> None:
    """Take the class keywords, before pydantic collects the fields."""
    for name in _RESERVED:
        if name in inspect.get_annotations(cls):
            raise StateDefinitionError(f"{cls.__name__}.{name} cannot be a field: State has a method of that name")
    if type_of(schema_version) is not int or schema_version < 1:
        raise StateDefinitionError(f"{cls.__name__}: schema_version must be a whole number from 1 on")
    name = cls.__name__ if type_name is None else type_name
    if type_of(name) is not str or not name or not name.isprintable():
        raise StateDefinitionError(f"{cls.__name__}: type_name must be a str of printable characters, not {name!r}")
    found: dict[int, Callable[[Any], Any]] = {}
    for value in cls.__dict__.values():
        if isinstance(value, migration) and value.function is not None:
            if value.from_version in found or value.from_version >= schema_version:
                raise StateDefinitionError(
                    f"{cls.__name__}: a migration from version {value.from_version} "
                    f"{'is there twice' if value.from_version in found else 'needs a higher schema_version'}"
                )
            found[value.from_version] = value.function
    type.__setattr__(cls, "__reactstate_type_name__", name)
    type.__setattr__(cls, "__reactstate_schema_version__", schema_version)
    type.__setattr__(cls, "__reactstate_migrations__", found)


_completing: list[type[State]] = []
"""The classes whose fields are known now, of which one may refer to the other: they are finished together."""


def _complete(cls: type[State]) -> None:
    """Check the fields and harden the schema, once pydantic knows them all."""
    generic = cls.__pydantic_generic_metadata__
    if generic["parameters"]:
        return  # a template; its parametrisations are checked
    origin: Any = generic["origin"]
    if origin is not None:
        name = cls.__name__.replace(origin.__name__, origin.__reactstate_type_name__, 1)
        type.__setattr__(cls, "__reactstate_type_name__", name)
        type.__setattr__(cls, "__reactstate_schema_version__", origin.__reactstate_schema_version__)
        type.__setattr__(cls, "__reactstate_migrations__", origin.__reactstate_migrations__)
    MODELS.pop(cls, None)
    first = not _completing
    _completing.append(cls)
    try:
        kind_of(cls).guarded = cls.check_transition is not State.check_transition
        if first:
            _finish_completing()
    except UndefinedTypeError:
        if not first:
            raise
        for one in _completing:
            _postpone(one)
    except BaseException:
        if first:
            for one in _completing:
                _disable(one)
        raise
    finally:
        if first:
            _completing.clear()


def _finish_completing() -> None:
    from reactstate.state.document import check_type_names

    for one in _completing:
        check_type_names(kind_of(one))
    for one in _completing:
        install(one)


class _Postponed:
    """The validator of a class that refers to a class not defined yet: completes it when it is first used."""

    def __init__(self, cls: type[State]) -> None:
        self._cls = cls

    def __getattr__(self, name: str) -> Any:
        self._cls.model_rebuild(raise_errors=False)
        found = self._cls.__pydantic_validator__
        if isinstance(found, _Postponed):
            kind_of(self._cls)  # raises the error that says what is missing
        return getattr(found, name)


def _postpone(cls: type[State]) -> None:
    MODELS.pop(cls, None)
    cls.__pydantic_complete__ = False
    cls.__pydantic_validator__ = cast("Any", _Postponed(cls))


def _disable(cls: type[State]) -> None:
    """Make a class unusable whose definition was refused, or that of a class which it refers to."""

    def refuse_use(value: Any) -> NoReturn:
        del value
        raise StateDefinitionError(f"{cls.__name__} cannot be used: its definition, or one it refers to, was refused")

    MODELS.pop(cls, None)
    cls.__pydantic_validator__ = SchemaValidator(core_schema.no_info_plain_validator_function(refuse_use))


def state_key(state: State) -> str:
    """Return the key of *state*: its own field or property ``id`` (str, int or UUID) as text, else its type name.

    Raises:
        StateValidationError: ``id`` is there and is of another type, or empty.
    """
    cls = type(state)
    if "id" not in cls.model_fields and not isinstance(getattr(cls, "id", None), property):
        return cls.__reactstate_type_name__
    value: Any = getattr(state, "id")  # noqa: B009 - State itself has no such attribute
    if isinstance(value, bool) or not isinstance(value, str | int | UUID) or value == "":
        raise StateValidationError(f"{cls.__name__}.id must be a str, int or UUID that is not empty, not {value!r}")
    return str(value)
