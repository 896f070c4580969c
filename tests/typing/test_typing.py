"""The type checkers accept what users write, and refuse what would go wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_what_users_see_is_typed(checker: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", checker, "tests/typing/states.py"],
        cwd=_ROOT,
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
