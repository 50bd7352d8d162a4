"""The conformance suite of the limiter store port.

A store's own test is a subclass with one fixture::

    class TestMyStore(LimiterStoreConformance):
        @pytest.fixture
        def harness(self):
            return StoreHarness(MyStore(...), advance=clock.advance)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from governor.clock import SECOND
from governor.policy.decision import (
    Admit,
    AlreadyDone,
    Ask,
    Charge,
    ClaimAsk,
    OutcomeUnknown,
    Refuse,
    Reservation,
    Wait,
)
from governor.ports import ClaimAction, LimiterStore

MS = 1_000
GRACE = 50 * MS
TEN_PER_SECOND = Charge("s", "10/s", interval=100 * MS, capacity=100 * MS)
HUNDRED_PER_MINUTE = Charge("m", "100/min", interval=600 * MS, capacity=600 * MS)


@dataclass
class StoreHarness:
    """A store under test.

    Attributes:
        advance: moves the store's clock forward by exactly this many microseconds.
    """

    store: LimiterStore
    advance: Callable[[int], None]


def ask(
    *charges: Charge,
    upstream: str = "api",
    reserved: tuple[Reservation, ...] = (),
    hold: int = 10 * SECOND,
    give_up_at: int | None = None,
    max_wait: int = 3600 * SECOND,
    claim: ClaimAsk | None = None,
) -> Ask:
    """An admission with the suite's defaults."""
    return Ask(upstream, charges, GRACE, hold, 10 * SECOND, max_wait, give_up_at, reserved, claim)


def claim(token: str, *, attempt: int = 0, lease: int = 30 * SECOND) -> ClaimAsk:
    """A claim on the suite's one task."""
    return ClaimAsk("task-1", attempt, token, lease, 3600 * SECOND)


