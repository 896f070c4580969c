"""Drafts: what a recipe reads and changes instead of the state.

A draft looks like the model that it stands for and copies a part only when something in it is written. An assigned
value is validated at once, by the schema of its own field or element. When the recipe ends, ``finish`` makes the new
state, which shares every part that was not changed, and leaves behind the edits that lead to it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import ValidationError

from reactstate.errors import FrozenStateError, StateValidationError
from reactstate.state.models import ModelKind, assemble

if TYPE_CHECKING:
    from collections.abc import Callable

    from reactstate.state.edits import Edit, Path
    from reactstate.state.kinds import Kind

__all__ = ["ModelNode", "Node", "begin", "draft_of", "explain", "make_draft_class", "settle"]

_TOO_LATE = "a draft can only be used while its recipe runs; read the new state instead"


class Node:
    """What all drafts have in common: a place in the tree of drafts of one recipe.

    Attributes:
        kind: The kind of the value.
        base: The value as it was.
        owner: The node of the container it stands in; None for the root, and once it was taken out.
        key: Where it stands in its owner.
        dirty: Something in it was written.
        kids: The drafts of its parts, by key.
        dirty_kids: Those of them that were written.
        session: The root's node, which knows whether the recipe still runs.
    """

    __slots__ = ("base", "dirty", "dirty_kids", "key", "kids", "kind", "owner", "session")

    kind: Any
    base: Any
    owner: Node | None
    key: Any
    dirty: bool
    kids: dict[Any, Any]
    dirty_kids: dict[Any, Node]
    session: Session

    def touch(self) -> None:
        """Note that something here was written, up to the root."""
        node = self
        while not node.dirty:
            node.dirty = True
            owner = node.owner
            if owner is None:
                return
            owner.dirty_kids[node.key] = node
            node = owner

    def forget(self, key: Any) -> None:
        """Let go of the draft at *key*: what is done to it from now on changes nothing here."""
        kid = self.kids.pop(key, None)
        if kid is not None:
            self.dirty_kids.pop(key, None)
            node_of(kid).owner = None

    def level(self) -> int:
        """Return how many containers stand around the parts of this one."""
        count, node = 1, self.owner
        while node is not None:
            count, node = count + 1, node.owner
        return count

    def finish(self, path: Path, edits: list[Edit]) -> Any:
        """Return the new value, frozen and validated, and append the edits that lead to it."""
        raise NotImplementedError

    def current(self) -> Any:
        """Return the value as it is now, frozen; the draft can be used on."""
        raise NotImplementedError


class Session:
    """The life of the drafts of one recipe."""

    __slots__ = ("models", "open")

    def __init__(self) -> None:
        self.open = True
        self.models: list[Any] = []

    def close(self) -> None:
        """Make every draft of this recipe unusable."""
        self.open = False
        for draft in self.models:
            dead = type(draft)._reactstate_dead
            object.__setattr__(draft, "__dict__", {})
            object.__setattr__(draft, "__class__", dead)

    def check(self) -> None:
        """Raise FrozenStateError when the recipe has ended."""
        if not self.open:
            raise FrozenStateError(_TOO_LATE)


def node_of(draft: Any) -> Node:
    """Return the node of *draft*: containers are their own."""
    return draft if isinstance(draft, Node) else draft._reactstate_node


def is_draft(value: Any) -> bool:
    """Say whether *value* is a draft."""
    return isinstance(value, Node) or hasattr(type(value), "_reactstate_dead")


def settle(value: Any) -> Any:
    """Return *value* with every draft in it replaced by the frozen value that it stands for just now."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if is_draft(value):
        return node_of(value).current()
    if kind is list or kind is tuple:
        settled = [settle(part) for part in value]
        return settled if kind is list else tuple(settled)
    if kind is dict:
        return {key: settle(part) for key, part in value.items()}
    return value


_SCALARS = frozenset((int, str, float, bool, type(None), bytes))


def explain(exc: ValidationError, where: str) -> StateValidationError:
    """Return the typed error for pydantic's."""
    first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join([where, *(str(part) for part in first["loc"])]) if first["loc"] else where
    return StateValidationError(f"{place}: {first['msg']}", exc)


# --- models -------------------------------------------------------------------------------------------------------


