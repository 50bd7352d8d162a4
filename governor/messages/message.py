"""Exact copies of broker messages, and the bytes that a copy is parked as.

The bytes are a line of JSON (see :mod:`governor.deadletter.encoding`) and the message's body.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from governor.deadletter.encoding import decode, encode
from governor.ports import MessageCopy

KEPT_PROPERTIES = (
    "content_type", "content_encoding", "correlation_id", "reply_to", "priority",
    "delivery_mode", "expiration", "message_id", "type", "app_id",
)  # fmt: skip
"""Message properties that are a producer's, and are sent again."""

QUEUE = "queue"
"""Where a message's delivery info says which queue it was consumed from."""


def copy_of(message: Any) -> MessageCopy:
    """Copy the message as it was published, without the broker's own additions, whatever its
    parts are."""
    info, found = _mapping(message.delivery_info), _mapping(message.properties)
    properties = {k: v for k in KEPT_PROPERTIES if (v := found.get(k)) is not None}
    properties["content_type"] = message.content_type
    properties["content_encoding"] = message.content_encoding
    return MessageCopy(
        body=_bytes(message.body),
        headers=_mapping(message.headers),
        properties=properties,
        exchange=_text(info.get("exchange")),
        routing_key=_text(info.get("routing_key")),
        queue=info.get(QUEUE),
    )


def was_redelivered(message: Any) -> bool:
    """Tell whether the broker says that it had handed out the message before."""
    parts = (message.delivery_info, message.headers)
    return any(bool(_mapping(part).get("redelivered")) for part in parts)


def pack(message: MessageCopy) -> bytes | None:
    """Make the bytes a message is parked as; ``None`` if it holds a value that cannot be kept."""
    head = encode({
        "h": message.headers, "p": message.properties,
        "x": message.exchange, "r": message.routing_key, "q": message.queue,
    })  # fmt: skip
    return head.text.encode() + b"\n" + message.body if head.exact else None


def unpack(payload: bytes) -> MessageCopy:
    """Read the message that was parked.

    Raises:
        ValueError: these are not such bytes.
    """
    head, _, body = payload.partition(b"\n")
    facts = decode(head.decode())
    try:
        return MessageCopy(body, facts["h"], facts["p"], facts["x"], facts["r"], facts.get("q"))
    except (KeyError, TypeError) as exc:
        raise ValueError("this is no parked message") from exc


def attempt_id(message: str, retries: int) -> str:
    """Name one attempt of one message among all of its task id in the lot."""
    return f"{message}.{retries}" if retries else message


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _bytes(body: Any) -> bytes:
    if isinstance(body, str):
        return body.encode("utf-8", "surrogatepass")
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    # A broker that keeps messages as JSON may hold any value there.
    return b"" if body is None else encode(body).text.encode()
