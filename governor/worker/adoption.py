"""Adoption of parked tasks that no question of this worker releases: their limits are declared in
another way now, or it does not consume their queue.

Tasks under limits declared in another way are taken out and parked again in the lanes that they
have now. Tasks of other queues are another worker's to release. If none has released them when
their time is over, the worker that finds them makes dead letters of them: their queue may have no
consumer left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from governor.clock import SECOND
from governor.errors import StoreUnavailable
from governor.governor import Governor
from governor.log_lines import LOG
from governor.policy.parking_lot import MOST_LOOKED_AT
from governor.policy.parking_values import Group, ReleaseAsk, Ticket
from governor.policy.upstream import UpstreamDeclaration
from governor.worker.event_loop import Loop, guarded
from governor.worker.source_queues import SourceQueues
from governor.worker.store_outage import StoreOutage

LONGEST = 60 * SECOND
"""Microseconds between two looks of a worker, at most."""

SHORTEST = SECOND
"""Microseconds between two looks of a worker, at least."""

_NEXT_PART = SECOND // 20
"""Microseconds until a worker goes on with a lot of which it has seen a part."""

_MOST_ADOPTED = 50
"""Tasks taken out at a time."""


class Deliver(Protocol):
    """Delivery of a task to Celery."""

    def __call__(
        self, upstream: str, ticket: Ticket, *, adopted: bool = False, unclaimed: str = ""
    ) -> None:
        """Hand over a task of an upstream's lot, released with ``ticket``."""


class Adoption:
    """Search of one worker's lots for such tasks, on its loop.

    Args:
        waiting: lists the upstreams in whose lots tasks wait.
        known: lists the groups that the worker releases of an upstream.
        token: names a question.
    """

    def __init__(  # noqa: PLR0917 - made in one place
        self, governor: Governor, loop: Loop, outage: StoreOutage, source_queues: SourceQueues,
        waiting: Callable[[], Sequence[UpstreamDeclaration]],
        known: Callable[[UpstreamDeclaration], Sequence[Group]],
        token: Callable[[], str], deliver: Deliver,
    ) -> None:  # fmt: skip
        self._governor = governor
        self._store = governor.store
        self._clock = governor.clock
        self._lease = governor.settings.claim_lease
        self._loop = loop
        self._outage = outage
        self._source_queues = source_queues
        self._waiting = waiting
        self._known = known
        self._token = token
        self._deliver = deliver
        self._timer: int | None = None
        # Where the next look into an upstream's lanes of a queue goes on.
        self._seen: dict[tuple[str, str], int] = {}
        self._consumed: frozenset[str] = frozenset()
        self._told: set[tuple[str, str]] = set()

    def begin(self) -> None:
        """Look now and then from now on."""
        self._consumed = frozenset(self._source_queues.all())
        self._look_at(self._clock.monotonic() + SHORTEST)

    def stop(self) -> None:
        """Look no more."""
        self._timer = None

    def queues_changed(self) -> None:
        """Look at once, and log the queues that this worker does not consume any more."""
        consumed = frozenset(self._source_queues.all())
        for queue in self._consumed - consumed:
            for upstream in self._waiting():
                guarded(partial(self._tell_of, queue, upstream.name))
        self._consumed = consumed
        self._told = {told for told in self._told if told[1] not in consumed}
        self._look_at(self._clock.monotonic())

    def _tell_of(self, queue: str, upstream: str) -> None:
        if queue in self._store.lots.groups(upstream).values():
            LOG.warning(
                "Tasks of %s that were parked out of the queue %s wait for a worker that consumes "
                "it; when their max_wait is over they are dead letters", upstream, queue,
            )  # fmt: skip
            self._told.add((upstream, queue))

    def _look_at(self, moment: int) -> None:
        self._timer = moment
        self._loop.at(moment, partial(self._look, moment))

    def _look(self, moment: int) -> None:
        if self._timer != moment:
            return
        again = LONGEST
        for upstream in self._waiting():
            again = min(again, max(upstream.max_wait // 4, SHORTEST))
            if self._outage.on(upstream.name):
                continue
            try:
                again = min(again, self._look_into(upstream))
            except StoreUnavailable as exc:
                self._outage.failed(exc)
            except Exception:
                LOG.exception("The lot of %s was not looked through", upstream.name)
        self._look_at(self._clock.monotonic() + again)

    def _look_into(self, upstream: UpstreamDeclaration) -> int:
        """Look into one lot; return in how many microseconds the next look is of use."""
        known = {group.name for group in self._known(upstream)}
        own: list[Group] = []
        others: dict[str, list[str]] = defaultdict(list)
        for group, origin in self._store.lots.groups(upstream.name).items():
            if group in known:
                continue
            if self._source_queues.releases(origin):
                own.append(Group(group, ()))
            else:
                others[origin].append(group)
        again = LONGEST
        if own and self._adopt(upstream.name, tuple(own)):
            again = _NEXT_PART
        for origin, groups in others.items():
            again = min(again, self._bury(upstream.name, origin, groups))
        return again

    def _adopt(self, upstream: str, groups: tuple[Group, ...]) -> bool:
        """Deliver parked tasks of these groups to this worker; tell whether there may be more."""
        version = self._governor.admission.in_force.version(upstream)
        asked = ReleaseAsk(
            upstream, groups, _MOST_ADOPTED, 0, self._lease, self._token(), version, news=True
        )
        released = self._store.lots.release(asked)
        for ticket in released.tickets:
            self._deliver(upstream, ticket, adopted=not ticket.late)
        if released.tickets:
            LOG.warning("%d tasks of %s were parked under limits that are declared in another way "
                         "now", len(released.tickets), upstream)  # fmt: skip
        return len(released.tickets) == _MOST_ADOPTED

    def _bury(self, upstream: str, origin: str, groups: Sequence[str]) -> int:
        """Make dead letters of the tasks whose time is over; return how much later the next one's
        is."""
        at = self._seen.pop((upstream, origin), 0)
        found = self._store.lots.overdue(upstream, groups, at, self._lease)
        for ticket in found.tickets:
            self._deliver(upstream, ticket, unclaimed=origin)
        if found.tickets:
            LOG.warning(
                "%d tasks of %s waited beyond max_wait in the queue %s: to be released it needs a "
                "worker that consumes it", len(found.tickets), upstream, origin,
            )  # fmt: skip
        elif found.next and (upstream, origin) not in self._told:
            self._told.add((upstream, origin))
            LOG.info("Tasks of %s wait that were parked out of the queue %s, which this worker "
                      "does not consume: it releases none of them", upstream, origin)  # fmt: skip
        if found.more:
            if not found.tickets:
                self._seen[upstream, origin] = at + MOST_LOOKED_AT
            return _NEXT_PART
        return max(found.next - found.now, SHORTEST) if found.next else LONGEST
