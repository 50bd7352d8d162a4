"""Admissions: the question to the store, and what its answer means for the call."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from governor.admission.call import Admission, Call, WaitsFor
from governor.admission.limits_in_force import LimitsInForce
from governor.admission.store_calls import timed
from governor.admission.store_clock import StoreClock
from governor.clock import Clock
from governor.errors import StoreUnavailable, UpstreamStateError
from governor.events import Emitter, LimitChanged, StoreAnswered
from governor.policy.decision import (
    Admit,
    Answer,
    AnyCharge,
    Ask,
    QuotaCharge,
    Stale,
    Wait,
)
from governor.policy.local_share import share_of
from governor.policy.settlement import Settlement
from governor.ports import InForce, LimiterStore
from governor.settings import Settings
from governor.stores.memory import MemoryStore

_LINGER = 10
"""A task whose turn has come is held up to so many times ``governor_hold``, within the broker's
patience."""

_NOTHING = Admission()

_MOST_REFRESHES = 3
"""How often in a row the limits may turn out to have changed since they were read."""


class AdmissionService:
    """The one way to ask for an admission, of the worker's dispatcher and of direct calls.

    Attributes:
        in_force: limits as they are now.
        store_clock: makes instants of this process of those in answers.
    """

    def __init__(
        self, store: LimiterStore, settings: Settings, clock: Clock, events: Emitter
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._events = events
        self._own = MemoryStore(clock.monotonic)
        self._successes: dict[str, int] = {}
        self.in_force = LimitsInForce(store, self._changed)
        self.store_clock = StoreClock()

    def ask(self, call: Call) -> Answer:
        """Ask once. The call's header and slot are brought up to date with the answer.

        Raises:
            StoreUnavailable: no answer in time.
        """
        (answer,) = self.ask_many([call])
        if isinstance(answer, StoreUnavailable):
            raise answer
        return answer

    def ask_many(self, calls: Sequence[Call]) -> Sequence[Answer | StoreUnavailable]:
        """Ask for several calls in one round trip, in this order.

        Returns:
            For each call its answer, or why there is none; what the store says about one
            upstream's data leaves the answers about others as they are.
        """
        started = self._clock.monotonic()
        try:
            answers = list(self._store.admit_many([self._question(call) for call in calls]))
        except StoreUnavailable as exc:
            return [exc] * len(calls)
        ended = self._clock.monotonic()
        if self._events.listeners:
            took = ended - started
            self._events.emit(StoreAnswered(self._clock.wall(), "admit", len(calls), took))
        for index, call in enumerate(calls):
            if isinstance(answers[index], Stale):
                started = self._clock.monotonic()
                answers[index] = self._ask_again(call)
                ended = self._clock.monotonic()
            answer = answers[index]
            if isinstance(answer, StoreUnavailable):
                continue
            _note(call, answer, self.store_clock.offset(call.upstream, started, answer.now, ended))
        return answers

    def without_store(self, call: Call) -> Answer | None:
        """Answer for a store that is away, by the upstream's policy; ``None``: wait for it.

        Times are this worker's monotonic clock. A task that is not idempotent waits in any case:
        nobody can say whether another delivery of it has begun.
        """
        policy = call.plan.upstream.store_down
        if policy == "closed" or call.claim is not None:
            return None
        now = self._clock.monotonic()
        if policy == "open":
            call.slot = now
            return Admit(now, now)
        hold = self._settings.max_countdown
        answer = self._own.admit(
            Ask(
                upstream=call.upstream,
                charges=share_of(self._dated(call.charges), self._settings.workers),
                grace=self._settings.grace,
                hold=hold,
                linger=hold,
                max_wait=call.plan.upstream.max_wait,
                reserved=call.local,
                holder=call.holder,
                lease=self._settings.claim_lease,
            )
        )
        if isinstance(answer, Wait):
            call.local = answer.reserved
            call.slot = answer.until
            call.waits_for = WaitsFor(answer.limit)
            call.full = answer.full
        elif isinstance(answer, Admit):
            call.local = ()
            call.slot = answer.slot
        return answer

    def settled_without_store(self, call: Call) -> None:
        """Give back what an execution holds in this worker's own limits."""
        if call.plan.upstream.store_down == "local" and call.leases:
            self._own.settle(Settlement(call.upstream, call.holder, leases=call.leases))

    def succeeded(self, call: Call) -> None:
        """Count a call that succeeded; the store hears of it with the next question."""
        upstream = call.plan.upstream
        if upstream.breaker is not None or upstream.adaptive is not None:
            self._successes[upstream.name] = self._successes.get(upstream.name, 0) + 1

    def take_successes(self, upstream: str) -> int:
        """Take the successes the store has not heard of; they go with the question made now."""
        return self._successes.pop(upstream, 0)

    def came_late(self, call: Call) -> None:
        """Let a call whose body came too late ask again, on what it has paid."""
        call.late = call.had_turn = True
        assert call.slot is not None
        slot = self.store_clock.of_store(call.upstream, call.slot)
        if slot is not None:
            call.header = call.header._replace(reserved=call.paid_at(slot))

    def _changed(self, upstream: str, found: InForce) -> None:
        if self._events.listeners:
            self._events.emit(
                LimitChanged(self._clock.wall(), upstream, found.version, len(found.values))
            )

    def _ask_again(self, call: Call) -> Answer | StoreUnavailable:
        """Read the limits in force, which have changed, and ask with them."""
        try:
            for _ in range(_MOST_REFRESHES):
                self.in_force.refresh(call.upstream)
                ask = partial(self._store.admit, self._question(call))
                answer = timed(self._events, self._clock, "admit", ask)
                if not isinstance(answer, Stale):
                    return answer
        except StoreUnavailable as exc:
            return exc
        return UpstreamStateError(call.upstream, "its limits change faster than they are read")

    def _question(self, call: Call) -> Ask:
        patience = None
        if call.deadline is not None:
            patience = max(call.deadline - self._clock.monotonic(), 0)
        upstream = call.plan.upstream
        version = self.in_force.version(upstream.name)
        if call.version != version:
            call.charges = self.in_force.plan(call.plan).recharged(call.charges)
            call.version = version
        # A caller that blocks is there at its slot, however far away.
        hold = max(self._settings.hold, self._settings.grace) if patience is None else patience
        header = call.header
        return Ask(
            upstream=upstream.name,
            charges=self._dated(call.charges),
            grace=max(self._settings.grace, call.leeway),
            hold=hold,
            linger=max(hold, min(_LINGER * hold, self._settings.max_countdown)),
            max_wait=upstream.max_wait if patience is None else patience,
            give_up_at=header.give_up_at if patience is None else None,
            reserved=header.reserved,
            claim=call.claim,
            # A name that nothing is held under would make every question another.
            holder=call.holder if call.leases else "",
            lease=self._settings.claim_lease,
            version=version,
            # A call that holds a slot, or had one, has waited already.
            lane=None if header.reserved or call.had_turn else call.lane,
            not_before=self.in_force.not_before(upstream.name, call.charges) if version else 0,
            breaker=upstream.breaker,
            adaptive=upstream.adaptive,
            successes=self.take_successes(upstream.name) if self._successes else 0,
            late=self._settings.latest if call.late else 0,
        )

    def _dated(self, charges: tuple[AnyCharge, ...]) -> tuple[AnyCharge, ...]:
        for charge in charges:
            if isinstance(charge, QuotaCharge):
                wall = self._clock.wall()
                return tuple(c.dated(wall) if isinstance(c, QuotaCharge) else c for c in charges)
        return charges


