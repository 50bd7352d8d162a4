"""dramatiq: its rate limiters work without a broker. It waits by failing the message, which is
retried later; nothing of that is measured."""

from __future__ import annotations

from dramatiq.rate_limits import BucketRateLimiter, RateLimiter, WindowRateLimiter
from dramatiq.rate_limits.backends import RedisBackend

from benchmarks.figures import whole_window
from benchmarks.peers import Peer


class Window(Peer):
    name = "dramatiq, window"
    setting = "WindowRateLimiter on RedisBackend; the shortest window of whole seconds"

    def setup(self, redis_url: str, rate: float, burst: int, key: str) -> None:
        self.burst, seconds = whole_window(rate)
        self._limiter = self._build(RedisBackend(url=redis_url), key, seconds)

    def try_acquire(self) -> bool:
        with self._limiter.acquire(raise_on_failure=False) as acquired:
            return bool(acquired)

    def _build(self, backend: RedisBackend, key: str, seconds: int) -> RateLimiter:
        return WindowRateLimiter(backend, key, limit=self.burst, window=seconds)


class Bucket(Window):
    name = "dramatiq, bucket"
    setting = "BucketRateLimiter on RedisBackend, a fixed window; the shortest of whole seconds"

    def _build(self, backend: RedisBackend, key: str, seconds: int) -> RateLimiter:
        return BucketRateLimiter(backend, key, limit=self.burst, bucket=seconds * 1000)


KINDS = (Window, Bucket)
