"""One admission over all limits of an upstream: a table in the order in which it decides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governor.policy.admission import BURIED, DONE, Bucket, Effects, Leases, UpstreamState, decide
from governor.policy.breaker import BreakerPolicy, HalfOpen, Open
from governor.policy.decision import (
    Admit,
    AlreadyDone,
    Answer,
    Ask,
    Charge,
    ClaimAsk,
    LaneKey,
    LeaseCharge,
    OutcomeUnknown,
    Park,
    QuotaCharge,
    Refuse,
    Reservation,
    Stale,
    Wait,
)
from governor.policy.quota import LINE, Period

NOW = 1_000
S = Charge("s", "10/s", 10, 10)
"""One call each ten, none saved up."""

M = Charge("m", "1/s", 100, 100)
"""One call each hundred."""

L = LeaseCharge("l", "2 in flight", 2)
Q = QuotaCharge("q", "2 each day", 2, "day", "UTC", bounds=(-900, 0, NOW + 5, NOW + 105))
CLAIM = ClaimAsk("task", 0, "m1", "mine", lease=30, keep=500)
BREAKER = BreakerPolicy(failures=2, of=4, open_for=50, ramp=4, probe=20)
LANE = LaneKey("group", "lane")
PATIENT = Ask("api", (), grace=5, hold=60, linger=80, max_wait=10_000, holder="me", lease=30)
FRESH = UpstreamState(since=0)


def asked(*charges: Any, **more: Any) -> Ask:
    return replace(PATIENT, charges=charges, **more)


def paid(bucket: str, slot: int) -> Reservation:
    return Reservation(bucket, slot, True)


def lined(bucket: str, slot: int) -> Reservation:
    return Reservation(bucket, slot, False)


def meters(**of: Any) -> UpstreamState:
    return replace(FRESH, meters=of)


FULL = Bucket(NOW + 10)
"""Of ``S``: a call was just made, the next may go in ten."""

# the question, the upstream, the answer, what is written
TABLE: list[tuple[Ask, UpstreamState, Answer, Effects]] = [
    # --- the version of the limits comes first: nothing else is looked at
    (asked(S, claim=CLAIM), replace(FRESH, version=1, claim=DONE), Stale(NOW), Effects()),
    # --- then the claim: this message has run to its end
    (asked(S, claim=CLAIM), replace(FRESH, claim=DONE), AlreadyDone(NOW), Effects()),
    # an execution of it is dead
    (asked(S, claim=CLAIM), replace(FRESH, claim=BURIED), OutcomeUnknown(NOW), Effects()),
    # another delivery runs: wait for what its lease says
    (
        asked(S, claim=CLAIM),
        replace(FRESH, claim=f"other|{NOW + 7}"),
        Wait(NOW, NOW + 7, "claim"),
        Effects(),
    ),
    # its lease is over: nobody knows what became of it, and it is never begun again
    (
        asked(S, claim=CLAIM),
        replace(FRESH, claim=f"other|{NOW}"),
        OutcomeUnknown(NOW),
        Effects(claim=BURIED),
    ),
    # one's own claim is no obstacle, and is renewed by the admission
    (
        asked(claim=CLAIM),
        replace(FRESH, claim=f"mine|{NOW}"),
        Admit(NOW, NOW),
        Effects(claim=f"mine|{NOW + 30}"),
    ),
    # --- then the parking lot: one that would be parked goes behind those that are
    (asked(S, lane=LANE), replace(FRESH, queued=True), Park(NOW), Effects()),
    # and gives its claim back
    (
        asked(S, lane=LANE, claim=CLAIM),
        replace(FRESH, queued=True, claim=f"mine|{NOW + 9}"),
        Park(NOW),
        Effects(claim=""),
    ),
    # one that holds a slot does not
    (
        asked(S, lane=LANE, reserved=(paid("s", NOW),)),
        replace(meters(s=FULL), queued=True),
        Admit(NOW, NOW),
        Effects(),
    ),
    # --- then the pause: an upstream without limits is waited for, and nothing is reserved
    (
        asked(),
        replace(FRESH, pause=NOW + 20),
        Wait(NOW, NOW + 20, "pause", paused=True),
        Effects(),
    ),
    # a slot behind it is charged
    (
        asked(S),
        replace(FRESH, pause=NOW + 20),
        Wait(NOW, NOW + 20, "10/s", (paid("s", NOW + 20),), charged=True, paused=True),
        Effects({"s": Bucket(NOW + 30)}),
    ),
    # a paused key is waited for like an upstream
    (
        asked(not_before=NOW + 20),
        FRESH,
        Wait(NOW, NOW + 20, "pause", paused=True),
        Effects(),
    ),
    # --- then the breaker: while it is open nobody spends anything
    (
        asked(S, breaker=BREAKER),
        replace(FRESH, breaker=Open(NOW + 20, 1)),
        Wait(NOW, NOW + 20, "breaker", paused=True),
        Effects(),
    ),
    # when its time is over, one call is let through as a probe
    (
        asked(breaker=BREAKER),
        replace(FRESH, breaker=Open(NOW, 1)),
        Admit(NOW, NOW, probe=True),
        Effects(breaker=HalfOpen(1, 1, 0, NOW + 20, 1)),
    ),
    # the next one waits until that is heard of, and may be woken before
    (
        asked(breaker=BREAKER),
        replace(FRESH, breaker=HalfOpen(1, 1, 0, NOW + 20, 1)),
        Wait(NOW, NOW + 20, "breaker", paused=True, woken=True),
        Effects(),
    ),
    # one that asks about no breaker is not held up by it
    (asked(), replace(FRESH, breaker=Open(NOW + 20, 1)), Admit(NOW, NOW), Effects()),
    # --- then every limit. All allow it: all are charged, and the lease is taken
    (
        asked(S, M, L),
        FRESH,
        Admit(NOW, NOW),
        Effects(
            {
                "s": Bucket(NOW + 10),
                "m": Bucket(NOW + 100),
                "l": Leases({"me": NOW + 30}),
            }
        ),
    ),
    # a bucket alone that has no room: its slot is its first instant with room, and it is full there
    (
        asked(S),
        meters(s=FULL),
        Wait(NOW, NOW + 10, "10/s", (paid("s", NOW + 10),), charged=True, full=True),
        Effects({"s": Bucket(NOW + 20)}),
    ),
    # not behind a line: others may have their slots between
    (
        asked(S),
        meters(s=Bucket(NOW + 10, NOW + 30)),
        Wait(NOW, NOW + 30, "10/s", (paid("s", NOW + 30),), charged=True),
        Effects({"s": Bucket(NOW + 40, NOW + 30)}),
    ),
    # one of two does not allow it: a short wait is charged in it alone
    (
        asked(S, M),
        meters(s=FULL),
        Wait(NOW, NOW + 10, "10/s", (paid("s", NOW + 10),), charged=True),
        Effects({"s": Bucket(NOW + 20)}),
    ),
    # two do not: the one whose slot is furthest away binds, and a long wait takes a place in line
    (
        asked(S, M),
        meters(s=FULL, m=Bucket(NOW + 100)),
        Wait(NOW, NOW + 100, "1/s", (lined("m", NOW + 100),)),
        Effects({"m": Bucket(NOW + 100, NOW + 200)}),
    ),
    # behind those in the line
    (
        asked(M),
        meters(m=Bucket(NOW + 100, NOW + 300)),
        Wait(NOW, NOW + 300, "1/s", (lined("m", NOW + 300),)),
        Effects({"m": Bucket(NOW + 100, NOW + 400)}),
    ),
    # unless there is room right now that none of them has come to use
    (
        asked(M),
        meters(m=Bucket(NOW, NOW + 300)),
        Admit(NOW, NOW),
        Effects({"m": Bucket(NOW + 100, NOW + 300)}),
    ),
    # one that can be parked takes no place in the line: its lane is its line
    (
        asked(M, lane=LANE),
        meters(m=Bucket(NOW + 100)),
        Wait(NOW, NOW + 100, "1/s"),
        Effects(),
    ),
    # a wait beyond its patience is refused and takes nothing
    (
        asked(M, max_wait=99),
        meters(m=Bucket(NOW + 100)),
        Refuse(NOW, NOW + 100, "1/s"),
        Effects(),
    ),
    (
        asked(M, give_up_at=NOW + 99),
        meters(m=Bucket(NOW + 100)),
        Refuse(NOW, NOW + 100, "1/s"),
        Effects(),
    ),
    # both leases are held: the first that ends is waited for, and it may be sooner
    (
        asked(S, L),
        meters(l=Leases({"a": NOW + 20, "b": NOW + 25})),
        Wait(NOW, NOW + 20, "2 in flight", woken=True),
        Effects(),
    ),
    # even beyond its patience, as far as that goes
    (
        asked(L, max_wait=15),
        meters(l=Leases({"a": NOW + 20, "b": NOW + 25})),
        Wait(NOW, NOW + 15, "2 in flight", woken=True),
        Effects(),
    ),
    # --- what the task holds already. Its paid slot has come: nothing is charged again
    (
        asked(S, reserved=(paid("s", NOW),)),
        meters(s=FULL),
        Admit(NOW, NOW),
        Effects(),
    ),
    # within the grace as well
    (
        asked(S, reserved=(paid("s", NOW - 5),)),
        meters(s=FULL),
        Admit(NOW, NOW - 5),
        Effects(),
    ),
    # of two slots the earlier one says for how long the admission is good
    (
        asked(S, M, reserved=(paid("s", NOW - 2), paid("m", NOW - 4))),
        meters(s=FULL, m=Bucket(NOW + 96)),
        Admit(NOW, NOW - 4),
        Effects(),
    ),
    # a moment later it is lost: the task waits like any other, ahead of the line
    (
        asked(S, reserved=(paid("s", NOW - 6),)),
        meters(s=Bucket(NOW + 10, NOW + 90)),
        Wait(NOW, NOW + 10, "10/s", (paid("s", NOW + 10),), charged=True),
        Effects({"s": Bucket(NOW + 20, NOW + 90)}),
    ),
    # unless its body came late, and so much lateness is allowed
    (
        asked(S, reserved=(paid("s", NOW - 6),), late=6),
        meters(s=FULL),
        Admit(NOW, NOW - 6),
        Effects(),
    ),
    # with room to spare it is charged as if it never had been
    (
        asked(S, reserved=(paid("s", NOW - 6),), late=6),
        FRESH,
        Admit(NOW, NOW),
        Effects({"s": Bucket(NOW + 10)}),
    ),
    # it comes early: the slot is still its own
    (
        asked(S, reserved=(paid("s", NOW + 10),)),
        meters(s=Bucket(NOW + 20)),
        Wait(NOW, NOW + 10, "10/s", (paid("s", NOW + 10),), charged=True),
        Effects(),
    ),
    # a pause over its slot takes it
    (
        asked(S, reserved=(paid("s", NOW),)),
        replace(meters(s=FULL), pause=NOW + 30),
        Wait(NOW, NOW + 30, "10/s", (paid("s", NOW + 30),), charged=True, paused=True),
        Effects({"s": Bucket(NOW + 40)}),
    ),
    # a promised slot has come, and another limit has no room yet: both are charged at its slot
    (
        asked(S, M, reserved=(lined("m", NOW),)),
        meters(s=FULL),
        Wait(NOW, NOW + 10, "10/s", (paid("m", NOW + 10), paid("s", NOW + 10)), charged=True),
        Effects({"s": Bucket(NOW + 20), "m": Bucket(NOW + 110)}),
    ),
    # its turn has come and its limit is a little late: it lingers longer than a newcomer holds
    (
        asked(M, reserved=(lined("m", NOW),)),
        meters(m=Bucket(NOW + 70)),
        Wait(NOW, NOW + 70, "1/s", (paid("m", NOW + 70),), charged=True),
        Effects({"m": Bucket(NOW + 170)}),
    ),
    # --- one that is released from the lot ahead of its slot is charged in everything at once
    (
        asked(S, M, L, whole=True),
        meters(s=FULL),
        Wait(NOW, NOW + 10, "10/s", (paid("s", NOW + 10), paid("m", NOW + 10)), charged=True),
        Effects(
            {
                "s": Bucket(NOW + 20),
                "m": Bucket(NOW + 110),
                "l": Leases({"me": NOW + 30}),
            }
        ),
    ),
    # --- a bucket's slot lies in a quota's next period, which is promised away: the one after it
    (
        asked(S, Q, hold=10),
        meters(s=FULL, q=Period(NOW + 5, 0, 2)),
        Wait(NOW, NOW + 105, "2 each day", (lined("q", NOW + 105),)),
        Effects({"q": Period(NOW + 5, 0, 2, NOW + 105 + LINE)}),
    ),
    # with one left it is charged there
    (
        asked(S, Q, whole=True),
        meters(s=FULL, q=Period(NOW + 5, 0, 1)),
        Wait(NOW, NOW + 10, "10/s", (paid("s", NOW + 10), paid("q", NOW + 10)), charged=True),
        Effects({"s": Bucket(NOW + 20), "q": Period(NOW + 5, 0, 2)}),
    ),
    # a probe is not sent ahead of its slot
    (
        asked(S, whole=True, breaker=BREAKER),
        replace(meters(s=FULL), breaker=Open(NOW, 1)),
        Refuse(NOW, NOW + 10, "10/s"),
        Effects(),
    ),
    # --- successes that were not told yet are counted first: here they forget a failure
    (
        asked(breaker=BREAKER, successes=4),
        replace(FRESH, breaker=replace(FRESH.breaker, ring="0001")),
        Admit(NOW, NOW),
        Effects(breaker=FRESH.breaker),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("ask", "state", "answer", "effects"), TABLE)
def test_an_admission(ask: Ask, state: UpstreamState, answer: Answer, effects: Effects) -> None:
    """The answer, and all that is written with it."""
    found, written = decide(ask, state, NOW)
    assert found == answer
    assert written == effects


charges = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.integers(0, 30)), max_size=30
)


@given(charges)
def test_whoever_waits_the_bound_of_each_limit_holds(calls: list[tuple[str, int, int]]) -> None:
    """Calls on any of three limits, that go at once, wait for slots, come back for them or stay
    away: in no span does a limit let more through than its burst and its rate."""
    limits = {"a": (10, 3), "b": (7, 1), "c": (25, 2)}
    state, now = replace(FRESH, since=-10_000), 0
    made: dict[str, list[int]] = {name: [] for name in limits}
    waiting: list[tuple[Ask, int]] = []
    for name, held, after in calls:
        now += after
        back = [each for each in waiting if each[1] <= now]
        waiting = [each for each in waiting if each[1] > now]
        names = sorted({name, "abc"[held % 3]})
        fresh = asked(*(Charge(n, n, limits[n][0], limits[n][0] * limits[n][1]) for n in names))
        for ask, _ in [*back, (replace(fresh, hold=held * 20), 0)]:
            answer, effects = decide(ask, state, now)
            state = replace(state, meters={**state.meters, **effects.meters})
            if isinstance(answer, Admit):
                for one in ask.charges:
                    made[one.bucket].append(now)
            elif isinstance(answer, Wait):
                waiting.append((replace(ask, reserved=answer.reserved), answer.until))
    for name, at in made.items():
        interval, burst = limits[name]
        for first, start in enumerate(at):
            for number, end in enumerate(at[first:], 1):
                # A slot may be used as late as its grace allows.
                assert number * interval <= burst * interval + (end - start) + PATIENT.grace
