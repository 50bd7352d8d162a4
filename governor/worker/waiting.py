"""Waiting places of requests that may not run yet: held in this worker, parked in its upstream's
lot, or deferred, published again with a countdown."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.worker.state import task_ready, task_reserved

from governor.admission.call import Call
from governor.events import TaskLate, TaskParked, TaskThrottled
from governor.governor import Governor
from governor.log_lines import LOG
from governor.messages.message import was_redelivered
from governor.policy.decision import CLAIM, Refuse, Wait
from governor.policy.outcome import Outcome
from governor.policy.settlement import ClaimAction
from governor.worker.backpressure import Backpressure
from governor.worker.body_results import RUN_KEY
from governor.worker.event_loop import Loop, guarded
from governor.worker.lateness import Lateness
from governor.worker.lifecycle import Lifecycle, RequestState
from governor.worker.ownership import Ownership
from governor.worker.parked_message import ParkedMessage
from governor.worker.parking_in import ParkingIn
from governor.worker.parking_out import ParkingOut
from governor.worker.prefetch import Prefetch
from governor.worker.queue import RequestQueue
from governor.worker.recorder import Recorder
from governor.worker.request import GovernedRequest
from governor.worker.resending import Resending
from governor.worker.store_outage import ASK_AGAIN, StoreOutage


class Waiting:
    """Choice of the place where a request of one worker waits.

    Attributes:
        parking_in: takes requests into the lots.
        backpressure: makes arrivals at a lot wait while released tasks come late.
    """

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        governor: Governor,
        consumer: Any,
        loop: Loop,
        lifecycle: Lifecycle,
        recorder: Recorder,
        ownership: Ownership,
        queue: RequestQueue,
        resending: Resending,
        parking_out: ParkingOut,
        prefetch: Prefetch,
        outage: StoreOutage,
        lateness: Lateness,
    ) -> None:
        self._admission = governor.admission
        self._settings = governor.settings
        self._clock = governor.clock
        self._lifecycle = lifecycle
        self._recorder = recorder
        self._ownership = ownership
        self._queue = queue
        self._resending = resending
        self._parking_out = parking_out
        self._prefetch = prefetch
        self._outage = outage
        self._lateness = lateness
        self.backpressure = Backpressure()
        self.parking_in = ParkingIn(
            governor, consumer, loop, outage, self._arrivals_wait, parking_out.taken_in,
            self._is_parked, self._hand_back,
        )  # fmt: skip

    # ------------------------------------------------------------------ the choice

    def wait(self, request: GovernedRequest, call: Call, answer: Wait) -> None:
        """Let a request wait as the store's answer says."""
        assert call.slot is not None
        if answer.paused:
            self.recall(call.upstream)
        # As long as the broker is patient with it.
        stays_until = request.delivery.received + self._settings.max_countdown
        if answer.limit == CLAIM:
            self._wait_for_claim(request, call, stays_until)
            return
        near = answer.charged or answer.until - answer.now <= self._settings.hold
        # A request that may be woken stays where it can be.
        stays = answer.woken and request.lane is None and not self._queue.full
        if near or (stays and self._clock.monotonic() < stays_until):
            self._queue.hold(request, call.slot if near else min(call.slot, stays_until))
        else:
            self.park(request, call)

    def wait_out(self, request: GovernedRequest, call: Call, refused: Refuse) -> None:
        """Let a request wait as long as it may for the end of a pause beyond that: a pause may be
        ended early."""
        call.slot = self._clock.monotonic() + call.gives_up_at - refused.now
        held = call.header.reserved
        until = Wait(refused.now, call.gives_up_at, refused.limit, held, paused=True, woken=True)
        self.wait(request, call, until)

    def _wait_for_claim(self, request: GovernedRequest, call: Call, stays_until: int) -> None:
        """Let a request wait until another delivery's lease ends: in this worker, with nothing held
        but what it has paid for. From the parking lot it would be released, and sent back, again
        and again."""
        assert call.slot is not None
        if call.admission is not None:
            self._recorder.settle(request, ClaimAction.RELEASE)
        # A slot that is paid for is kept as a late body's is: the lease may end in time for it.
        paid = tuple(held for held in call.header.reserved if held.paid)
        call.header = call.header._replace(reserved=paid)
        call.late = call.late or bool(paid)
        if self._clock.monotonic() < stays_until:
            self._queue.hold(request, min(call.slot, stays_until))
        else:
            self._wait_without_lot(request, call)

    def wait_until(self, request: GovernedRequest, call: Call, slot: int) -> None:
        """Let a request ask at monotonic microseconds ``slot``: here, or when the broker hands it
        out."""
        call.slot = slot
        if slot - self._clock.monotonic() <= self._settings.hold:
            self._queue.hold(request, slot)
        else:
            self._resending.defer(request, call)

    def ask_again(
        self, request: GovernedRequest, pause: int | None, wait: int, outcome: Outcome, late: int
    ) -> None:
        """Let a request wait again whose body did not make its call, with no attempt spent.

        Args:
            pause: microseconds for which its upstream is paused, ``None`` if it did not refuse.
            wait: microseconds until it may ask, because a call inside it has to wait.
            late: microseconds by which its body came too late for its slot.
        """
        call = request.call
        assert call is not None
        began = request.request_dict[RUN_KEY]["began"]
        call.header = call.header._replace(began=began)
        if pause is not None or wait:
            call.header = call.header._replace(throttles=call.header.throttles + 1)
            waits = wait if pause is None else pause
            self._lifecycle.tell(request, TaskThrottled, waits, call.header.throttles)
        self._recorder.settle(request, ClaimAction.RELEASE, pause or 0, outcome)
        if late:
            self._came_late(request, call, late)
        if pause is not None:
            self.recall(call.upstream)
        call.covered = False
        request.request_dict.pop(RUN_KEY, None)
        task_ready(request)
        task_reserved(request)
        if wait:
            self.wait_until(request, call, self._clock.monotonic() + wait)
        else:
            self._queue.enter(request)

    def _came_late(self, request: GovernedRequest, call: Call, late: int) -> None:
        assert call.slot is not None
        self._lifecycle.tell(request, TaskLate, late)
        run = request.request_dict[RUN_KEY]
        began = run["until"] + late
        self._lateness.saw(began - call.slot, began - run["handed"], self._clock.monotonic())
        self._admission.came_late(call)

    def recall(self, upstream: str) -> None:
        """Have requests of a paused upstream ask again, which were to use their slots unasked."""
        self._prefetch.drop(upstream)
        self._queue.recall(upstream)

    # ------------------------------------------------------------------ the parking lot

    def follows(self, request: GovernedRequest, call: Call) -> bool:
        """Tell whether a request can only wait behind others of its lane. One that may meet a claim
        asks first: parked, it would be charged in order to find that out."""
        if call.header.reserved or call.had_turn or not self.parking_in.follows(call):
            return False
        comes_back = call.limit == CLAIM or was_redelivered(request.message)
        return call.claim is None or not comes_back

    def park(self, request: GovernedRequest, call: Call) -> None:
        """Let a request wait elsewhere: in its upstream's parking lot, or in the broker."""
        if request.lane is None or self._outage.on(call.upstream, call.parts()):
            self._hand_back(request, call)
            return
        self._prefetch.drop(call.upstream)
        self.park_one(request, call)
        for other in self._queue.take_companions(call):
            self._ownership.step(other, self._park_companion)

    def park_one(self, request: GovernedRequest, call: Call) -> None:
        """Let a request wait in its upstream's parking lot, and no other of its lane."""
        self._lifecycle.move(request, RequestState.PARKING)
        if call.admission is not None:
            # It had its turn and could not use it.
            self._recorder.settle(request, ClaimAction.RELEASE)
        call.header = call.header._replace(reserved=())
        self.parking_in.park(request, call)

    def _park_companion(self, request: GovernedRequest) -> None:
        assert request.call is not None
        self.park_one(request, request.call)

    def _arrivals_wait(self, upstream: str) -> int:
        waiting = self._parking_out.waiting(upstream)
        return self.backpressure.pause(waiting, self._clock.monotonic())

    def _is_parked(self, request: GovernedRequest, call: Call) -> None:
        self._recorder.finish(request)
        if self._lifecycle.events.listeners:
            guarded(partial(self._tell_parked, request, call))
        LOG.debug("Task %s[%s] is parked: it waits for %s",
                  request.name, request.id, call.upstream)  # fmt: skip

    def _tell_parked(self, request: GovernedRequest, call: Call) -> None:
        # The slot is known of those that asked.
        known = call.limit is not None and call.slot is not None
        until = self._lifecycle.wall_of(call.slot or 0) if known else 0
        deferrals = call.header.deferrals + 1
        self._lifecycle.tell(request, TaskParked, until, call.limit or "", deferrals)

    def _hand_back(self, request: GovernedRequest, call: Call) -> None:
        """Let a request wait that could not be parked."""
        self._ownership.step(request, self._wait_without_lot, call)

    def _wait_without_lot(self, request: GovernedRequest, call: Call) -> None:
        if call.slot is None:
            call.slot = self._clock.monotonic() + ASK_AGAIN
        if isinstance(request.message, ParkedMessage):
            # It is kept in the lot until it ends; it waits nowhere else.
            self._queue.hold(request, max(call.slot, self._clock.monotonic() + ASK_AGAIN))
        else:
            self._resending.defer(request, call)
