"""Admitted requests on their way into the pool."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from celery.worker.state import task_ready

from governor.admission.call import Call
from governor.clock import micros
from governor.events import TaskAdmitted, TaskStarted
from governor.governor import Governor
from governor.log_lines import LOG
from governor.policy.settlement import ClaimAction, Settlement
from governor.worker.body_results import RUN_KEY
from governor.worker.event_loop import guarded
from governor.worker.lateness import Lateness
from governor.worker.lifecycle import Lifecycle, RequestState
from governor.worker.ownership import Ownership
from governor.worker.pool import PoolSlots
from governor.worker.recorder import Recorder
from governor.worker.request import GovernedRequest


class Handover:
    """Handover of one worker's admitted requests to its pool."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        governor: Governor,
        consumer: Any,
        slots: PoolSlots,
        lifecycle: Lifecycle,
        recorder: Recorder,
        ownership: Ownership,
        lateness: Lateness,
    ) -> None:
        self._settings = governor.settings
        self._clock = governor.clock
        self._lease_renewal = governor.lease_renewal
        self._store_clock = governor.admission.store_clock
        self._consumer = consumer
        self._slots = slots
        self._lifecycle = lifecycle
        self._recorder = recorder
        self._ownership = ownership
        self._lateness = lateness
        # Claims whose body has not begun, as far as is known: no more of them than slots.
        self._handed_on: list[tuple[GovernedRequest, Any]] = []

    def in_time(self, call: Call, now: int) -> bool:
        """Tell whether an admitted call may still be handed over. Many may wait for a pool slot,
        and all as late, so the way into the pool excuses none of that."""
        return now <= self._good_until(call)

    def _good_until(self, call: Call) -> int:
        """Say until when, in monotonic microseconds, a slot is good: however late the second time,
        but well before its claim may have run out."""
        assert call.slot is not None
        latest = self._settings.latest
        good = latest if call.late else max(self._settings.grace, call.leeway)
        return call.slot + (good if call.claim is None else min(good, latest))

    def _starts_until(self, call: Call, now: int) -> int:
        """Say until when, in monotonic microseconds, the body of a call handed over ``now`` may
        start."""
        assert call.slot is not None
        until = self._good_until(call)
        if call.late:
            return until
        until = max(until, now + self._lateness.allowed(now))
        return until if call.claim is None else min(until, call.slot + self._settings.latest)

    def prepare(self, request: GovernedRequest, call: Call, since: int) -> None:
        """Tell the body what it has to know of its admission, and keep alive what it holds. The
        decision began at monotonic microseconds ``since``."""
        now = self._clock.monotonic()
        request.request_dict[RUN_KEY] = {
            "handed": now,
            "until": self._starts_until(call, now),
            "began": call.header.began or self._clock.wall(),
            "throttles": call.header.throttles,
            "leaves_reserve": bool(call.plan.held_back),
        }
        leases = () if call.admission is None else call.admission.leases
        if call.claim is not None or leases:
            self._lease_renewal.add(
                Settlement(
                    call.upstream, call.holder, ClaimAction.RENEW, call.claim, leases,
                    self._settings.claim_lease,
                )
            )  # fmt: skip
        if self._lifecycle.events.listeners:
            guarded(partial(self._tell_admission, request, call, now - since, now))

    def _tell_admission(self, request: GovernedRequest, call: Call, took: int, at: int) -> None:
        header, said = call.header, request.request_dict
        now = self._store_clock.of_store(call.upstream, at)
        waited = 0 if now is None or header.first is None else max(now - header.first, 0)
        trace = said.get("traceparent")
        self._lifecycle.tell(
            request, TaskAdmitted, int(said.get("retries") or 0), waited, header.deferrals,
            call.limit or header.limit or "", trace if isinstance(trace, str) else "",
            header.replay_of or "", took,
        )  # fmt: skip

    def run(self, request: GovernedRequest) -> None:
        """Give a request to the pool; our pool slot is its from now on."""
        ours = True
        try:
            self._lifecycle.move(request, RequestState.RUNNING)
            ours = False
            self._slots.run(request)
        except Exception as exc:
            LOG.exception("Task %s[%s]: the pool does not take it", request.name, request.id)
            if ours:
                self._slots.give_back()
            self._ownership.step(request, self._refused, exc)
        else:
            if request.call is not None and request.call.claim is not None:
                guarded(partial(self._remember, request))

    def started(self, request: GovernedRequest, accepted: float) -> None:
        """Tell listeners that the pool has begun a request, at monotonic seconds ``accepted``; from
        any thread."""
        if (call := request.call) is not None and call.slot is not None:
            late = max(micros(accepted) - call.slot, 0)
            self._lifecycle.tell(request, TaskStarted, late)

    def _refused(self, request: GovernedRequest, exc: Exception) -> None:
        """Let a request wait that the pool refused, and whose body therefore did not begin."""
        self._recorder.settle(request, ClaimAction.RELEASE)
        request.request_dict.pop(RUN_KEY, None)
        self._ownership.try_again(request, f"the pool cannot be given it: {type(exc).__name__}")

    def run_ungoverned(self, request: Any) -> None:
        """Give a request of Celery's own to the pool; one that it refuses is a dead letter."""
        try:
            self._slots.run(request)
        except Exception as exc:
            LOG.exception("Task %s[%s]: the pool does not take it", request.name, request.id)
            if request.time_start is None and not request.acknowledged:
                guarded(partial(task_ready, request))
                guarded(partial(self._consumer.on_invalid_task, None, request.message, exc))

    def _remember(self, request: GovernedRequest) -> None:
        """Remember the pool's job of a claim whose body has not begun, as far as is known."""
        job = None if request._apply_result is None else request._apply_result()
        self._handed_on = [
            held for held in self._handed_on
            if held[0].time_start is None and held[0].state is RequestState.RUNNING
        ]  # fmt: skip
        self._handed_on.append((request, job))

    def take_unwritten(self) -> Iterator[GovernedRequest]:
        """Forget the claims handed on; yield those whose job no pool process was given.

        With a lost connection Celery empties the queue of a pool of processes. What was written to
        none of them made no call, and another delivery may claim it. Threads and greenlets have
        begun.
        """
        handed_on, self._handed_on = self._handed_on, []
        for request, job in handed_on:
            written = job is None or getattr(job, "_write_to", job) is not None
            if request.state is RequestState.RUNNING and not written:
                yield request
