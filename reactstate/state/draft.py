"""Drafts: what a recipe reads and changes instead of the state.

A draft looks like the model that it stands for and copies a part only when something in it is written. An assigned
value is validated at once, by the schema of its own field or element. When the recipe ends, ``finish`` makes the new
state, which shares every part that was not changed, and leaves behind the edits that lead to it.

A draft belongs to the recipe that it was made for, and to the thread in which that runs. Its use by another thread
while the recipe runs is not noticed, and may even change the new state after it was published: to read a field is to
read a dict, which asks for no thread, and to ask for it at each assignment would make all recipes slower.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard

from pydantic import BaseModel, ValidationError
from typing_extensions import override

from reactstate.errors import FrozenStateError, StateValidationError
from reactstate.state.document import check_depth
from reactstate.state.frozen import type_of
from reactstate.state.models import (
    ModelKind,
    assemble,
    derive,
    new_object,
    set_class,
    set_dict,
    set_extra,
    set_fields_set,
    set_private,
)
from reactstate.state.schema import MAX_DIGITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from reactstate.state.edits import Edit, Path
    from reactstate.state.kinds import Kind

__all__ = [
    "ModelNode",
    "Node",
    "begin",
    "draft_of",
    "explain",
    "is_draft",
    "make_draft_classes",
    "node_of",
    "register_maker",
    "session_of",
    "settle",
]

_TOO_LATE = "a draft can only be used while its recipe runs; read the new state instead"
_SCALARS = frozenset((int, str, float, bool, type(None), bytes))
_SMALL = 1 << 63


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

    def place(self, kind: Any, base: Any, owner: Node, key: Any) -> None:
        """Stand at *key* in *owner*, with nothing written yet."""
        self.kind = kind
        self.base = base
        self.owner = owner
        self.key = key
        self.dirty = False
        self.kids = None
        self.dirty_kids = {}
        self.session = session_of(owner)

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

    def changed_kids(self) -> Iterable[tuple[Any, Node]]:
        """Return the nodes of the parts in which something was written, each with its key."""
        return () if self.kids is None else self.dirty_kids.items()

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

    def where(self) -> str:
        """Return how error texts name this place, such as ``Cart.items.0``."""
        keys: list[str] = []
        node = self
        while node.owner is not None:
            keys.append("?" if node.key is None else str(node.owner.kind.token(node.key)))
            node = node.owner
        start = node.kind.cls.__name__ if isinstance(node.kind, ModelKind) else str(node.kind.annotation)
        return ".".join([start, *reversed(keys)])

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
        self.open: bool = True
        self.drafts: list[Any] = []


def session_of(node: Node) -> Session:
    """Return the session of *node*, beginning it if this is the root's first kid."""
    if node.session is None:
        node.session = Session()
    return node.session


def node_of(draft: Any) -> Node:
    """Return the node of *draft*: containers are their own, a model's is in its slot for private attributes."""
    return draft if isinstance(draft, Node) else draft.__pydantic_private__


def is_draft(value: Any) -> TypeGuard[Any]:
    """Say whether *value* is a draft."""
    return isinstance(value, Node) or hasattr(type_of(value), "_reactstate_dead")


def settle(value: Any) -> Any:
    """Return *value* with every draft in it replaced by the frozen value that it stands for just now.

    Raises:
        StateValidationError: It contains itself.
    """
    try:
        return _settled(value)
    except RecursionError as exc:
        raise StateValidationError("a value that contains itself, or is nested very deeply, cannot be stored") from exc


def _settled(value: Any) -> Any:
    kind = type_of(value)
    if kind in _SCALARS:
        return value
    if kind is list or kind is tuple:
        settled = [_settled(part) for part in value]
        return settled if kind is list else tuple(settled)
    if kind is dict:
        return {key: _settled(part) for key, part in value.items()}
    return node_of(value).current() if is_draft(value) else value


