"""Starts what the settings ask for, in a worker's main process. Each backend is imported when it is
used, so that its package need not be there otherwise."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from functools import partial

from governor.errors import ConfigurationError
from governor.events import Emitter
from governor.settings import PREFIX, Settings


def begin(
    events: Emitter,
    settings: Settings,
    *,
    redact: Callable[[str], str],
    tasks: Container[str],
    governed: Callable[[], Iterable[tuple[str, str]]],
    waiting: Callable[[], Mapping[str, int]],
) -> Callable[[], None]:
    """Let the backends that are set listen, until what is returned is called.

    Args:
        redact: hides secrets in a text.
        tasks: the registered task types.
        governed: the governed ones, each with its upstream.
        waiting: how many tasks wait in this worker, by upstream.

    Raises:
        ConfigurationError: a package is missing; the error names the extra.
    """
    ends: list[Callable[[], None]] = []
    if settings.log is not None:
        from governor.telemetry.log import EventLog

        ends.append(events.listen(EventLog(settings.log, redact)))
    if settings.tracing:
        try:
            from governor.telemetry.opentelemetry import WaitSpans
        except ModuleNotFoundError as exc:
            raise _missing("tracing", "otel", exc) from exc
        ends.append(events.listen(WaitSpans()))
    if settings.metrics_port is not None:
        try:
            from governor.telemetry.prometheus import Metrics, serve
        except ModuleNotFoundError as exc:
            raise _missing("metrics_port", "prometheus", exc) from exc
        metrics = Metrics(tasks, governed(), waiting)
        ends += [serve(metrics, settings.metrics_port), events.listen(metrics)]
    return partial(_end, ends)


def _end(ends: Iterable[Callable[[], None]]) -> None:
    for end in ends:
        end()


def _missing(setting: str, extra: str, exc: ModuleNotFoundError) -> ConfigurationError:
    return ConfigurationError(
        f"{PREFIX}{setting}: {exc.name} is not installed. "
        f'Run pip install "celery-governor[{extra}]", or leave the setting out'
    )
