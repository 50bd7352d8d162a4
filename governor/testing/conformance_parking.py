"""The conformance suite of the parking lots port; used as that of the limiter store."""

from __future__ import annotations

from itertools import count
from typing import Any

from governor.clock import SECOND
from governor.policy.decision import Admit, LaneKey, Park
from governor.policy.limits import Concurrency, Limit, Rule
from governor.policy.parking_values import Arrival, Group, Lane, ReleaseAsk, Steering, Ticket
from governor.policy.settlement import ClaimAction, Settlement
from governor.ports import ParkingLots
from governor.testing.conformance_harness import MS, StoreHarness, ask

FAST: tuple[Rule, ...] = (Limit("1000/s", burst=1000, margin=0),)
TEN_PER_SECOND: tuple[Rule, ...] = (Limit("10/s", margin=0),)
PER_ACCOUNT: tuple[Rule, ...] = (
    Limit("1000/s", burst=1000, margin=0), Limit("1/s", per="account", margin=0),
)  # fmt: skip
ONE_LEASE: tuple[Rule, ...] = (Concurrency(1),)


_questions = count()


def group(limits: tuple[Rule, ...], name: str = "g") -> Group:
    """Lanes with these limits."""
    return Group(name, tuple((rule.key, rule) for rule in limits))


def lane(limits: tuple[Rule, ...], account: str = "a", **more: Any) -> Lane:
    """An account's lane; the account is its fairness key as well."""
    buckets = tuple(f"{rule.key}:{account}" if rule.per else rule.key for rule in limits)
    return Lane(**{"group": "g", "buckets": buckets, "flow": account, **more})


def task(name: str, to: Lane, **more: Any) -> Arrival:
    """A task whose message is its name."""
    return Arrival(name, to, (1,) * len(to.buckets), name.encode(), **more)


