"""JSON Patch (RFC 6902) and JSON Pointer (RFC 6901) on plain documents.

A document is None, a bool, an int, a float, a str, a list of documents or a dict from str to documents. Two documents
are equal when they hold the same values of the same kinds: ``1``, ``True`` and ``1.0`` differ, ``0.0`` and ``-0.0``
differ, NaN equals NaN, and the order of a dict's keys does not matter. At the root, None stands for "nothing".

Laws
    ``apply_patch(a, diff(a, b))`` equals ``b``. ``apply_patch(apply_patch(a, p), invert(a, p))`` equals ``a``.
    ``replay`` does to its argument what ``apply_patch`` returns, and its inverse is the one of ``invert``.

Sharing
    ``diff``, ``apply_patch`` and ``invert`` change nothing that they are given; their results share unchanged parts
    with it, so change neither in place. ``replay`` is made for a journal: it changes the document in place, and what
    it inserts is its own copy, so neither the patch nor an inverse returned earlier is ever changed by it.

Cost
    ``diff`` is linear in what is not shared (``is``) between the documents, times the nesting of lists whose elements
    moved, and never quadratic in the length of a list. A patch costs O(depth) per operation with ``replay``, and
    O(width of the containers on the path) with ``apply_patch``. None of them recurses.
"""

# Documents are Any: isinstance makes dicts and lists of them whose parts are unknown to pyright.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Any, Final

from reactstate.errors import PatchError
from reactstate.state.difference import Document, Patch, PatchOperation, diff, documents_equal
from reactstate.state.pointer import escape, join, split

__all__ = [
    "Document",
    "Patch",
    "PatchOperation",
    "apply_patch",
    "diff",
    "documents_equal",
    "escape",
    "invert",
    "join",
    "replay",
    "split",
]

_MISSING: Final[Any] = object()
# An index of more digits is beyond any list, and int() refuses very long ones with an error of its own.
_MAX_INDEX_DIGITS: Final = 18


def apply_patch(document: Document, patch: Patch) -> Document:
    """Return what *patch* makes of *document*, which is not changed; untouched parts are shared.

    All or nothing: either every operation fits or an error is raised.

    Raises:
        PatchError: *patch* is malformed, or one of its operations does not fit the document.
    """
    return _run(document, patch, set(), None)


def invert(document: Document, patch: Patch) -> Patch:
    """Return the patch that leads from ``apply_patch(document, patch)`` back to *document*.

    Raises:
        PatchError: *patch* is malformed, or one of its operations does not fit the document.
    """
    steps: Patch = []
    _run(document, patch, set(), steps)
    steps.reverse()
    return steps


def replay(document: Document, patch: Patch) -> tuple[Document, Patch]:
    """Apply *patch* to *document* in place; return the root, which may be a new one, and the inverse patch.

    *document* must be the caller's own tree: no part of it occurs twice in it or is used elsewhere. What is inserted
    is copied from the patch, so the patch, the inverse and earlier inverses stay as they are whatever comes later.

    Raises:
        PatchError: *patch* is malformed or does not fit; the document may be left half changed, so load it anew.
    """
    steps: Patch = []
    document = _run(document, patch, None, steps)
    steps.reverse()
    return document, steps


def _run(document: Document, patch: Patch, owned: set[int] | None, inverse: Patch | None) -> Document:
    """Perform the operations of *patch*; see ``_perform``."""
    if not isinstance(patch, list):  # pyright: ignore[reportUnnecessaryIsInstance] - patches come from outside
        raise PatchError(f"a patch must be a list of operations, not {type(patch).__name__}")
    index = 0
    try:
        for operation in patch:
            document = _perform(document, operation, owned, inverse)
            index += 1
    except PatchError as exc:
        raise PatchError(f"operation {index} of the patch does not fit: {exc} (in {_brief(patch[index])})") from exc
    return document


def _brief(operation: object) -> str:
    """Name an operation without its value, which may be large or secret."""
    if not isinstance(operation, dict):
        return type(operation).__name__
    return repr({name: operation[name] for name in ("op", "from", "path") if name in operation})


def _member(operation: PatchOperation, name: str) -> Any:
    value = operation.get(name, _MISSING)
    if value is _MISSING:
        raise PatchError(f"the member {name!r} is missing")
    return value


def _perform(root: Document, operation: PatchOperation, owned: set[int] | None, inverse: Patch | None) -> Document:
    """Perform one operation and return the root.

    Args:
        root: The document.
        operation: One operation.
        owned: None to change the document in place. Otherwise the ids of the containers that were copied for this
            run and are reachable in one way only; all others are copied before they are changed.
        inverse: Takes the operations that undo this one, in reverse order, or None.
    """
    if not isinstance(operation, dict):  # pyright: ignore[reportUnnecessaryIsInstance] - patches come from outside
        raise PatchError("an operation must be a dict")
    kind = operation.get("op")
    path = _member(operation, "path")
    tokens = split(path)
    if kind == "replace" or kind == "add":  # noqa: PLR1714 - twice as fast as a membership test
        value = _member(operation, "value")
        if owned is None and isinstance(value, (dict, list)):
            value = _copy(value)
        return _put(root, tokens, value, owned, inverse, insert=kind == "add")
    if kind == "remove":
        return _take(root, tokens, owned, inverse)[0]
    if kind == "test":
        if not documents_equal(_read(root, tokens), _member(operation, "value")):
            raise PatchError("the value is not the one tested for")
        return root
    if kind == "copy":
        value = _read(root, split(_member(operation, "from")))
        if owned is None:
            value = _copy(value)
        else:
            # What was reachable in one way is now reachable in two.
            owned.clear()
        return _put(root, tokens, value, owned, inverse, insert=True)
    if kind == "move":
        return _move(root, _member(operation, "from"), path, owned, inverse)
    if kind is None:
        raise PatchError("the member 'op' is missing")
    raise PatchError("the member 'op' must be one of add, remove, replace, move, copy, test")


