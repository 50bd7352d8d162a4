"""celery-heimdall: what its task class does before it calls the body, without the task."""

from __future__ import annotations

import time
from typing import Any

from celery import Celery
from celery_heimdall import HeimdallTask, RateLimit
from celery_heimdall.task import rate_limited_countdown, unique_key_for_task

from benchmarks.figures import whole_window
from benchmarks.peers import Peer


def _body() -> None:
    """Never called."""


class Heimdall(Peer):
    name = "celery-heimdall"
    setting = "RateLimit((calls, seconds)) with a key; the shortest window of whole seconds"
    waits = "sleeps for the countdown it gives its retry, whole seconds"

    def setup(self, redis_url: str, rate: float, burst: int, key: str) -> None:
        self.burst, seconds = whole_window(rate)
        app = Celery("heimdall", broker=redis_url, backend=redis_url)
        options = {"rate_limit": RateLimit((self.burst, seconds)), "key": key}
        self._task: Any = app.task(base=HeimdallTask, heimdall=options, name=key, shared=False)(
            _body
        )
        self._prefix = self._task.heimdall_config.rate_limit_prefix

    def try_acquire(self) -> bool:
        return self._countdown() <= 0

    def acquire(self) -> None:
        while (countdown := self._countdown()) > 0:
            time.sleep(countdown)

    def _countdown(self) -> int:
        key = unique_key_for_task(self._task, (), {}, prefix=self._prefix)
        return int(rate_limited_countdown(self._task, key, (), {}))


KINDS = (Heimdall,)
