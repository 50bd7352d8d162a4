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
from typing import Any

from governor.clock import SECOND
from governor.policy.adaptive import WHOLE, AdaptivePolicy
from governor.policy.adjustment import Adjustment, paced
from governor.policy.breaker import BreakerPolicy
from governor.policy.decision import (
    Admit,
    AlreadyDone,
    AnyCharge,
    Ask,
    Charge,
    ClaimAsk,
    LeaseCharge,
    OutcomeUnknown,
    QuotaCharge,
    Refuse,
    Reservation,
    Stale,
    Wait,
    WindowCharge,
)
from governor.policy.outcome import Outcome
from governor.ports import Change, ClaimAction, LimiterStore, Settlement

MS = 1_000
GRACE = 50 * MS
BREAKER = BreakerPolicy(failures=2, of=4, open_for=10 * SECOND, ramp=2, probe=5 * SECOND)
RATES = AdaptivePolicy(floor=256, cut=512, step=256)
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
    *charges: AnyCharge,
    upstream: str = "api",
    reserved: tuple[Reservation, ...] = (),
    hold: int = 10 * SECOND,
    give_up_at: int | None = None,
    max_wait: int = 3600 * SECOND,
    claim: ClaimAsk | None = None,
    **more: Any,
) -> Ask:
    """An admission with the suite's defaults."""
    return Ask(
        upstream, charges, GRACE, hold, 10 * SECOND, max_wait, give_up_at, reserved, claim, **more
    )


def claim(
    token: str, *, attempt: int = 0, message: str = "m1", lease: int = 30 * SECOND
) -> ClaimAsk:
    """A claim on the suite's one task."""
    return ClaimAsk("task-1", attempt, message, token, lease, 3600 * SECOND)


def settling(
    token: str, action: ClaimAction, *places: str, outcome: Outcome = Outcome.IGNORED,
    probe: bool = False,
) -> Settlement:  # fmt: skip
    """The end of an execution of the suite's one task, or a sign of life."""
    return Settlement(
        "api", token, action, claim(token), places, 30 * SECOND, 0, outcome, probe, BREAKER, RATES
    )


