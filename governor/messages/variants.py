"""Variants of a message that waits: the same one, parked or with a countdown.

Id, body, chord, callbacks, root, priority, stamps and expiry are untouched; a deferral does
not change ``retries`` either, because waiting costs no attempt.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from governor.messages.header import NAME, Header
from governor.ports import MessageCopy

# RabbitMQ records each dead-lettering hop here and drops a message it has seen before.
_BROKER_HEADERS = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-opt-deaths")


def own_headers(message: MessageCopy) -> dict[str, Any]:
    """Copy the message's headers without those a broker wrote."""
    return {k: v for k, v in message.headers.items() if not str(k).startswith(_BROKER_HEADERS)}


def deferred(message: MessageCopy, header: Header, eta: datetime) -> MessageCopy:
    """Make of ``message`` one to be delivered again at ``eta`` (aware, UTC)."""
    return replace(message, headers=_headers(message, header, eta))


def parked(message: MessageCopy, header: Header) -> MessageCopy:
    """Make of ``message`` one that waits in the parking lot: its ETA is over when it leaves."""
    headers = own_headers(message)
    headers[NAME] = header.to_message()
    headers.pop("eta", None)
    return replace(message, headers=headers)


def retried(message: MessageCopy, header: Header, eta: datetime) -> MessageCopy:
    """Make of ``message`` its next attempt at ``eta``."""
    headers = _headers(message, header.next_attempt(), eta)
    headers["retries"] = int(headers.get("retries") or 0) + 1
    return replace(message, headers=headers)


def _headers(message: MessageCopy, header: Header, eta: datetime) -> dict[str, Any]:
    headers = own_headers(message)
    headers[NAME] = header.to_message()
    headers["eta"] = eta.isoformat()
    return headers
