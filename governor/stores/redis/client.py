"""Sends packed commands about an upstream to the server that keeps it.

Nothing is sent again except what the server has certainly not done: a script it has forgotten, a
key that lives on another node of a cluster. A lost reply may have been charged.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from governor.errors import ConfigurationError, StoreUnavailable
from governor.redis_address import RedisAddress
from governor.stores.redis.refusals import concern
from governor.stores.redis.resp import Connection, Refused
from governor.stores.redis.scripts import Script

_MOVES = 4
"""Nodes of a cluster that one call may be sent on to."""

_MOST_IDLE = 64
"""Connections kept open while nothing uses them."""

Node = tuple[str, int]


class Server:
    """One server, and the connections to it that are open and free.

    Args:
        pool: says how to make connections. It makes none: redis-py counts those that were made,
            and never fewer again.
    """

    def __init__(self, pool: redis.ConnectionPool) -> None:
        self._pool = pool
        self.idle: deque[Connection] = deque()
        _servers.add(self)

    @property
    def host(self) -> str:
        return str(self._pool.connection_kwargs.get("host") or "localhost")

    def exchange(self, commands: Sequence[bytes]) -> list[Any]:
        """Send, and read one reply each; what the server refused is returned, not raised.

        Raises:
            StoreUnavailable: no complete answer in time.
        """
        try:
            connection = self.idle.pop()
        except IndexError:
            connection = self._opened()
        try:
            replies = connection.exchange(commands)
        except OSError as exc:
            # A reply may still be on its way: the next call starts on a fresh connection.
            connection.close()
            raise StoreUnavailable(f"The limiter store did not answer: {why(exc)}.") from exc
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
        if len(self.idle) < _MOST_IDLE:
            self.idle.append(connection)
        else:
            connection.close()
        return replies

    def close(self) -> None:
        """Close the connections that are free."""
        while self.idle:
            self.idle.pop().close()

    def forget(self) -> None:
        """After a fork: these sockets are the parent's. Nothing is closed under its feet."""
        self.idle = deque()

    def _opened(self) -> Connection:
        try:
            return Connection(self._pool.connection_class(**self._pool.connection_kwargs))
        except redis.AuthenticationError as exc:
            raise StoreUnavailable(
                "The limiter store refused the login: correct the user and the password in "
                "governor_redis_url."
            ) from exc
        except (RedisError, OSError) as exc:
            raise StoreUnavailable(f"The limiter store cannot be reached: {why(exc)}.") from exc


class Client:
    """The limiter's server, or the nodes of its cluster.

    Args:
        pool_of: the connections of a node, or for ``None`` of the server that is configured.
    """

    def __init__(self, pool_of: Callable[[Node | None], redis.ConnectionPool]) -> None:
        self._pool_of = pool_of
        self.seed = Server(pool_of(None))
        # Of a cluster: which node keeps an upstream.
        self.homes: dict[str, Node] = {}
        self._nodes: dict[Node, Server] = {}

    def exchange(self, upstream: str, commands: Sequence[bytes]) -> list[Any]:
        """Send to the server that keeps the upstream, as far as is known.

        Raises:
            StoreUnavailable: no complete answer in time.
        """
        if not self.homes:
            return self.seed.exchange(commands)
        try:
            return self._server_of(upstream).exchange(commands)
        except StoreUnavailable:
            self._leave(upstream)
            raise

    def run(self, script: Script, upstream: str, command: bytes) -> Any:
        """Execute a script; see :meth:`follow`.

        Raises:
            StoreUnavailable: no complete answer in time, or the server serves nobody.
        """
        (reply,) = self.exchange(upstream, [command])
        return self.follow(script, upstream, command, reply)

    def follow(self, script: Script, upstream: str, command: bytes, reply: Any) -> Any:
        """The reply, once the server that keeps the upstream has executed the script. It may be a
        refusal that concerns this upstream.

        Raises:
            StoreUnavailable: no complete answer in time, or the server serves nobody.
        """
        here = self._server_of(upstream)
        asking: list[bytes] = []
        for _ in range(_MOVES):
            if reply.__class__ is not Refused:
                return reply
            match reply.code:
                case "NOSCRIPT":
                    # Not executed, so safe to send again: the script cache does not survive a
                    # restart, a failover or SCRIPT FLUSH.
                    whole = command.replace(
                        b"$7\r\nEVALSHA\r\n" + bulk(script.sha.encode()),
                        b"$4\r\nEVAL\r\n" + bulk(script.source),
                        1,
                    )
                    reply = here.exchange([*asking, whole])[-1]
                case "MOVED":
                    here, asking = self._moved(upstream, reply, here), []
                    (reply,) = self.exchange(upstream, [command])
                case "ASK":
                    # Only this once: the node that answered stays the upstream's.
                    here, asking = self._node(address(reply, here.host)), [packed(["ASKING"])]
                    reply = here.exchange([*asking, command])[-1]
                case _:
                    return _refusal(reply)
        raise StoreUnavailable("The limiter store's cluster is moving its keys.")

    def ask(self, upstream: str, *commands: tuple[str, ...]) -> list[Any]:
        """The replies to plain commands, for what decides nothing. They may be refusals that
        concern this upstream.

        Raises:
            StoreUnavailable: no complete answer in time, or the server serves nobody.
        """
        sent = [packed(command) for command in commands]
        for _ in range(_MOVES):
            replies = self.exchange(upstream, sent)
            moved = next((r for r in replies if r.__class__ is Refused and r.code == "MOVED"), None)
            if moved is None:
                return [r if r.__class__ is not Refused else _refusal(r) for r in replies]
            self._moved(upstream, moved, self._server_of(upstream))
        raise StoreUnavailable("The limiter store's cluster is moving its keys.")

    def close(self) -> None:
        """Close every connection that is free."""
        for server in (self.seed, *self._nodes.values()):
            server.close()

    def _server_of(self, upstream: str) -> Server:
        home = self.homes.get(upstream)
        return self.seed if home is None else self._node(home)

    def _moved(self, upstream: str, refused: Refused, here: Server) -> Server:
        self.homes[upstream] = node = address(refused, here.host)
        return self._node(node)

    def _node(self, node: Node) -> Server:
        found = self._nodes.get(node)
        if found is None:
            found = self._nodes[node] = Server(self._pool_of(node))
        return found

    def _leave(self, upstream: str) -> None:
        """A node does not answer, and another one may keep the upstream now: ask any that is
        known."""
        home = self.homes.pop(upstream, None)
        others = [node for node in self._nodes if node != home]
        if home is None and others:
            self.homes[upstream] = others[0]


