"""Every change is billed at least once, although the process crashes while it handles one.

A named process keeps its place beside the state, and moves it on after the handler returned.
"""

from __future__ import annotations

import asyncio
import tempfile

from reactstate import FilePersistence, State, StateChange, StateContainer


class Meter(State):
    kilowatt_hours: int = 0


class CrashError(Exception):
    """Stands for a crash: the handler did its work, but nobody learned of it."""


bills: dict[int, int] = {}  # what the outside world has seen, by version


async def main(directory: str) -> None:
    async with StateContainer.open(Meter(), persistence=FilePersistence(directory)) as meter:
        for reading in (10, 25, 40):
            await meter.update({"kilowatt_hours": reading})

    async def bill_and_crash(change: StateChange[Meter]) -> None:
        print("bill version", change.version)
        bills[change.version] = change.new_state.kilowatt_hours if change.new_state else 0
        if change.version == 3:
            raise CrashError

    async with StateContainer.open(Meter, persistence=FilePersistence(directory)) as meter:
        try:
            await meter.process("billing", bill_and_crash, delivery="at_least_once")
        except CrashError:
            print("crashed in version 3")

    done = asyncio.Event()

    async def bill(change: StateChange[Meter]) -> None:
        # Version 3 comes again. Keyed by version, the second bill changes nothing: the handler is idempotent.
        print("bill version", change.version)
        bills[change.version] = change.new_state.kilowatt_hours if change.new_state else 0
        if change.version == 4:
            done.set()

    async with StateContainer.open(Meter, persistence=FilePersistence(directory)) as meter:
        task = asyncio.create_task(meter.process("billing", bill, delivery="at_least_once"))
        await done.wait()
    await task  # closing the container ended it
    print("billed:", bills)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(main(scratch))
