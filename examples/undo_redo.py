"""Undo and redo that survive a restart, as an editor wants them."""

from __future__ import annotations

import asyncio
import tempfile

from reactstate import FilePersistence, NoHistoricalState, State, StateContainer


class Text(State):
    lines: list[str] = []


class Editor(StateContainer[Text]):
    """A container with the verbs of its domain."""

    async def write(self, line: str) -> None:
        await self.update(lambda draft: draft.lines.append(line), action=f"write {line!r}")


async def main(directory: str) -> None:
    async with Editor.open(Text(), persistence=FilePersistence(directory)) as editor:
        for line in ("one", "two", "three"):
            await editor.write(line)
        await editor.undo()
        await editor.undo()
        print("undone twice:", list(editor.state.lines))

    async with Editor.open(Text, persistence=FilePersistence(directory)) as editor:
        await editor.redo()
        print("redone after a restart:", list(editor.state.lines))
        await editor.write("four")
        try:
            await editor.redo()
        except NoHistoricalState:
            print("a new change clears redo:", list(editor.state.lines))
        # An undo is a change like any other: a new version, with an action. Nothing is ever lost.
        print("versions:", [(change.version, change.action) for change in editor.history])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(main(scratch))
