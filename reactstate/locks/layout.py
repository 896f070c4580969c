"""Where a lock is kept in its store.

Layout
    ``~locks/<namespace>/<name>/lease0`` to ``lease2``: the holder's lease. Each is an entry with a time to live that
    holds the owner's id. The lock is held while one of them is there. Acquiring writes the first, and each extension
    writes the one that ends first, so that the entry which a commit in flight expects stays as it is.

    ``.../queued``: there while somebody waits, so that a newcomer does not overtake.

    ``.../wait.<id>``: the place of one waiter, in the order of its ticket: the revision that created it, which the
    entry itself names once it was renewed.
"""

from __future__ import annotations

from typing import Final

from reactstate.errors import InvalidKeyError
from reactstate.kv.keys import StateKey
from reactstate.kv.protocol import ABSENT, Step

__all__ = ["LEASES", "LockKeys"]

LEASES: Final = 3
"""With a renewal at each third of a lease, the entry that is written anew has run out by itself."""


class LockKeys:
    """The keys of one lock.

    Args:
        namespace: Whose locks these are.
        name: Which one.

    Attributes:
        name: Its name.
        prefix: What all its keys start with.
        leases: Where the lease is.
        queued: What is there while somebody waits.
        waiting: What the places of waiters start with.
        free: Steps that expect, with an absent first lease, that nobody holds the lock.
        unclaimed: Those, and that nobody waits for it.
    """

    __slots__ = ("free", "leases", "name", "prefix", "queued", "unclaimed", "waiting")

    def __init__(self, namespace: str, name: str) -> None:
        if not name:
            raise InvalidKeyError("the name of a lock is not empty; name what it protects")
        self.name: str = name
        self.prefix: str = str(StateKey("~locks", namespace, name, ""))
        self.leases: tuple[str, ...] = tuple(f"{self.prefix}lease{number}" for number in range(LEASES))
        self.queued: str = f"{self.prefix}queued"
        self.waiting: str = f"{self.prefix}wait."
        self.free: tuple[Step, ...] = tuple(Step(key, None, ABSENT) for key in self.leases[1:])
        self.unclaimed: tuple[Step, ...] = (*self.free, Step(self.queued, None, ABSENT))
