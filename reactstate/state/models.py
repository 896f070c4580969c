"""The kind of a model: a State, or a plain pydantic model nested in one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from typing_extensions import override

from reactstate.errors import DecodeError, SchemaVersionError
from reactstate.state.frozen import type_of
from reactstate.state.kinds import Kind, Wire, is_object, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reactstate.state.edits import Edit, Path
    from reactstate.state.schema import Rules

__all__ = [
    "ModelKind",
    "assemble",
    "derive",
    "frozen_class",
    "is_state_class",
    "new_object",
    "restore_plain",
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

new_object: Callable[[type[Any]], Any] = object.__new__
set_class: Callable[[Any, type[Any]], None] = object.__dict__["__class__"].__set__


def assemble(cls: type[Any], fields: dict[str, Any], fields_set: set[str]) -> Any:
    """Return an instance of *cls* made of *fields* as they are, without validation; *fields* becomes its own."""
    made = new_object(cls)
    set_dict(made, fields)
    set_fields_set(made, fields_set)
    set_extra(made, None)
    set_private(made, None)
    return made


def restore_plain(cls: type[Any], fields: dict[str, Any], fields_set: set[str]) -> Any:
    """Return the plain model that was pickled: a copy, which may be changed like any other."""
    return assemble(cls, fields, fields_set)


_FROZEN: dict[type[Any], type[Any]] = {}


def is_state_class(cls: type[Any]) -> bool:
    """Say whether *cls* is a State class and not a plain pydantic model."""
    return hasattr(cls, "__reactstate_type_name__")


def frozen_class(cls: type[Any]) -> type[Any]:
    """Return the subclass of the plain model *cls* whose instances cannot be changed (State classes are already)."""
    made = _FROZEN.get(cls)
    if made is None:
        made = _FROZEN[cls] = cls if is_state_class(cls) else _derive_frozen(cls)
    return made


def _derive_frozen(cls: type[Any]) -> type[Any]:
    from reactstate.state.state import refuse_assignment, refuse_deletion

    def same(self: Any, other: object) -> Any:
        if not isinstance(other, cls):
            return NotImplemented
        mine, theirs = self.__dict__, other.__dict__
        return all(mine[name] == theirs.get(name) for name in cls.model_fields)

    def itself(self: Any, _memo: Any = None) -> Any:
        return self

    def reduce(self: Any) -> Any:
        fields = {name: self.__dict__[name] for name in cls.model_fields}
        return restore_plain, (cls, fields, self.__pydantic_fields_set__)

    namespace: dict[str, Any] = {
        "__slots__": (),
        "__doc__": cls.__doc__,
        "__setattr__": refuse_assignment,
        "__delattr__": refuse_deletion,
        "__eq__": same,
        "__hash__": None,
        "__copy__": itself,
        "__deepcopy__": itself,
        "__reduce__": reduce,
    }
    return derive(cls, cls, namespace)


def derive(cls: type[Any], base: type[Any], namespace: dict[str, Any]) -> type[Any]:
    """Make a subclass of *base* that looks like *cls* and keeps its schema and fields, without building them again."""
    namespace = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__reactstate_derived__": True,
        **namespace,
    }
    return type.__new__(type(cls), cls.__name__, (base,), namespace)


class ModelKind(Kind):
    """A model, field by field.

    Attributes:
        cls: The class.
        frozen: The class of its published instances.
        type_name: The name under which it is stored; None for a plain model.
        schema_version: The version of its schema; 0 for a plain model.
        fields: The kind of each field.
        names: The fields' names, sorted.
        paths: The path of each field of a root.
        known: The fields are known; until then the class is being defined.
        validated: The class has validators of its own or of its fields.
        migrations: Functions over the raw document, by the version that they start from.
        guarded: The class has a ``check_transition`` of its own.
        rules: How pydantic validates its fields one by one.
        draft_class: The class of its drafts; None until ``prepare``.
        dead_class: What they become when their recipe has ended.
    """

    rules: Rules
    draft_class: type[Any] | None = None
    dead_class: type[Any]
    guarded = False

    wire: frozenset[Wire] = frozenset(("object",))
    editable = True
    is_model = True

    def __init__(self, cls: type[Any]) -> None:
        self.annotation = cls
        self.cls: type[Any] = cls
        self.frozen: type[Any] = frozen_class(cls)
        self.type_name: str | None = getattr(cls, "__reactstate_type_name__", None)
        self.schema_version: int = getattr(cls, "__reactstate_schema_version__", 0)
        self.migrations: dict[int, Callable[[Any], Any]] = getattr(cls, "__reactstate_migrations__", {})
        self.fields: dict[str, Kind] = {}
        self.size: int = 0
        self.known: bool = False
        self.paths: dict[str, Path] = {}
        self.names: list[str] = []
        found = cls.__pydantic_decorators__
        self.validated: bool = bool(
            found.field_validators or found.model_validators or found.validators or found.root_validators
        )
        self.versioned = self.type_name is not None
        self._encoders: list[tuple[str, Kind | None]] = []

    def complete(self, fields: dict[str, Kind]) -> None:
        """Take the kinds of the fields, once all are known."""
        self.fields = fields
        self.size = len(fields)
        self.known = True
        self.paths = {name: (None, self, name) for name in fields}
        self.names = sorted(fields)
        self._encoders = [(name, None if fields[name].plain else fields[name]) for name in self.names]
        self.versioned: bool = self.versioned or any(kind.versioned for kind in fields.values())
        self.recursive: bool = self.recursive or any(kind.recursive for kind in fields.values())
        # what a validator of the user's is given must not depend on how the document was written
        self.natural: bool = not self.validated and not self.recursive and all(kind.natural for kind in fields.values())

    def prepare(self) -> type[Any]:
        """Make what drafts need, when the first of them is made, and return their class."""
        from reactstate.state.draft import make_draft_classes
        from reactstate.state.schema import Rules

        self.rules = Rules(self)
        made, self.dead_class = make_draft_classes(self)
        self.draft_class = made
        return made

    @override
    def parts(self) -> Sequence[Kind]:
        return [self.fields[name] for name in self.names]

    # --- documents ------------------------------------------------------------------------------------------------

    @override
    def encode(self, value: Any) -> Any:
        fields = value.__dict__
        return {name: fields[name] if kind is None else kind.encode(fields[name]) for name, kind in self._encoders}

    @override
    def decode(self, document: Any) -> Any:
        if self.natural:
            return document
        if not is_object(document):
            raise DecodeError(f"an object is expected, not {shown(document)}")
        kinds = self.fields
        return {name: kinds[name].decode(part) if name in kinds else part for name, part in document.items()}

    def read(self, found: Any) -> Any:
        """Return the instance for the decoded fields *found*.

        Raises:
            pydantic.ValidationError: They do not fit, or there are fields that the class does not have.
        """
        return self.cls.__pydantic_validator__.validate_python(found, extra="forbid", by_alias=False, by_name=True)

    @override
    def migrate(self, document: Any, stored: dict[str, int]) -> Any:
        if not self.versioned or not is_object(document):
            return document
        if self.type_name is not None and self.type_name in stored:
            document = self._migrate_own(document, stored[self.type_name])
        moved = {
            name: self.fields[name].migrate(part, stored)
            for name, part in document.items()
            if name in self.fields and self.fields[name].versioned
        }
        return {**document, **moved}

    def _migrate_own(self, document: dict[str, Any], version: int) -> dict[str, Any]:
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
            try:
                moved = step(document)
            except Exception as exc:
                raise DecodeError(
                    f"the migration of {name!r} from version {version} raised {type(exc).__name__}: {exc}"
                ) from exc
            if not is_object(moved):
                raise DecodeError(f"the migration of {name!r} from version {version} must return the document")
            document = moved
            version += 1
        return document

    def tagged(self, discriminator: str, tag: Any) -> bool:
        """Say whether *tag* is a value of its field *discriminator*."""
        try:
            self.fields[discriminator].decode(tag)
        except DecodeError:
            return False
        return True

    # --- values ---------------------------------------------------------------------------------------------------

    @override
    def holds(self, value: Any) -> bool:
        kind = type_of(value)
        return kind is self.frozen or kind is self.cls

    @override
    def seal(self, value: Any) -> Any:
        kind = type_of(value)
        if kind is self.frozen:
            return value
        if kind is self.cls:
            return self._frozen_copy(value)
        raise ValueError(
            f"a {kind.__name__} stands where {self.cls.__name__} is declared; "
            "declare the field as a union of both, told apart by a discriminator"
        )

    def _frozen_copy(self, value: Any) -> Any:
        """Freeze a plain model that a validator made: nobody else may hold what is published."""
        fields = value.__dict__
        missing = [name for name in self.fields if name not in fields]
        if missing:
            raise ValueError(f"a {self.cls.__name__} lacks {missing[0]!r}; make it with its constructor")
        sealed = {name: kind.seal(fields[name]) for name, kind in self.fields.items()}
        return assemble(self.frozen, sealed, value.__pydantic_fields_set__)

    @override
    def depth(self, value: Any) -> int:
        if not self.recursive:
            return 1
        fields = value.__dict__
        return 1 + max((kind.depth(fields[name]) for name, kind in self.fields.items()), default=0)

    @override
    def child(self, key: Any) -> Kind:
        return self.fields[key]

    @override
    def diff(self, old: Any, new: Any, path: Path, edits: list[Edit]) -> None:
        if old is new:
            return
        before, after = old.__dict__, new.__dict__
        for name, kind in self.fields.items():
            if before[name] is not after[name]:
                kind.diff(before[name], after[name], (path, self, name), edits)

    @override
    def own(self, value: Any, owned: dict[int, Any]) -> Any:
        if id(value) in owned:
            return value
        fields = {name: value.__dict__[name] for name in self.fields}
        made = assemble(self.frozen, fields, value.__pydantic_fields_set__)
        owned[id(made)] = made
        return made

    @override
    def part(self, value: Any, key: Any) -> Any:
        return value.__dict__[key]

    @override
    def replaced(self, value: Any, key: Any, new: Any) -> Any:
        value.__dict__[key] = new
        return value
