"""A child process ends with the one that started it, at whatever instant that is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from governor.testing.child_process import ChildProcess

_DIES_AFTER = """
import os, pathlib, signal, subprocess, sys
from governor.testing.child_process import ChildProcess
started = 0
class Dying(subprocess.Popen):
    def __init__(self, *args, **kwargs):
        global started
        super().__init__(*args, **kwargs)
        started += 1
        if started == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
subprocess.Popen = Dying
ChildProcess(["sleep", sys.argv[2]], log=pathlib.Path(os.devnull))
"""


@pytest.mark.parametrize("number", [1, 2])
def test_killed_while_it_starts_a_child_nothing_is_left(number: int, tmp_path: Path) -> None:
    """SIGKILL right after either of the two processes was started leaves neither of them."""
    marker = f"600.{number}{tmp_path.stat().st_ino}"
    done = subprocess.run(
        [sys.executable, "-c", _DIES_AFTER, str(number), marker], timeout=30, check=False
    )
    assert done.returncode == -9
    deadline = time.monotonic() + 30
    while left := [p for p in psutil.process_iter(["cmdline"]) if marker in _words(p)]:
        assert time.monotonic() < deadline, left
        psutil.wait_procs(left, timeout=0.1)


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    """It ends with 127 and the log names it."""
    log = tmp_path / "log"
    with ChildProcess([str(tmp_path / "missing")], log=log) as child:
        assert child.wait(10) == 127
    assert "missing" in log.read_text()


def _words(process: psutil.Process) -> list[str]:
    return process.info["cmdline"] or []
