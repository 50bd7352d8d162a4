"""The consumer bootstep that puts the dispatcher into a worker.

No Celery signal can veto a task. What works in every pool is to stand where the consumer hands
a request to the pool: ``consumer.on_task_request``, wrapped before Celery's own steps copy
it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from celery import bootsteps
from celery.worker.consumer.connection import Connection

import governor.worker.inspect  # noqa: F401 - registers what workers answer to explain
from governor.clock import SECOND, Clock
from governor.governor import Governor
from governor.log_lines import LOG
from governor.telemetry.backends import begin
from governor.telemetry.stats import Stats
from governor.worker.dispatcher import Dispatcher
from governor.worker.entrance import capture_messages
from governor.worker.event_loop import HubLoop, Loop, ThreadLoop, guarded
from governor.worker.pool import CountedSlots, PoolSlots, PreforkSlots
from governor.worker.request import governed_request
from governor.worker.task import GovernedTask, govern

_STATS_EVERY = 0.5
_LAST_WORDS = 5 * SECOND
"""How long a worker that shuts down waits for its dead letters to be written."""


class DispatcherStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Installs the dispatcher; named by ``Governor(app)``."""

    requires = (Connection,)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        governor = Governor.of(consumer.app)
        _govern_tasks(governor)
        self._clock: Clock = governor.clock
        self._loop: Loop
        if consumer.hub is not None:
            self._loop = HubLoop(consumer.hub, consumer.timer, governor.clock)
        else:
            self._loop = ThreadLoop(governor.clock)
        controller = consumer.controller
        slots: PoolSlots
        if controller.process_task == controller._process_task_sem:
            slots = PreforkSlots(controller, self._loop)
        else:
            slots = CountedSlots(controller, consumer.pool, self._loop)
        self._ends = _tell(governor, lambda: self.dispatcher.lifecycle.waiting)
        self.dispatcher = Dispatcher(governor, consumer, self._loop, slots)
        governor.dispatcher = self.dispatcher
        consumer.on_task_request = self.dispatcher.on_request
        capture_messages(consumer, self.dispatcher)
        _begin_when_ready(consumer, self._loop, self.dispatcher)
        _hear_of_queues(consumer, self._loop, self.dispatcher)
        self._governor = governor

    def register_with_event_loop(self, _consumer: Any, hub: Any) -> None:
        """Called by Celery at each connection, after the hub forgot its readers."""
        if isinstance(self._loop, HubLoop):
            self._loop.register(hub)

    def start(self, _consumer: Any) -> None:
        """Nothing: the dispatcher was put in place before the first message."""

    def stop(self, _consumer: Any) -> None:
        """The connection ends, for a reconnection or for good."""
        self.dispatcher.disconnected()

    def shutdown(self, consumer: Any) -> None:
        """The pool has ended: hear what it still had to say, and write it down."""
        deadline = self._clock.monotonic() + _LAST_WORDS
        self._loop.drain()
        while not self.dispatcher.dead_letter_writer.idle() and self._clock.monotonic() < deadline:
            self._clock.sleep(10_000)
            self._loop.drain()
        guarded(self.dispatcher.close)
        self._loop.drain()
        guarded(self.dispatcher.parking_out.upkeep.flush)
        if consumer.hub is not None:
            # The acknowledgements wait in a loop that has ended.
            guarded(partial(_flush, consumer.hub))
        # A process may go on without its worker, as tests do, and start another.
        for end in (self._loop.close, *self._ends, self._governor.rest):
            guarded(end)


def _tell(governor: Governor, waiting: Callable[[], Mapping[str, int]]) -> list[Callable[[], None]]:
    """Begin to log, serve and write what the settings ask for.

    Returns:
        what ends it.
    """
    end = begin(
        governor.events, governor.settings, redact=governor.redactor.text,
        tasks=governor.app.tasks, governed=governor.governed, waiting=waiting,
    )  # fmt: skip
    prefix = governor.settings.stats_file
    if prefix is None:
        return [end]
    stats = Stats(waiting)
    return [_write_stats(stats, prefix), governor.events.listen(stats), end]


def _write_stats(stats: Stats, prefix: str) -> Callable[[], None]:
    """Write the counters twice a second, until what is returned is called."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(_STATS_EVERY):
            guarded(partial(stats.write, prefix))

    def end() -> None:
        over.set()
        thread.join()
        stats.write(prefix)

    thread = threading.Thread(target=run, name="governor-stats", daemon=True)
    thread.start()
    return end


def _govern_tasks(governor: Governor) -> None:
    """Give the governed task types their requests, and those that only a route governs their
    governed body."""
    for name, task in governor.app.tasks.items():
        if governor.governance(name) is None:
            continue
        task.Request = governed_request(task)
        if isinstance(task, GovernedTask):
            govern(task)  # if its own ``bind``, or an annotation, came between
            continue
        retried = getattr(task, "autoretry_for", None)
        if retried:
            LOG.warning(
                "Task %s retries by itself (autoretry_for) but is governed by a route, which knows "
                "nothing of idempotence: its retries stay Celery's", name,
            )  # fmt: skip
        govern(task)


def _hear_of_queues(consumer: Any, loop: Loop, dispatcher: Dispatcher) -> None:
    """Tell the lots when the worker begins or ceases to consume a queue: parked tasks are released
    by the workers that consume theirs."""

    def heard(celery: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **kwargs: Any) -> Any:
            done = celery(*args, **kwargs)
            loop.soon(dispatcher.parking_out.queues_changed)
            return done

        return changed

    consumer.add_task_queue = heard(consumer.add_task_queue)
    consumer.cancel_task_queue = heard(consumer.cancel_task_queue)


def _begin_when_ready(consumer: Any, loop: Loop, dispatcher: Dispatcher) -> None:
    """Parked tasks are handed to Celery, which must be ready for them; at each connection."""
    celery = consumer.on_ready

    def on_ready() -> None:
        celery()
        loop.soon(dispatcher.parking_out.begin)

    consumer.on_ready = on_ready


def _flush(hub: Any) -> None:
    # One turn of the loop would do it, but also poll, for up to ten seconds.
    ready, hub._ready = hub._ready, set()
    for work in ready:
        guarded(work)
