"""Arguments of the parking lot's scripts, and the meaning of their replies.

A lane is kept as ``group, flow, rank, weight, tenant, origin, bucket, bucket, …``, an entry as
``lane|costs|deadline|since|flow|weight|message``, a line feed, and what is parked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from governor import keys
from governor.policy import window
from governor.policy.decision import Charge, QuotaCharge, WindowCharge
from governor.policy.fair_queue import MOST_UNBLOCKED, TURN
from governor.policy.limits import Limit, Rule
from governor.policy.parking_lot import MOST_BACK, MOST_LOOKED_AT, MOST_OVERDUE, MOST_PASSED
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
    Steering,
    Ticket,
)
from governor.policy.release_pace import PACE, rate_of
from governor.stores.redis.wire import Words

_BETWEEN = "\x1f"

PARTS = ("lot", "lanes", "flows", "out", "groups", "beside")


def parts(prefix: str, upstream: str) -> list[str]:
    """The keys that every script of the lot is given first."""
    return [
        keys.state_key(prefix, upstream),
        *(keys.lot_key(prefix, upstream, part) for part in PARTS),
    ]


def ready_key(prefix: str, upstream: str, group: str) -> str:
    """The lanes of a group that only what it shares can hold up."""
    return keys.lot_key(prefix, upstream, f"r:{group}")


def blocked_key(prefix: str, upstream: str, group: str) -> str:
    """The lanes of a group that a limit of their own holds up."""
    return keys.lot_key(prefix, upstream, f"w:{group}")


def queue_key(prefix: str, upstream: str, lane: str) -> str:
    """The tasks of a lane."""
    return keys.lot_key(prefix, upstream, f"q:{lane}")


def park(prefix: str, upstream: str, arrivals: Sequence[Arrival]) -> Words:
    """``park.lua``'s keys and arguments."""
    names = parts(prefix, upstream)
    arguments: list[object] = [keys.channel(prefix, upstream)]
    for arrival in arrivals:
        ready, queue, name, kept, turns = _lane_words(prefix, upstream, arrival.lane)
        names += (ready, queue)
        patience = -arrival.max_wait if arrival.give_up_at is None else arrival.give_up_at
        arguments += (
            arrival.task_id, name, kept, turns, ",".join(map(str, arrival.costs)), patience,
            arrival.expires_in, int(arrival.front), int(arrival.again), arrival.message,
            arrival.payload.decode("utf-8", "surrogateescape"),
        )  # fmt: skip
    return names, arguments


# Many are parked one after the other in a lane, and its name is a digest.
@lru_cache(maxsize=4_096)
def _lane_words(prefix: str, upstream: str, lane: Lane) -> tuple[str, str, str, str, str]:
    """Return what is the same for every task of a lane: two keys, and its words."""
    name = lane.name
    return (
        ready_key(prefix, upstream, lane.group), queue_key(prefix, upstream, name), name,
        record(lane), _turns(lane),
    )  # fmt: skip


def parked(reply: list[int]) -> Parking:
    """Read the reply of ``park.lua``."""
    now, waiting, fresh, *kept = reply
    return Parking(now, tuple(map(bool, kept)), waiting, bool(fresh))


def release(prefix: str, ask: ReleaseAsk) -> Words:
    """``release.lua``'s keys and arguments."""
    upstream, policy = ask.upstream, ask.breaker
    names = parts(prefix, upstream)
    arguments: list[object] = [
        ask.room, ask.ahead, ask.lease, ask.token, keys.bucket_key(prefix, upstream, ""),
        ask.version, ask.successes, f"{policy.of}|{policy.probe}" if policy else "",
        ask.adaptive.step if ask.adaptive else "", int(ask.news),
        MOST_PASSED, MOST_UNBLOCKED, MOST_BACK, PACE, TURN,
        len(ask.left), len(ask.freed), len(ask.paused), *ask.left, *ask.freed,
    ]  # fmt: skip
    for bucket, until in ask.paused.items():
        arguments += (bucket, until)
    for group in ask.groups:
        names += [
            ready_key(prefix, upstream, group.name),
            blocked_key(prefix, upstream, group.name),
        ]
        arguments += _group(group, ask.wall)
    return names, arguments


def _group(group: Group, wall: int) -> list[object]:
    words: list[object] = [len(group.limits)]
    for bucket, rule in group.limits:
        words += _rule(bucket, rule, wall)
    return words


def _rule(bucket: str, rule: Rule, wall: int) -> Sequence[object]:
    per = int(rule.per is not None)
    charge = rule.charge_on(bucket, 1)
    match charge:
        case Charge():
            assert isinstance(rule, Limit)
            count = rule.rate.count
            return (
                "b", bucket, per, rule.most, rule.rate.period * count.denominator, count.numerator,
                rule.rate.interval(rule.burst) - rule.margin,
            )  # fmt: skip
        case WindowCharge():
            shape = window.Shape.of(charge.most)
            return ("w", bucket, per, rule.most, shape.entries, shape.group, charge.span)
        case QuotaCharge():
            return ("q", bucket, per, rule.most, *charge.dated(wall).bounds)
        case _:
            return ("l", bucket, per, rule.most)


