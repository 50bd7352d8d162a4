"""Spans for OpenTelemetry: the wait of a task, in the task's own trace.

The trace is that of the message's ``traceparent`` header, which ``opentelemetry-instrumentation-
celery`` writes and every copy of the message keeps: the parked and the deferred one, the next
attempt and the replay.
"""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from governor.events import Event, TaskAdmitted

SPAN = "governor wait"

_TRACE_CONTEXT = TraceContextTextMapPropagator()


class WaitSpans:
    """A listener that makes a span of each wait, when it is over. A task that was admitted at once,
    and one whose message carries no trace, has none.

    Args:
        tracers: where spans go; by default the provider that the process has set up.
    """

    def __init__(self, tracers: trace.TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("governor", tracer_provider=tracers)

    def __call__(self, event: Event) -> None:
        """Make the span of an admission."""
        if not isinstance(event, TaskAdmitted) or not event.traceparent or not event.waited:
            return
        context = _TRACE_CONTEXT.extract({"traceparent": event.traceparent})
        attributes: dict[str, str | int] = {
            "celery.task_name": event.task,
            "messaging.message.id": event.task_id,
            "governor.upstream": event.upstream,
            "governor.limit": event.limit,
            "governor.attempt": event.attempt,
            "governor.deferrals": event.deferrals,
        }
        if event.replay_of:
            attributes["governor.replay_of"] = event.replay_of
        span = self._tracer.start_span(
            SPAN, context, attributes=attributes, start_time=1_000 * (event.at - event.waited)
        )
        span.end(1_000 * event.at)
