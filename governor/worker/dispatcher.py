"""The worker's dispatcher: every governed request passes here before it takes a place in the pool,
and again when it ends.

The life of a request::

    received → a place is free → ask ─ Admit ──→ run → settle → acknowledge
                    ↑              ├ Wait ─────→ hold (short) or park (store, acknowledge)
                    └──── held ────┤                              │
                    └─── parked ───┼──────────── released ────────┘
                                   ├ Refuse ───→ dead letter, acknowledge
                                   ├ done ─────→ acknowledge
                                   └ unknown ──→ dead letter, acknowledge

Where nothing is parked, a task that waits long is deferred: published with a countdown, and
acknowledged. All of it happens on the worker's loop. Dead letters are written by a thread; their
end comes back to the loop. Nothing is acknowledged before it is written or published.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count, islice
from typing import Any

from celery.worker.state import task_ready

from governor.admission.call import Call, charges_of
from governor.clock import SECOND, as_datetime, seconds
from governor.errors import DeclarationError, StoreUnavailable
from governor.governor import Governor
from governor.keys import body_id
from governor.log_lines import LOG
from governor.messages.header import Header
from governor.messages.message import copy_of, was_redelivered
from governor.messages.variants import deferred
from governor.policy.decision import (
    CLAIM,
    Admit,
    AlreadyDone,
    Answer,
    ClaimAsk,
    LeaseCharge,
    OutcomeUnknown,
    Park,
    Refuse,
    Reservation,
    Wait,
)
from governor.policy.parking_values import Ticket
from governor.policy.settlement import ClaimAction
from governor.policy.settlement import Settlement as Renewal
from governor.ports import Reason
from governor.worker.backpressure import Backpressure
from governor.worker.body_results import RUN_KEY
from governor.worker.completion import Completion
from governor.worker.dead_letter_writer import DeadLetterWriter
from governor.worker.description import waiting_here
from governor.worker.event_loop import Loop, guarded
from governor.worker.lifecycle import ENDED, WAITING, Lifecycle, RequestState
from governor.worker.parked_message import ParkedMessage
from governor.worker.parking_in import ParkingIn
from governor.worker.parking_out import ParkingOut
from governor.worker.pool import PoolSlots
from governor.worker.prefetch import Prefetch
from governor.worker.publishing import AGAIN, Publishing
from governor.worker.queue import WaitQueue
from governor.worker.recorder import Recorder
from governor.worker.request import GovernedRequest
from governor.worker.store_outage import ASK_AGAIN, StoreOutage

_LONGEST_LEAD = SECOND // 2
"""A deferred task comes back this long before its slot, so that Celery's timers, which fire ten
at a pass and may sleep a second, do not make it late."""

_NEVER = 1 << 62

_MOST_AHEAD = 15
"""Decisions asked for in advance with one that is due."""

_MOST_PROBES = 4
"""Held tasks that ask again when a half-open breaker has heard of a probe."""

_MOST_HELD = 1_000
"""Held tasks beyond which those that may be woken are parked or deferred."""

_MOST_STUMBLES = 3
"""Steps of one request's life that may fail before it is a death."""


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


