"""The error for an optional library that is not installed."""

from __future__ import annotations

from reactstate.errors import UnsupportedError

__all__ = ["missing_extra"]


def missing_extra(capability: str, extra: str) -> UnsupportedError:
    """Return the error that says how to install *extra*, which *capability* needs."""
    return UnsupportedError(
        f"{capability} needs an optional library; run: pip install 'reactstate[{extra}]'",
        layer="codec",
        capability=capability,
        extra=extra,
    )
