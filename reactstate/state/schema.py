"""All that touches pydantic's core schemas, which come without a promise: change it together with its own tests.

``harden`` turns the schema that pydantic made for a State into one whose results are deeply immutable and of exactly
the declared types, so that loading a large state costs no walk afterwards. ``Rules`` takes the schema apart again, so
that an update validates one field or one element and never the whole state.
"""

from __future__ import annotations

import threading
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic_core import PydanticCustomError, SchemaValidator, core_schema

from reactstate.state.frozen import FrozenDict, FrozenList, FrozenSet, type_of
from reactstate.state.kinds import standard_scalar
from reactstate.state.maps import validate_map
from reactstate.state.models import frozen_class, is_state_class, set_class

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from reactstate.state.kinds import Kind, Scalar
    from reactstate.state.models import ModelKind

__all__ = ["MAX_DIGITS", "Rules", "element_validator", "harden", "install", "opened"]

Node = Any
"""A node of a core schema: a dict with a ``type``."""

MAX_DIGITS = 4300
"""The most digits of an int: CPython's own default limit, beyond which other programs could not read the JSON."""

_HARDENED = "reactstate_hardened"
_JSON_VALUE = "pydantic.types.JsonValue"
_LARGEST = 10**MAX_DIGITS - 1
_FUNCTIONS = frozenset(("function-after", "function-before", "function-wrap"))
_UNIONS = frozenset(("union", "tagged-union"))


class _Opened(threading.local):
    """The states whose after-validators run in this thread just now: they may still be assigned to."""

    def __init__(self) -> None:
        self.states: list[Any] = []

    def __contains__(self, state: object) -> bool:
        return any(state is one for one in self.states)


opened: _Opened = _Opened()


