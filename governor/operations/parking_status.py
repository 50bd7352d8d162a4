"""Parking lots as people see them: how many tasks wait, in which turns, and when a task's turn is
likely to come. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from governor.clock import SECOND
from governor.errors import StoreUnavailable
from governor.messages.message import unpack
from governor.operations.limit_status import FOREVER, LimitStatusReader, UpstreamView
from governor.policy.breaker import Open
from governor.policy.parking_values import Lane, LaneView, LotView, ParkedTask
from governor.policy.upstream import Parking
from governor.ports import LimiterStore, MessageCopy

_HELD_BACK = "less."

_UNDECLARED = "no task declares its limits any more"


@dataclass(frozen=True, slots=True)
class HeldUp:
    """Why nothing is released.

    Attributes:
        by: ``pause`` or ``breaker``.
        until: store time; :data:`~governor.operations.limit_status.FOREVER` for a pause without
            an end.
    """

    by: str
    until: int


@dataclass(frozen=True, slots=True)
class Turns:
    """Lanes that take one turn together, or one of them.

    Attributes:
        tenant: the fairness key as people may read it; digests of limit keys where nobody has
            named one.
        lane: the one lane this is about; ``None`` for a fairness key.
        lanes: how many it is made of.
        oldest: store time at which the first of its tasks was parked.
        share: of the turns of all that wait.
        blocked_until: store time before which no task of it can go, 0: nothing of its own holds it
            up, or nobody knows until when.
        blocked_by: what of its own holds it up, as far as that is known.
        rate: tasks of a fairness key released in a second, if it has its share of the turns of
            those that nothing holds up, at the rate of lately; ``None``: none, or nobody knows.
    """

    tenant: str
    lane: Lane | None
    lanes: int
    waiting: int
    oldest: int
    weight: int
    share: float
    blocked_until: int
    blocked_by: str
    rate: float | None = None

    @property
    def drain(self) -> int | None:
        """Microseconds until all that wait are released at that rate; ``None``: nobody knows."""
        return None if self.rate is None else int(self.waiting / self.rate * SECOND)


@dataclass(frozen=True, slots=True)
class LotStatus:
    """An upstream's parking lot as it stands.

    Attributes:
        lot: ``None`` when the store does not answer.
        held_up: why nothing of it is released, if so.
    """

    name: str
    parking: Parking
    lot: LotView | None
    upstream: UpstreamView
    held_up: HeldUp | None = None

    @property
    def oldest(self) -> int | None:
        """Store time at which the task was parked that waits longest."""
        lanes = () if self.lot is None else self.lot.lanes
        return min((lane.oldest for lane in lanes), default=None)

    @property
    def rate(self) -> float | None:
        """Tasks released in a second, lately; ``None`` when none was."""
        return None if self.lot is None else _rate(self.lot)

    @property
    def drain(self) -> int | None:
        """Microseconds until all that wait are released, as fast as the latest were; ``None`` when
        nothing is released, or nobody knows how fast."""
        if self.lot is None or self.held_up is not None:
            return None
        if not self.lot.waiting:
            return 0
        rate = self.rate
        return None if rate is None else int(self.lot.waiting / rate * SECOND)


@dataclass(frozen=True, slots=True)
class Parked:
    """A task in a parking lot.

    Attributes:
        message: ``None`` when nobody can read it.
    """

    task_id: str
    upstream: str
    entry: ParkedTask
    message: MessageCopy | None

    @property
    def released(self) -> bool:
        """Tell whether a worker has the task, or had it when it died."""
        return not self.entry.position

    @property
    def task(self) -> str | None:
        """The task type's name."""
        return None if self.message is None else self.message.headers.get("task")


@dataclass(frozen=True, slots=True)
class ReleaseEstimate:
    """Position of a parked task, and when it is likely to be released.

    Attributes:
        now: the store's time.
        behind: tasks in its lane, itself and those after it too.
        lanes: lanes of the lot that wait, and how many fairness keys they are of.
        ahead: tasks that are likely to be released before it.
        at: store time at which it is likely to be released, ``None``: nobody knows.
        held_up: why nothing is released, if so.
    """

    now: int
    behind: int
    lanes: int
    keys: int
    ahead: int
    at: int | None
    rate: float | None
    held_up: HeldUp | None
    blocked_until: int
    blocked_by: str


