"""The kind of a model: a State, or a plain pydantic model nested in one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from reactstate.errors import DecodeError, SchemaVersionError
from reactstate.state.kinds import Kind, Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from reactstate.state.edits import Edit, Path
    from reactstate.state.schema import Rules

__all__ = [
    "ModelKind",
    "assemble",
    "frozen_class",
    "new_object",
    "set_class",
    "set_dict",
    "set_extra",
    "set_fields_set",
    "set_private",
]

set_dict: Callable[[Any, Any], None] = BaseModel.__dict__["__dict__"].__set__
set_fields_set: Callable[[Any, Any], None] = BaseModel.__dict__["__pydantic_fields_set__"].__set__
set_extra: Callable[[Any, Any], None] = BaseModel.__dict__["__pydantic_extra__"].__set__
set_private: Callable[[Any, Any], None] = BaseModel.__dict__["__pydantic_private__"].__set__

new_object = object.__new__
set_class: Callable[[Any, type[Any]], None] = object.__dict__["__class__"].__set__


def assemble(cls: type[Any], fields: dict[str, Any], fields_set: set[str]) -> Any:
    """Return an instance of *cls* made of *fields* as they are, without validation; *fields* becomes its own."""
    made = new_object(cls)
    set_dict(made, fields)
    set_fields_set(made, fields_set)
    set_extra(made, None)
    set_private(made, None)
    return made


_FROZEN: dict[type[Any], type[Any]] = {}


def frozen_class(cls: type[Any]) -> type[Any]:
    """Return the subclass of the plain model *cls* whose instances cannot be changed (State classes are already)."""
    made = _FROZEN.get(cls)
    if made is None:
        from reactstate.state.state import State, refuse_assignment

        if issubclass(cls, State):
            made = cls
        else:

            def same(self: Any, other: object) -> Any:
                if isinstance(other, cls):
                    return bool(self.__dict__ == other.__dict__)
                return NotImplemented

            namespace: dict[str, Any] = {
                "__module__": cls.__module__,
                "__qualname__": cls.__qualname__,
                "__slots__": (),
                "__doc__": cls.__doc__,
                "__setattr__": refuse_assignment,
                "__delattr__": refuse_assignment,
                "__eq__": same,
                "__hash__": None,
                "__reduce__": lambda self: (cls.model_construct, (), dict(self.__dict__)),
            }
            made = _derive(cls, namespace)
        _FROZEN[cls] = made
    return made


def _derive(cls: type[Any], namespace: dict[str, Any]) -> type[Any]:
    """Make a subclass that keeps the model's schema, validator and fields, without building them again."""
    return type.__new__(type(cls), cls.__name__, (cls,), namespace)


