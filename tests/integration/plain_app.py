"""A Celery app the governor has no part in: proves the test servers, not the governor."""

from __future__ import annotations

import os
import time

from celery import Celery

app = Celery("plain")


@app.task(shared=False)
def add(x: int, y: int) -> int:
    return x + y


@app.task(shared=False)
def pool_process() -> int:
    """Id of the pool's process that ran it."""
    return os.getpid()


@app.task(shared=False)
def nap(seconds: float) -> str:
    print("napping", flush=True)
    time.sleep(seconds)
    return "rested"
