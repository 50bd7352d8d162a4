"""``governor doctor``: is this application set up so that the guarantees hold?"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import click
import redis
from rich.console import Console
from rich.table import Table
from rich.text import Text

from governor import keys
from governor import settings as settings_
from governor.cli.environment import Environment
from governor.clock import SECOND
from governor.deadletter import schema
from governor.deadletter.engine import bounded_engine
from governor.deadletter.spill import Spill
from governor.errors import GovernorError, UpstreamStateError
from governor.governor import Governor
from governor.redis_address import is_redis
from governor.settings import Settings
from governor.stores.redis.client import pool, why
from governor.stores.redis.permissions import PROBE, acl, commands, missing, words
from governor.worker.inspect import STARTS
from governor.worker.lateness import REMEDY

Level = Literal["ok", "warning", "error"]

_ANSWERS = 1.0
"""Seconds in which workers may answer."""

_OLDEST_REDIS = (6, 2)
_PICKLES = {"pickle", "application/x-python-serialize"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        remedy: what to do; empty when all is well.
    """

    check: str
    level: Level
    message: str
    remedy: str = ""


@click.command(short_help="Is this application set up so that the guarantees hold?")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.pass_obj
def doctor(environment: Environment, as_json: bool) -> None:
    """Look at an application's settings, its Redis, its database and its task declarations.

    Changes nothing. Exit codes: 0 nothing wrong (there may be warnings), 1 an error was found,
    2 usage.

    \b
    Example:
      governor -A proj doctor
    """
    findings = list(examine(environment))
    failed = any(finding.level == "error" for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "findings": [asdict(f) for f in findings]}))
    else:
        _show(findings)
    raise SystemExit(1 if failed else 0)


def examine(environment: Environment) -> Iterator[Finding]:
    """Every finding, in the order in which a person would mend them."""
    governor = environment.governor()
    try:
        settings = governor.settings
    except GovernorError as exc:
        problem, _, remedy = str(exc).partition(". ")
        yield Finding("settings", "error", problem, remedy)
        return
    yield Finding("settings", "ok", "every governor_* setting can be used")
    checks: list[Callable[[], Iterator[Finding]]] = [
        lambda: _tasks(governor),
        lambda: _serializers(governor),
        lambda: _visibility(governor, settings),
        lambda: _redis(settings),
        lambda: _permissions(settings),
        lambda: _upstreams(governor),
        lambda: _parking(governor, settings),
        lambda: _database(environment),
        lambda: _spill(settings),
        lambda: _starts(environment),
    ]
    for check in checks:
        yield from check()


def _tasks(governor: Governor) -> Iterator[Finding]:
    governed = 0
    try:
        governor.app.loader.import_default_modules()
        names = sorted(governor.app.tasks)
        known = governor.upstreams
    except GovernorError as exc:
        yield Finding("tasks", "error", str(exc), "Correct the declaration")
        return
    for name in names:
        try:
            governance = governor.governance(name)
        except GovernorError as exc:
            yield Finding("tasks", "error", f"{name}: {exc}", "Correct the declaration")
            continue
        if governance is None:
            continue
        governed += 1
        if not governance.plan.limits:
            yield Finding(
                "tasks", "warning",
                f"{name}: upstream {governance.plan.upstream.name} has no limit",
                "Declare one, or it is only paused by Retry-After",
            )  # fmt: skip
    if governed:
        yield Finding("tasks", "ok", f"{governed} governed task types, {len(known)} upstreams")
    else:
        yield Finding(
            "tasks", "warning", "no task type is governed",
            "Declare base=GovernedTask and upstream=…, or set governor_routes",
        )  # fmt: skip


def _serializers(governor: Governor) -> Iterator[Finding]:
    conf = governor.app.conf
    accepted = {str(content) for content in conf.accept_content or ()}
    if accepted & _PICKLES or conf.task_serializer in _PICKLES:
        yield Finding(
            "serializers", "error",
            "pickle is accepted: whoever can write to the broker, or to the dead letters that are "
            "replayed, runs code in your workers",
            'Set task_serializer="json" and accept_content=["json"]',
        )  # fmt: skip
    else:
        yield Finding("serializers", "ok", f"{', '.join(sorted(accepted))} accepted, no pickle")


