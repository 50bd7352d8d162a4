"""Arrivals of the parking lots: tasks are parked many in one call, and acknowledged once they are.

All of it happens on the worker's loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from governor.admission.call import Call
from governor.admission.lanes import Lanes, rank_of
from governor.admission.store_calls import timed
from governor.clock import SECOND, as_micros
from governor.errors import StoreUnavailable
from governor.governor import Governor
from governor.log_lines import LOG
from governor.messages.header import Header
from governor.messages.message import attempt_id, copy_of, pack
from governor.messages.variants import parked
from governor.policy.decision import AnyCharge, LaneKey
from governor.policy.parking_values import Arrival, Lane, Parking
from governor.policy.plan import CallPlan
from governor.worker.event_loop import Loop, guarded
from governor.worker.parked_message import ParkedMessage
from governor.worker.request import GovernedRequest
from governor.worker.source_queues import SourceQueues
from governor.worker.store_outage import StoreOutage

_MOST_AT_ONCE = 200
"""Tasks parked by one call, at most."""

MOST_BYTES = 4 * 1024 * 1024
"""Bytes of a body, or of the messages that one call parks: the store takes that many within its
timeout. A task with a larger body waits in the broker."""

_FOLLOW_US = SECOND // 4
"""For so long after a task was parked here others of its lane are parked unasked."""

_MOST_LANES = 1_000
"""Lanes remembered as just parked in; beyond that, those whose time is over are forgotten."""

_Arriving = tuple[GovernedRequest, Call, Arrival]


class ParkingIn:
    """Arrivals of one worker.

    Args:
        pause: for how many microseconds new arrivals of an upstream wait here.
        taken_in: called with requests that wait in an upstream's lot now.
        parked: called with each of them, to acknowledge it.
        fall_back: called with each that could not be parked, to let it wait elsewhere.
    """

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        governor: Governor,
        consumer: Any,
        loop: Loop,
        outage: StoreOutage,
        pause: Callable[[str], int],
        taken_in: Callable[[str, Parking, Iterable[GovernedRequest]], None],
        parked: Callable[[GovernedRequest, Call], None],
        fall_back: Callable[[GovernedRequest, Call], None],
    ) -> None:
        self._lots = governor.store.lots
        self._events = governor.events
        self._clock = governor.clock
        self._loop = loop
        self._outage = outage
        self._pause = pause
        self._taken_in = taken_in
        self._parked = parked
        self._fall_back = fall_back
        self._lanes = Lanes(governor.redactor.text)
        self._source_queues = SourceQueues(consumer)
        self._arriving: dict[str, list[_Arriving]] = {}
        # By lane: monotonic microseconds until which others follow.
        self._behind: dict[str, int] = {}

    def lane_of(  # noqa: PLR0917 - what a message says
        self, plan: CallPlan, charges: Sequence[AnyCharge], header: Header, message: Any, args: Any,
        kwargs: Any,
    ) -> tuple[Lane, LaneKey] | None:  # fmt: skip
        """Choose the lane, and its key, of a call of this message. Returns None if the upstream
        does not park, or the message is too large."""
        if plan.upstream.parking != "store" or len(message.body or b"") > MOST_BYTES:
            return None
        priority = int((message.properties or {}).get("priority") or 0)
        rank = rank_of(priority, high_first=self._source_queues.high_first())
        return self._lanes.of_task(
            plan, charges, header, args, kwargs, self._source_queues.of(message), rank
        )

    def follows(self, call: Call) -> bool:
        """Tell whether others of a call's lane were parked here a moment ago: the call can only
        wait behind them."""
        if call.lane is None or (until := self._behind.get(call.lane.name)) is None:
            return False
        return until > self._clock.monotonic() and not self._outage.on(call.upstream, call.parts())

    def park(self, request: GovernedRequest, call: Call) -> None:
        """Let a request wait in its lot, and acknowledge its message once it does. It goes to the
        front of its lane if it has had its turn and could not use it."""
        lane = request.lane
        message = request.message
        assert lane is not None
        assert call.lane is not None
        header = call.header.waiting_elsewhere(call.limit)
        payload = pack(parked(copy_of(message), header))
        if payload is None or self._outage.on(call.upstream, call.parts()):
            self._fall_back(request, call)
            return
        left = 0
        if request.expires is not None:
            left = max(as_micros(request.expires) - self._clock.wall(), 1)
        arrival = Arrival(
            task_id=request.id,
            lane=lane,
            costs=tuple(charge.cost for charge in call.charges),
            payload=payload,
            give_up_at=call.header.give_up_at,
            max_wait=call.plan.upstream.max_wait,
            expires_in=left,
            front=call.had_turn or call.header.throttles > 0,
            message=attempt_id(
                call.header.mid or "", int(request.request_dict.get("retries") or 0)
            ),
            # A released task may be deferred: its copy can be here before the store has heard that
            # the task has left, and what has left is taken out by name.
            again=call.header.deferrals > 0
            or (isinstance(message, ParkedMessage) and message.upstream == call.upstream),
        )
        # From now on, not from when the store has it: none may be asked about in between.
        self._behind[call.lane.name] = self._clock.monotonic() + _FOLLOW_US
        arriving = self._arriving.setdefault(call.upstream, [])
        if not arriving:
            self._take_in_later(call.upstream)
        arriving.append((request, call, arrival))

    def _take_in_later(self, upstream: str) -> None:
        # Celery's acknowledgements wait for its loop, which a timer does not wake.
        take_in = partial(self._loop.soon, partial(self._take_in, upstream))
        if pause := self._pause(upstream):
            self._loop.at(self._clock.monotonic() + pause, take_in)
        else:
            take_in()

    def forget(self, request: GovernedRequest) -> None:
        """Drop a request that is on its way: something else becomes of it."""
        for upstream, arriving in self._arriving.items():
            self._arriving[upstream] = [one for one in arriving if one[0] is not request]

    def take_back(self, upstream: str) -> None:
        """Park at once what goes to the front of its lane."""
        arriving = self._arriving.get(upstream, [])
        # Of several that go to the front, the last one ends up first.
        front = [one for one in reversed(arriving) if one[2].front]
        if front:
            self._arriving[upstream] = [one for one in arriving if not one[2].front]
            self._take_all_in(upstream, front)

    def _take_in(self, upstream: str) -> None:
        guarded(partial(self.take_back, upstream))
        self._take_all_in(upstream, self._arriving.pop(upstream, []))
        if len(self._behind) > _MOST_LANES:
            now = self._clock.monotonic()
            self._behind = {name: until for name, until in self._behind.items() if until > now}

    def _take_all_in(self, upstream: str, arriving: list[_Arriving]) -> None:
        """Park these; each of them is parked then, or falls back, whatever happens."""
        for some in _portions(arriving):
            try:
                park = partial(self._lots.park, upstream, [arrival for *_, arrival in some])
                parking = timed(self._events, self._clock, "park", park)
            except Exception as exc:
                if isinstance(exc, StoreUnavailable):
                    guarded(partial(self._outage.failed, exc))
                else:
                    LOG.exception("Tasks of %s could not be parked", upstream)
                for request, call, _ in some:
                    self._fall_back(request, call)
                continue
            guarded(partial(self._outage.answered, upstream))
            guarded(partial(self._taken_in, upstream, parking, [request for request, *_ in some]))
            for request, call, _ in some:
                guarded(partial(self._parked, request, call))


def _portions(arriving: list[_Arriving]) -> Iterator[list[_Arriving]]:
    """Split arrivals into portions of one call each."""
    some: list[_Arriving] = []
    size = 0
    for one in arriving:
        size += len(one[2].payload)
        if some and (len(some) == _MOST_AT_ONCE or size > MOST_BYTES):
            yield some
            some, size = [], len(one[2].payload)
        some.append(one)
    if some:
        yield some
