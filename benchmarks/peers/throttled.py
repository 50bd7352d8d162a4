"""throttled-py: its token bucket, which is its default, and its GCRA."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

from throttled import RateLimiterType, Throttled, per_duration
from throttled.store import RedisStore

from benchmarks.figures import whole_window
from benchmarks.peers import Peer

_PATIENCE = 60.0


class Tokens(Peer):
    name = "throttled-py, token bucket"
    setting = "token bucket, its default, in a RedisStore; rate and burst as told"
    waits = "its timeout"
    using: ClassVar[str] = RateLimiterType.TOKEN_BUCKET.value

    def setup(self, redis_url: str, rate: float, burst: int, key: str) -> None:
        self.burst = burst
        calls, seconds = whole_window(rate)
        quota = per_duration(timedelta(seconds=seconds), calls, burst=burst)
        store = RedisStore(server=redis_url)
        self._throttled = Throttled(key=key, using=self.using, quota=quota, store=store)

    def try_acquire(self) -> bool:
        return not self._throttled.limit().limited

    def acquire(self) -> None:
        while self._throttled.limit(timeout=_PATIENCE).limited:
            pass


class Gcra(Tokens):
    name = "throttled-py, GCRA"
    setting = "GCRA in a RedisStore; rate and burst as told"
    using = RateLimiterType.GCRA.value


KINDS = (Tokens, Gcra)
