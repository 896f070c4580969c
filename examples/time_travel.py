"""What was it at noon? Any version and any time of the kept history can be read."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from reactstate import ManualClock, NoHistoricalState, State, StateContainer


class Thermostat(State):
    target: float = 18.0
    away: bool = False


async def main() -> None:
    # Time is an argument: this clock stands still until it is told to move.
    clock = ManualClock(datetime(2026, 1, 5, 6, tzinfo=UTC))
    async with StateContainer.open(Thermostat(), clock=clock) as thermostat:
        for target in (21.0, 19.5, 22.0):
            clock.advance(timedelta(hours=3))
            await thermostat.update({"target": target}, actor="schedule")

        noon = await thermostat.at(datetime(2026, 1, 5, 12, tzinfo=UTC))
        print("at noon:", noon.target)
        print("version 2:", (await thermostat.at(2)).target)
        print("from 2 to 4:", list(await thermostat.diff(2, 4)))
        try:
            await thermostat.at(datetime(2026, 1, 4, tzinfo=UTC))
        except NoHistoricalState as missing:
            print("yesterday there was nothing; the oldest version is", missing.oldest)

        await thermostat.rollback_to(2)
        print("rolled back to version 2, as version", thermostat.version, "with", thermostat.state.target)


if __name__ == "__main__":
    asyncio.run(main())