def explain(exc: ValueError, where: str) -> StateValidationError:
    """Return the typed error for pydantic's, or for that of a value which is not of its kind."""
    if not isinstance(exc, ValidationError):
        return StateValidationError(f"{where}: {exc}", exc)
    first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join([where, *(str(part) for part in first["loc"])])
    message = first["msg"]
    if len(message) > MAX_DIGITS and first["type"] in {"less_than_equal", "greater_than_equal"}:
        message = f"an int of more than {MAX_DIGITS} digits cannot be stored"
    return StateValidationError(f"{place}: {message}", exc)


# --- models -------------------------------------------------------------------------------------------------------


class ModelNode(Node):
    """The place of a model's draft.

    Attributes:
        draft: The draft.
        before: The fields of the base.
        fields: The fields of the draft, which become those of the new state.
        touched: The names of the fields that were assigned; None as long as there are none.
    """

    __slots__ = ("before", "draft", "fields", "touched")

    kind: ModelKind
    draft: Any
    before: dict[str, Any]
    fields: dict[str, Any]
    touched: dict[str, None] | None

    def close(self) -> None:
        """End the recipe: make every draft of it unusable. For the root only."""
        set_class(self.draft, self.kind.dead_class)
        session = self.session
        if session is not None:
            session.open = False
            for draft in session.drafts:
                set_class(draft, type_of(draft)._reactstate_dead)

    @override
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
                    edits.append((kind.paths[name] if path is None else (path, kind, name), old, new))
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
            made = fields[name] = kid.finish((path, kind, name), edits)
            if made is not kid.base and name in kind.rules.whole:
                fields[name] = _assigned(kind, fields, name, made)
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
            made = kind.seal(made)
        except ValueError as exc:
            raise explain(exc, self.where()) from exc
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

    @override
    def current(self) -> Any:
        self.check()
        if not self.dirty:
            return self.base
        fields = dict(self.fields)
        for name, kid in self.changed_kids():
            fields[name] = kid.current()
        return assemble(self.kind.frozen, fields, self.draft.__pydantic_fields_set__)


def _assigned(kind: ModelKind, fields: dict[str, Any], name: str, value: Any) -> Any:
    try:
        return kind.rules.assign(fields, name, value)[0][name]
    except ValidationError as exc:
        raise explain(exc, kind.cls.__name__) from exc


def _assign(self: Any, node: ModelNode, name: str, value: Any) -> None:
    """Assign to a field of a model draft: validated by the field's own schema, at once."""
    kind = node.kind
    field = kind.fields.get(name)
    if field is None:
        setter = getattr(type_of(self), name, None)
        if isinstance(setter, property) and setter.fset is not None:
            setter.fset(self, value)
            return
        raise StateValidationError(f"{kind.cls.__name__} has no field {name!r}")
    if value is not None and node.kids is not None and node.kids.get(name) is value:
        return  # the draft that stands there already, as after ``draft.items += [1]``
    fields = node.fields
    made = _assigned(kind, fields, name, settle(value))
    if field.recursive:
        check_depth(field, made, node.level())
    node.forget(name)  # not before: a value that is refused leaves what was done to the draft that stands there
    fields[name] = made
    if node.touched is None:
        node.touched = {}
    node.touched[name] = None
    if not node.dirty:
        node.touch()


def _setter(kind: ModelKind) -> Callable[[Any, str, Any], None]:
    """Return what assigns to the fields of the drafts of *kind*."""
    quick = kind.rules.quick.get

    def set_field(self: Any, name: str, value: Any) -> None:
        node = self.__pydantic_private__
        cls = type_of(value)
        if cls is not quick(name) or (
            (not -_SMALL <= value < _SMALL) if cls is int else cls is str and not value.isascii()
        ):
            _assign(self, node, name, value)
            return
        node.fields[name] = value
        touched = node.touched
        if touched is None:
            node.touched = {name: None}
        else:
            touched[name] = None
        if not node.dirty:
            node.touch()

    return set_field


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
        # __setattr__ comes first; this makes it a data descriptor, so that reading the field comes here
        setattr(draft, self._name, value)


