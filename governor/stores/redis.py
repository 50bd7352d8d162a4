"""The limiter store in Redis: one script call for each admission, one for each settlement.

A call takes a connection off a small stack, writes one pre-packed ``EVALSHA`` and reads one
reply. redis-py's client is not used: its command layer costs more than the decision, and
its default of ten retries would block the worker for seconds. Nothing is retried here
except a script the server has forgotten, because a lost reply may have been charged.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from governor import keys
from governor.clock import SECOND
from governor.errors import ConfigurationError, StoreUnavailable
from governor.policy.decision import (
    Admit,
    AlreadyDone,
    Answer,
    Ask,
    ClaimAsk,
    OutcomeUnknown,
    Refuse,
    Reservation,
    Wait,
)
from governor.ports import ClaimAction, Settled
from governor.stores.scripts import Script, load

_PAUSED = 10


class RedisStore:
    """Limits kept in one Redis or Valkey server, version 6.2 or later.

    Safe between threads, greenlets and forked processes: each call has a connection to
    itself, and a child never uses its parent's.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        timeout: microseconds for connecting and for each reply.
        prefix: of every key.

    Raises:
        ConfigurationError: the URL cannot be used.
    """

    def __init__(
        self, url: str, *, timeout: int = SECOND // 5, prefix: str = keys.DEFAULT_PREFIX
    ) -> None:
        self._prefix = prefix
        self._timeout = timeout
        try:
            self._pool = redis.ConnectionPool.from_url(
                url,
                socket_timeout=timeout / SECOND,
                socket_connect_timeout=timeout / SECOND,
                retry=Retry(NoBackoff(), 0),
                health_check_interval=0,
                decode_responses=False,
            )
        except ValueError as exc:
            raise ConfigurationError(
                "governor_redis_url: this is not a Redis URL. "
                "Write redis://HOST:PORT/DB, rediss://… or unix://PATH"
            ) from exc
        self._idle: deque[Any] = deque(maxlen=64)
        self._pid = os.getpid()
        self._admit = load("admit")
        self._settle = load("settle")

    def admit(self, ask: Ask) -> Answer:
        return self.admit_many([ask])[0]

    def admit_many(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        replies = self._call(self._admit, [self._question(ask) for ask in asks])
        return [_answer(ask, reply) for ask, reply in zip(asks, replies, strict=True)]

    def _question(self, ask: Ask) -> tuple[list[str], list[object]]:
        names = [keys.state_key(self._prefix, ask.upstream)]
        names += [keys.bucket_key(self._prefix, ask.upstream, c.bucket) for c in ask.charges]
        arguments: list[object] = [
            ask.grace,
            ask.hold,
            ask.linger,
            ask.max_wait,
            "" if ask.give_up_at is None else ask.give_up_at,
        ]
        if ask.claim is None:
            arguments += ["", 0, 0]
        else:
            claim = ask.claim
            names.append(keys.claim_key(self._prefix, ask.upstream, claim.task_id, claim.attempt))
            arguments += [claim.token, claim.lease, claim.keep // 1000]
        held = {r.bucket: r.slot if r.paid else -r.slot for r in ask.reserved}
        for charge in ask.charges:
            arguments += [charge.interval, charge.capacity, held.get(charge.bucket, 0)]
        return names, arguments

    def settle(
        self,
        upstream: str,
        claim: ClaimAsk | None = None,
        action: ClaimAction | None = None,
        pause: int = 0,
    ) -> Settled:
        names = [keys.state_key(self._prefix, upstream)]
        arguments: list[object] = ["", "", 0, 0, pause]
        if claim is not None:
            names.append(keys.claim_key(self._prefix, upstream, claim.task_id, claim.attempt))
            arguments = [
                claim.token,
                (action or ClaimAction.RENEW).value,
                claim.lease,
                claim.keep // 1000,
                pause,
            ]
        ((now, until),) = self._call(self._settle, [(names, arguments)])
        return Settled(now, until)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().disconnect()

    def _call(
        self, script: Script, questions: list[tuple[list[str], list[object]]]
    ) -> list[list[int]]:
        try:
            connection = self._connection()
        except (RedisError, OSError) as exc:
            raise StoreUnavailable(f"The limiter store cannot be reached: {_why(exc)}") from exc
        try:
            replies = self._evaluate(connection, script, questions)
        except (RedisError, OSError) as exc:
            # Whatever went wrong, a reply may still be on its way, or the server may have
            # become a replica: the next call starts on a fresh connection.
            connection.disconnect()
            raise StoreUnavailable(f"The limiter store did not answer: {_why(exc)}") from exc
        except BaseException:
            # A greenlet or a signal ended the wait: the reply of this call must never be
            # read as that of the next.
            connection.disconnect()
            raise
        if len(self._idle) < (self._idle.maxlen or 0):
            self._idle.append(connection)
        else:
            connection.disconnect()
        return replies

    def _evaluate(
        self, connection: Any, script: Script, questions: list[tuple[list[str], list[object]]]
    ) -> list[list[int]]:
        rests = [[str(len(names)), *names, *map(str, rest)] for names, rest in questions]
        packed = b"".join(_pack(b"EVALSHA", script.sha, rest) for rest in rests)
        connection.send_packed_command([packed], check_health=False)
        replies: list[list[int]] = []
        forgotten: list[int] = []
        for index in range(len(rests)):
            try:
                replies.append(connection.read_response())
            except NoScriptError:
                replies.append([])
                forgotten.append(index)
        for index in forgotten:
            # Not executed, so safe to send again: the script cache does not survive a
            # restart, a failover or SCRIPT FLUSH.
            packed = _pack(b"EVAL", script.source, rests[index])
            connection.send_packed_command([packed], check_health=False)
            replies[index] = connection.read_response()
        return replies

    def _connection(self) -> Any:
        if self._pid != os.getpid():
            # Forked: these sockets are the parent's. Forget them without closing the
            # connection under its feet.
            self._pid = os.getpid()
            self._pool.reset()
            self._idle = deque(maxlen=self._idle.maxlen)
        try:
            return self._idle.pop()
        except IndexError:
            connection: Any = self._pool.make_connection()
            try:
                connection.connect()
            except BaseException:
                connection.disconnect()
                raise
            return connection


def _pack(command: bytes, script: bytes, rest: list[str]) -> bytes:
    parts = [b"*%d\r\n" % (len(rest) + 2), _bulk(command), _bulk(script)]
    parts += [_bulk(item.encode()) for item in rest]
    return b"".join(parts)


def _bulk(item: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(item), item)


def _why(exc: BaseException) -> str:
    """The kind of error only: a connection error's text may hold the URL's password."""
    return type(exc).__name__


def _answer(ask: Ask, reply: list[int]) -> Answer:
    status, now, at, number, charged = reply
    paused = status > _PAUSED
    status %= _PAUSED
    limit = ask.charges[number - 1].limit if number else "pause"
    match status:
        case 0:
            return Admit(now, at)
        case 1 | 2 | 3 | 4:
            reserved = _reserved(ask, status, at, number, charged)
            return Wait(now, at, limit, reserved, status == 1, paused)
        case 5:
            return Wait(now, at, "claim", ask.reserved)
        case 6:
            return Refuse(now, at, limit)
        case 7:
            return AlreadyDone(now)
        case _:
            return OutcomeUnknown(now)


def _reserved(ask: Ask, status: int, at: int, number: int, charged: int) -> tuple[Reservation, ...]:
    held = {reservation.bucket: reservation for reservation in ask.reserved}
    for index, charge in enumerate(ask.charges):
        if charged >> index & 1:
            held[charge.bucket] = Reservation(charge.bucket, at, True)
    if status == 2:
        bucket = ask.charges[number - 1].bucket
        held[bucket] = Reservation(bucket, at, False)
    return tuple(held.values())