class LimiterStoreConformance:
    """What every limiter store must do. Subclass it and provide the ``harness`` fixture."""

    def _empty(self, harness: StoreHarness, upstream: str = "api") -> LimiterStore:
        """A store that has known the upstream long enough for every burst to be back."""
        harness.store.settle(upstream)
        harness.advance(3600 * SECOND)
        return harness.store

    def test_an_unknown_upstream_starts_with_its_burst_used_up(self, harness: StoreHarness) -> None:
        """After a loss of state a bucket gives no second burst."""
        burst_of_five = Charge("s", "10/s", interval=100 * MS, capacity=500 * MS)
        first = harness.store.admit(ask(burst_of_five))
        assert isinstance(first, Wait)
        assert first.until - first.now == 100 * MS

    def test_a_burst_is_admitted_at_once_and_no_more(self, harness: StoreHarness) -> None:
        """A bucket with room for five admits five at one instant and makes the sixth wait."""
        store = self._empty(harness)
        burst_of_five = Charge("s", "10/s", interval=100 * MS, capacity=500 * MS)
        answers = [store.admit(ask(burst_of_five)) for _ in range(6)]
        assert [type(answer) for answer in answers] == [Admit] * 5 + [Wait]

    def test_slots_are_one_interval_apart(self, harness: StoreHarness) -> None:
        """Tasks that wait get consecutive slots in the order in which they asked."""
        store = self._empty(harness)
        store.admit(ask(TEN_PER_SECOND))
        waits = [store.admit(ask(TEN_PER_SECOND)) for _ in range(3)]
        assert all(isinstance(wait, Wait) for wait in waits)
        slots = [wait.until for wait in waits if isinstance(wait, Wait)]
        assert [b - a for a, b in pairwise(slots)] == [100 * MS] * 2

    def test_cost_takes_as_much_as_that_many_calls(self, harness: StoreHarness) -> None:
        """A call of cost three leaves room for two more in a burst of five."""
        store = self._empty(harness)
        one = Charge("s", "10/s", interval=100 * MS, capacity=500 * MS)
        three = Charge("s", "10/s", interval=300 * MS, capacity=500 * MS)
        answers = [store.admit(ask(charge)) for charge in (three, one, one, one)]
        assert [type(answer) for answer in answers] == [Admit, Admit, Admit, Wait]

    def test_all_limits_or_nothing(self, harness: StoreHarness) -> None:
        """A call that one limit refuses takes nothing from the limits that would allow it."""
        store = self._empty(harness)
        store.admit(ask(HUNDRED_PER_MINUTE))
        refused = store.admit(ask(TEN_PER_SECOND, HUNDRED_PER_MINUTE))
        assert isinstance(refused, Wait)
        assert refused.limit == "100/min"
        assert isinstance(store.admit(ask(TEN_PER_SECOND)), Admit)

    def test_the_binding_limit_is_the_furthest_away(self, harness: StoreHarness) -> None:
        """With every limit exhausted, the slot is held in the one that is free last."""
        store = self._empty(harness)
        store.admit(ask(TEN_PER_SECOND, HUNDRED_PER_MINUTE))
        wait = store.admit(ask(TEN_PER_SECOND, HUNDRED_PER_MINUTE))
        assert isinstance(wait, Wait)
        assert wait.limit == "100/min"
        assert wait.reserved == (Reservation("m", wait.until, paid=True),)

    def test_a_reservation_is_good_at_its_slot(self, harness: StoreHarness) -> None:
        """At its slot a waiting task is admitted without being charged again."""
        store = self._empty(harness)
        store.admit(ask(TEN_PER_SECOND))
        wait = store.admit(ask(TEN_PER_SECOND))
        assert isinstance(wait, Wait)
        harness.advance(wait.until - wait.now)
        back = store.admit(ask(TEN_PER_SECOND, reserved=wait.reserved))
        assert back == Admit(wait.until, wait.until)
        after = store.admit(ask(TEN_PER_SECOND))
        assert isinstance(after, Wait)
        assert after.until - after.now == 100 * MS

    def test_a_reservation_asked_early_keeps_its_slot(self, harness: StoreHarness) -> None:
        """Coming back before the slot neither loses it nor takes a second one."""
        store = self._empty(harness)
        store.admit(ask(TEN_PER_SECOND))
        wait = store.admit(ask(TEN_PER_SECOND))
        assert isinstance(wait, Wait)
        early = store.admit(ask(TEN_PER_SECOND, reserved=wait.reserved))
        assert early == wait

    def test_a_reservation_is_good_until_its_grace_is_over(self, harness: StoreHarness) -> None:
        """At the last microsecond of the grace the slot is good; one later it is lost."""
        store = self._empty(harness)
        store.admit(ask(TEN_PER_SECOND))
        wait = store.admit(ask(TEN_PER_SECOND))
        last = store.admit(ask(TEN_PER_SECOND))
        assert isinstance(wait, Wait)
        assert isinstance(last, Wait)
        harness.advance(wait.until - wait.now + GRACE)
        assert isinstance(store.admit(ask(TEN_PER_SECOND, reserved=wait.reserved)), Admit)
        harness.advance(1)
        again = store.admit(ask(TEN_PER_SECOND, reserved=wait.reserved))
        assert isinstance(again, Wait)
        assert again.until == last.until + 100 * MS

    def test_the_other_limits_are_settled_at_the_slot(self, harness: StoreHarness) -> None:
        """A slot in one limit does not excuse the call from the others when it comes back."""
        store = self._empty(harness)
        store.admit(ask(TEN_PER_SECOND))
        wait = store.admit(ask(TEN_PER_SECOND, HUNDRED_PER_MINUTE))
        assert isinstance(wait, Wait)
        harness.advance(wait.until - wait.now)
        store.admit(ask(HUNDRED_PER_MINUTE))
        back = store.admit(ask(TEN_PER_SECOND, HUNDRED_PER_MINUTE, reserved=wait.reserved))
        assert isinstance(back, Wait)
        assert back.limit == "100/min"

    def test_a_long_wait_only_takes_a_place_in_the_line(self, harness: StoreHarness) -> None:
        """Tasks that wait elsewhere are promised slots one interval apart, and charged nothing."""
        store = self._empty(harness)
        store.admit(ask(TEN_PER_SECOND))
        waits = [store.admit(ask(TEN_PER_SECOND, hold=0)) for _ in range(3)]
        assert [w.until - w.now for w in waits if isinstance(w, Wait)] == [
            100 * MS,
            200 * MS,
            300 * MS,
        ]
        assert not any(w.charged for w in waits if isinstance(w, Wait))
        harness.advance(100 * MS)
        assert isinstance(store.admit(ask(TEN_PER_SECOND)), Admit)

    def test_who_stood_in_line_is_charged_when_its_turn_comes(self, harness: StoreHarness) -> None:
        """A task that comes back for its promised slot is admitted at it."""
        store = self._empty(harness)
        store.admit(ask(TEN_PER_SECOND))
        wait = store.admit(ask(TEN_PER_SECOND, hold=0))
        assert isinstance(wait, Wait)
        harness.advance(wait.until - wait.now)
        assert isinstance(store.admit(ask(TEN_PER_SECOND, reserved=wait.reserved)), Admit)

    def test_who_stood_in_line_and_comes_early_is_charged_for_its_slot(
        self, harness: StoreHarness
    ) -> None:
        """A little before its slot it is told to be there, and needs not ask again."""
        store = self._empty(harness)
        store.admit(ask(TEN_PER_SECOND))
        wait = store.admit(ask(TEN_PER_SECOND, hold=0))
        assert isinstance(wait, Wait)
        harness.advance(60 * MS)
        early = store.admit(ask(TEN_PER_SECOND, reserved=wait.reserved))
        assert isinstance(early, Wait)
        assert (early.until, early.charged) == (wait.until, True)

    def test_who_comes_much_too_early_is_sent_away_again(self, harness: StoreHarness) -> None:
        """A task that hops, because its slot is beyond the broker's patience, keeps its place and
        is charged nothing on the way."""
        store = self._empty(harness)
        slow = Charge("m", "1/min", interval=60 * SECOND, capacity=60 * SECOND)
        store.admit(ask(slow))
        wait = store.admit(ask(slow, hold=SECOND))
        assert isinstance(wait, Wait)
        harness.advance(30 * SECOND)
        hop = store.admit(ask(slow, reserved=wait.reserved, hold=SECOND))
        assert isinstance(hop, Wait)
        assert (hop.until, hop.charged, hop.reserved) == (wait.until, False, wait.reserved)

    def test_who_comes_late_from_the_line_has_lost_nothing(self, harness: StoreHarness) -> None:
        """Its slot was not used, so there is room for it at once; the line behind is not moved."""
        store = self._empty(harness)
        store.admit(ask(TEN_PER_SECOND))
        late = store.admit(ask(TEN_PER_SECOND, hold=0))
        last = store.admit(ask(TEN_PER_SECOND, hold=0))
        assert isinstance(late, Wait)
        assert isinstance(last, Wait)
        harness.advance(1 * SECOND)
        assert isinstance(store.admit(ask(TEN_PER_SECOND, reserved=late.reserved)), Admit)
        then = store.admit(ask(TEN_PER_SECOND, reserved=last.reserved, hold=50 * MS))
        assert isinstance(then, Wait)
        assert (then.until - then.now, then.charged) == (100 * MS, True)

    def test_a_newcomer_stands_behind_the_line(self, harness: StoreHarness) -> None:
        """While others wait in line, who comes new gets a slot after theirs."""
        store = self._empty(harness)
        store.admit(ask(TEN_PER_SECOND))
        lined = [store.admit(ask(TEN_PER_SECOND, hold=0)) for _ in range(5)]
        last = lined[-1]
        newcomer = store.admit(ask(TEN_PER_SECOND))
        assert isinstance(last, Wait)
        assert isinstance(newcomer, Wait)
        assert newcomer.until == last.until + 100 * MS

    def test_a_turn_in_one_limit_is_kept_while_another_is_waited_for(
        self, harness: StoreHarness
    ) -> None:
        """A task of two busy limits gets through in a few turns, whoever comes in between: a turn
        it has had is not lost again."""
        store = self._empty(harness)
        for _ in range(20):
            store.admit(ask(TEN_PER_SECOND, hold=0))
            store.admit(ask(HUNDRED_PER_MINUTE, hold=0))
        both = (TEN_PER_SECOND, HUNDRED_PER_MINUTE)
        reserved: tuple[Reservation, ...] = ()
        for _ in range(6):
            answer = store.admit(ask(*both, reserved=reserved, hold=0))
            if isinstance(answer, Admit):
                break
            assert isinstance(answer, Wait)
            reserved = answer.reserved
            harness.advance(answer.until - answer.now)
            store.admit(ask(TEN_PER_SECOND, hold=0))
            store.admit(ask(HUNDRED_PER_MINUTE, hold=0))
        assert isinstance(answer, Admit)

    def test_a_slot_beyond_the_patience_is_refused_and_costs_nothing(
        self, harness: StoreHarness
    ) -> None:
        """A task whose slot is further off than it may wait takes no place in the line."""
        store = self._empty(harness)
        store.admit(ask(TEN_PER_SECOND))
        refused = store.admit(ask(TEN_PER_SECOND, max_wait=99 * MS))
        assert isinstance(refused, Refuse)
        assert refused.until - refused.now == 100 * MS
        patient = store.admit(ask(TEN_PER_SECOND, give_up_at=refused.now + 100 * MS))
        assert isinstance(patient, Wait)

    def test_buckets_are_apart(self, harness: StoreHarness) -> None:
        """Another key of the same limit, and another upstream, are not affected."""
        store = self._empty(harness)
        self._empty(harness, "other")
        store.admit(ask(TEN_PER_SECOND))
        assert isinstance(store.admit(ask(TEN_PER_SECOND)), Wait)
        elsewhere = Charge("s:b", "10/s", interval=100 * MS, capacity=100 * MS)
        assert isinstance(store.admit(ask(elsewhere)), Admit)
        assert isinstance(store.admit(ask(TEN_PER_SECOND, upstream="other")), Admit)

    def test_a_pause_makes_everyone_wait_and_hands_out_slots_behind_it(
        self, harness: StoreHarness
    ) -> None:
        """During a pause tasks get slots from its end on, one interval apart."""
        store = self._empty(harness)
        pause = store.settle("api", pause=2 * SECOND)
        waits = [store.admit(ask(TEN_PER_SECOND)) for _ in range(2)]
        assert [w.until - pause.pause for w in waits if isinstance(w, Wait)] == [0, 100 * MS]
        assert all(w.paused for w in waits if isinstance(w, Wait))

    def test_a_pause_is_never_made_shorter(self, harness: StoreHarness) -> None:
        """A second, shorter Retry-After does not end the first early."""
        store = self._empty(harness)
        first = store.settle("api", pause=10 * SECOND)
        assert store.settle("api", pause=1 * SECOND).pause == first.pause

    def test_a_pause_holds_an_upstream_without_limits(self, harness: StoreHarness) -> None:
        """An upstream that declares no limit still waits for Retry-After."""
        store = self._empty(harness)
        assert isinstance(store.admit(ask()), Admit)
        pause = store.settle("api", pause=SECOND)
        wait = store.admit(ask())
        assert isinstance(wait, Wait)
        assert (wait.until, wait.limit, wait.reserved) == (pause.pause, "pause", ())

    def test_a_pause_over_a_slot_takes_the_slot(self, harness: StoreHarness) -> None:
        """A slot inside a later pause is lost: the task gets one behind the pause."""
        store = self._empty(harness)
        store.admit(ask(TEN_PER_SECOND))
        wait = store.admit(ask(TEN_PER_SECOND))
        assert isinstance(wait, Wait)
        pause = store.settle("api", pause=5 * SECOND)
        harness.advance(wait.until - wait.now)
        again = store.admit(ask(TEN_PER_SECOND, reserved=wait.reserved))
        assert isinstance(again, Wait)
        assert again.until >= pause.pause

    def test_a_claim_is_taken_with_the_admission(self, harness: StoreHarness) -> None:
        """A second delivery of a running execution waits until its claim may be dead."""
        store = self._empty(harness)
        first = store.admit(ask(claim=claim("first")))
        assert isinstance(first, Admit)
        second = store.admit(ask(claim=claim("second")))
        assert second == Wait(second.now, first.now + 30 * SECOND, "claim")

    def test_a_claim_is_not_taken_while_waiting(self, harness: StoreHarness) -> None:
        """A task that has to wait has not begun: another delivery of it may go first."""
        store = self._empty(harness)
        store.admit(ask(TEN_PER_SECOND))
        assert isinstance(store.admit(ask(TEN_PER_SECOND, claim=claim("first"))), Wait)
        assert isinstance(store.admit(ask(claim=claim("second"))), Admit)

    def test_the_same_delivery_may_ask_again(self, harness: StoreHarness) -> None:
        """A body that starts late asks afresh under its own claim."""
        store = self._empty(harness)
        store.admit(ask(claim=claim("first")))
        assert isinstance(store.admit(ask(claim=claim("first"))), Admit)

    def test_a_delivery_that_must_wait_after_all_gives_its_claim_back(
        self, harness: StoreHarness
    ) -> None:
        """A body that was too late for its slot has not begun."""
        store = self._empty(harness)
        store.admit(ask(TEN_PER_SECOND, claim=claim("first")))
        assert isinstance(store.admit(ask(TEN_PER_SECOND, claim=claim("first"))), Wait)
        assert isinstance(store.admit(ask(claim=claim("second"))), Admit)

    def test_a_finished_execution_is_never_repeated(self, harness: StoreHarness) -> None:
        """A delivery that comes after the first has finished is dropped."""
        store = self._empty(harness)
        store.admit(ask(claim=claim("first")))
        store.settle("api", claim("first"), ClaimAction.FINISH)
        assert isinstance(store.admit(ask(claim=claim("second"))), AlreadyDone)

    def test_a_holder_that_stopped_renewing_has_died(self, harness: StoreHarness) -> None:
        """When the lease is over without a word, nobody knows whether the call was made."""
        store = self._empty(harness)
        store.admit(ask(claim=claim("first")))
        harness.advance(30 * SECOND)
        assert isinstance(store.admit(ask(claim=claim("second"))), OutcomeUnknown)

    def test_a_renewed_claim_stays_alive(self, harness: StoreHarness) -> None:
        """A renewal counts from the moment it is made."""
        store = self._empty(harness)
        store.admit(ask(claim=claim("first")))
        harness.advance(20 * SECOND)
        store.settle("api", claim("first"), ClaimAction.RENEW)
        harness.advance(20 * SECOND)
        assert isinstance(store.admit(ask(claim=claim("second"))), Wait)

    def test_a_released_claim_leaves_nothing(self, harness: StoreHarness) -> None:
        """After a 429 the call did not happen: the task may begin again."""
        store = self._empty(harness)
        store.admit(ask(claim=claim("first")))
        store.settle("api", claim("first"), ClaimAction.RELEASE)
        assert isinstance(store.admit(ask(claim=claim("second"))), Admit)

    def test_only_the_holder_settles_its_claim(self, harness: StoreHarness) -> None:
        """A delivery that does not hold the claim cannot finish or release it."""
        store = self._empty(harness)
        store.admit(ask(claim=claim("first")))
        store.settle("api", claim("second"), ClaimAction.FINISH)
        store.settle("api", claim("second"), ClaimAction.RELEASE)
        assert isinstance(store.admit(ask(claim=claim("third"))), Wait)

    def test_the_next_attempt_is_another_execution(self, harness: StoreHarness) -> None:
        """Claims are by task id and attempt."""
        store = self._empty(harness)
        store.admit(ask(claim=claim("first")))
        assert isinstance(store.admit(ask(claim=claim("second", attempt=1))), Admit)
