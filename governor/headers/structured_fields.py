"""Structured field values of HTTP (RFC 9651): the lists and dictionaries in which limits are told.

As the specification demands, a field with one fault in it is no field: the answer is ``None``,
never a guess.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import http_sf

LONGEST_FIELD = 2_048
"""Characters. A longer field is not looked at."""


class Item(NamedTuple):
    """A value and its parameters."""

    value: Any
    params: dict[str, Any]


def parse_list(field: str) -> list[Item] | None:
    """The members of a list of items; ``None`` when it is not one."""
    members = _parse(field, "list")
    return None if members is None else _items(members)


def parse_dictionary(field: str) -> dict[str, Item] | None:
    """The members of a dictionary of items; ``None`` when it is not one. The last of a key wins."""
    members = _parse(field, "dictionary")
    items = None if members is None else _items(members.values())
    return None if items is None else dict(zip(members, items, strict=True))


def _parse(field: str, kind: str) -> Any:
    if len(field) > LONGEST_FIELD:
        return None
    try:
        return http_sf.parse(field.encode("ascii"), tltype=kind)
    except ValueError:  # malformed, or not ASCII
        return None


def _items(members: Any) -> list[Item] | None:
    """The members as items; ``None`` if an inner list is among them, which no dialect knows."""
    items = [Item(*member) for member in members]
    return None if any(isinstance(item.value, list) for item in items) else items
