"""A worker's knowledge of its upstreams, from the store's answers; changes of it are events."""

from __future__ import annotations

from governor.clock import Clock
from governor.events import BreakerMoved, Emitter, StateLost, UpstreamPaused
from governor.policy.breaker import BreakerState
from governor.policy.decision import Wait
from governor.policy.settlement import Settled

_SOONER_US = 1_000
"""A pause that ends so little later than the one known is the same."""


class KnownUpstreams:
    """Pauses, breakers and ages of upstreams, as one worker has heard of them. Of use only to
    listeners: without one nothing is noted."""

    def __init__(self, events: Emitter, clock: Clock) -> None:
        self._events = events
        self._clock = clock
        self._paused: dict[str, int] = {}
        self._breakers: dict[str, BreakerState] = {}
        self._since: dict[str, int] = {}

    def settled(self, upstream: str, answer: Settled) -> None:
        """Note what the answer to a settlement says."""
        if not self._events.listeners:
            return
        since = self._since.setdefault(upstream, answer.since)
        if answer.since > since:
            self._since[upstream] = answer.since
            self._events.emit(StateLost(self._clock.wall(), upstream))
        self._pause(upstream, answer.now, answer.pause)
        self._breaker(upstream, answer.breaker)

    def told_to_wait(self, upstream: str, answer: Wait) -> None:
        """Note why a task has to wait."""
        if not self._events.listeners:
            return
        if answer.limit == "breaker":
            # A half-open breaker makes all wait but its probes.
            if self._breakers.get(upstream) != "half_open":
                self._breaker(upstream, "open")
        elif answer.paused:
            self._pause(upstream, answer.now, answer.until)

    def probes(self, upstream: str) -> None:
        """Note that a call is a probe of the upstream's breaker."""
        if self._events.listeners:
            self._breaker(upstream, "half_open")

    def _pause(self, upstream: str, now: int, until: int) -> None:
        if until > max(now, self._paused.get(upstream, 0) + _SOONER_US):
            self._paused[upstream] = until
            wall = self._clock.wall()
            self._events.emit(UpstreamPaused(wall, upstream, wall + until - now))

    def _breaker(self, upstream: str, after: BreakerState) -> None:
        before = self._breakers.get(upstream, "closed")
        self._breakers[upstream] = after
        if before != after:
            self._events.emit(BreakerMoved(self._clock.wall(), upstream, before, after))
