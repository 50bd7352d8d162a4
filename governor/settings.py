"""Every setting, read once from ``app.conf`` and validated into a frozen object."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any, Literal

from governor.clock import SECOND, micros
from governor.errors import ConfigurationError, did_you_mean
from governor.keys import DEFAULT_PREFIX
from governor.redis_address import RedisAddress, is_redis

PREFIX = "governor_"


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings, ``governor_`` left off their names. Durations are microseconds here,
    seconds in ``app.conf``.

    Attributes:
        redis_url: where limits are kept; the broker when that is a Redis.
        database_url: SQLAlchemy URL of the dead-letter database.
        spill_dir: where dead letters wait on disk while the database is away.
        routes: patterns of task names, each with the upstream that governs them.
        upstreams: those that only ``routes`` name.
        hold: the longest wait inside the worker; a task that must wait longer is parked, or
            handed back to the broker.
        grace: how long after its slot a task may still start.
        timeout: the most any call to the limiter store may take.
        max_countdown: the longest countdown put on a message; longer waits hop.
        inline_wait: the longest a direct or eager call blocks for its slot.
        claim_lease: how long a non-idempotent execution counts as alive unrenewed.
        claim_keep: how long a finished non-idempotent execution is remembered.
        workers: how many workers share the limits of an upstream whose ``store_down`` is
            ``"local"``.
        prefix: of every Redis key.
        redact: further argument names whose values are never shown.
        stats_file: path prefix of the counters each worker process writes for tools.
        log: how each worker logs events; ``None``: not at all.
        metrics_port: where each worker's main process serves metrics for Prometheus.
        tracing: each worker makes spans of waits for OpenTelemetry.
    """

    redis_url: RedisAddress
    database_url: str
    spill_dir: str
    routes: tuple[tuple[str, str], ...]
    upstreams: tuple[Any, ...]
    hold: int
    grace: int
    timeout: int
    max_countdown: int
    inline_wait: int
    claim_lease: int
    claim_keep: int
    workers: int
    prefix: str
    redact: tuple[str, ...]
    stats_file: str | None
    log: Literal["text", "json"] | None
    metrics_port: int | None
    tracing: bool

    @property
    def latest(self) -> int:
        """How long after its slot a task starts whose body came too late once: well within the
        lease of its claim."""
        return self.claim_lease // 3

    def route(self, task: str) -> str | None:
        """The upstream the first matching pattern names."""
        return next((name for glob, name in self.routes if fnmatchcase(task, glob)), None)


def load(conf: Mapping[str, Any], known: Iterable[str]) -> Settings:
    """Read the settings.

    Args:
        conf: Celery's configuration; only ``get`` is used, and ``prefix``, its namespace.
        known: the keys that are set in it; those of others are left alone.

    Raises:
        ConfigurationError: naming the setting and the remedy.
    """
    _check_names([*known], getattr(conf, "prefix", None) or "")

    def get(name: str, default: Any) -> Any:
        value = conf.get(PREFIX + name)
        return default if value is None else value

    def duration(name: str, default: float, low: float, high: float) -> int:
        value = get(name, default)
        if isinstance(value, timedelta):
            value = value.total_seconds()
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigurationError(
                f"{PREFIX}{name}: {value!r} is not a span of time. Give seconds, or a timedelta"
            )
        if not low <= value <= high:
            raise ConfigurationError(
                f"{PREFIX}{name}: {value:g} s is out of range. Give {low:g} to {high:g} seconds"
            )
        return micros(value)

    timeout = duration("timeout", 0.2, 0.005, 10)
    patience = broker_patience(conf)
    max_countdown = duration("max_countdown", patience, 1, 86_400)
    if max_countdown > micros(patience):
        raise ConfigurationError(
            f"{PREFIX}max_countdown: {max_countdown / SECOND:g} s is beyond the broker's patience; "
            f"the task would run several times. Give at most {patience:g}, or raise "
            "broker_transport_options['visibility_timeout']"
        )
    return Settings(
        redis_url=_redis_url(conf, get("redis_url", None)),
        database_url=_text("database_url", get("database_url", "sqlite:///governor.sqlite")),
        spill_dir=_text("spill_dir", get("spill_dir", "governor-spill")),
        routes=_routes(get("routes", {})),
        upstreams=_upstreams(get("upstreams", ())),
        hold=duration("hold", 1.0, 0, 60),
        grace=duration("grace", 0.05, 0.005, 10),
        timeout=timeout,
        max_countdown=max_countdown,
        inline_wait=duration("inline_wait", 10.0, 0, 3600),
        claim_lease=duration("claim_lease", 30.0, 1, 3600),
        claim_keep=micros(max(86_400.0, 2 * visibility_timeout(conf))),
        workers=_workers(get("workers", 1)),
        prefix=_text("prefix", get("prefix", DEFAULT_PREFIX)),
        redact=_names("redact", get("redact", ())),
        stats_file=_optional_text("stats_file", get("stats_file", None)),
        log=_log(get("log", None)),
        metrics_port=_port(get("metrics_port", None)),
        tracing=_flag("tracing", get("tracing", False)),
    )


