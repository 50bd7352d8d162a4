"""Work that may block, done in order by one thread, its end reported on the loop.

The worker's loop must never wait for a database or a broker; and what is acknowledged must
have been written or published before. So the loop hands the writing over, and
acknowledges when it hears that it is done.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from functools import partial

from governor.worker.event_loop import Loop, guarded

Done = Callable[[Exception | None], None]


class SerialExecutor:
    """One thread (under gevent: a greenlet) that does what it is given, in order."""

    def __init__(self, name: str, loop: Loop) -> None:
        self._loop = loop
        self._jobs: queue.Queue[tuple[Callable[[], object], Done] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name=f"governor-{name}", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], object], done: Done) -> None:
        """Do ``job``, then call ``done`` on the loop with what it raised, or ``None``."""
        self._jobs.put((job, done))

    def idle(self) -> bool:
        """Tell whether everything submitted has been done; ``done`` may still be on its way."""
        return self._jobs.unfinished_tasks == 0

    def close(self, timeout: float) -> None:
        """End the thread, once it has done what it was given; wait for that so many seconds."""
        self._jobs.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        while (work := self._jobs.get()) is not None:
            guarded(partial(self._do, *work))
            self._jobs.task_done()

    def _do(self, job: Callable[[], object], done: Done) -> None:
        error: Exception | None = None
        try:
            job()
        except Exception as exc:
            error = exc
        except BaseException as exc:
            # A task's own code may raise it, where its exception is read. The thread outlives it.
            error = RuntimeError(type(exc).__name__)
        self._loop.soon(partial(done, error))
