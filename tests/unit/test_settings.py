"""Settings are read once, and a wrong one names itself and the remedy."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from celery import Celery
from celery.worker.control import conf

from governor import Governor, Limit
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
    ({**REDIS, "governor_tracing": 1}, "governor_tracing"),
    # spans that have no unit, or are none
    ({**REDIS, "governor_hold": None, "governor_grace": "50ms"}, "governor_grace"),
    ({**REDIS, "governor_grace": True}, "governor_grace"),
    ({**REDIS, "governor_hold": timedelta(hours=1)}, "governor_hold: 3600 s is out of range"),
    ({**REDIS, "governor_hold": [1]}, "Give seconds, or a timedelta"),
    ({**REDIS, "governor_inline_wait": -1}, "governor_inline_wait"),
    ({**REDIS, "governor_claim_lease": 0}, "governor_claim_lease"),
    ({**REDIS, "governor_timeout": float("nan")}, "governor_timeout"),
    # no number of workers
    ({**REDIS, "governor_workers": 0}, "governor_workers"),
    ({**REDIS, "governor_workers": "4"}, "governor_workers"),
    ({**REDIS, "governor_workers": True}, "governor_workers"),
    # texts that are none
    ({**REDIS, "governor_prefix": ""}, "governor_prefix"),
    ({**REDIS, "governor_prefix": 5}, "governor_prefix"),
    ({**REDIS, "governor_spill_dir": 5}, "governor_spill_dir"),
    ({**REDIS, "governor_database_url": ""}, "governor_database_url"),
    ({**REDIS, "governor_stats_file": 5}, "governor_stats_file"),
    # no Redis, and no scheme
    ({**REDIS, "governor_redis_url": "localhost:6379"}, "without a scheme"),
    ({**REDIS, "governor_redis_url": "http://localhost"}, "http:// is no Redis"),
    ({**REDIS, "governor_redis_url": "sentinel://localhost"}, "which primary is meant"),
    ({**REDIS, "governor_redis_url": 6379}, "governor_redis_url"),
    # routes and lists of another shape
    ({**REDIS, "governor_routes": {1: "stripe"}}, "governor_routes"),
    ({**REDIS, "governor_routes": {"a.*": None}}, "governor_routes"),
    ({**REDIS, "governor_routes": "stripe"}, "governor_routes"),
    ({**REDIS, "governor_upstreams": 5}, "governor_upstreams"),
    ({**REDIS, "governor_upstreams": "stripe"}, "governor_upstreams"),
    ({**REDIS, "governor_redact": 5}, "governor_redact"),
    ({**REDIS, "governor_redact": [5]}, "governor_redact"),
    # typing errors of every kind
    ({**REDIS, "governor_redis": "redis://"}, "Did you mean governor_redis_url"),
    ({**REDIS, "governor_databse_url": "x"}, "Did you mean governor_database_url"),
    ({**REDIS, "governor_upstream": []}, "Did you mean governor_upstreams"),
    ({**REDIS, "governor_wrokers": 2}, "Did you mean governor_workers"),
    ({**REDIS, "governor_colour": 2}, "Known: governor_claim_lease"),
    # a name in capitals, which Celery does not look up without a namespace
    ({**REDIS, "GOVERNOR_HOLD": 2}, "Write governor_hold"),
    ({**REDIS, "Governor_Hold": 2}, "Write governor_hold"),
    ({**REDIS, "GOVERNOR_HLOD": 2}, "Did you mean governor_hold"),
    # one text, which would be eight names
    ({**REDIS, "governor_redact": "password"}, "governor_redact"),
]


@pytest.mark.parametrize(("conf", "message"), WRONG)
def test_a_wrong_setting_names_itself(conf: dict[str, Any], message: str) -> None:
    """The error names the setting and what to write."""
    with pytest.raises(ConfigurationError, match=message):
        load(conf, conf)


# a namespace, what is set under it, what the error says
WRONG_UNDER_A_NAMESPACE: list[tuple[str, dict[str, Any], str]] = [
    (
        "CELERY",
        {"CELERY_GOVERNOR_HLOD": 2},
        "CELERY_GOVERNOR_HLOD: there is no",
    ),
    ("CELERY", {"CELERY_GOVERNOR_DATABSE_URL": 2}, "Did you mean CELERY_GOVERNOR_DATABASE_URL"),
    ("CELERY", {"CELERY_GOVERNOR_HOLD": "2"}, "governor_hold"),
    # the namespace forgotten: Django has settings of all kinds in one module
    ("CELERY", {"GOVERNOR_HOLD": 2}, "Write CELERY_GOVERNOR_HOLD"),
    ("CELERY", {"CELERY_governor_hold": 2}, "Write CELERY_GOVERNOR_HOLD"),
    ("CELERY_", {"CELERY_GOVERNOR_HLOD": 2}, "Did you mean CELERY_GOVERNOR_HOLD"),
    ("app", {"app_governor_hlod": 2}, "Did you mean app_governor_hold"),
    ("", {"GOVERNOR_DATABASE_URL": "x"}, "Write governor_database_url"),
]


def configured(namespace: str, values: dict[str, Any]) -> Governor:
    """An app with a configuration object, as ``config_from_object`` reads it."""
    app = Celery("configured", broker="redis://", set_as_current=False)
    app.config_from_object(type("Config", (), values), namespace=namespace or None)
    return Governor(app)


@pytest.mark.parametrize(("namespace", "values", "message"), WRONG_UNDER_A_NAMESPACE)
def test_a_wrong_setting_under_a_namespace_names_itself(
    namespace: str, values: dict[str, Any], message: str
) -> None:
    """A setting that Celery would not find is an error, not a default."""
    with pytest.raises(ConfigurationError, match=message):
        _ = configured(namespace, values).settings


@pytest.mark.parametrize(
    ("namespace", "values"),
    [
        ("CELERY", {"CELERY_GOVERNOR_HOLD": 2}),
        ("CELERY", {"governor_hold": 2}),
        ("app", {"app_governor_hold": timedelta(seconds=2)}),
        ("", {"governor_hold": 2}),
        # a variable of the configuration's own, beside the setting made of it
        ("", {"governor_hold": 2, "GOVERNOR_HOLD": 2}),
        ("", {"governor_hold": 2, "my_governor_flag": 2}),
    ],
)
def test_a_setting_is_found_as_celery_finds_it(namespace: str, values: dict[str, Any]) -> None:
    """Under a namespace with it, in its case, or without it; otherwise as it is."""
    assert configured(namespace, values).settings.hold == 2 * SECOND


@pytest.mark.parametrize("upstreams", [{"a": 1}, [1], ["stripe"], [Limit("1/s")]])
def test_upstreams_of_another_kind_are_refused(upstreams: Any) -> None:
    """What routes name are upstreams."""
    with pytest.raises(ConfigurationError, match=r"governor_upstreams: .* is not an Upstream"):
        _ = configured("", {"governor_upstreams": upstreams}).settings


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
