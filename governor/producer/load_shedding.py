"""Load is shed at the door: what would wait too long is refused before it is published."""

from __future__ import annotations

from governor.clock import SECOND, Clock
from governor.errors import Overloaded, StoreUnavailable
from governor.events import Emitter, LoadShed
from governor.log_lines import LOG
from governor.policy.upstream import UpstreamDeclaration
from governor.ports import LimiterStore

_GOOD_FOR = SECOND // 4
"""Microseconds for which a producer believes what it has seen of a parking lot."""


class LoadShedding:
    """A producer's look at the parking lots of upstreams that declare ``max_waiting``, by which it
    refuses tasks."""

    def __init__(self, store: LimiterStore, clock: Clock, events: Emitter) -> None:
        self._store = store
        self._clock = clock
        self._events = events
        self._seen: dict[str, tuple[int, int, float | None]] = {}

    def check(self, upstream: UpstreamDeclaration, task: str) -> None:
        """Let one more task of this type in. While the store does not answer every task is let in.

        Raises:
            Overloaded: too many wait.
        """
        if upstream.max_waiting is None:
            return
        waiting, drain = self._look(upstream.name)
        if waiting >= upstream.max_waiting:
            bound = "max_waiting"
        elif drain is not None and drain * SECOND > upstream.max_wait:
            bound = "max_wait"
        else:
            return
        if self._events.listeners:
            wall = self._clock.wall()
            self._events.emit(LoadShed(wall, upstream.name, task, waiting, bound))
        raise Overloaded(upstream.name, waiting, drain, bound)

    def _look(self, upstream: str) -> tuple[int, float | None]:
        now = self._clock.monotonic()
        seen = self._seen.get(upstream)
        if seen is None or now - seen[0] >= _GOOD_FOR:
            waiting, drain = 0, None
            try:
                waiting, released, span = self._store.lots.waiting(upstream)
            except StoreUnavailable as exc:
                LOG.warning("%s It is not known how many wait for %s", exc, upstream)
            else:
                drain = waiting * span / (released * SECOND) if released else None
            seen = self._seen[upstream] = (now, waiting, drain)
        return seen[1], seen[2]
