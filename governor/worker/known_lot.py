"""A worker's knowledge of the parking lots that it releases from."""

from __future__ import annotations

from dataclasses import dataclass, field

from governor.admission.lanes import group_of
from governor.governor import Governor
from governor.policy.parking_values import Group
from governor.policy.upstream import UpstreamDeclaration
from governor.worker.request import GovernedRequest
from governor.worker.source_queues import SourceQueues


@dataclass(slots=True)
class KnownLot:
    """One worker's knowledge of one upstream's lot.

    Attributes:
        waiting: tasks in it, by its last answer.
        asking: a pool slot is asked for, in order to release a task into it.
        timer: monotonic microseconds of the next question.
        misses: questions of the timer in a row that released nothing.
        timed: the next question is asked because of the timer.
        freed, news: see :class:`~governor.policy.parking_values.ReleaseAsk`.
        out: tasks released to this worker that have not ended, and the requests made of them.
        silent: those of them that will not end here; their leases run out.
        left: tasks that have ended since the last question.
    """

    upstream: UpstreamDeclaration
    waiting: int = 0
    asking: bool = False
    timer: int | None = None
    misses: int = 0
    timed: bool = False
    freed: set[str] = field(default_factory=set)
    news: bool = False
    out: dict[str, GovernedRequest | None] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    left: list[str] = field(default_factory=list)


class KnownGroups:
    """Groups of lanes that a worker releases: one for each of its task types and queues."""

    def __init__(self, governor: Governor, source_queues: SourceQueues) -> None:
        self._governor = governor
        self._source_queues = source_queues
        self._groups: dict[tuple[str, int, tuple[str, ...]], tuple[Group, ...]] = {}

    def of(self, upstream: UpstreamDeclaration) -> tuple[Group, ...]:
        """List the groups of ``upstream``, under the limits in force."""
        in_force = self._governor.admission.in_force
        origins = self._source_queues.all()
        key = (upstream.name, in_force.version(upstream.name), origins)
        groups = self._groups.get(key)
        if groups is None:
            found: dict[str, Group] = {}
            for task in self._governor.app.tasks:
                governance = self._governor.governance(task)
                if governance is None or governance.plan.upstream is not upstream:
                    continue
                plans = [governance.plan]
                if upstream.reserve:
                    plans.append(governance.plan.leaving_reserve())
                for plan in plans:
                    for origin in origins:
                        group = group_of(in_force.plan(plan), origin)
                        found[group.name] = group
            groups = tuple(found.values())
            self._groups = {k: v for k, v in self._groups.items() if k[0] != upstream.name}
            self._groups[key] = groups
        return groups
