"""The conformance suite of a limiter store: what is kept of an upstream itself."""

from __future__ import annotations

from governor.clock import SECOND
from governor.policy.adaptive import WHOLE
from governor.policy.adjustment import Adjustment, paced
from governor.policy.decision import (
    Admit,
    Charge,
    Stale,
    Wait,
    WindowCharge,
)
from governor.policy.outcome import Outcome
from governor.policy.settlement import ClaimAction, Settlement
from governor.ports import Change, LimiterStore
from governor.testing.conformance_harness import (
    BREAKER,
    MS,
    RATES,
    TEN_PER_SECOND,
    StoreHarness,
    StoreSuite,
    ask,
    settling,
)


class UpstreamConformance(StoreSuite):
    """Breaker, adaptive rate, what people change, and corrections of costs."""

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

    def test_a_settlement_says_how_the_upstream_stands(self, harness: StoreHarness) -> None:
        """A look names the breaker's state, and since when the store knows the upstream."""
        store = self._empty(harness)
        first = store.settle(Settlement("api"))
        failed = settling("a", ClaimAction.FINISH, outcome=Outcome.FAILED)
        probed = settling("p", ClaimAction.FINISH, outcome=Outcome.SUCCESS, probe=True)
        states = [first.breaker, *(store.settle(failed).breaker for _ in range(2))]
        harness.advance(10 * SECOND)
        store.admit(ask(breaker=BREAKER))
        last = store.settle(probed)
        assert [*states, last.breaker] == ["closed", "closed", "open", "half_open"]
        assert last.since == first.since == first.now - 3600 * SECOND

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

    # ------------------------------------------------------------------ people, corrections

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

    def test_what_people_changed_since_then(self, harness: StoreHarness) -> None:
        """The changes of a span are told, newest first, also more of them than a look tells."""
        store = self._empty(harness)
        for number in range(30):
            store.change(Change("api", "set", "s", "{}", "ann", str(number)))
        log = store.log("api", 0)
        assert [record["why"] for record in log] == [str(number) for number in range(29, -1, -1)]
        assert log[0]["by"] == "ann"
        assert store.log("api", int(log[0]["at"]) + 1) == []
        assert store.log("other", 0) == []

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