class ParkedTasks:
    """A reader of an application's parking lots.

    Args:
        standing: of the same store.
        shown: hides secrets in a text.
    """

    def __init__(
        self, store: LimiterStore, standing: LimitStatusReader, shown: Callable[[str], str]
    ) -> None:
        self._lots = store.lots
        self._standing = standing
        self._shown = shown

    def standing(self, upstream: str) -> LotStatus:
        """A parking lot as it stands. That the store does not answer is part of it.

        Raises:
            NothingMatched: no upstream is called so.
        """
        parking = self._standing.upstream(upstream).parking
        view = self._standing.view(upstream, ())
        if view.now is None:
            return LotStatus(upstream, parking, None, view)
        try:
            lot = self._lots.view(upstream)
        except StoreUnavailable:
            return LotStatus(upstream, parking, None, view)
        return LotStatus(upstream, parking, lot, view, held_up(view))

    def lanes(self, found: LotStatus) -> tuple[Turns, ...]:
        """The lanes, in the order of their turns as it is now."""
        if found.lot is None:
            return ()
        total = sum(_weights(found.lot.lanes).values())
        return tuple(self._turns(found, [each], each.lane, total) for each in found.lot.lanes)

    def tenants(self, found: LotStatus) -> tuple[Turns, ...]:
        """The fairness keys, the one with most tasks first."""
        if found.lot is None:
            return ()
        flows: dict[str, list[LaneView]] = {}
        for each in found.lot.lanes:
            flows.setdefault(each.lane.flow, []).append(each)
        total = sum(_weights(found.lot.lanes).values())
        rates = self._rates(found)
        turns = (
            replace(self._turns(found, lanes, None, total), rate=rates.get(flow))
            for flow, lanes in flows.items()
        )
        return tuple(sorted(turns, key=lambda one: (-one.waiting, one.tenant)))

    def find(self, task_id: str) -> tuple[Parked, ...]:
        """All attempts and messages of this task, in any upstream's lot.

        Raises:
            StoreUnavailable: no answer in time.
        """
        return tuple(
            Parked(task_id, upstream, found, _read(found.payload))
            for upstream in self._standing.names()
            for found in self._lots.find(upstream, task_id)
        )

    def estimate(self, parked: Parked) -> ReleaseEstimate:
        """Estimate when a parked task is released.

        Raises:
            StoreUnavailable: no answer in time.
        """
        view = self._standing.view(parked.upstream, ())
        lot = self._lots.view(parked.upstream)
        own = next((lane for lane in lot.lanes if lane.lane.name == parked.entry.lane.name), None)
        held = held_up(view)
        ahead = tasks_ahead(lot, parked.entry)
        blocked = 0 if own is None else own.blocked_until
        return ReleaseEstimate(
            now=lot.now,
            behind=0 if own is None else own.waiting,
            lanes=len(lot.lanes),
            keys=len(_weights(lot.lanes)),
            ahead=ahead,
            at=None if held is not None else _release_at(lot, ahead, blocked),
            rate=_rate(lot),
            held_up=held,
            blocked_until=blocked,
            blocked_by="" if own is None else self._blocked_by(own, view),
        )

    def arguments(self, parked: Parked) -> str | None:
        """The task's arguments as its message tells them, without secrets."""
        if parked.message is None:
            return None
        headers = parked.message.headers
        told = [str(headers[name]) for name in ("argsrepr", "kwargsrepr") if headers.get(name)]
        return self._shown(" ".join(told)) if told else None

    def called(self, upstream: str, lane: Lane) -> str:
        """A lane's fairness key as people may read it."""
        if lane.tenant:
            return lane.tenant
        own = [bucket for bucket in lane.buckets if ":" in bucket]
        own = [bucket for bucket in own if not bucket.startswith(_HELD_BACK)]
        return ", ".join(self._standing.shown(upstream, bucket) for bucket in own) or "all"

    def _turns(
        self, found: LotStatus, lanes: Sequence[LaneView], lane: Lane | None, total: int
    ) -> Turns:
        first = lanes[0].lane
        blocked = min(each.blocked_until for each in lanes)
        held = next(each for each in lanes if each.blocked_until == blocked)
        return Turns(
            tenant=self.called(found.name, first),
            lane=lane,
            lanes=len(lanes),
            waiting=sum(each.waiting for each in lanes),
            oldest=min(each.oldest for each in lanes),
            weight=first.weight,
            share=first.weight / total,
            blocked_until=blocked,
            blocked_by=self._blocked_by(held, found.upstream),
        )

    def _rates(self, found: LotStatus) -> dict[str, float]:
        """See :attr:`Turns.rate`; of the fairness keys that nothing holds up."""
        if found.lot is None or found.rate is None or found.held_up is not None:
            return {}
        going = _weights(
            [
                each
                for each in found.lot.lanes
                if each.blocked_until <= found.lot.now
                and self._standing.declares(found.name, each.lane.buckets)
            ]
        )
        total = sum(going.values())
        return {flow: found.rate * weight / total for flow, weight in going.items()}

    def _blocked_by(self, each: LaneView, view: UpstreamView) -> str:
        """Name what of a lane's own holds it up: a pause of a key, a limit, or that no worker asks
        for it."""
        lane = each.lane
        if not self._standing.declares(view.name, lane.buckets):
            return _UNDECLARED
        if not each.blocked_until:
            return ""
        if any(pause.bucket in lane.buckets for pause in view.pauses):
            return "pause"
        bases = [
            bucket.removeprefix(_HELD_BACK).partition(":")[0]
            for bucket in lane.buckets
            if ":" in bucket
        ]
        limits = self._standing.limits(view.name)
        names = dict.fromkeys(limit.rule.name for limit in limits if limit.bucket in bases)
        return " or ".join(names)


