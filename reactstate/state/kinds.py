"""The kind of a value: how a type's values become documents, are read back, compared and edited.

One kind is compiled per annotation (see fieldtypes.py). Together the kinds of a State class are its canonical
document: the only form that patches, journals, snapshots, checksums and formats use.

This module holds the protocol of all kinds and the scalars.
"""

from __future__ import annotations

import base64
import binascii
import math
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal, InvalidOperation
from enum import Enum, Flag
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from reactstate.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable

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
    "settle_time",
]

MAX_DEPTH = 128
"""How deeply the document of a state may be nested."""

Wire = Literal["null", "bool", "int", "float", "string", "array", "object"]
"""What a value looks like in a document."""


class _Missing:
    """The absence of a mapping entry in an edit."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Any = _Missing()

_MICROSECOND = timedelta(microseconds=1)


class Kind:
    """How the values of one annotation behave.

    Attributes:
        annotation: The annotation this kind was compiled from.
        exact: The type of which any value is valid, unless its field has validators or constraints; None: no such type.
        wire: What its documents can look like.
        plain: A value is its own document.
        natural: pydantic reads the document as it is, so that ``decode`` is the identity.
        custom: The annotation holds validators or constraints of the user's.
        whole: A changed container of this kind must be validated as a whole again.
        recursive: Values can be nested to any depth.
        editable: Values have drafts.
        versioned: State classes are among its parts.
        is_model: The values are models.
        owner: The model in whose field it stands, whose configuration applies; None for the kind of a model.
        text: The document is always the very string that is the value (mapping keys of this kind stay as they are).
    """

    wire: frozenset[Wire] = frozenset()
    plain: bool = False
    natural: bool = False
    custom: bool = False
    whole: bool = False
    recursive: bool = False
    editable: bool = False
    versioned: bool = False
    is_model: bool = False
    text: bool = False
    annotation: Any = None
    exact: type | None = None
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
        return self

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
        raise NotImplementedError

    def depth(self, value: Any) -> int:
        """Return how deeply the document of *value* is nested; 0 for a scalar."""
        return 0

    def validate(self, value: Any) -> Any:
        """Return *value* validated and frozen.

        Raises:
            pydantic.ValidationError: It does not fit.
        """
        validator = self._validator
        if validator is None:
            from reactstate.state.schema import element_validator

            validator = self._validator = element_validator(self)
        result = validator.validate_python(value)
        return self.seal(result) if self.custom else result


class Scalar(Kind):
    """A value without parts.

    Args:
        types: The exact types of its values.
        wire: What its document looks like.
        encode: Value to document.
        decode: Document to value; ValueError and TypeError mean that it does not fit.
        natural: Whether pydantic reads the document as it is.
        subclasses: Whether instances of subclasses are values as well (paths are).
        settle: Turns a value into the form in which it will be read back.
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
        subclasses: bool = False,
        settle: Callable[[Any], Any] | None = None,
    ) -> None:
        self.annotation = annotation
        self.types = types
        self.wire = frozenset((wire,))
        self.plain = encode is None
        self.natural = natural
        self.text = annotation is str
        self.exact = annotation if annotation in {int, str, bool, float} else None
        self._encode = encode
        self._decode = decode
        self._subclasses = subclasses
        self._settle = settle

    def encode(self, value: Any) -> Any:
        return value if self._encode is None else self._encode(value)

    def decode(self, document: Any) -> Any:
        if self._decode is None:
            return document
        try:
            return self._decode(document)
        except (ValueError, TypeError, InvalidOperation, OverflowError, AttributeError) as exc:
            raise DecodeError(f"{document!r} is not the document of a {self._name()}") from exc

    def holds(self, value: Any) -> bool:
        return type(value) in self.types or (self._subclasses and isinstance(value, self.types))

    def _name(self) -> str:
        return getattr(self.types[0], "__name__", str(self.types[0]))

    def seal(self, value: Any) -> Any:
        if not self.holds(value):
            raise ValueError(f"a {type(value).__name__} stands where a {self._name()} is declared")
        return value if self._settle is None else self._settle(value)

    def diff(self, old: Any, new: Any, path: Path, edits: list[Edit]) -> None:
        if old is new:
            return
        if type(old) is type(new) and (old == new if self.plain else self.encode(old) == self.encode(new)):
            return
        edits.append((path, old, new))


class NoneKind(Scalar):
    """None."""

    def __init__(self) -> None:
        super().__init__(None, (type(None),), "null")


class BooleanKind(Scalar):
    """True and False."""

    def __init__(self) -> None:
        super().__init__(bool, (bool,), "bool")


