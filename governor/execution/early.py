"""Producers that park: where tasks of a lane wait already, the next one can only stand behind them,
and need not go through the broker and a worker to get there.

Celery builds the message and is given a producer of ours for it, so that signals, events and
results are as ever. Whatever is in the way of parking, the message is published.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from kombu.compression import decompress
from kombu.entity import Queue
from kombu.messaging import Producer

from governor.clock import Clock, as_micros
from governor.errors import StoreUnavailable
from governor.execution.admission import charges_of
from governor.execution.deferral import KEPT_PROPERTIES
from governor.execution.door import Door
from governor.execution.header import Header
from governor.execution.parking import Lanes, entry_of, pack, rank_of
from governor.policy.lot import Arrival
from governor.policy.plan import CallPlan
from governor.ports import LimiterStore, MessageCopy

_log = logging.getLogger("governor")

_PASSED_ON = {"retry", "retry_policy", "timeout", "confirm_timeout", "declare"}
"""How a message is sent, not what it is."""


class EarlyParking:
    """Parks for producers.

    Args:
        shown: hides secrets in a tenant's name.
        queues: the app's queues by name.
    """

    def __init__(
        self, store: LimiterStore, clock: Clock, door: Door, shown: Callable[[str], str],
        queues: Callable[[], Mapping[str, Any]],
    ) -> None:  # fmt: skip
        self._store = store
        self._clock = clock
        self._door = door
        self._lanes = Lanes(shown)
        self._queues = queues

    def wanted(self, plan: CallPlan) -> bool:
        """Whether a task with this plan is to be parked, if that is possible. Without the task's
        signature nobody knows its lane."""
        upstream = plan.upstream
        return upstream.park_early and plan.signature is not None and self._door.waits(upstream)

    def park(self, plan: CallPlan, producer: Any, body: Any, options: Mapping[str, Any]) -> bool:
        """Park what ``producer.publish(body, **options)`` would send. Whether it waits in the lot
        now: if not, it is to be published."""
        try:
            arrival = self._arrival(plan, producer, body, options)
            if arrival is None:
                return False
            return self._store.lots.park(plan.upstream.name, [arrival]).kept[0]
        except StoreUnavailable as exc:
            _log.warning("%s A task of %s is published", exc, plan.upstream.name)
        except Exception:  # noqa: BLE001 - whatever it is, the broker may still have it
            _log.exception("A task of %s could not be parked: it is published", plan.upstream.name)
        return False

    def _arrival(
        self, plan: CallPlan, producer: Any, body: Any, options: Mapping[str, Any]
    ) -> Arrival | None:
        upstream = plan.upstream
        copy = written(producer, body, options)
        if copy is None or copy.headers.get("eta"):
            return None
        origin = self._origin(copy, options.get("declare"))
        header = Header.from_message(copy.headers)
        priority = int(copy.properties.get("priority") or 0)
        if origin is None or header.upstream != upstream.name or priority in upstream.urgent:
            return None
        expires_in = 0
        if expires := copy.headers.get("expires"):
            at = datetime.fromisoformat(expires)
            if at.tzinfo is None:
                return None
            expires_in = max(as_micros(at) - self._clock.wall(), 1)
        payload = pack(copy)
        if payload is None:
            return None
        args, kwargs = body[0], body[1]
        plan = plan.leaving_reserve()
        charges = charges_of(plan, header, args, kwargs)
        high_first = producer.connection.transport.driver_type == "amqp"
        rank = rank_of(priority, high_first=high_first)
        lane, _ = self._lanes.of_task(plan, charges, header, args, kwargs, origin, rank)
        return Arrival(
            entry=entry_of(str(copy.headers["id"]), int(copy.headers.get("retries") or 0)),
            lane=lane,
            costs=tuple(charge.cost for charge in charges),
            payload=payload,
            max_wait=upstream.max_wait,
            expires_in=expires_in,
            behind=True,
        )

    def _origin(self, copy: MessageCopy, declared: Any) -> str | None:
        """The one queue that the broker would put it in; ``None`` when that is not certain."""
        queues = [queue for queue in declared or () if isinstance(queue, Queue)]
        if len(queues) != 1:
            return None
        (queue,) = queues
        if not copy.exchange:
            return str(queue.name) if copy.routing_key == queue.name else None
        bound = queue.exchange.name, queue.routing_key
        if queue.exchange.type not in {"direct", "topic"}:
            return None
        if bound != (copy.exchange, copy.routing_key) or queue.name not in self._queues():
            return None
        others = (q for q in self._queues().values() if q.name != queue.name)
        ways = (way for other in others for way in (other, *(other.bindings or ())))
        keys = [way.routing_key or "" for way in ways if way.exchange.name == copy.exchange]
        if any(key == copy.routing_key or "*" in key or "#" in key for key in keys):
            return None
        return str(queue.name)


class ParkingProducer:
    """A producer whose first message, the task's, is parked if it can be. All else is the real
    one's."""

    def __init__(self, parking: EarlyParking, plan: CallPlan, producer: Any) -> None:
        self._parking = parking
        self._plan: CallPlan | None = plan
        self._producer = producer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, body: Any, **options: Any) -> Any:
        plan, self._plan = self._plan, None
        if plan is not None and self._parking.park(plan, self._producer, body, options):
            return None
        return self._producer.publish(body, **options)


