"""Names of everything the governor keeps in Redis.

Every key of an upstream carries the hash tag ``{upstream}``, so one script may touch them
all on Redis Cluster too. Values of task arguments never appear in a key: they are hashed,
which bounds the key's length and keeps secrets and personal data out of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Set
from datetime import date, time
from enum import Enum
from hashlib import blake2b, sha256
from typing import Any

DEFAULT_PREFIX = "gov"

RECORDS_KEPT = 1_000
"""Records of what people did, kept for an upstream, about."""


def digest(text: str) -> str:
    """Eleven URL-safe characters that stand for ``text``."""
    raw = blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).digest()
    return _base62(int.from_bytes(raw, "big"))


def name_of(value: object) -> str:
    """The text that names an argument's value, the same before and after any serializer.

    JSON, msgpack, YAML and pickle deliver one value as different types: a tuple as a list, an
    enumeration's member as its value, a key of a mapping as text. All of them have one name, and so
    have ``1`` and ``"1"``. A lone surrogate, which neither Redis nor AMQP takes, is escaped.

    Raises:
        ValueError: the value has no text that stays the same, as most objects.
    """
    if type(value) is str and value.isascii():
        return value
    try:
        plain = _plain(value)
        text = plain if isinstance(plain, str) else json.dumps(plain)
    except RecursionError:
        raise ValueError(f"a {type(value).__name__} is nested too deep to be named") from None
    return text.encode("utf-8", "backslashreplace").decode()


def _plain(value: object) -> str | list[Any] | dict[str, Any]:
    """``value`` made of text, lists and mappings in the order of their keys: the types that JSON
    knows as it knows them, then the others."""
    if isinstance(value, str):
        return str.__str__(value)  # not that of an enumeration
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        # Python refuses to write very long ones in decimal.
        return int.__repr__(value) if value.bit_length() < 10_000 else hex(value)
    if isinstance(value, float):
        # Languages with one kind of number send 1.0 as 1.
        return int.__repr__(int(value)) if value.is_integer() else float.__repr__(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (dict, Mapping)):
        named = {_key(key): _plain(item) for key, item in value.items()}
        return dict(sorted(named.items()))
    reduce = getattr(value, "__json__", None)
    if callable(reduce):
        return _plain(reduce())
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, Set):
        return sorted((_plain(item) for item in value), key=json.dumps)
    if isinstance(value, (date, time)):
        return value.isoformat()
    text = str(value)
    if type(value).__str__ is object.__str__ or _ADDRESS.search(text):
        raise ValueError(f"a {type(value).__name__} has no text that stays the same")
    return text


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def _key(key: object) -> str:
    """The name of a mapping's key, which JSON makes text."""
    if isinstance(key, bool | float) or key is None:
        return json.dumps(key)
    return name_of(key)


_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def _base62(number: int) -> str:
    characters = []
    for _ in range(11):
        number, index = divmod(number, 62)
        characters.append(_ALPHABET[index])
    return "".join(characters)


def state_key(prefix: str, upstream: str) -> str:
    """The hash of what belongs to the upstream as a whole: when it was first seen, its pause,
    its breaker, and the leaky buckets that all its calls share."""
    return f"{prefix}:{{{upstream}}}"


def bucket_key(prefix: str, upstream: str, bucket: str) -> str:
    """One bucket of one limit."""
    return f"{prefix}:{{{upstream}}}:{bucket}"


def is_shared(bucket: str) -> bool:
    """Tell whether a bucket is of a limit without ``per=``: every other name ends in a digest.

    A shared leaky bucket is a field of the upstream's state."""
    return ":" not in bucket


def line_key(prefix: str, upstream: str, bucket: str) -> str:
    """Up to when slots of a window are promised."""
    return f"{bucket_key(prefix, upstream, bucket)}:line"


def changes_key(prefix: str, upstream: str) -> str:
    """The changes of the upstream that are in force."""
    return f"{state_key(prefix, upstream)}:set"


def log_key(prefix: str, upstream: str) -> str:
    """The record of people's changes of the upstream, and their reasons."""
    return f"{state_key(prefix, upstream)}:log"


def channel(prefix: str, upstream: str) -> str:
    """The channel on which workers that wait for the upstream hear that calls may go earlier."""
    return f"{state_key(prefix, upstream)}:wake"


def lot_key(prefix: str, upstream: str, part: str) -> str:
    """A part of the upstream's parking lot. No limit's name has an ``@``."""
    return f"{state_key(prefix, upstream)}:@{part}"


def claim_key(prefix: str, upstream: str, task_id: str, attempt: int, message: str) -> str:
    """The claim of one execution of a non-idempotent task."""
    return f"{prefix}:{{{upstream}}}:c:{task_id}:{attempt}:{message}"


_MESSAGE_ID = re.compile(r"[0-9A-Za-z_-]{1,16}")


def stamped_id(header: Any) -> str | None:
    """The message id that a ``governor`` header carries, whatever else of it can be read."""
    made = header.get("mid") if isinstance(header, Mapping) else None
    return made if isinstance(made, str) and _MESSAGE_ID.fullmatch(made) else None


def body_id(body: bytes) -> str:
    """The id of a message without one: the beginning of its body's SHA-256."""
    return sha256(body).hexdigest()[:16]


def message_id(header: Any, body: bytes) -> str:
    """Return the id that tells a message from others under its task id, and that copies share.

    Args:
        header: its ``governor`` header, as it came.
    """
    return stamped_id(header) or body_id(body)