class ModelNode(Node):
    """The place of a model's draft."""

    __slots__ = ("draft", "touched")

    kind: ModelKind
    draft: Any
    touched: dict[str, None]

    def finish(self, path: Path, edits: list[Edit]) -> Any:
        base = self.base
        if not self.dirty:
            return base
        kind, fields, before = self.kind, self.draft.__dict__, self.base.__dict__
        rules = kind.rules
        start = len(edits)
        for name, kid in self.dirty_kids.items():
            mark = len(edits)
            fields[name] = kid.finish((path, kind, name), edits)
            if name in rules.whole:
                fields[name] = _assign(kind, fields, name, fields[name])
                self.touched[name] = None
            if name in self.touched:
                del edits[mark:]
        for name in self.touched:
            old = before[name]
            if old is not fields[name]:
                mark = len(edits)
                kind.fields[name].diff(old, fields[name], (path, kind, name), edits)
                if len(edits) == mark:
                    fields[name] = old
        if len(edits) == start:
            return base
        fields_set = base.__pydantic_fields_set__
        if not fields_set.issuperset(self.touched):
            fields_set = fields_set | self.touched.keys()
        if rules.rebuild or rules.has_after:
            return self._validated(fields, fields_set, path, edits, start)
        return assemble(kind.frozen, fields, fields_set)

    def _validated(
        self, fields: dict[str, Any], fields_set: set[str], path: Path, edits: list[Edit], start: int
    ) -> Any:
        """Run the model's own validators and take what they made of it."""
        kind, base = self.kind, self.base
        try:
            if kind.rules.rebuild:
                made = kind.read(dict(fields))
            else:
                made = kind.rules.after(assemble(kind.cls, dict(fields), fields_set))
        except ValidationError as exc:
            raise explain(exc, kind.cls.__name__) from exc
        try:
            made = kind.seal(made)
        except ValueError as exc:
            raise StateValidationError(f"a validator of {kind.cls.__name__} returned another type: {exc}", exc) from exc
        found, before = made.__dict__, base.__dict__
        if all(found[name] is fields[name] for name in kind.fields):
            return made
        del edits[start:]
        for name, field in kind.fields.items():
            mark = len(edits)
            field.diff(before[name], found[name], (path, kind, name), edits)
            if len(edits) == mark:
                found[name] = before[name]
        return base if len(edits) == start else made

    def current(self) -> Any:
        self.session.check()
        if not self.dirty:
            return self.base
        fields = dict(self.draft.__dict__)
        for name, kid in self.dirty_kids.items():
            fields[name] = kid.current()
        return assemble(self.kind.frozen, fields, self.base.__pydantic_fields_set__)


def _assign(kind: ModelKind, fields: dict[str, Any], name: str, value: Any) -> Any:
    try:
        return kind.rules.assign(fields, name, value)
    except ValidationError as exc:
        raise explain(exc, kind.cls.__name__) from exc


def _set_field(self: Any, name: str, value: Any) -> None:
    """Assign to a field of a model draft: validated by the field's own schema, at once."""
    node: ModelNode = self._reactstate_node
    fields = self.__dict__
    kind = node.kind
    field = kind.fields.get(name)
    if field is None:
        setter = getattr(type(self), name, None)
        if isinstance(setter, property) and setter.fset is not None:
            setter.fset(self, value)
            return
        raise StateValidationError(f"{kind.cls.__name__} has no field {name!r}")
    if type(value) not in _SCALARS:
        value = settle(value)
    fields[name] = _assign(kind, fields, name, value)
    if field.recursive:
        _check_depth(field, fields[name], node)
    if node.kids:
        node.forget(name)
    node.touched[name] = None
    if not node.dirty:
        node.touch()


def _check_depth(kind: Kind, value: Any, node: Node) -> None:
    from reactstate.state.document import check_depth

    check_depth(kind, value, node.level())


def _delete_field(self: Any, name: str) -> NoReturn:
    raise StateValidationError(f"{type(self).__name__}.{name} cannot be deleted; assign its default instead")