class FloatKind(Scalar):
    """A float; the three that JSON does not know are the strings ``nan``, ``inf`` and ``-inf``."""

    def __init__(self, annotation: Any = float) -> None:
        super().__init__(annotation, (float,), "float", _encode_float, _decode_float)
        self.wire = frozenset(("float", "string"))

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
    """An enum: by value when all its values are str or all are int, else by member name."""

    def __init__(self, enum: type[Enum]) -> None:
        values = [type(member.value) for member in enum]
        by_value = bool(values) and (all(kind is str for kind in values) or all(kind is int for kind in values))
        wire: Wire = "int" if by_value and values[0] is int else "string"
        if issubclass(enum, Flag):
            wire, by_value = "int", True
        super().__init__(
            enum,
            (enum,),
            wire,
            _enum_value if by_value else _enum_name,
            enum if by_value else enum.__getitem__,
            natural=by_value,
        )

    def decode(self, document: Any) -> Any:
        try:
            return super().decode(document)
        except KeyError as exc:
            raise DecodeError(f"{document!r} is not a member of {self._name()}") from exc


def _enum_value(member: Any) -> Any:
    return member.value


def _enum_name(member: Any) -> Any:
    return member.name


class LiteralKind(Scalar):
    """One of the listed values."""

    def __init__(self, annotation: Any, values: tuple[Any, ...]) -> None:
        kinds = {type(value) for value in values}
        super().__init__(annotation, tuple(kinds), "string")
        wires: set[Wire] = set()
        self._members: dict[tuple[type, Any], Any] = {}
        for value in values:
            document = _literal_document(value)
            wires.add(_WIRE[type(document)])
            self._members[type(document), document] = value
        self.wire = frozenset(wires)
        self.plain = self.natural = kinds <= {str, int, bool, type(None)}
        self.text = kinds == {str}

    def encode(self, value: Any) -> Any:
        return _literal_document(value)

    def decode(self, document: Any) -> Any:
        try:
            return self._members[type(document), document]
        except (KeyError, TypeError) as exc:
            raise DecodeError(f"{document!r} is not one of the declared literals") from exc


_WIRE: dict[type, Wire] = {str: "string", int: "int", bool: "bool", type(None): "null"}


def _literal_document(value: Any) -> Any:
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, bytes):
        return _encode_bytes(value)
    return value


class TextKind(Scalar):
    """A value that is written as ``str(value)`` and read back by its type."""

    def __init__(
        self, annotation: Any, kind: type, decode: Callable[[str], Any] | None = None, *, subclasses: bool = False
    ) -> None:
        super().__init__(annotation, (kind,), "string", str, decode if decode is not None else kind, subclasses=subclasses)

    def decode(self, document: Any) -> Any:
        if type(document) is not str:
            raise DecodeError(f"{document!r} is not the document of a {self._name()}")
        return super().decode(document)


# --- the scalars of the standard library --------------------------------------------------------------------------


def settle_time(value: Any) -> Any:
    """Return a datetime or time in the form that is read back: a fixed offset instead of a zone, no fold.

    Raises:
        ValueError: A naive time is ambiguous (``fold=1``), which no document can say.
    """
    zone = value.tzinfo
    if zone is None:
        if value.fold:
            raise ValueError("fold=1 cannot be stored; give the time an offset")
        return value
    if type(zone) is timezone and not value.fold:
        return value
    offset = value.utcoffset()
    if offset is None:
        raise ValueError("a time of day with a named zone has no offset; use a datetime, or a fixed offset")
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


def standard_scalar(annotation: Any) -> Scalar | None:
    """Return the kind of a scalar type of the standard library, or None."""
    if annotation is None or annotation is type(None):
        return NoneKind()
    if annotation is bool:
        return BooleanKind()
    if annotation is int:
        return Scalar(int, (int,), "int")
    if annotation is float:
        return FloatKind()
    if annotation is str:
        return Scalar(str, (str,), "string")
    if annotation is bytes:
        return Scalar(bytes, (bytes,), "string", _encode_bytes, _decode_bytes, natural=False)
    if annotation is Decimal:
        return TextKind(Decimal, Decimal)
    if annotation is UUID:
        return TextKind(UUID, UUID)
    if annotation is datetime:
        return Scalar(
            datetime, (datetime,), "string", datetime.isoformat, datetime.fromisoformat, settle=settle_time
        )
    if annotation is date:
        return Scalar(date, (date,), "string", date.isoformat, date.fromisoformat)
    if annotation is time:
        return Scalar(time, (time,), "string", time.isoformat, time.fromisoformat, settle=settle_time)
    if annotation is timedelta:
        return Scalar(timedelta, (timedelta,), "int", _encode_timedelta, _decode_timedelta, natural=False)
    return None
