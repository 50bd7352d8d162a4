"""Several processes at once, and processes on one core."""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol


class Barrier(Protocol):
    """A barrier at which processes wait for each other."""

    def wait(self, timeout: float | None = None) -> int: ...

    def abort(self) -> None: ...


Work = Callable[[int, Barrier], Any]


def together(count: int, work: Work, *, timeout: float) -> list[Any]:
    """Run ``work(number, barrier)`` in forked processes; what each returned.

    Fork before any connection is made and any thread started.

    Raises:
        RuntimeError: one of them failed; carries its traceback.
        TimeoutError: they took longer than ``timeout`` seconds.
    """
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(count)
    running: list[tuple[BaseProcess, Connection]] = []
    deadline = time.monotonic() + timeout
    try:
        for number in range(count):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_run, args=(theirs, barrier, work, number))
            process.start()
            theirs.close()
            running.append((process, ours))
        found = [_result(pipe, deadline) for _, pipe in running]
        failures = [words for fine, words in found if not fine]
        if failures:
            # The first to fail breaks the barrier of the others, which say only that.
            failures.sort(key=lambda words: "BrokenBarrierError" in words)
            raise RuntimeError(f"A process of the benchmark failed:\n{failures[0]}")
        return [value for _, value in found]
    finally:
        for process, pipe in running:
            process.join(1)
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()


def _run(pipe: Connection, barrier: Barrier, work: Work, number: int) -> None:
    try:
        pipe.send((True, work(number, barrier)))
    except BaseException:
        barrier.abort()
        pipe.send((False, traceback.format_exc()))


def _result(pipe: Connection, deadline: float) -> tuple[bool, Any]:
    if not pipe.poll(max(0.0, deadline - time.monotonic())):
        raise TimeoutError("A process of the benchmark did not end in time")
    try:
        fine, value = pipe.recv()
    except EOFError:
        return False, "It died"
    return bool(fine), value


@contextmanager
def one_core(*pids: int) -> Iterator[bool]:
    """This process and those of ``pids`` on one core; whether this system can do that.

    Two cores hand work to each other at a price that depends on the machine; on one core a round
    trip costs what both sides compute.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield False
        return
    before = {pid: os.sched_getaffinity(pid) for pid in (0, *pids)}
    try:
        for pid, cores in before.items():
            os.sched_setaffinity(pid, {max(cores)})
        yield True
    finally:
        for pid, cores in before.items():
            os.sched_setaffinity(pid, cores)
