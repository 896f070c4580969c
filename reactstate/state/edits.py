"""Edits: what a change did, in terms of the values themselves.

An update leaves a few edits behind. They hold references to the old and the new parts and nothing else, so that
keeping a version costs what it changed; JSON Patches are rendered from them only when somebody asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from reactstate.state.kinds import MISSING, Kind
from reactstate.state.patch import join

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from reactstate.state.composites import ListKind, SetKind
    from reactstate.state.patch import Patch

__all__ = ["Assign", "Edit", "Members", "Path", "Splice", "apply_edits", "invert_edits", "render"]

Path: TypeAlias = "tuple[Path, Kind, Any] | None"
"""Where a part is: the path of its container, the container's kind and the key in it; None is the root."""

Assign: TypeAlias = tuple[Path, Any, Any]
"""The part at the path was the first value (MISSING: absent) and is now the second."""


class Splice:
    """A run of a list was replaced.

    Attributes:
        path: The list.
        kind: The list's kind.
        start: Where the run begins.
        removed: What stood there.
        added: What stands there now.
    """

    __slots__ = ("added", "kind", "path", "removed", "start")

    def __init__(self, path: Path, kind: ListKind, start: int, removed: Sequence[Any], added: Sequence[Any]) -> None:
        self.path: Path = path
        self.kind: ListKind = kind
        self.start: int = start
        self.removed: Sequence[Any] = removed
        self.added: Sequence[Any] = added


class Members:
    """Elements of a set went and came.

    Attributes:
        path: The set.
        kind: The set's kind.
        removed: The elements that went.
        added: The elements that came.
    """

    __slots__ = ("added", "kind", "path", "removed")

    def __init__(self, path: Path, kind: SetKind, removed: frozenset[Any], added: frozenset[Any]) -> None:
        self.path: Path = path
        self.kind: SetKind = kind
        self.removed: frozenset[Any] = removed
        self.added: frozenset[Any] = added


Edit: TypeAlias = "Assign | Splice | Members"


def invert_edits(edits: Sequence[Edit]) -> list[Edit]:
    """Return the edits that lead back."""
    back: list[Edit] = []
    for edit in reversed(edits):
        if isinstance(edit, tuple):
            back.append((edit[0], edit[2], edit[1]))
        elif isinstance(edit, Splice):
            back.append(Splice(edit.path, edit.kind, edit.start, edit.added, edit.removed))
        else:
            back.append(Members(edit.path, edit.kind, edit.added, edit.removed))
    return back


# --- edits to patches ---------------------------------------------------------------------------------------------


def _tokens(path: Path) -> list[str]:
    tokens: list[str] = []
    while path is not None:
        path, kind, key = path
        tokens.append(kind.token(key))
    tokens.reverse()
    return tokens


def _keys(path: Path) -> list[tuple[Kind, Any]]:
    keys: list[tuple[Kind, Any]] = []
    while path is not None:
        path, kind, key = path
        keys.append((kind, key))
    keys.reverse()
    return keys


def render(edits: Sequence[Edit], root: Kind, before: Any) -> Patch:
    """Return the JSON Patch of *edits*.

    Args:
        edits: What was changed.
        root: The kind of the whole value.
        before: The value before, or a callable that returns it; it is looked at only where sets changed.
    """
    patch: Patch = []
    for edit in edits:
        tokens = _tokens(edit[0] if isinstance(edit, tuple) else edit.path)
        if isinstance(edit, tuple):
            patch.append(_render_assign(edit, tokens, root))
        elif isinstance(edit, Splice):
            _render_splice(edit, tokens, patch)
        else:
            value = before() if callable(before) else before
            _render_members(edit, tokens, value, patch)
    return patch


def _kind_at(path: Path, root: Kind) -> Kind:
    return root if path is None else path[1].child(path[2])


def _render_assign(edit: Assign, tokens: list[str], root: Kind) -> dict[str, Any]:
    path, old, new = edit
    if new is MISSING:
        return {"op": "remove", "path": join(tokens)}
    return {
        "op": "add" if old is MISSING else "replace",
        "path": join(tokens),
        "value": _kind_at(path, root).encode(new),
    }


def _render_splice(edit: Splice, tokens: list[str], patch: Patch) -> None:
    item = edit.kind.item
    common = min(len(edit.removed), len(edit.added))
    for offset in range(common):
        value = item.encode(edit.added[offset])
        patch.append({"op": "replace", "path": join([*tokens, str(edit.start + offset)]), "value": value})
    gone = join([*tokens, str(edit.start + common)])
    patch.extend({"op": "remove", "path": gone} for _ in edit.removed[common:])
    for offset in range(common, len(edit.added)):
        value = item.encode(edit.added[offset])
        patch.append({"op": "add", "path": join([*tokens, str(edit.start + offset)]), "value": value})


def _render_members(edit: Members, tokens: list[str], before: Any, patch: Patch) -> None:
    """Write a set's change as operations on its sorted array."""
    value = before
    for container, key in _keys(edit.path):
        value = container.part(value, key)
    kind = edit.kind
    documents: list[Any] = kind.encode(value)
    for document in kind.encode(edit.removed):
        index = kind.place(documents, document)
        del documents[index]
        patch.append({"op": "remove", "path": join([*tokens, str(index)])})
    for document in kind.encode(edit.added):
        index = kind.place(documents, document)
        documents.insert(index, document)
        patch.append({"op": "add", "path": join([*tokens, str(index)]), "value": document})


# --- edits to values ----------------------------------------------------------------------------------------------


def apply_edits(root: Any, edits: Iterable[Edit]) -> Any:
    """Return *root* with *edits* made, sharing everything that they do not touch.

    Each container on the way is copied at most once for the whole run, so that going back a thousand versions costs
    one copy and a thousand small steps. Nothing is validated: the edits come from states that were valid.
    """
    owned: dict[int, Any] = {}
    for edit in edits:
        path = edit[0] if isinstance(edit, tuple) else edit.path
        root = _apply(root, _keys(path), 0, edit, owned)
    return root


def _apply(value: Any, keys: list[tuple[Kind, Any]], at: int, edit: Edit, owned: dict[int, Any]) -> Any:
    if at == len(keys):
        if isinstance(edit, tuple):
            return edit[2]
        if isinstance(edit, Splice):
            return edit.kind.patched(edit.kind.own(value, owned), edit)
        return edit.kind.patched(edit.kind.own(value, owned), edit)
    kind, key = keys[at]
    value = kind.own(value, owned)
    if at == len(keys) - 1 and isinstance(edit, tuple) and edit[2] is MISSING:
        return kind.without(value, key)
    old = kind.part(value, key)
    new = _apply(old, keys, at + 1, edit, owned)
    return value if new is old else kind.replaced(value, key, new)