def written(producer: Any, body: Any, options: Mapping[str, Any]) -> MessageCopy | None:
    """What ``producer.publish(body, **options)`` would send, as its receiver sees it; ``None``
    where that is not certain."""
    options = {name: value for name, value in options.items() if name not in _PASSED_ON}
    headers = dict(options.pop("headers", None) or {})
    channel = _Written()
    silent = Producer(  # type: ignore[no-untyped-call]
        channel, producer.exchange, producer.routing_key, producer.serializer,
        auto_declare=False, compression=producer.compression,
    )  # fmt: skip
    silent.publish(body, headers=headers, **options)  # type: ignore[no-untyped-call]
    copy = channel.copy
    assert copy is not None
    properties = dict(copy.properties)
    if properties.pop("expiration", None) is not None and not headers.get("expires"):
        # Its life is the broker's to end, not the task's.
        return None
    plain = _is_plain(copy.headers) and _is_plain(properties)
    if channel.special or not plain or not {*KEPT_PROPERTIES}.issuperset(properties):
        return None
    body = copy.body
    if compression := copy.headers.get("compression"):
        body = decompress(body, compression)  # type: ignore[no-untyped-call]
    return replace(copy, body=body, properties=properties)


def _is_plain(values: Mapping[str, Any]) -> bool:
    """Whether every broker delivers them as they are."""
    try:
        return bool(json.loads(json.dumps(values)) == values)
    except (TypeError, ValueError):
        return False


class _Written:
    """A channel that keeps the one message that is written to it."""

    def __init__(self) -> None:
        self.copy: MessageCopy | None = None
        self.special = False

    def prepare_message(  # noqa: PLR0917 - as kombu calls it
        self, body: Any, priority: Any, content_type: str, content_encoding: str,
        headers: dict[str, Any], properties: dict[str, Any],
    ) -> MessageCopy:  # fmt: skip
        found = {
            "content_type": content_type, "content_encoding": content_encoding,
            "priority": priority or 0, **properties,
        }  # fmt: skip
        return MessageCopy(
            body=body.encode() if isinstance(body, str) else bytes(body),
            headers=headers,
            properties={name: value for name, value in found.items() if value is not None},
            exchange="",
            routing_key="",
        )

    def basic_publish(
        self, message: MessageCopy, *, exchange: str, routing_key: str, mandatory: bool,
        immediate: bool, **_: Any,
    ) -> None:  # fmt: skip
        self.special = mandatory or immediate
        self.copy = replace(message, exchange=exchange or "", routing_key=routing_key or "")
