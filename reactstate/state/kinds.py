"""The kind of a value: how a type's values become documents, are read back, compared and edited.

One kind is compiled per annotation (see fieldtypes.py). Together the kinds of a State class are its canonical
document: the only form that patches, journals, snapshots, checksums and formats use.

This module holds the protocol of all kinds and the scalars.
"""

from __future__ import annotations

import base64
import binascii
import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from typing import TYPE_CHECKING, Any, Literal, TypeGuard
from uuid import UUID

from typing_extensions import override

from reactstate.errors import DecodeError
from reactstate.state.frozen import type_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic_core import SchemaValidator

    from reactstate.state.edits import Edit, Path

__all__ = [
    "MAX_DEPTH",
    "MISSING",
    "BooleanKind",
    "EnumKind",
    "FloatKind",
    "Kind",
    "LiteralKind",
    "NoneKind",
    "Scalar",
    "TextKind",
    "Wire",
    "is_array",
    "is_object",
    "is_utf8",
    "same_document",
    "settle_time",
    "shown",
    "standard_scalar",
]

MAX_DEPTH = 128
"""How deeply the document of a state may be nested."""

Wire = Literal["null", "bool", "int", "float", "string", "array", "object"]
"""What a value looks like in a document."""


class _Missing:
    """The absence of a mapping entry in an edit."""

    __slots__ = ()

    @override
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Any = _Missing()

_MICROSECOND = timedelta(microseconds=1)
_MINUTE = timedelta(minutes=1)


class Kind:
    """How the values of one annotation behave.

    Attributes:
        annotation: The annotation this kind was compiled from.
        wire: What its documents can look like.
        plain: A value is its own document.
        natural: pydantic reads the document as it is, so that ``decode`` is the identity.
        exact: Two values are equal exactly when their documents are.
        custom: What pydantic returns has to be sealed, because validators of the user's may have made it.
        whole: A value in which something changed must be validated as a whole again.
        recursive: Values can be nested to any depth.
        editable: Values have drafts.
        versioned: State classes are among its parts.
        is_model: The values are models.
        owner: The model in whose field it stands, whose configuration applies; None for the kind of a model.
        hashed: The values are elements of a set or keys of a mapping, where NaN would never be found again.
        text: The document is always the very string that is the value (mapping keys of this kind stay as they are).
    """

    wire: frozenset[Wire] = frozenset()
    plain: bool = False
    natural: bool = False
    exact: bool = False
    custom: bool = False
    whole: bool = False
    recursive: bool = False
    editable: bool = False
    versioned: bool = False
    is_model: bool = False
    text: bool = False
    hashed: bool = False
    annotation: Any = None
    owner: type[Any] | None = None
    _validator: SchemaValidator | None = None

    def encode(self, value: Any) -> Any:
        """Return the document of *value*."""
        raise NotImplementedError

    def decode(self, document: Any) -> Any:
        """Return what pydantic is to validate for *document*.

        Raises:
            DecodeError: The document cannot be one of this kind.
        """
        raise NotImplementedError

    def migrate(self, document: Any, stored: dict[str, int]) -> Any:
        """Return *document*, written under the schema versions *stored*, in the form of today's classes."""
        del stored
        return document

    def seal(self, value: Any) -> Any:
        """Return *value* deeply frozen, or raise ValueError when it is not one of this kind exactly."""
        raise NotImplementedError

    def diff(self, old: Any, new: Any, path: Path, edits: list[Edit]) -> None:
        """Append the edits that lead from *old* to *new*; none when their documents are equal."""
        raise NotImplementedError

    def holds(self, value: Any) -> bool:
        """Say whether *value* is of this kind, by its type."""
        raise NotImplementedError

    def of(self, value: Any) -> Kind:
        """Return the concrete kind of *value*: the member of a union, or this kind itself.

        Raises:
            ValueError: It is of no member.
        """
        del value
        return self

    def parts(self) -> Sequence[Kind]:
        """Return the kinds that this one is made of."""
        return ()

    def child(self, key: Any) -> Kind:
        """Return the kind of the part at *key*."""
        raise NotImplementedError

    def own(self, value: Any, owned: dict[int, Any]) -> Any:
        """Return *value*, or a copy of it that may be changed and is noted in *owned*."""
        raise NotImplementedError

    def part(self, value: Any, key: Any) -> Any:
        """Return the part of *value* at *key*."""
        raise NotImplementedError

    def replaced(self, value: Any, key: Any, new: Any) -> Any:
        """Return the owned *value* with *new* at *key*."""
        raise NotImplementedError

    def without(self, value: Any, key: Any) -> Any:
        """Return the owned *value* without *key*."""
        raise NotImplementedError

    def token(self, key: Any) -> str:
        """Return how *key* is written in a JSON Pointer, unescaped."""
        return str(key)

    def depth(self, value: Any) -> int:
        """Return how deeply the document of *value* is nested; 0 for a scalar."""
        del value
        return 0

    def validate(self, value: Any) -> Any:
        """Return *value* validated and frozen.

        Raises:
            pydantic.ValidationError: It does not fit.
            ValueError: A validator returned something of another type.
        """
        validator = self._validator
        if validator is None:
            from reactstate.state.schema import element_validator

            validator = self._validator = element_validator(self)
        result = validator.validate_python(value)
        return self.seal(result) if self.custom else result


