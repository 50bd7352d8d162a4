"""The Redis store with a clock that tests move by hand.

The scripts are the shipped ones but for their source of time: ``TIME`` is replaced by two
keys of the server under test.
"""

from __future__ import annotations

from functools import partial
from hashlib import sha1

import redis

from governor.clock import SECOND
from governor.keys import DEFAULT_PREFIX
from governor.stores.redis.scripts import Script
from governor.stores.redis.store import RedisStore, _question
from governor.testing.clock import START

_CLOCK = "('MGET', 'test:seconds', 'test:micros')"


class ScriptedRedis:
    """A store on ``url`` whose ``now`` only :meth:`advance` changes."""

    def __init__(self, url: str, *, store_url: str | None = None) -> None:
        self.client = redis.Redis.from_url(url)
        self.store = RedisStore(store_url or url, timeout=10 * SECOND)
        for name in ("_admit", "_settle", "_adjust", "_change"):
            setattr(self.store, name, _with_clock(getattr(self.store, name)))
        for name in ("_park", "_release", "_steer", "_overdue"):
            setattr(self.store.lots, name, _with_clock(getattr(self.store.lots, name)))
        ask = self.store.lots._ask
        self.store.lots._ask = lambda upstream, *commands: ask(upstream, *map(_timed, commands))
        self.store._question = partial(_question, self.store._admit, DEFAULT_PREFIX)
        self.now = START
        self.advance(0)

    def advance(self, micros: int) -> None:
        self.now += micros
        seconds, rest = divmod(self.now, SECOND)
        self.client.mset({"test:seconds": seconds, "test:micros": rest})

    def close(self) -> None:
        self.store.close()
        self.client.close()


def _timed(command: tuple[str, ...]) -> tuple[str, ...]:
    return ("MGET", "test:seconds", "test:micros") if command == ("TIME",) else command


def _with_clock(script: Script) -> Script:
    source = script.source.replace(b"('TIME')", _CLOCK.encode())
    assert source != script.source
    return Script(source, sha1(source).hexdigest())