class _Part:
    """A field of a model draft whose value may have a draft of its own."""

    __slots__ = ("_kind", "_name")

    def __init__(self, name: str, kind: Kind) -> None:
        self._name = name
        self._kind = kind

    def __get__(self, draft: Any, owner: type | None = None) -> Any:
        if draft is None:
            raise AttributeError(self._name)
        node = draft._reactstate_node
        kid = node.kids.get(self._name)
        if kid is None:
            value = draft.__dict__[self._name]
            kid = draft_of(self._kind, value, node, self._name)
            if kid is None:
                return value
            node.kids[self._name] = kid
        return kid

    def __set__(self, draft: Any, value: Any) -> None:
        _set_field(draft, self._name, value)


def _equal(self: Any, other: object) -> Any:
    mine = self._reactstate_node.current()
    return mine == (node_of(other).current() if is_draft(other) else other)


def _represent(self: Any) -> str:
    return f"<draft of {self._reactstate_node.current()!r}>"


def _copy(self: Any, _memo: Any = None) -> Any:
    return self._reactstate_node.current()


def _dead(self: Any, name: str) -> Any:
    if name == "__class__":
        return type(self)
    raise FrozenStateError(_TOO_LATE)


def _dead_set(self: Any, name: str, value: Any = None) -> NoReturn:
    raise FrozenStateError(_TOO_LATE)


def make_draft_class(kind: ModelKind) -> type[Any]:
    """Return the class of the drafts of *kind*: a subclass of the model, whose fields can be set."""
    cls = kind.cls
    namespace: dict[str, Any] = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__reactstate_derived__": True,
        "__slots__": ("_reactstate_node",),
        "__setattr__": _set_field,
        "__delattr__": _delete_field,
        "__eq__": _equal,
        "__hash__": None,
        "__repr__": _represent,
        "__copy__": _copy,
        "__deepcopy__": _copy,
    }
    for name in dir(cls):
        found = next((one.__dict__[name] for one in cls.__mro__ if name in one.__dict__), None)
        if isinstance(found, functools.cached_property):
            namespace[name] = property(found.func)  # a draft changes, so nothing about it is cached
    for name, field in kind.fields.items():
        if field.editable:
            namespace[name] = _Part(name, field)
    made = type.__new__(type(cls), cls.__name__, (cls,), namespace)
    dead_namespace = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__reactstate_derived__": True,
        "__slots__": (),
        "__getattribute__": _dead,
        "__setattr__": _dead_set,
        "__delattr__": _dead_set,
        "__repr__": lambda _self: f"<draft of {cls.__name__}, after its recipe>",
        "__eq__": object.__eq__,
        "__hash__": None,
    }
    dead = type.__new__(type(cls), cls.__name__, (made,), dead_namespace)
    type.__setattr__(made, "_reactstate_dead", dead)
    return made


def begin(kind: ModelKind, base: Any) -> ModelNode:
    """Return the node of a new root draft over *base*."""
    return _model_node(kind, base, None, None, Session())


def _model_node(kind: ModelKind, base: Any, owner: Node | None, key: Any, session: Session) -> ModelNode:
    node = ModelNode()
    node.kind = kind
    node.base = base
    node.owner = owner
    node.key = key
    node.dirty = False
    node.kids = {}
    node.dirty_kids = {}
    node.touched = {}
    node.session = session
    fields = base.__dict__
    fields = (
        fields.copy() if len(fields) == len(kind.fields) else {name: fields[name] for name in kind.fields}
    )  # a cached property lives in the same dict and must not travel
    draft = assemble(kind.draft_class, fields, base.__pydantic_fields_set__)
    object.__setattr__(draft, "_reactstate_node", node)
    node.draft = draft
    session.models.append(draft)
    return node


def _model_draft(kind: Any, base: Any, owner: Node, key: Any) -> Any:
    return _model_node(kind, base, owner, key, owner.session).draft


_MAKERS: dict[type[Any], Callable[[Any, Any, Node, Any], Any]] = {ModelKind: _model_draft}


def register_maker(kind: type[Any], make: Callable[[Any, Any, Node, Any], Any]) -> None:
    """Say how the drafts of one class of kinds are made."""
    _MAKERS[kind] = make


def draft_of(kind: Kind, value: Any, owner: Node, key: Any) -> Any:
    """Return a draft of *value*, or None when it is a value without parts that can be changed."""
    if value is None:
        return None
    concrete = kind.of(value)
    make = _MAKERS.get(type(concrete))
    return None if make is None or not concrete.editable else make(concrete, value, owner, key)
