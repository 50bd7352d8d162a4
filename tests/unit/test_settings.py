"""Settings that depend on the broker."""

from __future__ import annotations

import pytest
from celery import Celery

from governor import Governor
from governor.clock import SECOND
from governor.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
        monkeypatch.delenv(name, raising=False)


# where the broker's URL is, its URL, the longest countdown in seconds
BROKERS = [
    # half of Redis's visibility timeout, here 20 s
    ("argument", "redis://localhost:1/0", 10),
    # celery -b and CELERY_BROKER_URL reach a worker through the environment alone
    ("environment", "redis://localhost:1/0", 10),
    # half of RabbitMQ's default consumer timeout
    ("argument", "amqp://localhost", 900),
    ("environment", "amqp://localhost", 900),
]


@pytest.mark.parametrize(("where", "url", "patience"), BROKERS)
def test_no_countdown_beyond_the_brokers_patience(
    monkeypatch: pytest.MonkeyPatch, where: str, url: str, patience: int
) -> None:
    """The longest countdown follows from the broker in use, however its URL was given."""
    if where == "environment":
        monkeypatch.setenv("CELERY_BROKER_URL", url)
    app = Celery("settings", broker=url if where == "argument" else None)
    app.conf.governor_redis_url = "redis://localhost:2/0"
    app.conf.broker_transport_options = {"visibility_timeout": 20}
    assert Governor(app).settings.max_countdown == patience * SECOND


def test_a_redis_broker_is_borrowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without governor_redis_url limits are kept in the broker's Redis; RabbitMQ is none to
    borrow."""
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://localhost:1/0")
    assert Governor(Celery("one")).settings.redis_url == "redis://localhost:1/0"
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://localhost")
    with pytest.raises(ConfigurationError, match="governor_redis_url"):
        _ = Governor(Celery("two")).settings
