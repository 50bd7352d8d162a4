"""limits: a moving window, its exact strategy, and a fixed window, its cheapest."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from limits import RateLimitItemPerSecond
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from benchmarks.figures import whole_window
from benchmarks.peers import Peer


class Moving(Peer):
    name = "limits, moving window"
    setting = "MovingWindowRateLimiter on RedisStorage; the shortest window of whole seconds"
    waits = "sleeps until the reset time it names"
    strategy: ClassVar[Any] = MovingWindowRateLimiter

    def setup(self, redis_url: str, rate: float, burst: int, key: str) -> None:
        self.burst, seconds = whole_window(rate)
        self._item = RateLimitItemPerSecond(self.burst, seconds)
        self._limiter = self.strategy(storage_from_string(redis_url))
        self._key = key

    def try_acquire(self) -> bool:
        return bool(self._limiter.hit(self._item, self._key))

    def acquire(self) -> None:
        while not self.try_acquire():
            reset = self._limiter.get_window_stats(self._item, self._key).reset_time
            time.sleep(max(0.001, reset - time.time()))


class Fixed(Moving):
    name = "limits, fixed window"
    setting = "FixedWindowRateLimiter on RedisStorage; the shortest window of whole seconds"
    strategy = FixedWindowRateLimiter


KINDS = (Moving, Fixed)
