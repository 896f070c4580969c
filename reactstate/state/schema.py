"""All that touches pydantic's core schemas, which come without a promise: change it together with its own tests.

``harden`` turns the schema that pydantic made for a State into one whose results are deeply immutable and of exactly
the declared types, so that loading a large state costs no walk afterwards. ``Rules`` takes the schema apart again, so
that an update validates one field or one element and never the whole state.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic_core import PydanticCustomError, SchemaValidator, core_schema

from reactstate.state.frozen import FrozenDict, FrozenList, FrozenSet
from reactstate.state.kinds import settle_time
from reactstate.state.maps import validate_map

if TYPE_CHECKING:
    from collections.abc import Callable

    from reactstate.state.kinds import Kind
    from reactstate.state.models import ModelKind

__all__ = ["Rules", "element_validator", "harden", "opened"]

Node = Any
"""A node of a core schema: a dict with a ``type``."""

_HARDENED = "reactstate_hardened"
_JSON_VALUE = "pydantic.types.JsonValue"


class _Opened(threading.local):
    """The states whose after-validators run in this thread just now: they may still be assigned to."""

    def __init__(self) -> None:
        self.states: list[Any] = []

    def __contains__(self, state: object) -> bool:
        return any(state is one for one in self.states)


opened = _Opened()


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
        if kind == "list":
            return FrozenList
        if kind == "dict":
            return FrozenDict
        if kind == "set":
            return FrozenSet
        if kind in {"datetime", "time"}:
            return settle_time
        if kind == "definition-ref":
            target = self._definitions.get(node["schema_ref"])
            return None if target is None else self._settler(target) if _model_in(target) else None
        if kind in {"union", "tagged-union"}:
            return _settle_by_type(self._models(node))
        if kind in {"function-after", "function-before", "function-wrap", "chain", "model"}:
            model = _model_in(node)
            return None if model is None else _settle_by_type({model["cls"]})
        return None

    def _models(self, node: Node) -> set[type[Any]]:
        found: set[type[Any]] = set()
        choices = node["choices"].values() if isinstance(node["choices"], dict) else node["choices"]
        for choice in choices:
            one = choice[0] if isinstance(choice, tuple) else choice
            if one["type"] == "definition-ref":
                one = self._definitions.get(one["schema_ref"], one)
            if one["type"] in {"union", "tagged-union"}:
                found |= self._models(one)
            model = _model_in(one)
            if model is not None:
                found.add(model["cls"])
        return found

    def body(self, node: Node) -> Node:
        """Harden what is inside *node*."""
        kind = node["type"]
        if kind == "model":
            return self._model(node)
        if kind == "model-fields":
            fields = {
                name: {**field, "schema": self.slot(field["schema"])} for name, field in node["fields"].items()
            }
            return {**node, "fields": fields}
        if kind == "str":
            return {**node, "min_length": node.get("min_length", 0)}  # a constraint makes pydantic refuse surrogates
        if kind == "function-wrap" and node["function"]["function"] is validate_map:
            return {**node, "schema": self._entries(node["schema"])}
        if kind == "function-after" and _is_state(_model_in(node)):
            function = {**node["function"], "function": _opening(node["function"]["function"])}
            return {**node, "schema": self.body(node["schema"]), "function": function}
        if kind in {"union", "tagged-union"}:
            return {**node, "choices": self._choices(node["choices"])}
        if kind == "json-or-python":
            if str(node.get("ref", "")).startswith(_JSON_VALUE):
                return {**node, "python_schema": self._json(node["python_schema"])}
            return {**node, "python_schema": self.body(node["python_schema"])}
        if kind == "lax-or-strict":
            return {
                **node,
                "lax_schema": self.body(node["lax_schema"]),
                "strict_schema": self.body(node["strict_schema"]),
            }
        return self._parts(node)

    def _parts(self, node: Node) -> Node:
        """Harden the places of a container, or what a function stands around."""
        changed = dict(node)
        for place in ("items_schema", "keys_schema", "values_schema"):
            part = node.get(place)
            if isinstance(part, list):
                changed[place] = [self.slot(one) for one in part]
            elif part is not None:
                changed[place] = self.slot(part)
        inner = node.get("schema")
        if inner is not None and node["type"] != "model":
            changed["schema"] = self.body(inner)
        return changed

    def _entries(self, node: Node) -> Node:
        """Harden keys and values of a Map, but leave the dict between them plain: it is not kept."""
        return self._parts(node)

    def _choices(self, choices: Any) -> Any:
        if isinstance(choices, dict):
            return {tag: self.body(choice) for tag, choice in choices.items()}
        return [
            (self.body(choice[0]), *choice[1:]) if isinstance(choice, tuple) else self.body(choice)
            for choice in choices
        ]

    def _json(self, node: Node) -> Node:
        choices: dict[str, Node] = {}
        for tag, choice in node["choices"].items():
            made = self.slot(choice)
            choices[tag] = {**made, "allow_inf_nan": False} if choice["type"] == "float" else made
        return {**node, "choices": choices}

    def _model(self, node: Node) -> Node:
        metadata = {**node.get("metadata", {}), _HARDENED: True}
        if node.get("metadata", {}).get(_HARDENED):
            return node
        hardened = {**node, "schema": self._fields(node), "metadata": metadata}
        if not _is_state(node):
            hardened["revalidate_instances"] = "always"  # so that nobody else holds what is published
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


def _sealed(node: Node, kind: Kind) -> Node:
    if node["type"] == "default":
        return {**node, "schema": _sealed(node["schema"], kind)}
    return core_schema.no_info_after_validator_function(kind.seal, node)


def _model_in(node: Node | None) -> Node | None:
    """Return the model node that validators stand around, or None."""
    while node is not None and node["type"] in {"function-after", "function-before", "function-wrap"}:
        node = node.get("schema")
    return node if node is not None and node["type"] == "model" else None


def _is_state(model: Node | None) -> bool:
    return model is not None and hasattr(model["cls"], "__reactstate_type_name__")


def _opening(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let an after-validator of a State assign to its own state while it runs."""

    def run(state: Any, *info: Any) -> Any:
        opened.states.append(state)
        try:
            return function(state, *info)
        finally:
            opened.states.pop()

    return run