class _Opening:
    """An after-validator of a State, which may assign to its own state while it runs."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, state: Any, *info: Any) -> Any:
        opened.states.append(state)
        try:
            return self.function(state, *info)
        finally:
            opened.states.pop()


class _Guard:
    """What stands around a model's validators: lets in what is published already, and publishes what comes out.

    It stands around plain models, and around States with validators of their own; other States need none, since
    pydantic takes an instance as it is.
    """

    __slots__ = ("_cls", "_kind", "_published")

    def __init__(self, cls: type[Any]) -> None:
        from reactstate.state.fieldtypes import kind_of

        self._cls = cls
        self._published = frozen_class(cls)
        self._kind = kind_of(cls)

    def __call__(self, value: Any, handler: Callable[[Any], Any]) -> Any:
        if isinstance(value, BaseModel):
            value = settle_model(value, (self._published, self._cls), self._cls.__name__)
            if type_of(value) is self._published:
                return value
            # a plain model of somebody else's: what is published is made anew from its fields
            value = {name: part for name, part in value.__dict__.items() if name in self._cls.model_fields}
        made = handler(value)
        if self._kind.validated or type_of(made) is not self._cls:
            return self._kind.seal(made)
        set_class(made, self._published)
        return made


def settle_model(value: Any, exact: Collection[type[Any]], declared: str) -> Any:
    """Return the model *value*, or the value that it is a draft of, if it is of one of the types *exact*.

    Raises:
        PydanticCustomError: It is of another type, such as a subclass.
    """
    from reactstate.state.draft import settle

    settled = settle(value)
    if type_of(settled) in exact:
        return settled
    raise PydanticCustomError(
        "undeclared_subclass",
        "a {found} stands where {declared} is declared; declare a union of both with a discriminator",
        {"found": type(value).__name__, "declared": declared},
    )


# --- hardening ----------------------------------------------------------------------------------------------------


def harden(schema: Node, *, root: bool = True) -> Node:
    """Return *schema* with results that are deeply frozen and of exactly the declared types.

    Args:
        schema: A complete schema, as pydantic leaves it on a class or type adapter; it is not changed.
        root: The schema is of a class itself, where instances of subclasses are made, not of a place that it stands in.
    """
    if schema["type"] == "definitions":
        hardener = _Hardener({node["ref"]: node for node in schema["definitions"]})
        definitions = [hardener.body(node) for node in schema["definitions"]]
        inner = hardener.body(schema["schema"]) if root else hardener.slot(schema["schema"])
        return {**schema, "definitions": definitions, "schema": inner}
    hardener = _Hardener({})
    return hardener.body(schema) if root else hardener.slot(schema)


class _Hardener:
    def __init__(self, definitions: dict[str, Node]) -> None:
        self._definitions = definitions

    def slot(self, node: Node) -> Node:
        """Harden a place that a value stands in: inside first, then what leaves it."""
        kind = node["type"]
        if kind in {"default", "nullable"}:
            inner = {**node, "schema": self.slot(node["schema"])}
            return {**inner, "validate_default": True} if kind == "default" else inner
        hardened = self.body(node)
        settle = self._settler(node)
        return hardened if settle is None else core_schema.no_info_after_validator_function(settle, hardened)

    def _settler(self, node: Node) -> Callable[[Any], Any] | None:
        """Return what turns the result of *node* into its published form; None when it is already."""
        kind = node["type"]
        if kind in _SETTLERS:
            return _SETTLERS[kind][1]
        if kind == "definition-ref":
            target = self._definitions.get(node["schema_ref"])
            return self._settler(target) if target is not None and _model_in(target) is not None else None
        if kind in _UNIONS:
            return _settle_by_type(self._members(node))
        model = _model_in(node)
        return None if model is None or _is_guarded(model) else _settle_by_type([model])

    def _members(self, node: Node) -> list[Node]:
        """Return the models, containers and scalars that a union is made of."""
        found: list[Node] = []
        for choice in _options(node["choices"]):
            one: Node = self._definitions.get(str(choice.get("schema_ref")), choice)
            if one["type"] in _UNIONS:
                found.extend(self._members(one))
            else:
                found.append(_model_in(one) or one)
        return found

    def body(self, node: Node) -> Node:
        """Harden what is inside *node*."""
        kind = node["type"]
        model = _model_in(node)
        if model is not None and "ref" in node:
            return self._class(node, model)
        if kind == "model":
            return self._model(node)
        if kind == "model-fields":
            fields = {name: {**field, "schema": self.slot(field["schema"])} for name, field in node["fields"].items()}
            return {**node, "fields": fields}
        if kind == "str":
            return {**node, "min_length": node.get("min_length", 0)}  # a constraint makes pydantic refuse surrogates
        if kind == "int":
            return _bounded(node)
        if kind == "function-wrap" and node["function"]["function"] is validate_map:
            # the dict between a Map and its entries is not kept, so it stays plain
            return {**node, "schema": self._parts(node["schema"])}
        if kind == "function-after" and model is not None and is_state_class(model["cls"]):
            return {**node, "schema": self.body(node["schema"]), "function": _opening(node["function"])}
        if kind in _UNIONS:
            return {**node, "choices": self._choices(node["choices"])}
        if kind == "json-or-python":
            return self._json_or_python(node)
        if kind == "lax-or-strict":
            lax, strict = self.body(node["lax_schema"]), self.body(node["strict_schema"])
            return {**node, "lax_schema": lax, "strict_schema": strict}
        return self._parts(node)

    def _parts(self, node: Node) -> Node:
        """Harden the places of a container, or what a function stands around."""
        changed = dict(node)
        for place in ("items_schema", "keys_schema", "values_schema"):
            part = node.get(place)
            if isinstance(part, list):
                changed[place] = [self.slot(one) for one in _options(part)]
            elif part is not None:
                hashed = place == "keys_schema" or node["type"] in {"set", "frozenset"}
                changed[place] = self.hashed(part) if hashed else self.slot(part)
        inner = node.get("schema")
        if inner is not None:
            changed["schema"] = self.body(inner)
        return changed

    def hashed(self, node: Node) -> Node:
        """Harden the place of a key or of an element of a set, where NaN would never be found again."""
        made = self.slot(node)
        return core_schema.no_info_after_validator_function(_refuse_nan, made) if _has_nan(node) else made

    def _choices(self, choices: Any) -> Any:
        if isinstance(choices, dict):
            return {tag: self.body(choice) for tag, choice in cast("dict[str, Node]", choices).items()}
        return [
            (self.body(choice[0]), *choice[1:]) if isinstance(choice, tuple) else self.body(choice)
            for choice in choices
        ]

    def _json_or_python(self, node: Node) -> Node:
        if not str(node.get("ref", "")).startswith(_JSON_VALUE):
            json, python = self.body(node["json_schema"]), self.body(node["python_schema"])
            if python["type"] == "is-instance":
                json = core_schema.no_info_wrap_validator_function(_accepting(python["cls"]), json)
            return {**node, "json_schema": json, "python_schema": python}
        union = node["python_schema"]
        choices = {tag: self.slot(choice) for tag, choice in union["choices"].items()}
        choices["float"] = {**choices["float"], "allow_inf_nan": False}
        hardened = {**union, "choices": choices}
        return {**node, "json_schema": hardened, "python_schema": hardened}

    def _class(self, node: Node, model: Node) -> Node:
        """Harden what pydantic made for a class: the model with its own validators around it."""
        if model.get("metadata", {}).get(_HARDENED):
            return node
        if not _is_guarded(model):
            return self._model(node)
        inner = {name: part for name, part in node.items() if name != "ref"}
        guard = core_schema.no_info_wrap_validator_function(_Guard(model["cls"]), self.body(inner))
        return {**guard, "ref": node["ref"]}

    def _model(self, node: Node) -> Node:
        hardened = {**node, "schema": self._fields(node), "metadata": {**node.get("metadata", {}), _HARDENED: True}}
        if not is_state_class(node["cls"]):
            hardened["config"] = {**node.get("config", {}), "validate_by_name": True}  # as a _Guard gives the fields
        return hardened

    def _fields(self, node: Node) -> Node:
        """Harden the fields of a model; those with validators of the user's are sealed as a whole."""
        from reactstate.state.fieldtypes import kind_of

        kinds = kind_of(node["cls"]).fields
        validated = _validated_fields(node["cls"])

        def visit(inner: Node) -> Node:
            if inner["type"] != "model-fields":
                return {**inner, "schema": visit(inner["schema"])}
            fields: dict[str, Node] = {}
            for name, field in self.body(inner)["fields"].items():
                sealed = name in validated or kinds[name].custom
                fields[name] = {**field, "schema": _sealed(field["schema"], kinds[name])} if sealed else field
            return {**inner, "fields": fields}

        return visit(node["schema"])


