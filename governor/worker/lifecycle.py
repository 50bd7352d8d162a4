"""States of a governed request, and the one way from one state to another.

``docs/state-machine.md`` draws the same table; a test compares the two. A request is owned from its
reception until it is gone: a step of its life that fails is tried again, and then is a death.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from governor.clock import Clock
from governor.events import Emitter, TaskEvent, TransitionRefused
from governor.log_lines import LOG
from governor.worker.event_loop import guarded
from governor.worker.parked_message import ParkedMessage

if TYPE_CHECKING:
    from governor.worker.request import GovernedRequest


_Fields = ParamSpec("_Fields")

_MOST_WIDENED = 1_000
"""Beyond so many held requests the prefetch window is not widened any further."""


class RequestState(Enum):
    """State of a governed request."""

    RECEIVED = "received"  # handed over by Celery, nothing decided
    QUEUED = "queued"  # wants a pool slot, and asks for its admission then
    HELD = "held"  # waits in this worker for an instant
    PARKING = "parking"  # on its way into the parking lot
    DEFERRING = "deferring"  # its copy is being published with a countdown
    RUNNING = "running"  # with the pool
    RETRYING = "retrying"  # its next attempt is being published
    DYING = "dying"  # its dead letter is being written
    RETURNED = "returned"  # its message is the broker's or the lot's again, not acknowledged
    GONE = "gone"  # what it leaves behind is recorded; its message is acknowledged

    # Each is itself alone. Enum's own hash is a call in Python for every look into a table.
    __hash__ = object.__hash__


_S = RequestState

TRANSITIONS: Mapping[RequestState, frozenset[RequestState]] = {
    _S.RECEIVED: frozenset({
        _S.QUEUED, _S.HELD, _S.PARKING, _S.DYING, _S.RETURNED, _S.GONE,
    }),
    _S.QUEUED: frozenset({
        _S.HELD, _S.PARKING, _S.DEFERRING, _S.RUNNING, _S.DYING, _S.RETURNED, _S.GONE,
    }),
    _S.HELD: frozenset({_S.QUEUED, _S.DYING, _S.RETURNED, _S.GONE}),
    _S.PARKING: frozenset({_S.HELD, _S.DEFERRING, _S.DYING, _S.RETURNED, _S.GONE}),
    _S.DEFERRING: frozenset({_S.HELD, _S.DYING, _S.RETURNED, _S.GONE}),
    _S.RUNNING: frozenset({
        _S.QUEUED, _S.HELD, _S.DEFERRING, _S.RETRYING, _S.DYING, _S.RETURNED, _S.GONE,
    }),
    _S.RETRYING: frozenset({_S.DYING, _S.GONE}),
    _S.DYING: frozenset({_S.GONE}),
    _S.RETURNED: frozenset(),
    _S.GONE: frozenset(),
}  # fmt: skip

WAITING = frozenset(
    {RequestState.QUEUED, RequestState.HELD, RequestState.PARKING, RequestState.DEFERRING}
)
"""States that people call waiting."""

ENDED = frozenset({RequestState.RETURNED, RequestState.GONE})


class IllegalTransition(AssertionError):
    """Change of a request's state that the table does not allow."""


class Lifecycle:
    """Changes of requests' states, with the prefetch window and the gauges.

    Args:
        consumer: Celery's consumer, whose prefetch window is widened for held messages: others must
            not wait behind those.

    Attributes:
        strict: an illegal transition raises; else the log and an event tell of it.
        waiting: requests that wait, by upstream.
        events: what happens to requests is told here.
    """

    strict = False

    def __init__(self, consumer: Any, events: Emitter, clock: Clock) -> None:
        self._consumer = consumer
        self.events = events
        self._clock = clock
        self._widened: set[GovernedRequest] = set()
        self.waiting: Counter[str] = Counter()

    def move(self, request: GovernedRequest, to: RequestState) -> None:
        """Change the state of ``request``.

        Raises:
            IllegalTransition: in tests, when the table does not allow it.
        """
        before = request.state
        if to is before:
            return
        if to not in TRANSITIONS[before]:
            self.tell(request, TransitionRefused, before.value, to.value)
            said = f"Task {request.name}[{request.id}]: from {before.value} to {to.value}"
            if self.strict:
                raise IllegalTransition(said)
            LOG.error("%s is no transition of the state machine", said)
            if before in ENDED:
                return
        request.state = to
        if to is RequestState.HELD:
            self._widen(request)
        elif before is RequestState.HELD:
            self._narrow(request)
        waited, waits = before in WAITING, to in WAITING
        if waited is not waits and request.call is not None:
            self.waiting[request.call.upstream] += 1 if waits else -1

    def tell(
        self,
        request: GovernedRequest,
        event: Callable[Concatenate[int, str, str, str, _Fields], TaskEvent],
        *own: _Fields.args,
        **named: _Fields.kwargs,
    ) -> None:
        """Emit an event of a request's task, if anybody listens. It never fails.

        Args:
            event: its class.
            own: its fields, after those that every event of a task has.
        """
        if not self.events.listeners:
            return
        try:
            upstream = "" if request.call is None else request.call.upstream
            wall = self._clock.wall()
            self.events.emit(event(wall, request.id, request.name, upstream, *own, **named))
        except Exception:
            LOG.exception("Task %s[%s]: an event was not told", request.name, request.id)

    def wall_of(self, moment: int) -> int:
        """Make a wall-clock instant of a monotonic one."""
        return self._clock.wall() + moment - self._clock.monotonic()

    def window_is_new(self) -> None:
        """Forget the prefetch window of a connection that was lost."""
        self._widened.clear()

    def _widen(self, request: GovernedRequest) -> None:
        # A parked message takes no part of the window.
        if isinstance(request.message, ParkedMessage) or len(self._widened) >= _MOST_WIDENED:
            return
        self._widened.add(request)
        guarded(self._consumer.qos.increment_eventually)

    def _narrow(self, request: GovernedRequest) -> None:
        if request in self._widened:
            self._widened.remove(request)
            guarded(self._consumer.qos.decrement_eventually)
