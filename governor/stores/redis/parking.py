"""Parking lots in Redis, beside the limits that they are released by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

from governor import keys
from governor.clock import SECOND
from governor.errors import StoreUnavailable, UpstreamStateError
from governor.policy.decision import AnyCharge
from governor.policy.parking_values import (
    Arrival,
    LotView,
    Overdue,
    ParkedTask,
    Parking,
    ReleaseAsk,
    Released,
    Steering,
)
from governor.stores.redis import wire_parking
from governor.stores.redis.damage import FAR
from governor.stores.redis.resp import Refused
from governor.stores.redis.scripts import of_lot

Charges = Callable[[], Sequence[AnyCharge]]
"""Says what is to be charged, when that matters."""

_SET_ASIDE = 2
"""Mark in the reply of ``release.lua`` when a lane could not be decided about."""

_AT_ONCE = 1_000
"""Lanes that are looked at in one round trip."""


class RedisLots:
    """Parking lots of a :class:`~governor.stores.redis.store.RedisStore`, which gives its prefix
    and its ways to run a script and to send plain commands."""

    def __init__(
        self,
        prefix: str,
        run: Callable[..., Any],
        ask: Callable[..., list[Any]],
        reading: Callable[..., AbstractContextManager[None]],
        damage: Callable[..., UpstreamStateError],
    ) -> None:
        self._prefix = prefix
        self._run = run
        self._ask = ask
        self._reading = reading
        self._damage = damage
        self._park = of_lot("park")
        self._release = of_lot("release", "admit")
        self._steer = of_lot("steer")
        self._overdue = of_lot("overdue")

    def park(self, upstream: str, arrivals: Sequence[Arrival]) -> Parking:
        words = wire_parking.park(self._prefix, upstream, arrivals)
        return wire_parking.parked(self._run(self._park, upstream, words))

    def release(self, ask: ReleaseAsk) -> Released:
        words = wire_parking.release(self._prefix, ask)
        charges = partial(self._charges, ask)
        reply = self._run(self._release, ask.upstream, words, charges)
        with self._reading(ask.upstream, charges):
            released = wire_parking.released(ask, reply)
            if not 0 <= released.next <= released.now + FAR:
                raise ValueError(f"the next slot at {released.next}")
        if reply[4] != _SET_ASIDE:
            return released
        names = wire_parking.parts(self._prefix, ask.upstream)
        said = Refused("", "a lane's limits cannot be read")
        broken = self._damage(ask.upstream, names, charges, said)
        # What all lanes share is no better for the next.
        more = released.more and not keys.is_shared(broken.part)
        return replace(released, broken=broken, more=more)

    def _charges(self, ask: ReleaseAsk) -> list[AnyCharge]:
        """List what the lanes in question are charged, as far as the lot knows."""
        limits = {group.name: group.limits for group in ask.groups}
        found = {
            bucket: rule.charge_on(bucket, 1)
            for each in limits.values()
            for bucket, rule in each
            if rule.per is None
        }
        _, _, kept, *_ = wire_parking.parts(self._prefix, ask.upstream)
        try:
            (texts,) = self._ask(ask.upstream, ("HVALS", kept))
            lanes = [wire_parking.lane(text.decode()) for text in texts]
        except (ValueError, StoreUnavailable):
            lanes = []
        for lane in lanes:
            for (_, rule), bucket in zip(limits.get(lane.group, ()), lane.buckets, strict=False):
                found[bucket] = rule.charge_on(bucket, 1)
        return [*found.values()]

    def overdue(self, upstream: str, groups: Sequence[str], at: int, lease: int) -> Overdue:
        words = wire_parking.overdue(self._prefix, upstream, groups, at, lease)
        reply = self._run(self._overdue, upstream, words)
        with self._reading(upstream):
            return wire_parking.taken_out(reply)

    def renew(self, upstream: str, entries: Sequence[str], lease: int) -> None:
        ((seconds, micros),) = self._ask(upstream, ("TIME",))
        until = str(int(seconds) * SECOND + int(micros) + lease)
        out = keys.lot_key(self._prefix, upstream, "out")
        self._ask(
            upstream,
            ("ZADD", out, "XX", *(word for entry in entries for word in (until, entry))),
        )

    def steer(self, upstream: str, steering: Steering) -> Sequence[bytes]:
        words = wire_parking.steer(self._prefix, upstream, steering, keys.RECORDS_KEPT)
        done: list[bytes] = self._run(self._steer, upstream, words)
        return done

    def find(self, upstream: str, task_id: str) -> Sequence[ParkedTask]:
        _, lot, *_, beside = wire_parking.parts(self._prefix, upstream)
        (names,) = self._ask(upstream, ("ZRANGEBYLEX", beside, *wire_parking.of_task(task_id)))
        with self._reading(upstream):
            others = (name.decode() for name in names)
            entries = [
                task_id,
                *(name for name in others if wire_parking.is_of_task(name, task_id)),
            ]
            (values,) = self._ask(upstream, ("HMGET", lot, *entries))
            found = (
                self._waiting(upstream, entry, value)
                for entry, value in zip(entries, values, strict=True)
                if value is not None
            )
            return tuple(waiting for waiting in found if waiting is not None)

    def _waiting(self, upstream: str, entry: str, value: bytes) -> ParkedTask | None:
        _, _, lanes, *_ = wire_parking.parts(self._prefix, upstream)
        name = value.partition(b"|")[0].decode()
        queue = wire_parking.queue_key(self._prefix, upstream, name)
        lane, position = self._ask(upstream, ("HGET", lanes, name), ("LPOS", queue, entry))
        if lane is None:
            return None
        return wire_parking.waiting(entry, value, lane.decode(), position)

    def groups(self, upstream: str) -> Mapping[str, str]:
        (found,) = self._ask(upstream, ("HGETALL", keys.lot_key(self._prefix, upstream, "groups")))
        names = [value.decode() for value in found]
        return dict(zip(names[::2], names[1::2], strict=True))

    def view(self, upstream: str) -> LotView:
        with self._reading(upstream):
            return self._view(upstream)

    def _view(self, upstream: str) -> LotView:
        state, lot, lanes, _, out, *_ = wire_parking.parts(self._prefix, upstream)
        time, waiting, released, known, gone = self._ask(
            upstream, ("TIME",), ("HGET", state, "lot"), ("HGET", state, "released"),
            ("HGETALL", lanes), ("ZCARD", out),
        )  # fmt: skip
        texts = {
            name.decode(): text.decode() for name, text in zip(known[::2], known[1::2], strict=True)
        }
        fields = {"lot": (waiting or b"0").decode(), "released": (released or b"0|0|0").decode()}
        groups = {wire_parking.lane(text).group for text in texts.values()}
        prefix = self._prefix
        blocked = self._scores(
            upstream, [wire_parking.blocked_key(prefix, upstream, g) for g in groups]
        )
        tags = self._scores(upstream, [wire_parking.ready_key(prefix, upstream, g) for g in groups])
        lengths: dict[str, int] = {}
        oldest: dict[str, int] = {}
        for names in _slices([*texts]):
            queues = [wire_parking.queue_key(prefix, upstream, name) for name in names]
            found = self._ask(
                upstream,
                *(("LLEN", queue) for queue in queues),
                *(("LINDEX", queue, "0") for queue in queues),
            )
            firsts = found[len(names) :]
            values = self._ask(
                upstream, *(("HGET", lot, (first or b"").decode()) for first in firsts)
            )
            for name, length, value in zip(names, found, values, strict=False):
                if length:
                    lengths[name] = length
                    oldest[name] = wire_parking.since(value)
        now = int(time[0]) * SECOND + int(time[1])
        return wire_parking.view(now, fields, gone, texts, lengths, oldest, blocked, tags)

    def waiting(self, upstream: str) -> tuple[int, int, int]:
        state = keys.state_key(self._prefix, upstream)
        time, (waiting, released) = self._ask(
            upstream, ("TIME",), ("HMGET", state, "lot", "released")
        )
        now = int(time[0]) * SECOND + int(time[1])
        with self._reading(upstream):
            text = None if released is None else released.decode()
            return int(waiting or 0), *wire_parking.pace(text, now)

    def _scores(self, upstream: str, sets: Sequence[str]) -> dict[str, int]:
        scores: dict[str, int] = {}
        if sets:
            for found in self._ask(
                upstream, *(("ZRANGE", each, "0", "-1", "WITHSCORES") for each in sets)
            ):
                names = (name.decode() for name in found[::2])
                scores |= zip(names, (int(float(s)) for s in found[1::2]), strict=True)
        return scores


def _slices(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(names), _AT_ONCE):
        yield names[at : at + _AT_ONCE]