def _options(choices: Any) -> list[Node]:
    """Return the schemas of a union or tuple, which pydantic gives as a list, perhaps with labels, or by tag."""
    listed: list[Any] = [*choices.values()] if type_of(choices) is dict else choices
    return [one[0] if type_of(one) is tuple else one for one in listed]


def _accepting(cls: type[Any]) -> Callable[[Any, Any], Any]:
    """Let instances pass where JSON is read: defaults are."""

    def validate(value: Any, handler: core_schema.ValidatorFunctionWrapHandler) -> Any:
        return value if isinstance(value, cls) else handler(value)

    return validate


def _opening(function: Node) -> Node:
    return {**function, "function": _Opening(function["function"])}


def _bounded(node: Node) -> Node:
    low = {} if "ge" in node or "gt" in node else {"ge": -_LARGEST}
    high = {} if "le" in node or "lt" in node else {"le": _LARGEST}
    return {**node, **low, **high}


def _sealed(node: Node, kind: Kind) -> Node:
    if node["type"] == "default":
        return {**node, "schema": _sealed(node["schema"], kind)}
    return core_schema.no_info_after_validator_function(kind.seal, node)


def _model_in(node: Node | None) -> Node | None:
    """Return the model node that validators stand around, or None."""
    while node is not None and node["type"] in _FUNCTIONS:
        node = node.get("schema")
    return node if node is not None and node["type"] == "model" else None


def _is_guarded(model: Node) -> bool:
    """Say whether a _Guard stands around the validators of a model."""
    from reactstate.state.fieldtypes import kind_of

    return not is_state_class(model["cls"]) or kind_of(model["cls"]).validated


