"""What is handed to Celery of a task that comes out of a parking lot."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from celery import Celery

from governor import Limit, Upstream
from governor.messages.message import pack
from governor.policy.parking_values import Ticket
from governor.ports import MessageCopy
from governor.testing.clock import FakeClock
from governor.worker.known_lot import KnownLot
from governor.worker.parking_delivery import ParkingDelivery

PARKED = pack(MessageCopy(b"[]", {"id": "t1"}, {}, "", "celery"))


class World:
    """A worker's delivery out of one lot, to a handler of Celery's that writes down messages."""

    def __init__(self) -> None:
        self.clock = FakeClock(5)
        self.handler = Mock()
        self.renew_later = Mock()
        with Celery("app", broker="memory://", set_as_current=False) as app:
            self.consumer = Mock(app=app)
            self.consumer.create_task_handler.return_value = self.handler
            self.lot = KnownLot(Upstream("api", Limit("1/s")))
            self.delivery = ParkingDelivery(
                self.consumer, self.clock, {"api": self.lot}, Mock(), self.renew_later
            )
        self.delivery.begin()

    def ticket(self, entry: str = "t1", payload: bytes | None = PARKED) -> Ticket:
        assert payload is not None
        return Ticket(entry, 0, "", payload, 0)

    def message(self) -> Any:
        ((message,), _) = self.handler.call_args
        return message


@pytest.fixture
def world() -> World:
    """A connected worker."""
    return World()


def test_a_released_task_is_in_the_workers_care(world: World) -> None:
    """It is handed over with its slot, and its lease is renewed from then on."""
    world.delivery.deliver(world.lot, world.ticket(), 77)
    assert world.message().headers["id"] == "t1"
    assert world.message().slot == 77
    assert world.lot.out == {"t1": None}
    assert world.lot.silent == set()


def test_a_task_that_was_taken_out_is_due_now(world: World) -> None:
    """What was adopted, or found beyond its time, says so, and its lease is renewed."""
    world.delivery.deliver_now("api", world.ticket(), unclaimed="slow")
    assert world.message().slot == world.clock.now
    assert world.message().unclaimed == "slow"
    assert world.renew_later.call_count == 1


def test_a_task_without_a_lease_is_in_no_care(world: World) -> None:
    """A revoked task has left its lot: nothing of it is renewed or told."""
    world.delivery.deliver_now("api", world.ticket(entry=""))
    assert world.message().headers["id"] == "t1"
    assert world.lot.out == {}


def test_a_task_that_celery_does_not_take_is_released_again(world: World) -> None:
    """The failure gets no further, and the lease is left to run out."""
    world.handler.side_effect = RuntimeError
    world.delivery.deliver(world.lot, world.ticket(), 0)
    assert world.lot.silent == {"t1"}


def test_bytes_that_are_no_message_are_handed_on_whole(world: World) -> None:
    """Celery's way for messages that cannot be decoded gets the bytes, for their dead letter."""
    world.delivery.deliver(world.lot, world.ticket(payload=b"{}"), 0)
    ((message, error), _) = world.consumer.on_decode_error.call_args
    assert message.body == b"{}"
    assert isinstance(error, ValueError)
    assert world.handler.call_count == 0
