"""The example tasks, each against a real HTTP server that answers as its API does.

They are run eagerly. Celery shows the failure of an eager task as the nearest exception that can
be pickled, which for ``httpx.HTTPStatusError`` is its base ``httpx.HTTPError``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from kombu import Connection

from governor import Governor, Limit, Throttled
from governor.clock import SECOND
from governor.policy.retry_after import throttled_from_exception
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock

ROOT = Path(__file__).parents[2]


@dataclass
class Request:
    """What the API got."""

    method: str
    path: str
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Api(ThreadingHTTPServer):
    """Gives the answers it was told, in order, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.requests: list[Request] = []
        self.asked = Event()
        self.answers: deque[tuple[int, Any, dict[str, str]]] = deque()

    def will_answer(
        self, status: int, body: Any = None, headers: dict[str, str] | None = None
    ) -> None:
        self.answers.append((status, body, headers or {}))


class Handler(BaseHTTPRequestHandler):
    server: Api

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(Request(self.command, self.path, self.headers, body))
        status, answer, headers = self.server.answers.popleft()
        payload = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(payload)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)
        self.server.asked.set()

    do_GET = do_POST = answer

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A server in the place of all four APIs."""
    for name in ("STRIPE", "GITHUB", "SHOPIFY", "SLACK"):
        monkeypatch.delenv(f"{name}_API_BASE", raising=False)
    with Api() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        for name in ("STRIPE", "GITHUB", "SHOPIFY", "SLACK"):
            monkeypatch.setenv(f"{name}_API_BASE", server.url)
        yield server
        server.shutdown()
        thread.join()
    assert not server.answers, "an answer nobody asked for"


@pytest.fixture(autouse=True)
def clock() -> FakeClock:
    """The tasks' governor, on a clock that a wait moves: eager calls wait without waiting."""
    from tasks.app import app

    clock = FakeClock()
    app.governor = None
    Governor(app, clock=clock, store=MemoryStore(clock.wall))
    return clock


def the_store_is_no_longer_new(clock: FakeClock) -> None:
    """A new store knows nothing of the calls before it, and so allows no burst for a while."""
    clock.advance(60 * SECOND)
    clock.slept.clear()


# --- Stripe ---------------------------------------------------------------------------------


def test_stripe_is_asked_to_charge_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call carries the form, the key of the account and the idempotency key."""
    from tasks.stripe import charge

    monkeypatch.setenv("STRIPE_API_KEY", "sk_test_ours")
    api.will_answer(200, {"id": "pi_1"})

    assert charge.apply(args=("cus_1", 500), task_id="task-1").get() == "pi_1"

    (request,) = api.requests
    assert (request.method, request.path) == ("POST", "/v1/payment_intents")
    assert request.headers["Authorization"] == "Bearer sk_test_ours"
    assert request.headers["Idempotency-Key"] == "task-1"
    assert parse_qs(request.body.decode()) == {
        "customer": ["cus_1"],
        "amount": ["500"],
        "currency": ["usd"],
        "confirm": ["true"],
        "off_session": ["true"],
    }


def test_stripe_is_asked_again_with_the_same_key(api: Api) -> None:
    """A 5xx may have charged: the next attempt repeats the key, so it cannot charge twice."""
    from tasks.stripe import charge

    api.will_answer(500, {"error": "?"})
    api.will_answer(502, {"error": "?"})
    api.will_answer(200, {"id": "pi_1"})

    assert charge.apply(args=("cus_1", 500)).get() == "pi_1"

    assert len({request.headers["Idempotency-Key"] for request in api.requests}) == 1
    assert len({request.body for request in api.requests}) == 1
    assert len(api.requests) == 3


def test_a_declined_card_is_not_tried_again(api: Api) -> None:
    """A 4xx is the answer, not a fault: one call."""
    from tasks.stripe import charge

    api.will_answer(402, {"error": {"code": "card_declined"}})
    with pytest.raises(httpx.HTTPError, match="402"):
        charge.apply(args=("cus_1", 500)).get()


@pytest.mark.parametrize("status", [429, 503])
def test_stripe_throttling_is_recognised(api: Api, status: int) -> None:
    """What Stripe's "not now" raises is what the governor waits for."""
    from tasks.stripe import charge

    api.will_answer(status, {}, {"Retry-After": "2"})
    with pytest.raises(httpx.HTTPStatusError) as raised:
        charge("cus_1", 500)
    throttled = throttled_from_exception(raised.value, 0)
    assert throttled is not None
    assert throttled.retry_after == 2


# --- GitHub ---------------------------------------------------------------------------------


