"""The conformance suite of a limiter store: buckets, slots, the line of waiting tasks, pauses."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from governor.clock import SECOND
from governor.policy.decision import (
    Admit,
    Charge,
    Refuse,
    Reservation,
    Wait,
    WindowCharge,
)
from governor.policy.settlement import Settlement
from governor.testing.conformance_harness import (
    GRACE,
    HUNDRED_PER_MINUTE,
    MS,
    TEN_PER_SECOND,
    StoreHarness,
    StoreSuite,
    ask,
)


class RateConformance(StoreSuite):
    """Leaky buckets and pauses."""

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
        assert early == replace(wait, full=False)

    def test_a_wait_says_whether_its_bucket_is_full(self, harness: StoreHarness) -> None:
        """A wait for the bucket's own slot says so: not after a pause, behind a line, or in one of
        several limits."""
        store = self._empty(harness)
        store.admit(ask(TEN_PER_SECOND, HUNDRED_PER_MINUTE))
        own = store.admit(ask(TEN_PER_SECOND))
        several = store.admit(ask(TEN_PER_SECOND, HUNDRED_PER_MINUTE))
        in_line = store.admit(ask(TEN_PER_SECOND, hold=0))
        behind = store.admit(ask(TEN_PER_SECOND))
        assert isinstance(several, Wait)
        store.settle(Settlement("api", pause=5 * SECOND))
        after = store.admit(ask(TEN_PER_SECOND))
        waits = [own, several, in_line, behind, after]
        found = [isinstance(wait, Wait) and (wait.charged, wait.full) for wait in waits]
        assert found == [
            (True, True), (True, False), (False, False), (True, False), (True, False),
        ]  # fmt: skip

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

    def test_a_call_whose_body_came_late_keeps_what_it_paid(self, harness: StoreHarness) -> None:
        """At a limit that has no room it is admitted on its slot, and the others keep theirs."""
        store = self._empty(harness)
        first = store.admit(ask(TEN_PER_SECOND))
        last = store.admit(ask(TEN_PER_SECOND))
        assert isinstance(first, Admit)
        assert isinstance(last, Wait)
        harness.advance(GRACE + 1)
        paid = (Reservation("s", first.slot, True),)
        again = store.admit(ask(TEN_PER_SECOND, reserved=paid, late=SECOND))
        assert again == Admit(first.now + GRACE + 1, first.slot)
        newcomer = store.admit(ask(TEN_PER_SECOND))
        assert isinstance(newcomer, Wait)
        assert newcomer.until == last.until + 100 * MS

    def test_a_call_whose_body_came_late_is_charged_where_there_is_room(
        self, harness: StoreHarness
    ) -> None:
        """The slot has leaked out of the bucket; made now, the call is like any other."""
        store = self._empty(harness)
        first = store.admit(ask(TEN_PER_SECOND))
        assert isinstance(first, Admit)
        harness.advance(200 * MS)
        paid = (Reservation("s", first.slot, True),)
        now = first.now + 200 * MS
        assert store.admit(ask(TEN_PER_SECOND, reserved=paid, late=SECOND)) == Admit(now, now)
        newcomer = store.admit(ask(TEN_PER_SECOND))
        assert isinstance(newcomer, Wait)
        assert newcomer.until == now + 100 * MS

    def test_a_body_that_came_much_too_late_has_lost_its_slot(self, harness: StoreHarness) -> None:
        """Beyond what the question allows, and in a pause, it waits like any other."""
        store = self._empty(harness)
        first = store.admit(ask(TEN_PER_SECOND))
        assert isinstance(first, Admit)
        store.admit(ask(TEN_PER_SECOND))
        harness.advance(GRACE + 1)
        paid = (Reservation("s", first.slot, True),)
        assert isinstance(store.admit(ask(TEN_PER_SECOND, reserved=paid, late=GRACE, hold=0)), Wait)
        store.settle(Settlement("api", pause=SECOND))
        assert isinstance(store.admit(ask(TEN_PER_SECOND, reserved=paid, late=SECOND)), Wait)

    def test_a_late_body_finds_its_place_in_a_window(self, harness: StoreHarness) -> None:
        """A window that is full counts it already."""
        store = self._empty(harness)
        window = WindowCharge("w", "1 in any 5 s", 1, 5 * SECOND)
        harness.advance(5 * SECOND)
        first = store.admit(ask(window))
        assert isinstance(first, Admit)
        harness.advance(SECOND)
        paid = (Reservation("w", first.slot, True),)
        assert isinstance(store.admit(ask(window, reserved=paid, late=2 * SECOND)), Admit)

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
        """A task that hops, because its slot is beyond the broker's patience, keeps its turn and
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
        """A slot that was not used leaves room at once; the line behind is not moved."""
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
        """A task whose slot is further off than it may wait takes no turn in the line."""
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
        pause = store.settle(Settlement("api", pause=2 * SECOND))
        waits = [store.admit(ask(TEN_PER_SECOND)) for _ in range(2)]
        assert [w.until - pause.pause for w in waits if isinstance(w, Wait)] == [0, 100 * MS]
        assert all(w.paused for w in waits if isinstance(w, Wait))

    def test_a_pause_is_never_made_shorter(self, harness: StoreHarness) -> None:
        """A second, shorter Retry-After does not end the first early."""
        store = self._empty(harness)
        first = store.settle(Settlement("api", pause=10 * SECOND))
        assert store.settle(Settlement("api", pause=1 * SECOND)).pause == first.pause

    def test_a_pause_holds_an_upstream_without_limits(self, harness: StoreHarness) -> None:
        """An upstream that declares no limit still waits for Retry-After."""
        store = self._empty(harness)
        assert isinstance(store.admit(ask()), Admit)
        pause = store.settle(Settlement("api", pause=SECOND))
        wait = store.admit(ask())
        assert isinstance(wait, Wait)
        assert (wait.until, wait.limit, wait.reserved) == (pause.pause, "pause", ())

    def test_a_pause_over_a_slot_takes_the_slot(self, harness: StoreHarness) -> None:
        """A slot inside a later pause is lost: the task gets one behind the pause."""
        store = self._empty(harness)
        store.admit(ask(TEN_PER_SECOND))
        wait = store.admit(ask(TEN_PER_SECOND))
        assert isinstance(wait, Wait)
        pause = store.settle(Settlement("api", pause=5 * SECOND))
        harness.advance(wait.until - wait.now)
        again = store.admit(ask(TEN_PER_SECOND, reserved=wait.reserved))
        assert isinstance(again, Wait)
        assert again.until >= pause.pause
