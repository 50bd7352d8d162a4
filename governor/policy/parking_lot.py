"""The parking lot of one upstream: the specification.

A task that must wait longer than a worker holds it waits here, outside broker and worker, in a
lane: one FIFO of the tasks that share their limit keys, their fairness key and their priority.
Release is admission: whoever has room for tasks asks which may go, and what may go is charged.

``park.lua``, ``release.lua`` and ``steer.lua`` of the Redis store repeat this; a property test
drives both with the same arrivals.

Whose turn it is, is decided by start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) over
the fairness keys. Every key has a finish tag. A lane that begins to wait gets as its start tag the
later of the virtual time and its key's finish tag; the lane with the smallest start tag is served;
the virtual time becomes that tag, and the key's finish tag grows by the task's cost divided by the
key's weight. A key that was away gets no credit for it, and one that floods the lot only ever
waits for itself. At equal tags the lane with the higher priority goes first.

A lane waits in one of two ways. It is *ready* while only limits that it shares with its whole
group can hold it up; when one of those says "not yet", the whole group waits until then. It is
*blocked* until an instant when a limit of its own says so, one with ``per=``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from governor.policy.decision import Admit, Answer, Ask, QuotaCharge, Stale, Wait
from governor.policy.parking_values import (
    Arrival,
    Group,
    Lane,
    LaneView,
    LotView,
    Overdue,
    Parking,
    ReleaseAsk,
    Released,
    Steer,
    Ticket,
    Waiting,
)
from governor.policy.release_pace import paced, rate_of

TURN = 1_000_000
"""How far a call of cost 1 moves the tag of a fairness key of weight 1."""

MOST_PASSED = 100
"""Lanes that one release may find blocked before it answers, so that a script stays short."""

MOST_UNBLOCKED = 1_000
"""Blocked lanes of a group that one release looks at again."""

MOST_LOOKED_AT = 1_000
"""Lanes in which one question looks for tasks whose time is over."""

MOST_OVERDUE = 50
"""Tasks whose time is over that one question takes out."""

MOST_BACK = 100
"""Tasks whose worker died that one release takes back."""


@dataclass(slots=True)
class _Entry:
    lane: Lane
    costs: tuple[int, ...]
    deadline: int
    since: int
    payload: bytes
    message: str


class Lot:
    """One upstream's parking lot. Not safe between threads; time is an argument."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        # Those that are not named by their task id alone.
        self._beside: set[str] = set()
        self._queues: dict[str, list[str]] = {}
        self._lanes: dict[str, Lane] = {}
        self._ready: dict[str, dict[str, int]] = {}
        self._blocked: dict[str, dict[str, int]] = {}
        self._stuck: dict[str, set[str]] = {}
        self._flows: dict[str, int] = {}
        self._virtual = 0
        self._out: dict[str, int] = {}
        self._pace = (0, 0, 0)
        self.steered: list[str] = []

    @property
    def waiting(self) -> int:
        return sum(map(len, self._queues.values()))

    def queued(self, group: str, lane: str) -> bool:
        """Whether others wait in this lane, or are ready in this group."""
        return lane in self._queues or bool(self._ready.get(group))

    def park(self, arrivals: Iterable[Arrival], now: int) -> Parking:
        kept = []
        fresh = False
        for arrival in arrivals:
            entry, lane = self._entry_of(arrival), arrival.lane
            here = True
            if entry in self._entries:
                here = arrival.again and bool(self._out.pop(entry, 0))
            kept.append(here)
            if not here:
                continue
            if entry != arrival.task_id:
                self._beside.add(entry)
            deadline = arrival.give_up_at or (arrival.max_wait and now + arrival.max_wait)
            if arrival.expires_in:
                expires = now + arrival.expires_in
                deadline = min(deadline or expires, expires)
            self._entries[entry] = _Entry(
                lane, arrival.costs, deadline, now, arrival.payload, arrival.message
            )
            fresh = self._join(entry, lane, front=arrival.front) or fresh
        return Parking(now, tuple(kept), self.waiting, fresh)

    def release(  # noqa: PLR0912, PLR0915 - one table, in the order in which the script decides
        self, ask: ReleaseAsk, now: int, decide: Callable[[Ask], Answer], version: int
    ) -> Released:
        """Release what may go.

        Args:
            decide: one admission at ``now``, with its effects.
            version: of the limits in force.
        """
        self.steer("left", ask.left)
        if version != ask.version:
            return Released(now, waiting=self.waiting, stale=True)
        for until, name in sorted((until, name) for name, until in self._out.items())[:MOST_BACK]:
            if until <= now:
                self.steer("back", [name])
        known = [group.name for group in ask.groups]
        for bucket in ask.freed:
            self._freed(bucket, known)
        more = False
        for group in known:
            more = self._unblock(group, None if ask.news else now) or more
        tickets: list[Ticket] = []
        active = {group.name: group for group in ask.groups}
        moments: list[int] = []
        successes = ask.successes
        passed = 0
        while active:
            heads = [
                (tag, name, of) for of in active for name, tag in self._ready.get(of, {}).items()
            ]
            if not heads:
                break
            tag, name, group = min(heads)
            lane = self._lanes[name]
            if self._flows.get(lane.flow, 0) > tag:
                self._ready[group][name] = self._flows[lane.flow]
                continue
            if len(tickets) >= ask.room or passed >= MOST_PASSED:
                more = True
                break
            first = self._queues[name][0]
            entry = self._entries[first]
            if entry.deadline and entry.deadline <= now:
                tickets.append(Ticket(first, now, "", entry.payload, entry.since, late=True))
                self._take(name, ask, now)
                continue
            holder = f"{ask.token}.{len(tickets)}"
            question, private = _question(ask, active[group], lane, entry.costs, holder, successes)
            answer = decide(question)
            successes = 0
            slot = _slot(answer)
            if slot is not None:
                probe = isinstance(answer, Admit) and answer.probe
                tickets.append(Ticket(first, slot, holder, entry.payload, entry.since, probe=probe))
                self._virtual = max(self._virtual, tag)
                turn = -(-max(entry.costs, default=1) * TURN // lane.weight)
                self._flows[lane.flow] = tag + turn
                self._take(name, ask, now)
                continue
            passed += 1
            moment, limit, woken = _refused(answer, question, now)
            own_pause = limit == "pause" and moment == question.not_before
            if entry.deadline:
                moment = min(moment, entry.deadline)
            if limit in private or own_pause:
                del self._ready[group][name]
                self._blocked.setdefault(group, {})[name] = moment
                if woken:
                    self._stuck.setdefault(private[limit], set()).add(name)
            else:
                # What they all share says no to whoever is next.
                moments.append(moment)
                del active[group]
        for group in known:
            moments += self._blocked.get(group, {}).values()
        moments += self._out.values()
        gone = sum(not ticket.late for ticket in tickets)
        if gone:
            self._pace = paced(self._pace, gone, now)
        self._tidy()
        return Released(now, tuple(tickets), min(moments, default=0), more, self.waiting)

    def overdue(self, groups: Iterable[str], at: int, lease: int, now: int) -> Overdue:
        """Take out the tasks whose time is over of lanes of these groups, whoever releases them.

        Args:
            at: lanes that were looked at before.
            lease: how long they are kept for the asker without a sign of life.
        """
        names = [
            name
            for group in groups
            for lanes in (self._ready.get(group, {}), self._blocked.get(group, {}))
            for _, name in sorted((order, name) for name, order in lanes.items())
        ]
        looked_at = names[at : at + MOST_LOOKED_AT]
        more = at + len(looked_at) < len(names)
        tickets: list[Ticket] = []
        moments = []
        for name in looked_at:
            while name in self._queues:
                first = self._queues[name][0]
                entry = self._entries[first]
                if not entry.deadline:
                    break
                if entry.deadline > now:
                    moments.append(entry.deadline)
                    break
                if len(tickets) >= MOST_OVERDUE:
                    more = True
                    break
                tickets.append(Ticket(first, now, "", entry.payload, entry.since, late=True))
                self._out[self._queues[name].pop(0)] = now + lease
                if not self._queues[name]:
                    self._end(self._lanes[name])
        self._tidy()
        return Overdue(now, tuple(tickets), min(moments, default=0), more, self.waiting)

    def renew(self, entries: Iterable[str], until: int) -> None:
        for entry in entries:
            if entry in self._out:
                self._out[entry] = until

    def steer(self, what: Steer, entries: Iterable[str], to: Lane | None = None) -> list[bytes]:
        """Do something to each entry; the payloads of those it was done to, which are named in
        ``steered``."""
        done = []
        self.steered = []
        if what == "revoke":
            what = "cancel"
            entries = [name for task_id in entries for name in self._of(task_id)]
        for entry in entries:
            known = self._entries.get(entry)
            if known is None or (entry in self._out) is not (what in {"back", "left"}):
                continue
            done.append(known.payload)
            self.steered.append(entry)
            if what in {"back", "left"}:
                del self._out[entry]
            else:
                queue = self._queues[known.lane.name]
                queue.remove(entry)
                if not queue:
                    self._end(known.lane)
            if what in {"left", "cancel"}:
                del self._entries[entry]
                self._beside.discard(entry)
            else:
                if what == "move" and to is not None:
                    known.lane = to
                self._join(entry, known.lane, front=what != "move")
        self._tidy()
        return done

    def find(self, task_id: str) -> tuple[Waiting, ...]:
        """All entries of this task."""
        return tuple(self._waiting(name) for name in self._of(task_id) if name in self._entries)

    def _waiting(self, entry: str) -> Waiting:
        known = self._entries[entry]
        queue = self._queues.get(known.lane.name, [])
        position = queue.index(entry) + 1 if entry in queue else 0
        return Waiting(
            entry, known.lane, known.since, known.deadline, known.costs, position, known.payload
        )

    def pace(self, now: int) -> tuple[int, int]:
        """See :func:`rate_of`."""
        return rate_of(*self._pace, now)

    def groups(self) -> dict[str, str]:
        """Those that have lanes, each with its queue."""
        return {lane.group: lane.origin for lane in self._lanes.values()}

    def view(self, now: int) -> LotView:
        lanes = []
        for name, queue in self._queues.items():
            lane = self._lanes[name]
            blocked = self._blocked.get(lane.group, {}).get(name, 0)
            tag = self._ready.get(lane.group, {}).get(name, 0)
            oldest = self._entries[queue[0]].since
            lanes.append((blocked, tag, name, LaneView(lane, len(queue), oldest, blocked)))
        return LotView(
            now, self.waiting, len(self._out), self.pace(now),
            tuple(lane for *_, lane in sorted(lanes, key=lambda known: known[:3])),
        )  # fmt: skip

    # ------------------------------------------------------------------ inside

    def _entry_of(self, arrival: Arrival) -> str:
        """The name of the message's entry, whether it is there or not."""
        beside = f"{arrival.task_id}:{arrival.message}"
        first = self._entries.get(arrival.task_id)
        taken = first is not None and first.message != arrival.message
        return beside if taken or beside in self._beside else arrival.task_id

    def _of(self, task_id: str) -> list[str]:
        """The names that entries of this task may have."""
        others = (name for name in self._beside if name.rpartition(":")[0] == task_id)
        return [task_id, *sorted(others)]

    def _join(self, entry: str, lane: Lane, *, front: bool) -> bool:
        name = lane.name
        queue = self._queues.setdefault(name, [])
        queue.insert(0 if front else len(queue), entry)
        if len(queue) > 1:
            return False
        self._lanes[name] = lane
        self._make_ready(lane.group, name)
        return True

    def _make_ready(self, group: str, name: str) -> None:
        flow = self._lanes[name].flow
        tag = max(self._virtual, self._flows.get(flow, 0))
        self._ready.setdefault(group, {})[name] = tag

    def _freed(self, bucket: str, groups: Iterable[str]) -> None:
        stuck = self._stuck.get(bucket, set())
        for group in groups:
            blocked = self._blocked.get(group, {})
            for name in stuck & blocked.keys():
                del blocked[name]
                stuck.discard(name)
                self._make_ready(group, name)

    def _unblock(self, group: str, now: int | None) -> bool:
        """Make ready whose time has come, or all; whether some of them must wait for the next
        question."""
        blocked = self._blocked.get(group, {})
        due = sorted(
            (moment, name) for name, moment in blocked.items() if now is None or moment <= now
        )
        for _, name in due[:MOST_UNBLOCKED]:
            del blocked[name]
            self._make_ready(group, name)
        return len(due) > MOST_UNBLOCKED

    def _take(self, name: str, ask: ReleaseAsk, now: int) -> None:
        """The first of this lane goes out."""
        lane = self._lanes[name]
        queue = self._queues[name]
        self._out[queue.pop(0)] = now + ask.lease
        if queue:
            tag = self._ready[lane.group][name]
            self._ready[lane.group][name] = max(tag, self._flows.get(lane.flow, 0))
        else:
            self._end(lane)

    def _tidy(self) -> None:
        """Nobody waits: the turns begin anew."""
        if not self._queues:
            self._flows.clear()
            self._virtual = 0

    def _end(self, lane: Lane) -> None:
        del self._queues[lane.name]
        del self._lanes[lane.name]
        self._ready.get(lane.group, {}).pop(lane.name, None)
        self._blocked.get(lane.group, {}).pop(lane.name, None)


def _question(  # noqa: PLR0917 - called in one place
    ask: ReleaseAsk, group: Group, lane: Lane, costs: tuple[int, ...], holder: str, successes: int
) -> tuple[Ask, dict[str, str]]:
    """The admission of a lane's first, and the buckets of the limits that are its own, by the
    limits' names."""
    charges = []
    private = {}
    not_before = 0
    for (base, rule), bucket, cost in zip(group.limits, lane.buckets, costs, strict=False):
        charge = rule.charge_on(bucket, min(cost, rule.most))
        if isinstance(charge, QuotaCharge):
            charge = charge.dated(ask.wall)
        if bucket != base:
            private[charge.limit] = bucket
        not_before = max(not_before, ask.paused.get(bucket, 0))
        charges.append(charge)
    question = Ask(
        ask.upstream, tuple(charges), 0, ask.ahead, ask.ahead, ask.ahead, holder=holder,
        lease=ask.lease, version=ask.version, not_before=not_before, breaker=ask.breaker,
        adaptive=ask.adaptive, successes=successes, whole=True,
    )  # fmt: skip
    return question, private


def _slot(answer: Answer) -> int | None:
    if isinstance(answer, Admit):
        return answer.slot
    return answer.until if isinstance(answer, Wait) and answer.charged else None


def _refused(answer: Answer, question: Ask, now: int) -> tuple[int, str, bool]:
    """Until when, by which limit, and whether there will be news of it before."""
    if isinstance(answer, Wait):
        return (now + question.lease if answer.woken else answer.until), answer.limit, answer.woken
    assert not isinstance(answer, Stale | Admit)
    return answer.until, answer.limit, False  # type: ignore[union-attr]
