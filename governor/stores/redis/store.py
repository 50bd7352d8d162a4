"""The limiter store in Redis: one script call for each admission, one for each settlement.

A call takes a connection off a small stack, writes one pre-packed ``EVALSHA`` and reads one
reply. redis-py opens the connections; its client is not used: its command layer costs more than
the decision, and its default of ten retries would block the worker for seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import redis

from governor import keys
from governor.clock import SECOND
from governor.errors import StoreUnavailable, UpstreamStateError
from governor.policy.adjustment import Adjustment
from governor.policy.breaker import STATES
from governor.policy.decision import Answer, AnyCharge, Ask, Charge, LeaseCharge, WindowCharge
from governor.policy.settlement import Settled, Settlement
from governor.ports import Change, InForce, Look
from governor.redis_address import RedisAddress
from governor.stores.redis import wire, wire_parking
from governor.stores.redis.client import Client, Node, packed, pool
from governor.stores.redis.damage import FAR, damage
from governor.stores.redis.news import News
from governor.stores.redis.parking import Charges, RedisLots
from governor.stores.redis.refusals import code
from governor.stores.redis.resp import Refused
from governor.stores.redis.scripts import Script, load

_SHOWN = 20

_QUESTIONS = 4_096
"""Questions kept as they are sent; each takes about a kilobyte."""


class RedisStore:
    """Limits kept in one Redis or Valkey server, version 6.2 or later, or in a cluster of them.

    Safe between threads, greenlets and forked processes: each call has a connection to
    itself, and a child never uses its parent's.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://`` or ``sentinel://``, or what it names; any node
            of a cluster.
        timeout: microseconds for connecting and for each reply.
        prefix: of every key.

    Raises:
        ConfigurationError: the URL cannot be used.
    """

    def __init__(
        self,
        url: str | RedisAddress,
        *,
        timeout: int = SECOND // 5,
        prefix: str = keys.DEFAULT_PREFIX,
    ) -> None:
        self._prefix = prefix
        self._address = RedisAddress.of(url) if isinstance(url, str) else url
        self._timeout = timeout
        self._client = Client(self._pool)
        self._admit = load("admit")
        self._settle = load("settle")
        self._adjust = load("adjust")
        self._change = load("change")
        self.lots = RedisLots(prefix, self._run, self._ask, self.reading, self._damage)
        # The first questions of tasks of one kind, for one account, are all the same.
        self._question = lru_cache(maxsize=_QUESTIONS)(partial(_question, self._admit, prefix))

    def admit(self, ask: Ask) -> Answer:
        command = self._question(ask)
        (reply,) = self._client.exchange(ask.upstream, [command])
        if reply.__class__ is int:
            return wire.answer(ask, reply)
        return self._answer(ask, command, reply)

    def admit_many(self, asks: Sequence[Ask]) -> Sequence[Answer | StoreUnavailable]:
        if self._client.homes:
            # Of a cluster's upstreams each may live elsewhere.
            return [self._or_error(ask) for ask in asks]
        commands = [self._question(ask) for ask in asks]
        replies = self._client.seed.exchange(commands)
        return [
            wire.answer(ask, reply)
            if reply.__class__ is int
            else self._or_error(ask, command, reply)
            for ask, command, reply in zip(asks, commands, replies, strict=True)
        ]

    def _or_error(self, ask: Ask, *told: Any) -> Answer | StoreUnavailable:
        try:
            return self._answer(ask, *told) if told else self.admit(ask)
        except StoreUnavailable as exc:
            return exc

    def _answer(self, ask: Ask, command: bytes, reply: Any) -> Answer:
        """Decode a reply that says more than "now"."""
        if reply.__class__ is Refused:
            reply = self._client.follow(self._admit, ask.upstream, command, reply)
        if reply.__class__ is list and not 0 <= reply[2] <= reply[0] + FAR:
            reply = Refused("", f"a slot at {reply[2]}")
        if reply.__class__ is Refused:
            names, _ = wire.admission(self._prefix, ask)
            raise self._damage(ask.upstream, names, lambda: ask.charges, reply)
        return wire.answer(ask, reply)

    def settle(self, settlement: Settlement) -> Settled:
        upstream = settlement.upstream
        words = wire.settlement(self._prefix, settlement)
        now, until, since, breaker, lost = self._run(self._settle, upstream, words)
        if not 0 <= until <= now + FAR:
            raise self._damage(upstream, words[0], tuple, Refused("", f"a pause until {until}"))
        return Settled(now, until, since, STATES[breaker], bool(lost))

    def adjust(self, upstream: str, adjustments: Sequence[Adjustment]) -> None:
        words = wire.adjustments(self._prefix, upstream, adjustments)
        self._run(self._adjust, upstream, words, lambda: [each.charge for each in adjustments])

    def claimed_by(self, upstream: str, task_id: str, attempt: int, message: str) -> str | None:
        key = keys.claim_key(self._prefix, upstream, task_id, attempt, message)
        (value,) = self._ask(upstream, ("GET", key))
        return None if value is None else value.decode().rpartition("|")[0]

    def change(self, change: Change) -> InForce:
        upstream = change.upstream
        names = [
            make(self._prefix, upstream)
            for make in (keys.state_key, keys.changes_key, keys.log_key)
        ]
        arguments: list[object] = [
            change.what, change.target, change.value, change.by, change.why,
            keys.channel(self._prefix, upstream), keys.RECORDS_KEPT,
        ]  # fmt: skip
        version, *values = self._run(self._change, upstream, (names, arguments))
        with self.reading(upstream):
            return InForce(int(version), _pairs(values))

    def in_force(self, upstream: str) -> InForce:
        version, values = self._ask(
            upstream,
            ("HGET", keys.state_key(self._prefix, upstream), "version"),
            ("HGETALL", keys.changes_key(self._prefix, upstream)),
        )
        with self.reading(upstream):
            return InForce(int(version or 0), _pairs(values))

    def look(self, upstream: str, charges: Sequence[AnyCharge]) -> Look:
        time, fields, changes, log, *found = self._ask(
            upstream,
            ("TIME",),
            ("HGETALL", keys.state_key(self._prefix, upstream)),
            ("HGETALL", keys.changes_key(self._prefix, upstream)),
            ("XREVRANGE", keys.log_key(self._prefix, upstream), "+", "-", "COUNT", str(_SHOWN)),
            *(self._meter(upstream, charge) for charge in charges),
        )
        now = int(time[0]) * SECOND + int(time[1])
        with self.reading(upstream, lambda: charges):
            state = wire.state(_pairs(fields), charges, [_text(value) for value in found], now)
            records = [_pairs(record) for _, record in log]
            return Look(now, state, InForce(state.version, _pairs(changes)), records)

    def log(self, upstream: str, since: int) -> Sequence[Mapping[str, str]]:
        # An entry's id begins with about the millisecond in which it was written.
        first = str(max((since - SECOND) // 1000, 0))
        (found,) = self._ask(
            upstream, ("XREVRANGE", keys.log_key(self._prefix, upstream), "+", first)
        )
        with self.reading(upstream):
            records = [_pairs(record) for _, record in found]
            return [record for record in records if int(record["at"]) >= since]

    def _meter(self, upstream: str, charge: AnyCharge) -> tuple[str, ...]:
        key = keys.bucket_key(self._prefix, upstream, charge.bucket)
        if isinstance(charge, WindowCharge):
            return ("LRANGE", key, "0", "-1")
        if isinstance(charge, LeaseCharge):
            return ("ZRANGE", key, "0", "-1", "WITHSCORES")
        if isinstance(charge, Charge) and keys.is_shared(charge.bucket):
            return ("HGET", keys.state_key(self._prefix, upstream), f"b:{charge.bucket}")
        return ("GET", key)

    def listen(self, heard: Callable[[str, str], None]) -> Callable[[], None]:
        return News(partial(pool, self._address), keys.channel(self._prefix, "*"), heard).end

    def close(self) -> None:
        self._client.close()

    def _pool(self, node: Node | None) -> redis.ConnectionPool:
        """The way to make connections: to a node, or to the server that is configured."""
        return pool(self._address, self._timeout / SECOND, node)

    # ------------------------------------------------------------------ one call

    def _run(
        self, script: Script, upstream: str, words: wire.Words, charges: Charges = tuple
    ) -> Any:
        reply = self._client.run(script, upstream, _script(script, words))
        if reply.__class__ is Refused:
            raise self._damage(upstream, words[0], charges, reply)
        return reply

    def _ask(self, upstream: str, *commands: tuple[str, ...]) -> list[Any]:
        """Plain commands, for what decides nothing."""
        replies = self._client.ask(upstream, *commands)
        for command, reply in zip(commands, replies, strict=True):
            if reply.__class__ is Refused:
                raise self._damage(upstream, command[1:2], tuple, reply)
        return replies

    @contextmanager
    def reading(self, upstream: str, charges: Charges = tuple) -> Iterator[None]:
        """Blame the upstream's data for whatever cannot be read in the block.

        Raises:
            UpstreamStateError: naming the key.
        """
        try:
            yield
        except (ValueError, TypeError, IndexError, KeyError, AttributeError) as exc:
            names = wire_parking.parts(self._prefix, upstream)
            raise self._damage(upstream, names, charges, Refused("", str(exc))) from exc

    def _damage(
        self, upstream: str, names: Sequence[str], charges: Charges, refused: Refused
    ) -> UpstreamStateError:
        """The error for what was refused, or could not be read.

        Raises:
            StoreUnavailable: the server does not answer any more.
        """
        match code(refused):
            case "KEY":
                return UpstreamStateError(
                    upstream, f"the Redis user may not touch it ({refused.text})",
                    f"Allow it ~{self._prefix}:* and &{self._prefix}:*",
                    key=keys.state_key(self._prefix, upstream),
                )  # fmt: skip
            case "TRYAGAIN" | "CROSSSLOT" | "CLUSTERDOWN":
                return UpstreamStateError(upstream, f"the cluster says {refused.text!r}")

        def ask(*commands: tuple[str, ...]) -> list[Any]:
            return self._client.exchange(upstream, [packed(command) for command in commands])

        said = f"{refused.code} {refused.text}".strip()
        return damage(ask, self._prefix, upstream, names, charges=charges(), said=said)


def _question(script: Script, prefix: str, ask: Ask) -> bytes:
    return _script(script, wire.admission(prefix, ask))


def _script(script: Script, words: wire.Words) -> bytes:
    names, arguments = words
    return packed(["EVALSHA", script.sha, len(names), *names, *arguments])


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [_text(item) for item in value]
    return value


def _pairs(values: Sequence[bytes]) -> dict[str, str]:
    """A flat list of names and values, as version 2 of the protocol has mappings."""
    return {_text(k): _text(v) for k, v in zip(values[::2], values[1::2], strict=True)}
