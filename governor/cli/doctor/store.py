"""The limiter's Redis: the server, its user's permissions, and the data of limits and lots."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from governor import keys
from governor.cli.doctor.finding import Finding
from governor.clock import SECOND
from governor.errors import GovernorError, UpstreamStateError
from governor.governor import Governor
from governor.settings import Settings
from governor.stores.redis.client import pool, why
from governor.stores.redis.permissions import PROBE, acl, commands, missing, words

_OLDEST_REDIS = (6, 2)


def server(settings: Settings) -> Iterator[Finding]:
    try:
        with _client(settings) as client:
            about: Any = client.info("server")
            memory: Any = client.info("memory")
            persistence: Any = client.info("persistence")
    except redis.AuthenticationError:
        yield Finding(
            "redis", "error", "the limiter store refuses the login",
            "Correct the user and the password in governor_redis_url",
        )  # fmt: skip
        return
    except redis.ResponseError:
        yield Finding(
            "redis", "warning", "version, memory policy and persistence could not be seen: INFO is "
            "not allowed", "Allow +info to the user of governor_redis_url, or look at them there",
        )  # fmt: skip
        return
    except (redis.RedisError, OSError) as exc:
        yield Finding(
            "redis", "error", f"the limiter store does not answer ({why(exc)})",
            "Start it, or correct governor_redis_url; governed tasks wait until it answers",
        )  # fmt: skip
        return
    version = str(about.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_REDIS:
        yield Finding("redis", "error", f"version {version}", "Use Redis 6.2 or later, or Valkey")
    else:
        yield Finding("redis", "ok", f"version {version}")
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy == "noeviction" or not memory.get("maxmemory"):
        yield Finding("redis memory", "ok", f"maxmemory policy {policy}")
    else:
        yield Finding(
            "redis memory", "error",
            f"maxmemory policy {policy} may evict limits and claims: a limit forgotten is a limit "
            "started over",
            "CONFIG SET maxmemory-policy noeviction",
        )  # fmt: skip
    if not persistence.get("aof_enabled"):
        yield Finding(
            "redis persistence", "warning",
            "without AOF a restart forgets the claims of non-idempotent tasks and starts every "
            "bucket full",
            "CONFIG SET appendonly yes",
        )  # fmt: skip
    else:
        yield Finding("redis persistence", "ok", "AOF is on")


def permissions(settings: Settings) -> Iterator[Finding]:
    """Check that the Redis user may do what a worker does."""
    names = [keys.state_key(settings.prefix, "doctor"), keys.channel(settings.prefix, "*")]
    try:
        with _client(settings) as client:
            reply: Any = client.eval(PROBE, len(names), *names, *commands("worker"))
    except redis.AuthenticationError:
        return  # said where the limiter store is looked at
    except redis.ResponseError as exc:
        yield Finding(
            "redis permissions", "error", f"the Redis user may not run the limits' scripts: {exc}",
            f"ACL SETUSER <name> {acl('worker', settings.prefix)}",
        )  # fmt: skip
        return
    except (redis.RedisError, OSError):
        return  # said where the limiter store is looked at
    refused = missing(reply)
    if refused:
        yield Finding(
            "redis permissions", "error",
            f"the Redis user may not run {', '.join(refused)}, which workers need",
            f"ACL SETUSER <name> {words(refused, settings.prefix)}",
        )  # fmt: skip
    elif refused is not None:
        yield Finding("redis permissions", "ok", "the Redis user may do what a worker does")


def upstreams(governor: Governor) -> Iterator[Finding]:
    """Check that the data that the store keeps of each upstream can be used."""
    try:
        known = governor.upstreams
    except GovernorError:
        return  # said where the declarations are looked at
    for name, upstream in sorted(known.items()):
        shared = [rule.charge_on(rule.key, 1) for rule in upstream.limits if rule.per is None]
        try:
            governor.store.look(name, shared)
            governor.store.lots.view(name)
        except UpstreamStateError as exc:
            yield Finding("upstreams", "error", f"{name}: {exc.key}: {exc.problem}", exc.remedy)
        except GovernorError:
            break  # said where the limiter store is looked at
    governor.store.close()


def parking(governor: Governor, settings: Settings) -> Iterator[Finding]:
    """Check that parked tasks are safe in the limiter's Redis."""
    try:
        names = sorted(
            name for name, upstream in governor.upstreams.items() if upstream.parking == "store"
        )
    except GovernorError:
        return  # said where the declarations are looked at
    if not names:
        yield Finding("parking", "ok", "no upstream parks its tasks in Redis")
        return
    said = f"the parked tasks of {', '.join(names)}"
    try:
        with _client(settings) as client:
            persistence: Any = client.info("persistence")
            memory: Any = client.info("memory")
    except redis.ResponseError:
        yield Finding(
            "parking", "warning", f"it could not be seen whether Redis keeps {said}: no permission",
            "Allow INFO, or see to it that appendonly is yes and maxmemory-policy is noeviction",
        )  # fmt: skip
        return
    except (redis.RedisError, OSError):
        return  # said where the limiter store is looked at
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    evicts = bool(memory.get("maxmemory")) and policy.startswith("allkeys-")
    if evicts:
        yield Finding(
            "parking", "warning", f"maxmemory policy {policy} may evict {said}",
            "CONFIG SET maxmemory-policy noeviction",
        )  # fmt: skip
    if not persistence.get("aof_enabled"):
        yield Finding(
            "parking", "warning",
            f"without AOF {said} since its last snapshot are lost when Redis loses its memory",
            'CONFIG SET appendonly yes, or let them wait in the broker: parking="broker"',
        )  # fmt: skip
    elif not evicts:
        yield Finding("parking", "ok", f"Redis keeps {said} on disk")


@contextmanager
def _client(settings: Settings) -> Iterator[redis.Redis]:
    connections = pool(settings.redis_url, max(settings.timeout / SECOND, 1.0))
    try:
        yield redis.Redis(connection_pool=connections)
    finally:
        connections.disconnect()
