"""What a governed body does in a worker: starts only in time, and never takes the worker along."""

from __future__ import annotations

import pickle
from asyncio import CancelledError
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from governor import GovernedTask, Governor, Limit, Throttled, Upstream
from governor.errors import BodyDied
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock
from governor.worker.body_results import NotNow


def run(body: Callable[[], Any], *, late: int = 0) -> Any:
    """Run ``body`` as a worker's pool would, ``late`` microseconds after its slot's grace."""
    clock = FakeClock()
    app = Celery("app", broker="memory://", set_as_current=False)
    app.conf.governor_redis_url = "redis://unused"
    Governor(app, clock=clock, store=MemoryStore(clock.wall))
    task = app.task(shared=False, base=GovernedTask, upstream=Upstream("api", Limit("1/s")))(body)
    admitted = {"until": clock.monotonic() - late, "began": clock.wall(), "throttles": 0}
    task.push_request(called_directly=False, is_eager=False, retries=0, governor_run=admitted)
    try:
        return task.run()
    finally:
        task.pop_request()
        app.close()


def test_a_body_in_time_runs() -> None:
    """At the last microsecond of the grace the body runs."""

    def call() -> str:
        return "done"

    assert run(call) == "done"


def test_a_body_that_is_late_does_not_call() -> None:
    """One microsecond later it gives way, and the dispatcher asks for another admission."""

    def call() -> None:
        raise AssertionError

    with pytest.raises(NotNow) as caught:
        run(call, late=1)
    assert caught.value.pause is None


def raising(exc: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise exc

    return body


# what the body raises, what the worker's main process is told
ENDS: list[tuple[BaseException, type[BaseException]]] = [
    # Celery would raise it again in the main process
    (MemoryError(), BodyDied),
    # a body that exits would leave a thread's task STARTED for ever
    (SystemExit(3), BodyDied),
    # no pool of threads or greenlets tells anybody of these
    (KeyboardInterrupt(), BodyDied),
    (CancelledError(), BodyDied),
    (GeneratorExit(), BodyDied),
    # billiard ends this process from outside: not the body's doing
    (SystemExit(-241), SystemExit),
    # the upstream said "not now"
    (Throttled(retry_after=2), NotNow),
    # an ordinary failure of a task that is not idempotent
    (ValueError("no"), ValueError),
]


@pytest.mark.parametrize(("exc", "told"), ENDS)
def test_how_a_body_ends(exc: BaseException, told: type[BaseException]) -> None:
    """Each end of a body becomes what the main process can act on."""
    with pytest.raises(told):
        run(raising(exc))


def test_an_app_cannot_have_governed_tasks_acknowledged_otherwise() -> None:
    """Settings of the whole app do not change when a governed task is acknowledged, nor have
    Celery run it again: the governor decides both."""
    app = Celery("settings", set_as_current=False)
    app.conf.update(
        task_acks_late=False, task_acks_on_failure_or_timeout=False, task_acks_on_failure=False,
        task_acks_on_timeout=False, task_reject_on_worker_lost=True, task_retry_on_worker_lost=True,
    )  # fmt: skip
    Governor(app, store=MemoryStore(FakeClock().monotonic))

    @app.task(base=GovernedTask, upstream=Upstream("api", Limit("1/s")), shared=False)
    def call() -> None: ...

    assert call.acks_late
    assert call.acks_on_failure
    assert call.acks_on_timeout
    assert call.acks_on_failure_or_timeout
    assert not call.reject_on_worker_lost
    assert not call.retry_on_worker_lost


def test_a_throttled_body_says_for_how_long() -> None:
    """Retry-After reaches the main process in microseconds."""
    with pytest.raises(NotNow) as caught:
        run(raising(Throttled(retry_after=2)))
    assert caught.value.pause == 2_000_000


def test_what_a_body_tells_keeps_no_arguments_alive() -> None:
    """Once it has been sent, its traceback, and with it the arguments, are let go at once."""
    with pytest.raises(NotNow) as caught:
        run(raising(NotNow(late=5)))
    sent = pickle.loads(pickle.dumps(caught.value))
    assert (sent.pause, sent.wait, sent.late) == (None, None, 5)
    assert caught.value.__traceback__ is None