class Dispatcher:
    """Decisions of one worker about its requests.

    Args:
        consumer: Celery's consumer.
    """

    def __init__(
        self,
        governor: Governor,
        consumer: Any,
        loop: Loop,
        places: PoolSlots,
    ) -> None:
        self._governor = governor
        self._settings = governor.settings
        self._clock = governor.clock
        self._stats = governor.stats
        self._consumer = consumer
        self._loop = loop
        self._places = places
        self._epoch = 0
        self._pace = Pace()
        self._backpressure = Backpressure()
        self._prefetch = Prefetch(governor.settings.grace)
        # Queued requests: those that had a slot, which come first, and those that had none.
        self._due: deque[GovernedRequest] = deque()
        self._new: deque[GovernedRequest] = deque()
        # Claims whose body has not begun, as far as is known: no more of them than places.
        self._handed_on: list[tuple[GovernedRequest, Any]] = []
        self.publishing = Publishing(governor)
        self._held = WaitQueue(loop, governor.clock, self._let_go)
        self.lifecycle = Lifecycle(consumer, governor.stats)
        self._outage = StoreOutage(governor.clock)
        self._lease_renewal = governor.lease_renewal
        self.dead_letter_writer = DeadLetterWriter(governor, loop)
        self.recorder = Recorder(
            governor,
            loop,
            self.lifecycle,
            self.dead_letter_writer,
            self._lease_renewal,
            self._outage,
        )
        self._identity = os.urandom(6).hex()
        self._delivery = count()
        self._make_known()
        self.parking_out = ParkingOut(
            governor, consumer, loop, places, self._outage, self._identity, self._pace.within
        )
        self.completion = Completion(
            governor, loop, self.lifecycle, self.recorder, self.parking_out, self.publishing, self
        )
        self._parking_in = ParkingIn(
            governor, consumer, loop, self._outage, self._arrivals_wait, self.parking_out.taken_in,
            self._is_parked, self._hand_back,
        )  # fmt: skip
        self.parking_out.before_release = self._parking_in.take_back
        self._end_news = governor.store.listen(self.heard)

    def close(self) -> None:
        """End the dispatcher's threads, once they have done what they were given."""
        guarded(self._end_news)
        guarded(self.dead_letter_writer.close)

    # ------------------------------------------------------------------ the way in

    def on_request(self, request: Any) -> None:
        """Celery's hand-over of a request that wants a place in the pool."""
        if isinstance(request, GovernedRequest):
            self.on_loop(partial(self._step, request, partial(self._received, request)))
        else:
            self.on_loop(partial(self._places.acquire, self._run_ungoverned, request))

    def on_loop(self, work: Callable[[], object]) -> None:
        """Run ``work`` on the loop: now, when this is it."""
        if self._loop.here():
            guarded(work)
        else:
            self._loop.soon(work)

    def _run_ungoverned(self, request: Any) -> None:
        """Hand a request of Celery's own to the pool; one that it refuses is a dead letter."""
        try:
            self._places.run(request)
        except Exception as exc:
            LOG.exception("Task %s[%s]: the pool does not take it", request.name, request.id)
            if request.time_start is None and not request.acknowledged:
                guarded(partial(task_ready, request))
                guarded(partial(self._consumer.on_invalid_task, None, request.message, exc))

    def _received(self, request: GovernedRequest) -> None:
        message = request.message
        ticket = None
        request.token = f"{self._identity}.{next(self._delivery)}"
        request.epoch = self._epoch
        request.received = self._clock.monotonic()
        if isinstance(message, ParkedMessage):
            self.parking_out.redeemed(request)
            if not message.adopted:
                ticket = message.ticket
                request.token = ticket.holder or request.token
        call = self._call_of(request)
        if call is None:
            return
        if ticket is not None:
            self._redeem(request, call, ticket, message.slot)
        elif self._parks_unasked(request, call):
            self._park_one(request)
        elif request.eta is not None:
            # Its timer fired. kombu's hub fires ten in a pass and may then sleep for a second
            # with more of them due; work brought to the loop keeps it awake.
            self.lifecycle.move(request, RequestState.QUEUED)
            self._new.append(request)
            self._loop.soon(self._want_slot)
        else:
            self.enter(request)

    def _call_of(self, request: GovernedRequest) -> Call | None:
        """Build the request's call. ``None`` if its arguments are unusable; its dead letter is on
        its way then."""
        if not isinstance(request.args, list | tuple) or not isinstance(request.kwargs, dict):
            self.recorder.bury(
                request, Reason.INVALID_MESSAGE, "its arguments are no list and mapping"
            )
            return None
        governance = self._governor.governance(request.task.name)
        assert governance is not None
        header = Header.from_message(request.request_dict)
        if header.mid is None:
            header.mid = body_id(copy_of(request.message).body)
        plan = governance.plan
        if plan.upstream.reserve and _priority(request.message) not in plan.upstream.urgent:
            plan = plan.leaving_reserve()
        try:
            charges = charges_of(plan, header, request.args, request.kwargs)
        except DeclarationError as exc:
            self.recorder.bury(request, Reason.INVALID_MESSAGE, str(exc))
            return None
        claim = None
        if not governance.idempotent:
            claim = ClaimAsk(
                request.id, int(request.request_dict.get("retries") or 0), header.mid,
                request.token, self._settings.claim_lease, self._settings.claim_keep,
            )  # fmt: skip
        call = Call(plan, charges, header, claim, request.token)
        try:
            request.lane = self._parking_in.lane_of(
                call, request.message, request.args, request.kwargs
            )
        except DeclarationError as exc:
            self.recorder.bury(request, Reason.INVALID_MESSAGE, str(exc))
            return None
        request.call = call
        return call

    def _redeem(self, request: GovernedRequest, call: Call, ticket: Ticket, slot: int) -> None:
        """Take up what a task was released from the parking lot with: its limits are charged, only
        its claim is not taken."""
        header = call.header
        if header.first is None:
            header.first = ticket.since
            header.give_up_at = ticket.since + call.plan.upstream.max_wait
        if ticket.late:
            if not request.revoked():
                self.recorder.bury(
                    request, Reason.DEFERRAL_BUDGET_EXHAUSTED, request.message.why_late
                )
            return
        call.version = self._governor.admission.in_force.version(call.upstream)
        call.slot = slot
        call.had_turn = True
        call.admitted = True
        call.probe = ticket.probe
        call.settled = call.claim is None
        header.reserved = tuple(
            Reservation(charge.bucket, ticket.slot, paid=True)
            for charge in call.charges
            if not isinstance(charge, LeaseCharge)
        )
        if slot > self._clock.monotonic():
            self._hold(request, slot)
        else:
            self._released(request)

    def enter(self, request: GovernedRequest) -> None:
        """Queue a request for a pool slot; its admission is asked for when there is one."""
        self.lifecycle.move(request, RequestState.QUEUED)
        if _had_turn(request):
            self._due.appendleft(request)
        else:
            self._new.append(request)
        self._want_slot()

    def _let_go(self, request: GovernedRequest) -> None:
        self._step(request, partial(self._released, request))

    def _released(self, request: GovernedRequest) -> None:
        """Queue a held request whose instant has come."""
        if request.state in ENDED:
            # Revoked, or expired, while it was held.
            return
        self.lifecycle.move(request, RequestState.QUEUED)
        self._due.append(request)
        self._want_slot()

    def _want_slot(self) -> None:
        self._places.acquire(self._use_slot, None)

    def _use_slot(self, _: None) -> None:
        """Decide about the next queued request, then use our pool slot or give it back. Called by
        Celery's semaphore: nothing gets out."""
        guarded(self._held.look)
        request = self._next()
        if request is None or not self._step(request, partial(self._decide, request)):
            self._places.give_back()
        else:
            self._run(request)

    def _next(self) -> GovernedRequest | None:
        """Take the next queued request; slots do not wait, so those that had one come first."""
        for queue in (self._due, self._new):
            while queue:
                request = queue.popleft()
                if request.state is RequestState.QUEUED:
                    return request
        # Those it was asked for were revoked, or went back with a lost connection.
        return None

    def _arrivals_wait(self, upstream: str) -> int:
        return self._backpressure.pause(self.parking_out.waiting(upstream), self._clock.monotonic())

    # ------------------------------------------------------------------ owning

    def _step(self, request: GovernedRequest, work: Callable[[], object]) -> object:
        """Do one step of a request's life, and see to it that the request has an end whatever
        happens in it.

        Returns:
            what ``work`` returns; ``None`` if it failed.
        """
        try:
            return work()
        except Exception as exc:
            LOG.exception("Task %s[%s]: the governor failed", request.name, request.id)
            guarded(partial(self.stumbled, request, exc))
            return None

    def stumbled(self, request: GovernedRequest, exc: Exception) -> None:
        """A step of its life failed: it waits a moment and tries again; of one that failed too
        often, or whose body has run, the dead letter says so."""
        request.stumbles += 1
        said = f"the governor failed on it: {type(exc).__name__}"
        if request.state is RequestState.GONE:
            self.recorder.finish(request)
        elif request.state is RequestState.RUNNING:
            self.recorder.bury(request, Reason.OUTCOME_UNKNOWN, f"{said}, after its body ended")
        elif request.state is RequestState.RETRYING:
            self.recorder.bury(request, Reason.DEFER_PUBLISH_FAILED, said)
        elif request.state is RequestState.RECEIVED or request.state in WAITING:
            self._withdraw(request)
            if request.stumbles < _MOST_STUMBLES:
                self._hold(request, self._clock.monotonic() + ASK_AGAIN)
            else:
                self.recorder.bury(request, Reason.INVALID_MESSAGE, said)

    def _withdraw(self, request: GovernedRequest) -> None:
        """Take a request out of wherever it waits in this worker."""
        for queue in (self._due, self._new):
            if request in queue:
                queue.remove(request)
        self._held.take(lambda other: other is request, 1)
        self._parking_in.forget(request)

    # ------------------------------------------------------------------ the decision

    def _decide(self, request: GovernedRequest) -> bool:
        """Decide whether a request runs now. If not, it waits, or its end is on its way."""
        if request.epoch != self._epoch:
            self._lost(request)
            return False
        call = request.call or self._call_of(request)
        if call is None or request.revoked():
            return False
        now = self._clock.monotonic()
        self._pace.tick(now)
        if call.had_turn:
            self._backpressure.told(call.slot or now, now)
        if call.settled and (runs := self._at_its_slot(request, call, now)) is not None:
            return runs and self._prepared(request, call)
        if self._parks_unasked(request, call):
            self._park(request, call)
            return False
        runs = self._prefetch.take(call, now) or self._asked(request, call, now)
        return runs and self._prepared(request, call)

    def _parks_unasked(self, request: GovernedRequest, call: Call) -> bool:
        """Tell whether a request can only wait behind others of its lane. One that may meet a claim
        asks first: parked, it would be charged in order to find that out."""
        if call.header.reserved or call.had_turn or not self._parking_in.follows(call):
            return False
        comes_back = call.binding == CLAIM or was_redelivered(request.message)
        return call.claim is None or not comes_back

    def _asked(self, request: GovernedRequest, call: Call, now: int) -> bool:
        """Ask for a request's admission, together with others that will want theirs soon."""
        if now < self._outage.until(call.upstream, call.parts()):
            return self._decide_alone(request, call)
        expected = self._pace.within(self._prefetch.span)
        advance = self._prefetch.question(call, expected, now)
        ahead = [] if advance else self._ahead()
        asked = [call, advance[0]] if advance else [call, *map(_call, ahead)]
        answer, *others = self._governor.admission.ask_many(asked)
        if isinstance(answer, StoreUnavailable):
            self._outage.failed(answer)
        else:
            self._outage.answered(call.upstream, call.parts())
            self.recorder.catch_up()
        if not isinstance(answer, Admit):
            self._prefetch.pressed(call.upstream, now)
        if advance:
            self._prefetch.answered(*advance, others[0], now)
            self.recorder.unused(advance[0])
        self._act_ahead(ahead, others)
        if isinstance(answer, StoreUnavailable):
            return self._decide_alone(request, call)
        return self._act(request, call, answer)

    def _act_ahead(
        self, ahead: list[GovernedRequest], answers: Sequence[Answer | StoreUnavailable]
    ) -> None:
        for request, answer in zip(ahead, answers, strict=False):
            if isinstance(answer, StoreUnavailable):
                # It asks when it has its pool slot.
                self._outage.failed(answer)
            # A request that is admitted stays in its queue, and needs not ask when it has its slot.
            elif not isinstance(answer, Admit):
                self._new.remove(request)
                self._step(request, partial(self._act, request, _call(request), answer))

    def _at_its_slot(self, request: GovernedRequest, call: Call, now: int) -> bool | None:
        """Whether what is charged for its slot runs now; ``None``: it must ask again."""
        assert call.slot is not None
        if now < call.slot:
            self._hold(request, call.slot)
            return False
        call.settled = False
        in_time = now <= self._good_until(call, now)
        if in_time or isinstance(request.message, ParkedMessage):
            call.header.reserved = ()
        return True if in_time else None

    def _good_until(self, call: Call, now: int) -> int:
        """Until when, in monotonic microseconds, the body of an admitted call may start: however
        late it comes the second time, but well before its claim may have run out."""
        assert call.slot is not None
        latest = self._settings.latest
        allowed = latest if call.late else self.completion.lateness.allowed(now)
        return call.slot + (allowed if call.claim is None else min(allowed, latest))

    def _decide_alone(self, request: GovernedRequest, call: Call) -> bool:
        """The store is away: what the upstream has declared for that."""
        answer = self._governor.admission.without_store(call)
        if answer is None:
            now = self._clock.monotonic()
            until = self._outage.until(call.upstream, call.parts())
            self._hold(request, until if until > now else now + ASK_AGAIN)
            return False
        return self._act(request, call, answer)

    def _ahead(self) -> list[GovernedRequest]:
        """Find queued requests that will have a pool slot well within the grace, at the pace at
        which slots come free; their admission is asked for in the same round trip.

        Not those whose admission says that the body begins (a claim, a lease, a probe), nor those
        that can be parked: the second of a lane must not go while the first is told to wait."""
        found: list[GovernedRequest] = []
        for request in islice(self._new, self._pace.within(self._settings.grace // 2)):
            if (call := request.call) is None:
                continue
            plain = call.claim is None and not call.places and call.lane is None
            plain = plain and call.plan.upstream.breaker is None
            if plain and not call.settled and request.state is RequestState.QUEUED:
                found.append(request)
        return found

    def _act(self, request: GovernedRequest, call: Call, answer: Answer) -> bool:
        match answer:
            case Admit(now=now) if call.header.throttles and now > _gives_up_at(call):
                self.recorder.bury(
                    request,
                    Reason.DEFERRAL_BUDGET_EXHAUSTED,
                    f"it was told {call.header.throttles} times to wait, beyond max_wait",
                )
            case Admit():
                return True
            case Wait():
                self._wait(request, call, answer)
            case Park():
                self._park(request, call)
            case Refuse(now=now, paused=True) if now < (give_up_at := _gives_up_at(call)):
                # A pause may be ended early: it waits as long as it may.
                call.slot = self._clock.monotonic() + give_up_at - now
                held = call.header.reserved
                until = Wait(now, give_up_at, answer.limit, held, paused=True, woken=True)
                self._wait(request, call, until)
            case Refuse():
                wait = seconds(answer.until - answer.now)
                self.recorder.bury(
                    request,
                    Reason.DEFERRAL_BUDGET_EXHAUSTED,
                    f"{answer.limit} has its next slot in {wait:.0f} s, beyond max_wait",
                )
            case AlreadyDone():
                LOG.info("Task %s[%s] has already run: dropped", request.name, request.id)
                self.lifecycle.count(request, "dropped")
                self.recorder.finish(request)
            case OutcomeUnknown():
                self.recorder.bury(
                    request,
                    Reason.OUTCOME_UNKNOWN,
                    "the worker that began it died; whether the call was made is not known",
                )
        return False

    def _wait(self, request: GovernedRequest, call: Call, answer: Wait) -> None:
        assert call.slot is not None
        self._stats.next_slot[call.upstream] = self._clock.wall() + answer.until - answer.now
        if answer.paused:
            self.recall(call.upstream)
        # As long as the broker is patient with it.
        stays_until = request.received + self._settings.max_countdown
        if answer.limit == CLAIM:
            self._wait_for_claim(request, call, stays_until)
            return
        near = answer.charged or answer.until - answer.now <= self._settings.hold
        # Whoever may be woken stays where it can be.
        stays = answer.woken and request.lane is None and len(self._held) < _MOST_HELD
        if near or (stays and self._clock.monotonic() < stays_until):
            self.lifecycle.count(request, "held")
            self._hold(request, call.slot if near else min(call.slot, stays_until))
        else:
            self._park(request, call)

    def _wait_for_claim(self, request: GovernedRequest, call: Call, stays_until: int) -> None:
        """Wait until another delivery's lease ends: in this worker, with nothing charged or held.
        From the parking lot the request would be released, and sent back, again and again."""
        assert call.slot is not None
        if call.admitted:
            self.recorder.settle(request, ClaimAction.RELEASE)
        call.header.reserved = ()
        if self._clock.monotonic() < stays_until:
            self.lifecycle.count(request, "held")
            self._hold(request, min(call.slot, stays_until))
        else:
            self._wait_without_lot(request, call)

    def _prepared(self, request: GovernedRequest, call: Call) -> bool:
        """Tell the body what it has to know of its admission, and keep alive what it holds."""
        if call.header.began is None:
            call.header.began = self._clock.wall()
        request.request_dict[RUN_KEY] = {
            "until": self._good_until(call, self._clock.monotonic()),
            "began": call.header.began,
            "throttles": call.header.throttles,
            "leaves_reserve": bool(call.plan.held_back),
        }
        if call.claim is not None or (call.places and call.admitted):
            self._lease_renewal.add(
                Renewal(
                    call.upstream, call.holder, ClaimAction.RENEW, call.claim, call.places,
                    self._settings.claim_lease,
                )
            )  # fmt: skip
        self.lifecycle.count(request, "admitted")
        return True

    def _run(self, request: GovernedRequest) -> None:
        """Give a request to the pool; our pool slot is its from now on."""
        ours = True
        try:
            self.lifecycle.move(request, RequestState.RUNNING)
            ours = False
            self._places.run(request)
        except Exception as exc:
            LOG.exception("Task %s[%s]: the pool does not take it", request.name, request.id)
            if ours:
                self._places.give_back()
            self._step(request, partial(self._not_handed_over, request, exc))
        else:
            guarded(partial(self._hand_on, request))

    def _not_handed_over(self, request: GovernedRequest, exc: Exception) -> None:
        """The pool refused a request, whose body therefore did not begin."""
        self.recorder.settle(request, ClaimAction.RELEASE)
        request.request_dict.pop(RUN_KEY, None)
        request.stumbles += 1
        if request.stumbles < _MOST_STUMBLES:
            self._hold(request, self._clock.monotonic() + ASK_AGAIN)
        else:
            said = f"the pool cannot be given it: {type(exc).__name__}"
            self.recorder.bury(request, Reason.INVALID_MESSAGE, said)

    def _hand_on(self, request: GovernedRequest) -> None:
        """Remember the pool's job of a claim whose body has not begun, as far as is known."""
        if _call(request).claim is None:
            return
        job = None if request._apply_result is None else request._apply_result()
        self._handed_on = [
            held for held in self._handed_on
            if held[0].time_start is None and held[0].state is RequestState.RUNNING
        ]  # fmt: skip
        self._handed_on.append((request, job))

    # ------------------------------------------------------------------ waiting

    def _hold(self, request: GovernedRequest, until: int) -> None:
        """Let a request wait in this worker until monotonic microseconds ``until``."""
        self.lifecycle.move(request, RequestState.HELD)
        self._held.hold(request, until)

    def _park(self, request: GovernedRequest, call: Call) -> None:
        """Let a request wait elsewhere: in its upstream's parking lot, or in the broker."""
        if request.lane is None or self._outage.on(call.upstream, call.parts()):
            self._hand_back(request, call)
            return
        self._prefetch.drop(call.upstream)
        self._park_one(request)
        for other in self._companions(call):
            self._step(other, partial(self._park_one, other))

    def _park_one(self, request: GovernedRequest) -> None:
        call = _call(request)
        self.lifecycle.move(request, RequestState.PARKING)
        if call.admitted:
            # It had its turn and could not use it.
            self.recorder.settle(request, ClaimAction.RELEASE)
        call.header.reserved = ()
        self._parking_in.park(request, call)

    def _companions(self, call: Call) -> list[GovernedRequest]:
        """Take queued requests of a call's lane out of their queue: those that come after are
        parked without being asked about, and would overtake them."""
        found = [
            other for other in self._new
            if (its := other.call) is not None and other.state is RequestState.QUEUED
            and its.lane == call.lane and its.upstream == call.upstream
            # One that is admitted ahead of its pool slot, or holds something, keeps that.
            and not its.header.reserved and not its.admitted
        ]  # fmt: skip
        for other in found:
            self._new.remove(other)
        return found

    def _is_parked(self, request: GovernedRequest, call: Call) -> None:
        self.recorder.finish(request)
        self.lifecycle.count(request, "parked")
        LOG.debug("Task %s[%s] is parked: it waits for %s",
                  request.name, request.id, call.upstream)  # fmt: skip

    def _hand_back(self, request: GovernedRequest, call: Call) -> None:
        """Let a request wait that could not be parked."""
        self._step(request, partial(self._wait_without_lot, request, call))

    def _wait_without_lot(self, request: GovernedRequest, call: Call) -> None:
        if call.slot is None:
            call.slot = self._clock.monotonic() + ASK_AGAIN
        if isinstance(request.message, ParkedMessage):
            # It is kept in the lot until it ends; there is no other place for it.
            self._hold(request, max(call.slot, self._clock.monotonic() + ASK_AGAIN))
        else:
            self._defer(request, call)

    def wait_until(self, request: GovernedRequest, call: Call, slot: int) -> None:
        """It asks at monotonic microseconds ``slot``: here, or when the broker hands it out."""
        call.slot = slot
        if slot - self._clock.monotonic() <= self._settings.hold:
            self._hold(request, slot)
        else:
            self._defer(request, call)

    def recall(self, upstream: str) -> None:
        """The upstream is paused: slots that were to be used without asking are asked about."""
        self._prefetch.drop(upstream)
        for request in self._held.requests():
            call = request.call
            if call is not None and call.upstream == upstream:
                call.settled = False

    def _defer(self, request: GovernedRequest, call: Call) -> None:
        """Publish the message again with a countdown, and acknowledge it once the broker has it."""
        self.lifecycle.move(request, RequestState.DEFERRING)
        assert call.slot is not None
        now = self._clock.monotonic()
        delay = call.slot - now - min(self._settings.hold, _LONGEST_LEAD)
        delay = max(0, min(delay, self._settings.max_countdown))
        call.header.deferrals += 1
        eta = self._clock.wall() + delay
        copy = deferred(copy_of(request.message), call.header, as_datetime(eta))
        if (error := self.publishing.publish(copy, eta)) is not None:
            LOG.error("Task %s[%s]: not deferred, %s; the message stays here",
                       request.name, request.id, type(error).__name__)  # fmt: skip
            self._hold(request, self._clock.monotonic() + AGAIN)
            return
        self.recorder.finish(request)
        self.lifecycle.count(request, "deferred")
        LOG.info("Task %s[%s] waits for %s until its slot in %.1f s",
                  request.name, request.id, call.upstream, seconds(call.slot - now))  # fmt: skip

    # ------------------------------------------------------------------ the store

    def _make_known(self) -> None:
        """From now on the upstreams' buckets earn their burst. A declaration that cannot work
        ends the worker here, before it takes a message."""
        for name in self._governor.app.tasks:
            self._governor.governance(name)
        for upstream in self._governor.upstreams:
            if self._clock.monotonic() < self._outage.until(upstream):
                continue
            try:
                self._governor.store.settle(Renewal(upstream))
            except StoreUnavailable as exc:
                self._outage.failed(exc)

    def heard(self, upstream: str, what: str) -> None:
        """The store says, from any thread, that who waits for ``upstream`` may go earlier."""
        self._loop.soon(partial(self._woken, upstream, what))
        self._loop.soon(partial(self.parking_out.heard, upstream, what))

    def _woken(self, upstream: str, what: str) -> None:
        """``what`` is a bucket in which a place came free, ``breaker``, ``change``, or nothing when
        news may have been missed."""

        def may_go(request: GovernedRequest) -> bool:
            call = request.call
            if call is None or upstream not in {"", call.upstream}:
                return False
            if what in {"", "change"}:
                call.settled = False
                return True
            # Not who has a place in mind but waits for something else, as for a call inside it.
            if not call.woken:
                return False
            return call.binding == "breaker" if what == "breaker" else what in call.places

        if what in {"", "change"}:
            self._prefetch.drop(upstream)
            most = _MOST_HELD
        else:
            # One place for one; of a breaker's next step nobody knows how many it lets through.
            most = _MOST_PROBES if what == "breaker" else 1
        if what != "lot":
            self._held.let_out(may_go, most)

    def waiting(self) -> list[dict[str, Any]]:
        """Who waits in this worker, for people; see :mod:`governor.worker.description`."""
        return waiting_here(self._held.requests(), [*self._due, *self._new], self._clock)

    def late_starts(self) -> dict[str, int]:
        """How late bodies start in this worker, for people."""
        return self.completion.lateness.told()

    # ------------------------------------------------------------------ the worker's life

    def disconnected(self) -> None:
        """The broker connection is gone, and with it every message that is not running: the
        broker hands them out again."""
        self._epoch += 1
        self.lifecycle.window_is_new()
        for request, job in self._handed_on:
            # Celery empties the queue of a pool of processes. What was written to none of them made
            # no call, and another delivery may claim it. Threads and greenlets have begun.
            written = job is None or getattr(job, "_write_to", job) is not None
            if request.state is RequestState.RUNNING and not written:
                guarded(partial(self._lost, request))
        self._handed_on.clear()
        self.parking_out.give_back()
        for request in (*self._held.clear(), *self._due, *self._new):
            guarded(partial(self._lost, request))
        self._due.clear()
        self._new.clear()
        self._places.clear()

    def _lost(self, request: GovernedRequest) -> None:
        """Let go of a request that did not begin and whose message is the broker's again."""
        self.recorder.settle(request, ClaimAction.RELEASE)
        self.lifecycle.move(request, RequestState.RETURNED)


def _had_turn(request: GovernedRequest) -> bool:
    return request.call is not None and request.call.had_turn


def _priority(message: Any) -> int:
    return int((message.properties or {}).get("priority") or 0)


def _gives_up_at(call: Call) -> int:
    """Store time; never, for a call that the store has not answered yet."""
    give_up_at = call.header.give_up_at
    return _NEVER if give_up_at is None else give_up_at


def _call(request: GovernedRequest) -> Call:
    assert request.call is not None
    return request.call
