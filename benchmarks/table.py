"""How figures, ratios and verdicts are written."""

from __future__ import annotations

from collections.abc import Iterable

from harness import BYTES, MODULES, Case, Figures, Role, Row

__all__ = ["Line", "judge", "render", "render_contenders"]

_HEADINGS = ("operation", "goal", "figure", "x floor", "x best peer", "verdict")


class Line:
    """One judged case."""

    def __init__(self, cells: tuple[str, ...], *, missed: bool) -> None:
        self.cells = cells
        self.missed = missed


def _written(figure: float, unit: str) -> str:
    if unit == MODULES:
        return f"{figure:.0f}"
    steps = ((1e6, "MB"), (1e3, "KB"), (1.0, "B")) if unit == BYTES else ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
    for scale, name in steps:
        if figure >= scale:
            return f"{figure / scale:.3g} {name}"
    return f"{figure:.0f} B" if unit == BYTES else f"{figure * 1e9:.3g} ns"


def _ratio(figure: float | None, of: float | None) -> str:
    if figure is None or not of:
        return "-"
    ratio = figure / of
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.1g}"


def judge(case: Case, figures: Figures) -> Line:
    """Return the line of *case*; a goal that cannot be judged counts as missed."""
    ours, floor, peers = figures.ours(case), figures.floor(case), figures.peers(case)
    best = min(peers, key=peers.__getitem__, default=None)
    missed = False
    if ours is None:
        verdict, missed = ("absent", True) if case.goals else ("absent", False)
    else:
        limits = [(goal.text, goal.limit(figures, case)) for goal in case.goals]
        complaints = [f"not judged ({text})" for text, limit in limits if limit is None]
        tightest = min((limit for _, limit in limits if limit is not None), default=None)
        if tightest is not None and ours > tightest:
            complaints.append(f"MISSED: limit {_written(tightest, case.unit)}")
        missed = bool(complaints)
        verdict = "; ".join(complaints) or ("met" if case.goals else "-")
    beside = f"{_ratio(ours, peers[best])} {best}" if best is not None and ours is not None else "-"
    cells = (
        case.operation,
        ", ".join(goal.text for goal in case.goals) or "-",
        "absent" if ours is None else _written(ours, case.unit),
        _ratio(ours, floor),
        beside,
        verdict,
    )
    return Line(cells, missed=missed)


def render(lines: Iterable[Line]) -> str:
    """Return the table."""
    rows = [_HEADINGS, *(line.cells for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    rows.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def render_contenders(row: Row, figures: Figures) -> str:
    """Return what each contender of *row* took, the least first, and who was absent."""
    text = [f"{row.name}: this machine is {figures.slowness:.2f} times as slow as the one of the goals"]
    for case in row.cases:
        present = [entry for entry in case.contenders if (case, entry) in figures.medians]
        present.sort(key=lambda entry: figures.medians[case, entry])
        width = max((len(entry.name) for entry in case.contenders), default=0)
        text.append(f"  {case.operation}")
        for entry in present:
            role = "" if entry.role is Role.PEER else f"  ({entry.role.value})"
            text.append(f"    {entry.name.ljust(width)}  {_written(figures.medians[case, entry], case.unit):>9}{role}")
        text += (
            f"    {entry.name.ljust(width)}     absent  ({figures.absent[case, entry]})"
            for entry in case.contenders
            if (case, entry) in figures.absent
        )
    return "\n".join(text)
