"""A process that does not outlive the one that started it.

A child gets a session of its own, so Ctrl-C reaches only us and we end it in order. If we
are killed, nobody would end it: a watcher (a shell of a few hundred kilobytes) waits on a
pipe that only we hold, and kills the child's whole group when the pipe closes. Linux's
``PDEATHSIG`` is not used: it fires when the starting *thread* ends, and only Linux has it.

The child does not begin before it has told the watcher its number: there is no instant at
which our death would leave it behind.

A process *forked* from us without an exec holds the pipe too; the watcher then waits for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

_WATCHER = 'read -r child && { read -r _; kill -KILL "-$child" 2>/dev/null; }'
_CHILD = 'echo $$ >&0; exec "$@" </dev/null'


class ChildProcess:
    """A started command: its own process group, its output in a file.

    Args:
        command: program and arguments.
        log: file that receives stdout and stderr, appended to.
        cwd: working directory; ours by default.
        env: the whole environment; ours by default.

    A program that cannot be started says so in the log and ends with 126 or 127.

    Raises:
        OSError: the log file cannot be opened.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        with log.open("ab") as output:
            self._watcher = subprocess.Popen(  # noqa: S603 - the first line of shell above
                ["/bin/sh", "-c", _WATCHER], stdin=subprocess.PIPE, start_new_session=True
            )
            self._process = subprocess.Popen(  # noqa: S603 - the caller's own program
                ["/bin/sh", "-c", _CHILD, "sh", *command],
                stdin=self._watcher.stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=env,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Tell whether the process (not merely some child of it) still runs."""
        return self.returncode is None

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal; ``None`` while it runs."""
        code = self._process.poll()
        if code is not None:
            self._clear_up()
        return code

    def signal(self, number: int) -> None:
        """Send a signal to the process alone; nothing happens when it has ended."""
        self._process.send_signal(number)

    def wait(self, timeout: float) -> int:
        """Exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it still runs after ``timeout`` seconds.
        """
        code = self._process.wait(timeout)
        self._clear_up()
        return code

    def kill(self) -> None:
        """SIGKILL the whole group, children included, and wait until it is gone."""
        if self.running:
            self._kill_group()
            self.wait(10)

    def stop(self, timeout: float = 10) -> int:
        """SIGTERM, ``timeout`` seconds to end in order, then SIGKILL. Returns the exit code."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.wait(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # nobody of it is left
            os.killpg(self.pid, signal.SIGKILL)

    def _clear_up(self) -> None:
        """End the rest of the group and the watcher, as soon as the process has ended.

        At once and once only: later the same number may be somebody else's.
        """
        if self._watcher.returncode is not None:
            return
        self._kill_group()
        self._watcher.kill()
        self._watcher.wait()
        if self._watcher.stdin is not None:
            self._watcher.stdin.close()
