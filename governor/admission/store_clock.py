"""The store's clock as this process sees it.

An answer says when it was given, and the process knows when it asked and when it heard. How far
the two clocks are apart is therefore known within two bounds, which lie far from each other when
the answer was long on its way, or the process stood still meanwhile. The quickest answer so far
decides between them, as in NTP's clock filter (RFC 5905, section 10): otherwise a slot would come
as much too late as its answer, and its call would be made beside others that are due by then.
"""

from __future__ import annotations


class StoreClock:
    """Offsets between the monotonic clock and those of the servers which keep the upstreams."""

    def __init__(self) -> None:
        self._offsets: dict[str, int] = {}

    def offset(self, upstream: str, asked: int, now: int, heard: int) -> int:
        """Return the microseconds to add to an instant of the store for one of this process.

        It is never so little that a slot would come early, unless a clock was set since the
        last answer: then by as much as an answer takes.

        Args:
            asked: monotonic microseconds before the question.
            now: the store's instant in the answer.
            heard: monotonic microseconds after it.
        """
        least, most = asked - now, heard - now
        known = self._offsets.get(upstream, most)
        offset = self._offsets[upstream] = min(most, max(least, known))
        return offset

    def of_store(self, upstream: str, moment: int) -> int | None:
        """Convert a monotonic instant to one of the store; ``None`` before its first answer."""
        offset = self._offsets.get(upstream)
        return None if offset is None else moment - offset