def test_github_is_asked_to_create_an_issue(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call carries the issue and the token."""
    from tasks.github import create_issue

    monkeypatch.setenv("GITHUB_TOKEN", "ours")
    api.will_answer(201, {"number": 7})

    assert create_issue.apply(args=("o", "r", "title"), kwargs={"body": "b"}).get() == 7

    (request,) = api.requests
    assert (request.method, request.path) == ("POST", "/repos/o/r/issues")
    assert request.headers["Authorization"] == "Bearer ours"
    assert request.json == {"title": "title", "body": "b"}


def test_an_issue_is_never_created_twice(api: Api) -> None:
    """A 5xx may have created it: the task is not idempotent, so there is no second call."""
    from tasks.github import create_issue

    api.will_answer(500)
    with pytest.raises(httpx.HTTPError, match="500"):
        create_issue.apply(args=("o", "r", "title")).get()
    assert len(api.requests) == 1


def test_reading_from_github_is_tried_again(api: Api) -> None:
    """Reading changes nothing, so a 5xx is worth another attempt."""
    from tasks.github import open_issues

    api.will_answer(503)
    api.will_answer(200, {"open_issues_count": 3})
    assert open_issues.apply(args=("o", "r")).get() == 3
    assert [request.path for request in api.requests] == ["/repos/o/r"] * 2


@pytest.mark.parametrize(
    ("status", "body", "headers", "wait"),
    [
        (403, {}, {"Retry-After": "30"}, 30),  # says how long
        (429, {}, {"Retry-After": "30"}, 30),  # the same with the usual status
        # the hour's quota is gone until an instant, here ten minutes away
        (403, {}, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "+600"}, 600),
        # that instant has just passed
        (403, {}, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "-5"}, 0),
        # too many in too short a time, and no header: a minute
        (403, {"message": "You have exceeded a secondary rate limit"}, {}, 60),
    ],
)
def test_github_says_not_now_in_its_own_words(
    api: Api, status: int, body: Any, headers: dict[str, str], wait: float
) -> None:
    """Every form of GitHub's refusal becomes Throttled with its wait."""
    from tasks.github import create_issue

    reset = headers.get("X-RateLimit-Reset")
    if reset is not None:
        headers = {**headers, "X-RateLimit-Reset": str(int(time.time()) + int(reset))}
    api.will_answer(status, body, headers)
    with pytest.raises(Throttled) as throttled:
        create_issue.apply(args=("o", "r", "title")).get()
    assert throttled.value.retry_after == pytest.approx(wait, abs=30 if reset == "+600" else 0)


def test_a_forbidden_repository_is_no_throttling(api: Api) -> None:
    """A 403 without a word of limits is an answer."""
    from tasks.github import open_issues

    api.will_answer(403, {"message": "Resource not accessible"})
    with pytest.raises(httpx.HTTPError, match="403"):
        open_issues.apply(args=("o", "r")).get()


# --- Shopify --------------------------------------------------------------------------------


def shop_answer(*titles: str) -> dict[str, Any]:
    nodes = [{"id": str(i), "title": title} for i, title in enumerate(titles)]
    return {"data": {"products": {"nodes": nodes}}}


def test_shopify_is_asked_for_products(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call carries the query, its size and the token."""
    from tasks.shopify import products

    monkeypatch.setenv("SHOPIFY_ACCESS_TOKEN", "ours")
    api.will_answer(200, shop_answer("Hat", "Shoe"))

    assert products.apply(args=("acme", 2)).get() == ["Hat", "Shoe"]

    (request,) = api.requests
    assert (request.method, request.path) == ("POST", "/admin/api/2025-07/graphql.json")
    assert request.headers["X-Shopify-Access-Token"] == "ours"
    assert request.json["variables"] == {"first": 2}
    assert "products(first: $first)" in request.json["query"]


def test_a_shop_waits_for_its_own_points_only(api: Api, clock: FakeClock) -> None:
    """Two large queries fill one shop's bucket; another shop's is empty."""
    from tasks.shopify import products

    for _ in range(4):
        api.will_answer(200, shop_answer())
    products.apply(args=("first", 1)).get()
    the_store_is_no_longer_new(clock)
    products.apply(args=("acme", 598)).get()
    products.apply(args=("other", 598)).get()
    assert clock.slept == []
    products.apply(args=("acme", 598)).get()
    # 1,200 points, 1,000 less 50 ms of margin at once, 100 a second.
    assert sum(clock.slept) == pytest.approx(2.05 * SECOND, abs=2)


def test_shopify_refuses_inside_a_success(api: Api) -> None:
    """THROTTLED in a 200 becomes Throttled until the bucket has leaked enough."""
    from tasks.shopify import products

    bucket = {"maximumAvailable": 2000, "currentlyAvailable": 12, "restoreRate": 100}
    api.will_answer(
        200,
        {
            "errors": [{"message": "Throttled", "extensions": {"code": "THROTTLED"}}],
            "extensions": {"cost": {"requestedQueryCost": 52, "throttleStatus": bucket}},
        },
    )
    with pytest.raises(Throttled) as throttled:
        products.apply(args=("acme",)).get()
    assert throttled.value.retry_after == 0.4


def test_another_shopify_error_is_an_error(api: Api) -> None:
    """A mistake in the query is not waited for."""
    from tasks.shopify import products

    api.will_answer(200, {"errors": [{"message": "Field 'x' doesn't exist"}]})
    with pytest.raises(ValueError, match="doesn't exist"):
        products.apply(args=("acme",)).get()


# --- Slack ----------------------------------------------------------------------------------


def test_slack_is_asked_to_post(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call carries channel, text and token."""
    from tasks.slack import post_message

    monkeypatch.setenv("SLACK_BOT_TOKEN", "ours")
    api.will_answer(200, {"ok": True, "ts": "1.2"})

    assert post_message.apply(args=("C1", "hello")).get() == "1.2"

    (request,) = api.requests
    assert (request.method, request.path) == ("POST", "/api/chat.postMessage")
    assert request.headers["Authorization"] == "Bearer ours"
    assert request.json == {"channel": "C1", "text": "hello"}


def test_each_channel_has_its_own_second(api: Api, clock: FakeClock) -> None:
    """A second message to a channel waits a second; another channel's does not."""
    from tasks.slack import post_message

    for _ in range(4):
        api.will_answer(200, {"ok": True, "ts": "1.2"})
    post_message.apply(args=("C0", "first")).get()
    the_store_is_no_longer_new(clock)
    post_message.apply(args=("C1", "a")).get()
    post_message.apply(args=("C2", "b")).get()
    assert clock.slept == []
    post_message.apply(args=("C1", "c")).get()
    assert sum(clock.slept) == pytest.approx(SECOND, abs=2)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"ok": False, "error": "channel_not_found"}),  # understood and refused
        (500, {}),  # may have been posted
        (503, {}),  # may have been posted, and Slack does not say until when
    ],
)
def test_a_message_is_never_posted_twice(api: Api, status: int, body: Any) -> None:
    """Whatever goes wrong, there is one call."""
    from tasks.slack import SlackError, post_message

    api.will_answer(status, body)
    with pytest.raises((SlackError, httpx.HTTPError)):
        post_message.apply(args=("C1", "hello")).get()
    assert len(api.requests) == 1


