"""The application: its declarations, its serializers, its broker's visibility timeout."""

from __future__ import annotations

from collections.abc import Iterator

from governor import settings as settings_
from governor.cli.doctor.finding import Finding
from governor.clock import SECOND
from governor.errors import GovernorError
from governor.governor import Governor
from governor.redis_address import is_redis
from governor.settings import Settings

_PICKLES = {"pickle", "application/x-python-serialize"}


def tasks(governor: Governor) -> Iterator[Finding]:
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


def serializers(governor: Governor) -> Iterator[Finding]:
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


def visibility(governor: Governor, settings: Settings) -> Iterator[Finding]:
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