def _move(root: Document, source: str, path: str, owned: set[int] | None, inverse: Patch | None) -> Document:
    """Take the value at *source* out and put it in at *path*."""
    origin, tokens = split(source), split(path)
    if source == path:
        _read(root, origin)
        return root
    if path.startswith(f"{source}/"):
        raise PatchError("a value cannot be moved into itself")
    root, value = _take(root, origin, owned, None)
    undo: Patch | None = None if inverse is None else []
    root = _put(root, tokens, value, owned, undo, insert=True)
    if inverse is None or undo is None:
        return root
    back = undo[0]["path"]
    if undo[0]["op"] == "remove" and not source.startswith(f"{back}/"):
        inverse.append({"op": "move", "from": back, "path": source})
    else:
        # Something was overwritten: its place may shift, or not exist, once the value is back, so it comes first. Or
        # the value went in before its own parent, and a move back would lead into what stands in its place.
        if owned is None:
            value = _copy(value)
        else:
            owned.clear()
        inverse.append({"op": "add", "path": source, "value": value})
        inverse.extend(undo)
    return root


def _put(
    root: Document, tokens: list[str], value: Document, owned: set[int] | None, inverse: Patch | None, *, insert: bool
) -> Document:
    """Set the value at *tokens*, or with *insert* add it as the operation ``add`` does; return the root."""
    if not tokens:
        if inverse is not None:
            inverse.append({"op": "replace", "path": "", "value": root})
        return value
    root, parent = _parent(root, tokens, owned)
    last = tokens[-1]
    if isinstance(parent, dict):
        old = parent.get(last, _MISSING)
        if old is _MISSING and not insert:
            raise PatchError(f"there is no member {last!r}")
        parent[last] = value
        if inverse is not None:
            path = join(tokens)
            inverse.append(
                {"op": "remove", "path": path} if old is _MISSING else {"op": "replace", "path": path, "value": old}
            )
        return root
    if insert:
        index = len(parent) if last == "-" else _index(last, len(parent) + 1)
        parent.insert(index, value)
        if inverse is not None:
            inverse.append({"op": "remove", "path": f"{join(tokens[:-1])}/{index}"})
        return root
    index = _index(last, len(parent))
    if inverse is not None:
        inverse.append({"op": "replace", "path": join(tokens), "value": parent[index]})
    parent[index] = value
    return root


def _take(
    root: Document, tokens: list[str], owned: set[int] | None, inverse: Patch | None
) -> tuple[Document, Document]:
    """Remove the value at *tokens*; return the root and the value."""
    value: Document
    if not tokens:
        root, value = None, root
    else:
        root, parent = _parent(root, tokens, owned)
        value = parent.pop(_place(parent, tokens[-1]))
    if inverse is not None:
        inverse.append({"op": "add", "path": join(tokens), "value": value})
    return root, value


def _parent(root: Document, tokens: list[str], owned: set[int] | None) -> tuple[Document, Any]:
    """Return the root and the container that holds the last of *tokens*, which may be changed."""
    node = root
    if owned is None:
        for token in tokens[:-1]:
            node = node[_place(node, token)]
    else:
        root = node = _own(node, owned)
        for token in tokens[:-1]:
            place = _place(node, token)
            child = _own(node[place], owned)
            node[place] = child
            node = child
    if not isinstance(node, (dict, list)):
        raise PatchError(f"{tokens[-1]!r} leads into a value that is neither a dict nor a list")
    return root, node


def _own(node: Document, owned: set[int]) -> Document:
    """Return *node*, or a copy of it when others may see it."""
    if id(node) in owned:
        return node
    if isinstance(node, dict):
        node = dict(node)
    elif isinstance(node, list):
        node = list(node)
    else:
        return node
    owned.add(id(node))
    return node


def _read(root: Document, tokens: list[str]) -> Document:
    """Return the value at *tokens*."""
    for token in tokens:
        root = root[_place(root, token)]
    return root


def _place(node: Document, token: str) -> Any:
    """Return the key or index under which *node* holds the part that *token* names."""
    if isinstance(node, dict):
        if token not in node:
            raise PatchError(f"there is no member {token!r}")
        return token
    if isinstance(node, list):
        return _index(token, len(node))
    raise PatchError(f"{token!r} leads into a value that is neither a dict nor a list")


def _index(token: str, end: int) -> int:
    """Return the list index that *token* writes, which must be below *end*."""
    if token == "-":  # noqa: S105 - a token of a pointer
        raise PatchError("'-' names the place after the last element, where no value is yet")
    if not (token.isascii() and token.isdigit()) or (token[0] == "0" and len(token) > 1):
        raise PatchError(f"{token!r} is not a list index (digits without leading zeros)")
    if len(token) > _MAX_INDEX_DIGITS or (index := int(token)) >= end:
        raise PatchError(f"the index {token} is out of range")
    return index


def _copy(value: Document) -> Document:
    """Return *value* with every dict and list in it copied."""
    holder: list[Any] = [value]
    pending: list[Any] = [holder]
    while pending:
        node = pending.pop()
        places = node.items() if isinstance(node, dict) else enumerate(node)
        for place, part in places:
            if isinstance(part, dict):
                node[place] = dict(part)
                pending.append(node[place])
            elif isinstance(part, list):
                node[place] = list(part)
                pending.append(node[place])
    return holder[0]
