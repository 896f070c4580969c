from __future__ import annotations

import copy
from typing import Any

import pytest

from reactstate.persistence.protocol import Record, Snapshot
from reactstate.state.patch import apply_patch

SCHEMA = {"cart": 1}


class Story:
    """A state that grows by a rule, so that every version's document is known."""

    schema = SCHEMA

    @staticmethod
    def patch(version: int) -> list[dict[str, Any]]:
        if version == 1:
            return [{"op": "replace", "path": "", "value": {"items": {}, "n": 1}}]
        if version % 3:
            return [{"op": "replace", "path": "/n", "value": version}]
        return [{"op": "add", "path": f"/items/k{version % 12}", "value": [version]}]

    def record(self, version: int) -> Record:
        kind = "create" if version == 1 else "update"
        return Record(version, f"{version:032x}", 10**18 + version, kind, None, None, None, None, self.patch(version))

    def records(self, first: int, last: int) -> list[Record]:
        return [self.record(version) for version in range(first, last + 1)]

    def document(self, version: int) -> Any:
        document: Any = None
        for number in range(1, version + 1):
            document = apply_patch(document, copy.deepcopy(self.patch(number)))
        return copy.deepcopy(document)

    def snapshot(self, version: int, schema: dict[str, int] | None = None) -> Snapshot:
        stamp = 10**18 + version
        return Snapshot(
            version,
            self.document(version),
            dict(schema or SCHEMA),
            f"{version:032x}",
            10**18 + 1,
            stamp,
            {"t": version},
        )


@pytest.fixture(scope="session")
def story() -> Story:
    return Story()
