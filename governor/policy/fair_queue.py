"""Start-time fair queueing over lanes (Goyal, Vin and Cheng, SIGCOMM 1996).

Every flow (a fairness key) has a finish tag. A lane that begins to wait gets as its start tag the
later of the virtual time and its flow's finish tag; the lane with the smallest start tag is served;
the virtual time becomes that tag, and the flow's finish tag grows by the task's cost divided by the
flow's weight. A flow that was away gets no credit for it, and one that floods the lot only ever
waits for itself. At equal tags the lane with the higher priority goes first.

A lane waits in one of two ways. It is *ready* while only limits that it shares with its whole
group can hold it up. It is *blocked* until an instant when a limit of its own says so, one with
``per=``; a lease that comes free in that limit makes it ready before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from governor.policy.parking_values import Lane

TURN = 1_000_000
"""How far a call of cost 1 moves the tag of a fairness key of weight 1."""

MOST_UNBLOCKED = 1_000
"""Blocked lanes of a group that one release looks at again."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The lane that is next: its first entry, and the tag at which it is served."""

    lane: Lane
    entry: str
    tag: int


class FairQueue:
    """Entries in lanes, and whose turn it is. Time is an argument."""

    def __init__(self) -> None:
        self._queues: dict[str, list[str]] = {}
        self._lanes: dict[str, Lane] = {}
        # By group, then lane: the start tag, or the instant of a blocked lane.
        self._ready: dict[str, dict[str, int]] = {}
        self._blocked: dict[str, dict[str, int]] = {}
        self._flows: dict[str, int] = {}
        self._virtual = 0
        # By bucket: lanes that a lease coming free in it makes ready.
        self._woken_by: dict[str, set[str]] = {}

    @property
    def waiting(self) -> int:
        """Entries in all lanes."""
        return sum(map(len, self._queues.values()))

    @property
    def lanes(self) -> Collection[Lane]:
        """Lanes in which something waits."""
        return self._lanes.values()

    def queue(self, lane: str) -> list[str]:
        """The entries of a lane, in their order."""
        return self._queues.get(lane, [])

    def has_ready(self, group: str) -> bool:
        """Tell whether a lane of this group is ready."""
        return bool(self._ready.get(group))

    def standing(self, lane: Lane) -> tuple[int, int]:
        """The instant until which a lane is blocked, or 0, and its start tag, or 0."""
        blocked = self._blocked.get(lane.group, {}).get(lane.name, 0)
        return blocked, self._ready.get(lane.group, {}).get(lane.name, 0)

    def in_order(self, group: str) -> Iterator[str]:
        """The lanes of a group: the ready ones by tag, then the blocked ones by instant."""
        for lanes in (self._ready.get(group, {}), self._blocked.get(group, {})):
            yield from (name for _, name in sorted((order, name) for name, order in lanes.items()))

    def moments(self, group: str) -> Collection[int]:
        """The instants until which lanes of a group are blocked."""
        return self._blocked.get(group, {}).values()

    # ------------------------------------------------------------------ entries

    def join(self, entry: str, lane: Lane, *, front: bool = False) -> bool:
        """Add an entry; return whether its lane begins to wait by it."""
        queue = self._queues.setdefault(lane.name, [])
        queue.insert(0 if front else len(queue), entry)
        if len(queue) > 1:
            return False
        self._lanes[lane.name] = lane
        self._make_ready(lane.group, lane.name)
        return True

    def leave(self, entry: str, lane: Lane) -> None:
        """Take an entry out of its lane, wherever it stands."""
        queue = self._queues[lane.name]
        queue.remove(entry)
        if not queue:
            self._end(lane)

    def pop(self, lane: Lane) -> str:
        """Take the first entry of a lane."""
        queue = self._queues[lane.name]
        entry = queue.pop(0)
        if not queue:
            self._end(lane)
        return entry

    def tidy(self) -> None:
        """Begin the turns anew when nothing waits."""
        if not self._queues:
            self._flows.clear()
            self._virtual = 0

    # ------------------------------------------------------------------ turns

    def next(self, groups: Iterable[str]) -> Turn | None:
        """The ready lane of these groups with the smallest tag; ``None`` when there is none."""
        groups = tuple(groups)
        while True:
            heads = [
                (tag, name, group)
                for group in groups
                for name, tag in self._ready.get(group, {}).items()
            ]
            if not heads:
                return None
            tag, name, group = min(heads)
            lane = self._lanes[name]
            if (finish := self._flows.get(lane.flow, 0)) <= tag:
                return Turn(lane, self._queues[name][0], tag)
            # Another lane of its flow has had a turn since.
            self._ready[group][name] = finish

    def serve(self, turn: Turn, cost: int) -> None:
        """Count a turn: the virtual time and the flow's finish tag move on."""
        self._virtual = max(self._virtual, turn.tag)
        self._flows[turn.lane.flow] = turn.tag + -(-cost * TURN // turn.lane.weight)

    def fall_back(self, lane: Lane) -> None:
        """Let a ready lane stand behind the turns that its flow has had."""
        ready = self._ready.get(lane.group, {})
        if lane.name in ready:
            ready[lane.name] = max(ready[lane.name], self._flows.get(lane.flow, 0))

    def block(self, lane: Lane, until: int, woken_by: str | None) -> None:
        """Let a ready lane wait until an instant, or until a lease in this bucket comes free."""
        del self._ready[lane.group][lane.name]
        self._blocked.setdefault(lane.group, {})[lane.name] = until
        if woken_by is not None:
            self._woken_by.setdefault(woken_by, set()).add(lane.name)

    def freed(self, bucket: str, groups: Iterable[str]) -> None:
        """Make ready the lanes of these groups that wait for a lease in a bucket."""
        woken = self._woken_by.get(bucket, set())
        for group in groups:
            blocked = self._blocked.get(group, {})
            for name in woken & blocked.keys():
                del blocked[name]
                woken.discard(name)
                self._make_ready(group, name)

    def unblock(self, group: str, now: int | None) -> bool:
        """Make ready the lanes whose instant has come, or all when ``now`` is ``None``; return
        whether some of them must wait for the next question."""
        blocked: Mapping[str, int] = self._blocked.get(group, {})
        due = sorted(
            (moment, name) for name, moment in blocked.items() if now is None or moment <= now
        )
        for _, name in due[:MOST_UNBLOCKED]:
            del self._blocked[group][name]
            self._make_ready(group, name)
        return len(due) > MOST_UNBLOCKED

    def _make_ready(self, group: str, name: str) -> None:
        tag = max(self._virtual, self._flows.get(self._lanes[name].flow, 0))
        self._ready.setdefault(group, {})[name] = tag

    def _end(self, lane: Lane) -> None:
        del self._queues[lane.name]
        del self._lanes[lane.name]
        self._ready.get(lane.group, {}).pop(lane.name, None)
        self._blocked.get(lane.group, {}).pop(lane.name, None)