def _note(call: Call, answer: Answer, offset: int) -> None:
    """Bring ``call`` up to date with its answer. ``offset`` makes monotonic microseconds of the
    store's."""
    header = call.header
    first, give_up_at, reserved = header.first, header.give_up_at, header.reserved
    if first is None:
        first, give_up_at = answer.now, answer.now + call.plan.upstream.max_wait
    call.full = isinstance(answer, Wait) and answer.full
    if isinstance(answer, Wait):
        reserved = answer.reserved
        call.waits_for = WaitsFor(answer.limit, answer.woken)
        call.slot = answer.until + offset
        # Nothing is left to ask at the slot; a claim is taken there.
        paid = {r.bucket for r in answer.reserved if r.paid and r.slot == answer.until}
        call.covered = call.claim is None and paid.issuperset([c.bucket for c in call.charges])
        call.had_turn = call.had_turn or answer.charged
    elif isinstance(answer, Admit):
        reserved = ()
        if call.waits_for is not None:
            call.waits_for = WaitsFor(call.waits_for.limit)
        leases = call.leases
        call.slot = answer.slot + offset
        call.covered = False
        call.admission = Admission(leases, answer.probe) if leases or answer.probe else _NOTHING
        call.had_turn = True
    else:
        call.waits_for = None
    call.header = header._replace(first=first, give_up_at=give_up_at, reserved=reserved)
