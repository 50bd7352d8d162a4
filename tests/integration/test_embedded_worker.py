"""Workers that tests start inside their own process, with Celery's ``start_worker``."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.worker.request import Request

from governor import Concurrency, DeclarationError, GovernedTask, Governor, Limit, Upstream
from governor.deadletter import schema
from governor.deadletter.engine import bounded_engine
from governor.deadletter.reading import Filters
from governor.ports import Reason
from tests.integration.fleet import PATIENT, wait_until

pytestmark = [pytest.mark.redis]

api = Upstream("api", Limit("1000/s", burst=100), Concurrency(10))
inner = Upstream("inner", Limit("1000/s", burst=100), Concurrency(10))
tenants = Upstream("tenants", Limit("1000/s", burst=100), fair_by="account")
accounts = Upstream("accounts", Limit("1000/s", burst=100, per="account"))
seen: list[str] = []


class Account:
    """Has no text of its own, so that it names no bucket."""


class OwnRequest(Request):
    """A request class as an app has it."""

    def on_failure(self, *args: Any, **kwargs: Any) -> Any:
        seen.append("on_failure")
        return super().on_failure(*args, **kwargs)

    def on_accepted(self, *args: Any, **kwargs: Any) -> Any:
        seen.append("on_accepted")
        return super().on_accepted(*args, **kwargs)

    def acknowledge(self) -> None:
        seen.append("acknowledge")
        super().acknowledge()


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """Leave the level of the root logger, which a worker sets for all of its process, as it was."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)


@pytest.fixture(params=["redis", "memory"])
def app(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[Celery]:
    """An app with governed tasks; Celery's loop is asynchronous with Redis as its broker only."""
    url = redis_url if request.param == "redis" else f"memory://{tmp_path.name}"
    app = Celery("embedded", broker=url, backend="cache+memory://")
    app.conf.update(
        governor_redis_url=redis_url,
        governor_timeout=PATIENT,
        governor_database_url=f"sqlite:///{tmp_path / 'dead.sqlite'}",
        governor_spill_dir=str(tmp_path / "spill"),
        governor_stats_file=str(tmp_path / "stats"),
        worker_hijack_root_logger=False,
        broker_transport_options={"polling_interval": 0.01},
        accept_content=["json", "pickle"],
    )
    governor = Governor(app)
    schema.upgrade(bounded_engine(app.conf.governor_database_url, timeout=PATIENT))

    @app.task(base=GovernedTask, upstream=api, name="pay", shared=False, idempotent=True)
    def pay(amount: int) -> int:
        with inner.call(wait=1):
            return amount

    @app.task(base=GovernedTask, upstream=api, name="fail", shared=False, Request=OwnRequest)
    def fail() -> None:
        raise KeyError

    @app.task(base=GovernedTask, upstream=tenants, name="tenant", shared=False)
    def tenant(account: object) -> None: ...

    @app.task(base=GovernedTask, upstream=accounts, name="account", shared=False)
    def account(account: object) -> None: ...

    yield app
    governor.rest()
    app.close()


def ours() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "governor" in thread.name}


def opened() -> set[str]:
    """Pipes and sockets; Celery's own loop leaves its epoll to the garbage collector."""
    found = set()
    for file in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(os.readlink(file))
    return {name for name in found if name.startswith(("pipe", "socket"))}


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_nothing_is_left_when_a_worker_has_stopped(app: Any, pool: str) -> None:
    """Ten workers one after the other, each runs tasks and ends: no thread and no file stays."""
    # Celery takes four seconds to stop one where the broker is in memory.
    workers = 3 if app.conf.broker_url.startswith("memory") else 10
    after_the_first: set[str] = set()
    before = ours()  # of other tests
    for number in range(workers):
        with start_worker(app, pool=pool, perform_ping_check=False, shutdown_timeout=30):
            assert ours() > before
            pays = [app.tasks["pay"].delay(amount) for amount in range(3)]
            assert [pay.get(timeout=30, interval=0.01) for pay in pays] == [0, 1, 2]
            if number == 0:
                app.tasks["fail"].delay().get(timeout=30, interval=0.01, propagate=False)
        assert ours() <= before, number
        after_the_first = after_the_first or opened()
        assert len(opened()) <= len(after_the_first), number


def test_an_own_request_class_is_kept(app: Any) -> None:
    """The methods that a task's Request class overrides are called, as without a governor."""
    seen.clear()
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=30):
        app.tasks["fail"].delay().get(timeout=30, interval=0.01, propagate=False)
        wait_until(lambda: "acknowledge" in seen)
    assert [*dict.fromkeys(seen)] == ["on_accepted", "on_failure", "acknowledge"]
    assert seen.count("on_failure") == 1


def test_a_class_that_is_no_request_is_refused(app: Any) -> None:
    """A Request that Celery could not use is said with the task's name, before a message is."""
    from governor.worker.request import governed_request

    task = app.tasks["pay"]
    task.Request = "collections:OrderedDict"
    with pytest.raises(DeclarationError, match=r"pay declares .*OrderedDict"):
        governed_request(task)


@pytest.mark.parametrize("name", ["tenant", "account"])
def test_a_value_that_names_no_bucket_is_a_dead_letter(app: Any, name: str) -> None:
    """A producer without a governor may send any value; it is one row, and the next task runs."""
    plain = Celery("plain", broker=app.conf.broker_url, set_as_current=False)
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=30):
        plain.send_task(name, (Account(),), serializer="pickle")
        app.tasks[name].delay("acme").get(timeout=30, interval=0.01)
        letters = app.governor.dead_letters
        (row,) = wait_until(lambda: list(letters.list(Filters(), 10)))
    assert row.reason == Reason.INVALID_MESSAGE
    assert "account" in row.exc_message
    plain.close()
