"""Where the limiter's Redis is: what a URL names, and what is borrowed of the broker."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import redis
from redis.sentinel import SentinelConnectionPool, SentinelManagedSSLConnection

from governor.clock import SECOND
from governor.errors import ConfigurationError
from governor.redis_address import RedisAddress, is_redis
from governor.settings import load
from governor.stores.redis.client import pool

INSECURE = {"ssl_cert_reqs": ssl.CERT_NONE}
CA = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/etc/ca.pem"}

BORROWED: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"broker_url": "redis://localhost:6379/0"}, "redis://localhost:6379/0", {}),
    ({"broker_url": "redis://"}, "redis://localhost:6379/0", {}),
    ({"broker_url": "redis://:p%40w@h//"}, "redis://:p%40w@h:6379/0", {}),
    ({"broker_url": "redis://[::1]:6380/3"}, "redis://[::1]:6380/3", {}),
    # kombu's default is not to verify; so is redis-py's that borrows it
    ({"broker_url": "rediss://u:s@h/2"}, "rediss://u:s@h:6379/2", INSECURE),
    ({"broker_url": "rediss://h?ssl_cert_reqs=CERT_NONE"}, "rediss://h:6379/0", INSECURE),
    (
        {"broker_url": "rediss://h?ssl_cert_reqs=required&ssl_ca_certs=/etc/ca.pem"},
        "rediss://h:6379/0",
        CA,
    ),
    ({"broker_url": "rediss://h", "broker_use_ssl": CA}, "rediss://h:6379/0", CA),
    ({"broker_url": "redis://h", "broker_use_ssl": CA}, "rediss://h:6379/0", CA),
    ({"broker_url": "redis+socket:///run/redis.sock"}, "unix:///run/redis.sock?db=0", {}),
    (
        {"broker_url": "redis+socket://:pw@/run/redis.sock?virtual_host=4"},
        "unix://:pw@/run/redis.sock?db=4",
        {},
    ),
    # limits live in one place: the first
    ({"broker_url": "redis://a/1;redis://b/1"}, "redis://a:6379/1", {}),
    ({"broker_url": ["redis://a/1", "redis://b/1"]}, "redis://a:6379/1", {}),
    # in parts
    (
        {"broker_url": "h", "broker_transport": "redis", "broker_port": 6380, "broker_vhost": "4",
         "broker_password": "pw"},
        "redis://:pw@h:6380/4",
        {},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("conf", "url", "options"), BORROWED)
def test_the_broker_is_borrowed_as_it_is_reached(
    conf: dict[str, Any], url: str, options: dict[str, Any]
) -> None:
    """The limiter store connects as the broker's connections do, and redis-py can use what it is
    given."""
    address = load(conf, []).redis_url
    assert (address.url, dict(address.options)) == (url, options)
    made = pool(address, 0.2)
    connection = made.connection_class(**made.connection_kwargs)
    assert isinstance(connection, redis.SSLConnection) is url.startswith("rediss")
    if options:
        assert connection.cert_reqs == options["ssl_cert_reqs"]


def test_sentinels_are_borrowed_with_their_options() -> None:
    """All sentinels, the primary's name and their own password reach the limiter store."""
    conf = {
        "broker_url": "sentinel://:pw@a:26380;sentinel://b/2",
        "broker_transport_options": {
            "master_name": "mymaster", "sentinel_kwargs": {"password": "theirs"},
            "min_other_sentinels": 1,
        },
        "broker_use_ssl": CA,
    }  # fmt: skip
    address = load(conf, []).redis_url
    assert address.sentinels == (("a", 26380), ("b", 26379))
    assert address.primary == "mymaster"
    made = pool(address, 0.2)
    assert isinstance(made, SentinelConnectionPool)
    assert made.connection_class is SentinelManagedSSLConnection
    assert made.connection_kwargs["password"] == "pw"
    sentinel = made.sentinel_manager.sentinels[0]
    assert sentinel.connection_pool.connection_kwargs["password"] == "theirs"
    assert sentinel.connection_pool.connection_kwargs["socket_timeout"] == 0.2