def _fields_set(self: Any) -> set[str]:
    node: ModelNode = self.__pydantic_private__
    before: set[str] = node.base.__pydantic_fields_set__
    return before | (node.touched or {}).keys()


def _equal(self: Any, other: object) -> Any:
    mine = self.__pydantic_private__.current()
    return mine == (node_of(other).current() if is_draft(other) else other)


def _represent(self: Any) -> str:
    return f"<draft of {self.__pydantic_private__.current()!r}>"


def _copy(self: Any, _memo: Any = None) -> Any:
    return self.__pydantic_private__.current()


def _on_current(name: str) -> Callable[..., Any]:
    """Return the method *name* of the model, to be called on the value that a draft stands for."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.__pydantic_private__.current(), name)(*args, **kwargs)

    return functools.wraps(getattr(BaseModel, name))(call)


_ON_CURRENT = (
    "__iter__",
    "__pretty__",
    "__reduce_ex__",
    "__repr_args__",
    "__rich_repr__",
    "__str__",
    "model_copy",
    "model_dump",
    "model_dump_json",
)
"""The methods of BaseModel that look into ``__dict__``, where the changes inside of parts are not yet."""


def _dead(self: Any, name: str) -> Any:
    if name == "__class__":
        return type_of(self)
    raise FrozenStateError(_TOO_LATE)


def _dead_set(*_: Any) -> NoReturn:
    raise FrozenStateError(_TOO_LATE)


def _represent_dead(self: Any) -> str:
    return f"<draft of {type(self).__name__}, after its recipe>"


def make_draft_classes(kind: ModelKind) -> tuple[type[Any], type[Any]]:
    """Return the class of the drafts of *kind*, a subclass of the model whose fields can be set, and of dead ones."""
    cls = kind.cls
    namespace: dict[str, Any] = {
        "__slots__": (),
        "__setattr__": _setter(kind),
        "__delattr__": _delete_field,
        "__eq__": _equal,
        "__hash__": None,
        "__repr__": _represent,
        "__copy__": _copy,
        "__deepcopy__": _copy,
        "__pydantic_extra__": None,
        "__pydantic_fields_set__": property(_fields_set),
    }
    namespace.update((name, _on_current(name)) for name in _ON_CURRENT)
    for name in dir(cls):
        found: Any = inspect.getattr_static(cls, name)
        if isinstance(found, functools.cached_property):
            namespace[name] = property(found.func)  # a draft changes, so nothing about it is cached
    for name, field in kind.fields.items():
        if field.editable and not cls.model_fields[name].frozen:
            namespace[name] = _Part(name, field)
    made = derive(cls, cls, namespace)
    dead_namespace: dict[str, Any] = {
        "__slots__": (),
        "__getattribute__": _dead,
        "__setattr__": _dead_set,
        "__delattr__": _dead_set,
        "__repr__": _represent_dead,
        "__str__": _represent_dead,
        "__eq__": object.__eq__,
        "__hash__": None,
    }
    dead = derive(cls, made, dead_namespace)
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
    # a cached property lives in the same dict and must not travel
    fields = fields.copy() if len(fields) == kind.size else {name: fields[name] for name in kind.fields}
    node.fields = fields
    draft_class = kind.draft_class
    if draft_class is None:
        draft_class = kind.prepare()
    node.draft = draft = new_object(draft_class)
    set_dict(draft, fields)
    set_private(draft, node)
    return node


def _model_draft(kind: Any, base: Any, owner: Node, key: Any) -> Any:
    node = begin(kind, base)
    node.owner = owner
    node.key = key
    session = node.session = session_of(owner)
    session.drafts.append(node.draft)
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
