"""Hooks and the transport for HTTP clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import requests
from celery import Celery

from governor import DeclarationError, Governor, Limit, NotAdmitted, Throttled, Upstream
from governor.clock import SECOND
from governor.errors import StoreUnavailable
from governor.http import GovernedTransport, httpx_hooks, requests_hook
from governor.policy.adjustment import Adjustment
from governor.policy.limits import Concurrency, Quota, Rule, Window
from governor.policy.settlement import Settlement
from governor.policy.upstream import Breaker
from governor.ports import Change
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock

URL = "http://api.test/"


class Store(MemoryStore):
    """Keeps its corrections, and may be away."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock.wall)
        self.adjusted: list[Adjustment] = []
        self.away = False

    def adjust(self, upstream: str, adjustments: Any) -> None:
        if self.away:
            raise StoreUnavailable
        self.adjusted += adjustments
        super().adjust(upstream, adjustments)


class Body(httpx.SyncByteStream):
    def __iter__(self) -> Iterator[bytes]:
        yield b"body"


class World:
    """An app with a governor and an upstream known for long."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.app = Celery("app", broker="memory://", set_as_current=False)
        self.app.conf.governor_redis_url = "redis://unused"
        self.store = Store(self.clock)
        Governor(self.app, clock=self.clock, store=self.store)
        self.store.settle(Settlement("api"))
        self.clock.advance(86_400 * SECOND)
        self.headers: dict[str, str] = {}
        self.status = 200
        self.seen: list[httpx.Request] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        return httpx.Response(self.status, headers=self.headers, stream=Body())

    def hooked(self, *limits: Rule, **arguments: Any) -> httpx.Client:
        hooks = httpx_hooks(Upstream("api", *limits), app=self.app, **arguments)
        return httpx.Client(transport=httpx.MockTransport(self.answer), event_hooks=hooks)

    def client(
        self, *limits: Rule, answer: Callable[..., httpx.Response] | None = None, **options: Any
    ) -> httpx.Client:
        upstream = Upstream("api", *limits, breaker=Breaker(1, of=1))
        inner = httpx.MockTransport(answer or self.answer)
        return httpx.Client(transport=GovernedTransport(upstream, inner, app=self.app, **options))

    def used(self, window: Window) -> int:
        charge = window.charge_on(window.key, 1)
        meter = self.store.look("api", [charge]).state.meters.get(charge.bucket)
        return len(meter.times) if meter else 0  # type: ignore[union-attr]


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.app.close()


def left(remaining: int, limit: int = 100, reset: int = 30) -> dict[str, str]:
    return {
        "RateLimit-Limit": str(limit),
        "RateLimit-Remaining": str(remaining),
        "RateLimit-Reset": str(reset),
    }


MINUTE = Window(100, per_seconds=60)

# ---------------------------------------------------------------------- hooks


def test_a_hook_follows_what_others_use(world: World) -> None:
    """Calls of others count in our window from the response that tells of them."""
    world.headers = left(40)
    with world.hooked(MINUTE) as client:
        client.get(URL)
    assert world.used(MINUTE) == 60


def test_what_is_left_is_never_given(world: World) -> None:
    """An upstream that counts fewer calls than we do is not believed."""
    world.headers = left(40)
    with world.hooked(MINUTE) as client:
        client.get(URL)
        world.headers = left(99)
        world.clock.advance(SECOND)
        client.get(URL)
    assert world.used(MINUTE) == 60


def test_requests_is_understood(world: World) -> None:
    """A ``requests`` response hook reads the same headers."""
    hook = requests_hook(Upstream("api", MINUTE), app=world.app)
    response = requests.Response()
    response.status_code = 200
    response.headers.update(left(40))
    session = requests.Session()
    session.hooks["response"].append(hook)
    requests.hooks.dispatch_hook("response", session.hooks, response, timeout=1)
    session.close()
    assert world.used(MINUTE) == 60


def test_one_bucket_is_corrected_twice_a_second(world: World) -> None:
    """Within half a second a process corrects a bucket once, unless nothing is left of it; another
    bucket is another matter."""
    limit = Window(100, per_seconds=60, per="account")
    world.headers = left(40)
    with world.hooked(limit, account="a") as a, world.hooked(limit, account="b") as b:
        a.get(URL)
        a.get(URL)
        assert len(world.store.adjusted) == 1
        b.get(URL)
        assert len(world.store.adjusted) == 2
        world.clock.advance(SECOND // 2)
        a.get(URL)
        assert len(world.store.adjusted) == 3
        world.headers = left(0)
        a.get(URL)
        a.get(URL)
        assert len(world.store.adjusted) == 5
    assert len({each.charge.bucket for each in world.store.adjusted}) == 2


def test_a_quota_is_dated(world: World) -> None:
    """A daily quota is corrected in the period of now."""
    world.headers = {"X-RateLimit-Limit": "5000", "X-RateLimit-Remaining": "1000"}
    with world.hooked(Quota(5000)) as client:
        client.get(URL)
    (adjusted,) = world.store.adjusted
    assert adjusted.charge == Quota(5000).charge_on("qday", 1).dated(world.clock.wall())  # type: ignore[union-attr]
    assert adjusted.used == 4000


def test_changed_numbers_are_followed(world: World) -> None:
    """A process that never asks for an admission reads the numbers in force all the same."""
    world.store.change(Change("api", "set", "w60", '{"most": 50}', "me", "test"))
    world.headers = left(20)
    with world.hooked(MINUTE) as client:
        client.get(URL)
    assert world.store.adjusted[0].charge == MINUTE.with_numbers({"most": 50}).charge_on("w60", 1)


def test_a_store_that_is_away_fails_no_call(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The hook does not raise, and says so once."""
    world.store.away = True
    world.headers = left(0)
    with world.hooked(MINUTE) as client:
        assert client.get(URL).text == "body"
        client.get(URL)
    assert caplog.text.count("are lost meanwhile") == 1


