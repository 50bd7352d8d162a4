"""Requests as they come from Celery: what is known of a delivery, and the call it asks for."""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import Any

from governor.admission.call import Admission, Call, charges_of
from governor.errors import DeclarationError
from governor.events import TaskReleased
from governor.governor import Governor
from governor.keys import body_id
from governor.messages.header import Header
from governor.messages.message import copy_of
from governor.policy.decision import ClaimAsk
from governor.policy.parking_values import Ticket
from governor.ports import Reason
from governor.worker.event_loop import guarded
from governor.worker.lifecycle import Lifecycle
from governor.worker.parked_message import ParkedMessage
from governor.worker.parking_in import ParkingIn
from governor.worker.recorder import Recorder
from governor.worker.request import Delivery, GovernedRequest


class Reception:
    """Reception of one worker's requests.

    Args:
        identity: names this worker in claims and leases.

    Attributes:
        epoch: number of the broker connection, counted from 0.
    """

    def __init__(
        self,
        governor: Governor,
        lifecycle: Lifecycle,
        recorder: Recorder,
        parking_in: ParkingIn,
        identity: str,
    ) -> None:
        self._governor = governor
        self._settings = governor.settings
        self._clock = governor.clock
        self._lifecycle = lifecycle
        self._recorder = recorder
        self._parking_in = parking_in
        self._identity = identity
        self.epoch = 0
        self._delivery = count()

    def note(self, request: GovernedRequest) -> Ticket | None:
        """Note what this delivery is called, and when and on which connection it came.

        Returns:
            what the request was released from the parking lot with, if it is to run.
        """
        message = request.message
        token = f"{self._identity}.{next(self._delivery)}"
        ticket = None
        if isinstance(message, ParkedMessage) and not message.adopted:
            ticket = message.ticket
            token = ticket.holder or token
        request.delivery = Delivery(token, self.epoch, self._clock.monotonic())
        return ticket

    def call_of(self, request: GovernedRequest) -> Call | None:
        """Build the request's call.

        Returns:
            ``None`` if its arguments are unusable; it has then been dead-lettered.
        """
        try:
            call = self._made(request)
        except DeclarationError as exc:
            self._recorder.bury(request, Reason.INVALID_MESSAGE, str(exc))
            return None
        if call is not None and self._lifecycle.events.listeners:
            guarded(partial(self._tell_released, request, call))
        return call

    def _made(self, request: GovernedRequest) -> Call | None:
        if not isinstance(request.args, (list, tuple)) or not isinstance(request.kwargs, dict):
            why = "its arguments are no list and mapping"
            self._recorder.bury(request, Reason.INVALID_MESSAGE, why)
            return None
        governance = self._governor.governance(request.task.name)
        assert governance is not None
        header = Header.from_message(request.request_dict)
        if header.mid is None:
            header = header._replace(mid=body_id(copy_of(request.message).body))
        assert header.mid is not None
        plan = governance.plan
        if plan.upstream.reserve and _priority(request.message) not in plan.upstream.urgent:
            plan = plan.leaving_reserve()
        charges = charges_of(plan, header, request.args, request.kwargs)
        token = request.delivery.token
        claim = None
        if not governance.idempotent:
            claim = ClaimAsk(
                request.id, int(request.request_dict.get("retries") or 0), header.mid,
                token, self._settings.claim_lease, self._settings.claim_keep,
            )  # fmt: skip
        lane, key = self._parking_in.lane_of(
            plan, charges, header, request.message, request.args, request.kwargs
        ) or (None, None)
        request.lane = lane
        request.call = Call(plan, charges, header, claim, token, key)
        return request.call

    def _tell_released(self, request: GovernedRequest, call: Call) -> None:
        message = request.message
        if isinstance(message, ParkedMessage):
            now = self._governor.admission.store_clock.of_store(
                call.upstream, self._clock.monotonic()
            )
            first = call.header.first or message.ticket.since
            waited = max(now - first, 0) if now is not None and first else 0
            self._lifecycle.tell(request, TaskReleased, waited, message.ticket.late)

    def redeem(self, request: GovernedRequest, call: Call, ticket: Ticket) -> bool:
        """Take up what a task was released from the parking lot with: its limits are charged, only
        its claim is not taken.

        Returns:
            whether it may run; otherwise its end is on its way.
        """
        if call.header.first is None:
            give_up_at = ticket.since + call.plan.upstream.max_wait
            call.header = call.header._replace(first=ticket.since, give_up_at=give_up_at)
        if ticket.late:
            if not request.revoked():
                why = request.message.why_late
                self._recorder.bury(request, Reason.DEFERRAL_BUDGET_EXHAUSTED, why)
            return False
        call.version = self._governor.admission.in_force.version(call.upstream)
        call.slot = request.message.slot
        call.full = ticket.full
        call.had_turn = True
        call.admission = Admission(call.leases, ticket.probe)
        call.covered = call.claim is None
        call.header = call.header._replace(reserved=call.paid_at(ticket.slot))
        return True


def _priority(message: Any) -> int:
    return int((message.properties or {}).get("priority") or 0)
