"""pytest-celery's stock setup works over local processes: ungoverned tasks, both brokers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from celery.canvas import chord, group
from pytest_celery import CeleryTestSetup
from pytest_celery.vendors.worker.tasks import add, identity, xsum

pytestmark = pytest.mark.worker
TIMEOUT = 20


def test_setup_is_ready(celery_setup: CeleryTestSetup) -> None:
    """Ping by task, ping by remote control and the containers' own checks all succeed."""
    assert celery_setup.ready(ping=True, control=True, docker=True)
    # The control check above is content with no answer at all.
    answers = celery_setup.app.control.broadcast("ping", reply=True, timeout=TIMEOUT, limit=1)
    assert answers == [{celery_setup.worker.hostname(): {"ok": "pong"}}]


def test_tasks_and_canvas(celery_setup: CeleryTestSetup) -> None:
    """A task, a group and a chord run in the worker and their results come back."""
    queue = celery_setup.worker.worker_queue
    assert add.s(2, 3).apply_async(queue=queue).get(timeout=TIMEOUT) == 5
    members = group(identity.si(i).set(queue=queue) for i in range(4))
    assert members.apply_async().get(timeout=TIMEOUT) == [0, 1, 2, 3]
    total = chord(members, xsum.s().set(queue=queue)).apply_async()
    assert total.get(timeout=TIMEOUT) == 6
    celery_setup.worker.assert_log_exists("succeeded in")


def test_killed_worker_comes_back(celery_setup: CeleryTestSetup) -> None:
    """A task sent while the worker is dead runs once the worker has restarted."""
    worker = celery_setup.worker
    worker.kill()
    assert worker.container.status == "exited"
    result = add.s(20, 22).apply_async(queue=worker.worker_queue)
    worker.restart()
    assert result.get(timeout=TIMEOUT) == 42


class TestOwnApp:
    """A test file brings its own app module and worker arguments."""

    @pytest.fixture
    def worker_app_module(self) -> str:
        return "tests.integration.plain_app"

    @pytest.fixture
    def worker_arguments(self) -> Sequence[str]:
        return ("-P", "threads", "-c", "3")

    def test_own_app(self, celery_setup: CeleryTestSetup) -> None:
        """The worker runs that app, with those arguments."""
        result = celery_setup.app.send_task("tests.integration.plain_app.add", (2, 2))
        assert result.get(timeout=TIMEOUT) == 4
        celery_setup.worker.assert_log_exists("concurrency: 3 (thread)")
