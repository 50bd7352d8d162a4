"""The four numbers of a limit, by tables that can be checked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from governor.clock import SECOND
from governor.policy import gcra
from governor.policy.adaptive import Share
from governor.policy.admission import Bucket, Leases, Meter, UpstreamState
from governor.policy.decision import AnyCharge, Charge, LeaseCharge, QuotaCharge, WindowCharge
from governor.policy.limit_status import LimitStatus, numbers
from governor.policy.quota import Period
from governor.policy.window import Log

HALF = SECOND // 2
LONG_AGO = -(10**12)
NOW = 1_000 * SECOND


def status(charge: AnyCharge, meter: Meter | None, **state: Any) -> LimitStatus:
    meters = {} if meter is None else {charge.bucket: meter}
    return numbers(charge, UpstreamState(**{"since": LONG_AGO, "meters": meters, **state}), NOW)


def of(cost: int) -> Charge:
    """A call on a bucket of two a second with a burst of four."""
    return Charge("s", "2/s", cost * HALF, 4 * HALF, cost)


# seconds since the beginning, the cost of a call, whether it goes; then of a call of cost 1: how
# many are left, when one goes, when all are there again, in half seconds
TWO_A_SECOND = [
    # more than the burst never goes, and takes nothing
    (0.0, 5, False, 4, None, 0),
    # each call takes one, which is back half a second later
    (0.0, 1, True, 3, None, 1),
    (0.0, 1, True, 2, None, 2),
    # a call of two takes two
    (0.0, 2, True, 0, 1, 4),
    # nothing is left: the next one goes in half a second
    (0.0, 1, False, 0, 1, 4),
    # half a second later there is one
    (0.5, 0, True, 1, None, 3),
    (0.5, 1, True, 0, 1, 4),
    # in between there is none to be had, and the wait is shorter
    (0.75, 0, True, 0, 0.5, 3.5),
    # two are there, three are not
    (1.75, 3, False, 2, None, 1.5),
    # asking takes nothing
    (1.75, 0, True, 2, None, 1.5),
    # after a silence everything is there, and no more
    (60.0, 0, True, 4, None, 0),
    (60.0, 4, True, 0, 1, 4),
]


def test_a_bucket() -> None:
    """A bucket has its burst, what is left of it, and when one and all of it are back."""
    tat = 0
    for seconds, cost, goes, left, one, all_ in TWO_A_SECOND:
        now = int(seconds * SECOND)
        went = gcra.earliest(tat, now, cost * HALF, 4 * HALF) == now
        assert went is goes, (seconds, cost)
        if went and cost:
            tat = gcra.pour(tat, now, cost * HALF)
        state = UpstreamState(LONG_AGO, meters={"s": Bucket(tat)})
        retry = None if one is None else int(one * HALF)
        assert numbers(of(1), state, now) == LimitStatus(4, left, retry, int(all_ * HALF)), seconds


# charge, its meter, the upstream, the four numbers
OTHERS: list[tuple[AnyCharge, Meter | None, dict[str, Any], LimitStatus]] = [
    # a call of three waits until three are there
    (of(3), Bucket(NOW + 2 * HALF), {}, LimitStatus(4, 2, HALF, 2 * HALF)),
    # the fastest bucket there is: one call each microsecond
    (Charge("s", "1000000/s", 1, 4), Bucket(NOW + 1), {}, LimitStatus(4, 3, None, 1)),
    # an upstream that the store has only just seen has its burst used up
    (of(1), None, {"since": NOW}, LimitStatus(4, 0, HALF, 4 * HALF)),
    # at half the rate half as many are left, and a call takes twice as long
    (of(1), Bucket(NOW + 2 * HALF), {"share": Share(512)}, LimitStatus(2, 1, None, 2 * HALF)),
    # a window of three in ten seconds, with nothing in it
    (WindowCharge("w", "w", 3, 10), None, {}, LimitStatus(3, 3, None, 0)),
    # used up: one goes when the oldest has left, all are back when the latest has
    (
        WindowCharge("w", "w", 3, 10),
        Log((NOW - 8, NOW - 5, NOW - 1)),
        {},
        LimitStatus(3, 0, 2, 9),
    ),
    # one has left
    (WindowCharge("w", "w", 3, 10), Log((NOW - 10, NOW - 5)), {}, LimitStatus(3, 2, None, 5)),
    # a quota of five, of which two are used: all are back when the period ends
    (
        QuotaCharge("q", "q", 5, "day", "UTC", bounds=(0, NOW - 10, NOW + 10, NOW + 30)),
        Period(NOW + 10, 2),
        {},
        LimitStatus(5, 3, None, 10),
    ),
    # used up
    (
        QuotaCharge("q", "q", 5, "day", "UTC", bounds=(0, NOW - 10, NOW + 10, NOW + 30)),
        Period(NOW + 10, 5),
        {},
        LimitStatus(5, 0, 10, 10),
    ),
    # two leases, one of them held, and one that has ended
    (LeaseCharge("l", "l", 2), Leases({"a": NOW + 5, "b": NOW}), {}, LimitStatus(2, 1, None, 5)),
    # both held: one is free when the first ends, both when the second does
    (LeaseCharge("l", "l", 2), Leases({"a": NOW + 5, "b": NOW + 9}), {}, LimitStatus(2, 0, 5, 9)),
]


@pytest.mark.parametrize(("charge", "meter", "state", "found"), OTHERS)
def test_the_four_numbers(
    charge: AnyCharge, meter: Meter | None, state: dict[str, Any], found: LimitStatus
) -> None:
    """A limit of any kind has the same four numbers; an absent one is ``None``."""
    assert status(charge, meter, **state) == found
