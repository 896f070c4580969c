"""Which field types a State may have, and the kind of each.

The set is closed: what is not in it could not be stored and read back unchanged, and is refused when the class is
defined, with a sentence that says what to use instead.
"""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import ipaddress
import pathlib
import types
from datetime import date, datetime
from enum import Enum
from numbers import Number
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ForwardRef,
    Literal,
    NewType,
    TypeGuard,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

import annotated_types
import pydantic
import typing_extensions
from pydantic import BaseModel, JsonValue, RootModel
from pydantic.fields import FieldInfo
from pydantic.networks import AnyUrl, _BaseMultiHostUrl, _BaseUrl  # pyright: ignore[reportPrivateUsage] - no public base

from reactstate.errors import StateDefinitionError
from reactstate.state.composites import DictKind, ListKind, MapKind, SetKind, TupleKind
from reactstate.state.frozen import type_of
from reactstate.state.kinds import EnumKind, Kind, LiteralKind, NoneKind, Scalar, TextKind, standard_scalar
from reactstate.state.maps import Map
from reactstate.state.models import ModelKind
from reactstate.state.unions import JsonKind, UnionKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["MODELS", "UndefinedTypeError", "compile_kind", "kind_of", "register_scalar"]

MODELS: dict[type[Any], ModelKind] = {}
"""The kinds of all model classes met so far; it has those of all State classes that were not refused."""

