"""Delivery of tasks from the parking lots to Celery, as if they came from the broker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from kombu.serialization import prepare_accept_content

from governor.clock import Clock
from governor.log_lines import LOG
from governor.messages.message import unpack
from governor.policy.parking_values import Ticket
from governor.ports import MessageCopy
from governor.worker.event_loop import guarded
from governor.worker.known_lot import KnownLot
from governor.worker.parked_message import End, ParkedMessage


class ParkingDelivery:
    """Delivery for one worker, on its loop.

    Args:
        lots: those that it releases from, by upstream.
        ended: called with each message and what became of it.
        renew_later: called when a lease has to be renewed from now on.
    """

    def __init__(
        self,
        consumer: Any,
        clock: Clock,
        lots: Mapping[str, KnownLot],
        ended: Callable[[ParkedMessage, End], None],
        renew_later: Callable[[], None],
    ) -> None:
        self._consumer = consumer
        self._clock = clock
        self._lots = lots
        self._ended = ended
        self._renew_later = renew_later
        self._handler: Callable[[Any], None] | None = None
        self._accept = prepare_accept_content(  # type: ignore[no-untyped-call]
            consumer.app.conf.accept_content
        )

    def begin(self) -> None:
        """Take Celery's handler of messages, which is new on each connection."""
        self._handler = self._consumer.create_task_handler()

    def deliver_now(
        self, upstream: str, ticket: Ticket, *, adopted: bool = False, unclaimed: str = ""
    ) -> None:
        """Deliver a task that was taken out for another reason than to run: it is due now."""
        guarded(
            partial(
                self.deliver, self._lots[upstream], ticket, self._clock.monotonic(),
                adopted=adopted, unclaimed=unclaimed,
            )
        )  # fmt: skip
        self._renew_later()

    def deliver(
        self,
        lot: KnownLot,
        ticket: Ticket,
        slot: int,
        *,
        adopted: bool = False,
        unclaimed: str = "",
    ) -> None:
        """Hand a released task to Celery, whose slot is at monotonic microseconds ``slot``."""
        if ticket.entry:
            lot.out[ticket.entry] = None
        try:
            self._hand_over(lot.upstream.name, ticket, slot, adopted=adopted, unclaimed=unclaimed)
        except Exception:
            LOG.exception("Task %s was released from the lot of %s, and goes back to it",
                           ticket.entry, lot.upstream.name)  # fmt: skip
            # Not renewed: its lease runs out.
            lot.silent.add(ticket.entry)

    def _hand_over(
        self, upstream: str, ticket: Ticket, slot: int, *, adopted: bool, unclaimed: str
    ) -> None:
        made = partial(
            ParkedMessage, upstream=upstream, ticket=ticket, slot=slot, accept=self._accept,
            end=self._ended, adopted=adopted, unclaimed=unclaimed,
        )  # fmt: skip
        try:
            message = made(unpack(ticket.payload))
        except ValueError as exc:
            # Its dead letter has the bytes.
            self._consumer.on_decode_error(made(MessageCopy(ticket.payload, {}, {}, "", "")), exc)
            return
        assert self._handler is not None
        self._handler(message)
