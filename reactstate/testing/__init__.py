"""What tests of programs that use reactstate need: faults, and checks."""

from __future__ import annotations

from reactstate.testing.check import check_state
from reactstate.testing.faults import FaultyFileSystem

__all__ = ["FaultyFileSystem", "check_state"]
