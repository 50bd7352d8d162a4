"""Header and property values as text that reads back as the same values.

Version 1 (``payload_schema``). JSON holds most of what a broker message carries; what it
cannot hold is written as an object with one key that starts with ``!``::

    {"!bytes": base64}   {"!int": hex, beyond 64 bits}   {"!float": "nan"|"inf"|"-inf"}
    {"!datetime": iso}   {"!date": iso}   {"!time": iso}   {"!timedelta": [days, s, us]}
    {"!decimal": text}   {"!uuid": text}  {"!tuple": [...]}
    {"!dict": [[key, value], …]}   keys that are not text, or one key that starts with ``!``
    {"!lost": type name}           a value that cannot be kept: such a message is not exact

All of it is ASCII: NUL and lone surrogates, which PostgreSQL refuses in text, are escaped.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

PAYLOAD_SCHEMA = 1
_AS_THEY_ARE = frozenset({str, bool, type(None)})
_MAX_DEPTH = 64  # a header nested deeper was made to hurt; Celery's own nest four deep


@dataclass(frozen=True, slots=True)
class Encoded:
    """The text, and whether decoding it gives back every value."""

    text: str
    exact: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """A mark where a value could not be kept; encoding it again loses it again."""

    type_name: str


def encode(value: object) -> Encoded:
    """``value`` as text. Never raises: what cannot be kept is named and ``exact`` is false."""
    lost: list[str] = []
    plain = _plain(value, lost, 0)
    return Encoded(_ENCODER.encode(plain), not lost)


def decode(text: str) -> Any:
    """The value that was encoded.

    Raises:
        ValueError: the text is not in this encoding.
    """
    return _DECODER.decode(text)


def decode_mapping(text: str) -> dict[str, Any]:
    """As :func:`decode`, for headers and properties, which are mappings.

    Raises:
        ValueError: the text is not a mapping in this encoding.
    """
    value = decode(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping, found {type(value).__name__}")  # noqa: TRY004
    return value


def _plain(value: object, lost: list[str], depth: int) -> object:  # noqa: PLR0912 - a table
    if depth > _MAX_DEPTH:
        return _lose(value, lost)
    if value.__class__ in _AS_THEY_ARE:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else {"!int": format(int(value), "x")}
    if isinstance(value, float):
        number = float(value)
        finite = number - number == 0
        return number if finite else {"!float": repr(number)}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"!bytes": base64.b64encode(value).decode("ascii")}
    # Mapping alone would say it too, several times slower.
    if isinstance(value, (dict, Mapping)):
        return _plain_mapping(value, lost, depth)
    if isinstance(value, list):
        return [_plain(item, lost, depth + 1) for item in value]
    if isinstance(value, tuple):
        return {"!tuple": [_plain(item, lost, depth + 1) for item in value]}
    if isinstance(value, datetime):
        return {"!datetime": value.isoformat()}
    if isinstance(value, date):
        return {"!date": value.isoformat()}
    if isinstance(value, time):
        return {"!time": value.isoformat()}
    if isinstance(value, timedelta):
        return {"!timedelta": [value.days, value.seconds, value.microseconds]}
    if isinstance(value, Decimal):
        return {"!decimal": str(value)}
    if isinstance(value, UUID):
        return {"!uuid": str(value)}
    return _lose(value, lost)


def _plain_mapping(value: Mapping[Any, Any], lost: list[str], depth: int) -> object:
    for key in value:
        if not isinstance(key, str) or key.startswith("!"):
            return {
                "!dict": [
                    [_plain(key, lost, depth + 1), _plain(item, lost, depth + 1)]
                    for key, item in value.items()
                ]
            }
    # Most values of a header are kept as they are: a call for each took half of the time.
    return {
        key: item if item.__class__ in _AS_THEY_ARE else _plain(item, lost, depth + 1)
        for key, item in value.items()
    }


def _lose(value: object, lost: list[str]) -> object:
    name = value.type_name if isinstance(value, Lost) else type(value).__name__
    lost.append(name)
    return {"!lost": name}


def _revive(found: dict[str, Any]) -> Any:
    if len(found) != 1:
        return found
    ((tag, held),) = found.items()
    if not tag.startswith("!"):
        return found
    reader = _READERS.get(tag)
    if reader is None:
        raise ValueError(f"{tag!r} is not a tag of payload schema {PAYLOAD_SCHEMA}")
    return reader(held)


_READERS: dict[str, Callable[[Any], Any]] = {
    "!bytes": base64.b64decode,
    "!int": lambda text: int(text, 16),
    "!float": float,
    "!datetime": datetime.fromisoformat,
    "!date": date.fromisoformat,
    "!time": time.fromisoformat,
    "!timedelta": lambda parts: timedelta(*parts),
    "!decimal": Decimal,
    "!uuid": UUID,
    "!tuple": tuple,
    "!dict": dict,
    "!lost": Lost,
}

_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_DECODER = json.JSONDecoder(object_hook=_revive)
