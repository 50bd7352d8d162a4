"""The conformance suite of a limiter store: windows, quotas and calls in flight."""

from __future__ import annotations

from governor.clock import SECOND
from governor.policy.decision import (
    Admit,
    LeaseCharge,
    QuotaCharge,
    Wait,
    WindowCharge,
)
from governor.policy.settlement import ClaimAction, Settlement
from governor.ports import Change
from governor.testing.conformance_harness import (
    MS,
    TEN_PER_SECOND,
    StoreHarness,
    StoreSuite,
    ask,
    settling,
)


class WindowConformance(StoreSuite):
    """Limits that count calls instead of letting them leak."""

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
        """Tasks that wait in a full window get the room of those that leave it, one each."""
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
        """A task that finds the quota used up waits for the next period, and counts there."""
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

    def test_no_more_is_promised_of_a_period_than_it_has(self, harness: StoreHarness) -> None:
        """Of five tasks that wait for the next period of a quota of two, two run in it; the others
        wait for the one after, whose time is not near."""
        store = self._empty(harness)
        now = store.settle(Settlement("api")).now
        bounds = (now - 20 * SECOND, now - 10 * SECOND, now + 5 * SECOND, now + 60 * SECOND)
        two = QuotaCharge("q", "2 each day", 2, "day", "UTC", bounds=bounds)
        for _ in range(2):
            store.admit(ask(two))
        waits = [store.admit(ask(two)) for _ in range(5)]
        found = [(w.until - now, w.charged) for w in waits if isinstance(w, Wait)]
        assert found[:3] == [(5 * SECOND, True), (5 * SECOND, True), (60 * SECOND, False)]
        assert [charged for _, charged in found[2:]] == [False] * 3
        harness.advance(5 * SECOND)
        again = [store.admit(ask(two, reserved=w.reserved)) for w in waits if isinstance(w, Wait)]
        assert [type(answer) for answer in again] == [Admit] * 2 + [Wait] * 3

    def test_a_slot_in_a_period_that_is_promised_away_is_none(self, harness: StoreHarness) -> None:
        """A call whose bucket has room only in the quota's next period waits for the one after when
        that one has been promised to others, although this one is not used up."""
        store = self._empty(harness)
        now = store.settle(Settlement("api")).now
        bounds = (now - 20 * SECOND, now - 10 * SECOND, now + 50 * MS, now + 60 * SECOND)
        two = QuotaCharge("q", "2 each day", 2, "day", "UTC", bounds=bounds)
        store.admit(ask(TEN_PER_SECOND))
        store.settle(Settlement("api", pause=60 * MS))
        for _ in range(2):
            assert isinstance(store.admit(ask(two)), Wait)
        version = store.change(Change("api", "resume", "", "", "ann", "over")).version
        wait = store.admit(ask(TEN_PER_SECOND, two, version=version))
        assert isinstance(wait, Wait)
        assert (wait.until, wait.limit, wait.charged) == (bounds[3], "2 each day", False)

    def test_a_quota_that_was_forgotten_grows_evenly(self, harness: StoreHarness) -> None:
        """Half way through the rest of a period, half of the quota is there: what was used before
        a loss of state is not known."""
        now = harness.store.settle(Settlement("api")).now
        bounds = (now - 20 * SECOND, now - 10 * SECOND, now + 10 * SECOND, now + 20 * SECOND)
        quota = QuotaCharge("q", "10 each day", 10, "day", "UTC", bounds=bounds)
        first = harness.store.admit(ask(quota, hold=0))
        assert isinstance(first, Wait)
        assert first.until == now + 2 * SECOND

    # ------------------------------------------------------------------ concurrency

    def test_places_are_held_by_name_and_given_back(self, harness: StoreHarness) -> None:
        """The third caller of two leases waits, is told that it may be woken, and goes when one
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
        """A body that starts late asks afresh; it takes no second lease."""
        store = self._empty(harness)
        two = LeaseCharge("in-flight", "2 in flight", 2)
        for holder in ("a", "b", "a"):
            assert isinstance(store.admit(ask(two, holder=holder, lease=SECOND)), Admit)

    def test_a_dead_holders_place_comes_free_by_itself(self, harness: StoreHarness) -> None:
        """A lease that is not renewed is free when its time is over; a renewed one is not."""
        store = self._empty(harness)
        two = LeaseCharge("in-flight", "2 in flight", 2)
        for holder in ("a", "b"):
            store.admit(ask(two, holder=holder, lease=30 * SECOND))
        harness.advance(20 * SECOND)
        store.settle(settling("b", ClaimAction.RENEW, "in-flight"))
        harness.advance(10 * SECOND)
        for holder, kind in (("c", Admit), ("d", Wait)):
            assert isinstance(store.admit(ask(two, holder=holder, lease=30 * SECOND)), kind)

    def test_a_renewal_says_whether_the_place_was_there(self, harness: StoreHarness) -> None:
        """A lease that ran out is another's; its first holder is told at its next renewal."""
        store = self._empty(harness)
        one = LeaseCharge("in-flight", "1 in flight", 1)
        store.admit(ask(one, holder="a", lease=30 * SECOND))
        renewal = Settlement("api", "a", ClaimAction.RENEW, None, ("in-flight",), 30 * SECOND)
        harness.advance(20 * SECOND)
        assert not store.settle(renewal).lost
        harness.advance(40 * SECOND)
        assert isinstance(store.admit(ask(one, holder="b", lease=30 * SECOND)), Admit)
        assert store.settle(renewal).lost

    def test_a_place_is_only_taken_when_every_limit_allows(self, harness: StoreHarness) -> None:
        """A call that waits for its slot holds no lease meanwhile."""
        store = self._empty(harness)
        one = LeaseCharge("in-flight", "1 in flight", 1)
        store.admit(ask(TEN_PER_SECOND))
        both = store.admit(ask(TEN_PER_SECOND, one, holder="a", lease=SECOND))
        assert isinstance(both, Wait)
        assert isinstance(store.admit(ask(one, holder="b", lease=SECOND)), Admit)
