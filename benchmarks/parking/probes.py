"""Instruments of the parts: a fast producer, the bodies' stamps, and what a process takes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fleet import Fleet
from governor.testing.child_process import ChildProcess

_ID = "00000000-0000-4000-8000-{:012x}"
"""Task ids as long as any, that say which number a task has."""

_AT_ONCE = 500


class Messages:
    """Publishes one task again and again, many in one command: Celery makes the message once, and
    only its ids are different.

    Args:
        priority: as Redis knows it: 0 is the most urgent, and the default.
        options: of ``apply_async``.
    """

    def __init__(
        self, fleet: Fleet, task: str, *args: str, priority: int = 0, **options: Any
    ) -> None:
        self._redis = fleet.redis
        fleet.app.tasks[task].apply_async(
            args, task_id=task_id(0), queue="template", priority=priority, **options
        )
        (key,) = self._redis.keys("template*")
        text: str = self._redis.rpop(key).decode()
        self._text = text.replace('"routing_key": "template"', '"routing_key": "celery"')
        _, _, rest = self._text.partition('"delivery_tag": "')
        self._tag = rest.partition('"')[0]
        self.key = key.decode().replace("template", "celery")

    def send(self, numbers: Sequence[int], *, to: str = "") -> float:
        """Publish so many; the monotonic moment at which that began."""
        began = time.monotonic()
        for at in range(0, len(numbers), _AT_ONCE):
            some = [self._one(number) for number in numbers[at : at + _AT_ONCE]]
            self._redis.lpush(to or self.key, *some)
        return began

    def _one(self, number: int) -> str:
        name = task_id(number)
        return self._text.replace(task_id(0), name).replace(self._tag, name)


@dataclass(frozen=True, slots=True)
class Stamp:
    """One body began."""

    at: float
    number: int
    tenant: str


class Stamps:
    """The stamps that bodies wrote, read as they grow."""

    def __init__(self, fleet: Fleet) -> None:
        self._path = Path(fleet.settings.folder) / "stamps"
        self._read = 0
        self._rest = ""
        self.all: list[Stamp] = []

    def look(self) -> int:
        """Read on; how many there are by now."""
        if self._path.exists():
            with self._path.open() as file:
                file.seek(self._read)
                text = file.read()
                self._read = file.tell()
            *lines, self._rest = (self._rest + text).split("\n")
            self.all += map(_stamp, lines)
        return len(self.all)

    def span(self) -> float:
        """Seconds from the first to the last."""
        moments = [stamp.at for stamp in self.all]
        return max(moments) - min(moments) if moments else 0.0

    def most_in(self, seconds: float) -> int:
        """The most that began within a span of so many seconds, wherever it began."""
        moments = sorted(stamp.at for stamp in self.all)
        most = first = 0
        for last, moment in enumerate(moments):
            while moment - moments[first] >= seconds:
                first += 1
            most = max(most, last - first + 1)
        return most


def _stamp(line: str) -> Stamp:
    at, task, tenant = line.split(" ")
    return Stamp(float(at), number_of(task), tenant)


def task_id(number: int) -> str:
    """The id of the task with this number."""
    return _ID.format(number)


def number_of(task_id: str) -> int:
    """The number of the task with this id."""
    return int(task_id.rpartition("-")[2], 16)


def inversions(numbers: Sequence[int]) -> int:
    """Count the numbers that came after a later one."""
    highest, found = -1, 0
    for number in numbers:
        found += number < highest
        highest = max(highest, number)
    return found


def resident(process: ChildProcess) -> float:
    """Megabytes of memory of a process, without its children."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("The process does not run")


def processor_seconds(process: ChildProcess) -> float:
    """Seconds that a process and its children have computed so far."""
    total = 0
    for pid in (process.pid, *_children(process.pid)):
        for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            total += int(thread.read_text().split()[0])
    return total / 1e9


def _children(pid: int) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        yield from map(int, path.read_text().split())


def rounded(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures with as many digits as mean something."""
    return {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in figures.items()
    }
