"""The stand-in upstream enforces its quotas by itself and writes down every call."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from governor.demo.ledger import JsonLines
from governor.demo.upstream import Api, FixedWindow, SlidingWindow, TokenBucket, UpstreamQuota
from governor.testing.child_process import ChildProcess
from tests.integration.fleet import wait_until

SECOND = 1_000_000_000

# Each row: what it shows, a quota, then (nanoseconds, seconds it says to wait) for each call.
QUOTAS: list[tuple[str, UpstreamQuota, list[tuple[int, float]]]] = [
    (
        "a bucket gives its burst at once, then one call each interval",
        TokenBucket(10, 2),
        [(0, 0), (0, 0), (0, 0.1), (SECOND // 20, 0.05), (SECOND // 10, 0), (SECOND // 10, 0.1)],
    ),
    (
        "a bucket never holds more than its burst",
        TokenBucket(10, 2),
        [(0, 0), (100 * SECOND, 0), (100 * SECOND, 0), (100 * SECOND, 0.1)],
    ),
    (
        "an evenly paced bucket of one never rejects",
        TokenBucket(100, 1),
        [(n * SECOND // 100, 0) for n in range(50)],
    ),
    (
        "a fixed window forgets at its edge, not before",
        FixedWindow(2, 1),
        [(SECOND // 2, 0), (SECOND // 2, 0), (SECOND * 9 // 10, 0.1), (SECOND, 0)],
    ),
    (
        "a sliding window remembers each call for its whole length",
        SlidingWindow(2, 1),
        [(0, 0), (SECOND // 2, 0), (SECOND * 9 // 10, 0.1), (SECOND, 0), (SECOND, 0.5)],
    ),
]


@pytest.mark.parametrize(("quota", "calls"), [pytest.param(*r[1:], id=r[0]) for r in QUOTAS])
def test_quota(quota: UpstreamQuota, calls: list[tuple[int, float]]) -> None:
    """A quota says how long to wait, and counts only the calls it let through."""
    for now, expected in calls:
        wait = quota.wait(now)
        assert wait == pytest.approx(expected, abs=1e-6)
        if wait == 0:
            quota.take(now)


def test_an_unknown_quota_is_refused_at_the_start() -> None:
    """A wrong rule fails before the first call and names the field."""
    with pytest.raises(ValueError, match="kind: 'leaky'"):
        Api({"name": "x", "quotas": [{"kind": "leaky"}]}, seed=1)


def _faults(api: Api, task_ids: list[str]) -> dict[str, str]:
    return {
        task_id: api.decide(0, task_id=task_id, key=task_id, account="", path="", body={})[0]
        for task_id in task_ids
    }


def test_faults_depend_on_the_task_not_on_the_order() -> None:
    """The same tasks meet the same faults in whatever order they arrive."""
    config = {"name": "x", "quotas": [], "transient_share": 0.3, "unprovoked_share": 0.1}
    ids = [f"run-{n:012d}" for n in range(300)]
    forward = _faults(Api(config, seed=1), ids)
    assert forward == _faults(Api(config, seed=1), ids[::-1])
    assert forward != _faults(Api(config, seed=2), ids)
    assert 60 < sum(verdict == "transient" for verdict in forward.values()) < 120
    assert 10 < sum(verdict == "throttled" for verdict in forward.values()) < 50


CONFIG: dict[str, Any] = {
    "seed": 1,
    "apis": [
        {
            "name": "shop",
            "quotas": [{"kind": "bucket", "rate": 0.5, "burst": 2, "per_account": True}],
            "refuses": {"field": "card", "value": "declined", "status": 402},
        },
        {
            "name": "code",
            "quotas": [
                {"kind": "sliding", "count": 100, "seconds": 60},
                {"kind": "fixed", "count": 1, "seconds": 3600, "path": "comments"},
            ],
        },
    ],
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[httpx.Client, JsonLines]]:
    """The stand-in in its own process: a client to it and its ledger, past the first line."""
    path = tmp_path / "ledger"
    lines = JsonLines(path)
    command = [sys.executable, "-m", "governor.demo.upstream"]
    arguments = ["--config", json.dumps(CONFIG), "--ledger", str(path)]
    with ChildProcess([*command, *arguments], log=tmp_path / "log") as process:
        first: list[dict[str, Any]] = []
        while not first:
            assert process.running, (tmp_path / "log").read_text()
            first = list(lines.read())
        with httpx.Client(base_url=f"http://127.0.0.1:{first[0]['port']}") as client:
            yield client, lines
        assert process.stop() == 0


def post(
    client: httpx.Client,
    path: str,
    task: str,
    account: str = "a",
    key: str | None = None,
    **body: Any,
) -> httpx.Response:
    headers = {"X-Task-Id": task, "X-Account": account, "Idempotency-Key": key or task}
    return client.post(path, json=body, headers=headers)


def test_over_quota_is_429_with_retry_after_per_account(
    server: tuple[httpx.Client, JsonLines],
) -> None:
    """Each account has a bucket of its own; over it the call is turned away and not executed."""
    client, lines = server
    statuses = [post(client, "/shop/orders", f"t{n}").status_code for n in range(2)]
    over = post(client, "/shop/orders", "t2")
    other = post(client, "/shop/orders", "t3", account="b")
    assert statuses == [200, 200]
    assert (over.status_code, over.headers["Retry-After"]) == (429, "2")
    assert other.status_code == 200
    # A client has its answer before the ledger says that the call ended.
    ledger: list[dict[str, Any]] = []

    def ended() -> list[int]:
        ledger.extend(lines.read())
        return sorted(line["call"] for line in ledger if line["event"] == "ended")

    wait_until(ended, lambda calls: len(calls) == 4)
    began = [line for line in ledger if line["event"] == "began"]
    assert [(b["task"], b["account"], b["verdict"]) for b in began] == [
        ("t0", "a", "ok"),
        ("t1", "a", "ok"),
        ("t2", "a", "rejected"),
        ("t3", "b", "ok"),
    ]
    assert ended() == [1, 2, 3, 4]
    assert all(line["mono"] > 0 and line["wall"] > 0 for line in ledger)


def test_a_repeated_key_has_one_effect(server: tuple[httpx.Client, JsonLines]) -> None:
    """The second call with a key is answered like the first and marked as a repetition."""
    client, lines = server
    first = post(client, "/shop/orders", "t", key="k")
    second = post(client, "/shop/orders", "t", key="k")
    assert (first.status_code, second.status_code) == (200, 200)
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    verdicts = [line["verdict"] for line in lines.read() if line["event"] == "began"]
    assert verdicts == ["ok", "repeated"]


def test_certain_inputs_are_refused_for_good(server: tuple[httpx.Client, JsonLines]) -> None:
    """A permanent 4xx depends on the input alone."""
    client, _ = server
    assert post(client, "/shop/orders", "t", card="declined").status_code == 402
    assert post(client, "/shop/orders", "u", card="good").status_code == 200


def test_a_quota_of_one_path_leaves_the_others_alone(
    server: tuple[httpx.Client, JsonLines],
) -> None:
    """Several quotas of one API are enforced together, each where it applies."""
    client, _ = server
    assert post(client, "/code/comments", "t1").status_code == 200
    assert post(client, "/code/comments/2", "t2").status_code == 429
    assert post(client, "/code/issues", "t3").status_code == 200


def test_what_is_not_an_api_is_not_in_the_ledger(server: tuple[httpx.Client, JsonLines]) -> None:
    """An unknown API is 404, a body that is no JSON 400."""
    client, lines = server
    assert post(client, "/nowhere/x", "t").status_code == 404
    assert client.post("/shop/x", content=b"{").status_code == 400
    assert list(lines.read()) == []
