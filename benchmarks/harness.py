"""How the benchmarks measure: contenders, cases, rows, goals, and interleaved rounds.

A *contender* is an async generator function, registered with ``@contender``. It sets its work up, yields one sample (an
awaitable function that measures once and returns a figure: seconds, bytes or a count for one operation), and cleans up
when it is resumed. A *case* is one line of the table: its contenders do the same work. A *row* is what is measured
together: each round runs every contender of the row once, in shuffled order, so that a slow moment of the machine
hits all of them alike.

What a contender needs is imported inside it, so that a missing package makes it absent and nothing else.
"""

from __future__ import annotations

import gc
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from enum import Enum
from itertools import repeat
from pathlib import Path
from statistics import median
from time import perf_counter, time_ns
from typing import Any

__all__ = [
    "BYTES",
    "MODULES",
    "NOMINAL_CALIBRATION",
    "SECONDS",
    "Bench",
    "Case",
    "Contender",
    "Figures",
    "Goal",
    "Prepare",
    "Role",
    "Row",
    "Sample",
    "ahead_of",
    "ahead_of_peers",
    "at_most",
    "contender",
    "measure",
    "times_case",
    "times_floor",
]

Sample = Callable[[], Awaitable[float]]

NOMINAL_CALIBRATION = 232e-9
"""What one turn of the calibration loop took on the machine on which the absolute goals were set.

There, a property took 28 ns, a record with slots 130 ns, the copy of a dict of ten 38 ns and ``time_ns`` 36 ns.
"""

SECONDS, BYTES, MODULES = "s", "B", "modules"


class Role(Enum):
    """What a contender stands for in its case."""

    FLOOR = "floor"  # the least that anyone could do, written by hand; one a case
    PEER = "peer"  # another library, doing the same work
    ALSO = "also"  # worth seeing, but not the same work, so never the best peer
    OURS = "ours"


class Bench:
    """What a contender is given: the size of its case, room on disk, and the clockwork."""

    def __init__(self, size: int, directory: Path, budget: float) -> None:
        self.size = size
        self._directory = directory
        self._budget = budget

    def path(self) -> Path:
        """Return a new empty directory, removed at the end of the run."""
        return Path(tempfile.mkdtemp(dir=self._directory))

    def timed(self, source: str, /, *, operations: int = 1, unroll: int = 1, **names: Any) -> Sample:
        """Return a sample of the seconds for one run of the statement *source*, in which *names* are known.

        Args:
            source: A statement, which may await.
            operations: How many operations the statement makes.
            unroll: How often the statement stands in the loop's body; for statements of a few nanoseconds, beside
                which the loop itself would count.
            names: What the statement refers to.
        """
        body = "\n        ".join([source] * unroll)
        namespace: dict[str, Any] = dict(names)
        code = f"async def run(turns, clock):\n    start = clock()\n    for _ in turns:\n        {body}\n    return clock() - start"
        exec(compile(code, f"<{source}>", "exec"), namespace)
        run: Callable[[repeat[None], Callable[[], float]], Awaitable[float]] = namespace["run"]
        turns = 0

        async def sample() -> float:
            nonlocal turns
            if not turns:
                turns = 1
                while await run(repeat(None, turns), perf_counter) < self._budget:
                    turns *= 2
            return await run(repeat(None, turns), perf_counter) / (turns * unroll * operations)

        return sample


Prepare = Callable[[Bench], AsyncIterator[Sample]]


class Contender:
    """One way to do the work of a case."""

    def __init__(self, name: str, role: Role, prepare: Prepare) -> None:
        self.name = name
        self.role = role
        self.prepare = prepare


class Case:
    """One line of the table.

    Attributes:
        operation: What the line is called.
        goals: What reactstate has to reach, all of them.
        size: How large the state, or how many the subscribers are, for contenders that serve several cases.
        unit: Of the figures: SECONDS, BYTES or MODULES.
        like: The case whose floor and peers stand in where this one has none of its own.
    """

    def __init__(
        self,
        operation: str,
        *,
        goals: Sequence[Goal] = (),
        size: int = 1,
        unit: str = SECONDS,
        like: Case | None = None,
    ) -> None:
        self.operation = operation
        self.goals = tuple(goals)
        self.size = size
        self.unit = unit
        self.like = like
        self.contenders: list[Contender] = []


class Row:
    """Cases that are measured together, under the name that ``--row`` takes."""

    def __init__(self, name: str, *cases: Case) -> None:
        self.name = name
        self.cases = cases


def contender(name: str, role: Role, *cases: Case) -> Callable[[Prepare], Prepare]:
    """Register the decorated function as a contender of *cases*."""

    def register(prepare: Prepare) -> Prepare:
        for case in cases:
            case.contenders.append(Contender(name, role, prepare))
        return prepare

    return register


