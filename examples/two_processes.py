"""Two processes count into one state, and this one watches: nothing is lost, and each version is seen once, in order."""

from __future__ import annotations

import asyncio
import sys
import tempfile

from reactstate import State, StateConfig, StateContainer, Strong

TURNS = 50
CONFIG = StateConfig(history_size=1000)  # the same for all who share the state


class Tally(State):
    total: int = 0
    by: dict[str, int] = {}


def count(draft: Tally, who: str) -> None:
    # Read and written on the newest version, whoever made it: this runs again when another process comes first.
    draft.total += 1
    draft.by[who] = draft.by.get(who, 0) + 1


async def work(url: str, who: str) -> None:
    """What each of the two processes does."""
    async with StateContainer.open(Tally(), url, key="tally", config=CONFIG) as tally:
        for _ in range(TURNS):
            await tally.update(count, who, actor=who)


async def main(directory: str) -> None:
    url = f"sqlite://{directory}/tally.db"
    async with StateContainer.open(Tally(), url, key="tally", config=CONFIG) as tally:
        changes = tally.subscribe()
        workers = [await asyncio.create_subprocess_exec(sys.executable, __file__, url, who) for who in ("ada", "bob")]
        seen = []
        async for change in changes:
            seen.append(change.version)
            if len(seen) == 2 * TURNS:
                break
        for worker in workers:
            await worker.wait()

        state = await tally.get(Strong())  # everything that was acknowledged, anywhere
        print("counted:", state.total, "by", sorted(state.by.items()))
        print("each version was seen once, in order:", seen == list(range(2, 2 * TURNS + 2)))
        await tally.undo(actor="main")
        print("the last one undone:", tally.state.total, "in version", tally.version)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(work(*sys.argv[1:]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            asyncio.run(main(scratch))
