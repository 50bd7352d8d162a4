"""pytest-celery's stock fixtures over local processes.

``celery_setup``, ``celery_worker``, ``celery_broker`` and ``celery_backend`` are pytest-celery's
own; a test that asks for ``celery_setup`` runs once per broker (Redis, RabbitMQ). Without more,
the worker runs the app and tasks that pytest-celery brings. A test file changes that by
overriding fixtures of its own accord:

``worker_app_module``
    the app to run, e.g. ``"tests.acceptance.governed_app"``. Broker and result backend reach it
    through ``CELERY_BROKER_URL`` and ``CELERY_RESULT_BACKEND``, which Celery itself reads.
``worker_arguments``
    further arguments of ``celery worker``, e.g. ``("-P", "threads", "-c", "4")``.
``worker_env``
    further environment variables, e.g. the limiter store's URL, made from ``redis_url``.
``celery_broker``
    the brokers, when only one makes sense::

        @pytest.fixture
        def celery_broker(celery_redis_broker):
            return celery_redis_broker

Tasks of the worker's app are sent by name::

    def test_charge(celery_setup):
        result = celery_setup.app.send_task("tests.acceptance.governed_app.charge", ("acct", 5))
        assert result.get(timeout=10) == "charged"
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from pytest_celery import CeleryTestBroker, CeleryWorkerContainer

from governor.testing.redis_server import PrivateRedis
from tests.acceptance.celery_nodes import (
    LocalRabbitMQContainer,
    LocalRedisContainer,
    LocalWorkerContainer,
    RabbitMQProcess,
    RedisProcess,
    WorkerNode,
    write_volume,
)
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.servers.worker_process import QUICK_START, ROOT


@pytest.fixture
def worker_app_module() -> str:
    """Module of the worker's app; by default the one pytest-celery generates."""
    return "app"


@pytest.fixture
def worker_arguments() -> Sequence[str]:
    """Further arguments of ``celery worker``."""
    return ("-c", "2")


@pytest.fixture
def worker_env() -> Mapping[str, str]:
    """Further environment variables of the worker."""
    return {}


# A tuple: pytest-celery's own is a set, whose order differs between xdist's processes.
@pytest.fixture(
    params=[
        "celery_redis_broker",
        pytest.param("celery_rabbitmq_broker", marks=pytest.mark.rabbitmq),
    ]
)
def celery_broker(request: pytest.FixtureRequest) -> Iterator[CeleryTestBroker]:
    """The broker: each test runs over Redis and over RabbitMQ."""
    broker = request.getfixturevalue(request.param)
    yield broker
    broker.teardown()


@pytest.fixture
def default_redis_broker(tmp_path: Path) -> Iterator[LocalRedisContainer]:
    """A Redis of this test's own, as broker."""
    yield from _redis(tmp_path / "redis-broker")


@pytest.fixture
def default_redis_backend(tmp_path: Path) -> Iterator[LocalRedisContainer]:
    """A Redis of this test's own, as result backend."""
    yield from _redis(tmp_path / "redis-backend")


@pytest.fixture
def default_rabbitmq_broker(rabbitmq_server: PrivateRabbitMQ) -> Iterator[LocalRabbitMQContainer]:
    """A virtual host of this test's own."""
    process = RabbitMQProcess(rabbitmq_server)
    yield LocalRabbitMQContainer(process)
    process.remove()


@pytest.fixture
def default_worker_container_cls() -> type[CeleryWorkerContainer]:
    return LocalWorkerContainer


@pytest.fixture
def default_worker_command(
    default_worker_container_cls: type[CeleryWorkerContainer],
    worker_app_module: str,
    worker_arguments: Sequence[str],
) -> list[str]:
    """Stock command with our app and arguments."""
    command = default_worker_container_cls.command(*QUICK_START, *worker_arguments)
    command[command.index("-A") + 1] = worker_app_module
    return command


@pytest.fixture
def default_worker_container(
    default_worker_container_cls: type[CeleryWorkerContainer],
    default_worker_command: list[str],
    default_worker_env: dict[str, str],
    default_worker_initial_content: dict[str, bytes],
    worker_env: Mapping[str, str],
    tmp_path: Path,
) -> Iterator[CeleryWorkerContainer]:
    """A worker process; it has started and takes tasks."""
    volume = write_volume(default_worker_initial_content, tmp_path / "volume")
    process = WorkerNode(
        default_worker_command,
        {**default_worker_env, **worker_env},
        path=[volume, ROOT],
        directory=tmp_path,
    )
    yield default_worker_container_cls(process)
    process.remove()


def _redis(directory: Path) -> Iterator[LocalRedisContainer]:
    directory.mkdir()
    with PrivateRedis(directory) as server:
        yield LocalRedisContainer(RedisProcess(server))
