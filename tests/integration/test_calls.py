"""Calls inside a task and outside a worker, with a real Redis and a real HTTP server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from threading import Thread

import httpx
import pytest
import redis
import requests
from celery import Celery

from governor import Governor, Limit, NotAdmitted, Upstream, keys
from governor.clock import SECOND
from governor.http import GovernedTransport, httpx_hooks, requests_hook
from governor.policy.limits import Concurrency, Quota, Rule, Window
from tests.integration.fleet import wait_until
from tests.integration.test_api_tasks import Api

pytestmark = pytest.mark.redis

DAY = 86_400


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
    assert not server.answers, "an answer nobody asked for"


class Fleet:
    """Processes of one fleet, which share nothing but a Redis that has known the upstream for two
    days."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.apps: list[Celery] = []
        with redis.Redis.from_url(url) as client:
            since = int((time.time() - 2 * DAY) * SECOND)
            client.hset(keys.state_key(keys.DEFAULT_PREFIX, "api"), "since", str(since))

    def process(self) -> Celery:
        app = Celery("app", broker="memory://", set_as_current=False)
        app.conf.update(governor_redis_url=self.url, governor_timeout=10, governor_claim_lease=1)
        Governor(app)
        self.apps.append(app)
        return app

    def close(self) -> None:
        for app in self.apps:
            app.governor.store.close()
            app.close()


@pytest.fixture
def fleet(redis_url: str) -> Iterator[Fleet]:
    made = Fleet(redis_url)
    yield made
    made.close()


def to_midnight() -> int:
    now = datetime.now(UTC)
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return int((midnight - now).total_seconds())


# a limit, what the upstream calls its whole, seconds until its reset
SPENT: list[tuple[Rule, int, int]] = [
    # a window, which others have used up: nobody calls before it is over
    (Window(100, per_seconds=60), 100, 40),
    # a rate, for an upstream that counts whole minutes
    (Limit("600/min", burst=40), 600, 40),
    # a day's quota, until midnight
    (Quota(5000), 5000, -1),
]


@pytest.mark.parametrize("hooked", ["httpx", "requests", "transport"])
@pytest.mark.parametrize(("limit", "whole", "reset"), SPENT)
def test_what_others_use_is_followed(
    fleet: Fleet, api: Api, limit: Rule, whole: int, reset: int, hooked: str
) -> None:
    """An upstream answers that nothing is left: the whole fleet waits until its reset."""
    reset = to_midnight() if reset < 0 else reset
    upstream, app = Upstream("api", limit), fleet.process()
    headers = {
        "X-RateLimit-Limit": str(whole),
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(reset),
    }
    api.will_answer(200, {}, headers)
    match hooked:
        case "httpx":
            with httpx.Client(event_hooks=httpx_hooks(upstream, app=app)) as client:
                client.get(api.url)
        case "requests":
            with requests.Session() as session:
                session.hooks["response"].append(requests_hook(upstream, app=app))
                session.get(api.url, timeout=10)
        case _:
            with httpx.Client(transport=GovernedTransport(upstream, app=app)) as client:
                client.get(api.url)
    with pytest.raises(NotAdmitted) as caught:
        with upstream.call(app=fleet.process()):
            pass
    assert caught.value.limit == limit.name
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > reset - 10


def test_what_is_left_is_used(fleet: Fleet, api: Api) -> None:
    """What remains according to the upstream may still be called for, and no more."""
    upstream, app = Upstream("api", Window(100, per_seconds=60)), fleet.process()
    headers = {"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "3"}
    api.will_answer(200, {}, headers)
    with httpx.Client(transport=GovernedTransport(upstream, app=app)) as client:
        client.get(api.url)
    for _ in range(3):
        with upstream.call(app=app):
            pass
    with pytest.raises(NotAdmitted):
        with upstream.call(app=app):
            pass


def test_a_refusal_pauses_the_fleet(fleet: Fleet, api: Api) -> None:
    """One process is told 429: no other calls before its time."""
    upstream = Upstream("api", Limit("1000/s", burst=100))
    api.will_answer(429, {}, {"Retry-After": "40"})
    with httpx.Client(transport=GovernedTransport(upstream, app=fleet.process())) as client:
        assert client.get(api.url).status_code == 429
    with pytest.raises(NotAdmitted) as caught:
        with upstream.call(app=fleet.process()):
            pass
    assert caught.value.retry_after is not None
    assert 30 < caught.value.retry_after <= 40


def test_places_are_the_fleets(fleet: Fleet) -> None:
    """A lease held in one process is missing in another, for as long as the call takes, which may
    be longer than the lease."""
    upstream = Upstream("api", Concurrency(1))
    one, other = fleet.process(), fleet.process()
    key = keys.bucket_key(keys.DEFAULT_PREFIX, "api", "in-flight")

    def until() -> float:
        (found,) = client.zrange(key, 0, -1, withscores=True)
        return float(found[1])

    with redis.Redis.from_url(fleet.url) as client:
        with upstream.call(app=one):
            first = until()
            # Renewed three times, it has outlived the lease that it was given at first.
            wait_until(until, lambda now: now > first + SECOND)
            with pytest.raises(NotAdmitted):
                with upstream.call(app=other):
                    pass
        assert client.exists(key) == 0
    with upstream.call(app=other):
        pass


def test_the_cost_is_settled(fleet: Fleet) -> None:
    """A call that cost more leaves less for the fleet."""
    upstream = Upstream("api", Window(100, per_seconds=60))
    with upstream.call(app=fleet.process(), cost=10) as call:
        call.settle(cost=95)
    with upstream.call(app=fleet.process(), cost=5) as call:
        with pytest.raises(NotAdmitted):
            with upstream.call(app=fleet.process()):
                pass
        call.settle(cost=4)
    with upstream.call(app=fleet.process()):
        pass
