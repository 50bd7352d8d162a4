"""Fixtures every test may ask for: private servers, started when first needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from governor.demo.redis_server import PrivateRedis, find_server
from governor.errors import ConfigurationError


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