def _check_names(keys: Sequence[str], namespace: str) -> None:
    """Refuse keys that are meant for the governor and that it would not find."""
    bare = {field.name for field in fields(Settings)} - {"claim_keep"}
    # As Celery looks them up: with the namespace in the namespace's case, or without it.
    as_is = not namespace or not namespace.isupper()
    spelled = {
        name: f"{namespace}{PREFIX}{name}" if as_is else f"{namespace}{PREFIX}{name}".upper()
        for name in bare
    }
    for key in keys:
        word = key.lower().removeprefix(namespace.lower()) if isinstance(key, str) else ""
        name = word.removeprefix(PREFIX)
        if not word.startswith(PREFIX) or key in spelled.values():
            continue
        if name not in bare:
            hint = re.sub(r"\w+", lambda at: spelled.get(at[0], at[0]), did_you_mean(name, bare))
            raise ConfigurationError(f"{key}: there is no such setting. {hint}")
        if not {spelled[name], word} & {*keys}:
            raise ConfigurationError(
                f"{key}: a setting of this spelling is not read. Write {spelled[name]}"
            )


def _workers(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 100_000:
        raise ConfigurationError(f"{PREFIX}workers: {value!r} is not a number of workers")
    return value


def _log(value: Any) -> Literal["text", "json"] | None:
    if value not in (None, "text", "json"):
        raise ConfigurationError(f'{PREFIX}log: {value!r} is no form. Give "text" or "json"')
    return value  # type: ignore[no-any-return]


def _port(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65_535:
        raise ConfigurationError(f"{PREFIX}metrics_port: {value!r} is no port. Give 1 to 65535")
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{PREFIX}{name}: {value!r} is not True or False")
    return value


def visibility_timeout(conf: Mapping[str, Any]) -> float:
    """Seconds after which a Redis broker hands an unacknowledged message out again."""
    return _given_visibility_timeout(conf) or 3600.0


def broker_patience(conf: Mapping[str, Any]) -> float:
    """The longest countdown, in seconds, a message may safely carry.

    Half the visibility timeout of a Redis, so that waiting and running fit into it; half of
    RabbitMQ's default consumer timeout of 30 minutes; of another broker whose visibility timeout is
    set (SQS), half of that, if it is shorter.
    """
    if is_redis(conf):
        return visibility_timeout(conf) / 2
    given = _given_visibility_timeout(conf)
    return min(900.0, given / 2) if given else 900.0


def _given_visibility_timeout(conf: Mapping[str, Any]) -> float:
    options: Mapping[str, Any] = conf.get("broker_transport_options") or {}
    value = options.get("visibility_timeout") or 0.0
    try:
        return float(value)
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(
            f"broker_transport_options: visibility_timeout {value!r} is not a number of seconds"
        ) from exc


def _redis_url(conf: Mapping[str, Any], url: str | None) -> RedisAddress:
    return RedisAddress.of_broker(conf) if url is None else RedisAddress.of(_text("redis_url", url))


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{PREFIX}{name}: {value!r} is not a text")
    return value


def _optional_text(name: str, value: Any) -> str | None:
    return None if value is None else _text(name, value)


def _names(name: str, value: Any) -> tuple[str, ...]:
    several = isinstance(value, list | tuple | set | frozenset)
    if not several or not all(isinstance(item, str) for item in value):
        raise ConfigurationError(f'{PREFIX}{name}: {value!r} is no list. Write ["a_name"]')
    return tuple(value)


def _routes(routes: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(routes, Mapping):
        raise ConfigurationError(
            f"{PREFIX}routes: {type(routes).__name__} is not a dictionary. "
            'Write {"vendor.tasks.*": "stripe"}'
        )
    for pattern, upstream in routes.items():
        if not (isinstance(pattern, str) and isinstance(upstream, str)):
            raise ConfigurationError(
                f"{PREFIX}routes: {pattern!r}: {upstream!r} is no pattern with an upstream's name. "
                'Write {"vendor.tasks.*": "stripe"}'
            )
    return tuple(routes.items())


def _upstreams(upstreams: Any) -> tuple[Any, ...]:
    if isinstance(upstreams, Mapping):
        return tuple(upstreams.values())
    if not isinstance(upstreams, list | tuple | set | frozenset):
        raise ConfigurationError(
            f"{PREFIX}upstreams: {upstreams!r} is no list. Write [Upstream(…)]"
        )
    return tuple(upstreams)