def _has_nan(node: Node) -> bool:
    if node["type"] in {"float", "decimal"}:
        return True
    items = node.get("items_schema", [])
    parts = [*_options(items if type_of(items) is list else [items]), *_options(node.get("choices", []))]
    if "schema" in node:
        parts.append(node["schema"])
    return any(map(_has_nan, parts))


def _refuse_nan(value: Any) -> Any:
    if type_of(value) is tuple or type_of(value) is frozenset:
        for part in value:
            _refuse_nan(part)
    elif value.is_nan() if type_of(value) is Decimal else value != value:  # noqa: PLR0124 - only NaN differs from itself
        raise ValueError("NaN cannot be a key or an element of a set: it would never be found again")
    return value


def _settler_of(scalar: type[Any]) -> tuple[type[Any], Callable[[Any], Any]]:
    return scalar, cast("Scalar", standard_scalar(scalar)).settle


_SETTLERS: dict[str, tuple[type[Any], Callable[[Any], Any]]] = {
    "list": (list, FrozenList),
    "dict": (dict, FrozenDict),
    "set": (set, FrozenSet),
    "bytes": _settler_of(bytes),
    "date": _settler_of(date),
    "datetime": _settler_of(datetime),
    "time": _settler_of(time),
    "timedelta": _settler_of(timedelta),
    "uuid": _settler_of(UUID),
}
"""What pydantic may return of each type of node besides the declared type itself, and what publishes it."""


def _settle_by_type(nodes: list[Node]) -> Callable[[Any], Any] | None:
    """Return what freezes the result of a place that several types, or models, may stand in."""
    models = [node["cls"] for node in nodes if node["type"] == "model"]
    exact = frozenset(map(frozen_class, models))
    names = " or ".join(sorted(cls.__name__ for cls in models))
    scalars = [_SETTLERS[node["type"]] for node in nodes if node["type"] in _SETTLERS]
    settlers: dict[type[Any], Callable[[Any], Any]] = dict(scalars)
    if not models and not scalars:
        return None

    def settle_one(value: Any) -> Any:
        kind = type_of(value)
        if kind in exact:
            return value
        settler = settlers.get(kind)
        if settler is not None:
            return settler(value)
        if isinstance(value, BaseModel):
            return settle_model(value, exact, names)
        for declared, publish in scalars:
            if isinstance(value, declared):
                return publish(value)
        return value

    return settle_one


# --- field by field -----------------------------------------------------------------------------------------------


def _validated_fields(cls: type[Any]) -> set[str]:
    """Return the names of the fields that have a field_validator."""
    found = cls.__pydantic_decorators__
    names: set[str] = set()
    for decorators in (found.field_validators, found.validators):
        for decorator in decorators.values():
            names.update(decorator.info.fields)
    return set(cls.model_fields) if "*" in names else names


class Rules:
    """How one model is validated in parts.

    Attributes:
        whole: The fields that are validated as a whole when something inside them changed.
        assign: Called with the fields, a name and a value; returns ``(fields, extra, names)`` with the validated value
            among the fields, or raises pydantic's ValidationError. What it is given stays as it is.
        quick: The fields of which any value of exactly this type is valid and stays as it is: any bool or float, an
            int of 64 bits, an ASCII str.
        plain: The model has no validators of its own.
        rebuild: Before or wrap validators make the model be validated as a whole when something in it changed.
    """

    __slots__ = ("_after", "assign", "plain", "quick", "rebuild", "whole")

    def __init__(self, kind: ModelKind) -> None:
        cls = kind.cls
        schema: Node = cls.__pydantic_core_schema__
        if not is_state_class(cls):
            schema = harden(schema)
        definitions, around, model = _unwrapped(schema)
        config = model.get("config")
        self.rebuild: bool = any(node["type"] != "function-after" for node in around)
        inner = model["schema"]
        while inner["type"] != "model-fields":
            self.rebuild = True
            inner = inner["schema"]
        after: Node = {"type": "any"}
        for node in reversed(around):
            if node["type"] == "function-after":
                after = {"type": "function-after", "function": node["function"], "schema": after}
        self.assign: Callable[[Any, str, Any], Any] = _validator(inner, definitions, config).validate_assignment
        self._after = None if after["type"] == "any" else _validator(after, [], config)
        self.plain: bool = self._after is None and not self.rebuild
        validated = _validated_fields(cls)
        self.whole: frozenset[str] = frozenset(
            name for name, field in kind.fields.items() if field.whole or name in validated
        )
        self.quick: dict[str, type[Any]] = {
            name: quick for name, field in inner["fields"].items() if (quick := _quick(field, config or {}))
        }

    def after(self, state: Any) -> Any:
        """Run the model's after-validators on *state* and return what they return.

        Raises:
            pydantic.ValidationError: One refused it.
        """
        return state if self._after is None else self._after.validate_python(state)


