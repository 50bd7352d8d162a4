"""The circuit breaker of an upstream: closed, open, half-open.

Small immutable classes without timers; whoever holds one asks it with the time. Source of the
shape: failsafe-go's circuit states.

- **Closed** counts failures among the latest calls.
- **Open** lets nobody through until its time is over.
- **HalfOpen** lets one probe through. When it succeeds, two at once, then four, …: a ramp, so
  that the fleet does not fall upon an upstream that has only just come back. A probe that fails
  opens again, for twice as long.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from governor.policy.outcome import Outcome

MOST_DOUBLINGS = 4
"""A breaker whose probes keep failing stays open 16 times as long, not longer."""


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When the breaker opens, and how it closes again. Durations are microseconds.

    Attributes:
        failures: so many failures among the latest ``of`` calls open it.
        of: the latest calls that count.
        open_for: how long it stays open at first.
        ramp: it closes once so many calls at a time have succeeded.
        probe: how long a probe may take before it counts as lost.
    """

    failures: int
    of: int
    open_for: int
    ramp: int
    probe: int

    def opened(self, now: int, times: int) -> Open:
        """Open for the ``times``-th time in a row (the first is 1)."""
        return Open(now + (self.open_for << min(times - 1, MOST_DOUBLINGS)), times)


@dataclass(frozen=True, slots=True)
class Closed:
    """A breaker that lets calls pass.

    Attributes:
        ring: the latest outcomes, oldest first: ``0`` a success, ``1`` a failure. Empty when
            all of them were successes.
    """

    ring: str = ""

    def opens_at(self, now: int) -> int:
        """The first instant at which a call may pass."""
        return now

    def passed(self, policy: BreakerPolicy, now: int) -> Breaker:
        """The breaker after a call was let through."""
        return self

    def succeeded(self, policy: BreakerPolicy, number: int) -> Breaker:
        """The breaker after so many successes."""
        if not self.ring:
            return self
        ring = (self.ring + "0" * min(number, policy.of))[-policy.of :]
        return Closed(ring if "1" in ring else "")

    def failed(self, policy: BreakerPolicy, now: int) -> Breaker:
        """The breaker after a failure. Before the first, all calls are taken to have succeeded."""
        ring = ((self.ring or "0" * policy.of) + "1")[-policy.of :]
        if ring.count("1") >= policy.failures:
            return policy.opened(now, 1)
        return Closed(ring)


@dataclass(frozen=True, slots=True)
class Open:
    """A breaker that lets no call pass before ``until``.

    Attributes:
        times: how often in a row it has opened.
    """

    until: int
    times: int

    def opens_at(self, now: int) -> int:
        return max(now, self.until)

    def passed(self, policy: BreakerPolicy, now: int) -> Breaker:
        return HalfOpen(1, 1, 0, now + policy.probe, self.times)


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """A breaker that lets probes pass, a few at a time.

    Attributes:
        level: how many are let through at this step of the ramp.
        flying: how many of them have not been heard of.
        good: how many have succeeded.
        until: when those that were not heard of count as lost.
        times: how often in a row it has opened.
    """

    level: int
    flying: int
    good: int
    until: int
    times: int

    def opens_at(self, now: int) -> int:
        free = self.flying + self.good < self.level
        return now if free or self.until <= now else self.until

    def passed(self, policy: BreakerPolicy, now: int) -> Breaker:
        flying = 0 if self.until <= now else self.flying
        return replace(self, flying=flying + 1, until=now + policy.probe)

    def probed(self, policy: BreakerPolicy, now: int, outcome: Outcome) -> Breaker:
        """The breaker after a probe was heard of."""
        if outcome is Outcome.FAILED:
            return policy.opened(now, self.times + 1)
        if outcome is not Outcome.SUCCESS:
            return replace(self, flying=max(self.flying - 1, 0))
        good = self.good + 1
        if good < self.level:
            return replace(self, flying=max(self.flying - 1, 0), good=good)
        level = 2 * self.level
        if level > policy.ramp:
            return Closed()
        return HalfOpen(level, 0, 0, self.until, self.times)


Breaker = Closed | Open | HalfOpen

BreakerState = Literal["closed", "open", "half_open"]

STATES: tuple[BreakerState, ...] = ("closed", "open", "half_open")


def state_of(breaker: Breaker) -> BreakerState:
    """Name the state, for people and metrics."""
    match breaker:
        case Closed():
            return "closed"
        case Open():
            return "open"
        case HalfOpen():
            return "half_open"


def written(breaker: Breaker) -> str:
    """The text a store keeps; empty for a breaker that is closed and has seen no failure."""
    match breaker:
        case Closed(ring):
            return ring
        case Open(until, times):
            return f"o|{until}|{times}"
        case HalfOpen(level, flying, good, until, times):
            return f"h|{level}|{flying}|{good}|{until}|{times}"


def read(text: str) -> Breaker:
    """The breaker of a text that :func:`written` made."""
    kind, *numbers = text.split("|")
    match kind:
        case "o":
            return Open(*map(int, numbers))
        case "h":
            return HalfOpen(*map(int, numbers))
        case _:
            return Closed(text)


def settled(
    breaker: Breaker, policy: BreakerPolicy, now: int, outcome: Outcome, *, probe: bool
) -> Breaker:
    """The breaker after one outcome. What began before it opened says nothing any more."""
    match breaker:
        case Closed() if outcome is Outcome.FAILED:
            return breaker.failed(policy, now)
        case Closed() if outcome is Outcome.SUCCESS:
            return breaker.succeeded(policy, 1)
        case HalfOpen() if probe:
            return breaker.probed(policy, now, outcome)
        case _:
            return breaker