def pool(address: RedisAddress, timeout: float, node: Node | None = None) -> redis.ConnectionPool:
    """The way to make connections to a Redis, or to a node of its cluster.

    Args:
        timeout: seconds for connecting and for each reply.

    Raises:
        ConfigurationError: redis-py cannot use the address.
    """
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "protocol": 2,
        **address.options,
    }
    try:
        options |= parse_url(address.url)  # type: ignore[no-untyped-call]
    except ValueError as exc:
        raise ConfigurationError(f"governor_redis_url: {exc}. Correct it") from exc
    if address.sentinels:
        secure = options.pop("connection_class", None) is redis.SSLConnection
        of_them = {
            name: options[name] for name in ("socket_timeout", "socket_connect_timeout", "retry")
        }
        of_them |= dict(address.sentinel_options)
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            address.sentinels, address.min_other_sentinels, of_them
        )
        for name in ("host", "port"):
            options.pop(name, None)
        return SentinelConnectionPool(  # type: ignore[no-untyped-call]
            address.primary, sentinel, ssl=secure, **options
        )
    if node is not None:
        if options.pop("path", None) is not None:
            del options["connection_class"]
        options |= {"host": node[0], "port": node[1]}
    return redis.ConnectionPool(**options)


_servers: WeakSet[Server] = WeakSet()


def _forked() -> None:
    for server in _servers:
        server.forget()


os.register_at_fork(after_in_child=_forked)


def _refusal(refused: Refused) -> Refused:
    """A refusal that concerns one upstream.

    Raises:
        StoreUnavailable: it concerns all.
    """
    if concern(refused) == "store":
        raise StoreUnavailable(f"The limiter store refused: {refused.code}.")
    return refused


def address(refused: Refused, host: str) -> Node:
    """The node in ``3999 127.0.0.1:6381``; where its host is unknown, it is the one that
    answered."""
    named, _, port = refused.text.rpartition(" ")[2].rpartition(":")
    named = named.strip("[]")
    return (host if named in {"", "?"} else named), int(port)


def packed(words: Sequence[object]) -> bytes:
    """A command as it is sent. Put together as one text: word by word it took half of the time of
    a decision."""
    texts = [*map(str, words)]
    text = "".join([f"${len(word)}\r\n{word}\r\n" for word in texts])
    command = f"*{len(texts)}\r\n{text}"
    if command.isascii():
        return command.encode()
    # The lengths are of bytes. Bytes that are no text were read as such (wire_parking.py).
    encoded = [word.encode("utf-8", "surrogateescape") for word in texts]
    return b"*%d\r\n%b" % (len(encoded), b"".join(map(bulk, encoded)))


def bulk(item: bytes) -> bytes:
    """One word of a command as it is sent."""
    return b"$%d\r\n%b\r\n" % (len(item), item)


def why(exc: BaseException) -> str:
    """The kind of error only: a connection error's text may hold the URL's password."""
    # redis-py wraps what the system said.
    cause = exc.__cause__ or exc.__context__
    wrapped = isinstance(exc, RedisError) and isinstance(cause, OSError)
    return type(cause if wrapped else exc).__name__
