"""Where the limiter's Redis is and how it is reached: as a URL says it, or as the broker is.

kombu reads broker URLs, so that what is borrowed is what the broker's own connections use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from kombu.connection import Connection
from kombu.utils.url import url_to_parts

from governor.errors import ConfigurationError

_REDIS = frozenset({"redis", "rediss", "sentinel"})
"""kombu's transports that are a Redis."""

_SCHEMES = ("redis://", "rediss://", "unix://", "redis+socket://", "sentinel://")
_SENTINEL_PORT = 26_379


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A Redis, and how it is reached.

    Attributes:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads it. Of a primary that
            sentinels name, its host is of no use.
        options: further arguments of redis-py's connections: how TLS is done.
        sentinels: host and port of each; none without Sentinel.
        primary: the name that they know it by.
        sentinel_options: arguments of the connections to them.
        min_other_sentinels: how many others each of them must know to be believed.
    """

    url: str = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sentinels: tuple[tuple[str, int], ...] = ()
    primary: str = ""
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    min_other_sentinels: int = 0

    @staticmethod
    def of(url: str) -> RedisAddress:
        """Read the address that a ``governor_redis_url`` names.

        Raises:
            ConfigurationError: the URL names no Redis.
        """
        if not url.startswith(_SCHEMES):
            raise _wrong(f"{_scheme(url)} is no Redis")
        bare, _, query = url.partition("?")
        try:
            asked = dict(parse_qsl(query, keep_blank_values=True))
            if url.startswith(("redis+socket://", "sentinel://")):
                options = {"master_name": asked.pop("master_name", None)}
                text = urlencode(asked)
                given = f"{bare}?{text}" if text else bare
                connection = Connection(given)  # type: ignore[no-untyped-call]
                return _of_broker(connection, options)
            reqs = asked.get("ssl_cert_reqs", "")
            if reqs.startswith("CERT_"):
                # As kombu writes it.
                asked["ssl_cert_reqs"] = reqs.removeprefix("CERT_").lower()
            if not url.startswith("unix://"):
                _ = urlsplit(url).port
            return RedisAddress(f"{bare}?{urlencode(asked)}" if asked else bare)
        except (ValueError, LookupError, TypeError) as exc:
            raise _wrong("it cannot be read") from exc

    @staticmethod
    def of_broker(conf: Mapping[str, Any]) -> RedisAddress:
        """The broker of a configuration of Celery's.

        Raises:
            ConfigurationError: it is not a Redis, or not one that can be borrowed.
        """
        connection = broker(conf)
        if connection is None or connection.transport_cls not in _REDIS:
            raise ConfigurationError(
                "governor_redis_url: not set, and the broker is not a Redis to borrow. "
                "Set it to where limits are kept, like redis://localhost:6379/1"
            )
        try:
            return _of_broker(connection, conf.get("broker_transport_options") or {})
        except (ValueError, LookupError, TypeError) as exc:
            raise ConfigurationError(
                "governor_redis_url: not set, and the broker's URL cannot be borrowed. "
                "Set it to where limits are kept, like redis://localhost:6379/1"
            ) from exc


def broker(conf: Mapping[str, Any]) -> Any:
    """kombu's connection to the broker of a configuration, not connected; ``None`` for a URL that
    it cannot read."""
    # Celery's environment variables and its -b precede the setting, and only the attribute of its
    # configuration knows them.
    url = getattr(conf, "broker_read_url", None) or conf.get("broker_url")
    try:
        return Connection(  # type: ignore[no-untyped-call]
            url or None,
            userid=conf.get("broker_user"),
            password=conf.get("broker_password"),
            virtual_host=conf.get("broker_vhost"),
            port=conf.get("broker_port"),
            transport=conf.get("broker_transport"),
            ssl=conf.get("broker_use_ssl") or False,
        )
    except Exception:  # noqa: BLE001 - a transport that is not installed may raise anything
        return None


def is_redis(conf: Mapping[str, Any]) -> bool:
    """Tell whether the broker of a configuration is a Redis, in whatever way it is reached."""
    connection = broker(conf)
    return connection is not None and connection.transport_cls in _REDIS


def _of_broker(connection: Any, options: Mapping[str, Any]) -> RedisAddress:
    if connection.credential_provider:
        raise ConfigurationError(
            "governor_redis_url: not set, and the broker's credential provider cannot be borrowed. "
            "Set it to a URL with a user and a password"
        )
    info = connection.info()
    transport, host = info["transport"], connection.hostname or "localhost"
    if "://" in host:
        _, _, _, user, password, path, query = url_to_parts(host)
        database = query.get("virtual_host") or query.get("db") or "0"
        return RedisAddress(f"unix://{_login(user, password)}/{path}?db={database.strip('/') or 0}")
    tls = info["ssl"] if isinstance(info["ssl"], Mapping) else {}
    scheme = "rediss" if tls or info["ssl"] or transport == "rediss" else "redis"
    login = _login(info["userid"], info["password"])
    database = str(info["virtual_host"] or "").strip("/") or "0"
    place = f"[{host}]" if ":" in host else host
    url = f"{scheme}://{login}{place}:{info['port'] or 6379}/{database}"
    if transport != "sentinel":
        return RedisAddress(url, tls)
    found = [urlsplit(each) for each in info["alternates"]]
    sentinels = tuple(
        (each.hostname or "localhost", each.port or _SENTINEL_PORT)
        for each in found
        if each.scheme == "sentinel"
    )
    primary = options.get("master_name")
    if not primary:
        raise ConfigurationError(
            "governor_redis_url: the sentinels are not told which primary is meant. Set "
            "broker_transport_options['master_name'], or write sentinel://HOST:26379?master_name="
            "NAME"
        )
    return RedisAddress(
        url,
        tls,
        sentinels or ((host, info["port"] or _SENTINEL_PORT),),
        str(primary),
        dict(options.get("sentinel_kwargs") or {}),
        int(options.get("min_other_sentinels") or 0),
    )


def _login(user: str | None, password: str | None) -> str:
    if not (user or password):
        return ""
    return f"{quote(user or '', safe='')}:{quote(password or '', safe='')}@"


def _wrong(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"governor_redis_url: this is not a Redis URL: {what}. Write redis://HOST:PORT/DB, "
        "rediss://…, unix://PATH or sentinel://HOST:PORT?master_name=NAME"
    )


def _scheme(url: str) -> str:
    """The part of a URL that can be shown: the rest may hold a password."""
    scheme, separator, _ = url.partition("://")
    return f"{scheme}://" if separator else "without a scheme like redis:// it"
