"""Celery's request of a governed task, with our decisions between an end and its
acknowledgement.

Celery overrides ``execute_using_pool`` and ``on_success`` again in a class it makes from this
one, so what must be seen is caught where those end: in ``acknowledge`` and ``on_failure``.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from celery.worker.request import Request
from kombu.utils.imports import symbol_by_name

from governor.admission.call import Call
from governor.clock import as_datetime
from governor.errors import DeclarationError
from governor.policy.parking_values import Lane
from governor.worker.event_loop import guarded
from governor.worker.lifecycle import WAITING, RequestState


class Delivery(NamedTuple):
    """One delivery of a message to this worker.

    Attributes:
        token: names it in claims and leases.
        epoch: the broker connection it came on.
        received: when it came, in monotonic microseconds.
    """

    token: str = ""
    epoch: int = 0
    received: int = 0


class GovernedRequest(Request):  # type: ignore[misc]
    """Request whose end the dispatcher hears of before the broker does.

    Attributes:
        state: where it is; changed by :class:`~governor.worker.lifecycle.Lifecycle` alone.
        call: its admission, once the dispatcher has seen it.
        delivery: how it came, once the dispatcher has seen it.
        lane: where it waits when it must wait long.
        stumbles: steps of its life that failed.
    """

    state: RequestState = RequestState.RECEIVED
    call: Call | None = None
    delivery: Delivery = Delivery()
    lane: Lane | None = None
    stumbles: int = 0

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> None:
        def celery(info: Any = exc_info) -> None:
            super(GovernedRequest, self).on_failure(info, send_failed_event, return_ok)

        dispatcher = self._dispatcher()
        if dispatcher is None:
            celery()
        else:
            dispatcher.on_loop(partial(dispatcher.completion.failed, self, exc_info, celery))

    def on_timeout(self, soft: bool, timeout: float) -> None:
        celery = partial(super().on_timeout, soft, timeout)
        dispatcher = self._dispatcher()
        if soft or dispatcher is None:
            celery()
        else:
            dispatcher.on_loop(partial(dispatcher.completion.timed_out, self, timeout, celery))

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        celery = partial(super()._announce_revoked, reason, terminated, signum, expired)
        dispatcher = self._dispatcher()
        if dispatcher is None:
            celery()
            return
        # Celery asks again and again whether it is revoked; the answer must be yes already.
        self._already_revoked = True
        dispatcher.on_loop(partial(dispatcher.completion.revoked, self, expired, celery))

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        super().on_accepted(pid, time_accepted)
        dispatcher = self._dispatcher()
        if dispatcher is not None and dispatcher.lifecycle.events.listeners:
            guarded(partial(dispatcher.handover.started, self, time_accepted))

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Describe it for Celery's ``inspect``, with its state here and what it waits for."""
        found: dict[str, Any] = super().info(safe)
        call, dispatcher = self.call, self._dispatcher()
        if call is not None and dispatcher is not None:
            waits = self.state in WAITING
            slot = call.slot if waits else None
            until = None if slot is None else dispatcher.lifecycle.wall_of(slot)
            found["governor"] = {
                "state": self.state.value,
                "upstream": call.upstream,
                "limit": call.limit if waits else None,
                "until": None if until is None else as_datetime(until).isoformat(),
                "deferrals": call.header.deferrals,
            }
        return found

    def acknowledge(self) -> None:
        dispatcher = self._dispatcher()
        if dispatcher is not None and self.state is RequestState.RUNNING and not self.acknowledged:
            # Nothing else acknowledges a request that runs: its body returned.
            guarded(dispatcher.completion.succeeded, self)
        super().acknowledge()

    def _dispatcher(self) -> Any:
        return getattr(self._app.governor, "dispatcher", None)


def governed_request(task: Any) -> type[GovernedRequest]:
    """Make the class of a governed task's requests. One that the task declares is kept behind ours,
    so that what it overrides is called where Celery would call it.

    Raises:
        DeclarationError: it is no class of requests.
    """
    own = symbol_by_name(task.Request)  # type: ignore[no-untyped-call]
    if not (isinstance(own, type) and issubclass(own, Request)):
        raise DeclarationError(
            "Request", f"task {task.name} declares {own!r}, which is no class of requests",
            "Derive it from celery.worker.request.Request",
        )  # fmt: skip
    if issubclass(own, GovernedRequest):
        return own
    if own is Request:
        return GovernedRequest
    return type(own.__name__, (GovernedRequest, own), {})