def test_a_hook_needs_its_arguments() -> None:
    """Hooks for a ``per=`` limit without its argument are refused when they are made."""
    with pytest.raises(DeclarationError, match="account"):
        httpx_hooks(Upstream("api", Limit("1/s", per="account")))


# what a server may send, however odd
ODD = [
    {},
    {"RateLimit-Limit": "x", "RateLimit-Remaining": "-1"},
    {"RateLimit-Limit": "0", "RateLimit-Remaining": "0"},
    {"RateLimit-Limit": "999999999999999", "RateLimit-Remaining": "0", "RateLimit-Reset": "1e9"},
    {"Retry-After": "99999999999999999999"},
]


@pytest.mark.parametrize("headers", ODD)
@pytest.mark.parametrize("limit", [MINUTE, Limit("1/s"), Quota(5), Concurrency(3)])
def test_no_header_breaks_a_call(world: World, headers: dict[str, str], limit: Rule) -> None:
    """Whatever the headers say, the response reaches the caller."""
    world.headers, world.status = headers, 429
    with world.hooked(limit) as client:
        assert client.get(URL).text == "body"


# ---------------------------------------------------------------------- the transport


def test_requests_keep_the_limit(world: World) -> None:
    """Each request waits for its slot, within the bound."""
    start = world.clock.wall()
    with world.client(Limit("10/s", margin=0), wait=0.1) as client:
        for _ in range(3):
            assert client.get(URL).text == "body"
    assert world.clock.wall() - start == 200_000


def test_a_request_beyond_its_bound_is_not_made(world: World) -> None:
    """It raises our error, which is none of httpx."""
    with world.client(Limit("10/s", margin=0)) as client:
        client.get(URL)
        with pytest.raises(NotAdmitted) as caught:
            client.get(URL)
    assert not isinstance(caught.value, httpx.HTTPError)
    assert isinstance(caught.value, Throttled)
    assert len(world.seen) == 1


def test_arguments_come_from_the_request(world: World) -> None:
    """A function of the request says whose bucket it is charged to."""

    def account(request: httpx.Request) -> dict[str, str]:
        return {"account": request.headers["account"]}

    limit = Limit("10/s", per="account", margin=0)
    with world.client(limit, arguments=account) as client:
        client.get(URL, headers={"account": "a"})
        client.get(URL, headers={"account": "b"})
        with pytest.raises(NotAdmitted):
            client.get(URL, headers={"account": "a"})


def test_responses_are_observed(world: World) -> None:
    """What a response says is left is followed: nobody calls before the reset."""
    world.headers = left(0)
    with world.client(MINUTE) as client:
        client.get(URL)
        with pytest.raises(NotAdmitted) as caught:
            client.get(URL)
    assert caught.value.retry_after is not None
    assert 30 <= caught.value.retry_after <= 60.05


def test_a_refusal_pauses_the_upstream(world: World) -> None:
    """A 429 that nobody raised pauses the fleet."""
    world.status, world.headers = 429, {"Retry-After": "3"}
    with world.client() as client:
        assert client.get(URL).status_code == 429
        with pytest.raises(NotAdmitted) as caught:
            client.get(URL)
    assert (caught.value.limit, caught.value.retry_after) == ("pause", 3)


def test_a_lease_is_held_until_the_response_is_closed(world: World) -> None:
    """A response that is being read is in flight."""
    with world.client(Concurrency(1)) as client:
        with client.stream("GET", URL) as response:
            with pytest.raises(NotAdmitted):
                client.get(URL)
            assert response.read() == b"body"
        client.get(URL)
        with client.stream("GET", URL):
            pass  # closed without being read
        client.get(URL)


def test_a_response_that_was_read_already_ends_the_call(world: World) -> None:
    """Nobody closes a response that a transport hands over whole."""
    whole = lambda _: httpx.Response(200, text="body")  # noqa: E731
    with world.client(Concurrency(1), answer=whole) as client:
        client.get(URL)
        client.get(URL)


class Broken(httpx.SyncByteStream):
    def __iter__(self) -> Iterator[bytes]:
        yield b"bo"
        raise httpx.ReadError("the connection broke")


# how a request fails
FAILS: list[Callable[[httpx.Request], httpx.Response]] = [
    # while it is answered
    lambda _: httpx.Response(200, stream=Broken()),
    # before
    lambda _: (_ for _ in ()).throw(httpx.ConnectError("nobody there")),
]


@pytest.mark.parametrize("answer", FAILS)
def test_a_failed_request_gives_its_lease_back_and_counts(world: World, answer: Any) -> None:
    """Its lease is free again, and the breaker hears of it."""
    with world.client(Concurrency(1), answer=answer) as client:
        with pytest.raises(httpx.TransportError):
            client.get(URL)
        with pytest.raises(NotAdmitted) as caught:
            client.get(URL)
    assert caught.value.limit == "breaker"


def test_closing_closes_the_inner_transport(world: World) -> None:
    """The transport owns the one it wraps."""
    closed: list[bool] = []
    inner = httpx.MockTransport(world.answer)
    inner.close = lambda: closed.append(True)  # type: ignore[method-assign]
    GovernedTransport(Upstream("api"), inner).close()
    assert closed == [True]
    GovernedTransport(Upstream("api")).close()