OWN = [
    ("redis://h:6379/1", "redis://h:6379/1", ()),
    ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2", ()),
    ("redis+socket:///run/redis.sock?virtual_host=2", "unix:///run/redis.sock?db=2", ()),
    ("rediss://h?ssl_cert_reqs=CERT_NONE", "rediss://h?ssl_cert_reqs=none", ()),
    ("rediss://h?ssl_ca_certs=%2Fx", "rediss://h?ssl_ca_certs=%2Fx", ()),
    ("sentinel://a;sentinel://b:1?master_name=m", "redis://a:26379/0", (("a", 26379), ("b", 1))),
]


@pytest.mark.parametrize(("given", "url", "sentinels"), OWN)
def test_a_url_of_ones_own(given: str, url: str, sentinels: tuple[tuple[str, int], ...]) -> None:
    """``governor_redis_url`` takes what a broker URL may be."""
    address = RedisAddress.of(given)
    assert (address.url, address.sentinels) == (url, sentinels)
    made = pool(address, 0.2)
    assert made.connection_class(**made.connection_kwargs)


WRONG = [
    ({"governor_redis_url": "localhost:6379"}, "without a scheme"),
    ({"governor_redis_url": "http://u:s3cret@h"}, "http:// is no Redis"),
    ({"governor_redis_url": "redis://u:s3cret@h:port"}, "it cannot be read"),
    ({"governor_redis_url": "sentinel://a"}, "master_name"),
    ({"broker_url": "sentinel://:s3cret@a"}, "master_name"),
    ({"broker_url": "amqp://u:s3cret@h"}, "not a Redis to borrow"),
    ({"broker_url": "bogus://u:s3cret@h"}, "not a Redis to borrow"),
    ({"broker_url": "redis://h/0?credential_provider=a.b"}, "credential provider"),
]


@pytest.mark.parametrize(("conf", "said"), WRONG)
def test_what_names_no_redis_is_said_without_its_password(conf: dict[str, Any], said: str) -> None:
    """The error names the setting and what to write, and no secret."""
    with pytest.raises(ConfigurationError, match=said) as caught:
        load(conf, list(conf) if "governor_redis_url" in conf else [])
    assert "governor_redis_url" in str(caught.value)
    assert "s3cret" not in str(caught.value)


REDIS_BROKERS = [
    {"broker_url": "redis://h"},
    {"broker_url": "redis+socket:///run/redis.sock"},
    {"broker_url": "sentinel://a", "master_name": "m"},
    {"broker_url": "rediss://h"},
    {"broker_url": ["redis://a", "redis://b"]},
    {"broker_url": "h", "broker_transport": "redis"},
]


@pytest.mark.parametrize("conf", REDIS_BROKERS)
def test_the_visibility_timeout_bounds_countdowns_however_the_redis_is_reached(
    conf: dict[str, Any],
) -> None:
    """No countdown is longer than half of it: a longer one runs the task several times."""
    options = {"visibility_timeout": 6, "master_name": conf.get("master_name")}
    settings = load({**conf, "broker_transport_options": options}, [])
    assert settings.max_countdown == 3 * SECOND
    options.pop("visibility_timeout")
    assert load({**conf, "broker_transport_options": options}, []).max_countdown == 1800 * SECOND


def test_another_brokers_visibility_timeout_counts_too() -> None:
    """SQS hands a message out again as Redis does."""
    conf = {"broker_url": "sqs://", "governor_redis_url": "redis://h"}
    options = {"visibility_timeout": 60}
    known = ["governor_redis_url"]
    assert load({**conf, "broker_transport_options": options}, known).max_countdown == 30 * SECOND
    assert load(conf, known).max_countdown == 900 * SECOND


@pytest.mark.parametrize("url", ["memory://", "amqp://"])
def test_asking_what_the_broker_is_says_nothing(url: str, caplog: Any) -> None:
    """kombu's warning that a URL names no host is said where the app connects, not once more."""
    assert not is_redis({"broker_url": url})
    assert not caplog.records


def test_an_address_shows_no_password() -> None:
    """An address in the log has no secret in it."""
    assert "s3cret" not in repr(RedisAddress.of("redis://u:s3cret@h"))
