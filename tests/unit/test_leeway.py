"""How late a call may be made that waited for a full bucket."""

from __future__ import annotations

import heapq
from itertools import combinations
from random import Random

import pytest

from governor import Upstream
from governor.admission.call import Call
from governor.clock import SECOND
from governor.messages.header import Header
from governor.policy.decision import Admit, Ask, Charge, Reservation, Wait
from governor.policy.plan import CallPlan
from governor.policy.settlement import Settlement
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock

MS = SECOND // 1_000
GRACE = 50 * MS
PLAN = CallPlan.of("task", Upstream("api"))

# interval and capacity in milliseconds, whether the bucket is full at the slot, leeway
LEEWAYS = [
    # as long as the burst lasts, but for the call itself
    (10, 200, True, 190),
    # no burst
    (100, 100, True, 0),
    # the burst may be used beside it
    (10, 200, False, 0),
]


@pytest.mark.parametrize(("interval", "capacity", "full", "leeway"), LEEWAYS)
def test_leeways(interval: int, capacity: int, full: bool, leeway: int) -> None:
    """A held call may be late for as long as the burst of a full bucket lasts."""
    charge = Charge("s", "limit", interval * MS, capacity * MS)
    assert Call(PLAN, (charge,), Header(), full=full).leeway == leeway * MS


@pytest.mark.parametrize("seed", range(100))
def test_calls_that_use_their_leeway_are_no_more_than_the_bound(seed: int) -> None:
    """Held calls, late by the whole leeway or in time, beside new ones, tasks that come back from a
    line or never do, and pauses: in no window are there more than the burst, the rate and the
    grace allow."""
    random, clock = Random(seed), FakeClock()
    store = MemoryStore(clock.monotonic)
    charge = Charge("s", "limit", 10 * MS, 200 * MS)
    coming: list[tuple[int, int, tuple[Reservation, ...]]] = []
    number, now = 0, 0
    for _ in range(60):
        now += random.choice([0, 0, 5, 20, 400]) * MS
        for _ in range(random.choice([1, 1, 15])):
            coming.append((now, number := number + 1, ()))
    heapq.heapify(coming)
    calls = []
    worst = random.random() < 0.5
    while coming:
        at, _, reserved = heapq.heappop(coming)
        clock.advance(max(0, at - clock.now))
        if random.random() < 0.02:
            store.settle(Settlement("api", pause=random.choice([50, 300]) * MS))
        hold = random.choice([300 * MS, SECOND])
        answer = store.admit(
            Ask("api", (charge,), GRACE, hold, hold, 3600 * SECOND, reserved=reserved)
        )
        if isinstance(answer, Admit):
            calls.append(answer.slot + random.choice([0, GRACE]))
        elif isinstance(answer, Wait) and answer.full:
            leeway = max(GRACE, charge.capacity - charge.interval)
            calls.append(answer.until + (leeway if worst else random.choice([0, GRACE, leeway])))
        elif isinstance(answer, Wait) and (answer.charged or random.random() < 0.7):
            heapq.heappush(coming, (answer.until, number := number + 1, answer.reserved))
    calls.sort()
    for first, last in combinations(range(len(calls)), 2):
        made = last - first + 1
        span = calls[last] - calls[first]
        assert made * charge.interval <= charge.capacity + span + GRACE + charge.interval