def released(ask: ReleaseAsk, reply: list[Any]) -> Released:
    """Read the reply of ``release.lua``."""
    now, next_at, more, waiting, stale = reply[:5]
    tickets = []
    for number, at in enumerate(range(5, len(reply), 4)):
        entry, slot, kind, value = reply[at : at + 4]
        late = kind == 2
        head, _, payload = bytes(value).partition(b"\n")
        parked_at = int(head.split(b"|")[3])
        holder = "" if late else f"{ask.token}.{number}"
        ticket = Ticket(
            entry.decode(), slot, holder, payload, parked_at, late, kind == 1, kind == 3
        )
        tickets.append(ticket)
    return Released(now, tuple(tickets), next_at, bool(more), waiting, stale == 1)


def overdue(prefix: str, upstream: str, groups: Sequence[str], at: int, lease: int) -> Words:
    """``overdue.lua``'s keys and arguments."""
    names = parts(prefix, upstream)
    for group in groups:
        names += [ready_key(prefix, upstream, group), blocked_key(prefix, upstream, group)]
    arguments = [queue_key(prefix, upstream, ""), lease, at, MOST_LOOKED_AT, MOST_OVERDUE]
    return names, arguments


def taken_out(reply: list[Any]) -> Overdue:
    """Decode the reply of ``overdue.lua``."""
    now, next_at, more, waiting = reply[:4]
    tickets = []
    for at in range(4, len(reply), 2):
        head, _, payload = bytes(reply[at + 1]).partition(b"\n")
        since = int(head.split(b"|")[3])
        tickets.append(Ticket(reply[at].decode(), now, "", payload, since, late=True))
    return Overdue(now, tuple(tickets), next_at, bool(more), waiting)


def steer(prefix: str, upstream: str, steering: Steering, kept: int) -> Words:
    """``steer.lua``'s keys and arguments."""
    names = [*parts(prefix, upstream), keys.log_key(prefix, upstream)]
    to = steering.to
    if to is not None:
        names += [ready_key(prefix, upstream, to.group), queue_key(prefix, upstream, to.name)]
    arguments = [
        steering.what, queue_key(prefix, upstream, ""), ready_key(prefix, upstream, ""),
        blocked_key(prefix, upstream, ""), to.name if to else "", record(to) if to else "",
        _turns(to) if to else "", keys.channel(prefix, upstream), steering.by, steering.why, kept,
        *steering.entries,
    ]  # fmt: skip
    return names, arguments


def record(lane: Lane) -> str:
    """A lane as it is kept."""
    return _BETWEEN.join((
        lane.group, lane.flow, str(lane.rank), str(lane.weight),
        lane.tenant.replace(_BETWEEN, " "), lane.origin, *lane.buckets,
    ))  # fmt: skip


def _turns(lane: Lane) -> str:
    """Return the name that a lane's turns are counted by."""
    return f"{lane.flow}|{lane.weight}"


def lane(text: str) -> Lane:
    """A lane that was kept."""
    group, flow, rank, weight, tenant, origin, *buckets = text.split(_BETWEEN)
    return Lane(group, tuple(buckets), flow, int(rank), int(weight), tenant, origin)


def waiting(entry: str, value: bytes, lane_text: str, position: int | None) -> ParkedTask:
    """An entry that was kept."""
    head, _, payload = value.partition(b"\n")
    _, costs, deadline, since, *_ = head.decode().split("|")
    return ParkedTask(
        entry, lane(lane_text), int(since), int(deadline),
        tuple(map(int, costs.split(","))) if costs else (), 0 if position is None else position + 1,
        payload,
    )  # fmt: skip


def of_task(task_id: str) -> tuple[str, str]:
    """Between which names the further entries of this task lie, and others that are not its."""
    return f"[{task_id}:", f"({task_id};"


def is_of_task(entry: str, task_id: str) -> bool:
    """Tell whether a further entry is of this task."""
    return entry.rpartition(":")[0] == task_id


def since(value: bytes | None) -> int:
    """When this entry was parked."""
    return 0 if value is None else int(value.split(b"|", 4)[3])


def pace(text: str | None, now: int) -> tuple[int, int]:
    """Tasks released lately, and in how many microseconds."""
    began, counted, before = map(int, (text or "0|0|0").split("|"))
    return rate_of(began, counted, before, now)


def view(  # noqa: PLR0917 - the parts of a lot
    now: int, fields: Mapping[str, str], out: int, lanes: Mapping[str, str],
    waiting: Mapping[str, int], oldest: Mapping[str, int], blocked: Mapping[str, int],
    tags: Mapping[str, int],
) -> LotView:  # fmt: skip
    """A lot, put together of its parts."""
    order = sorted(waiting, key=lambda name: (blocked.get(name, 0), tags.get(name, 0), name))
    return LotView(
        now, int(fields.get("lot", 0)), out, pace(fields.get("released"), now),
        tuple(
            LaneView(lane(lanes[name]), waiting[name], oldest[name], blocked.get(name, 0))
            for name in order
        ),
    )  # fmt: skip