def _unwrapped(schema: Node) -> tuple[list[Node], list[Node], Node]:
    """Return a class's definitions, the functions around its model, outermost first, and the model."""
    definitions: list[Node] = []
    if schema["type"] == "definitions":
        definitions, schema = schema["definitions"], schema["schema"]
    if schema["type"] == "definition-ref":
        schema = next(node for node in definitions if node["ref"] == schema["schema_ref"])
    around: list[Node] = []
    while schema["type"] != "model":
        if not isinstance(schema["function"]["function"], _Guard):
            around.append(schema)
        schema = schema["schema"]
    return definitions, around, schema


_QUICK: dict[str, tuple[type[Any], Node]] = {
    "bool": (bool, {"type": "bool"}),
    "int": (int, {"type": "int", "ge": -_LARGEST, "le": _LARGEST}),
    "float": (float, {"type": "float"}),
    "str": (str, {"type": "str", "min_length": 0}),
}
_HARMLESS = frozenset(("metadata", "ref", "serialization"))


def _quick(field: Node, config: dict[str, Any]) -> type[Any] | None:
    """Return the type of which every value is valid in *field* as it is, or None."""
    node = field["schema"]
    while node["type"] in {"default", "nullable"}:
        node = node["schema"]
    if field.get("frozen") or node["type"] not in _QUICK:
        return None
    if any(name.startswith("str_") or name == "allow_inf_nan" for name in config):
        return None
    kind, expected = _QUICK[node["type"]]
    return kind if {name: part for name, part in node.items() if name not in _HARMLESS} == expected else None


def _validator(schema: Node, definitions: list[Node], config: Any) -> SchemaValidator:
    if definitions:
        schema = {"type": "definitions", "schema": schema, "definitions": definitions}
    return SchemaValidator(schema, config, _use_prebuilt=False)


def element_validator(kind: Kind) -> SchemaValidator:
    """Return the validator of one element of *kind*, such as an item of a list."""
    owner = kind.owner
    config = None if owner is None else _unwrapped(owner.__pydantic_core_schema__)[2].get("config")
    schema: Node
    if kind.is_model:
        schema = kind.annotation.__pydantic_core_schema__
    elif owner is None or _is_annotated_model(kind.annotation):
        schema = TypeAdapter(kind.annotation).core_schema
    else:
        settings = {name: value for name, value in owner.model_config.items() if name not in {"title", "defer_build"}}
        schema = TypeAdapter(kind.annotation, config=cast("ConfigDict", settings)).core_schema
    if not kind.hashed:
        return SchemaValidator(harden(schema, root=False), config, _use_prebuilt=False)
    return SchemaValidator(_Hardener({}).hashed(schema), config, _use_prebuilt=False)


def _is_annotated_model(annotation: Any) -> bool:
    if get_origin(annotation) is not Annotated:
        return False
    inside = get_args(annotation)[0]
    return isinstance(inside, type) and issubclass(inside, BaseModel)


def install(cls: type[Any]) -> None:
    """Give a State class its hardened schema and the validator made of it."""
    schema = harden(cls.__pydantic_core_schema__)
    cls.__pydantic_core_schema__ = schema
    config = _unwrapped(schema)[2].get("config")
    cls.__pydantic_validator__ = SchemaValidator(schema, config, _use_prebuilt=False)
