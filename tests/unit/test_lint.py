"""The project's own rules: style, format, types, layers. ``scripts/lint`` runs this file, and
``.pre-commit-config.yaml`` the same checks before each commit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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


def test_the_checks_before_a_commit_are_these() -> None:
    """Each check here is a hook of pre-commit with the same tool, and so are the rules of
    ``test_architecture.py``; there is no other hook."""
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = {hook["name"]: hook["entry"].split() for hook in local["hooks"]}
    assert hooks.keys() == CHECKS.keys() | {"architecture"}
    assert hooks["architecture"][-1] == "tests/unit/test_architecture.py"
    for name, command in CHECKS.items():
        program, *arguments = name.split()
        assert hooks[name][: 1 + len(arguments)] == [f".venv/bin/{program}", *arguments]
        assert Path(command[0]).name in {program, Path(sys.executable).name}