# --- what the files declare, and worker.sh --------------------------------------------------


@pytest.mark.parametrize(
    ("api_name", "published", "per", "window"),
    [
        ("stripe", 100, None, 1),  # a second, for the account
        ("github", 5_000, None, 3600),  # an hour, for a token
        ("slack", 1, "channel", 1),  # a second, a channel; a bucket of one holds no burst
        ("shopify", 100, "shop", 1),  # points a second, a shop: a leaky bucket like ours
    ],
)
def test_the_declared_quotas_are_the_published_ones(
    api_name: str, published: int, per: str | None, window: int
) -> None:
    """Where an API counts a window, rate and burst together stay within what it publishes."""
    module = __import__(f"tasks.{api_name}", fromlist=["app"])
    (limit,) = getattr(module, api_name).limits
    assert isinstance(limit, Limit)
    assert limit.per == per
    in_a_window = float(limit.rate.count * window * SECOND / limit.rate.period)
    if limit.burst > 1 and api_name != "shopify":
        in_a_window += limit.burst
    assert in_a_window == pytest.approx(published)


def test_worker_sh_says_what_it_needs() -> None:
    """Without a broker it says so, and how to name one, and ends with 1."""
    done = subprocess.run(
        ["sh", ROOT / "worker.sh"],
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "no broker answers" in done.stderr
    assert "CELERY_BROKER_URL" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.redis
@pytest.mark.worker
def test_worker_sh_runs_the_tasks(api: Api, redis_url: str, tmp_path: Path) -> None:
    """With a broker it makes the tables and starts a worker that calls the API; SIGTERM ends it."""
    from tasks.slack import post_message

    api.will_answer(200, {"ok": True, "ts": "1.2"})
    with Connection(redis_url) as connection:
        post_message.apply_async(("C1", "hello"), connection=connection)

    log = tmp_path / "worker.log"
    with log.open("w") as output:
        worker = subprocess.Popen(
            ["sh", ROOT / "worker.sh", "--concurrency", "1"],
            env={
                **os.environ,
                "CELERY_BROKER_URL": redis_url,
                "GOVERNOR_DATABASE_URL": f"sqlite:///{tmp_path / 'dead.sqlite'}",
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while not api.asked.wait(0.1):
                assert worker.poll() is None, log.read_text()
        finally:
            worker.terminate()
            ended = worker.wait(60)
    assert ended == 0, log.read_text()
    assert [request.json for request in api.requests] == [{"channel": "C1", "text": "hello"}]