_REGISTERED: dict[Any, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {}

_MOMENTS: dict[Any, type] = {
    pydantic.AwareDatetime: datetime,
    pydantic.NaiveDatetime: datetime,
    pydantic.PastDatetime: datetime,
    pydantic.PastDate: date,
}

_HINTS: dict[Any, str] = {
    Any: "name the type, or use pydantic's JsonValue for free-form JSON",
    object: "name the type, or use pydantic's JsonValue for free-form JSON",
    list: "say what it holds, as in list[int] or list[JsonValue]",
    dict: "say what it holds, as in dict[str, int] or dict[str, JsonValue]",
    set: "say what it holds, as in set[str]",
    frozenset: "say what it holds, as in frozenset[str]",
    tuple: "say what it holds, as in tuple[int, str] or tuple[int, ...]",
    Map: "say what it holds, as in Map[str, Flight]",
    collections.deque: "use list[...]",
    collections.defaultdict: "use dict[...] and draft.field.setdefault(...)",
    collections.OrderedDict: "use dict[...]; documents keep their keys sorted",
    collections.Counter: "use dict[str, int]",
    collections.abc.Sequence: "use list[...] or tuple[..., ...]",
    collections.abc.MutableSequence: "use list[...]",
    collections.abc.Iterable: "use list[...]",
    collections.abc.Mapping: "use dict[...] or Map[...]",
    collections.abc.MutableMapping: "use dict[...] or Map[...]",
    collections.abc.Set: "use set[...] or frozenset[...]",
    collections.abc.MutableSet: "use set[...]",
    typing_extensions.Self: "name the class",  # pyright: ignore[reportUnknownMemberType] - special forms have no type
    collections.abc.Callable: "a state holds data; keep functions beside it",  # pyright: ignore[reportUnknownMemberType]
    bytearray: "use bytes",
    memoryview: "use bytes",
    range: "use list[int], or two int fields",
    type: "a state holds data; store a name instead",
    pydantic.ByteSize: "use int",
    complex: "use a State with two floats",
    pydantic.SecretStr: "a secret does not belong in a state: it would be stored; keep a reference to it",
    pydantic.SecretBytes: "a secret does not belong in a state: it would be stored; keep a reference to it",
    pydantic.FutureDate: "what lies in the future when it is set need not when it is read; use date and check_transition",
    pydantic.FutureDatetime: "what lies in the future when it is set need not when it is read; use datetime",
}


_NOT_IDEMPOTENT = frozenset(("Json", "EncodedBytes", "EncodedStr"))
"""pydantic's metadata that turns a value into another each time it is validated."""


def register_scalar(
    scalar: type[Any], *, encode: Callable[[Any], str], decode: Callable[[str], Any] | None = None
) -> None:
    """Allow *scalar* as a field type, before the classes that use it are defined.

    Each value is tried when it is set: what cannot be read back as an equal value of the same type is refused.

    Args:
        scalar: The type; its values must be immutable. Unless pydantic knows it, only instances are valid.
        encode: Value to str.
        decode: The str back to an equal value (default: *scalar* itself).
    """
    _REGISTERED[scalar] = (encode, decode if decode is not None else scalar)


def kind_of(cls: type[Any]) -> ModelKind:
    """Return the kind of a model class, compiling it on first use.

    Raises:
        StateDefinitionError: A field could not be stored and read back unchanged.
    """
    kind = MODELS.get(cls)
    if kind is not None:
        if not kind.known:
            # met again while its own fields are being compiled: what it holds is not known yet, so expect the most
            kind.recursive = kind.versioned = True
        return kind
    if "__reactstate_derived__" in cls.__dict__:
        return kind_of(cls.__bases__[0])
    if not cls.__pydantic_complete__:
        cls.model_rebuild(raise_errors=False)
        if cls in MODELS:
            return kind_of(cls)
    _check_model(cls)
    kind = MODELS[cls] = ModelKind(cls)
    try:
        kind.complete(_field_kinds(cls))
    except BaseException:
        del MODELS[cls]
        raise
    return kind


class UndefinedTypeError(StateDefinitionError):
    """A field refers to a class that is not defined yet."""


def _field_kinds(cls: type[Any]) -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    undefined: UndefinedTypeError | None = None
    for name, field in cls.model_fields.items():
        try:
            kinds[name] = _field_kind(cls, name, field)
        except UndefinedTypeError as exc:  # what is wrong with the others is to be known first
            undefined = exc
    if undefined is not None:
        raise undefined
    return kinds


def _check_model(cls: type[Any]) -> None:
    where = cls.__name__
    if issubclass(cls, RootModel):
        raise StateDefinitionError(f"{where} is a RootModel; use the type inside it directly")
    if cls.__private_attributes__:
        names = ", ".join(sorted(cls.__private_attributes__))
        raise StateDefinitionError(f"{where} has private attributes ({names}), which would be lost; make them fields")
    if cls.model_config.get("extra") == "allow":
        raise StateDefinitionError(f"{where} allows extra fields; use a field of type dict[str, JsonValue]")
    if cls.model_config.get("use_enum_values"):
        raise StateDefinitionError(f"{where} sets use_enum_values; keep the members, documents hold their values")
    if cls.__pydantic_custom_init__:
        raise StateDefinitionError(f"{where} defines __init__; use validators, defaults or a classmethod instead")
    if cls.__pydantic_post_init__:
        raise StateDefinitionError(f'{where} defines model_post_init; use @model_validator(mode="after") instead')


def _field_kind(cls: type[Any], name: str, field: FieldInfo) -> Kind:
    where = f"{cls.__name__}.{name}"
    kind = compile_kind(field.annotation, where, _discriminator([field, *field.metadata], None, where))
    kind = _annotated(kind, _with_metadata(field.annotation, field.metadata), field.metadata, where)
    _set_owner(kind, cls)
    return kind


def _set_owner(kind: Kind, owner: type[Any]) -> None:
    """Note whose configuration applies to the parts of a field."""
    if kind.owner is not None or isinstance(kind, ModelKind):
        return
    kind.owner = owner
    if owner.model_config.get("strict"):
        kind.natural = False  # a strict model takes the values themselves, not how they are written
    for part in kind.parts():
        _set_owner(part, owner)


def _with_metadata(annotation: Any, metadata: list[Any]) -> Any:
    for item in metadata:
        annotation = Annotated[annotation, item]
    return annotation


def compile_kind(annotation: Any, where: str, discriminator: str | None = None) -> Kind:
    """Return the kind of *annotation*.

    Args:
        annotation: The evaluated annotation.
        where: The field it belongs to, for error texts.
        discriminator: The field that tells the members of a union apart.

    Raises:
        StateDefinitionError: It is not of the closed set.
    """
    if annotation is JsonValue:
        return JsonKind(annotation)
    if isinstance(annotation, type) and annotation in _REGISTERED:
        encode, decode = _REGISTERED[annotation]
        return TextKind(annotation, annotation, encode, decode, natural=False, checked=True, subclasses=True)
    alias = get_origin(annotation) or annotation
    if hasattr(alias, "__type_params__") and hasattr(alias, "__value__"):
        return _type_alias(annotation, alias, where, discriminator)
    scalar = standard_scalar(_MOMENTS.get(annotation, annotation) if isinstance(annotation, type) else annotation)
    if scalar is not None:
        scalar.annotation = annotation
        return scalar
    if isinstance(annotation, NewType):  # typing.NewType
        supertype: Any = annotation.__supertype__
        return compile_kind(supertype, where, discriminator)
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *metadata = get_args(annotation)
        discriminator = _discriminator(metadata, discriminator, where)
        return _annotated(compile_kind(base, where, discriminator), annotation, metadata, where)
    if origin is Literal:
        return _literal(annotation, where)
    if origin is Union or origin is types.UnionType:
        return _union(annotation, where, discriminator)
    if origin is not None:
        return _generic(annotation, origin, get_args(annotation), where)
    if isinstance(annotation, type):
        return _class(annotation, where)
    raise _refusal(annotation, where)


def _discriminator(metadata: Sequence[Any], found: str | None, where: str) -> str | None:
    """Return the field that the last of *metadata* to name one gives for telling the members of a union apart."""
    for item in metadata:
        named = item.discriminator if isinstance(item, FieldInfo | pydantic.Discriminator) else None
        if isinstance(named, pydantic.Discriminator):
            named = named.discriminator
        if named is not None and not isinstance(named, str):
            raise StateDefinitionError(
                f"{where}: a discriminator must name a field, so that documents can be told apart"
            )
        found = named or found
    return found


def _type_alias(annotation: Any, alias: Any, where: str, discriminator: str | None) -> Kind:
    value: Any = alias.__value__
    if alias is not annotation:
        value = value[get_args(annotation)]
    try:
        return compile_kind(value, where, discriminator)
    except RecursionError as exc:
        raise StateDefinitionError(
            f"{where}: the type alias {alias.__name__} refers to itself; use a State that refers to itself, or JsonValue"
        ) from exc


def _annotated(kind: Kind, annotation: Any, metadata: Sequence[Any], where: str) -> Kind:
    """Note that a kind carries validators or constraints, so that changes inside it are validated as a whole."""
    flat: list[Any] = []
    for item in metadata:
        flat.extend(item.metadata if isinstance(item, FieldInfo) else [item])
    relevant = [item for item in flat if not isinstance(item, str | annotated_types.DocInfo | pydantic.Discriminator)]
    if not relevant:
        return kind
    for item in relevant:
        if isinstance(item, pydantic.types.PathType):
            raise StateDefinitionError(f"{where}: a path that must exist now need not when it is read; use Path")
        name = _type_name(item)
        if name in _NOT_IDEMPOTENT:
            raise StateDefinitionError(f"{where}: {name} changes a value each time it is validated; decode it before")
    if any(isinstance(item, pydantic.Strict) and item.strict for item in relevant):
        kind.natural = False
        if kind.is_model or (isinstance(kind, UnionKind) and any(member.is_model for member in kind.members)):
            raise StateDefinitionError(f"{where}: strict is for values; set strict=True in the model's config instead")
    if isinstance(kind, ModelKind | JsonKind):
        kind = UnionKind(annotation, [kind])  # what is inside has the kind without the metadata
    kind.annotation = annotation
    kind.whole = kind.editable
    own = not all(isinstance(item, annotated_types.BaseMetadata) for item in relevant)
    if own:
        kind.natural = False
    # pydantic checks a constraint by a function of its own where the schema of the type has no place for it
    kind.custom = kind.custom or own or isinstance(kind, UnionKind) or (isinstance(kind, Scalar) and not kind.plain)
    return kind


def _type_name(item: Any) -> str:
    cls = item if isinstance(item, type) else type_of(item)
    return cls.__name__ if cls.__module__.startswith("pydantic.") else ""


def _literal(annotation: Any, where: str) -> Kind:
    values = get_args(annotation)
    if not all(isinstance(value, str | int | bytes | Enum) or value is None for value in values):
        raise _refusal(annotation, where)
    kind = LiteralKind(annotation, values)
    if len(kind.members) < len(set(map(_typed, values))):
        raise StateDefinitionError(f"{where}: two of the literals look alike in a document; rename one")
    return kind


def _typed(value: Any) -> tuple[type, Any]:
    return type_of(value), value


def _union(annotation: Any, where: str, discriminator: str | None) -> Kind:
    members = [compile_kind(member, where) for member in get_args(annotation)]
    if any(isinstance(member, JsonKind) for member in members):
        members = [member for member in members if not isinstance(member, NoneKind)]  # JSON has a null of its own
    for at, one in enumerate(members):
        for other in members[:at]:
            _check_decidable(one, other, where, discriminator)
    return members[0] if len(members) == 1 else UnionKind(annotation, members, discriminator)


def _of_models(kind: Kind) -> bool:
    return kind.is_model or (isinstance(kind, UnionKind) and all(_of_models(member) for member in kind.members))


def _check_decidable(one: Kind, other: Kind, where: str, discriminator: str | None) -> None:
    shared = one.wire & other.wire
    if any(_is_confused(a, b) or _is_confused(b, a) for a in _members(one) for b in _members(other)):
        raise StateDefinitionError(
            f"{where}: {_name(other.annotation)} and {_name(one.annotation)} are confused by pydantic, for which "
            "1 == 1.0 == True; use literals of one type, or a State with a field for each"
        )
    if not shared or (discriminator is not None and _of_models(one) and _of_models(other)):
        return
    if one.plain and other.plain and (isinstance(one, LiteralKind) or isinstance(other, LiteralKind)):
        return  # literals beside their own type, or beside others: the document is the value itself
    names = " and ".join(_name(kind.annotation) for kind in (other, one))
    if _of_models(one) and _of_models(other):
        raise StateDefinitionError(
            f"{where}: {names} look alike in a document; give both a field such as "
            f"`type: Literal[...]` and declare the union with Field(discriminator='type')"
        )
    raise StateDefinitionError(
        f"{where}: {names} look alike in a document ({', '.join(sorted(shared))}); "
        "use one of them, or a State with a field for each"
    )


def _members(kind: Kind) -> list[Kind]:
    return [part for one in kind.members for part in _members(one)] if isinstance(kind, UnionKind) else [kind]


def _is_confused(literal: Kind, other: Kind) -> bool:
    """Say whether a value of *other* may be taken for a literal: pydantic compares those by ``==``."""
    if not isinstance(literal, LiteralKind) or not isinstance(other, Scalar):
        return False
    if not (literal.plain and other.plain) and not {*literal.types}.isdisjoint(other.types):
        return True
    mine, theirs = ({one for one in kind.types if issubclass(one, Number)} for kind in (literal, other))
    return bool(mine) and bool(theirs) and mine != theirs


def _generic(annotation: Any, origin: Any, arguments: tuple[Any, ...], where: str) -> Kind:
    if origin is list:
        return ListKind(annotation, compile_kind(arguments[0], where))
    if origin is dict or origin is Map:
        key = compile_kind(arguments[0], where)
        if key.editable or not _hashable(key):
            raise StateDefinitionError(f"{where}: {_name(key.annotation)} cannot be a key; use a scalar or a tuple")
        return (DictKind if origin is dict else MapKind)(annotation, key, compile_kind(arguments[1], where))
    if origin is set or origin is frozenset:
        item = compile_kind(arguments[0], where)
        if not _hashable(item):
            raise StateDefinitionError(f"{where}: {_name(item.annotation)} cannot be an element of a set; use a list")
        return SetKind(annotation, item, mutable=origin is set)
    if origin is tuple:
        variadic = len(arguments) == 2 and arguments[1] is Ellipsis
        parts = arguments[:1] if variadic else arguments
        return TupleKind(annotation, [compile_kind(part, where) for part in parts], variadic=variadic)
    raise _refusal(annotation, where)


def _hashable(kind: Kind) -> bool:
    if isinstance(kind, UnionKind):
        return all(_hashable(member) for member in kind.members)
    if isinstance(kind, TupleKind):
        return all(_hashable(item) for item in kind.items)
    return isinstance(kind, Scalar) or (isinstance(kind, SetKind) and not kind.mutable)


_ADDRESSES = frozenset(
    (
        ipaddress.IPv4Address,
        ipaddress.IPv6Address,
        ipaddress.IPv4Network,
        ipaddress.IPv6Network,
        ipaddress.IPv4Interface,
        ipaddress.IPv6Interface,
    )
)


def _class(annotation: type[Any], where: str) -> Kind:
    if issubclass(annotation, BaseModel):
        if annotation is BaseModel or annotation.__pydantic_generic_metadata__["parameters"]:
            raise _refusal(annotation, where)
        return kind_of(annotation)
    if issubclass(annotation, Enum):
        if not len(annotation):
            raise StateDefinitionError(f"{where}: {annotation.__name__} has no members; use one of its subclasses")
        return EnumKind(annotation)
    if issubclass(annotation, pathlib.PurePath):
        return TextKind(annotation, annotation, checked=True, subclasses=True)
    if issubclass(annotation, _BaseUrl | _BaseMultiHostUrl | AnyUrl) or annotation in _ADDRESSES:
        return TextKind(annotation, annotation, natural=annotation not in _ADDRESSES, checked=True)
    raise _refusal(annotation, where)


def _name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _is_class(annotation: Any) -> TypeGuard[type[Any]]:
    return isinstance(annotation, type)


def _refusal(annotation: Any, where: str) -> StateDefinitionError:
    origin: Any = get_origin(annotation) or annotation
    if isinstance(annotation, TypeVar):
        hint = "give the generic class its arguments"
    elif isinstance(annotation, str | ForwardRef):
        cls = where.partition(".")[0]
        return UndefinedTypeError(
            f"{where}: {_name(annotation)} is not defined yet; define it before {cls} is used, "
            f"and call {cls}.model_rebuild() if both are defined inside a function"
        )
    elif _is_class(annotation) and issubclass(annotation, BaseModel):
        hint = "name a model, and give a generic one its arguments"
    elif _is_class(annotation) and (
        dataclasses.is_dataclass(annotation)
        or typing_extensions.is_typeddict(annotation)
        or (issubclass(annotation, tuple) and annotation is not tuple)
    ):
        hint = "use a State or a pydantic model"
    else:
        hint = _HINTS.get(
            origin, "use one of the types in the documentation, or register_scalar for an immutable scalar"
        )
    return StateDefinitionError(f"{where}: {_name(annotation)} cannot be a field of a state; {hint}")
