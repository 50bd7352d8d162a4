"""The adaptive rate of an upstream: additive increase, multiplicative decrease.

Only *dropped* outcomes (throttled, timed out, failed on the other side) lower the rate; only a
pressed limit, one that has made somebody wait since, lets it grow again, because without waiting
calls nothing shows that more would be accepted. The number proposed here is a share of the
declared rate; the limits enforce it.

Source: AIMD as in Netflix's concurrency-limits (``AIMDLimit``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from governor.clock import SECOND

WHOLE = 1024
"""The declared rate. Shares are whole 1,024ths, so that the store needs no fractions."""

_APART = SECOND
"""At most one cut and one step of growth a second: what happens at once has one cause."""


@dataclass(frozen=True, slots=True)
class AdaptivePolicy:
    """How the rate moves.

    Attributes:
        floor: the smallest share, in 1,024ths of the declared rate.
        cut: what a drop leaves of the share, in 1,024ths.
        step: what a second of growth adds to it, in 1,024ths.
    """

    floor: int
    cut: int
    step: int


@dataclass(frozen=True, slots=True)
class Share:
    """The share of the declared rate in force.

    Attributes:
        share: in 1,024ths.
        cut_at: when it was lowered last.
        grown_at: when it grew last.
        pressed: whether a call has had to wait since.
    """

    share: int = WHOLE
    cut_at: int = 0
    grown_at: int = 0
    pressed: bool = False

    def interval(self, interval: int) -> int:
        """A limit's interval at this share, rounded up."""
        return -(-interval * WHOLE // self.share)

    def dropped(self, policy: AdaptivePolicy, now: int) -> Share:
        """After a call was dropped by the upstream."""
        if self.share < WHOLE and now - self.cut_at < _APART:
            return self
        return Share(max(policy.floor, self.share * policy.cut // WHOLE), now, now)

    def grown(self, policy: AdaptivePolicy, now: int) -> Share:
        """After calls have succeeded."""
        if not self.pressed or now - self.grown_at < _APART:
            return self
        share = self.share + policy.step
        return Share() if share >= WHOLE else Share(share, self.cut_at, now)

    def waited(self) -> Share:
        """After a call had to wait for a limit."""
        return self if self.share == WHOLE else replace(self, pressed=True)


def written(share: Share) -> str:
    """The text a store keeps; empty for the whole declared rate."""
    if share.share == WHOLE:
        return ""
    return f"{share.share}|{share.cut_at}|{share.grown_at}|{int(share.pressed)}"


def read(text: str) -> Share:
    """The share of a text that :func:`written` made."""
    if not text:
        return Share()
    share, cut_at, grown_at, pressed = map(int, text.split("|"))
    return Share(share, cut_at, grown_at, bool(pressed))
