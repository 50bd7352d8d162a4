"""The worker's dispatcher: each governed request passes here before it takes a slot of the pool.

The life of a request::

    received → a slot is free → ask ─ Admit ──→ run → settle → acknowledge
                    ↑              ├ Wait ─────→ hold (short) or park (store, acknowledge)
                    └──── held ────┤                              │
                    └─── parked ───┼──────────── released ────────┘
                                   ├ Refuse ───→ dead letter, acknowledge
                                   ├ done ─────→ acknowledge
                                   └ unknown ──→ dead letter, acknowledge

A task that waits long and cannot be parked is deferred: published with a countdown. All of it
happens on the worker's loop. Nothing is acknowledged before it is written or published.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from governor.admission.call import Call
from governor.clock import seconds
from governor.events import ClaimLost, TaskDropped, TaskRefused
from governor.governor import Governor
from governor.log_lines import LOG
from governor.policy.decision import Admit, AlreadyDone, Answer, OutcomeUnknown, Park, Refuse, Wait
from governor.policy.settlement import ClaimAction
from governor.ports import Reason
from governor.worker.asking import Asking, announce
from governor.worker.completion import Completion
from governor.worker.dead_letter_writer import DeadLetterWriter
from governor.worker.description import waiting_here
from governor.worker.event_loop import Loop, guarded
from governor.worker.handover import Handover
from governor.worker.known_upstreams import KnownUpstreams
from governor.worker.lateness import Lateness
from governor.worker.lifecycle import Lifecycle, RequestState
from governor.worker.ownership import Ownership
from governor.worker.pace import Pace
from governor.worker.parked_message import ParkedMessage
from governor.worker.parking_out import ParkingOut
from governor.worker.pool import PoolSlots
from governor.worker.prefetch import Prefetch
from governor.worker.publishing import Publishing
from governor.worker.queue import RequestQueue
from governor.worker.reception import Reception
from governor.worker.recorder import Recorder
from governor.worker.request import GovernedRequest
from governor.worker.resending import Resending
from governor.worker.store_outage import StoreOutage
from governor.worker.waiting import Waiting


class Dispatcher:
    """Decisions of one worker about its requests.

    Args:
        consumer: Celery's consumer.
    """

    def __init__(self, governor: Governor, consumer: Any, loop: Loop, slots: PoolSlots) -> None:
        self._governor = governor
        self._clock = governor.clock
        self._loop = loop
        self._slots = slots
        self._outage = StoreOutage(governor.clock, governor.events)
        self._known_upstreams = KnownUpstreams(governor.events, governor.clock)
        make_known = partial(announce, governor, self._outage, self._known_upstreams)
        self._outage.back = partial(loop.soon, make_known)
        self._pace = Pace()
        self._prefetch = Prefetch(governor.settings.grace)
        self._lateness = Lateness(governor.settings.grace)
        self.publishing = Publishing(governor)
        self.lifecycle = Lifecycle(consumer, governor.events, governor.clock)
        self.dead_letter_writer = DeadLetterWriter(governor, loop)
        self.recorder = Recorder(
            governor, loop, self.lifecycle, self.dead_letter_writer, governor.lease_renewal,
            self._outage, self._known_upstreams,
        )  # fmt: skip
        self._ownership = Ownership(governor.clock, self.recorder, self._withdraw, self._hold)
        self._queue = RequestQueue(
            loop, governor.clock, self.lifecycle, slots, self._use_slot, self._ownership.step
        )
        make_known()
        identity = os.urandom(6).hex()
        self.parking_out = ParkingOut(
            governor, consumer, loop, slots, self._outage, identity, self._pace.within
        )
        resending = Resending(
            governor, loop, self.lifecycle, self.recorder, self.publishing, self._queue
        )
        self._waiting = Waiting(
            governor, consumer, loop, self.lifecycle, self.recorder, self._ownership, self._queue,
            resending, self.parking_out, self._prefetch, self._outage, self._lateness,
        )  # fmt: skip
        self._parking_in = self._waiting.parking_in
        self.parking_out.before_release = self._parking_in.take_back
        self._reception = Reception(
            governor, self.lifecycle, self.recorder, self._parking_in, identity
        )
        self._asking = Asking(governor, self._outage, self.recorder, self._prefetch, self._pace)
        self.handover = Handover(
            governor, consumer, slots, self.lifecycle, self.recorder, self._ownership,
            self._lateness,
        )  # fmt: skip
        self.completion = Completion(
            governor, self.lifecycle, self.recorder, self._ownership, self.parking_out, resending,
            self._waiting,
        )  # fmt: skip
        self._end_news = governor.store.listen(self.heard)

    def close(self) -> None:
        """End the dispatcher's threads, once they have done what they were given."""
        guarded(self._end_news)
        guarded(self.dead_letter_writer.close)

    # ------------------------------------------------------------------ receive

    def on_request(self, request: Any) -> None:
        """Take over a request that Celery has received and that wants a slot of the pool."""
        if not isinstance(request, GovernedRequest):
            self.on_loop(partial(self._slots.acquire, self.handover.run_ungoverned, request))
        elif self._loop.here():
            self._ownership.step(request, self._received)
        else:
            self._loop.soon(partial(self._ownership.step, request, self._received))

    def on_loop(self, work: Callable[[], object]) -> None:
        """Run ``work`` on the loop: now, when this is it."""
        if self._loop.here():
            guarded(work)
        else:
            self._loop.soon(work)

    def _received(self, request: GovernedRequest) -> None:
        ticket = self._reception.note(request)
        if isinstance(request.message, ParkedMessage):
            self.parking_out.redeemed(request)
        call = self._reception.call_of(request)
        if call is None:
            return
        if ticket is not None:
            if not self._reception.redeem(request, call, ticket):
                return
            assert call.slot is not None
            if call.slot > self._clock.monotonic():
                self._queue.hold(request, call.slot)
            else:
                self._queue.release(request)
        elif self._waiting.follows(request, call):
            self._waiting.park_one(request, call)
        elif request.eta is not None:
            self._queue.enter_from_timer(request)
        else:
            self._queue.enter(request)

    # ------------------------------------------------------------------ slot

    def _use_slot(self, _: None) -> None:
        """Decide about the next queued request, then use our pool slot or give it back. Called by
        Celery's semaphore: nothing gets out."""
        request = self._queue.next()
        if request is None or not self._ownership.step(request, self._decide):
            self._slots.give_back()
        else:
            self.handover.run(request)

    # ------------------------------------------------------------------ decide

    def _decide(self, request: GovernedRequest) -> bool:
        """Decide whether a request runs now. If not, it waits, or its end is on its way."""
        if request.delivery.epoch != self._reception.epoch:
            self._lost(request)
            return False
        call = request.call or self._reception.call_of(request)
        if call is None or request.revoked():
            return False
        now = self._clock.monotonic()
        self._pace.tick(now)
        if call.had_turn:
            self._waiting.backpressure.told(call.slot or now, now)
        runs = self._at_its_slot(request, call, now) if call.covered else None
        if runs is None and self._waiting.follows(request, call):
            self._waiting.park(request, call)
            runs = False
        if runs is None:
            runs = self._prefetch.take(call, now) or self._asked(request, call, now)
        if runs:
            self.handover.prepare(request, call, now)
            if call.admission is not None and call.admission.probe:
                self._known_upstreams.probes(call.upstream)
        return runs

    def _at_its_slot(self, request: GovernedRequest, call: Call, now: int) -> bool | None:
        """Tell whether a call charged for its slot runs now; ``None``: it must ask again."""
        assert call.slot is not None
        if now < call.slot:
            self._queue.hold(request, call.slot)
            return False
        call.covered = False
        in_time = self.handover.in_time(call, now)
        call.full = call.full and in_time
        if in_time or isinstance(request.message, ParkedMessage):
            call.header = call.header._replace(reserved=())
        return True if in_time else None

    def _asked(self, request: GovernedRequest, call: Call, now: int) -> bool:
        answer = self._asking.ask(call, now)
        if answer is None:
            self._queue.hold(request, self._asking.again_at(call))
            return False
        return self._act(request, call, answer)

    # ------------------------------------------------------------------ act

    def _act(self, request: GovernedRequest, call: Call, answer: Answer) -> bool:
        """Do what follows from an answer; tell whether the request runs."""
        match answer:
            case Admit(now=now) if call.header.throttles and now > call.gives_up_at:
                why = f"it was told {call.header.throttles} times to wait, beyond max_wait"
                self.recorder.bury(request, Reason.DEFERRAL_BUDGET_EXHAUSTED, why)
            case Admit():
                return True
            case Wait():
                self._known_upstreams.told_to_wait(call.upstream, answer)
                self._waiting.wait(request, call, answer)
            case Park():
                self._waiting.park(request, call)
            case Refuse(now=now, paused=True) if now < call.gives_up_at:
                self._waiting.wait_out(request, call, answer)
            case Refuse():
                wait = answer.until - answer.now
                why = f"{answer.limit} has its next slot in {seconds(wait):.0f} s, beyond max_wait"
                self.lifecycle.tell(request, TaskRefused, wait, answer.limit)
                self.recorder.bury(request, Reason.DEFERRAL_BUDGET_EXHAUSTED, why)
            case AlreadyDone():
                LOG.info("Task %s[%s] has already run: dropped", request.name, request.id)
                self.lifecycle.tell(request, TaskDropped)
                self.recorder.finish(request)
            case OutcomeUnknown():
                why = "the worker that began it died; whether the call was made is not known"
                self.lifecycle.tell(request, ClaimLost, call.claim.attempt if call.claim else 0)
                self.recorder.bury(request, Reason.OUTCOME_UNKNOWN, why)
        return False

    # ------------------------------------------------------------------ owning

    def _hold(self, request: GovernedRequest, until: int) -> None:
        self._queue.hold(request, until)

    def _withdraw(self, request: GovernedRequest) -> None:
        self._queue.withdraw(request)
        self._parking_in.forget(request)

    def _lost(self, request: GovernedRequest) -> None:
        """Let go of a request that did not begin and whose message is the broker's again."""
        self.recorder.settle(request, ClaimAction.RELEASE)
        self.lifecycle.move(request, RequestState.RETURNED)

    def disconnected(self) -> None:
        """Let go of all requests that do not run: the broker connection is gone, and the broker
        hands their messages out again."""
        self._reception.epoch += 1
        self.lifecycle.window_is_new()
        for request in self.handover.take_unwritten():
            guarded(partial(self._lost, request))
        self.parking_out.give_back()
        for request in self._queue.clear():
            guarded(partial(self._lost, request))
        self._slots.clear()

    def heard(self, upstream: str, what: str) -> None:
        """Wake requests that wait for ``upstream`` and may go earlier; from any thread; see
        :meth:`~governor.ports.LimiterStore.listen`."""
        self._loop.soon(partial(self._wake, upstream, what))
        self._loop.soon(partial(self.parking_out.heard, upstream, what))

    def _wake(self, upstream: str, what: str) -> None:
        if what in {"", "change"}:
            self._prefetch.drop(upstream)
        self._queue.wake(upstream, what)

    # ------------------------------------------------------------------ for people

    def waiting(self) -> list[dict[str, Any]]:
        """Describe the tasks that wait in this worker; see :mod:`governor.worker.description`."""
        return waiting_here(self._queue.held(), self._queue.queued(), self._clock)

    def late_starts(self) -> dict[str, int]:
        """Report how late bodies start in this worker."""
        return self._lateness.told()
