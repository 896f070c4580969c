"""How fresh a read has to be."""

from __future__ import annotations

from datetime import timedelta

__all__ = ["BoundedStaleness", "Consistency", "Eventual", "Strong"]


class Consistency:
    """The base of ``Strong``, ``BoundedStaleness`` and ``Eventual``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Strong(Consistency):
    """The read sees every change that was acknowledged before it began, by whomever (linearizable)."""

    __slots__ = ()


class BoundedStaleness(Consistency):
    """The local value, if the last confirmation that it is the newest began at most *max_lag* ago; else Strong.

    Args:
        max_lag: A timedelta of zero or more.
    """

    __slots__ = ("max_lag",)

    def __init__(self, max_lag: timedelta) -> None:
        if max_lag < timedelta(0):
            raise ValueError("max_lag must be zero or more")
        self.max_lag: timedelta = max_lag

    def __repr__(self) -> str:
        return f"BoundedStaleness(max_lag={self.max_lag!r})"


class Eventual(Consistency):
    """The local value, as it is."""

    __slots__ = ()
