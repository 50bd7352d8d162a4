"""``governor waiting`` on a real Redis and a real worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import redis
from celery import chord
from celery.exceptions import ChordError, TaskRevokedError

from governor.clock import SECOND
from governor.stores.redis.store import RedisStore
from tests.integration.fleet import PATIENT, Fleet, fleet, wait_until

pytestmark = [pytest.mark.redis, pytest.mark.worker]

MODULE = "tests.integration.waiting_app"
WHY = ("--why", "sent twice")
TIMEOUT = 30


@pytest.fixture
def shop(tmp_path: Path, redis_url: str) -> Iterator[Fleet]:
    """A worker whose upstream is paused."""
    database_url = f"sqlite:///{tmp_path / 'dead.sqlite'}"
    with fleet(tmp_path, redis_url, redis_url, database_url, module=MODULE) as made:
        run(made, "limits", "pause", "shop", "--for", "10m", "--reason", "stocktaking")
        made.worker("threads")
        yield made


def run(shop: Fleet, *arguments: str) -> str:
    done = shop.command(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def told(shop: Fleet, *arguments: str) -> Any:
    return json.loads(run(shop, *arguments, "--json"))


def parked(shop: Fleet, number: int) -> None:
    store = RedisStore(shop.limiter_url, timeout=PATIENT * SECOND)
    wait_until(lambda: store.lots.waiting("shop")[0] == number)
    store.close()


def test_parked_tasks_are_looked_at_and_steered(shop: Fleet) -> None:
    """While an upstream is paused its tasks are parked; what people do to them holds when it is
    resumed: cancelled ones do not run, the others run where they were put."""
    accounts = {"a0": "a", "a1": "a", "a2": "a", "a3": "a", "a4": "a", "b0": "b"}
    results = {}
    for number, (task_id, account) in enumerate(accounts.items(), 1):
        results[task_id] = shop.send("order", account, number, task_id=task_id)
        parked(shop, number)
    (view,) = told(shop, "waiting", "shop", "--by", "tenant")
    assert view["held_up"]["by"] == "pause"
    assert [(one["tenant"], one["waiting"]) for one in view["tenants"]] == [("a", 5), ("b", 1)]
    assert told(shop, "waiting", "show", "a2")["position"] == 3
    assert told(shop, "explain", "a2")["found"] == "parked"

    run(shop, "waiting", "cancel", "a0", "--yes", *WHY)
    with pytest.raises(TaskRevokedError):
        results["a0"].get(timeout=TIMEOUT)
    run(shop, "waiting", "front", "a4", *WHY)
    run(shop, "waiting", "move", "a1", "--priority", "9", *WHY)
    run(shop, "waiting", "move", "a2", "--tenant", "b", *WHY)
    log = told(shop, "limits", "log", "shop")
    assert [record["what"] for record in log] == ["move", "move", "front", "cancel", "pause"]
    assert [record["of"] for record in log[:4]] == ["a2", "a1", "a4", "a0"]

    run(shop, "limits", "resume", "shop", "--reason", "counted")
    left = ["a1", "a2", "a3", "a4", "b0"]
    assert [results[task_id].get(timeout=TIMEOUT) for task_id in left] == [2, 3, 4, 5, 6]
    ran = [line["id"] for line in shop.ledger("order")]
    assert [task_id for task_id in ran if task_id in {"a4", "a3", "a1"}] == ["a4", "a3", "a1"]
    assert [task_id for task_id in ran if task_id in {"b0", "a2"}] == ["b0", "a2"]
    assert sorted(ran) == left
    assert shop.command("waiting", "show", "a4").returncode == 4


def test_who_watches_events_hears_of_a_cancelled_task(shop: Fleet) -> None:
    """A monitor that follows the broker's events is told that the task is revoked."""
    shop.send("order", "a", task_id="t")
    parked(shop, 1)
    heard: list[dict[str, Any]] = []
    with shop.app.connection() as connection, redis.Redis.from_url(shop.broker_url) as client:
        receiver = shop.app.events.Receiver(connection, {"task-revoked": heard.append})
        watching = client.pubsub_numpat()

        def watch() -> None:
            for _ in receiver.itercapture(timeout=TIMEOUT):
                if heard:
                    return

        monitor = Thread(target=watch)
        monitor.start()
        wait_until(lambda: client.pubsub_numpat() > watching)
        run(shop, "waiting", "cancel", "t", "--yes", *WHY)
        monitor.join()
    assert [event["uuid"] for event in heard] == ["t"]


def test_a_chord_hears_that_a_member_was_cancelled(shop: Fleet) -> None:
    """A chord one of whose parked members is cancelled fails, as with a revoked member."""
    members = [shop.signature("order", "a", n).set(task_id=f"m{n}") for n in range(2)]
    result = chord(members)(shop.signature("collect"))
    parked(shop, 2)
    run(shop, "waiting", "cancel", "m1", "--yes", *WHY)
    run(shop, "limits", "resume", "shop", "--reason", "counted")
    wait_until(lambda: result.state == "FAILURE")
    assert isinstance(result.result, ChordError)
    assert [line["id"] for line in shop.ledger("order")] == ["m0"]
