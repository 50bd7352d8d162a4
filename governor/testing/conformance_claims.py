"""The conformance suite of a limiter store: claims of executions."""

from __future__ import annotations

from governor.clock import SECOND
from governor.policy.decision import (
    Admit,
    AlreadyDone,
    OutcomeUnknown,
    Wait,
)
from governor.policy.settlement import ClaimAction, Settlement
from governor.testing.conformance_harness import (
    TEN_PER_SECOND,
    StoreHarness,
    StoreSuite,
    ask,
    claim,
    settling,
)


class ClaimConformance(StoreSuite):
    """One execution of each attempt of a message."""

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

    def test_a_renewal_says_whether_there_was_something_to_renew(
        self, harness: StoreHarness
    ) -> None:
        """The holder of a claim that another delivery has found over has lost it."""
        store = self._empty(harness)
        store.admit(ask(claim=claim("first")))
        assert not store.settle(settling("first", ClaimAction.RENEW)).lost
        harness.advance(30 * SECOND)
        store.admit(ask(claim=claim("second")))
        assert store.settle(settling("first", ClaimAction.RENEW)).lost
        assert not store.settle(settling("first", ClaimAction.FINISH)).lost

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
