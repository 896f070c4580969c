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
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import annotated_types
import pydantic
import typing_extensions
from pydantic import BaseModel, JsonValue, RootModel
from pydantic.fields import FieldInfo
from pydantic.networks import AnyUrl, _BaseMultiHostUrl, _BaseUrl

from reactstate.errors import StateDefinitionError
from reactstate.state.composites import DictKind, JsonKind, ListKind, MapKind, SetKind, TupleKind, UnionKind
from reactstate.state.kinds import (
    EnumKind,
    Kind,
    LiteralKind,

    Scalar,
    TextKind,
    standard_scalar,
)
from reactstate.state.maps import Map
from reactstate.state.models import ModelKind

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MODELS", "compile_kind", "kind_of", "register_scalar"]

MODELS: dict[type[Any], ModelKind] = {}
_REGISTERED: dict[Any, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {}

_ALIASES: dict[Any, type] = {
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
    collections.abc.Callable: "a state holds data; keep functions beside it",
    bytearray: "use bytes",
    complex: "use a State with two floats",
    pydantic.SecretStr: "a secret does not belong in a state: it would be stored; keep a reference to it",
    pydantic.SecretBytes: "a secret does not belong in a state: it would be stored; keep a reference to it",
    pydantic.FutureDate: "what lies in the future when it is set need not when it is read; use date and check_transition",
    pydantic.FutureDatetime: "what lies in the future when it is set need not when it is read; use datetime",
}


def register_scalar(
    scalar: type[Any], *, encode: Callable[[Any], str], decode: Callable[[str], Any] | None = None
) -> None:
    """Allow *scalar* as a field type, before the classes that use it are defined.

    Args:
        scalar: The type; its values must be immutable, and pydantic must know how to validate them.
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
            kind.recursive = True  # met again while its own fields are being compiled
        return kind
    _check_model(cls)
    kind = MODELS[cls] = ModelKind(cls)
    try:
        kind.complete({name: _field_kind(cls, name, field) for name, field in cls.model_fields.items()})
    except BaseException:
        del MODELS[cls]
        raise
    return kind


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
    discriminator = field.discriminator
    if discriminator is not None and not isinstance(discriminator, str):
        raise StateDefinitionError(f"{where}: a discriminator must name a field, so that documents can be told apart")
    kind = compile_kind(field.annotation, where, discriminator)
    if field.metadata:
        kind = _annotated(kind, _with_metadata(field.annotation, field.metadata), field.metadata, where)
    _set_owner(kind, cls)
    return kind


def _set_owner(kind: Kind, owner: type[Any]) -> None:
    """Note whose configuration applies to the parts of a field."""
    if kind.owner is not None or isinstance(kind, ModelKind):
        return
    kind.owner = owner
    if isinstance(kind, JsonKind):
        parts: list[Kind] = [kind.mapping, kind.array]
    elif isinstance(kind, DictKind):
        parts = [kind.key, kind.value]
    elif isinstance(kind, ListKind | SetKind):
        parts = [kind.item]
    elif isinstance(kind, TupleKind):
        parts = kind.items
    else:
        parts = kind.members if isinstance(kind, UnionKind) else []
    for part in parts:
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
    if annotation in _REGISTERED:
        encode, decode = _REGISTERED[annotation]
        return Scalar(annotation, (annotation,), "string", encode, decode, natural=False, subclasses=True)
    if isinstance(annotation, typing_extensions.TypeAliasType):
        return compile_kind(annotation.__value__, where, discriminator)
    if annotation in _ALIASES:
        base = standard_scalar(_ALIASES[annotation])
        if base is not None:
            base.annotation = annotation
            return base
    if hasattr(annotation, "__supertype__"):  # typing.NewType
        return compile_kind(annotation.__supertype__, where, discriminator)
    scalar = standard_scalar(annotation)
    if scalar is not None:
        return scalar
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *metadata = get_args(annotation)
        for item in metadata:
            if isinstance(item, FieldInfo) and isinstance(item.discriminator, str):
                discriminator = item.discriminator
        return _annotated(compile_kind(base, where, discriminator), annotation, metadata, where)
    if origin is Literal:
        return _literal(annotation, where)
    if origin in {Union, types.UnionType}:
        return _union(annotation, where, discriminator)
    if origin is not None:
        return _generic(annotation, origin, get_args(annotation), where)
    if isinstance(annotation, type):
        return _class(annotation, where)
    raise _refusal(annotation, where)


def _annotated(kind: Kind, annotation: Any, metadata: list[Any], where: str) -> Kind:
    """Note that a kind carries validators or constraints, so that changes inside it are validated as a whole."""
    relevant = [item for item in metadata if not isinstance(item, str | annotated_types.DocInfo) and not _neutral(item)]
    if any(isinstance(item, pydantic.types.PathType) for item in relevant):
        raise StateDefinitionError(f"{where}: a path that must exist now need not when it is read; use Path")
    kind.annotation = annotation
    if relevant:
        kind.custom = kind.custom or not all(isinstance(item, annotated_types.BaseMetadata) for item in relevant)
        kind.whole = kind.editable
        kind.natural = kind.natural and not kind.custom
    return kind


def _neutral(item: Any) -> bool:
    return isinstance(item, FieldInfo) and not item.metadata


def _literal(annotation: Any, where: str) -> Kind:
    values = get_args(annotation)
    if not all(isinstance(value, str | int | bytes | Enum) or value is None for value in values):
        raise _refusal(annotation, where)
    return LiteralKind(annotation, values)


def _union(annotation: Any, where: str, discriminator: str | None) -> Kind:
    members = [compile_kind(member, where) for member in get_args(annotation)]
    if discriminator is not None:
        for member in members:
            nested = member.members if isinstance(member, UnionKind) else [member]
            for one in nested:
                if isinstance(one, ModelKind) and one.cls.__pydantic_complete__ and discriminator not in one.fields:
                    raise StateDefinitionError(f"{where}: {one.cls.__name__} has no field {discriminator!r}")
    flat = [one for member in members for one in (member.members if isinstance(member, UnionKind) else [member])]
    for at, one in enumerate(flat):
        for other in flat[:at]:
            _check_decidable(one, other, where, discriminator)
    return UnionKind(annotation, flat, discriminator)


def _check_decidable(one: Kind, other: Kind, where: str, discriminator: str | None) -> None:
    shared = one.wire & other.wire
    if not shared or (discriminator is not None and isinstance(one, ModelKind) and isinstance(other, ModelKind)):
        return
    if one.plain and other.plain and isinstance(one, Scalar) and isinstance(other, Scalar):
        return  # two sets of literals, or a literal beside its own type: the document is the value itself
    names = " and ".join(_name(kind.annotation) for kind in (other, one))
    if isinstance(one, ModelKind) and isinstance(other, ModelKind):
        raise StateDefinitionError(
            f"{where}: {names} look alike in a document; give both a field such as "
            f"`type: Literal[...]` and declare the union with Field(discriminator='type')"
        )
    raise StateDefinitionError(
        f"{where}: {names} look alike in a document ({', '.join(sorted(shared))}); "
        "use one of them, or a State with a field for each"
    )


def _generic(annotation: Any, origin: Any, arguments: tuple[Any, ...], where: str) -> Kind:
    if origin is list:
        return ListKind(annotation, compile_kind(arguments[0], where))
    if origin in {dict, Map}:
        key = compile_kind(arguments[0], where)
        if key.editable or not _hashable(key):
            raise StateDefinitionError(f"{where}: {_name(key.annotation)} cannot be a key; use a scalar or a tuple")
        return (DictKind if origin is dict else MapKind)(annotation, key, compile_kind(arguments[1], where))
    if origin in {set, frozenset}:
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


def _class(annotation: type[Any], where: str) -> Kind:
    if issubclass(annotation, BaseModel):
        if annotation is BaseModel or annotation.__dict__.get("__pydantic_generic_metadata__", {}).get("parameters"):
            raise _refusal(annotation, where)
        if not annotation.__pydantic_complete__:
            annotation.model_rebuild(raise_errors=False)
        return kind_of(annotation)
    if issubclass(annotation, Enum):
        return EnumKind(annotation)
    if issubclass(annotation, pathlib.PurePath):
        return TextKind(annotation, annotation, subclasses=True)
    if issubclass(annotation, _BaseUrl | _BaseMultiHostUrl) or annotation is AnyUrl:
        return TextKind(annotation, annotation)
    if annotation in {
        ipaddress.IPv4Address,
        ipaddress.IPv6Address,
        ipaddress.IPv4Network,
        ipaddress.IPv6Network,
        ipaddress.IPv4Interface,
        ipaddress.IPv6Interface,
    }:
        return TextKind(annotation, annotation)
    raise _refusal(annotation, where)


def _name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _refusal(annotation: Any, where: str) -> StateDefinitionError:
    origin = get_origin(annotation) or annotation
    if isinstance(annotation, TypeVar):
        hint = "give the generic class its arguments"
    elif dataclasses.is_dataclass(annotation) or typing_extensions.is_typeddict(annotation):
        hint = "use a State or a pydantic model"
    elif isinstance(annotation, type) and issubclass(annotation, tuple):
        hint = "use a State or a pydantic model"
    else:
        hint = _HINTS.get(origin, "use one of the types in the documentation, or register_scalar for an immutable scalar")
    return StateDefinitionError(f"{where}: {_name(annotation)} cannot be a field of a state; {hint}")


