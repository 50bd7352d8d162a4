"""Admissions asked for in advance: for which calls, how many, how long, and what becomes of the
rest."""

from __future__ import annotations

import pytest

from governor import Limit, Upstream
from governor.admission.admission import AdmissionService
from governor.admission.call import Call
from governor.clock import SECOND
from governor.events import Emitter
from governor.messages.header import Header
from governor.policy.decision import Admit, ClaimAsk, Reservation
from governor.policy.plan import CallPlan
from governor.policy.settlement import Settlement
from governor.settings import load
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock
from governor.worker.prefetch import Prefetch

GRACE = 50_000
FAST = Limit("1000/s", burst=1000)
CLAIM = ClaimAsk("id", 0, "m", "token", SECOND, SECOND)
SETTINGS = load({"governor_redis_url": "redis://unused"}, {"governor_redis_url"})


class Worker:
    """Asks as the dispatcher does, at a store of its own."""

    def __init__(self, *limits: Limit, expected: int = 10) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock.wall)
        self.admission = AdmissionService(self.store, SETTINGS, self.clock, Emitter())
        self.prefetch = Prefetch(GRACE)
        self.plan = CallPlan.of("task", Upstream("api", *limits))
        self.expected = expected
        self.store.settle(Settlement("api"))
        self.clock.advance(10 * SECOND)

    def call(self, account: str = "", **options: object) -> Call:
        charges = self.plan.charges((), {"account": account})
        return Call(self.plan, charges, Header(**options))  # type: ignore[arg-type]

    def take(self, call: Call) -> bool:
        return self.prefetch.take(call, self.clock.monotonic())

    def ask(self, call: Call) -> int:
        """Ask for a call; return for how many more it asked."""
        now = self.clock.monotonic()
        advance = self.prefetch.question(call, self.expected, now)
        if advance is None:
            self.admission.ask(call)
            return 0
        *_, answer = self.admission.ask_many([call, advance[0]])
        self.prefetch.answered(*advance, answer, now)
        return advance[1]

    def taken(self, limit: int = 100) -> int:
        """Count the calls that are admitted out of hand."""
        return next(n for n in range(limit) if not self.take(self.call()))


def test_as_many_are_in_hand_as_were_expected() -> None:
    """Those that come next are admitted without a question, the one after them asks."""
    worker = Worker(FAST)
    assert worker.ask(worker.call()) == 10
    assert worker.taken() == 10
    assert worker.ask(worker.call()) == 10


def test_what_is_in_hand_is_charged() -> None:
    """An admission in hand takes from the limit what a question would have taken."""
    worker = Worker(Limit("1000/s", burst=6, margin=0), expected=5)
    assert worker.ask(worker.call()) == 5
    assert worker.taken() == 5
    assert not isinstance(worker.admission.ask(worker.call()), Admit)


def test_a_call_taken_out_of_hand_knows_its_slot() -> None:
    """Its body may start until a grace after the question, and its patience counts from there."""
    worker = Worker(FAST)
    worker.ask(worker.call())
    asked_at, stored_at = worker.clock.monotonic(), worker.clock.wall()
    worker.clock.advance(1000)
    call = worker.call()
    assert worker.take(call)
    assert call.slot == asked_at
    assert call.header.first == stored_at
    assert call.header.give_up_at == stored_at + worker.plan.upstream.max_wait


@pytest.mark.parametrize(
    ("rate", "number"),
    [
        ("1000/s", 10),  # as many as are expected
        ("200/s", 5),  # as many as leak out in half the grace
        ("40/s", 1),
        ("39/s", 0),  # one more would cost more than half the grace
        ("10/day", 0),
    ],
)
def test_no_more_are_asked_for_than_leak_out_in_half_the_grace(rate: str, number: int) -> None:
    """What is lost when no call comes is next to nothing, whatever the limit."""
    worker = Worker(Limit(rate, burst=1000))
    assert worker.ask(worker.call()) == number


