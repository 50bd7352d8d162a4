"""Settings are read once, and a wrong one names itself and the remedy."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from celery import Celery
from celery.worker.control import conf

from governor import Governor
from governor.clock import SECOND
from governor.errors import ConfigurationError
from governor.settings import load

REDIS = {"broker_url": "redis://localhost:6379/0"}


def test_defaults() -> None:
    """With a Redis broker nothing needs to be set."""
    settings = load(REDIS, [])
    assert settings.redis_url.url == REDIS["broker_url"]
    assert (settings.hold, settings.timeout) == (SECOND, SECOND // 5)
    assert settings.max_countdown == 1800 * SECOND


# what is set, what the error says
WRONG: list[tuple[dict[str, Any], str]] = [
    # RabbitMQ cannot keep limits
    ({"broker_url": "amqp://localhost"}, "governor_redis_url"),
    # a typing error
    ({**REDIS, "governor_hodl": 1}, "Did you mean governor_hold"),
    # computed, not set
    ({**REDIS, "governor_claim_keep": 1}, "no such setting"),
    # a text for a number
    ({**REDIS, "governor_hold": "1"}, "governor_hold"),
    # longer than anybody should block
    ({**REDIS, "governor_timeout": 60}, "governor_timeout"),
    # no body would begin
    ({**REDIS, "governor_grace": 0}, "governor_grace"),
    # longer than the broker's patience: the task would run several times
    ({**REDIS, "governor_max_countdown": 4000}, "visibility_timeout"),
    # a list of pairs
    ({**REDIS, "governor_routes": [("a", "b")]}, "governor_routes"),
    # no form of a line
    ({**REDIS, "governor_log": "xml"}, "governor_log"),
    ({**REDIS, "governor_log": ["json"]}, "governor_log"),
    # no port of TCP
    ({**REDIS, "governor_metrics_port": 70_000}, "governor_metrics_port"),
    ({**REDIS, "governor_metrics_port": True}, "governor_metrics_port"),
    # what a configuration file may hold for a flag
    ({**REDIS, "governor_tracing": "no"}, "governor_tracing"),
    # one text, which would be eight names
    ({**REDIS, "governor_redact": "password"}, "governor_redact"),
]


@pytest.mark.parametrize(("conf", "message"), WRONG)
def test_a_wrong_setting_names_itself(conf: dict[str, Any], message: str) -> None:
    """The error names the setting and what to write."""
    with pytest.raises(ConfigurationError, match=message):
        load(conf, [key for key in conf if key.startswith("governor_")])


def test_the_countdown_follows_the_visibility_timeout() -> None:
    """A shorter visibility timeout makes waits hop sooner."""
    conf = {**REDIS, "broker_transport_options": {"visibility_timeout": 60}}
    assert load(conf, []).max_countdown == 30 * SECOND


def test_the_first_matching_route_counts() -> None:
    """Routes are patterns of task names, in order."""
    conf = {**REDIS, "governor_routes": {"vendor.pay.*": "stripe", "vendor.*": "other"}}
    settings = load(conf, [])
    assert settings.route("vendor.pay.charge") == "stripe"
    assert settings.route("vendor.sync") == "other"
    assert settings.route("mine.sync") is None


@pytest.mark.parametrize("with_defaults", [False, True])
def test_no_password_of_a_setting_is_shown_by_celerys_commands(*, with_defaults: bool) -> None:
    """``celery report`` and ``inspect conf`` mask the URLs of the limiter and of the database."""
    app = Celery("secretive", broker="redis://:s3cret@h/0", set_as_current=False)
    app.conf.governor_redis_url = "redis://:s3cret@limiter/0"
    app.conf.governor_database_url = "postgresql://h/d?user=u&password=s3cret"
    app.conf.governor_hold = 2
    Governor(app)
    Governor(Celery("another", set_as_current=False))
    told = conf(Mock(app=app), with_defaults=with_defaults)
    for said in (str(told), app.conf.humanize(with_defaults=with_defaults), app.bugreport()):
        assert "s3cret" not in said
        assert "governor_hold" in said
    assert app.conf.governor_redis_url == "redis://:s3cret@limiter/0"
