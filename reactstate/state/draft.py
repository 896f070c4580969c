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
from reactstate.state.models import (
    ModelKind,
    assemble,
    new_object,
    set_class,
    set_dict,
    set_extra,
    set_fields_set,
    set_private,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from reactstate.state.edits import Edit, Path
    from reactstate.state.kinds import Kind

__all__ = ["ModelNode", "Node", "begin", "draft_of", "explain", "make_draft_classes", "settle"]

_TOO_LATE = "a draft can only be used while its recipe runs; read the new state instead"


class Node:
    """What all drafts have in common: a place in the tree of drafts of one recipe.

    Attributes:
        kind: The kind of the value.
        base: The value as it was.
        owner: The node of the container it stands in; None for the root, and once it was taken out.
        key: Where it stands in its owner.
        dirty: Something in it was written.
        kids: The drafts of its parts, by key; None as long as there are none.
        dirty_kids: Those of them that were written; there as soon as there are kids.
        session: The life of the drafts of this recipe; None in a root without kids.
    """

    __slots__ = ("base", "dirty", "dirty_kids", "key", "kids", "kind", "owner", "session")

    kind: Any
    base: Any
    owner: Node | None
    key: Any
    dirty: bool
    kids: dict[Any, Any] | None
    dirty_kids: dict[Any, Node]
    session: Session | None

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

    def adopt(self, key: Any, kid: Any) -> None:
        """Keep the draft of the part at *key*."""
        if self.kids is None:
            self.kids = {}
            self.dirty_kids = {}
        self.kids[key] = kid

    def forget(self, key: Any) -> None:
        """Let go of the draft at *key*: what is done to it from now on changes nothing here."""
        kid = None if self.kids is None else self.kids.pop(key, None)
        if kid is not None:
            self.dirty_kids.pop(key, None)
            node_of(kid).owner = None

    def level(self) -> int:
        """Return how many containers stand around the parts of this one."""
        count, node = 1, self.owner
        while node is not None:
            count, node = count + 1, node.owner
        return count

    def check(self) -> None:
        """Raise FrozenStateError when the recipe has ended."""
        if self.session is not None and not self.session.open:
            raise FrozenStateError(_TOO_LATE)

    def finish(self, path: Path, edits: list[Edit]) -> Any:
        """Return the new value, frozen and validated, and append the edits that lead to it."""
        raise NotImplementedError

    def current(self) -> Any:
        """Return the value as it is now, frozen; the draft can be used on."""
        raise NotImplementedError


class Session:
    """The life of the drafts of one recipe.

    Attributes:
        open: The recipe still runs.
        drafts: The drafts of nested models, which become unusable when it ends.
    """

    __slots__ = ("drafts", "open")

    def __init__(self) -> None:
        self.open = True
        self.drafts: list[Any] = []


def session_of(node: Node) -> Session:
    """Return the session of *node*, beginning it if this is the root's first kid."""
    if node.session is None:
        node.session = Session()
    return node.session


def node_of(draft: Any) -> Node:
    """Return the node of *draft*: containers are their own, a model's is in its slot for private attributes."""
    return draft if isinstance(draft, Node) else draft.__pydantic_private__


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

    __slots__ = ("before", "draft", "fields", "touched")

    kind: ModelKind
    draft: Any
    before: dict[str, Any]  # the fields of the base
    fields: dict[str, Any]  # the fields of the draft, which become those of the new state
    touched: dict[str, None] | None
    def close(self) -> None:
        """End the recipe: make every draft of it unusable. For the root only."""
        set_class(self.draft, self.kind.dead_class)
        session = self.session
        if session is not None:
            session.open = False
            for draft in session.drafts:
                set_class(draft, type(draft)._reactstate_dead)

    def finish(self, path: Path, edits: list[Edit]) -> Any:
        base, kind, touched = self.base, self.kind, self.touched
        if not self.dirty:
            return base
        fields, before = self.fields, self.before
        start = len(edits)
        if self.kids is not None and self.dirty_kids:
            touched = self._finish_kids(path, edits)
        if touched is not None:
            kinds = kind.fields
            for name in touched:
                old, new = before[name], fields[name]
                if old is new:
                    continue
                field = kinds[name]
                if field.plain and (type(old) is not type(new) or old != new):
                    edits.append(((path, kind, name), old, new))
                    continue
                mark = len(edits)
                field.diff(old, new, (path, kind, name), edits)
                if len(edits) == mark:
                    fields[name] = old
        if len(edits) == start:
            return base
        fields_set = base.__pydantic_fields_set__
        if touched is not None and len(fields_set) != len(fields) and not fields_set.issuperset(touched):
            fields_set = fields_set | touched.keys()
        if not kind.rules.plain:
            return self._validated(fields, fields_set, path, edits, start)
        made = new_object(kind.frozen)  # ``assemble``, written out for the path that every update takes
        set_dict(made, fields)
        set_fields_set(made, fields_set)
        set_extra(made, None)
        set_private(made, None)
        return made

    def _finish_kids(self, path: Path, edits: list[Edit]) -> dict[str, None] | None:
        """Put the new values of the changed parts in place; return the fields that are still to be compared."""
        kind, fields, touched = self.kind, self.fields, self.touched
        for name, kid in self.dirty_kids.items():
            mark = len(edits)
            fields[name] = kid.finish((path, kind, name), edits)
            if name in kind.rules.whole:
                fields[name] = _assign(kind, fields, name, fields[name])
                touched = {**(touched or {}), name: None}
            if touched is not None and name in touched:
                del edits[mark:]
        return touched

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
        self.check()
        if not self.dirty:
            return self.base
        fields = dict(self.fields)
        if self.kids is not None:
            for name, kid in self.dirty_kids.items():
                fields[name] = kid.current()
        return assemble(self.kind.frozen, fields, self.base.__pydantic_fields_set__)


def _assign(kind: ModelKind, fields: dict[str, Any], name: str, value: Any) -> Any:
    try:
        return kind.rules.assign(fields, name, value)[0][name]
    except ValidationError as exc:
        raise explain(exc, kind.cls.__name__) from exc


def _make_setter(kind: ModelKind) -> Callable[[Any, str, Any], None]:
    """Return ``__setattr__`` of the drafts of *kind*: an assigned value is validated by its own field, at once."""
    type_of = {name: kind.fields[name].exact for name in kind.fields if kind.takes_exact(name)}.get

    def set_field(self: Any, name: str, value: Any) -> None:
        node: ModelNode = self.__pydantic_private__
        if type(value) is type_of(name) and (type(value) is not str or value.isascii()):
            node.fields[name] = value  # of exactly the declared type, without constraints: it is valid
        elif not _assign_field(self, node, name, value):
            return
        touched = node.touched
        if touched is None:
            node.touched = {name: None}
        else:
            touched[name] = None
        if not node.dirty:
            node.touch()

    return set_field


def _assign_field(draft: Any, node: ModelNode, name: str, value: Any) -> bool:
    """Validate *value* and assign it to a field; False: *name* is a property with a setter, which did its work."""
    fields, kind = node.fields, node.kind
    field = kind.fields.get(name)
    if field is None:
        setter = getattr(type(draft), name, None)
        if isinstance(setter, property) and setter.fset is not None:
            setter.fset(draft, value)
            return False
        raise StateValidationError(f"{kind.cls.__name__} has no field {name!r}")
    if type(value) not in _SCALARS:
        value = settle(value)
    fields[name] = _assign(kind, fields, name, value)
    if field.recursive:
        _check_depth(field, fields[name], node)
    if node.kids:
        node.forget(name)
    return True


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
        node = draft.__pydantic_private__
        name = self._name
        if node.kids is not None and name in node.kids:
            return node.kids[name]
        value = draft.__dict__[name]
        kid = draft_of(self._kind, value, node, name)
        if kid is None:
            return value
        node.adopt(name, kid)
        return kid

    def __set__(self, draft: Any, value: Any) -> None:
        setattr(draft, self._name, value)


def _equal(self: Any, other: object) -> Any:
    mine = self.__pydantic_private__.current()
    return mine == (node_of(other).current() if is_draft(other) else other)


def _represent(self: Any) -> str:
    return f"<draft of {self.__pydantic_private__.current()!r}>"


def _copy(self: Any, _memo: Any = None) -> Any:
    return self.__pydantic_private__.current()


def _dead(self: Any, name: str) -> Any:
    if name == "__class__":
        return type(self)
    raise FrozenStateError(_TOO_LATE)


def _dead_set(self: Any, name: str, value: Any = None) -> NoReturn:
    raise FrozenStateError(_TOO_LATE)


def make_draft_classes(kind: ModelKind) -> tuple[type[Any], type[Any]]:
    """Return the class of the drafts of *kind*, a subclass of the model whose fields can be set, and of dead ones."""
    cls = kind.cls
    namespace: dict[str, Any] = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__reactstate_derived__": True,
        "__slots__": (),
        "__setattr__": _make_setter(kind),
        # What pydantic keeps beside the fields is the base's; leaving the slots empty makes drafts cheaper.
        "__pydantic_extra__": None,
        "__pydantic_fields_set__": property(lambda self: self.__pydantic_private__.base.__pydantic_fields_set__),
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
    return made, dead


def begin(kind: ModelKind, base: Any) -> ModelNode:
    """Return the node of a new root draft over *base*."""
    node = ModelNode()
    node.kind = kind
    node.base = base
    node.dirty = False
    node.owner = node.kids = node.touched = node.session = None
    node.before = fields = base.__dict__
    if len(fields) == len(kind.fields):
        node.fields = fields = fields.copy()
    else:  # a cached property lives in the same dict and must not travel
        node.fields = fields = {name: fields[name] for name in kind.fields}
    draft_class = kind.draft_class
    if draft_class is None:
        kind.prepare()
        draft_class = kind.draft_class
    node.draft = draft = new_object(draft_class)
    set_dict(draft, fields)
    set_private(draft, node)
    return node


def _model_draft(kind: Any, base: Any, owner: Node, key: Any) -> Any:
    node = begin(kind, base)
    node.owner = owner
    node.key = key
    node.session = session_of(owner)
    node.session.drafts.append(node.draft)
    return node.draft


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
