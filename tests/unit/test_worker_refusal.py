"""A worker that cannot start says one sentence and ends with 1, whatever is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = """
from celery import Celery
from governor import GovernedTask, Governor, Limit, Upstream

app = Celery("shop", broker="redis://127.0.0.1:1/0")
api = Upstream("api", Limit("1/s"))
"""

# what the module goes on with, what the worker says
MISTAKES = [
    # governed tasks, and no governor: each of them would fail
    (
        "@app.task(base=GovernedTask, upstream=api)\ndef charge(): ...",
        (
            "App 'shop' has no governor for its tasks and calls. Write Governor(app) where the app "
            "is created"
        ),
    ),
    # a setting
    (
        "Governor(app)\napp.conf.governor_hlod = 2",
        "governor_hlod: there is no such setting. Did you mean governor_hold?",
    ),
    # an option of a task, which Celery makes when the worker starts
    (
        "Governor(app)\n@app.task(base=GovernedTask, upsteam=api)\ndef charge(): ...",
        "upsteam: task shop.charge has no such option. Did you mean upstream?",
    ),
    # the base class forgotten
    (
        "Governor(app)\n@app.task(upstream=api)\ndef charge(): ...",
        (
            "base: task shop.charge declares an upstream but is no GovernedTask: it would run with "
            "no limit. Add base=GovernedTask"
        ),
    ),
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("rest", "sentence"), MISTAKES)
def test_a_worker_that_cannot_start_says_why(rest: str, sentence: str, tmp_path: Path) -> None:
    """The sentence stands alone: no traceback hides it."""
    (tmp_path / "shop.py").write_text(MODULE + rest)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "celery", "-A", "shop", "worker", "-P", "solo"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert f"Error: {sentence}" in done.stderr.splitlines()
    assert "Traceback" not in done.stdout + done.stderr