def held_up(view: UpstreamView) -> HeldUp | None:
    """Why nothing of this upstream is released."""
    for pause in view.pauses:
        if not pause.bucket:
            return HeldUp("pause", min(pause.until, FOREVER))
    if isinstance(view.breaker, Open) and view.breaker.until > (view.now or 0):
        return HeldUp("breaker", view.breaker.until)
    return None


def tasks_ahead(lot: LotView, entry: ParkedTask) -> int:
    """How many tasks are likely to be released before a parked one.

    Of its own fairness key those before it in its lane, and all of the lanes that go first. Each
    other key has, meanwhile, as many turns as its weight gives it, and no more than it has tasks.
    A lane that a limit of its own holds up takes no turns.
    """
    lane = entry.lane
    others: dict[str, int] = {}
    weights: dict[str, int] = {}
    before: set[str] = set()
    ahead = max(entry.position - 1, 0)
    own_seen = False
    for each in lot.lanes:
        if each.lane.name == lane.name:
            own_seen = True
        elif each.blocked_until > lot.now:
            continue
        elif each.lane.flow == lane.flow:
            ahead += each.waiting if each.lane.name < lane.name else 0
        else:
            flow = each.lane.flow
            others[flow] = others.get(flow, 0) + each.waiting
            weights[flow] = each.lane.weight
            if not own_seen:
                before.add(flow)
    turns = (
        min(waiting, ahead * weights[flow] // lane.weight + (flow in before))
        for flow, waiting in others.items()
    )
    return ahead + sum(turns)


def _release_at(lot: LotView, ahead: int, blocked_until: int) -> int | None:
    rate = _rate(lot)
    if rate is None:
        return None
    return max(lot.now + int((ahead + 1) / rate * SECOND), blocked_until)


def _rate(lot: LotView) -> float | None:
    tasks, micros = lot.released
    return tasks * SECOND / micros if tasks else None


def _weights(lanes: Sequence[LaneView]) -> dict[str, int]:
    return {each.lane.flow: each.lane.weight for each in lanes}


def _read(payload: bytes) -> MessageCopy | None:
    try:
        return unpack(payload)
    except ValueError:
        return None
