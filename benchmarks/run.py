"""Measure reactstate beside its floors and its peers, and say whether its goals are met.

    python benchmarks/run.py [--row NAME] [--quick] [--dir PATH]

Prints what each contender took, then one table. The exit status is 1 when a goal is missed or cannot be judged.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import checkpointing
import coordinating
import durable
import embedded
import importing
import leaf
import memory
import notify
import opening
import reading
import stores
import updating
import watching
from harness import Row, measure
from table import Line, judge, render, render_contenders

__all__ = ["main"]

ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        reading.READ,
        updating.UPDATE,
        leaf.LEAF,
        memory.MEMORY,
        notify.NOTIFY,
        durable.DURABLE,
        durable.WRITERS,
        opening.OPEN,
        stores.KEYED,
        embedded.EMBEDDED,
        embedded.UNSYNCED,
        embedded.COMMIT,
        watching.WATCH,
        checkpointing.CHECKPOINT,
        checkpointing.MILLION,
        checkpointing.SCAN,
        coordinating.TRANSACTION,
        coordinating.DEDUP,
        coordinating.LOCKS,
        coordinating.DUE,
        importing.IMPORT,
    )
}


def _default_directory() -> Path:
    # /tmp is memory on many machines, where a sync costs nothing and the durable rows say nothing.
    lasting = Path("/var/tmp")
    return lasting if lasting.is_dir() else Path(tempfile.gettempdir())


def main(arguments: list[str] | None = None) -> int:
    """Measure what *arguments* ask for, print it, and return the exit status."""
    parser = argparse.ArgumentParser(description="Measure reactstate beside its floors and its peers.")
    parser.add_argument("--row", choices=ROWS, help="measure this row only")
    parser.add_argument("--quick", action="store_true", help="three short rounds instead of seven")
    parser.add_argument("--dir", type=Path, default=_default_directory(), help="where to write (a real disk)")
    options = parser.parse_args(arguments)
    if not options.dir.is_dir():
        parser.error(f"{options.dir} is not a directory; give one on a real disk to --dir")
    rounds, budget = (3, 0.02) if options.quick else (7, 0.1)
    lines: list[Line] = []
    for row in [ROWS[options.row]] if options.row else ROWS.values():
        figures = asyncio.run(measure(row, rounds=rounds, budget=budget, directory=options.dir))
        print(render_contenders(row, figures), end="\n\n", flush=True)
        lines += (judge(case, figures) for case in row.cases)
    print(render(lines))
    return 1 if any(line.missed for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
