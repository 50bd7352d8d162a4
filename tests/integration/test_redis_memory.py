"""What each kind of limit takes of Redis's memory, as the documentation says."""

from __future__ import annotations

import pytest
import redis

from governor import Concurrency, Limit, Quota, Upstream, Window
from governor.clock import SECOND, SystemClock
from governor.policy.decision import Admit, Ask, QuotaCharge
from governor.policy.limits import Rule
from governor.policy.settlement import Settlement
from governor.stores.redis.store import RedisStore

pytestmark = pytest.mark.redis

# a limit, its bucket, calls made, and the bytes they may take at most
KINDS: list[tuple[Rule, str, int, int]] = [
    # the buckets of all calls are fields of one hash: this is what one more takes
    (Limit("1000/s", burst=100), "s", 20, 64),
    # a bucket for each account is a key, one integer
    (Limit("1000/s", burst=100, per="account"), "s.account:4cR0zyLmPq1", 20, 128),
    # a log of at most a thousand entries of ten bytes
    (Window(1_000, per_seconds=3600), "w3600", 1_000, 12_000),
    # beyond, entries are groups of calls: here of ten
    (Window(10_000, per_seconds=3600), "w3600", 1_000, 2_000),
    (Quota(100_000), "qday", 1_000, 128),
    # a name and an instant for each lease
    (Concurrency(50), "in-flight", 40, 40 * 100),
]


@pytest.mark.parametrize(("rule", "bucket", "calls", "most"), KINDS)
def test_the_memory_of_each_kind(
    redis_url: str, rule: Rule, bucket: str, calls: int, most: int
) -> None:
    """A limit in use takes no more of Redis than the documentation says."""
    store = RedisStore(redis_url)
    state = "gov:{api}"
    with redis.Redis.from_url(redis_url) as client:
        store.settle(Settlement(Upstream("api").name))
        client.hset(state, "since", "1")  # seen long ago: the burst is there
        before = client.memory_usage(state, samples=0) or 0
        for number in range(calls):
            charge = rule.charge_on(bucket, 1)
            if isinstance(charge, QuotaCharge):
                charge = charge.dated(SystemClock().wall())
            ask = Ask("api", (charge,), 0, 0, 0, SECOND, holder=f"0123456789ab.{number}",
                      lease=60 * SECOND)  # fmt: skip
            assert isinstance(store.admit(ask), Admit)
        taken = client.memory_usage(f"{state}:{bucket}", samples=0)
        if taken is None:
            taken = (client.memory_usage(state, samples=0) or 0) - before
        assert 0 < taken <= most
    store.close()
