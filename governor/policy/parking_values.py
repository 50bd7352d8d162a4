"""Questions to a parking lot and its answers, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from governor.errors import UpstreamStateError
from governor.keys import digest
from governor.policy.adaptive import AdaptivePolicy
from governor.policy.breaker import BreakerPolicy
from governor.policy.limits import Rule


@dataclass(frozen=True, slots=True)
class Lane:
    """One FIFO of parked tasks.

    Attributes:
        group: the lanes of one queue whose tasks have the same limits: whoever consumes the queue
            and knows the limits may release them.
        buckets: the limit keys, in the order of the limits.
        flow: the fairness key's name; lanes of one flow share its turns.
        rank: the priority, smaller is more urgent; 0 to 255.
        weight: of the flow.
        tenant: the fairness key as people may read it.
        origin: the queue.
    """

    group: str
    buckets: tuple[str, ...]
    flow: str
    rank: int = 0
    weight: int = 1
    tenant: str = ""
    origin: str = ""

    @property
    def name(self) -> str:
        """The lane's name within its upstream.

        It begins with the rank, because equal tags are served in the order of the names.
        """
        return f"{self.rank:03d}{digest(str((self.group, self.buckets, self.flow)))}"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A task to be parked.

    Attributes:
        task_id: parking one message of it twice leaves one. Its entry is named by the task id,
            or, while another message of the task is there, by both ids.
        costs: in each limit.
        give_up_at: store time at which it has waited too long; unknown when ``None``.
        max_wait: the same, counted from now, when that is unknown.
        expires_in: microseconds until nobody wants it any more, 0: never.
        payload: its message.
        front: it has had its turn and stands before the others.
        message: names the message and its attempt among those of the task id.
        again: it comes back from being released, or may be a copy of what was released: while that
            is believed to run, this one takes its place.
    """

    task_id: str
    lane: Lane
    costs: tuple[int, ...]
    payload: bytes
    give_up_at: int | None = None
    max_wait: int = 0
    expires_in: int = 0
    front: bool = False
    message: str = ""
    again: bool = False


@dataclass(frozen=True, slots=True)
class Parking:
    """The result of parking arrivals.

    Attributes:
        kept: of each, whether it waits here now; otherwise it did already.
        waiting: tasks in all lanes.
        fresh: a lane has begun to wait, whose first instant nobody knows yet.
    """

    now: int
    kept: tuple[bool, ...]
    waiting: int
    fresh: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Lanes that a worker can release: it consumes their queue and knows their limits.

    Attributes:
        limits: each with the name of its bucket, without a ``per=`` value. With none, tasks come
            out that nobody can charge any more, because their limits are declared in another way
            now: they are not admitted by being released.
    """

    name: str
    limits: tuple[tuple[str, Rule], ...]


@dataclass(frozen=True, slots=True)
class ReleaseAsk:
    """Which parked tasks may go now?

    Attributes:
        room: at most so many.
        ahead: microseconds before its slot at which a task is released, to be there at it.
        lease: how long a released task, and its lease in a concurrency limit, is kept for whoever
            released it without a sign of life.
        token: names this question; the holder of the task released as number ``n`` is
            ``token.n``.
        version: of the limits in force, from which ``groups`` were made.
        paused: store time until which a limit key is paused, by bucket.
        wall: the asker's wall time, for quotas.
        left: entries that have ended since the last question.
        freed: concurrency limits, by bucket, in which a lease came free.
        news: limits were changed or a pause was ended: blocked lanes are looked at again.
        breaker, adaptive, successes: as in an admission.
    """

    upstream: str
    groups: tuple[Group, ...]
    room: int
    ahead: int
    lease: int
    token: str
    version: int = 0
    paused: Mapping[str, int] = field(default_factory=dict)
    wall: int = 0
    left: tuple[str, ...] = ()
    freed: tuple[str, ...] = ()
    news: bool = False
    breaker: BreakerPolicy | None = None
    adaptive: AdaptivePolicy | None = None
    successes: int = 0


@dataclass(frozen=True, slots=True)
class Ticket:
    """A released task. Its limits are charged at ``slot``; it is good until the grace is over.

    Attributes:
        holder: names it in its concurrency limits.
        since: store time at which it was parked.
        late: it has waited too long, or has expired. Nothing was charged; it shall not run.
        probe: as of an admission.
        full: as of a wait: its one bucket is full at ``slot``.
    """

    entry: str
    slot: int
    holder: str
    payload: bytes
    since: int
    late: bool = False
    probe: bool = False
    full: bool = False


@dataclass(frozen=True, slots=True)
class Released:
    """The answer.

    Attributes:
        tickets: in the order of their turns.
        next: store time before which asking again is of no use, unless there is news; 0: never.
        more: there was no room for what may go now.
        waiting: tasks that still wait in all lanes.
        stale: the limits were changed meanwhile: read them and ask again. Nothing was released.
        broken: what is kept for one lane cannot be used; it waits for a second, others went on.
    """

    now: int
    tickets: tuple[Ticket, ...] = ()
    next: int = 0
    more: bool = False
    waiting: int = 0
    stale: bool = False
    broken: UpstreamStateError | None = None


@dataclass(frozen=True, slots=True)
class Overdue:
    """Parked tasks whose time is over, in lanes that the asker does not release.

    Attributes:
        tickets: they are kept for the asker as released ones are, and shall not run.
        next: store time at which the next one's time is over; 0: none waits.
        more: there may be more of them now.
        waiting: tasks that still wait in all lanes.
    """

    now: int
    tickets: tuple[Ticket, ...]
    next: int
    more: bool
    waiting: int


@dataclass(frozen=True, slots=True)
class ParkedTask:
    """One parked task, as people see it.

    Attributes:
        since: store time at which it was parked.
        deadline: store time until which it may wait, 0: for ever.
        position: 1 for the first of its lane; 0 once it is released.
    """

    entry: str
    lane: Lane
    since: int
    deadline: int
    costs: tuple[int, ...]
    position: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class LaneView:
    """One lane, as people see it.

    Attributes:
        waiting: tasks in it.
        oldest: store time at which its first was parked.
        blocked_until: store time before which a limit of its own holds it up, 0: none does.
    """

    lane: Lane
    waiting: int
    oldest: int
    blocked_until: int


@dataclass(frozen=True, slots=True)
class LotView:
    """A parking lot, as people see it.

    Attributes:
        waiting: tasks in its lanes.
        out: tasks that are released and have not ended.
        released: tasks released within the last ten to twenty seconds, and over how many
            microseconds they were counted.
        lanes: in the order of their turns as it is now.
    """

    now: int
    waiting: int
    out: int
    released: tuple[int, int]
    lanes: tuple[LaneView, ...]


Steer = Literal["back", "left", "cancel", "revoke", "front", "move"]
"""The ways to change an entry: a released one goes back to the front of its lane, or has ended; a
waiting one is taken out (revoked: all of a task), goes to the front of its lane, or to the end of
another."""


@dataclass(frozen=True, slots=True)
class Steering:
    """A change of entries of a lot.

    Attributes:
        entries: their names; task ids, where tasks are revoked.
        to: the lane a moved one goes to.
        by, why: the person who does it, and the reason, kept with the time; empty when the
            governor does it itself.
    """

    what: Steer
    entries: tuple[str, ...]
    to: Lane | None = None
    by: str = ""
    why: str = ""
