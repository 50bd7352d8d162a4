"""A real Celery worker as a process of its own, for integration tests.

::

    with WorkerProcess("tests.integration.my_app", redis_url, directory=tmp_path) as worker:
        task.delay()                 # the worker answers: the constructor waits for it
        worker.wait_for_log("done")
        worker.kill()                # SIGKILL to main process and pool

The app module is imported with the repository's root on the path. It gets its broker from
``-b`` and, when given, its result backend from ``--result-backend``; anything else reaches it
through ``env``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from governor.testing.child_process import ChildProcess

ROOT = Path(__file__).resolve().parents[2]
QUICK_START = ("--without-mingle", "--without-gossip", "--without-heartbeat")
READY = " ready."


class CeleryProcess:
    """A worker started by a given command; :class:`WorkerProcess` composes one.

    Args:
        command: ``celery … worker …`` with the node name in it, log level INFO.
        name: the node name, host included.
        directory: folder for the log.
        env: the whole environment.
        cwd: working directory.
        ready_timeout: seconds to wait until it is ready.

    Raises:
        AssertionError: it ended or was not ready in time; carries its log.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        directory: Path,
        env: Mapping[str, str],
        cwd: Path,
        ready_timeout: float = 30,
    ) -> None:
        self.name = name
        self.log_path = directory / f"{name}.log"
        self._command = command
        self._env = env
        self._cwd = cwd
        self._ready_timeout = ready_timeout
        self.start()

    def start(self) -> None:
        """Start (again, after :meth:`kill` or :meth:`terminate`) and wait until it is ready."""
        self._seen = self.log_path.stat().st_size if self.log_path.exists() else 0
        self._process = ChildProcess(self._command, log=self.log_path, cwd=self._cwd, env=self._env)
        try:
            self.wait_ready()
        except BaseException:
            self._process.kill()
            raise

    @property
    def pid(self) -> int:
        """Process id of the worker's main process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.running

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal; ``None`` while it runs."""
        return self._process.returncode

    def log(self) -> str:
        """Everything the worker wrote since its last start."""
        return self.log_path.read_bytes()[self._seen :].decode(errors="replace")

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until the worker consumes its queues."""
        self.wait_for_log(f"{self.name}{READY}", timeout or self._ready_timeout)

    def wait_for_log(self, text: str, timeout: float = 30) -> None:
        """Wait until ``text`` stands in the log of this start.

        Raises:
            AssertionError: it did not within ``timeout`` seconds, or the worker ended.
        """
        deadline = time.monotonic() + timeout
        while text not in self.log():
            running = self.running
            if text in self.log():
                return  # its last words
            if not running or time.monotonic() > deadline:
                state = "still runs" if running else f"ended with {self.returncode}"
                raise AssertionError(
                    f"The worker {state} and never logged {text!r}. Its log:\n{self.log()}"
                )
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        """Send a signal to the main process alone."""
        self._process.signal(number)

    def kill(self) -> None:
        """SIGKILL the main process and its pool, as when the machine goes down."""
        self._process.kill()

    def terminate(self, timeout: float = 60) -> int:
        """Warm shutdown: running tasks finish. Returns the exit code. A process of a prefork pool
        may wait half a minute for its last words to be heard.

        Raises:
            AssertionError: it still runs after ``timeout`` seconds; carries its log.
        """
        self._process.signal(15)
        return self.wait(timeout)

    def wait(self, timeout: float = 30) -> int:
        """Exit code once the worker has ended by itself.

        Raises:
            AssertionError: it still runs after ``timeout`` seconds; carries its log.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"The worker still runs after {timeout} s. Its log:\n{self.log()}"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()


class WorkerProcess(CeleryProcess):
    """A worker that has started and takes tasks.

    Args:
        app_module: value of ``celery -A``.
        broker_url: broker, e.g. of the ``redis_url`` fixture.
        directory: folder for the log; ``tmp_path`` in a test.
        pool: prefork, threads, gevent or solo.
        concurrency: slots of the pool.
        queues: queue names; the app's default when ``None``.
        backend_url: result backend; the app's own when ``None``.
        env: added to our environment.
        cwd: working directory, first on the worker's import path.
        arguments: further arguments of ``celery worker``.
        name: node name before the ``@``; a fresh one by default.
        ready_timeout: seconds to wait until it is ready.

    Raises:
        AssertionError: it ended or was not ready in time; carries its log.
    """

    def __init__(
        self,
        app_module: str,
        broker_url: str,
        *,
        directory: Path,
        pool: str = "prefork",
        concurrency: int = 2,
        queues: Sequence[str] | None = None,
        backend_url: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        arguments: Sequence[str] = QUICK_START,
        name: str | None = None,
        ready_timeout: float = 30,
    ) -> None:
        node = f"{name or f'w{uuid.uuid4().hex[:8]}'}@localhost"
        command = [sys.executable, "-m", "celery", "-A", app_module, "-b", broker_url]
        if backend_url is not None:
            command += ["--result-backend", backend_url]
        command += ["worker", "-P", pool, "-c", str(concurrency), "-n", node, "-l", "INFO"]
        if queues is not None:
            command += ["-Q", ",".join(queues)]
        super().__init__(
            [*command, *arguments],
            name=node,
            directory=directory,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            cwd=cwd,
            ready_timeout=ready_timeout,
        )