def _visibility(governor: Governor, settings: Settings) -> Iterator[Finding]:
    conf = governor.app.conf
    countdown = settings.max_countdown / SECOND
    if not is_redis(conf):
        yield Finding(
            "broker", "ok",
            f"countdowns are at most {countdown:g} s; keep RabbitMQ's consumer_timeout above twice "
            "that",
        )  # fmt: skip
        return
    visible = settings_.visibility_timeout(conf)
    limits = [task.time_limit or conf.task_time_limit for task in governor.app.tasks.values()
              if governor.governance(str(task.name)) is not None]  # fmt: skip
    longest = max((float(limit) for limit in limits if limit), default=0.0)
    if longest + countdown > visible:
        yield Finding(
            "visibility timeout", "error",
            f"{visible:g} s is less than the longest countdown ({countdown:g} s) and time limit "
            f"({longest:g} s) together: a task could be delivered again while it runs",
            "Raise broker_transport_options['visibility_timeout'] or lower "
            "governor_max_countdown",
        )  # fmt: skip
    else:
        yield Finding("visibility timeout", "ok", f"{visible:g} s, countdowns {countdown:g} s")


@contextmanager
def _client(settings: Settings) -> Iterator[redis.Redis]:
    connections = pool(settings.redis_url, max(settings.timeout / SECOND, 1.0))
    try:
        yield redis.Redis(connection_pool=connections)
    finally:
        connections.disconnect()


def _redis(settings: Settings) -> Iterator[Finding]:
    try:
        with _client(settings) as client:
            server: Any = client.info("server")
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
    version = str(server.get("redis_version", "0"))
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


def _permissions(settings: Settings) -> Iterator[Finding]:
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


def _upstreams(governor: Governor) -> Iterator[Finding]:
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


def _parking(governor: Governor, settings: Settings) -> Iterator[Finding]:
    """Whether what is parked in the limiter's Redis is safe there."""
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


def _database(environment: Environment) -> Iterator[Finding]:
    try:
        engine = bounded_engine(environment.database_url())
        try:
            state = schema.check(engine)
        finally:
            engine.dispose()
    except GovernorError as exc:
        yield Finding(
            "database", "error", str(exc),
            "Start it, or correct governor_database_url; dead letters are spilled to disk until "
            "then",
        )  # fmt: skip
        return
    if state.good:
        yield Finding("database", "ok", f"revision {state.current}")
    else:
        found = "; ".join(state.drift) or f"it is at revision {state.current or 'none'}"
        remedy = " ".join(schema.remedies(state))
        yield Finding("database", "error", found, remedy)


def _spill(settings: Settings) -> Iterator[Finding]:
    folder = Path(settings.spill_dir).absolute()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if os.access(nearest, os.W_OK):
        yield Finding("spill", "ok", f"{folder} can be written")
    else:
        yield Finding(
            "spill", "error", f"{folder} cannot be written",
            "Set governor_spill_dir to a folder that survives the worker",
        )  # fmt: skip
        return
    backlog = Spill(folder, redact=str).backlog()
    if backlog.pending:
        yield Finding(
            "spill", "warning", f"{backlog.pending} dead letters wait on disk for the database",
            "governor dead drain-spill, once the database answers",
        )  # fmt: skip
    if backlog.refused or backlog.broken:
        yield Finding(
            "spill", "error",
            f"{backlog.refused} dead letters that the database refuses, and {backlog.broken} files "
            f"that cannot be read, are set aside in {folder}",
            "governor dead drain-spill says why",
        )  # fmt: skip


def _starts(environment: Environment) -> Iterator[Finding]:
    """Check that bodies start in time, by the workers' answers; find nothing if none answers."""
    try:
        replies = environment.ask_workers(STARTS, {}, _ANSWERS)
    except Exception as exc:  # noqa: BLE001 - whatever the broker's client raises
        # Its text may hold the broker's password.
        yield Finding(
            "worker starts", "warning", f"the workers could not be asked ({type(exc).__name__})",
            "Start the broker, or correct broker_url",
        )  # fmt: skip
        return
    told = {
        name: starts for reply in replies for name, starts in reply.items()
        if isinstance(starts, dict) and "starts" in starts
    }  # fmt: skip
    late = {name: starts for name, starts in sorted(told.items()) if starts["starts"]}
    for name, starts in late.items():
        yield Finding(
            "worker starts", "warning",
            f"{name}: {starts['starts']} bodies started late, the last one "
            f"{starts['last'] // 1_000} ms after its slot; the grace is "
            f"{starts['grace'] // 1_000} ms",
            REMEDY,
        )  # fmt: skip
    if told and not late:
        yield Finding("worker starts", "ok", f"in time in all {len(told)} workers that answered")


def _show(findings: list[Finding]) -> None:
    styles: dict[Level, str] = {"ok": "green", "warning": "yellow", "error": "bold red"}
    table = Table("check", "", "found", "remedy", box=None, pad_edge=False)
    for finding in findings:
        table.add_row(
            finding.check,
            Text(finding.level, style=styles[finding.level]),
            Text(finding.message),
            Text(finding.remedy),
        )
    Console(width=None).print(table)
