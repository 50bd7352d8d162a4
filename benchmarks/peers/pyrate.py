"""pyrate-limiter: the sliding log of its RedisBucket, and its GCRA in a RedisStateStore."""

from __future__ import annotations

from pyrate_limiter import Limiter, Rate, RedisBucket, RedisStateStore, StateBucket, TokenBucket
from redis import Redis

from benchmarks.figures import whole_window
from benchmarks.peers import Peer


class Log(Peer):
    name = "pyrate-limiter, sliding log"
    setting = "RedisBucket, its default algorithm; the shortest window of whole seconds"
    waits = "its blocking try_acquire"
    several = "three rates of one key, in one atomic call"

    def setup(self, redis_url: str, rate: float, burst: int, key: str) -> None:
        self._limiter = self._build(redis_url, self._rates(rate, burst, 1), key)

    def try_acquire(self) -> bool:
        return bool(self._limiter.try_acquire(blocking=False))

    def acquire(self) -> None:
        while not self._limiter.try_acquire(blocking=True):
            pass

    def three(self, redis_url: str, rate: float, burst: int, key: str) -> None:
        self._limiter = self._build(redis_url, self._rates(rate, burst, 3), key)

    def try_three(self) -> bool:
        return self.try_acquire()

    def _rates(self, rate: float, burst: int, count: int) -> list[Rate]:
        self.burst, seconds = whole_window(rate)
        # It wants each further rate over a longer window.
        return [Rate(self.burst * 60**n, seconds * 1000 * 60**n) for n in range(count)]

    def _build(self, redis_url: str, rates: list[Rate], key: str) -> Limiter:
        return Limiter(RedisBucket.init(rates, Redis.from_url(redis_url), key))


class Gcra(Log):
    name = "pyrate-limiter, GCRA"
    setting = "StateBucket with TokenBucket() in a RedisStateStore; rate and burst as told"

    def _rates(self, rate: float, burst: int, count: int) -> list[Rate]:
        self.burst = burst
        calls, seconds = whole_window(rate)
        return [Rate(calls * 60**n, seconds * 1000 * 60**n, burst=burst) for n in range(count)]

    def _build(self, redis_url: str, rates: list[Rate], key: str) -> Limiter:
        store = RedisStateStore(Redis.from_url(redis_url), key)
        return Limiter(StateBucket(rates, store=store, algorithm=TokenBucket()))


KINDS = (Log, Gcra)
