"""Each example runs as a user runs it, in a process of its own, and prints what it is there to show."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
ESCAPE = "\x1b"

# What each small example prints, among other lines.
LINES = {
    "quickstart.py": [
        "version 3 {'apple': 2, 'pear': 1}",
        "undone: version 4 {'apple': 2}",
        "opened again: version 4 {'apple': 2}",
        "before the undo: {'apple': 2, 'pear': 1}",
        "  2 UPDATE add by ada",
        "  4 ROLLBACK undo by ada",
    ],
    "undo_redo.py": [
        "undone twice: ['one']",
        "redone after a restart: ['one', 'two']",
        "a new change clears redo: ['one', 'two', 'four']",
    ],
    "time_travel.py": [
        "at noon: 19.5",
        "version 2: 21.0",
        "from 2 to 4: [{'op': 'replace', 'path': '/target', 'value': 22.0}]",
        "yesterday there was nothing; the oldest version is 1",
        "rolled back to version 2, as version 5 with 21.0",
    ],
    "crash_safe.py": [
        "crashed in version 3",
        "billed: {1: 0, 2: 10, 3: 25, 4: 40}",
    ],
    "atomic_threads.py": [
        "words: 450 the: 100",
        "versions in order, without a gap: True",
    ],
    "ephemeral_cache.py": [
        "first: desserts",
        "again: desserts (from the cache)",
        "four questions in a minute: [True, True, True, False]",
        "and a minute later: True",
        "after an hour there is ['session/ada']",
        "swept: 2",
        "the answer is made anew: desserts",
        "hits: 1 of 3",
    ],
    "durable_store.py": [
        "checkpoints made: 30, kept: 24",
        "the total is 3000",
        "bob was deleted by mistake; the total is 2000",
        "restored; the total is 3000",
        "'end of the month', made of sqlite: 3000 in memory",
    ],
    "two_processes.py": [
        "counted: 100 by [('ada', 50), ('bob', 50)]",
        "each version was seen once, in order: True",
        "the last one undone: 99 in version 102",
    ],
    "many_states.py": [
        "machines: 6 in the north: ['north/1', 'north/2', 'north/3']",
        "north/1 version 21, 100 pieces",
        "north/2 version 2, 0 pieces",
        "north/3 gone",
        "meanwhile: north/2 UPDATE by north/2",
        "refused: there is no Machine 'north/3'; put one first",
    ],
    "bank.py": [
        "orders: 200 made or refused: 200",
        "no money was made, and none was lost: True",
        "nobody is overdrawn: True",
        "a transaction for each of them: True",
        "snapshot: both paid out; eve has -1000",
        "serializable: refused, because of eve/current; eve has 0",
    ],
    "idempotent_handler.py": [
        "first: failed",
        "delivered again: sent",
        "delivered again: duplicate",
        "50 at once: 1 sent",
        "mails: ['m1', 'm2']",
        "while it may still be at work: in other hands",
        "a minute later: sent",
        "calls: [True, True, True, False, False]",
        "a minute later: True",
        "delivered 20 times, booked: 250",
    ],
    "fenced_writer.py": [
        "unguarded: the next holder has the greater token: True",
        "unguarded: the sleeper's write was written",
        "unguarded: the price is 9.99, by the sleeper",
        "guarded: the next holder has the greater token: True",
        "guarded: the sleeper's write was refused",
        "guarded: the price is 4.50, by the next holder",
    ],
    "order_timeouts.py": [
        "open orders: 70",
        "due at once: 0",
        "due after half an hour: 100",
        "handled: 95 of 95",
        "a late payment: too late, it is expired",
        "what the dead one had, after its lease: 5",
        "{'expired': 70, 'left alone, it is paid': 30}",
        "open orders: []",
        "the sleeper was refused",
    ],
    "workflow.py": [
        "in its hands: charge",
        "meanwhile another worker finds: 0",
        "after the lease: 1",
        "the dead one comes back, and is refused",
        "shipped: True",
        "ready before the week is over: []",
        "17 charge: the card was refused",
        "17 charge: was done before",
        "17 ask for a review",
    ],
    "own_engine.py": [
        '    "greeting": {',
        '      "text": "hello"',
        "opened again: 2 4 theme='dark' volume=5",
        "what was done: [None, 'go dark', 'louder', 'undo']",
    ],
}


def run(name, *arguments, **environment):
    """Run an example without a terminal; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        capture_output=True,
        check=False,
        encoding="utf-8",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"} | environment,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("name", LINES)
def test_example_prints_what_it_shows(name):
    printed = run(name).splitlines()
    for line in LINES[name]:
        assert line in printed


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*LINES, "flight_board.py"}


def test_flight_board_survives_its_crash_and_tells_the_day_in_under_15_seconds(tmp_path):
    began = time.monotonic()
    printed = run("flight_board.py", "--dir", str(tmp_path / "board"))
    assert time.monotonic() - began < 15
    killed = re.search(r"killed: the child had acknowledged (\d+) departures", printed)
    assert killed is not None
    assert 421 <= int(killed[1]) < 842
    for expected in (
        "nothing acknowledged is missing",
        "all 842 departures are on the board, version 844",
        "at noon        305 departed",
        "rolled back:",
        "notice undone: ''",
        "notice redone: 'Runway 4L is closed'",
        "restored from the snapshot",
        "gate/",
        "durable updates per second",
    ):
        assert expected in printed


def test_flight_board_writes_no_escape_codes_when_not_on_a_terminal():
    assert ESCAPE not in run("flight_board.py", FORCE_COLOR="1", TERM="xterm-256color")


def test_flight_board_refuses_a_directory_that_is_not_empty(tmp_path):
    (tmp_path / "board").mkdir()
    (tmp_path / "board" / "other").touch()
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "flight_board.py"), "--dir", str(tmp_path / "board")],
        capture_output=True,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 1
    assert "is not empty" in done.stderr


async def test_flight_board_would_notice_a_lost_version(tmp_path):
    spec = importlib.util.spec_from_file_location("flight_board", EXAMPLES / "flight_board.py")
    flight_board = importlib.util.module_from_spec(spec)
    sys.modules["flight_board"] = flight_board
    try:
        spec.loader.exec_module(flight_board)
        feed = flight_board.load_feed(everything=False)
        clock = flight_board.BoardClock(feed.departures[0].time)
        async with await flight_board.open_board(tmp_path / "board", clock) as board:
            written = [one async for one in flight_board.follow(board, clock, feed._replace(burst=421))]
            acknowledged = [version for one in written for version in one.versions]
            flight_board.check_nothing_is_missing(board, acknowledged, feed)
            with pytest.raises(SystemExit, match="version 845 was acknowledged, but the disk has only 844"):
                flight_board.check_nothing_is_missing(board, [*acknowledged, 845], feed)
            await board.update(lambda draft: draft.flights.pop(feed.departures[7].key))
            with pytest.raises(SystemExit, match="on the board; it should be"):
                flight_board.check_nothing_is_missing(board, acknowledged, feed)
    finally:
        del sys.modules["flight_board"]