class ModelKind(Kind):
    """A model, field by field.

    Attributes:
        cls: The class.
        type_name: The name under which it is stored; None for a plain model.
        schema_version: The version of its schema; 0 for a plain model.
        fields: The kind of each field.
        names: The fields' names, sorted.
        migrations: Functions over the raw document, by the version that they start from.
        guarded: The class has a ``check_transition`` of its own.
        rules: How pydantic validates its fields one by one.
        draft_class: The class of its drafts; None until ``prepare``.
        dead_class: What they become when their recipe has ended.
    """

    rules: Rules
    draft_class: type[Any] | None = None
    dead_class: type[Any]

    wire: frozenset[Wire] = frozenset(("object",))
    editable = True
    is_model = True

    def __init__(self, cls: type[Any]) -> None:
        self.annotation = self.cls = cls
        self.frozen = frozen_class(cls)
        self.type_name: str | None = getattr(cls, "__reactstate_type_name__", None)
        self.schema_version: int = getattr(cls, "__reactstate_schema_version__", 0)
        self.migrations: dict[int, Callable[[Any], Any]] = getattr(cls, "__reactstate_migrations__", {})
        self.fields: dict[str, Kind] = {}
        self.known = False
        self.names: list[str] = []
        self.guarded = False
        self.strict = bool(cls.model_config.get("strict"))
        self.versioned = self.type_name is not None
        self._encoders: list[tuple[str, Kind | None]] = []

    def complete(self, fields: dict[str, Kind]) -> None:
        """Take the kinds of the fields, once all are known."""
        self.fields = fields
        self.known = True
        self.names = sorted(fields)
        self._encoders = [(name, None if fields[name].plain else fields[name]) for name in self.names]
        self.versioned = self.versioned or any(kind.versioned for kind in fields.values())
        self.recursive = self.recursive or any(kind.recursive for kind in fields.values())
        natural = all(kind.natural and not kind.custom for kind in fields.values())
        self.natural = natural and not self.strict and not self.recursive and not self._has_own_validators()

    def takes_exact(self, name: str) -> bool:
        """Say whether a value of exactly the declared type is valid for the field *name* as it is."""
        info, config = self.cls.model_fields[name], self.cls.model_config
        if self.fields[name].exact is None or info.metadata or info.frozen or name in self.rules.whole:
            return False
        return config.get("allow_inf_nan", True) and not any(name.startswith("str_") for name in config)

    def _has_own_validators(self) -> bool:
        found = self.cls.__pydantic_decorators__
        return bool(found.field_validators or found.model_validators or found.validators or found.root_validators)

    def prepare(self) -> None:
        """Make what drafts need, when the first of them is made."""
        from reactstate.state.draft import make_draft_classes
        from reactstate.state.schema import Rules

        self.rules = Rules(self)
        self.draft_class, self.dead_class = make_draft_classes(self)

    # --- documents ------------------------------------------------------------------------------------------------

    def encode(self, value: Any) -> Any:
        fields = value.__dict__
        return {name: fields[name] if kind is None else kind.encode(fields[name]) for name, kind in self._encoders}

    def decode(self, document: Any) -> Any:
        if self.natural:
            return document
        if not isinstance(document, dict):
            raise DecodeError(f"an object is expected, not {type(document).__name__}")
        kinds = self.fields
        found = {
            name: kinds[name].decode(part) if name in kinds else part for name, part in document.items()
        }
        return self.read(found) if self.strict else found

    def read(self, found: Any) -> Any:
        """Return the instance for the decoded fields *found*.

        Raises:
            pydantic.ValidationError: They do not fit, or there are fields that the class does not have.
        """
        return self.cls.__pydantic_validator__.validate_python(found, extra="forbid", by_alias=False, by_name=True)

    def migrate(self, document: Any, stored: dict[str, int]) -> Any:
        if not self.versioned or not isinstance(document, dict):
            return document
        if self.type_name is not None and self.type_name in stored:
            document = self._migrate_own(document, stored[self.type_name])
        moved = {
            name: self.fields[name].migrate(part, stored)
            for name, part in document.items()
            if name in self.fields and self.fields[name].versioned
        }
        return {**document, **moved}

    def _migrate_own(self, document: Any, version: int) -> Any:
        name, current = self.type_name, self.schema_version
        if version > current:
            raise SchemaVersionError(
                f"{name!r} was stored with schema version {version}, but this program knows {current}; "
                "open it with a newer program",
                type_name=name,
                stored=version,
                current=current,
            )
        while version < current:
            step = self.migrations.get(version)
            if step is None:
                raise SchemaVersionError(
                    f"{name!r} was stored with schema version {version} and the class has {current}: "
                    f"give it a @migration(from_version={version})",
                    type_name=name,
                    stored=version,
                    current=current,
                )
            document = step(document)
            if not isinstance(document, dict):
                raise DecodeError(f"the migration of {name!r} from version {version} returned no document")
            version += 1
        return document

    def tagged(self, discriminator: str, tag: Any) -> bool:
        """Say whether *tag* is a value of its field *discriminator*."""
        kind = self.fields.get(discriminator)
        if kind is None:
            return False
        try:
            kind.decode(tag)
        except DecodeError:
            return False
        return True

    # --- values ---------------------------------------------------------------------------------------------------

    def holds(self, value: Any) -> bool:
        return type(value) is self.cls or type(value) is self.frozen

    def seal(self, value: Any) -> Any:
        kind = type(value)
        if kind is self.frozen:
            return value
        if kind is self.cls:
            set_class(value, self.frozen)
            return value
        raise ValueError(
            f"a {kind.__name__} stands where {self.cls.__name__} is declared; "
            f"declare the field as a union of both, told apart by a discriminator"
        )

    def depth(self, value: Any) -> int:
        if not self.recursive:
            return 1
        fields = value.__dict__
        return 1 + max((kind.depth(fields[name]) for name, kind in self.fields.items()), default=0)

    def child(self, key: Any) -> Kind:
        return self.fields[key]

    def token(self, key: Any) -> str:
        return str(key)

    def diff(self, old: Any, new: Any, path: Path, edits: list[Edit]) -> None:
        if old is new:
            return
        if type(old) is not type(new):
            edits.append((path, old, new))
            return
        before, after = old.__dict__, new.__dict__
        for name, kind in self.fields.items():
            if before[name] is not after[name]:
                kind.diff(before[name], after[name], (path, self, name), edits)

    def make(self, fields: dict[str, Any], fields_set: set[str]) -> Any:
        """Return an instance of validated *fields*, which become its own."""
        return assemble(self.frozen, fields, fields_set)

    def own(self, value: Any, owned: dict[int, Any]) -> Any:
        if id(value) in owned:
            return value
        made = assemble(type(value), {name: value.__dict__[name] for name in self.fields}, value.__pydantic_fields_set__)
        owned[id(made)] = made
        return made

    def part(self, value: Any, key: Any) -> Any:
        return value.__dict__[key]

    def replaced(self, value: Any, key: Any, new: Any) -> Any:
        value.__dict__[key] = new
        return value
