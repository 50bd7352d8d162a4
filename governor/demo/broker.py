"""The messages that the Redis broker still holds: the witness for tasks that wait."""

from __future__ import annotations

import json
from typing import Any, cast

import redis


class BrokerKeys:
    """Everything one run keeps in Redis, broker and limiter, found by its key prefix.

    Args:
        prefix: letters, digits, ``-`` and ``:`` only.

    Raises:
        redis.RedisError: every method, when the server does not answer.
    """

    def __init__(self, url: str, prefix: str, queue: str) -> None:
        self._client = redis.Redis.from_url(url, socket_timeout=5)
        self.prefix = prefix
        self._queue = f"{prefix}{queue}"
        self._unacked = f"{prefix}unacked"

    def empty(self) -> bool:
        """Tell whether no message is queued, and none fetched and not yet acknowledged."""
        return not (self._client.llen(self._queue) or self._client.hlen(self._unacked))

    def task_ids(self) -> set[str]:
        """The tasks of all messages, queued or not yet acknowledged."""
        queued = cast(list[bytes], self._client.lrange(self._queue, 0, -1))
        unacked = cast(list[bytes], self._client.hvals(self._unacked))
        messages: list[dict[str, Any]] = [json.loads(raw) for raw in queued]
        messages += [json.loads(raw)[0] for raw in unacked]
        return {message["headers"]["id"] for message in messages}

    def remove(self) -> None:
        """Delete every key of the run."""
        keys = list(self._client.scan_iter(match=f"{self.prefix}*", count=1000))
        for start in range(0, len(keys), 1000):
            self._client.unlink(*keys[start : start + 1000])

    def close(self) -> None:
        self._client.close()
