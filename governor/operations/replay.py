"""The message a dead letter is sent again as."""

from __future__ import annotations

from governor.messages.header import NAME, Header, work_id
from governor.messages.variants import own_headers
from governor.ports import MessageCopy

# A kombu ``expiration`` passed back is multiplied; the others name one delivery.
_DELIVERY_PROPERTIES = frozenset({"expiration", "delivery_tag", "delivery_info", "message_id"})


def replay_message(
    message: MessageCopy,
    *,
    replay_task_id: str,
    dead_letter_id: str,
    idempotency_key: str | None,
) -> MessageCopy:
    """``message`` as a new task with the same work: same body bytes, route, callbacks, root.

    It starts over: no retries counted, no ETA, no expiry, no slot. Its ``governor`` header
    says which dead letter it replays, and carries the idempotency key of the first run.
    """
    known = Header.from_message(message.headers)
    header = known.next_attempt()._replace(
        idem=idempotency_key if idempotency_key is not None else known.idem,
        of=work_id(replay_task_id, message.headers.get("replaced_task_nesting")),
        began=None,
        replay_of=dead_letter_id,
        attempts=(),
    )
    headers = own_headers(message)
    headers.update(id=replay_task_id, retries=0, eta=None, expires=None)
    headers[NAME] = header.to_message()
    properties = {
        key: value for key, value in message.properties.items() if key not in _DELIVERY_PROPERTIES
    }
    properties["correlation_id"] = replay_task_id
    return MessageCopy(
        body=message.body,
        headers=headers,
        properties=properties,
        exchange=message.exchange,
        routing_key=message.routing_key,
        queue=message.queue,
    )