class ParkingLotConformance:
    """The contract of a store of parking lots. Subclass it and provide the ``harness`` fixture."""

    def _lots(self, harness: StoreHarness) -> ParkingLots:
        """Lots of a store that has known the upstream long enough for every burst to be back."""
        harness.store.settle(Settlement("api"))
        harness.advance(3600 * SECOND)
        return harness.store.lots

    def _released(
        self, lots: ParkingLots, limits: tuple[Rule, ...], room: int = 100, **more: Any
    ) -> list[Ticket]:
        token = f"t{next(_questions)}"
        question = ReleaseAsk("api", (group(limits),), room, 0, 30 * SECOND, token, **more)
        return list(lots.release(question).tickets)

    def test_a_lane_is_first_in_first_out(self, harness: StoreHarness) -> None:
        """Tasks of one lane are released in the order in which they were parked."""
        lots = self._lots(harness)
        lots.park("api", [task(f"t{n}", lane(FAST)) for n in range(20)])
        first = self._released(lots, FAST, 7)
        rest = self._released(lots, FAST)
        assert [t.payload.decode() for t in first + rest] == [f"t{n}" for n in range(20)]

    def test_parking_twice_leaves_one(self, harness: StoreHarness) -> None:
        """The same delivery parked again, waiting or released, does not wait a second time."""
        lots = self._lots(harness)
        arrival = task("t", lane(FAST))
        assert lots.park("api", [arrival, arrival]).kept == (True, False)
        assert len(self._released(lots, FAST)) == 1
        assert lots.park("api", [arrival]).kept == (False,)
        assert self._released(lots, FAST) == []

    def test_two_messages_of_one_task_wait_side_by_side(self, harness: StoreHarness) -> None:
        """Another message under a task id, waiting or released, is parked beside the first; a copy
        of either is not, also when the other has ended."""
        lots = self._lots(harness)
        first, second = (task("t", lane(FAST), message=name) for name in ("m1", "m2"))
        assert lots.park("api", [first]).kept == (True,)
        (released,) = self._released(lots, FAST)
        assert lots.park("api", [second, first, second]).kept == (True, False, False)
        assert [found.position for found in lots.find("api", "t")] == [0, 1]
        assert self._released(lots, FAST, 0, left=(released.entry,)) == []
        assert lots.park("api", [second]).kept == (False,)
        assert lots.park("api", [first]).kept == (True,)
        entries = [ticket.entry for ticket in self._released(lots, FAST)]
        assert len({*entries}) == 2
        self._released(lots, FAST, left=tuple(entries))
        assert not lots.find("api", "t")

    def test_a_released_message_comes_back_as_itself(self, harness: StoreHarness) -> None:
        """Of two messages of one task the one that comes back from being released is the one that
        was, whatever became of the other."""
        lots = self._lots(harness)
        lots.park("api", [task("t", lane(FAST), message=name) for name in ("m1", "m2")])
        first, second = self._released(lots, FAST)
        self._released(lots, FAST, left=(first.entry,))
        back = task("t", lane(FAST), message="m2", again=True)
        assert lots.park("api", [back, back]).kept == (True, False)
        assert [ticket.entry for ticket in self._released(lots, FAST)] == [second.entry]

    def test_a_copy_of_what_was_released_takes_its_place(self, harness: StoreHarness) -> None:
        """A copy of a released message may come before the worker says that the message has ended;
        what the worker says then does not take the copy away."""
        lots = self._lots(harness)
        lots.park("api", [task("t", lane(FAST), message="m1")])
        (released,) = self._released(lots, FAST)
        copy = task("t", lane(FAST), message="m1", again=True)
        assert lots.park("api", [copy, copy]).kept == (True, False)
        lots.steer("api", Steering("left", (released.entry,)))
        assert [found.position for found in lots.find("api", "t")] == [1]

    def test_a_message_that_was_taken_for_dead_does_not_come_back_as_another(
        self, harness: StoreHarness
    ) -> None:
        """A released message that somebody else has ended meanwhile comes back beside another
        message that has its place now, not instead of it."""
        lots = self._lots(harness)
        lots.park("api", [task("t", lane(FAST), message="m1")])
        self._released(lots, FAST)
        self._released(lots, FAST, left=("t",))
        lots.park("api", [task("t", lane(FAST), message="m2")])
        self._released(lots, FAST)
        lots.park("api", [task("t", lane(FAST), message="m1", again=True)])
        assert [found.position for found in lots.find("api", "t")] == [0, 1]

    def test_all_of_a_task_is_found_and_revoked(self, harness: StoreHarness) -> None:
        """Every attempt and message of a task is found by its id, and revoked by it, however many
        there are; nothing is of a task whose id merely begins alike."""
        lots = self._lots(harness)
        lots.park("api", [task("t", lane(FAST), message=f"m.{n}") for n in range(30)])
        others = [task(name, lane(FAST), message=m) for name in ("t:1", "tt", "s") for m in "ab"]
        lots.park("api", others)
        (released,) = self._released(lots, FAST, 1)
        assert len(lots.find("api", "t")) == 30
        assert len(lots.steer("api", Steering("revoke", ("t", "none")))) == 29
        assert [found.entry for found in lots.find("api", "t")] == [released.entry]
        assert len(self._released(lots, FAST)) == len(others)

    def test_release_is_admission(self, harness: StoreHarness) -> None:
        """No more are released than the limits allow, and the next instant is exact."""
        lots = self._lots(harness)
        lots.park("api", [task(f"t{n}", lane(TEN_PER_SECOND)) for n in range(3)])
        question = ReleaseAsk("api", (group(TEN_PER_SECOND),), 10, 0, 30 * SECOND, "t")
        first = lots.release(question)
        assert len(first.tickets) == 1
        assert first.next - first.now == 100 * MS
        harness.advance(100 * MS - 1)
        assert not lots.release(question).tickets
        harness.advance(1)
        assert len(lots.release(question).tickets) == 1

    def test_released_ahead_of_its_slot_it_is_charged_at_it(self, harness: StoreHarness) -> None:
        """Within the time ahead tasks are released with the slots that are theirs."""
        lots = self._lots(harness)
        lots.park("api", [task(f"t{n}", lane(TEN_PER_SECOND)) for n in range(9)])
        question = ReleaseAsk("api", (group(TEN_PER_SECOND),), 10, 250 * MS, 30 * SECOND, "t")
        released = lots.release(question)
        assert [t.slot - released.now for t in released.tickets] == [0, 100 * MS, 200 * MS]
        assert released.next - released.now == 300 * MS

    def test_room_is_the_most(self, harness: StoreHarness) -> None:
        """Nobody is given more than it has room for, and is told that there is more."""
        lots = self._lots(harness)
        lots.park("api", [task(f"t{n}", lane(FAST)) for n in range(5)])
        released = lots.release(ReleaseAsk("api", (group(FAST),), 2, 0, 30 * SECOND, "t"))
        assert (len(released.tickets), released.more, released.waiting) == (2, True, 3)

    def test_tenants_take_turns(self, harness: StoreHarness) -> None:
        """One tenant with a hundred tasks and one with three: the three go at every second turn."""
        lots = self._lots(harness)
        lots.park("api", [task(f"big{n}", lane(FAST, "big")) for n in range(100)])
        self._released(lots, FAST, 10)
        lots.park("api", [task(f"small{n}", lane(FAST, "small")) for n in range(3)])
        names = [t.payload.decode() for t in self._released(lots, FAST, 7)]
        assert [n for n, name in enumerate(names) if name.startswith("small")] in (
            [0, 2, 4], [1, 3, 5],
        )  # fmt: skip

    def test_a_weight_is_a_share(self, harness: StoreHarness) -> None:
        """A tenant of weight three has three turns for each of one of weight one."""
        lots = self._lots(harness)
        for name, weight in (("big", 3), ("small", 1)):
            lots.park(
                "api", [task(f"{name}{n}", lane(FAST, name, weight=weight)) for n in range(40)]
            )
        names = [t.payload.decode() for t in self._released(lots, FAST, 40)]
        assert sum(name.startswith("big") for name in names) == 30

    def test_priorities_hold_within_a_tenant(self, harness: StoreHarness) -> None:
        """Of one tenant the more urgent task goes first, though it came later."""
        lots = self._lots(harness)
        lots.park("api", [task("later", lane(FAST, rank=9)), task("first", lane(FAST, rank=1))])
        assert [t.entry for t in self._released(lots, FAST)] == ["first", "later"]

    def test_a_lane_that_its_own_limit_holds_up_lets_others_pass(
        self, harness: StoreHarness
    ) -> None:
        """An account at its limit waits for itself; another's task is released meanwhile."""
        lots = self._lots(harness)
        for account in "ab":
            lots.park("api", [task(f"{account}{n}", lane(PER_ACCOUNT, account)) for n in range(2)])
        assert {t.entry for t in self._released(lots, PER_ACCOUNT)} == {"a0", "b0"}
        harness.advance(SECOND)
        assert {t.entry for t in self._released(lots, PER_ACCOUNT)} == {"a1", "b1"}

    def test_a_place_that_comes_free_lets_one_out(self, harness: StoreHarness) -> None:
        """A task that waits for a lease is released when one is given back."""
        lots = self._lots(harness)
        lots.park("api", [task("t0", lane(ONE_LEASE)), task("t1", lane(ONE_LEASE))])
        (first,) = self._released(lots, ONE_LEASE)
        assert self._released(lots, ONE_LEASE) == []
        leases = ("in-flight",)
        harness.store.settle(Settlement("api", first.holder, ClaimAction.FINISH, None, leases))
        (second,) = self._released(lots, ONE_LEASE, freed=leases)
        assert second.entry == "t1"

    def test_what_nobody_speaks_for_comes_back_to_the_front(self, harness: StoreHarness) -> None:
        """A released task whose worker died waits again, first of its lane; a renewed one does
        not."""
        lots = self._lots(harness)
        lots.park("api", [task(f"t{n}", lane(FAST)) for n in range(3)])
        self._released(lots, FAST, 2)
        harness.advance(20 * SECOND)
        lots.renew("api", ["t1"], 30 * SECOND)
        harness.advance(10 * SECOND)
        assert [t.entry for t in self._released(lots, FAST)] == ["t0", "t2"]

    def test_what_has_ended_is_gone(self, harness: StoreHarness) -> None:
        """A released task that has ended never comes back."""
        lots = self._lots(harness)
        lots.park("api", [task("t", lane(FAST))])
        self._released(lots, FAST)
        self._released(lots, FAST, left=("t",))
        assert not lots.find("api", "t")
        harness.advance(60 * SECOND)
        assert self._released(lots, FAST) == []

    def test_who_has_waited_too_long_is_said_to_be_late(self, harness: StoreHarness) -> None:
        """A task past its patience, or that has expired, is handed out as such and charges
        nothing."""
        lots = self._lots(harness)
        lots.park(
            "api",
            [
                task("patience", lane(TEN_PER_SECOND), max_wait=SECOND),
                task("expiry", lane(TEN_PER_SECOND), expires_in=SECOND),
                task("fine", lane(TEN_PER_SECOND)),
            ],
        )
        harness.advance(2 * SECOND)
        tickets = self._released(lots, TEN_PER_SECOND)
        assert [(t.entry, t.late) for t in tickets] == [
            ("patience", True), ("expiry", True), ("fine", False),
        ]  # fmt: skip

    def test_what_nobody_releases_is_found_when_its_time_is_over(
        self, harness: StoreHarness
    ) -> None:
        """Asking for overdue tasks yields, once, those whose time is over, and the instant at which
        the next one's is. They count as released; other tasks go on as if never asked about."""
        lots = self._lots(harness)
        here, there = lane(TEN_PER_SECOND), lane(PER_ACCOUNT, "b", group="theirs")
        lots.park(
            "api",
            [
                task("mine", here, max_wait=SECOND),
                task("first", there, max_wait=SECOND),
                task("second", there, max_wait=2 * SECOND),
                task("third", there),
            ],
        )
        assert lots.overdue("api", ["theirs"], 0, 30 * SECOND).tickets == ()
        harness.advance(SECOND)
        found = lots.overdue("api", ["theirs", "none"], 0, 30 * SECOND)
        assert [(t.entry, t.payload, t.late) for t in found.tickets] == [("first", b"first", True)]
        assert (found.next, found.more, found.waiting) == (found.now + SECOND, False, 3)
        assert lots.overdue("api", ["theirs"], 1, 30 * SECOND).tickets == ()
        harness.advance(SECOND)
        found = lots.overdue("api", ["theirs"], 0, 30 * SECOND)
        assert [t.entry for t in found.tickets] == ["second"]
        assert (found.next, found.waiting) == (0, 2)
        groups = (group(PER_ACCOUNT, "theirs"),)
        lots.steer("api", Steering("left", ("first",)))
        harness.advance(31 * SECOND)
        released = lots.release(ReleaseAsk("api", groups, 9, 0, 30 * SECOND, "t"))
        assert [(t.entry, t.late) for t in released.tickets] == [("second", True), ("third", False)]

    def test_a_new_arrival_does_not_overtake_its_lane(self, harness: StoreHarness) -> None:
        """While others wait in its lane or group, a task that could go now is sent behind them."""
        lots = self._lots(harness)
        where = lane(PER_ACCOUNT)
        lots.park("api", [task(f"t{n}", where) for n in range(2)])
        charges = tuple(
            rule.charge_on(bucket, 1)
            for rule, bucket in zip(PER_ACCOUNT, where.buckets, strict=True)
        )
        key = LaneKey(where.group, where.name)
        assert isinstance(harness.store.admit(ask(*charges, lane=key)), Park)
        self._released(lots, PER_ACCOUNT)
        other = LaneKey(where.group, "another")
        assert isinstance(harness.store.admit(ask(charges[0], lane=other)), Admit)
        assert isinstance(harness.store.admit(ask(*charges, lane=key)), Park)

    def test_who_has_gone_holds_nobody_up(self, harness: StoreHarness) -> None:
        """When the last task of a group is released, a new arrival is let go, though others wait
        in another group."""
        lots = self._lots(harness)
        here, there = lane(FAST, "a", rank=5), lane(FAST, "b", group="another")
        lots.park("api", [task("t0", here), task("t1", there), task("t2", there)])
        groups = (group(FAST), group(FAST, "another"))
        released = lots.release(ReleaseAsk("api", groups, 2, 0, 30 * SECOND, "t"))
        assert [t.entry for t in released.tickets] == ["t1", "t0"]
        charge = FAST[0].charge_on(here.buckets[0], 1)
        key = LaneKey(here.group, here.name)
        assert isinstance(harness.store.admit(ask(charge, lane=key)), Admit)

    def test_people_steer(self, harness: StoreHarness) -> None:
        """A waiting task can be taken out, go to the front or to another lane, with a record."""
        lots = self._lots(harness)
        lots.park("api", [task(f"t{n}", lane(FAST)) for n in range(4)])
        lots.steer("api", Steering("front", ("t2",), None, "ops", "a customer waits"))
        assert list(lots.steer("api", Steering("cancel", ("t1",), None, "ops", "twice"))) == [b"t1"]
        urgent = lane(FAST, rank=0, flow="vip")
        lots.steer("api", Steering("move", ("t3",), urgent, "ops", "urgent"))
        (found,) = lots.find("api", "t3")
        assert (found.lane, found.position) == (urgent, 1)
        assert not lots.find("api", "t1")
        log = harness.store.look("api", ()).log
        assert [record["what"] for record in log] == ["move", "cancel", "front"]
        assert log[0]["why"] == "urgent"
        assert sorted(t.entry for t in self._released(lots, FAST)) == ["t0", "t2", "t3"]
