"""Rates: what may be declared, and how long calls take at one."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governor.errors import DeclarationError
from governor.policy.rate import Rate

DAY = 86_400_000_000


@pytest.mark.parametrize(
    ("text", "interval", "normal"),
    [
        ("100/s", 10_000, "100/s"),  # whole calls a second
        ("1.9/s", 526_316, "1.9/s"),  # fractional: 526315.79 µs rounds up, never down
        ("3/s", 333_334, "3/s"),  # a third of a second has no whole microseconds: up
        ("600/min", 100_000, "600/min"),  # per minute, short name
        ("600/m", 100_000, "600/min"),  # Celery's letter for a minute
        ("600/minute", 100_000, "600/min"),  # in words
        ("600/minutes", 100_000, "600/min"),  # plural
        ("5000/h", 720_000, "5000/h"),  # per hour
        ("5000/hours", 720_000, "5000/h"),  # in words
        ("10/day", 8_640_000_000, "10/day"),  # per day
        ("10/d", 8_640_000_000, "10/day"),  # per day, one letter
        ("100/10s", 100_000, "100/10s"),  # per several seconds, as some APIs publish it
        ("1/2 days", 2 * DAY, "1/2day"),  # per several days
        ("100/60s", 600_000, "100/min"),  # sixty seconds are written as a minute
        (" 100 / Second ", 10_000, "100/s"),  # spaces and capitals do not matter
        ("0.50/s", 2_000_000, "0.5/s"),  # idle zeros disappear
        ("1000000/s", 1, "1000000/s"),  # the fastest rate that can be kept
        ("1/30days", 30 * DAY, "1/30day"),  # the slowest rate that can be kept
    ],
)
def test_a_rate_is_read_exactly(text: str, interval: int, normal: str) -> None:
    """A declared rate gives the exact interval rounded up, and one normal form."""
    rate = Rate.parse(text)
    assert rate.interval() == interval
    assert str(rate) == normal
    assert Rate.parse(str(rate)) == rate


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (100, "100 does not say per what"),  # a bare number
        (1.5, "does not say per what"),  # a bare float
        (True, "does not say per what"),  # a flag
        (None, "does not say per what"),  # nothing
        ("100", "is not a rate"),  # a number in a text
        ("/s", "is not a rate"),  # no count
        ("100/", "is not a rate"),  # no unit
        ("100/fortnight", "'fortnight' is not a unit of time"),  # unknown unit
        ("0/s", "never allows a call"),  # zero
        ("0.0/s", "never allows a call"),  # zero with a point
        ("5/0s", "never allows a call"),  # an empty period
        ("-1/s", "is not a rate"),  # negative
        ("nan/s", "is not a rate"),  # not a number
        ("inf/s", "is not a rate"),  # infinite
        ("1e3/s", "is not a rate"),  # exponents are not how quotas are published
        ("١٠/s", "is not a rate"),  # digits of another script
        ("1000001/s", "faster than 1000000/s"),  # an interval below a microsecond
        ("1/31days", "slower than one call in 30 days"),  # hardly a rate
        ("9" * 5000 + "/s", "is not a rate"),  # absurdly long: refused unread
    ],
)
def test_what_is_no_rate_is_refused(text: object, complaint: str) -> None:
    """What cannot be kept is refused at declaration, naming the field and the remedy."""
    with pytest.raises(DeclarationError) as refused:
        Rate.parse(text)
    assert refused.value.field == "rate"
    assert complaint in refused.value.problem
    assert refused.value.remedy
    assert len(str(refused.value)) < 300


def test_a_negative_cost_is_refused() -> None:
    """No call gives time back."""
    with pytest.raises(DeclarationError, match="cost"):
        Rate.parse("1/s").interval(-1)


rates = st.builds(
    Rate,
    st.fractions(min_value=1, max_value=1_000, max_denominator=997),
    st.integers(min_value=1_000, max_value=DAY),
)


@given(rates, st.integers(0, 10**6))
def test_never_faster_than_declared_and_never_a_microsecond_slower(rate: Rate, cost: int) -> None:
    """interval(cost) is the exact duration, rounded up to the next whole microsecond."""
    exact = cost * rate.period / rate.count
    assert rate.interval(cost) == math.ceil(exact)


@given(rates, st.integers(0, 10**6), st.integers(0, 10**6))
def test_splitting_a_cost_never_makes_it_faster(rate: Rate, one: int, other: int) -> None:
    """Two calls of cost a and b together take at least as long as one of cost a + b."""
    assert rate.interval(one) + rate.interval(other) >= rate.interval(one + other)


@given(
    st.decimals(min_value="0.04", max_value="9999", places=2),
    st.sampled_from(["s", "min", "h", "day", "10s", "7min"]),
)
def test_the_normal_form_reads_back(count: object, unit: str) -> None:
    """parse(str(rate)) is the same rate."""
    rate = Rate.parse(f"{count}/{unit}")
    assert Rate.parse(str(rate)) == rate


def test_a_rate_that_was_computed_has_a_readable_form() -> None:
    """A count without an end in decimals is shown to six places."""
    assert str(Rate(Fraction(1, 3), 1_000_000)) == "0.333333/s"
