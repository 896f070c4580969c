"""What two documents differ in: equality in the document sense, and the patch from one to the other.

``diff`` is linear in what is not shared (``is``) between the documents, times the nesting of lists whose elements
moved, and never quadratic in the length of a list. Neither function recurses, so any depth is safe.
"""

# Documents are Any: isinstance makes dicts and lists of them whose parts are unknown to pyright.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from bisect import bisect_left
from math import copysign
from typing import TYPE_CHECKING, Any, Final

import orjson

from reactstate.state.pointer import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Document", "Patch", "PatchOperation", "diff", "documents_equal"]

Document = Any
"""None, bool, int, float, str, a list of documents, or a dict from str to documents."""

PatchOperation = dict[str, Any]
"""One operation: ``op``, ``path``, and as the operation needs ``value`` or ``from``."""

Patch = list[PatchOperation]
"""Operations that are applied one after another."""

_MISSING: Final[Any] = object()
# Above this many cells the exact alignment of two runs costs more than the shorter patch is worth.
_MAX_ALIGNMENT_CELLS: Final = 4096


def _same_scalar(a: Document, b: Document) -> bool:
    """Say whether two documents, not both of them dicts or lists, are equal."""
    if type(a) is not type(b):
        return False
    if type(a) is float:
        if a != a or b != b:  # noqa: PLR0124 - only NaN differs from itself
            return a != a and b != b  # noqa: PLR0124
        return a == b and (a != 0.0 or copysign(1.0, a) == copysign(1.0, b))
    return bool(a == b)


def documents_equal(a: Document, b: Document) -> bool:
    """Say whether two documents hold the same values of the same kinds.

    ``1``, ``True`` and ``1.0`` differ, and so do ``0.0`` and ``-0.0``; NaN equals NaN; the order of keys is no
    difference. Parts that are one object are not looked into, and any depth is safe.
    """
    pending: list[tuple[Document, Document]] = [(a, b)]
    while pending:
        x, y = pending.pop()
        if x is y:
            continue
        if isinstance(x, dict) and isinstance(y, dict):
            if len(x) != len(y):
                return False
            for key, old in x.items():
                new = y.get(key, _MISSING)
                if new is old:
                    continue
                if isinstance(old, (dict, list)):
                    pending.append((old, new))
                elif not _same_scalar(old, new):
                    return False
        elif isinstance(x, list) and isinstance(y, list):
            if len(x) != len(y):
                return False
            for old, new in zip(x, y, strict=True):
                if new is old:
                    continue
                if isinstance(old, (dict, list)):
                    pending.append((old, new))
                elif not _same_scalar(old, new):
                    return False
        elif isinstance(x, (dict, list)) or not _same_scalar(x, y):
            return False
    return True


_Pair = tuple[str, Document, Document]
_Match = tuple[int, int]


def diff(a: Document, b: Document) -> Patch:
    """Return a short patch that leads from *a* to *b*; ``[]`` only when they are equal.

    Dicts and lists are compared part by part; parts that are one object are skipped. Elements of lists that were
    inserted, removed or shifted are recognised. A container of which nothing is kept is replaced as a whole. The
    values in the patch are parts of *b*, not copies. From None it is an ``add`` of the whole document.
    """
    patch: Patch = []
    pending: list[_Pair] = [("", a, b)]
    while pending:
        path, x, y = pending.pop()
        if isinstance(x, dict) and isinstance(y, dict):
            parts = _diff_dicts(path, x, y, patch)
            pending.extend(reversed(parts))
        elif isinstance(x, list) and isinstance(y, list):
            parts = _diff_lists(path, x, y, patch)
            pending.extend(reversed(parts))
        elif x is not y and not _same_scalar(x, y):
            patch.append({"op": "replace" if path or x is not None else "add", "path": path, "value": y})
    return patch


def _alike(a: Document, b: Document) -> bool:
    """Say whether both are dicts or both are lists, so that one can be led to the other part by part."""
    return (isinstance(a, dict) and isinstance(b, dict)) or (isinstance(a, list) and isinstance(b, list))


