"""The arithmetic of the benchmarks, without servers: percentiles, ratios, rates, excess."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from statistics import median


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def ratio(turns: Sequence[Sequence[float]], base: Sequence[Sequence[float]]) -> float:
    """Compare with the base, turn by turn: the median over the rounds of the ratio of the
    medians of the two turns of one round. What slows a whole round cancels out."""
    return median(median(t) / median(b) for t, b in zip(turns, base, strict=True))


def excess(moments: Sequence[float], *, burst: float, rate: float, grace: float = 0.0) -> float:
    """The most calls over ``burst + rate × (W + grace)`` in any window W; at most 0 when the
    limit is kept. Moments are seconds."""
    best, found = -math.inf, -math.inf
    for index, moment in enumerate(sorted(moments)):
        # calls from i to j are j - i + 1, their window is moment[j] - moment[i]
        best = max(best, rate * moment - index)
        found = max(found, index + 1 - rate * moment + best)
    return found - burst - rate * grace


def delivered(moments: Sequence[float], *, rate: float, skip: float, seconds: float) -> float:
    """Calls in ``seconds``, as a share of what ``rate`` allows, once ``skip`` seconds have gone
    by since the first: a burst at the start is no rate. Moments are seconds."""
    if not moments:
        return 0.0
    start = min(moments) + skip
    return sum(start < moment <= start + seconds for moment in moments) / (rate * seconds)


def whole_window(rate: float) -> tuple[int, int]:
    """The shortest window of whole seconds that lets a whole number of calls through at this
    rate: ``(calls, seconds)``."""
    fraction = Fraction(rate).limit_denominator(3600)
    return fraction.numerator, fraction.denominator
