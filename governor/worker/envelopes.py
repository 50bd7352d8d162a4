"""Messages whose envelope is broken, where kombu keeps it as JSON: in Redis and its other virtual
transports.

kombu makes a message of the envelope when it has already taken it out of the queue. What it cannot
make one of, it raises on in the consumer's loop, which ends the worker and loses the message.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from kombu.exceptions import DecodeError
from kombu.transport.virtual import Channel as VirtualChannel

from governor.deadletter.encoding import encode


def read_any_envelope(channel: Any) -> None:
    """From now on make a message of every envelope that ``channel`` consumes: of a broken one, a
    message that cannot be decoded, with the envelope as its body."""
    kind = channel.Message
    if not isinstance(channel, VirtualChannel) or getattr(kind, "of_any_envelope", False):
        return

    class Message(kind):  # type: ignore[misc,valid-type]
        of_any_envelope = True

        def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
            try:
                _check(payload)
                super().__init__(payload, channel=channel, **kwargs)
            except Exception:
                broken = sys.exc_info()
                super().__init__(_mended(payload), channel=channel, **kwargs)
                self.errors = [broken]

    channel.Message = Message
    if "BRPOP" in getattr(channel, "handlers", ()):
        _keep_unreadable(channel)


def _keep_unreadable(channel: Any) -> None:
    """Deliver what a Redis list held and kombu could not read, or not note as taken, as it is."""
    taken: list[bytes] = []
    parse, read, append = (
        channel.client.parse_response,
        channel.handlers["BRPOP"],
        channel.qos.append,
    )

    def parse_response(connection: Any, command: str, **options: Any) -> Any:
        reply = parse(connection, command, **options)
        taken[:] = reply if command == "BRPOP" and reply else ()
        return reply

    def noted(message: Any, delivery_tag: str) -> None:
        append(message, delivery_tag)
        taken.clear()

    def brpop_read(**options: Any) -> Any:
        try:
            return read(**options)
        except channel.connection_errors:
            raise
        except Exception:
            if not taken:
                raise
            place, item = taken
            queue = place.decode().rsplit(channel.sep, 1)[0]
            channel.connection._deliver(item, queue)
            return True

    channel.client.parse_response = parse_response
    channel.handlers["BRPOP"] = brpop_read
    channel.qos.append = noted


def _check(payload: Any) -> None:
    properties = _part(payload, "properties")
    info = _part(properties, "delivery_info")
    if payload.get("headers") is not None:
        _part(payload, "headers")
    for mapping, name in ((properties, "delivery_tag"), (info, "exchange"), (info, "routing_key")):
        if name not in mapping:
            raise DecodeError(f"the envelope has no {name}")
    if not isinstance(properties["delivery_tag"], str):
        raise DecodeError("the envelope's delivery_tag is no text")


def _part(payload: Any, name: str) -> Mapping[str, Any]:
    part = payload.get(name) if isinstance(payload, (dict, Mapping)) else None
    if not isinstance(part, (dict, Mapping)):
        raise DecodeError(f"the envelope's {name} are no mapping")
    return part


def _mended(payload: Any) -> dict[str, Any]:
    """An envelope that can be read, kept and restored, around the one that cannot."""
    properties = _mapping(_mapping(payload).get("properties"))
    info = _mapping(properties.get("delivery_info"))
    tag = properties.get("delivery_tag")
    headers = _mapping(_mapping(payload).get("headers"))
    body = payload if isinstance(payload, bytes) else encode(payload).text.encode()
    return {
        "body": base64.b64encode(body).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {name: headers[name] for name in headers if name != "compression"},
        "properties": {
            "delivery_tag": tag if isinstance(tag, str) and tag.isascii() else str(uuid4()),
            "delivery_info": {name: _text(info.get(name)) for name in ("exchange", "routing_key")},
            "body_encoding": "base64",
        },
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
