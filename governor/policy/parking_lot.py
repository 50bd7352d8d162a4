"""The parking lot of one upstream: the specification.

A task that must wait longer than a worker holds it waits here, outside broker and worker, in a
lane: one FIFO of the tasks that share their limit keys, their fairness key and their priority.
Release is admission: whoever has room for tasks asks which may go, and what may go is charged.

``park.lua``, ``release.lua`` and ``steer.lua`` of the Redis store repeat this; a property test
drives both with the same arrivals.

Whose turn it is, is decided in :mod:`governor.policy.fair_queue`. When a limit that a whole group
shares says "not yet", the whole group waits until then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from governor.policy.decision import Admit, Answer, Ask, QuotaCharge, Stale, Wait
from governor.policy.fair_queue import FairQueue, Turn
from governor.policy.parking_values import (
    Arrival,
    Group,
    Lane,
    LaneView,
    LotView,
    Overdue,
    ParkedTask,
    Parking,
    ReleaseAsk,
    Released,
    Steer,
    Ticket,
)
from governor.policy.release_pace import paced, rate_of

MOST_PASSED = 100
"""Lanes that one release may find blocked before it answers, so that a script stays short."""

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
        self._queue = FairQueue()
        self._out: dict[str, int] = {}
        self._pace = (0, 0, 0)
        self.steered: list[str] = []

    @property
    def waiting(self) -> int:
        """Tasks in its lanes."""
        return self._queue.waiting

    def queued(self, group: str, lane: str) -> bool:
        """Tell whether others wait in this lane, or are ready in this group."""
        return bool(self._queue.queue(lane)) or self._queue.has_ready(group)

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
            fresh = self._queue.join(entry, lane, front=arrival.front) or fresh
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
            self._queue.freed(bucket, known)
        more = False
        for group in known:
            more = self._queue.unblock(group, None if ask.news else now) or more
        tickets: list[Ticket] = []
        active = {group.name: group for group in ask.groups}
        moments: list[int] = []
        successes = ask.successes
        passed = 0
        while turn := self._queue.next(active):
            if len(tickets) >= ask.room or passed >= MOST_PASSED:
                more = True
                break
            lane, entry = turn.lane, self._entries[turn.entry]
            if entry.deadline and entry.deadline <= now:
                tickets.append(_late(turn.entry, entry, now))
                self._take(turn, ask, now)
                continue
            holder = f"{ask.token}.{len(tickets)}"
            question, private = _question(
                ask, active[lane.group], lane, entry.costs, holder, successes
            )
            answer = decide(question)
            successes = 0
            slot = _slot(answer)
            if slot is not None:
                probe = isinstance(answer, Admit) and answer.probe
                full = isinstance(answer, Wait) and answer.full
                tickets.append(
                    Ticket(
                        turn.entry, slot, holder, entry.payload, entry.since, probe=probe, full=full
                    )
                )
                self._queue.serve(turn, max(entry.costs, default=1))
                self._take(turn, ask, now)
                continue
            passed += 1
            moment, limit, woken = _refused(answer, question, now)
            own_pause = limit == "pause" and moment == question.not_before
            if entry.deadline:
                moment = min(moment, entry.deadline)
            if limit in private or own_pause:
                self._queue.block(lane, moment, private[limit] if woken else None)
            else:
                # What they all share says no to whoever is next.
                moments.append(moment)
                del active[lane.group]
        for group in known:
            moments += self._queue.moments(group)
        moments += self._out.values()
        gone = sum(not ticket.late for ticket in tickets)
        if gone:
            self._pace = paced(self._pace, gone, now)
        self._queue.tidy()
        return Released(now, tuple(tickets), min(moments, default=0), more, self.waiting)

    def overdue(self, groups: Iterable[str], at: int, lease: int, now: int) -> Overdue:
        """Take out the tasks whose time is over, in lanes of these groups.

        Args:
            at: lanes that were looked at before.
            lease: how long they are kept for the asker without a sign of life.
        """
        names = [name for group in groups for name in self._queue.in_order(group)]
        looked_at = names[at : at + MOST_LOOKED_AT]
        more = at + len(looked_at) < len(names)
        tickets: list[Ticket] = []
        moments = []
        for name in looked_at:
            while queue := self._queue.queue(name):
                entry = self._entries[queue[0]]
                if not entry.deadline:
                    break
                if entry.deadline > now:
                    moments.append(entry.deadline)
                    break
                if len(tickets) >= MOST_OVERDUE:
                    more = True
                    break
                tickets.append(_late(queue[0], entry, now))
                self._out[self._queue.pop(entry.lane)] = now + lease
        self._queue.tidy()
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
                self._queue.leave(entry, known.lane)
            if what in {"left", "cancel"}:
                del self._entries[entry]
                self._beside.discard(entry)
            else:
                if what == "move" and to is not None:
                    known.lane = to
                self._queue.join(entry, known.lane, front=what != "move")
        self._queue.tidy()
        return done

    def find(self, task_id: str) -> tuple[ParkedTask, ...]:
        """All entries of this task."""
        return tuple(self._waiting(name) for name in self._of(task_id) if name in self._entries)

    def _waiting(self, entry: str) -> ParkedTask:
        known = self._entries[entry]
        queue = self._queue.queue(known.lane.name)
        position = queue.index(entry) + 1 if entry in queue else 0
        return ParkedTask(
            entry, known.lane, known.since, known.deadline, known.costs, position, known.payload
        )

    def pace(self, now: int) -> tuple[int, int]:
        """See :func:`rate_of`."""
        return rate_of(*self._pace, now)

    def groups(self) -> dict[str, str]:
        """The groups that have lanes, each with its queue."""
        return {lane.group: lane.origin for lane in self._queue.lanes}

    def view(self, now: int) -> LotView:
        lanes = []
        for lane in self._queue.lanes:
            queue = self._queue.queue(lane.name)
            blocked, tag = self._queue.standing(lane)
            oldest = self._entries[queue[0]].since
            lanes.append((blocked, tag, lane.name, LaneView(lane, len(queue), oldest, blocked)))
        return LotView(
            now, self.waiting, len(self._out), self.pace(now),
            tuple(lane for *_, lane in sorted(lanes, key=lambda known: known[:3])),
        )  # fmt: skip

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

    def _take(self, turn: Turn, ask: ReleaseAsk, now: int) -> None:
        """Let the first of the lane whose turn it is go out."""
        self._out[self._queue.pop(turn.lane)] = now + ask.lease
        self._queue.fall_back(turn.lane)


def _late(name: str, entry: _Entry, now: int) -> Ticket:
    return Ticket(name, now, "", entry.payload, entry.since, late=True)


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
