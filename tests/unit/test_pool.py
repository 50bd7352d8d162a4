"""Slots of a pool, and the loop that is woken for them: no slot is lost, no wake-up is in vain."""

from __future__ import annotations

import os
import select
from asyncio import CancelledError
from collections import deque
from typing import Any
from unittest.mock import Mock

import pytest
from celery.exceptions import WorkerShutdown

from governor.errors import BodyDied
from governor.testing.clock import FakeClock
from governor.worker import event_loop as loop_module
from governor.worker.event_loop import HubLoop, Work
from governor.worker.pool import CountedSlots, PreforkSlots


class Later:
    """A loop that runs what was brought when it is told to."""

    def __init__(self) -> None:
        self.brought: deque[Work] = deque()

    def soon(self, work: Work) -> None:
        self.brought.append(work)

    def run(self) -> None:
        while self.brought:
            self.brought.popleft()()


def counted(later: Any, size: int = 1) -> CountedSlots:
    return CountedSlots(Mock(), Mock(num_processes=size), later)


def test_a_slot_that_no_request_waits_for_wakes_nothing() -> None:
    """Given back while no request waits, a slot is there for the next; the loop is left alone."""
    later = Later()
    slots, came = counted(later), []
    for number in range(3):
        slots.acquire(came.append, number)
        slots.give_back()
    assert came == [0, 1, 2]
    assert not later.brought


def test_a_request_that_waits_has_the_slot_that_is_given_back() -> None:
    """Never more than the pool has are inside, and each that is given back lets one more in."""
    later = Later()
    slots, came = counted(later, 2), []
    for number in range(5):
        slots.acquire(came.append, number)
    assert came == [0, 1]
    for gone in range(1, 4):
        slots.give_back()
        assert len(came) == gone + 1
        later.run()
        assert len(came) == gone + 2


def test_a_slot_that_is_given_back_at_once_lets_the_next_in() -> None:
    """Also when the next asked for it from inside: it comes in the next round of the loop."""
    later = Later()
    slots, came = counted(later), []

    def first(_: Any) -> None:
        slots.give_back()
        slots.acquire(came.append, "next")

    slots.acquire(first, None)
    assert not came
    later.run()
    assert came == ["next"]


def test_a_slot_is_given_back_once_its_end_is_heard() -> None:
    """The next request is let in after the callback of the one before, and once."""
    later, pool, told = Later(), Mock(num_processes=1), []
    applied = pool.on_apply
    controller = Mock()
    slots = CountedSlots(controller, pool, later)
    controller._process_task.side_effect = lambda _: pool.on_apply(list, callback=told.append)
    slots.acquire(slots.run, "one")
    for name in ("two", "three"):
        slots.acquire(told.append, name)
    (target,), named = applied.call_args
    target()
    later.run()
    assert not told
    named["callback"]("ended")
    later.run()
    assert told == ["ended", "two"]


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        # Raised by a handler of the task's, outside its body.
        (ValueError("no"), ValueError),
        # Celery's threads call back with what it cannot read.
        (KeyboardInterrupt(), BodyDied),
        (CancelledError(), BodyDied),
        # Told of these, Celery raises them again where it hears of the end.
        (SystemExit(3), BodyDied),
        (MemoryError(), BodyDied),
    ],
)
def test_whatever_is_raised_in_a_thread_is_the_end_of_its_task(
    raised: BaseException, seen: type
) -> None:
    """An exception that leaves Celery's tracer is heard as a failure, and the slot comes back."""
    later, pool, told = Later(), Mock(num_processes=1), []
    controller = Mock()
    slots = CountedSlots(controller, pool, later)
    applied = slots._on_apply = Mock()

    def target() -> None:
        raise raised

    controller._process_task.side_effect = lambda _: pool.on_apply(target, callback=told.append)
    slots.acquire(slots.run, "one")
    (counted,), named = applied.call_args
    named["callback"](counted())
    ((failed, info, _),) = told
    assert failed
    assert isinstance(getattr(info.exception, "exc", info.exception), seen)
    slots.acquire(told.append, "next")
    assert told[-1] == "next"


def test_a_killed_worker_is_told_so_by_the_pool() -> None:
    """An exception that ends the worker itself passes, and the task's slot comes back."""
    later, pool = Later(), Mock(num_processes=1)
    slots = CountedSlots(Mock(), pool, later)
    applied = slots._on_apply = Mock()

    def target() -> None:
        raise WorkerShutdown(0)

    slots.acquire(lambda _: pool.on_apply(target, callback=list), "one")
    (counted,), _ = applied.call_args
    with pytest.raises(WorkerShutdown):
        counted()
    came: list[str] = []
    slots.acquire(came.append, "next")
    assert came == ["next"]


@pytest.mark.parametrize("where", ["before the pool", "in the pool"])
def test_a_request_that_no_pool_of_threads_takes_gives_its_slot_back(where: str) -> None:
    """Handing it over raises; its slot is there for the next one."""
    later, pool, came = Later(), Mock(num_processes=1), []
    controller = Mock()
    slots = CountedSlots(controller, pool, later)
    slots._on_apply = Mock(side_effect=RecursionError)
    if where == "in the pool":
        controller._process_task.side_effect = lambda _: pool.on_apply(list, callback=list)
    else:
        controller._process_task.side_effect = TypeError

    def first(request: Any) -> None:
        with pytest.raises((RecursionError, TypeError)):
            slots.run(request)

    slots.acquire(first, "one")
    slots.acquire(came.append, "two")
    later.run()
    assert came == ["two"]


def test_a_request_that_no_process_takes_gives_its_slot_back_and_leaves_no_job() -> None:
    """A warm shutdown waits for every job that the pool knows: one that was never written is
    forgotten."""
    later, controller = Later(), Mock()
    ours = Mock(correlation_id="one", accepted=lambda: False)
    others = Mock(correlation_id="two", accepted=lambda: False)
    controller.pool._pool._cache = {1: ours, 2: others}
    controller._process_task.side_effect = RecursionError
    slots = PreforkSlots(controller, later)
    with pytest.raises(RecursionError):
        slots.run(Mock(id="one"))
    later.run()
    controller._quick_release.assert_called_once_with()
    assert controller.pool._pool._cache == {2: others}


@pytest.mark.parametrize("before", [True, False])
def test_work_brought_while_the_loop_empties_its_pipe(
    before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is done, or the loop is woken for it; and the loop can be woken again."""
    clock = FakeClock()
    loop = HubLoop(Mock(), Mock(), clock)
    done: list[str] = []
    read = os.read

    def interrupted(*args: Any) -> bytes:
        if before:
            loop.soon(lambda: done.append("other"))
        found = read(*args)
        if not before:
            loop.soon(lambda: done.append("other"))
        return found

    def woken() -> bool:
        return bool(select.select([loop._reader], [], [], 0)[0])

    loop.soon(lambda: done.append("one"))
    assert woken()
    with monkeypatch.context() as patch:
        patch.setattr(loop_module.os, "read", interrupted)
        loop.drain()
    assert done == ["one", "other"] or woken()
    if woken():
        loop.drain()
    loop.soon(lambda: done.append("later"))
    assert woken()
    loop.drain()
    assert done == ["one", "other", "later"]


def test_one_wake_up_for_all_that_is_brought() -> None:
    """What is brought before the loop wakes is done in one round, after one wake-up."""
    loop = HubLoop(Mock(), Mock(), FakeClock())
    done: list[int] = []
    for number in range(3):
        loop.soon(lambda number=number: done.append(number))
    assert os.read(loop._reader, 10) == b"\0"
    loop.drain()
    assert done == [0, 1, 2]