def _settle_by_type(models: set[type[Any]]) -> Callable[[Any], Any]:
    """Return what freezes the result of a place that several types, or models, may stand in."""
    from reactstate.state.draft import settle
    from reactstate.state.models import frozen_class, set_class

    frozen = {cls: frozen_class(cls) for cls in models}
    exact = frozenset(frozen.values())

    def settle_one(value: Any) -> Any:
        kind = type(value)
        if kind in exact:
            return value
        if kind in frozen:
            set_class(value, frozen[kind])
            return value
        if isinstance(value, BaseModel):
            settled = settle(value)
            if type(settled) in exact:
                return settled
            names = " or ".join(sorted(cls.__name__ for cls in models))
            raise PydanticCustomError(
                "undeclared_subclass",
                "a {found} stands where {declared} is declared; declare a union of both with a discriminator",
                {"found": kind.__name__, "declared": names},
            )
        freezer = _FREEZERS.get(kind)
        return value if freezer is None else freezer(value)

    return settle_one


def _settle_moment(value: Any) -> Any:
    return settle_time(value)


_FREEZERS: dict[type, Callable[[Any], Any]] = {list: FrozenList, dict: FrozenDict, set: FrozenSet}


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
        plain: The model has no validators of its own.
        rebuild: Before or wrap validators make the model be validated as a whole when something in it changed.
    """

    __slots__ = ("_after", "assign", "plain", "rebuild", "whole")

    def __init__(self, kind: ModelKind) -> None:
        cls = kind.cls
        schema = cls.__pydantic_core_schema__
        if not _is_state({"cls": cls}):
            schema = harden(schema)
        definitions: list[Node] = []
        if schema["type"] == "definitions":
            definitions, schema = schema["definitions"], schema["schema"]
        if schema["type"] == "definition-ref":
            schema = next(node for node in definitions if node["ref"] == schema["schema_ref"])
        after: Node = {"type": "any"}
        self.rebuild = False
        around: list[Node] = []
        while schema["type"] != "model":
            around.append(schema)
            schema = schema["schema"]
        config = schema.get("config")
        inner = schema["schema"]
        while inner["type"] != "model-fields":
            self.rebuild = True
            inner = inner["schema"]
        for node in reversed(around):
            if node["type"] == "function-after":
                after = {"type": "function-after", "function": node["function"], "schema": after}
            else:
                self.rebuild = True
        self.assign = _validator(inner, definitions, config).validate_assignment
        self._after = None if after["type"] == "any" else _validator(after, [], config)
        self.plain = self._after is None and not self.rebuild
        self.whole = frozenset(
            name for name in kind.fields if kind.fields[name].whole or name in _validated_fields(cls)
        )

    def after(self, state: Any) -> Any:
        """Run the model's after-validators on *state* and return what they return.

        Raises:
            pydantic.ValidationError: One refused it.
        """
        return state if self._after is None else self._after.validate_python(state)


def _validator(schema: Node, definitions: list[Node], config: Any) -> SchemaValidator:
    if definitions:
        schema = {"type": "definitions", "schema": schema, "definitions": definitions}
    return SchemaValidator(schema, config, _use_prebuilt=False)


def element_validator(kind: Kind) -> SchemaValidator:
    """Return the validator of one element of *kind*, such as an item of a list."""
    annotation = kind.annotation
    if kind.is_model:
        return SchemaValidator(harden(annotation.__pydantic_core_schema__, root=False), None, _use_prebuilt=False)
    config = ConfigDict(**kind.owner.model_config) if kind.owner is not None else ConfigDict()
    config.pop("title", None)
    schema = TypeAdapter(annotation, config=config).core_schema
    core_config = core_schema.CoreConfig(
        **{name: value for name, value in config.items() if name in core_schema.CoreConfig.__annotations__}
    )
    return SchemaValidator(harden(schema, root=False), core_config, _use_prebuilt=False)


def install(cls: type[Any]) -> None:
    """Give a State class its hardened schema and the validator made of it."""
    schema = harden(cls.__pydantic_core_schema__)
    cls.__pydantic_core_schema__ = schema
    config = cls.model_config
    core_config = core_schema.CoreConfig(
        **{name: value for name, value in config.items() if name in core_schema.CoreConfig.__annotations__},
        title=cls.__name__,
    )
    cls.__pydantic_validator__ = SchemaValidator(schema, core_config, _use_prebuilt=False)
