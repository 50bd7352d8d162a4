"""A message that comes out of the parking lot, as Celery sees messages: it is handed to the worker
like any other, and acknowledging or rejecting it is told to the lot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from kombu.message import Message

from governor.messages.message import QUEUE
from governor.policy.parking_values import Ticket
from governor.ports import MessageCopy

End = Literal["left", "back"]


class ParkedMessage(Message):
    """A released message.

    Args:
        slot: monotonic microseconds at which it may go.
        accept: content types that the worker decodes.
        end: told once what becomes of it: it has ``left``, or goes ``back`` to its lane.

    Attributes:
        ticket: what it was released with, without the payload.
        adopted: it was taken out of a lane that nobody releases any more, and is not admitted.
        unclaimed: the queue it came from, which the worker does not consume that found it beyond
            its time.
    """

    def __init__(  # noqa: PLR0917 - made in one place
        self, copy: MessageCopy, upstream: str, ticket: Ticket, slot: int, accept: Any,
        end: Callable[[ParkedMessage, End], None], *, adopted: bool = False, unclaimed: str = "",
    ) -> None:  # fmt: skip
        headers = dict(copy.headers)
        # Its time has come; and its body is not compressed here.
        headers.pop("eta", None)
        compression = headers.pop("compression", None)
        super().__init__(  # type: ignore[no-untyped-call]
            body=copy.body,
            delivery_tag=ticket.entry,
            content_type=copy.properties.get("content_type"),
            content_encoding=copy.properties.get("content_encoding"),
            delivery_info={
                "exchange": copy.exchange, "routing_key": copy.routing_key, QUEUE: copy.queue,
                "redelivered": False,
            },
            properties=dict(copy.properties),
            headers=headers,
            accept=accept,
        )  # fmt: skip
        if compression is not None:
            self.headers["compression"] = compression
        self.upstream = upstream
        # Its payload is the message once more, as large as that.
        self.ticket = replace(ticket, payload=b"")
        self.slot = slot
        self.adopted = adopted
        self.unclaimed = unclaimed
        self._end = end

    @property
    def why_late(self) -> str:
        """Say in the dead letter why a message that was parked too long did not run."""
        said = "it was parked beyond max_wait"
        if not self.unclaimed:
            return said
        return (
            f"{said}: no worker that consumes the queue {self.unclaimed!r} released it. "
            "To run its tasks, let a worker consume it"
        )

    def moved(self) -> None:
        """Note that the task waits in the lot again: acknowledging means nothing more."""
        self._state = "REQUEUED"

    def ack(self, multiple: bool = False) -> None:
        self._ended("ACK", "left")

    def reject(self, requeue: bool = False) -> None:
        self._ended("REJECTED", "back" if requeue else "left")

    def requeue(self) -> None:
        self._ended("REQUEUED", "back")

    def ack_log_error(self, logger: Any, errors: Any, multiple: bool = False) -> None:
        self.ack()

    def reject_log_error(self, logger: Any, errors: Any, requeue: bool = False) -> None:
        self.reject(requeue)

    def _ended(self, state: str, end: End) -> None:
        if not self.acknowledged:
            self._state = state
            self._end(self, end)
