"""Many states, each under its id and with its own version: machines that report, and somebody who watches one hall."""

from __future__ import annotations

import asyncio
import tempfile

from reactstate import KeyedContainer, State, StateNotFoundError


class Machine(State):
    id: str
    running: bool = False
    pieces: int = 0


class Machines(KeyedContainer[Machine]):
    async def report(self, id: str, pieces: int) -> int:  # noqa: A002 - as the field
        """Count pieces, on what is there by then; return the new sum."""
        done = await self.update(id, produced, pieces, actor=id)
        return done.state.pieces


def produced(draft: Machine, pieces: int) -> None:
    draft.running = True
    draft.pieces += pieces


async def main(directory: str) -> None:
    url = f"sqlite://{directory}/machines.db"
    async with Machines.open(Machine, url) as machines:
        for number in range(1, 4):
            for hall in ("north", "south"):
                await machines.put(Machine(id=f"{hall}/{number}"))
        print("machines:", await machines.count(), "in the north:", [one async for one in machines.ids("north/")])

        changes = machines.subscribe("north/")
        # All at once. Those of one machine take turns, so no piece is lost; those of others do not wait.
        await asyncio.gather(*(machines.report(f"{hall}/1", 5) for _ in range(20) for hall in ("north", "south")))
        await machines.update("north/2", {"running": True})
        await machines.delete("north/3")

        newest = {}
        async for change in changes:
            # Versions that came in between are folded: what counts is the newest state of each machine.
            newest[change.id] = (
                "gone" if change.state is None else f"version {change.version}, {change.state.pieces} pieces"
            )
            if newest.get("north/3") == "gone":
                break
        for one, what in sorted(newest.items()):
            print(one, what)
        cursor = change.cursor
        await changes.aclose()
        await machines.report("north/2", 1)

    # Another day, another process: go on after the last change that was seen.
    async with Machines.open(Machine, url) as machines:
        async with machines.subscribe("north/", since=cursor) as changes:
            change = await anext(changes)
            print("meanwhile:", change.id, change.change_type.name, "by", change.actor)
        try:
            await machines.report("north/3", 1)
        except StateNotFoundError as missing:
            print("refused:", missing)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(main(scratch))
