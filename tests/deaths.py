"""Deaths for tests: one plain one, varied by keyword."""

from __future__ import annotations

import json
from typing import Any

from governor.ports import Death, MessageCopy, Reason

DEAD_AT = 1_750_000_000_000_000  # 2025-06-15T15:06:40Z
BODY = json.dumps([["acct_1", 5], {}, {"callbacks": None, "chord": None}]).encode()


def message(task_id: str = "task-1", **changes: Any) -> MessageCopy:
    """A Celery protocol 2 message as a broker holds it."""
    headers = {
        "lang": "py",
        "task": "billing.charge",
        "id": task_id,
        "root_id": task_id,
        "parent_id": None,
        "group": None,
        "retries": 3,
        "eta": None,
        "expires": None,
        **changes.pop("headers", {}),
    }
    fields: dict[str, Any] = {
        "body": BODY,
        "headers": headers,
        "properties": {
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "correlation_id": task_id,
            "priority": 3,
        },
        "exchange": "",
        "routing_key": "billing",
        "queue": "billing",
    }
    return MessageCopy(**{**fields, **changes})


def death(task_id: str | None = "task-1", **changes: Any) -> Death:
    """An idempotent task whose retries are exhausted."""
    fields: dict[str, Any] = {
        "reason": Reason.RETRIES_EXHAUSTED,
        "message": message(task_id or "none"),
        "dead_at": DEAD_AT,
        "task_id": task_id,
        "task_name": "billing.charge",
        "idempotent": True,
        "tenant": "acme",
        "exc_type": "ConnectionError",
        "exc_message": "bank is away",
        "exc_chain": ("ConnectionError",),
        "last_frame": ("billing", "charge"),
    }
    return Death(**{**fields, **changes})