def _diff_dicts(path: str, x: dict[str, Any], y: dict[str, Any], patch: Patch) -> list[_Pair]:
    """Add the operations for the members of two dicts to *patch*; return the pairs to look into."""
    if x is y:
        return []
    if x and len(x) + len(y) > 2 and x.keys().isdisjoint(y):
        patch.append({"op": "replace", "path": path, "value": y})
        return []
    pairs: list[_Pair] = []
    for key, old in x.items():
        new = y.get(key, _MISSING)
        if new is old:
            continue
        if new is _MISSING:
            patch.append({"op": "remove", "path": f"{path}/{escape(key)}"})
        elif _alike(old, new):
            pairs.append((f"{path}/{escape(key)}", old, new))
        elif not _same_scalar(old, new):
            patch.append({"op": "replace", "path": f"{path}/{escape(key)}", "value": new})
    patch.extend({"op": "add", "path": f"{path}/{escape(key)}", "value": new} for key, new in y.items() if key not in x)
    return pairs


def _diff_lists(path: str, x: list[Any], y: list[Any], patch: Patch) -> list[_Pair]:
    """Add the operations for the elements of two lists to *patch*; return the pairs to look into.

    Removals and insertions come first, from the end of the list to its start, so that the indexes before them hold;
    everything after them names elements by their new index.
    """
    if x is y:
        return []
    pairs: list[_Pair] = []
    moves: Patch = []
    replaced: Patch = []
    kept = 0
    end_x, end_y = len(x), len(y)
    for i, j in reversed([(-1, -1), *_matches(x, y)]):
        start_x, start_y = i + 1, j + 1
        kept += i >= 0
        if start_x == end_x and start_y == end_y:
            end_x, end_y = i, j
            continue
        paired = min(end_x - start_x, end_y - start_y)
        moves.extend({"op": "remove", "path": f"{path}/{at}"} for at in range(end_x - 1, start_x + paired - 1, -1))
        moves.extend(
            {"op": "add", "path": f"{path}/{start_x + at}", "value": y[start_y + at]}
            for at in range(paired, end_y - start_y)
        )
        for at in range(start_y + paired - 1, start_y - 1, -1):
            old, new = x[start_x + at - start_y], y[at]
            if old is new:
                kept += 1
            elif _alike(old, new):
                pairs.append((f"{path}/{at}", old, new))
            elif _same_scalar(old, new):
                kept += 1
            else:
                replaced.append({"op": "replace", "path": f"{path}/{at}", "value": new})
        end_x, end_y = i, j
    changed = len(moves) + len(replaced)
    if changed > max(kept, 1) and x and not pairs and not any(isinstance(part, (dict, list)) for part in x):
        patch.append({"op": "replace", "path": path, "value": y})
        return []
    patch.extend(moves)
    patch.extend(reversed(replaced))
    pairs.reverse()
    return pairs


def _matches(x: list[Any], y: list[Any]) -> list[_Match]:
    """Return index pairs of equal elements, rising on both sides; what lies between them was changed."""
    if len(x) != len(y):
        return _match_run(x, y)
    matches: list[_Match] = []
    start = 0
    for at, part in enumerate(x):
        # A part that is still the same object in the same place has not moved, whatever happened around it.
        if part is y[at] and isinstance(part, (dict, list)):
            if start < at:
                matches.extend((start + i, start + j) for i, j in _match_run(x[start:at], y[start:at]))
            matches.append((at, at))
            start = at + 1
    matches.extend((start + i, start + j) for i, j in _match_run(x[start:], y[start:]))
    return matches


def _match_run(x: list[Any], y: list[Any]) -> list[_Match]:
    """Return index pairs of equal elements: what the two have in common at both ends, and in the middle."""
    end_x, end_y = len(x), len(y)
    if end_x == end_y:
        at_a_glance = [
            (at, at)
            for at, (old, new) in enumerate(zip(x, y, strict=True))
            if old is new or (not isinstance(old, (dict, list)) and _same_scalar(old, new))
        ]
        # One element at most is left, which needs no comparison to be paired; deep nesting stays linear by this.
        if len(at_a_glance) >= end_x - 1:
            return at_a_glance
    low = 0
    shorter = min(end_x, end_y)
    while low < shorter and (x[low] is y[low] or documents_equal(x[low], y[low])):
        low += 1
    while end_x > low and end_y > low:
        last_x, last_y = x[end_x - 1], y[end_y - 1]
        if last_x is not last_y and not documents_equal(last_x, last_y):
            break
        end_x -= 1
        end_y -= 1
    matches = [(at, at) for at in range(low)]
    if low < end_x and low < end_y:
        matches.extend((low + i, low + j) for i, j in _match_middle(x[low:end_x], y[low:end_y]))
    matches.extend(zip(range(end_x, len(x)), range(end_y, len(y)), strict=True))
    return matches