class LimiterStoreConformance:
    """What every limiter store must do. Subclass it and provide the ``harness`` fixture."""

    def _empty(self, harness: StoreHarness, upstream: str = "api") -> LimiterStore:
        """A store that has known the upstream long enough for every burst to be back."""
        harness.store.settle(Settlement(upstream))
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

    def test_a_resumed_upstream_may_begin_slowly(self, harness: StoreHarness) -> None:
        """A resume that names a share of the rates puts it in force; another leaves them whole."""
        store = self._empty(harness)
        until = str(store.settle(Settlement("api")).now + 60 * SECOND)
        for share, wanted in (("256", 256), ("", WHOLE)):
            store.change(Change("api", "reset", "", "", "ann", "anew"))
            store.change(Change("api", "pause", "", until, "ann", "maintenance"))
            store.change(Change("api", "resume", "", share, "ann", "over"))
            state = store.look("api", ()).state
            assert (state.pause, state.share.share) == (0, wanted)

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
        """Its slot has leaked out of the bucket; made now, it is a call like any other."""
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
        store.settle(settling("first", ClaimAction.FINISH))
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
        store.settle(settling("first", ClaimAction.RENEW))
        harness.advance(20 * SECOND)
        assert isinstance(store.admit(ask(claim=claim("second"))), Wait)

    def test_a_released_claim_leaves_nothing(self, harness: StoreHarness) -> None:
        """After a 429 the call did not happen: the task may begin again."""
        store = self._empty(harness)
        store.admit(ask(claim=claim("first")))
        store.settle(settling("first", ClaimAction.RELEASE))
        assert isinstance(store.admit(ask(claim=claim("second"))), Admit)

    def test_only_the_holder_settles_its_claim(self, harness: StoreHarness) -> None:
        """A delivery that does not hold the claim cannot finish or release it."""
        store = self._empty(harness)
        store.admit(ask(claim=claim("first")))
        store.settle(settling("second", ClaimAction.FINISH))
        store.settle(settling("second", ClaimAction.RELEASE))
        assert isinstance(store.admit(ask(claim=claim("third"))), Wait)

    def test_the_next_attempt_is_another_execution(self, harness: StoreHarness) -> None:
        """Claims are by task id, attempt and message."""
        store = self._empty(harness)
        store.admit(ask(claim=claim("first")))
        assert isinstance(store.admit(ask(claim=claim("second", attempt=1))), Admit)

    def test_another_message_under_a_used_id_is_another_execution(
        self, harness: StoreHarness
    ) -> None:
        """A second message under a task id runs, whatever became of the first: only a copy of a
        message that has run is dropped."""
        store = self._empty(harness)
        store.admit(ask(claim=claim("first")))
        assert isinstance(store.admit(ask(claim=claim("other", message="m2"))), Admit)
        store.settle(settling("first", ClaimAction.FINISH))
        assert isinstance(store.admit(ask(claim=claim("copy"))), AlreadyDone)
        assert isinstance(store.admit(ask(claim=claim("third", message="m3"))), Admit)

    def test_a_buried_execution_never_begins(self, harness: StoreHarness) -> None:
        """Once a delivery was told that the outcome is unknown, the first may neither go on nor
        begin anew: whatever it says, and however often it asks, the answer is the same."""
        store = self._empty(harness)
        store.admit(ask(claim=claim("first")))
        harness.advance(30 * SECOND)
        assert isinstance(store.admit(ask(claim=claim("second"))), OutcomeUnknown)
        for action in ClaimAction:
            store.settle(settling("first", action))
        assert isinstance(store.admit(ask(claim=claim("first"))), OutcomeUnknown)
        assert isinstance(store.admit(ask(claim=claim("third"))), OutcomeUnknown)

    def test_what_has_begun_is_known(self, harness: StoreHarness) -> None:
        """A message has begun while a delivery of it holds the claim, after it finished, and after
        it was buried; not before, and not once the claim was given back."""
        store = self._empty(harness)

        def begun(message: str = "m1", attempt: int = 0) -> str | None:
            return store.claimed_by("api", "task-1", attempt, message)

        assert begun() is None
        store.admit(ask(claim=claim("first")))
        assert (begun(), begun("m2"), begun(attempt=1)) == ("first", None, None)
        store.settle(settling("first", ClaimAction.RELEASE))
        assert begun() is None
        store.admit(ask(claim=claim("second")))
        harness.advance(30 * SECOND)
        store.admit(ask(claim=claim("third")))
        assert begun() == ""
        other = claim("first", message="m2")
        store.admit(ask(claim=other))
        store.settle(Settlement("api", "first", ClaimAction.FINISH, other))
        assert begun("m2") == ""

    # ------------------------------------------------------------------ windows

    def test_a_window_admits_so_many_in_any_span(self, harness: StoreHarness) -> None:
        """Calls at 0, 4 and 8 s fill a window of three in ten seconds; the fourth fits when the
        first has left it, and not a microsecond before."""
        store = self._empty(harness)
        three = WindowCharge("w", "3 in any 10 s", 3, 10 * SECOND)
        first = store.admit(ask(three))
        for _ in range(2):
            harness.advance(4 * SECOND)
            assert isinstance(store.admit(ask(three)), Admit)
        wait = store.admit(ask(three, hold=0))
        assert isinstance(wait, Wait)
        assert wait.until == first.now + 10 * SECOND
        harness.advance(2 * SECOND - 1)
        assert isinstance(store.admit(ask(three, hold=0)), Wait)
        harness.advance(1)
        assert isinstance(store.admit(ask(three, hold=0, reserved=wait.reserved)), Admit)

    def test_slots_of_a_window_are_handed_out_in_order(self, harness: StoreHarness) -> None:
        """Those who wait in a full window get the places of those who leave it, one each."""
        store = self._empty(harness)
        two = WindowCharge("w", "2 in any 10 s", 2, 10 * SECOND)
        first = store.admit(ask(two))
        harness.advance(3 * SECOND)
        second = store.admit(ask(two))
        waits = [store.admit(ask(two)) for _ in range(3)]
        assert [w.until for w in waits if isinstance(w, Wait)] == [
            first.now + 10 * SECOND,
            second.now + 10 * SECOND,
            first.now + 20 * SECOND,
        ]

    def test_a_costly_call_waits_until_the_window_has_room_for_all_of_it(
        self, harness: StoreHarness
    ) -> None:
        """Two units of cost need two calls to have left."""
        store = self._empty(harness)
        one = WindowCharge("w", "2 in any 10 s", 2, 10 * SECOND)
        store.admit(ask(one))
        harness.advance(3 * SECOND)
        second = store.admit(ask(one))
        costly = store.admit(ask(WindowCharge("w", "2 in any 10 s", 2, 10 * SECOND, cost=2)))
        assert isinstance(costly, Wait)
        assert costly.until == second.now + 10 * SECOND

    def test_a_window_that_was_forgotten_gives_no_burst(self, harness: StoreHarness) -> None:
        """In the first span after a loss of state calls are spaced evenly."""
        store = harness.store
        store.settle(Settlement("api"))
        five = WindowCharge("w", "5 in any 10 s", 5, 10 * SECOND)
        first = store.admit(ask(five))
        assert isinstance(first, Wait)
        assert first.until - first.now == 2 * SECOND

    def test_a_large_window_is_kept_in_groups_and_never_exceeded(
        self, harness: StoreHarness
    ) -> None:
        """Of 2,500 in ten seconds a log of groups of three admits 2,499, the last of them when the
        oldest group has left."""
        store = self._empty(harness)
        many = WindowCharge("w", "2500 in any 10 s", 2_500, 10 * SECOND, cost=833)
        firsts = [store.admit(ask(many)) for _ in range(3)]
        assert [type(first) for first in firsts] == [Admit] * 3
        wait = store.admit(ask(WindowCharge("w", "2500 in any 10 s", 2_500, 10 * SECOND)))
        assert isinstance(wait, Wait)
        assert wait.until == firsts[0].now + 10 * SECOND

    # ------------------------------------------------------------------ quotas

    def test_a_quota_starts_over_when_its_period_ends(self, harness: StoreHarness) -> None:
        """Whoever finds it used up waits for the next period, and counts there."""
        store = self._empty(harness)
        now = store.settle(Settlement("api")).now
        bounds = (now - 2 * SECOND, now - SECOND, now + 5 * SECOND, now + 10 * SECOND)
        two = QuotaCharge("q", "2 each day", 2, "day", "UTC", bounds=bounds)
        assert [type(store.admit(ask(two))) for _ in range(2)] == [Admit, Admit]
        wait = store.admit(ask(two))
        assert isinstance(wait, Wait)
        assert (wait.until, wait.charged) == (now + 5 * SECOND, True)
        harness.advance(5 * SECOND)
        assert isinstance(store.admit(ask(two, reserved=wait.reserved)), Admit)
        assert [type(store.admit(ask(two))) for _ in range(2)] == [Admit, Wait]

    def test_a_quota_that_was_forgotten_grows_evenly(self, harness: StoreHarness) -> None:
        """What was used of a period before the loss of state is not known: half way through the
        rest of it, half of the quota is there."""
        now = harness.store.settle(Settlement("api")).now
        bounds = (now - 20 * SECOND, now - 10 * SECOND, now + 10 * SECOND, now + 20 * SECOND)
        quota = QuotaCharge("q", "10 each day", 10, "day", "UTC", bounds=bounds)
        first = harness.store.admit(ask(quota, hold=0))
        assert isinstance(first, Wait)
        assert first.until == now + 2 * SECOND

    # ------------------------------------------------------------------ concurrency

    def test_places_are_held_by_name_and_given_back(self, harness: StoreHarness) -> None:
        """The third caller of two places waits, is told that it may be woken, and goes when one
        of the two has settled."""
        store = self._empty(harness)
        two = LeaseCharge("in-flight", "2 in flight", 2)
        first, _ = (store.admit(ask(two, holder=h, lease=30 * SECOND)) for h in ("a", "b"))
        wait = store.admit(ask(two, holder="c", lease=30 * SECOND))
        assert isinstance(wait, Wait)
        assert (wait.until, wait.woken) == (first.now + 30 * SECOND, True)
        store.settle(settling("a", ClaimAction.FINISH, "in-flight"))
        assert isinstance(store.admit(ask(two, holder="c", lease=30 * SECOND)), Admit)
        assert isinstance(store.admit(ask(two, holder="d", lease=30 * SECOND)), Wait)

    def test_a_holder_that_asks_again_has_one_place(self, harness: StoreHarness) -> None:
        """A body that starts late asks afresh; it takes no second place."""
        store = self._empty(harness)
        two = LeaseCharge("in-flight", "2 in flight", 2)
        for holder in ("a", "b", "a"):
            assert isinstance(store.admit(ask(two, holder=holder, lease=SECOND)), Admit)

    def test_a_dead_holders_place_comes_free_by_itself(self, harness: StoreHarness) -> None:
        """A place that is not renewed is free when its lease is over; a renewed one is not."""
        store = self._empty(harness)
        two = LeaseCharge("in-flight", "2 in flight", 2)
        for holder in ("a", "b"):
            store.admit(ask(two, holder=holder, lease=30 * SECOND))
        harness.advance(20 * SECOND)
        store.settle(settling("b", ClaimAction.RENEW, "in-flight"))
        harness.advance(10 * SECOND)
        for holder, kind in (("c", Admit), ("d", Wait)):
            assert isinstance(store.admit(ask(two, holder=holder, lease=30 * SECOND)), kind)

    def test_a_place_is_only_taken_when_every_limit_allows(self, harness: StoreHarness) -> None:
        """A call that waits for its slot holds no place meanwhile."""
        store = self._empty(harness)
        one = LeaseCharge("in-flight", "1 in flight", 1)
        store.admit(ask(TEN_PER_SECOND))
        both = store.admit(ask(TEN_PER_SECOND, one, holder="a", lease=SECOND))
        assert isinstance(both, Wait)
        assert isinstance(store.admit(ask(one, holder="b", lease=SECOND)), Admit)

    # ------------------------------------------------------------------ breaker, adaptive rate

    def _broken(self, harness: StoreHarness) -> LimiterStore:
        store = self._empty(harness)
        for holder in ("a", "b"):
            store.admit(ask(TEN_PER_SECOND, breaker=BREAKER))
            store.settle(settling(holder, ClaimAction.FINISH, outcome=Outcome.FAILED))
        return store

    def test_an_open_breaker_makes_everyone_wait_and_spends_nothing(
        self, harness: StoreHarness
    ) -> None:
        """Two failures of the last four open it for ten seconds; then one probe goes."""
        store = self._broken(harness)
        waits = [store.admit(ask(TEN_PER_SECOND, breaker=BREAKER)) for _ in range(3)]
        assert [(w.until - w.now, w.limit) for w in waits if isinstance(w, Wait)] == [
            (10 * SECOND, "breaker")
        ] * 3
        assert isinstance(store.admit(ask(TEN_PER_SECOND, hold=0)), Wait)
        harness.advance(10 * SECOND)
        probe = store.admit(ask(TEN_PER_SECOND, breaker=BREAKER))
        assert isinstance(probe, Admit)
        assert probe.probe
        second = store.admit(ask(TEN_PER_SECOND, breaker=BREAKER))
        assert isinstance(second, Wait)
        assert (second.limit, second.woken) == ("breaker", True)

    def test_a_breaker_closes_over_a_ramp(self, harness: StoreHarness) -> None:
        """After the probe two at a time, and when they have succeeded, everyone."""
        store = self._broken(harness)
        harness.advance(10 * SECOND)
        for level in (1, 2):
            for number in range(level):
                answer = store.admit(ask(breaker=BREAKER))
                assert isinstance(answer, Admit), (level, number)
                assert answer.probe
            assert isinstance(store.admit(ask(breaker=BREAKER)), Wait)
            for _ in range(level):
                done = settling("p", ClaimAction.FINISH, outcome=Outcome.SUCCESS, probe=True)
                store.settle(done)
        answers = [store.admit(ask(breaker=BREAKER)) for _ in range(5)]
        assert [a.probe for a in answers if isinstance(a, Admit)] == [False] * 5

    def test_a_failed_probe_opens_for_longer(self, harness: StoreHarness) -> None:
        """The second time the breaker stays open for twice as long."""
        store = self._broken(harness)
        harness.advance(10 * SECOND)
        store.admit(ask(breaker=BREAKER))
        store.settle(settling("p", ClaimAction.FINISH, outcome=Outcome.FAILED, probe=True))
        wait = store.admit(ask(breaker=BREAKER))
        assert isinstance(wait, Wait)
        assert wait.until - wait.now == 20 * SECOND

    def test_a_lost_probe_is_replaced(self, harness: StoreHarness) -> None:
        """A probe whose worker died is not waited for any longer than a probe may take."""
        store = self._broken(harness)
        harness.advance(10 * SECOND)
        store.admit(ask(breaker=BREAKER))
        harness.advance(5 * SECOND)
        assert isinstance(store.admit(ask(breaker=BREAKER)), Admit)

    def test_successes_make_failures_forgotten(self, harness: StoreHarness) -> None:
        """Four successes told with the next question push a failure out of the last four calls."""
        store = self._empty(harness)
        store.settle(settling("a", ClaimAction.FINISH, outcome=Outcome.FAILED))
        store.admit(ask(breaker=BREAKER, successes=4))
        store.settle(settling("b", ClaimAction.FINISH, outcome=Outcome.FAILED))
        assert isinstance(store.admit(ask(breaker=BREAKER)), Admit)

    def test_only_drops_lower_the_rate_and_only_pressure_raises_it(
        self, harness: StoreHarness
    ) -> None:
        """A drop halves the rate; successes alone do not raise it, successes under pressure do."""
        store = self._empty(harness)

        def apart() -> int:
            harness.advance(60 * SECOND)
            store.admit(ask(TEN_PER_SECOND, adaptive=RATES))
            wait = store.admit(ask(TEN_PER_SECOND, adaptive=RATES))
            assert isinstance(wait, Wait)
            return wait.until - wait.now

        store.settle(settling("a", ClaimAction.FINISH, outcome=Outcome.IGNORED))
        assert apart() == 100 * MS
        store.settle(settling("a", ClaimAction.FINISH, outcome=Outcome.THROTTLED))
        store.admit(ask(adaptive=RATES, successes=9))
        assert apart() == 200 * MS
        store.admit(ask(adaptive=RATES, successes=9))
        share = store.look("api", ()).state.share
        assert share.share == 768
        for _ in range(3):
            harness.advance(SECOND)
            store.settle(settling("a", ClaimAction.FINISH, outcome=Outcome.THROTTLED))
        assert store.look("api", ()).state.share.share == 256
        assert WHOLE == 1024

    # ------------------------------------------------------------------ people, corrections

    def test_a_change_makes_older_questions_stale(self, harness: StoreHarness) -> None:
        """From the next decision on the new numbers hold everywhere; who, when and why is kept."""
        store = self._empty(harness)
        assert isinstance(store.admit(ask(TEN_PER_SECOND)), Admit)
        changed = store.change(Change("api", "set", "s", '{"rate":"5/s"}', "ann", "they asked"))
        assert isinstance(store.admit(ask(TEN_PER_SECOND)), Stale)
        assert store.in_force("api") == changed
        assert changed.values == {"s": '{"rate":"5/s"}'}
        fresh = ask(TEN_PER_SECOND, version=changed.version)
        assert not isinstance(store.admit(fresh), Stale)
        (record,) = store.look("api", ()).log
        assert (record["by"], record["why"], record["what"]) == ("ann", "they asked", "set")
        back = store.change(Change("api", "reset", "s", "", "ann", "enough"))
        assert back.values == {}
        assert back.version > changed.version

    def test_a_person_may_pause_and_resume(self, harness: StoreHarness) -> None:
        """Unlike an upstream's own, a person's pause can be ended early."""
        store = self._empty(harness)
        until = store.settle(Settlement("api")).now + 3600 * SECOND
        paused = store.change(Change("api", "pause", "", str(until), "ann", "incident"))
        wait = store.admit(ask(version=paused.version))
        assert isinstance(wait, Wait)
        assert wait.until == until
        resumed = store.change(Change("api", "resume", "", "", "ann", "over"))
        assert isinstance(store.admit(ask(version=resumed.version)), Admit)

    def test_a_paused_key_waits_alone(self, harness: StoreHarness) -> None:
        """An ask that names an instant before which it must not go waits for it."""
        store = self._empty(harness)
        now = store.settle(Settlement("api")).now
        wait = store.admit(ask(not_before=now + SECOND))
        assert isinstance(wait, Wait)
        assert (wait.until, wait.limit, wait.paused) == (now + SECOND, "pause", True)

    def test_a_cost_is_corrected_after_the_call(self, harness: StoreHarness) -> None:
        """Three units more are missing afterwards, and three units given back are there again."""
        for charge in (
            Charge("s", "10/s", interval=100 * MS, capacity=500 * MS),
            Charge("s:a", "10/s", interval=100 * MS, capacity=500 * MS),
            WindowCharge("w", "5 in any 10 s", 5, 10 * SECOND),
            self._quota(harness),
        ):
            store = self._empty(harness)
            store.admit(ask(charge))
            store.adjust("api", [Adjustment(charge, more=3)])
            answers = [store.admit(ask(charge, hold=0, max_wait=10**12)) for _ in range(2)]
            assert [type(answer) for answer in answers] == [Admit, Wait], charge
            store.adjust("api", [Adjustment(charge, more=-2)])
            assert isinstance(store.admit(ask(charge, hold=0, max_wait=10**12)), Admit), charge

    def test_what_the_upstream_says_is_used_takes_room_away(self, harness: StoreHarness) -> None:
        """Four of five used by outsiders leave one; a difference within the tolerance, or a count
        below ours, changes nothing."""
        for charge in (
            Charge("s", "10/s", interval=100 * MS, capacity=500 * MS),
            Charge("s:a", "10/s", interval=100 * MS, capacity=500 * MS),
            WindowCharge("w", "5 in any 10 s", 5, 10 * SECOND),
            self._quota(harness),
        ):
            store = self._empty(harness)
            store.adjust("api", [Adjustment(charge, used=1, tolerance=1)])
            store.adjust("api", [Adjustment(charge, used=4, tolerance=1)])
            store.adjust("api", [Adjustment(charge, used=0, tolerance=1)])
            answers = [store.admit(ask(charge, hold=0, max_wait=10**12)) for _ in range(2)]
            assert [type(answer) for answer in answers] == [Admit, Wait], charge

    def test_a_burst_is_taken_back(self, harness: StoreHarness) -> None:
        """A bucket that has saved up a burst goes on with its rate, from a call now on; a slot that
        was promised before stays promised."""
        for bucket in ("s", "s:a"):
            charge = Charge(bucket, "10/s", interval=100 * MS, capacity=500 * MS)
            store = self._empty(harness)
            store.adjust("api", [paced(charge)])
            waits = [store.admit(ask(charge)) for _ in range(3)]
            assert isinstance(waits[0], Admit)
            slots = [wait.until - wait.now for wait in waits if isinstance(wait, Wait)]
            assert slots == [100 * MS, 200 * MS]
            store.adjust("api", [paced(charge)])
            late = store.admit(ask(charge))
            assert isinstance(late, Wait)
            assert late.until - late.now == 300 * MS

    def _quota(self, harness: StoreHarness) -> QuotaCharge:
        start = harness.store.settle(Settlement("api")).now + 3600 * SECOND
        bounds = tuple(start + days * 86_400 * SECOND for days in (-1, 0, 1, 2))
        return QuotaCharge("q", "5 each day", 5, "day", "UTC", bounds=bounds)  # type: ignore[arg-type]
