"""The live view: a table that redraws itself, or plain lines where nobody watches."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from governor.clock import SECOND, as_datetime
from governor.demo.stats import UpstreamStats
from governor.demo.watch import Progress

_LINE_EVERY_SECONDS = 2.0


class View:
    """Shows a run's progress on a console while it is entered as a context."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._started = time.monotonic()
        self._last_line = -_LINE_EVERY_SECONDS
        self._last_stage = ""

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        """Draw the run as it stands."""
        elapsed = time.monotonic() - self._started
        if self._live is not None:
            self._live.update(table(progress, elapsed, time.time_ns() // 1000), refresh=True)
            return
        due = elapsed - self._last_line >= _LINE_EVERY_SECONDS
        if due or progress.stage != self._last_stage:
            self._last_line, self._last_stage = elapsed, progress.stage
            self._console.print(line(progress, elapsed), soft_wrap=True, highlight=False)


def table(progress: Progress, elapsed: float, now: int) -> RenderableType:
    """The whole view. ``elapsed`` in seconds, ``now`` in wall-clock microseconds."""
    rows = Table(box=None, pad_edge=False, header_style="bold")
    rows.add_column("upstream")
    for title in ("admitted", "waiting", "until", "throttled", "dead"):
        rows.add_column(title, justify="right")
    rows.add_column("finished")
    rows.add_column("", justify="right")
    for name, planned in sorted(progress.planned.items()):
        counts = progress.stats.upstreams.get(name, UpstreamStats())
        dead = progress.dead.get(name, 0)
        finished = progress.finished.get(name, 0)
        rows.add_row(
            Text(name, style="cyan"),
            str(counts.admitted),
            str(counts.waiting),
            until(counts.next_slot if counts.waiting else None, now),
            Text(str(counts.throttled), style="yellow" if counts.throttled else ""),
            Text(str(dead), style="red" if dead else ""),
            ProgressBar(total=planned, completed=finished, width=24),
            f"{finished}/{planned}",
        )
    total = sum(progress.planned.values())
    head = Text(f"{progress.stage}: published {progress.published} of {total}, {elapsed:.0f} s")
    return Group(head, rows)


def line(progress: Progress, elapsed: float) -> str:
    """The view on one line."""
    parts = [f"{elapsed:5.1f} s  {progress.stage}"]
    for name, planned in sorted(progress.planned.items()):
        counts = progress.stats.upstreams.get(name, UpstreamStats())
        parts.append(
            f"{name} {progress.finished.get(name, 0)}/{planned} (waiting {counts.waiting}, "
            f"throttled {counts.throttled}, dead {progress.dead.get(name, 0)})"
        )
    return "  ".join(parts)


def until(slot: int | None, now: int) -> str:
    """Say when the next waiting task runs: seconds from now, or the local time if it is long."""
    if slot is None:
        return "-"
    wait = max(0, slot - now)
    if wait < 60 * SECOND:
        return f"{wait / SECOND:.1f} s"
    local: datetime = as_datetime(slot).astimezone()
    return f"{local:%H:%M:%S}"
