"""Deliveries that meet another one's claim, with the real dispatcher on a simulated loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from governor.clock import SECOND
from governor.keys import body_id
from governor.messages.message import copy_of
from governor.policy.decision import Answer, Ask, ClaimAsk, OutcomeUnknown
from governor.policy.settlement import ClaimAction, Settlement
from governor.ports import Reason
from tests.unit.test_dispatcher_simulated import RATE, World

LEASE = 30 * SECOND
TASKS = 400
COME_BACK = 4


class ClaimWorld(World):
    """A worker of tasks that are not idempotent. Deaths are kept here instead of in a database."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(Random(0), 0, folder, idempotent=False, **options)
        self.dead: list[tuple[str, Reason]] = []
        self.asked: list[Ask] = []
        self.dispatcher.dead_letter_writer.hold = self._dies  # type: ignore[method-assign]
        admit_many = self.store.admit_many

        def seen(asks: Sequence[Ask]) -> Sequence[Answer]:
            self.asked += asks
            return admit_many(asks)

        self.store.admit_many = seen  # type: ignore[method-assign]

    def _dies(self, request: Any, reason: Reason, *rest: Any) -> None:
        self.dead.append((request.id, reason))
        rest[-1]()

    def claimed_elsewhere(
        self, number: int, tenant: str, token: str = "a killed worker", lease: int = LEASE
    ) -> Answer:
        """Another worker's delivery of this message asks for its admission."""
        body = copy_of(self.message(number, tenant)).body
        claim = ClaimAsk(f"{tenant}{number}", 0, body_id(body), token, lease, 3600 * SECOND)
        return self.store.admit(Ask("api", (), 0, 0, 0, 0, claim=claim))

    def begun(self) -> int:
        return sum(map(len, self.began.values()))


@pytest.mark.parametrize("parked_first", [False, True])
def test_waiting_for_a_claim_costs_others_nothing(tmp_path: Path, parked_first: bool) -> None:
    """Tasks whose worker was killed in the middle wait until its leases end: the worker asks once
    when they come back and once then, and all others have the whole rate meanwhile. It is the same
    for those that come out of the parking lot, but for the slot each was released with."""
    world = ClaimWorld(tmp_path)
    if parked_first:
        # Others of their lane wait, so they are parked unasked; then the claims are taken.
        for number in range(3):
            world.send(number, "a")
        world.loop.run_for(SECOND // RATE // 2)
    for number in range(1000, 1000 + COME_BACK):
        world.claimed_elsewhere(number, "a")
        world.send(number, "a", redelivered=not parked_first)
    for number in range(3, TASKS):
        world.send(number, "a")
    if not parked_first:
        for number in range(3):
            world.send(number, "a")
    lost = COME_BACK if parked_first else 0
    world.loop.run_for((TASKS + lost) * SECOND // RATE + SECOND)
    assert world.begun() == TASKS
    assert not world.dead
    questions = [
        ask for ask in world.asked
        if ask.claim is not None and ask.claim.task_id in {f"a{n}" for n in range(1000, 1004)}
    ]  # fmt: skip
    assert len(questions) == COME_BACK
    world.loop.run_for(LEASE)
    assert world.begun() == TASKS
    assert sorted(world.dead) == [(f"a{n}", Reason.OUTCOME_UNKNOWN) for n in range(1000, 1004)]


def test_a_released_task_keeps_its_slot_while_it_waits_for_a_claim(tmp_path: Path) -> None:
    """A task that meets another delivery's claim when it comes out of the parking lot has paid for
    its slot. When that delivery gives its claim back, the task begins at its second question,
    although all others wait for the limit."""
    world = ClaimWorld(tmp_path)
    for number in range(3):
        world.send(number, "a")
    world.loop.run_for(SECOND // RATE // 2)
    # Its worker was killed a while ago.
    world.claimed_elsewhere(1000, "a", lease=SECOND)
    world.send(1000, "a")
    for number in range(3, TASKS):
        world.send(number, "a")
    world.loop.run_for(SECOND // 2)
    asked = [ask for ask in world.asked if ask.claim and ask.claim.task_id == "a1000"]
    assert len(asked) == 1
    assert asked[0].claim is not None
    released = Settlement("api", "a killed worker", ClaimAction.RELEASE, asked[0].claim)
    world.store.settle(replace(released, claim=replace(asked[0].claim, token="a killed worker")))
    world.loop.run_for(SECOND)
    asked = [ask for ask in world.asked if ask.claim and ask.claim.task_id == "a1000"]
    assert len(asked) == 2
    assert 1000 in world.began["a"]


def test_an_execution_that_was_buried_never_begins(tmp_path: Path) -> None:
    """A worker stands still between claiming a task and its body's beginning, for longer than its
    lease; another delivery is told that the outcome is unknown. Then the first, being late, asks
    again, and is buried too instead of running."""
    world = ClaimWorld(tmp_path)
    # From here on the pool's processes stand still as well.
    world.random.choice = lambda _: LEASE + SECOND  # type: ignore[method-assign]
    world.app.governor.lease_renewal.add = lambda renewal: None  # type: ignore[method-assign]
    world.send(1, "a")
    world.loop.run_for(LEASE + SECOND // 2)
    assert isinstance(world.claimed_elsewhere(1, "a", "second"), OutcomeUnknown)
    world.loop.run_for(2 * LEASE)
    assert world.begun() == 0
    assert world.dead == [("a1", Reason.OUTCOME_UNKNOWN)]
