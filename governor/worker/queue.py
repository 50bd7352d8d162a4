"""Requests that wait in this worker: for a pool slot, or for an instant.

Queued requests are *new* or *due*. Due ones had a slot in their limits, which does not wait, and
come first. Held requests wait for an instant, without a timer each.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count

from governor.admission.call import Call
from governor.clock import Clock
from governor.events import TaskHeld
from governor.worker.event_loop import Loop, guarded
from governor.worker.lifecycle import ENDED, Lifecycle, RequestState
from governor.worker.pool import PoolSlots
from governor.worker.request import GovernedRequest

_MOST_PROBES = 4
"""Held requests that ask again when a half-open breaker has heard of a probe."""

MOST_HELD = 1_000
"""Held requests beyond which those that may be woken are parked or deferred."""

Step = Callable[..., object]
"""Does one step of a request's life; see :class:`~governor.worker.ownership.Ownership`."""


class HeldRequests:
    """A heap of requests by their instants, and one timer to the earliest.

    Args:
        release: called on the loop with each request whose time has come.
    """

    def __init__(
        self, loop: Loop, clock: Clock, release: Callable[[GovernedRequest], None]
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._release = release
        self._heap: list[tuple[int, int, GovernedRequest]] = []
        self._number = count()
        self._timer_at: int | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def hold(self, request: GovernedRequest, until: int) -> None:
        """Release ``request`` at monotonic microseconds ``until``."""
        heapq.heappush(self._heap, (until, next(self._number), request))
        self._set_timer()

    def requests(self) -> list[GovernedRequest]:
        """List all requests, in no order."""
        return [request for _, _, request in self._heap]

    def look(self) -> None:
        """Release the requests whose time has come; a busy loop may be late with its timer."""
        if not self._heap:
            return
        now = self._clock.monotonic()
        while self._heap and self._heap[0][0] <= now:
            self._release(heapq.heappop(self._heap)[2])

    def let_out(self, may_go: Callable[[GovernedRequest], bool], most: int) -> None:
        """Release requests that may go before their time, at most ``most``, first come first."""
        for request in self.take(may_go, most):
            self._release(request)

    def take(self, wanted: Callable[[GovernedRequest], bool], most: int) -> list[GovernedRequest]:
        """Take wanted requests out unreleased, at most ``most``, first come first."""
        chosen = [entry for entry in self._heap if wanted(entry[2])]
        chosen = sorted(chosen, key=lambda entry: entry[1])[:most]
        if chosen:
            numbers = {entry[1] for entry in chosen}
            self._heap = [entry for entry in self._heap if entry[1] not in numbers]
            heapq.heapify(self._heap)
        return [request for _, _, request in chosen]

    def clear(self) -> list[GovernedRequest]:
        """Let go of all requests, unreleased."""
        requests = self.requests()
        self._heap.clear()
        return requests

    def _set_timer(self) -> None:
        if self._heap and (self._timer_at is None or self._heap[0][0] < self._timer_at):
            self._timer_at = self._heap[0][0]
            self._loop.at(self._timer_at, self._wake)

    def _wake(self) -> None:
        now = self._clock.monotonic()
        if self._timer_at is not None and self._timer_at <= now:
            self._timer_at = None
        try:
            self.look()
        finally:
            self._set_timer()


class RequestQueue:
    """Waiting requests of one worker: new, due, held.

    Args:
        use: called with ``None`` for each pool slot that was acquired for a queued request; it
            takes one with :meth:`next`.
        step: does one step of a request's life.
    """

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        loop: Loop,
        clock: Clock,
        lifecycle: Lifecycle,
        slots: PoolSlots,
        use: Callable[[None], None],
        step: Step,
    ) -> None:
        self._loop = loop
        self._lifecycle = lifecycle
        self._slots = slots
        self._use = use
        self._step = step
        self._due: deque[GovernedRequest] = deque()
        self._new: deque[GovernedRequest] = deque()
        self._held = HeldRequests(loop, clock, self._let_go)

    # ------------------------------------------------------------------ in

    def enter(self, request: GovernedRequest) -> None:
        """Queue a request for a pool slot; its admission is asked for when there is one."""
        self._lifecycle.move(request, RequestState.QUEUED)
        if request.call is not None and request.call.had_turn:
            self._due.appendleft(request)
        else:
            self._new.append(request)
        self._want_slot()

    def enter_from_timer(self, request: GovernedRequest) -> None:
        """Queue a request whose countdown is over. kombu's hub fires ten timers in a pass and may
        then sleep for a second with more of them due; work brought to the loop keeps it awake."""
        self._lifecycle.move(request, RequestState.QUEUED)
        self._new.append(request)
        self._loop.soon(self._want_slot)

    def hold(self, request: GovernedRequest, until: int) -> None:
        """Let a request wait in this worker until monotonic microseconds ``until``."""
        self._lifecycle.move(request, RequestState.HELD)
        self._held.hold(request, until)
        if self._lifecycle.events.listeners:
            guarded(partial(self._tell_held, request, until))

    def _tell_held(self, request: GovernedRequest, until: int) -> None:
        limit = "" if request.call is None else request.call.limit or ""
        self._lifecycle.tell(request, TaskHeld, self._lifecycle.wall_of(until), limit)

    def release(self, request: GovernedRequest) -> None:
        """Queue a request whose instant has come."""
        if request.state in ENDED:
            # Revoked, or expired, while it was held.
            return
        self._lifecycle.move(request, RequestState.QUEUED)
        self._due.append(request)
        self._want_slot()

    def _let_go(self, request: GovernedRequest) -> None:
        self._step(request, self.release)

    def _want_slot(self) -> None:
        self._slots.acquire(self._use, None)

    # ------------------------------------------------------------------ out

    def next(self) -> GovernedRequest | None:
        """Take the next queued request; slots do not wait, so those that had one come first."""
        guarded(self._held.look)
        for queue in (self._due, self._new):
            while queue:
                request = queue.popleft()
                if request.state is RequestState.QUEUED:
                    return request
        # Those the slot was acquired for were revoked, or went back with a lost connection.
        return None

    def withdraw(self, request: GovernedRequest) -> None:
        """Take a request out of wherever it waits here."""
        for queue in (self._due, self._new):
            if request in queue:
                queue.remove(request)
        self._held.take(lambda other: other is request, 1)

    def take_companions(self, call: Call) -> list[GovernedRequest]:
        """Take new requests of a call's lane out: those that come after are parked without being
        asked about, and would overtake them."""
        found = [
            other for other in self._new
            if (its := other.call) is not None and other.state is RequestState.QUEUED
            and its.lane == call.lane and its.upstream == call.upstream
            # One that holds something keeps it.
            and not its.header.reserved
        ]  # fmt: skip
        for other in found:
            self._new.remove(other)
        return found

    def clear(self) -> list[GovernedRequest]:
        """Let go of all requests."""
        requests = [*self._held.clear(), *self._due, *self._new]
        self._due.clear()
        self._new.clear()
        return requests

    # ------------------------------------------------------------------ wake-ups

    def wake(self, upstream: str, what: str) -> None:
        """Release held requests that may go earlier.

        Args:
            what: a bucket in which a lease came free, ``breaker``, ``change``, or nothing when news
                may have been missed.
        """

        def may_go(request: GovernedRequest) -> bool:
            call = request.call
            if call is None or upstream not in {"", call.upstream}:
                return False
            if what in {"", "change"}:
                call.covered = False
                return True
            # Not one whose limits have a lease but which waits for something else.
            if call.waits_for is None or not call.waits_for.woken:
                return False
            return call.waits_for.limit == "breaker" if what == "breaker" else what in call.leases

        if what == "lot":
            return
        # One lease for one; how many a breaker's next step lets through is not known.
        most = {"": MOST_HELD, "change": MOST_HELD, "breaker": _MOST_PROBES}.get(what, 1)
        self._held.let_out(may_go, most)

    def recall(self, upstream: str) -> None:
        """Have held requests of a paused upstream ask again: slots that were to be used without
        asking are asked about."""
        for request in self._held.requests():
            call = request.call
            if call is not None and call.upstream == upstream:
                call.covered = False

    # ------------------------------------------------------------------ looked at

    @property
    def full(self) -> bool:
        """Tell whether no more requests are held only because they may be woken."""
        return len(self._held) >= MOST_HELD

    def held(self) -> list[GovernedRequest]:
        """List the held requests, in no order."""
        return self._held.requests()

    def queued(self) -> list[GovernedRequest]:
        """List the queued requests in their order."""
        return [*self._due, *self._new]
