"""Whose turn it is: lanes, their tags, and how they wait."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governor.policy.fair_queue import MOST_UNBLOCKED, TURN, FairQueue
from governor.policy.parking_values import Lane

GROUP = "g"


def lane(
    flow: str, *, rank: int = 0, weight: int = 1, bucket: str = "b", group: str = GROUP
) -> Lane:
    return Lane(group, (bucket,), flow, rank, weight)


def served(queue: FairQueue, most: int, cost: int = 1) -> str:
    """The entries that have the next turns, one letter each."""
    order = ""
    for _ in range(most):
        turn = queue.next([GROUP])
        if turn is None:
            break
        queue.serve(turn, cost)
        order += queue.pop(turn.lane)[0]
        queue.fall_back(turn.lane)
    return order


def parked(*lanes: tuple[Lane, str]) -> FairQueue:
    """A queue in which each lane has as many entries as the text has letters."""
    queue = FairQueue()
    for at, entries in lanes:
        for number, letter in enumerate(entries):
            queue.join(f"{letter}{number}", at)
    return queue


# lanes and their entries, the order in which they are served
TURNS = [
    # a lane alone is a FIFO
    ([(lane("a"), "aaa")], "aaa"),
    # two flows take turns, however many of one wait; at equal tags the lane's name decides
    ([(lane("a"), "aaaa"), (lane("b"), "bb")], "ababaa"),
    # a flow of weight two has two turns for each of the other's
    ([(lane("a", weight=2), "aaaa"), (lane("b"), "bb")], "abaaba"),
    # lanes of one flow share its turns, the more urgent one first: A waits behind a, not beside it;
    # at equal tags it waits behind b too, which is more urgent
    ([(lane("a", rank=1), "AA"), (lane("a"), "aa"), (lane("b"), "bbbb")], "ababbAbA"),
]


@pytest.mark.parametrize(("lanes", "order"), TURNS)
def test_whose_turn_it_is(lanes: list[tuple[Lane, str]], order: str) -> None:
    """Flows have turns by their weights, and lanes of equal tags by their ranks."""
    assert served(parked(*lanes), 100) == order


def test_a_costly_task_is_as_many_turns() -> None:
    """A flow whose task cost three has its next turn after three of the other's."""
    queue = parked((lane("a"), "aa"), (lane("b"), "bbbb"))
    assert served(queue, 1, cost=3) == "a"
    assert served(queue, 5) == "bbbab"


def test_who_was_away_gets_no_credit() -> None:
    """A flow that comes late stands beside the others as they are, and takes turns from now on."""
    queue = parked((lane("a"), "aaaaaa"))
    assert served(queue, 3) == "aaa"
    for number in range(3):
        queue.join(f"b{number}", lane("b"))
    # The virtual time is the tag of the latest turn, which is one behind the flow's next.
    assert served(queue, 6) == "bababa"


def test_when_nothing_waits_the_turns_begin_anew() -> None:
    """An empty queue remembers no flow's turns."""
    queue = parked((lane("a"), "aaa"))
    assert served(queue, 3) == "aaa"
    queue.tidy()
    queue.join("b0", lane("b"))
    queue.join("a0", lane("a"))
    assert served(queue, 2) == "ab"


def test_the_front_of_a_lane() -> None:
    """An entry that has had its turn comes before the others of its lane."""
    queue = parked((lane("a"), "a"))
    assert queue.join("x", lane("a"), front=True) is False
    assert queue.queue(lane("a").name) == ["x", "a0"]
    assert queue.join("y", lane("b")) is True


def test_an_entry_leaves_from_anywhere() -> None:
    """A lane goes when its last entry does."""
    queue = parked((lane("a"), "aaa"))
    queue.leave("a1", lane("a"))
    assert served(queue, 1) == "a"
    queue.leave("a2", lane("a"))
    assert (queue.waiting, list(queue.lanes), queue.next([GROUP])) == (0, [], None)


def test_a_blocked_lane_has_no_turn_until_its_instant() -> None:
    """A lane that a limit of its own holds up does not hold up the others."""
    queue = parked((lane("a"), "a"), (lane("b"), "b"))
    queue.block(lane("a"), 20, None)
    assert (queue.standing(lane("a")), list(queue.moments(GROUP))) == ((20, 0), [20])
    assert queue.unblock(GROUP, 19) is False
    assert served(queue, 2) == "b"
    queue.unblock(GROUP, 20)
    assert served(queue, 2) == "a"


def test_a_lease_that_comes_free_makes_a_blocked_lane_ready() -> None:
    """It does so for the lanes that wait for a lease of that bucket, and no others."""
    queue = parked((lane("a"), "a"), (lane("b"), "b"), (lane("c"), "c"))
    queue.block(lane("a"), 20, "x")
    queue.block(lane("b"), 20, "y")
    queue.block(lane("c"), 20, None)
    queue.freed("x", ["another group"])
    assert served(queue, 3) == ""
    queue.freed("x", [GROUP])
    assert served(queue, 3) == "a"


def test_lanes_are_unblocked_a_thousand_at_a_time() -> None:
    """The rest is told to be there still."""
    queue = FairQueue()
    for number in range(MOST_UNBLOCKED + 1):
        at = lane(str(number))
        queue.join(str(number), at)
        queue.block(at, 20, None)
    assert queue.unblock(GROUP, None) is True
    assert queue.unblock(GROUP, None) is False


def test_a_group_that_is_not_asked_about_has_no_turn() -> None:
    """Only lanes of the asker's groups are served; in order of tags, then of instants."""
    queue = parked((lane("a"), "a"), (lane("b", group="other"), "b"), (lane("c"), "c"))
    queue.block(lane("a"), 20, None)
    assert list(queue.in_order(GROUP)) == [lane("c").name, lane("a").name]
    assert (served(queue, 3), queue.waiting) == ("c", 2)


flows = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 4), min_size=2)


@given(flows, st.integers(1, 3))
def test_no_flow_is_ahead_by_more_than_a_turn(weights: dict[str, int], cost: int) -> None:
    """While flows wait, what each was served divided by its weight differs by at most one task of
    each of them: the bound of start-time fair queueing."""
    queue = parked(*((lane(flow, weight=weight), flow * 30) for flow, weight in weights.items()))
    had = dict.fromkeys(weights, 0)
    while all(queue.queue(lane(flow, weight=weight).name) for flow, weight in weights.items()):
        had[served(queue, 1, cost)] += cost
        shares = [(had[flow] / weight, cost / weight) for flow, weight in weights.items()]
        for (one, turn), (other, others_turn) in product(shares, shares):
            # Tags are rounded up to whole millionths of a turn.
            assert one - other <= turn + others_turn + 120 / TURN
