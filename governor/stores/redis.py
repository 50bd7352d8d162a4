"""The limiter store in Redis: one script call for each admission, one for each settlement.

A call takes a connection off a small stack, writes one pre-packed ``EVALSHA`` and reads one
reply. redis-py opens the connections; its client is not used: its command layer costs more than
the decision, and its default of ten retries would block the worker for seconds. Nothing is
retried here
except what the server has certainly not done: a script it has forgotten, a key that lives on
another node of a cluster. A lost reply may have been charged.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any
from weakref import WeakSet

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from governor import keys
from governor.clock import SECOND
from governor.errors import ConfigurationError, StoreUnavailable
from governor.policy.adjustment import Adjustment
from governor.policy.decision import Answer, AnyCharge, Ask, Charge, LeaseCharge, WindowCharge
from governor.ports import Change, InForce, Look, Settled, Settlement
from governor.stores import wire
from governor.stores.connection import Connection, Refused
from governor.stores.redis_lot import RedisLots
from governor.stores.scripts import Script, load

_log = logging.getLogger("governor")

_SHOWN = 20

_LISTEN = 10.0
"""Seconds without a sign of life after which the connection for news is renewed."""

_MOVES = 4
"""Nodes of a cluster that one call may be sent on to."""

_QUESTIONS = 4_096
"""Questions kept as they are sent; each takes about a kilobyte."""

_MOST_IDLE = 64
"""Connections kept open while nobody uses them."""

Node = tuple[str, int]


class RedisStore:
    """Limits kept in one Redis or Valkey server, version 6.2 or later, or in a cluster of them.

    Safe between threads, greenlets and forked processes: each call has a connection to
    itself, and a child never uses its parent's.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``; any node of a cluster.
        timeout: microseconds for connecting and for each reply.
        prefix: of every key.

    Raises:
        ConfigurationError: the URL cannot be used.
    """

    def __init__(
        self, url: str, *, timeout: int = SECOND // 5, prefix: str = keys.DEFAULT_PREFIX
    ) -> None:
        self._prefix = prefix
        try:
            self._pool = redis.ConnectionPool.from_url(
                url,
                socket_timeout=timeout / SECOND,
                socket_connect_timeout=timeout / SECOND,
                retry=Retry(NoBackoff(), 0),
                health_check_interval=0,
                decode_responses=False,
                protocol=2,
            )
        except ValueError as exc:
            raise ConfigurationError(
                "governor_redis_url: this is not a Redis URL. "
                "Write redis://HOST:PORT/DB, rediss://… or unix://PATH"
            ) from exc
        self._idle: deque[Connection] = deque()
        _stores.add(self)
        # Of a cluster: which node keeps an upstream, and connections to the nodes.
        self._homes: dict[str, Node] = {}
        self._nodes: dict[Node, RedisStore] = {}
        self._url = url
        self._timeout = timeout
        self._admit = load("admit")
        self._settle = load("settle")
        self._adjust = load("adjust")
        self._change = load("change")
        self.lots = RedisLots(prefix, self._run, self._ask)
        # The first questions of tasks of one kind, for one account, are all the same.
        self._question = lru_cache(maxsize=_QUESTIONS)(partial(_question, self._admit, prefix))

    def admit(self, ask: Ask) -> Answer:
        command = self._question(ask)
        store = self._store_of(ask.upstream) if self._homes else self
        (reply,) = store._exchange([command])
        if reply.__class__ is Refused:
            reply = self._made(self._admit, ask.upstream, command, reply)
        return wire.answer(ask, reply)

    def admit_many(self, asks: Sequence[Ask]) -> Sequence[Answer | StoreUnavailable]:
        if self._homes or len(asks) == 1:
            # Of a cluster's upstreams each may live elsewhere.
            return [self.admit(ask) for ask in asks]
        packed = [self._question(ask) for ask in asks]
        replies = self._exchange(packed)
        for index, reply in enumerate(replies):
            if reply.__class__ is Refused:
                upstream = asks[index].upstream
                replies[index] = self._made(self._admit, upstream, packed[index], reply)
        return [*map(wire.answer, asks, replies)]

    def settle(self, settlement: Settlement) -> Settled:
        words = wire.settlement(self._prefix, settlement)
        now, until = self._run(self._settle, settlement.upstream, words)
        return Settled(now, until)

    def adjust(self, upstream: str, adjustments: Sequence[Adjustment]) -> None:
        self._run(self._adjust, upstream, wire.adjustments(self._prefix, upstream, adjustments))

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
        return InForce(int(version), _pairs(values))

    def in_force(self, upstream: str) -> InForce:
        version, values = self._ask(
            upstream,
            ("HGET", keys.state_key(self._prefix, upstream), "version"),
            ("HGETALL", keys.changes_key(self._prefix, upstream)),
        )
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
        state = wire.state(_pairs(fields), charges, [_text(value) for value in found], now)
        records = [_pairs(record) for _, record in log]
        return Look(now, state, InForce(state.version, _pairs(changes)), records)

    def _meter(self, upstream: str, charge: AnyCharge) -> tuple[str, ...]:
        key = keys.bucket_key(self._prefix, upstream, charge.bucket)
        if isinstance(charge, WindowCharge):
            return ("LRANGE", key, "0", "-1")
        if isinstance(charge, LeaseCharge):
            return ("ZRANGE", key, "0", "-1", "WITHSCORES")
        if isinstance(charge, Charge) and keys.is_shared(charge.bucket):
            return ("HGET", keys.state_key(self._prefix, upstream), f"b:{charge.bucket}")
        return ("GET", key)

    def listen(self, heard: Callable[[str, str], None]) -> None:
        threading.Thread(
            target=self._listen, args=(heard,), name="governor-listen", daemon=True
        ).start()

    def _listen(self, heard: Callable[[str, str], None]) -> None:
        channel = keys.channel(self._prefix, "*")
        before, after = (part.encode() for part in channel.split("*"))
        again = threading.Event()
        while True:
            client = redis.Redis.from_url(
                self._url, socket_timeout=_LISTEN, socket_connect_timeout=_LISTEN,
                retry=Retry(NoBackoff(), 0), protocol=2,
            )  # fmt: skip
            try:
                with client.pubsub(ignore_subscribe_messages=True) as news:  # type: ignore[no-untyped-call]
                    news.psubscribe(channel)
                    # What was said before this is not known.
                    heard("", "")
                    while True:
                        message = news.get_message(timeout=_LISTEN / 2)
                        if message is None:
                            # A connection that nobody answers on is found out.
                            news.ping()
                        elif message["type"] == "pmessage":
                            name = message["channel"][len(before) : -len(after)]
                            heard(name.decode(), message["data"].decode())
            except (RedisError, OSError, ValueError) as exc:
                _log.warning("The limiter store's news are not heard: %s", _why(exc))
            finally:
                client.close()
            again.wait(1.0)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
        for node in self._nodes.values():
            node.close()

    # ------------------------------------------------------------------ one call

    def _run(self, script: Script, upstream: str, words: wire.Words) -> Any:
        command = _script(script, words)
        store = self._store_of(upstream)
        (reply,) = store._exchange([command])
        return self._made(script, upstream, command, reply)

    def _made(self, script: Script, upstream: str, command: bytes, reply: Any) -> Any:
        """The reply, once the server that keeps the upstream has executed the script."""
        for _ in range(_MOVES):
            if not isinstance(reply, Refused):
                return reply
            match reply.code:
                case "NOSCRIPT":
                    # Not executed, so safe to send again: the script cache does not survive a
                    # restart, a failover or SCRIPT FLUSH.
                    whole = command.replace(
                        b"$7\r\nEVALSHA\r\n" + _bulk(script.sha.encode()),
                        b"$4\r\nEVAL\r\n" + _bulk(script.source),
                        1,
                    )
                    (reply,) = self._store_of(upstream)._exchange([whole])
                case "MOVED":
                    self._homes[upstream] = _address(reply)
                    (reply,) = self._store_of(upstream)._exchange([command])
                case "ASK":
                    elsewhere = self._node(_address(reply))
                    _, reply = elsewhere._exchange([_packed(["ASKING"]), command])
                case _:
                    raise StoreUnavailable(f"The limiter store refused: {reply.code}")
        raise StoreUnavailable("The limiter store's cluster is moving its keys")

    def _ask(self, upstream: str, *commands: tuple[str, ...]) -> list[Any]:
        """Plain commands, for what decides nothing."""
        packed = [_packed(command) for command in commands]
        for _ in range(_MOVES):
            replies = self._store_of(upstream)._exchange(packed)
            refused = next((reply for reply in replies if isinstance(reply, Refused)), None)
            if refused is None:
                return replies
            if refused.code != "MOVED":
                raise StoreUnavailable(f"The limiter store refused: {refused.code}")
            self._homes[upstream] = _address(refused)
        raise StoreUnavailable("The limiter store's cluster is moving its keys")

    def _store_of(self, upstream: str) -> RedisStore:
        home = self._homes.get(upstream) if self._homes else None
        return self if home is None else self._node(home)

    def _node(self, node: Node) -> RedisStore:
        found = self._nodes.get(node)
        if found is None:
            found = RedisStore(self._url, timeout=self._timeout, prefix=self._prefix)
            found._pool.connection_kwargs.update(host=node[0], port=node[1])
            self._nodes[node] = found
        return found

    def _exchange(self, commands: Sequence[bytes]) -> list[Any]:
        """Send, and read one reply each; what the server refused is returned, not raised.

        Raises:
            StoreUnavailable: no complete answer in time.
        """
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._opened()
        try:
            replies = connection.exchange(commands)
        except OSError as exc:
            # A reply may still be on its way: the next call starts on a fresh connection.
            connection.close()
            raise StoreUnavailable(f"The limiter store did not answer: {_why(exc)}") from exc
        except BaseException:
            # A greenlet or a signal ended the wait: the reply of this call must never be
            # read as that of the next.
            connection.close()
            raise
        for reply in replies:
            if reply.__class__ is Refused and reply.code == "READONLY":
                # A server that has become a replica: the next call finds the primary by name.
                connection.close()
                return replies
        if len(self._idle) < _MOST_IDLE:
            self._idle.append(connection)
        else:
            connection.close()
        return replies

    def _opened(self) -> Connection:
        try:
            return Connection(self._pool.make_connection())
        except (RedisError, OSError) as exc:
            raise StoreUnavailable(f"The limiter store cannot be reached: {_why(exc)}") from exc

    def _forked(self) -> None:
        # These sockets are the parent's. Forget them without closing the connection under its feet.
        self._pool.reset()
        self._idle = deque()


_stores: WeakSet[RedisStore] = WeakSet()


def _forked() -> None:
    for store in _stores:
        store._forked()


os.register_at_fork(after_in_child=_forked)


def _address(moved: Refused) -> Node:
    """Of ``3999 127.0.0.1:6381``."""
    host, _, port = moved.text.rpartition(" ")[2].rpartition(":")
    return host, int(port)


def _question(script: Script, prefix: str, ask: Ask) -> bytes:
    return _script(script, wire.admission(prefix, ask))


def _script(script: Script, words: wire.Words) -> bytes:
    names, arguments = words
    return _packed(["EVALSHA", script.sha, len(names), *names, *arguments])


def _packed(words: Sequence[object]) -> bytes:
    """A command as it is sent. Put together as one text: word by word it took half of the time of
    a decision."""
    texts = [*map(str, words)]
    text = "".join([f"${len(word)}\r\n{word}\r\n" for word in texts])
    command = f"*{len(texts)}\r\n{text}"
    if command.isascii():
        return command.encode()
    # The lengths are of bytes. Bytes that are no text were read as such (wire_lot.py).
    encoded = [word.encode("utf-8", "surrogateescape") for word in texts]
    return b"*%d\r\n%b" % (len(encoded), b"".join(map(_bulk, encoded)))


def _bulk(item: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(item), item)


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [_text(item) for item in value]
    return value


def _pairs(values: Sequence[bytes]) -> dict[str, str]:
    """A flat list of names and values, as version 2 of the protocol has mappings."""
    return {_text(k): _text(v) for k, v in zip(values[::2], values[1::2], strict=True)}


def _why(exc: BaseException) -> str:
    """The kind of error only: a connection error's text may hold the URL's password."""
    return type(exc).__name__