class Figures:
    """The medians of one row.

    Attributes:
        medians: By case and contender.
        absent: Why a contender could not run, by case and contender.
        slowness: How many times slower than the machine of the goals this one was, by the calibration loop.
    """

    def __init__(
        self, medians: dict[tuple[Case, Contender], float], absent: dict[tuple[Case, Contender], str], slowness: float
    ) -> None:
        self.medians = medians
        self.absent = absent
        self.slowness = slowness

    def _of(self, case: Case, role: Role) -> dict[str, float]:
        own = [entry for entry in case.contenders if entry.role is role]
        if not own and case.like is not None and role is not Role.OURS:
            return self._of(case.like, role)
        return {entry.name: self.medians[case, entry] for entry in own if (case, entry) in self.medians}

    def ours(self, case: Case) -> float | None:
        """Return the figure of reactstate, or None when it is absent."""
        return next(iter(self._of(case, Role.OURS).values()), None)

    def floor(self, case: Case) -> float | None:
        """Return the figure of the floor, or None when it is absent."""
        return next(iter(self._of(case, Role.FLOOR).values()), None)

    def peers(self, case: Case) -> dict[str, float]:
        """Return the figures of the peers that are present, by name."""
        return self._of(case, Role.PEER)


class Goal:
    """One thing to reach: the figure of reactstate is to be at most *limit*, which is None when it cannot be told."""

    def __init__(self, text: str, limit: Callable[[Figures, Case], float | None]) -> None:
        self.text = text
        self.limit = limit


def _times(ratio: float, figure: float | None) -> float | None:
    return None if figure is None else ratio * figure


def times_floor(ratio: float) -> Goal:
    """At most *ratio* times the floor of the case."""
    return Goal(f"<= {ratio:.3g} x floor", lambda figures, case: _times(ratio, figures.floor(case)))


def times_case(ratio: float, other: Case) -> Goal:
    """At most *ratio* times reactstate's own figure in another case of the row."""
    return Goal(f"<= {ratio:g} x {other.operation!r}", lambda figures, _: _times(ratio, figures.ours(other)))


def ahead_of(name: str) -> Goal:
    """Faster than (or as fast as) the peer *name*."""
    return Goal(f"ahead of {name}", lambda figures, case: figures.peers(case).get(name))


def ahead_of_peers() -> Goal:
    """Faster than (or as fast as) every peer that is present."""
    return Goal("ahead of every peer", lambda figures, case: min(figures.peers(case).values(), default=None))


def at_most(text: str, limit: float, *, scaled: bool = True) -> Goal:
    """At most *limit*: scaled by the calibration loop for times, taken as it is for what no machine changes."""
    return Goal(f"<= {text}", lambda figures, _: limit * figures.slowness if scaled else limit)


class _Record:
    __slots__ = ("a", "b", "c", "d")

    def __init__(self, a: int, b: int, c: int, d: int) -> None:
        self.a = a
        self.b = b
        self.c = c
        self.d = d


class _Holder:
    __slots__ = ("_state",)

    def __init__(self, state: object) -> None:
        self._state = state

    @property
    def state(self) -> object:
        return self._state


def _calibration(bench: Bench) -> Sample:
    return bench.timed(
        "holder.state; record(1, 2, 3, 4); table.copy(); time_ns()",
        unroll=5,
        holder=_Holder(1),
        record=_Record,
        table={str(n): n for n in range(10)},
        time_ns=time_ns,
    )


async def measure(row: Row, *, rounds: int, budget: float, directory: Path) -> Figures:
    """Run the contenders of *row* in interleaved rounds.

    Args:
        row: What to measure.
        rounds: How many rounds count; one more goes before them, which warms up and finds the lengths of the loops.
        budget: How many seconds one sample of a repeated statement takes at least.
        directory: Where contenders may write.
    """
    scratch = Path(tempfile.mkdtemp(prefix="reactstate-bench-", dir=directory))
    absent: dict[tuple[Case, Contender], str] = {}
    runs: list[tuple[Sample, list[float]]] = []
    taken: dict[tuple[Case, Contender], list[float]] = {}
    calibrations: list[float] = []
    try:
        async with AsyncExitStack() as stack:
            for case in row.cases:
                bench = Bench(case.size, scratch, budget)
                for entry in case.contenders:
                    try:
                        sample = await stack.enter_async_context(asynccontextmanager(entry.prepare)(bench))
                    except ImportError as error:
                        absent[case, entry] = str(error)
                    else:
                        runs.append((sample, taken.setdefault((case, entry), [])))
            runs.append((_calibration(Bench(1, scratch, budget)), calibrations))
            for sample, _ in runs:
                await sample()
            # What the contenders hold is no garbage: frozen, it costs the others no time in their collections.
            gc.collect()
            gc.freeze()
            for _ in range(rounds):
                random.shuffle(runs)
                for sample, figures in runs:
                    gc.collect()
                    figures.append(await sample())
    finally:
        gc.unfreeze()
        shutil.rmtree(scratch, ignore_errors=True)
    medians = {key: median(figures) for key, figures in taken.items()}
    return Figures(medians, absent, median(calibrations) / NOMINAL_CALIBRATION)
