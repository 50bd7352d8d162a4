"""The worker's gate: every governed request passes here before it takes a place in the pool,
and again when it ends.

The life of a request::

    received → a place is free → ask ─ Admit ──→ run → settle → acknowledge
                    ↑              ├ Wait ─────→ hold (short) or defer (publish, acknowledge)
                    └──── held ────┘
                                   ├ Refuse ───→ dead letter, acknowledge
                                   ├ done ─────→ acknowledge
                                   └ unknown ──→ dead letter, acknowledge

All of it happens on the worker's loop. Dead letters are written by a thread; their end comes
back to the loop. Nothing is acknowledged before it is written or published.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count, islice
from typing import Any

from celery.worker.state import task_ready, task_reserved

from governor.clock import SECOND, as_datetime, seconds
from governor.errors import DeclarationError, StoreUnavailable
from governor.execution.admission import Call, charges_of
from governor.execution.deferral import deferred, retried
from governor.execution.header import Header
from governor.governor import Governor
from governor.policy.decision import (
    Admit,
    AlreadyDone,
    Answer,
    ClaimAsk,
    OutcomeUnknown,
    Refuse,
    Wait,
)
from governor.ports import ClaimAction, MessageCopy, Reason
from governor.worker.claims import RunningClaims
from governor.worker.funeral import Funeral
from governor.worker.loop import Loop, guarded
from governor.worker.messages import Publisher, copy_of
from governor.worker.outage import ASK_AGAIN, StoreOutage
from governor.worker.places import Places
from governor.worker.request import GovernedRequest
from governor.worker.settlement import Settlement
from governor.worker.task import RUN_KEY
from governor.worker.verdicts import Verdict, judge
from governor.worker.waiting import WaitingRoom

_log = logging.getLogger("governor")

_PUBLISH_AGAIN = SECOND
_LONGEST_LEAD = SECOND // 2
"""A deferred task comes back this long before its slot, so that Celery's timers, which fire ten
at a pass and may sleep a second, do not make it late."""

_MOST_AHEAD = 7
"""Decisions asked for in advance with one that is due."""

_MOST_HELD = 1_000
"""Beyond so many held tasks the prefetch window is not widened any further."""


class Pace:
    """How fast places come free: a moving average of the time between them."""

    def __init__(self) -> None:
        self._last = 0
        self._apart = SECOND

    def tick(self, now: int) -> None:
        """A place was taken at monotonic microseconds ``now``."""
        self._apart = (7 * self._apart + min(now - self._last, SECOND)) // 8
        self._last = now

    def within(self, span: int) -> int:
        """How many more places are likely to come free within ``span`` microseconds."""
        return min(span // max(self._apart, 1), _MOST_AHEAD)


class Gate:
    """Admission and settlement of one worker.

    Args:
        consumer: Celery's consumer.
        pass_on: what Celery does with a request: ``consumer.on_task_request`` as it was.
    """

    def __init__(
        self,
        governor: Governor,
        consumer: Any,
        loop: Loop,
        places: Places,
        pass_on: Callable[[Any], None],
        *,
        counted: bool,
    ) -> None:
        self._governor = governor
        self._settings = governor.settings
        self._clock = governor.clock
        self._stats = governor.stats
        self._consumer = consumer
        self._loop = loop
        self._places = places
        self._pass_on = pass_on
        self._counted = counted
        self._epoch = 0
        self._pace = Pace()
        # Who wants a place. Slots do not wait: those whose slot has come go first.
        self._due: deque[GovernedRequest] = deque()
        self._new: deque[GovernedRequest] = deque()
        # Claims whose body has not begun, as far as is known: no more of them than places.
        self._handed_on: list[tuple[GovernedRequest, Any]] = []
        self._room = WaitingRoom(loop, governor.clock, self._released)
        self._publisher = Publisher(governor.app)
        self._broker_away_until = 0
        self._outage = StoreOutage(governor.clock)
        self._claims = RunningClaims(governor.store, governor.clock)
        self.funeral = Funeral(governor, loop)
        self.settlement = Settlement(governor, self.funeral, self._claims, self._outage)
        self._identity = os.urandom(6).hex()
        self._delivery = count()
        self._make_known()

    # ------------------------------------------------------------------ the way in

    def on_request(self, request: Any) -> None:
        """Celery's hand-over of a request that wants a place in the pool."""
        guarded(partial(self._received, request))

    def on_loop(self, work: Callable[[], None]) -> None:
        """Run ``work`` on the loop: now, when this is it."""
        if self._loop.here():
            guarded(work)
        else:
            self._loop.soon(work)

    def _received(self, request: Any) -> None:
        if not isinstance(request, GovernedRequest):
            if self._counted:
                self.on_loop(partial(self._places.acquire, self._places.run, request))
            else:
                self._pass_on(request)
            return
        governance = self._governor.governance(request.task.name)
        assert governance is not None
        header = Header.from_message(request.request_dict)
        request.token = f"{self._identity}.{next(self._delivery)}"
        request.epoch = self._epoch
        if not isinstance(request.args, list | tuple) or not isinstance(request.kwargs, dict):
            self.settlement.bury(
                request, Reason.INVALID_MESSAGE, "its arguments are no list and mapping"
            )
            return
        try:
            charges = charges_of(governance.plan, header, request.args, request.kwargs)
        except DeclarationError as exc:
            self.settlement.bury(request, Reason.INVALID_MESSAGE, str(exc))
            return
        claim = None
        if not governance.idempotent:
            claim = ClaimAsk(
                request.id, int(request.request_dict.get("retries") or 0), request.token,
                self._settings.claim_lease, self._settings.claim_keep,
            )  # fmt: skip
        request.call = Call(governance.plan, charges, header, claim)
        self.settlement.waits(request, True)
        enter = partial(self._enter, request)
        if request.eta is not None:
            # Its timer fired. kombu's hub fires ten in a pass and may then sleep for a second
            # with more of them due; work brought to the loop keeps it awake.
            self._loop.soon(enter)
        else:
            self.on_loop(enter)

    def _enter(self, request: GovernedRequest) -> None:
        self._new.append(request)
        self._places.acquire(self._occupy, None)

    def _released(self, request: GovernedRequest) -> None:
        self._unhold(request)
        self._due.append(request)
        self._places.acquire(self._occupy, None)

    def _occupy(self, _: None) -> None:
        """A place is ours: decide about whoever is next, then use it or give it back. Called by
        Celery's semaphore, so nothing may get out."""
        waiting = self._due or self._new
        if not waiting:
            # Those it was asked for went back to the broker with a lost connection.
            self._places.give_back()
            return
        request = waiting.popleft()
        self._pace.tick(self._clock.monotonic())
        if request.epoch != self._epoch:
            # Its message went back to the broker with a lost connection.
            self._places.give_back()
            return
        try:
            run = self._decide(request)
        except Exception:
            _log.exception("Task %s[%s]: no decision", request.name, request.id)
            self._hold(request, self._clock.monotonic() + ASK_AGAIN)
            run = False
        if run:
            guarded(partial(self._run, request))
        else:
            self._places.give_back()

    # ------------------------------------------------------------------ the decision

    def _decide(self, request: GovernedRequest) -> bool:
        """Whether to run it now. If not, it is held, deferred or buried already."""
        call = _call(request)
        if request.revoked():
            self.settlement.waits(request, False)
            return False
        now = self._clock.monotonic()
        if call.settled and call.slot is not None:
            call.settled = False
            if call.slot <= now <= call.slot + self._settings.grace:
                call.header = replace(call.header, reserved=())
                return True
        if now < self._outage.until:
            self._hold(request, self._outage.until)
            return False
        ahead = self._ahead()
        try:
            answers = self._governor.admission.ask_many([call, *map(_call, ahead)])
        except StoreUnavailable as exc:
            self._outage.failed(exc)
            self._hold(request, self._outage.until)
            return False
        self._outage.answered()
        for other, answer in zip(ahead, answers[1:], strict=True):
            # Who is admitted stays in the queue, and needs not ask when it has its place.
            if not isinstance(answer, Admit):
                self._new.remove(other)
                self._act(other, _call(other), answer)
        return self._act(request, call, answers[0])

    def _ahead(self) -> list[GovernedRequest]:
        """Who will have a place well within the grace, at the pace at which places come free:
        asked for in the same round trip. Not for a claim, which says that the body begins."""
        found: list[GovernedRequest] = []
        for request in islice(self._new, self._pace.within(self._settings.grace // 2)):
            call = _call(request)
            if call.claim is None and not call.settled and request.epoch == self._epoch:
                found.append(request)
        return found

    def _act(self, request: GovernedRequest, call: Call, answer: Answer) -> bool:
        match answer:
            case Admit():
                return True
            case Wait():
                self._wait(request, call, answer)
            case Refuse():
                wait = seconds(answer.until - answer.now)
                self.settlement.bury(
                    request,
                    Reason.DEFERRAL_BUDGET_EXHAUSTED,
                    f"{answer.limit} has its next slot in {wait:.0f} s, beyond max_wait",
                )
            case AlreadyDone():
                _log.info("Task %s[%s] has already run: dropped", request.name, request.id)
                self.settlement.count(request, "dropped")
                self.settlement.let_go(request)
            case OutcomeUnknown():
                self.settlement.bury(
                    request,
                    Reason.OUTCOME_UNKNOWN,
                    "the worker that began it died; whether the call was made is not known",
                )
        return False

    def _wait(self, request: GovernedRequest, call: Call, answer: Wait) -> None:
        assert call.slot is not None
        self._stats.next_slot[call.upstream] = self._clock.wall() + answer.until - answer.now
        if answer.paused:
            self._recall(call.upstream)
        if answer.charged or answer.until - answer.now <= self._settings.hold:
            self.settlement.count(request, "held")
            self._hold(request, call.slot)
        else:
            self._defer(request, call)

    def _run(self, request: GovernedRequest) -> None:
        call = _call(request)
        if call.header.began is None:
            call.header = replace(call.header, began=self._clock.wall())
        request.request_dict[RUN_KEY] = {
            "until": self._governor.admission.good_until(call),
            "began": call.header.began,
            "throttles": call.header.throttles,
        }
        if call.claim is not None:
            self._claims.add(call.upstream, call.claim)
        self.settlement.count(request, "admitted")
        self.settlement.waits(request, False)
        self._places.run(request)
        if call.claim is not None:
            self._hand_on(request)

    def _hand_on(self, request: GovernedRequest) -> None:
        job = None if request._apply_result is None else request._apply_result()
        self._handed_on = [
            held for held in self._handed_on if held[0].time_start is None and not held[0].settled
        ]
        self._handed_on.append((request, job))

    # ------------------------------------------------------------------ waiting

    def _hold(self, request: GovernedRequest, until: int) -> None:
        if not request.held and len(self._room) < _MOST_HELD:
            # A held message occupies the prefetch window; others must not wait behind it.
            request.held = True
            self._consumer.qos.increment_eventually()
        self._room.hold(request, until)

    def _unhold(self, request: GovernedRequest) -> None:
        if request.held:
            request.held = False
            self._consumer.qos.decrement_eventually()

    def _recall(self, upstream: str) -> None:
        """The upstream is paused: slots that were to be used without asking are asked about."""
        for request in self._room.requests():
            call = request.call
            if call is not None and call.upstream == upstream:
                call.settled = False

    def _defer(self, request: GovernedRequest, call: Call) -> None:
        assert call.slot is not None
        delay = call.slot - self._clock.monotonic()
        delay -= min(self._settings.hold, _LONGEST_LEAD)
        delay = max(0, min(delay, self._settings.max_countdown))
        call.header = replace(call.header, deferrals=call.header.deferrals + 1)
        copy = deferred(
            copy_of(request.message), call.header, as_datetime(self._clock.wall() + delay)
        )
        if (error := self._publish(copy)) is not None:
            _log.error("Task %s[%s]: not deferred, %s; the message stays here",
                       request.name, request.id, type(error).__name__)  # fmt: skip
            self._hold(request, self._clock.monotonic() + _PUBLISH_AGAIN)
            return
        self.settlement.count(request, "deferred")
        _log.info("Task %s[%s] waits for %s until its slot in %.1f s", request.name, request.id,
                  call.upstream, seconds((call.slot or 0) - self._clock.monotonic()))  # fmt: skip
        self.settlement.let_go(request)

    # ------------------------------------------------------------------ the ends

    def failed(self, request: GovernedRequest, exc_info: Any, celery: Callable[..., None]) -> None:
        """The body, or its process, ended with an exception."""
        governance = self._governor.governance(request.task.name)
        assert governance is not None
        verdict = judge(request, exc_info, governance)
        match verdict.kind:
            case Verdict.Kind.NOT_NOW:
                self._not_now(request, verdict.pause)
            case Verdict.Kind.AGAIN:
                self._again(request, verdict.wait, partial(celery, verdict.exc_info))
            case Verdict.Kind.PASS:
                self.settlement.settle(request, ClaimAction.FINISH)
                request.settled = True
                celery(verdict.exc_info)
            case Verdict.Kind.LEAVE:
                celery(verdict.exc_info)
            case Verdict.Kind.ABANDON:
                task_ready(request)
            case Verdict.Kind.DEAD:
                assert verdict.reason is not None
                self.settlement.bury(
                    request, verdict.reason, None, exc_info, partial(celery, verdict.exc_info)
                )

    def _not_now(self, request: GovernedRequest, pause: int | None) -> None:
        """The body did not make its call; it waits like any other, with no attempt spent."""
        call = _call(request)
        if pause is not None:
            self.settlement.count(request, "throttled")
            call.header = replace(call.header, throttles=call.header.throttles + 1)
        self.settlement.settle(request, ClaimAction.RELEASE, pause or 0)
        if pause is not None:
            self._recall(call.upstream)
        call.settled = False
        request.request_dict.pop(RUN_KEY, None)
        self.settlement.waits(request, True)
        task_ready(request)
        task_reserved(request)
        self._enter(request)

    def _again(self, request: GovernedRequest, wait: int, celery: Callable[[], None]) -> None:
        """Publish the next attempt; when the broker has it, Celery may acknowledge this one."""
        call = _call(request)
        now = self._clock.wall()
        delay = min(wait, self._settings.max_countdown)
        copy = retried(copy_of(request.message), call.header, as_datetime(now + delay))

        def submit() -> None:
            if (error := self._publish(copy)) is None:
                self.settlement.count(request, "retried")
                self.settlement.settle(request, ClaimAction.FINISH)
                request.settled = True
                celery()
                return
            _log.error("Task %s[%s]: its next attempt was not published, %s; trying again",
                       request.name, request.id, type(error).__name__)  # fmt: skip
            self._loop.at(self._clock.monotonic() + _PUBLISH_AGAIN, submit)

        submit()

    def _publish(self, copy: MessageCopy) -> Exception | None:
        """Publish at once, from the loop, and return what went wrong.

        A thread for it was measured to be slower by far: each of its turns waits for the
        interpreter while the loop is busy. Celery's own acknowledgements block the loop in the
        same way; a broker that did not answer is left alone for a moment.
        """
        if self._clock.monotonic() < self._broker_away_until:
            return TimeoutError("the broker did not answer a moment ago")
        try:
            self._publisher(copy)
        except Exception as exc:
            self._broker_away_until = self._clock.monotonic() + _PUBLISH_AGAIN
            return exc
        self._stats.broker_messages += 1
        return None

    # ------------------------------------------------------------------ the store

    def _make_known(self) -> None:
        """From now on the upstreams' buckets earn their burst. A declaration that cannot work
        ends the worker here, before it takes a message."""
        for name in self._governor.app.tasks:
            self._governor.governance(name)
        try:
            for upstream in self._governor.upstreams:
                self._governor.store.settle(upstream)
        except StoreUnavailable as exc:
            self._outage.failed(exc)

    # ------------------------------------------------------------------ the worker's life

    def disconnected(self) -> None:
        """The broker connection is gone, and with it every message that is not running: the
        broker hands them out again."""
        self._epoch += 1
        for request, job in self._handed_on:
            # Celery empties the pool's queue. What was written to no process made no call, and
            # whoever gets its message may claim it.
            if not request.settled and getattr(job, "_write_to", job) is None:
                self.settlement.settle(request, ClaimAction.RELEASE)
        self._handed_on.clear()
        for request in (*self._room.clear(), *self._due, *self._new):
            request.held = False
            self.settlement.waits(request, False)
        self._due.clear()
        self._new.clear()
        self._places.clear()


def _call(request: GovernedRequest) -> Call:
    assert request.call is not None
    return request.call