def _match_middle(x: list[Any], y: list[Any]) -> list[_Match]:
    """Return index pairs of equal elements: those in the same place, or aligned ones if these leave less to change."""
    in_place = [(at, at) for at, (old, new) in enumerate(zip(x, y, strict=False)) if documents_equal(old, new)]
    aligned = _align([_key(part) for part in x], [_key(part) for part in y])
    # Distinct documents may share a key (NaN is written as null), so each match is checked.
    aligned = [(i, j) for i, j in aligned if documents_equal(x[i], y[j])]
    sizes = (len(x), len(y))
    return aligned if _changes(aligned, sizes) < _changes(in_place, sizes) else in_place


def _changes(matches: list[_Match], sizes: _Match) -> int:
    """Count the elements to replace, insert or remove between *matches*."""
    count = 0
    start_x = start_y = 0
    for i, j in [*matches, sizes]:
        count += max(i - start_x, j - start_y)
        start_x, start_y = i + 1, j + 1
    return count


def _key(part: Document) -> object:
    """Return something hashable that equal documents share."""
    if type(part) is str or type(part) is int:
        return part
    try:
        return orjson.dumps(part, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        # Integers beyond 64 bits, lone surrogates or great depth: the element is compared in its place only.
        return object()


def _align(x: Sequence[object], y: Sequence[object]) -> list[_Match]:
    """Align two sequences of keys, as in patience diff: by keys that occur once on each side, then between those."""
    matches: list[_Match] = []
    start_x = start_y = 0
    for i, j in [*_anchors(x, y), (len(x), len(y))]:
        end_x, end_y = i, j
        while start_x < end_x and start_y < end_y and x[start_x] == y[start_y]:
            matches.append((start_x, start_y))
            start_x += 1
            start_y += 1
        tail: list[_Match] = []
        while start_x < end_x and start_y < end_y and x[end_x - 1] == y[end_y - 1]:
            end_x -= 1
            end_y -= 1
            tail.append((end_x, end_y))
        if 0 < (end_x - start_x) * (end_y - start_y) <= _MAX_ALIGNMENT_CELLS:
            between = _longest_common(x[start_x:end_x], y[start_y:end_y])
            matches.extend((start_x + at_x, start_y + at_y) for at_x, at_y in between)
        matches.extend(reversed(tail))
        if i < len(x):
            matches.append((i, j))
        start_x, start_y = i + 1, j + 1
    return matches


def _anchors(x: Sequence[object], y: Sequence[object]) -> list[_Match]:
    """Return the longest rising run of keys that occur exactly once on each side."""
    where_x: dict[object, int] = {}
    where_y: dict[object, int] = {}
    for keys, where in ((x, where_x), (y, where_y)):
        for at, key in enumerate(keys):
            where[key] = -1 if key in where else at
    last_j: list[int] = []
    last: list[tuple[int, int, Any]] = []
    for key, i in where_x.items():
        j = where_y.get(key, -1)
        if i < 0 or j < 0:
            continue
        length = bisect_left(last_j, j)
        link = (i, j, last[length - 1] if length else None)
        last_j[length : length + 1] = [j]
        last[length : length + 1] = [link]
    run: list[_Match] = []
    node: Any = last[-1] if last else None
    while node is not None:
        run.append((node[0], node[1]))
        node = node[2]
    run.reverse()
    return run


def _longest_common(x: Sequence[object], y: Sequence[object]) -> list[_Match]:
    """Return the index pairs of a longest common subsequence, in O(len(x) * len(y))."""
    width = len(y) + 1
    lengths = [0] * ((len(x) + 1) * width)
    for i in range(len(x) - 1, -1, -1):
        row = i * width
        for j in range(len(y) - 1, -1, -1):
            at = row + j
            if x[i] == y[j]:
                lengths[at] = lengths[at + width + 1] + 1
            else:
                lengths[at] = max(lengths[at + width], lengths[at + 1])
    matches: list[_Match] = []
    i = j = 0
    while i < len(x) and j < len(y):
        at = i * width + j
        if x[i] == y[j]:
            matches.append((i, j))
            i += 1
            j += 1
        elif lengths[at + width] >= lengths[at + 1]:
            i += 1
        else:
            j += 1
    return matches
