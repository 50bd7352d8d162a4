"""News of a limiter store in Redis: who waits for an upstream may go earlier."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis
from redis.exceptions import RedisError

from governor.log_lines import LOG
from governor.stores.redis.client import why

_LISTEN = 10.0
"""Seconds without a sign of life after which the connection for news is renewed."""

_AGAIN = 1.0
"""Seconds until the next attempt, when there is no connection."""

_LAST = 1.0
"""Seconds for which the thread's end is waited for. It ends by itself when a connection that it is
about to make has been made."""


class News:
    """A thread that hears all that is published on the channels of a pattern.

    Args:
        pool: where connections come from, by their timeout.
        heard: called with the part of the channel's name that the pattern leaves open, and what
            was said; both are empty when something may have been missed.
    """

    def __init__(
        self, pool: Callable[[float], redis.ConnectionPool], pattern: str,
        heard: Callable[[str, str], None],
    ) -> None:  # fmt: skip
        self._pool = pool
        self._pattern = pattern
        self._heard = heard
        self._over = threading.Event()
        self._connection: Any = None
        self._thread = threading.Thread(target=self._run, name="governor-listen", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Hear nothing any more."""
        self._over.set()
        connection = self._connection
        if connection is not None:
            # Wakes the thread, which closes it.
            with suppress(Exception):
                connection._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(_LAST)

    def _run(self) -> None:
        while not self._over.is_set():
            client = redis.Redis(connection_pool=self._pool(_LISTEN))
            try:
                with client.pubsub(ignore_subscribe_messages=True) as news:  # type: ignore[no-untyped-call]
                    news.psubscribe(self._pattern)
                    self._connection = news.connection
                    self._listen(news)
            except (RedisError, OSError, ValueError) as exc:
                if not self._over.is_set():
                    LOG.warning("The limiter store's news are not heard: %s", why(exc))
            finally:
                self._connection = None
                client.close()
            self._over.wait(_AGAIN)

    def _listen(self, news: Any) -> None:
        before, after = (part.encode() for part in self._pattern.split("*"))
        # What was said before this is not known.
        self._heard("", "")
        while not self._over.is_set():
            message = news.get_message(timeout=_LISTEN / 2)
            if message is None:
                # A connection that nobody answers on is found out.
                news.ping()
            elif message["type"] == "pmessage":
                name = message["channel"][len(before) : -len(after)]
                self._heard(name.decode(), message["data"].decode())
