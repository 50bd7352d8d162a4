"""Outages of the limiter store that a worker knows of, for all upstreams or for one."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from governor.clock import SECOND, Clock
from governor.errors import StoreUnavailable, UpstreamStateError
from governor.events import Emitter, StoreAway, StoreBack
from governor.log_lines import LOG

ASK_AGAIN = SECOND
"""How long a store that did not answer is not asked: each question would block for its timeout."""

_OVER = 10 * ASK_AGAIN
"""An upstream's data that did not fail for so long failed in another outage."""


class StoreOutage:
    """Outages that one worker has met: when to ask again, and one line in the log for each.

    No reply concerns every upstream. A reply that says that an upstream's data cannot be used
    concerns that upstream, or only the bucket or the claim that it names.

    Attributes:
        back: called when an outage that concerned every upstream is over.
    """

    def __init__(self, clock: Clock, events: Emitter) -> None:
        self._clock = clock
        self._events = events
        self._away = False
        self._until = 0
        self._broken: dict[tuple[str, str], int] = {}
        self._began: dict[str, int] = {}
        self.back: Callable[[], object] = lambda: None

    def until(self, upstream: str, parts: Iterable[str] = ()) -> int:
        """Find the monotonic microseconds before which the store is not asked about the upstream.

        Args:
            parts: the buckets and the claim that the question is about.
        """
        if not self._broken:
            return self._until
        found = (self._broken.get((upstream, part), 0) for part in ("", *parts))
        return max(self._until, *found)

    def on(self, upstream: str, parts: Iterable[str] = ()) -> bool:
        """Tell whether the store gave no answer about the upstream when it was last asked."""
        if self._away or not self._broken:
            return self._away
        return any((upstream, part) in self._broken for part in ("", *parts))

    def failed(self, exc: StoreUnavailable) -> None:
        """Note that the store did not answer, or not about one upstream."""
        now = self._clock.monotonic()
        if isinstance(exc, UpstreamStateError):
            self._answers()
            part = exc.upstream, exc.part
            last = self._broken.get(part)
            self._broken[part] = now + ASK_AGAIN
            if last is None or now - last > _OVER:
                LOG.error("%s Until then the upstream's store_down holds for it", exc)
                self._tell_away(exc.upstream, exc)
            return
        self._until = now + ASK_AGAIN
        if not self._away:
            self._away = True
            LOG.error("%s Until it does, each upstream's store_down holds", exc)
            self._tell_away("", exc)

    def answered(self, upstream: str, parts: Iterable[str] = ()) -> None:
        """Note that the store answered about this upstream and these parts."""
        self._answers()
        if self._broken:
            over = [self._broken.pop((upstream, part), None) for part in ("", *parts)]
            if any(over):
                LOG.warning("The limiter store's data of %s can be used again", upstream)
                if not any(broken == upstream for broken, _ in self._broken):
                    self._tell_back(upstream)

    def _answers(self) -> None:
        if self._away:
            self._away = False
            LOG.warning("The limiter store answers again")
            self._tell_back("")
            self.back()

    def _tell_away(self, upstream: str, exc: StoreUnavailable) -> None:
        if upstream not in self._began:
            self._began[upstream] = self._clock.monotonic()
            if self._events.listeners:
                error = type(exc.__cause__ or exc).__name__
                self._events.emit(StoreAway(self._clock.wall(), upstream, error))

    def _tell_back(self, upstream: str) -> None:
        began = self._began.pop(upstream, None)
        if began is not None and self._events.listeners:
            away = self._clock.monotonic() - began
            self._events.emit(StoreBack(self._clock.wall(), upstream, away))