@pytest.mark.parametrize(("burst", "number"), [(1, 0), (3, 2)])
def test_no_more_are_asked_for_than_the_bucket_holds(burst: int, number: int) -> None:
    """Beside the call itself: a question that could not be granted is not asked."""
    worker = Worker(Limit("1000/s", burst=burst, margin=0))
    assert worker.ask(worker.call()) == number
    assert worker.taken() == number


def test_where_there_is_no_room_none_is_asked_for_in_advance_for_a_second() -> None:
    """A limit that binds costs one more question a second, and no charge."""
    worker = Worker(Limit("1000/s", burst=6, margin=0), expected=5)
    assert worker.ask(worker.call()) == 5
    assert worker.taken() == 5
    worker.clock.advance(1000)
    assert worker.ask(worker.call()) == 5
    assert worker.taken() == 0
    worker.clock.advance(SECOND // 2)
    assert worker.ask(worker.call()) == 0
    worker.clock.advance(SECOND // 2 + 1)
    assert worker.ask(worker.call()) == 5
    assert worker.taken() == 5


def test_half_the_grace_later_they_are_lost() -> None:
    """When most of them were lost, none is asked for in advance for five times as long."""
    worker = Worker(FAST)
    worker.ask(worker.call())
    worker.clock.advance(GRACE // 2 + 1)
    assert worker.taken() == 0
    worker.clock.advance(5 * GRACE // 2 - 1)
    assert worker.ask(worker.call()) == 0
    worker.clock.advance(1)
    assert worker.ask(worker.call()) == 10


def test_where_a_request_waits_none_is_asked_for_in_advance_for_a_second() -> None:
    """What would be lost then is missing to the requests that wait."""
    worker = Worker(FAST)
    worker.ask(worker.call())
    worker.taken()
    worker.prefetch.pressed("api", worker.clock.monotonic())
    worker.clock.advance(SECOND - 1)
    assert worker.ask(worker.call()) == 0
    worker.clock.advance(1)
    assert worker.ask(worker.call()) == 10


def test_a_few_lost_ones_do_not_count() -> None:
    """Most were used: the next question asks in advance again."""
    worker = Worker(FAST)
    worker.ask(worker.call())
    for _ in range(6):
        assert worker.take(worker.call())
    worker.clock.advance(GRACE // 2 + 1)
    assert not worker.take(worker.call())
    assert worker.ask(worker.call()) == 10


def test_only_the_same_charges_are_covered() -> None:
    """Another account's call asks for itself; accounts in turn never ask in advance."""
    worker = Worker(Limit("1000/s", burst=1000, per="account"))
    assert worker.ask(worker.call("a")) == 10
    assert not worker.take(worker.call("b"))
    assert worker.ask(worker.call("b")) == 0
    worker.clock.advance(2 * SECOND)
    assert worker.ask(worker.call("a")) == 0
    assert worker.ask(worker.call("b")) == 0
    assert worker.ask(worker.call("b")) == 10


def test_a_claim_is_never_taken_in_advance() -> None:
    """It says that the body begins: its call asks when it has its pool slot."""
    worker = Worker(FAST)
    claiming = worker.call()
    claiming.claim = CLAIM
    assert worker.ask(claiming) == 0
    worker.ask(worker.call())
    assert not worker.take(claiming)
    assert worker.taken() == 10


def test_a_call_that_holds_a_slot_uses_it() -> None:
    """What it holds would be charged twice otherwise."""
    worker = Worker(FAST)
    worker.ask(worker.call())
    bucket = worker.call().charges[0].bucket
    holder = worker.call(reserved=(Reservation(bucket, worker.clock.wall(), True),))
    assert not worker.take(holder)
    assert worker.taken() == 10


def test_a_paused_upstream_has_none() -> None:
    """The upstream said not now: each call asks."""
    worker = Worker(FAST)
    worker.ask(worker.call())
    worker.prefetch.drop("api")
    assert worker.taken() == 0
