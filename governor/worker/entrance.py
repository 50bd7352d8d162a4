"""Where messages come into the worker: each is looked at once, and what Celery or the governor
cannot work with becomes a dead letter before Celery lets it go.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from celery.exceptions import InvalidTaskError

from governor.log_lines import LOG
from governor.ports import Reason
from governor.worker.body_results import RUN_KEY
from governor.worker.delays import ON_THE_WAY
from governor.worker.dispatcher import Dispatcher
from governor.worker.envelopes import read_any_envelope
from governor.worker.event_loop import guarded
from governor.worker.message_check import problem_of
from governor.worker.routes import mark_queues


class _Withheld:
    """A message as Celery's log may show it: without its body and its arguments."""

    def __init__(self, message: Any) -> None:
        self._message = message
        body, headers = message.body, message.headers
        size = f"{len(body)} bytes" if isinstance(body, (bytes, str)) else type(body).__name__
        self.body = f"<{size}, kept in the dead letter>"
        self.headers = headers
        if isinstance(headers, dict):
            hidden = {"argsrepr", "kwargsrepr"}
            self.headers = {key: headers[key] for key in headers if key not in hidden}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)


def capture_messages(consumer: Any, dispatcher: Dispatcher) -> None:
    """Put the entrance into a consumer: it looks at each message, and messages that never become a
    request get their dead letter before Celery lets them go."""
    _record(consumer, dispatcher, "on_unknown_task", Reason.UNKNOWN_TASK,
            lambda _, m, exc: (m, exc), lambda _, m, exc: (None, m, exc))  # fmt: skip
    _record(consumer, dispatcher, "on_invalid_task", Reason.INVALID_MESSAGE,
            lambda _, m, exc: (m, exc), lambda _, m, exc: (None, m, exc))  # fmt: skip
    _record(consumer, dispatcher, "on_unknown_message", Reason.INVALID_MESSAGE,
            lambda _, m: (m, None), lambda _, m: (None, m))  # fmt: skip
    _record(consumer, dispatcher, "on_decode_error", Reason.UNDECODABLE,
            lambda m, exc: (m, exc), lambda m, exc: (m, exc))  # fmt: skip
    _look_at_each(consumer, dispatcher)


def _record(  # noqa: PLR0917 - one hook of Celery's
    consumer: Any,
    dispatcher: Dispatcher,
    name: str,
    reason: Reason,
    find: Callable[..., tuple[Any, BaseException | None]],
    hand_on: Callable[..., tuple[Any, ...]],
) -> None:
    """Write the dead letter before one of Celery's hooks, which log a message and reject it.

    Args:
        find: the message and the error among the hook's arguments.
        hand_on: what Celery's hook is called with: no decoded body, which it would log.
    """
    celery = getattr(consumer, name)

    def captured(*args: Any) -> None:
        message, exc = find(*args)

        def written() -> None:
            shown = [_Withheld(arg) if arg is message else arg for arg in hand_on(*args)]
            guarded(partial(celery, *shown))
            if not message.acknowledged:
                # The hook failed on what it wanted to log or to store.
                message.reject_log_error(LOG, consumer.connection_errors)

        dispatcher.on_loop(
            partial(dispatcher.dead_letter_writer.hold_message, message, reason, exc, written)
        )

    setattr(consumer, name, captured)


def _look_at_each(consumer: Any, dispatcher: Dispatcher) -> None:
    create = consumer.create_task_handler

    def create_task_handler(*args: Any, **kwargs: Any) -> Callable[[Any], None]:
        handle = create(*args, **kwargs)
        # Celery makes its handler before it consumes, on each connection.
        mark_queues(consumer.task_consumer.channel)
        read_any_envelope(consumer.task_consumer.channel)
        known = consumer.strategies
        zone = consumer.app.timezone

        def received(message: Any) -> None:
            problem = problem_of(message, known, zone)
            if problem is not None:
                consumer.on_invalid_task(None, message, InvalidTaskError(problem))
                return
            # Only the worker that runs a task says this, not one that has copied its headers.
            message.headers.pop(RUN_KEY, None)
            if message.delivery_info.get("exchange") in ON_THE_WAY:
                guarded(partial(dispatcher.publishing.delays.restore, message))
            try:
                handle(message)
            except consumer.connection_errors:
                raise
            except Exception as exc:
                # The check has missed something, and Celery lets it out: the message would be gone.
                if message.acknowledged:
                    raise
                LOG.exception("A message was not made a request")
                consumer.on_invalid_task(None, message, exc)

        return received

    consumer.create_task_handler = create_task_handler