def same_document(kind: Kind, old: Any, new: Any) -> bool:
    """Say whether two values have the same document."""
    if old is new:
        return True
    edits: list[Edit] = []
    kind.diff(old, new, None, edits)
    return not edits


def is_array(document: Any) -> TypeGuard[list[Any]]:
    """Say whether *document* is an array."""
    return isinstance(document, list)


def is_object(document: Any) -> TypeGuard[dict[str, Any]]:
    """Say whether *document* is an object."""
    return isinstance(document, dict)


def is_utf8(text: str) -> bool:
    """Say whether *text* can be stored: it has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(document: Any) -> str:
    """Return how an error text names *document*: short, whatever it is."""
    if type(document) is str:
        return repr(document if len(document) <= _SHOWN else f"{document[:_SHOWN]}...")
    if document is None or type(document) is bool or type(document) is float:
        return repr(document)
    if type(document) is int and -_LARGE < document < _LARGE:
        return repr(document)
    return f"a value of type {type(document).__name__}"


_SHOWN = 60
_LARGE = 10**_SHOWN


class Scalar(Kind):
    """A value without parts.

    Args:
        types: The exact types of its values.
        wire: What its document looks like.
        encode: Value to document.
        decode: Document to value; any exception but one of the system's means that it does not fit.
        natural: Whether pydantic reads the document as it is.
        exact: Whether two values are equal exactly when their documents are.
        subclasses: Whether instances of subclasses are values as well (paths are).
        settle: Turns a value into the form in which it will be read back, or raises ValueError.
    """

    def __init__(
        self,
        annotation: Any,
        types: tuple[type, ...],
        wire: Wire,
        encode: Callable[[Any], Any] | None = None,
        decode: Callable[[Any], Any] | None = None,
        *,
        natural: bool = True,
        exact: bool = False,
        subclasses: bool = False,
        settle: Callable[[Any], Any] | None = None,
    ) -> None:
        self.annotation = annotation
        self.types = types
        self.wire: frozenset[Wire] = frozenset((wire,))
        self.plain: bool = encode is None
        self.natural = natural
        self.exact = exact
        self.text: bool = annotation is str
        self._encode = encode
        self._decode = decode
        self._subclasses = subclasses
        self._settle = settle

    @override
    def encode(self, value: Any) -> Any:
        return value if self._encode is None else self._encode(value)

    @override
    def decode(self, document: Any) -> Any:
        if self._decode is None:
            return document
        try:
            return self._decode(document)
        except Exception as exc:
            raise DecodeError(f"{shown(document)} is not the document of a {self._name()}") from exc

    @override
    def holds(self, value: Any) -> bool:
        return type_of(value) in self.types or (self._subclasses and isinstance(value, self.types))

    def _name(self) -> str:
        return self.types[0].__name__

    @override
    def seal(self, value: Any) -> Any:
        if not self.holds(value):
            raise ValueError(f"a {type_of(value).__name__} stands where a {self._name()} is declared")
        return value if self._settle is None else self._settle(value)

    def settle(self, value: Any) -> Any:
        """Return *value* as the declared type itself, when it is of a subclass of it and nothing is lost by that.

        Raises:
            ValueError: Something would be lost, or could not be stored.
        """
        if self._settle is not None:
            value = self._settle(value)
        if type_of(value) in self.types:
            return value
        try:
            made = self.decode(self.encode(value))
            same = bool(made == value)
        except (DecodeError, TypeError, ValueError):
            made, same = value, False
        if not same:
            raise ValueError(f"a {type_of(value).__name__} cannot be stored where a {self._name()} is declared")
        return made

    @override
    def diff(self, old: Any, new: Any, path: Path, edits: list[Edit]) -> None:
        if old is new:
            return
        if type(old) is type(new) and (old == new if self.plain else self.encode(old) == self.encode(new)):
            return
        edits.append((path, old, new))


class NoneKind(Scalar):
    """None."""

    def __init__(self) -> None:
        super().__init__(None, (type(None),), "null", exact=True)


class BooleanKind(Scalar):
    """True and False."""

    def __init__(self) -> None:
        super().__init__(bool, (bool,), "bool", exact=True)


class FloatKind(Scalar):
    """A float; the three that JSON does not know are the strings ``nan``, ``inf`` and ``-inf``."""

    def __init__(self) -> None:
        super().__init__(float, (float,), "float", _encode_float, _decode_float)
        self.wire: frozenset[Wire] = frozenset(("float", "string"))

    @override
    def diff(self, old: Any, new: Any, path: Path, edits: list[Edit]) -> None:
        if old is new or (type(old) is type(new) and old == new and (old != 0.0 or _signs_agree(old, new))):
            return
        if old != old and new != new:  # noqa: PLR0124 - only nan differs from itself
            return
        edits.append((path, old, new))


def _signs_agree(a: float, b: float) -> bool:
    return math.copysign(1.0, a) == math.copysign(1.0, b)


def _encode_float(value: float) -> Any:
    return value if value - value == 0.0 else repr(value)


def _decode_float(document: Any) -> float:
    if type(document) is float:
        return document
    if document in {"nan", "inf", "-inf"} or type(document) is int:
        return float(document)
    raise ValueError("not a float")


class EnumKind(Scalar):
    """An enum: by value when all its values are str or all are int (or it is a Flag), else by member name."""

    def __init__(self, enum: type[Enum]) -> None:
        kinds = {type_of(member.value) for member in enum}
        flag = issubclass(enum, Flag)
        by_value = flag or kinds in ({str}, {int})
        super().__init__(
            enum,
            (enum,),
            "int" if flag or kinds == {int} else "string",
            _flag_value if flag else _enum_value if by_value else _enum_name,
            enum if by_value else enum.__getitem__,
            natural=by_value and not flag and all(map(_is_read_as_it_is, enum)),
            exact=True,
        )


def _is_read_as_it_is(member: Enum) -> bool:
    """Say whether pydantic finds *member* by its value: an int beyond 64 bits it does not."""
    value: Any = member.value
    return type(value) is str or -_INT64 <= value < _INT64


_INT64 = 1 << 63


def _enum_value(member: Any) -> Any:
    return member.value


def _flag_value(member: Any) -> Any:
    return int(member.value)  # ``Access(False)`` makes a member whose value is False, for the whole process


def _enum_name(member: Any) -> Any:
    return member.name


class LiteralKind(Scalar):
    """One of the listed values."""

    def __init__(self, annotation: Any, values: Sequence[Any]) -> None:
        kinds = {type_of(value) for value in values}
        super().__init__(annotation, tuple(kinds), "string", exact=len(kinds) == 1)
        self.members: dict[tuple[type, Any], Any] = {}
        for value in values:
            document = _literal_document(value)
            self.members[type_of(document), document] = value
        self.wire: frozenset[Wire] = frozenset(_WIRE[kind] for kind, _ in self.members)
        self.plain: bool = kinds <= {str, int, bool, type(None)}
        self.natural: bool = self.plain
        self.text: bool = kinds == {str}

    @override
    def encode(self, value: Any) -> Any:
        return _literal_document(value)

    @override
    def decode(self, document: Any) -> Any:
        try:
            return self.members[type_of(document), document]
        except (KeyError, TypeError) as exc:
            raise DecodeError(f"{shown(document)} is not one of the declared literals") from exc

    @override
    def _name(self) -> str:
        return "literal"


_WIRE: dict[type, Wire] = {str: "string", int: "int", bool: "bool", type(None): "null"}


def _literal_document(value: Any) -> Any:
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, bytes):
        return _encode_bytes(value)
    return value


class TextKind(Scalar):
    """A value that is written as a str and read back from it.

    Args:
        encode: Value to str.
        decode: The str back to an equal value.
        checked: Each value is tried when it is set: it must be read back as it is.
    """

    def __init__(
        self,
        annotation: Any,
        kind: type,
        encode: Callable[[Any], Any] = str,
        decode: Callable[[str], Any] | None = None,
        *,
        natural: bool = True,
        exact: bool = False,
        checked: bool = False,
        subclasses: bool = False,
    ) -> None:
        settle = self._check if checked else None
        decode = kind if decode is None else decode
        super().__init__(
            annotation, (kind,), "string", encode, decode,
            natural=natural, exact=exact, subclasses=subclasses, settle=settle,
        )  # fmt: skip
        self.custom = checked

    @override
    def decode(self, document: Any) -> Any:
        if type(document) is not str:
            raise DecodeError(f"{shown(document)} is not the document of a {self._name()}")
        return super().decode(document)

    def _check(self, value: Any) -> Any:
        document = self.encode(value)
        if type(document) is str and is_utf8(document):
            try:
                back = self.decode(document)
            except DecodeError:
                back = None
            if type_of(back) is type_of(value) and back == value:
                return value
        raise ValueError(f"this {type_of(value).__name__} cannot be stored and read back as it is")


# --- the scalars of the standard library --------------------------------------------------------------------------


def settle_time(value: Any) -> Any:
    """Return a datetime or time in the form that is read back: a fixed offset instead of a zone, no fold.

    Raises:
        ValueError: No document can say it: a naive time is ambiguous (``fold=1``), a named zone gives a time of day
            no offset, or the offset is not of whole minutes.
    """
    zone = value.tzinfo
    if zone is None:
        if value.fold:
            raise ValueError("fold=1 cannot be stored; give the time an offset")
        return value
    if zone is UTC and not value.fold:
        return value
    offset = value.utcoffset()
    if offset is None:
        raise ValueError("a time of day with a named zone has no offset; use a datetime, or a fixed offset")
    if offset % _MINUTE:
        raise ValueError("an offset that is not of whole minutes cannot be stored; convert the time to UTC")
    if type(zone) is timezone and zone == timezone(offset) and not value.fold:
        return value
    return value.replace(tzinfo=timezone(offset), fold=0)


def _encode_bytes(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _decode_bytes(document: Any) -> bytes:
    try:
        return base64.b64decode(document, validate=True)
    except binascii.Error as exc:
        raise ValueError("not base64") from exc


def _encode_timedelta(value: timedelta) -> int:
    return value // _MICROSECOND


def _decode_timedelta(document: Any) -> timedelta:
    if type(document) is not int:
        raise ValueError("not whole microseconds")
    return timedelta(microseconds=document)


_STANDARD: dict[Any, Callable[[], Scalar]] = {
    None: NoneKind,
    type(None): NoneKind,
    bool: BooleanKind,
    float: FloatKind,
    int: lambda: Scalar(int, (int,), "int", exact=True),
    str: lambda: Scalar(str, (str,), "string", exact=True),
    bytes: lambda: Scalar(bytes, (bytes,), "string", _encode_bytes, _decode_bytes, natural=False, exact=True),
    Decimal: lambda: TextKind(Decimal, Decimal),
    UUID: lambda: TextKind(UUID, UUID, exact=True),
    datetime: lambda: Scalar(
        datetime, (datetime,), "string", datetime.isoformat, datetime.fromisoformat, settle=settle_time
    ),
    date: lambda: Scalar(date, (date,), "string", date.isoformat, date.fromisoformat, exact=True),
    time: lambda: Scalar(time, (time,), "string", time.isoformat, time.fromisoformat, settle=settle_time),
    timedelta: lambda: Scalar(
        timedelta, (timedelta,), "int", _encode_timedelta, _decode_timedelta, natural=False, exact=True
    ),
}


def standard_scalar(annotation: Any) -> Scalar | None:
    """Return the kind of a scalar type of the standard library, or None."""
    make = _STANDARD.get(annotation) if annotation is None or isinstance(annotation, type) else None
    return None if make is None else make()
