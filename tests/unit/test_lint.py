"""The project's own rules: style, format, types, layers. ``scripts/lint`` runs this file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECKS = {
    "ruff check": [sys.executable, "-m", "ruff", "check", "."],
    "ruff format": [sys.executable, "-m", "ruff", "format", "--diff", "."],
    "mypy": [sys.executable, "-m", "mypy"],
    "lint-imports": [str(Path(sys.executable).with_name("lint-imports"))],
}


@pytest.mark.timeout(300)  # mypy without its cache takes a minute on a slow machine
@pytest.mark.parametrize("check", CHECKS)
def test_lint(check: str) -> None:
    """The tool finds nothing to object to."""
    done = subprocess.run(
        CHECKS[check],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(CHECKS[check])}\n{done.stdout}", pytrace=False)
