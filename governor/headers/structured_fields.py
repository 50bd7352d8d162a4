"""Structured field values of HTTP (RFC 9651): lists and dictionaries of items.

What rate-limit headers use: integers, decimals, strings, tokens, booleans and byte sequences,
with parameters. Inner lists, dates and display strings are not known. As the specification
demands, a field with one fault in it is no field: the answer is ``None``, never a guess.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias, TypeVar

LONGEST_FIELD = 2_048
"""Characters. A longer field is not looked at."""

Bare: TypeAlias = int | Decimal | str | bool | bytes
_Member = TypeVar("_Member")


@dataclass(frozen=True, slots=True)
class Item:
    """A value and its parameters. Strings and tokens are both ``str``."""

    value: Bare
    params: Mapping[str, Bare]


_KEY = re.compile(r"[a-z*][a-z0-9_.*-]*")
_COMMA = re.compile(r"[ \t]*,[ \t]*")
_SEMICOLON = re.compile(r"; *")
_EQUALS = re.compile(r"=")

# In the order they are tried: a decimal begins like an integer.
_BARE: tuple[tuple[re.Pattern[str], Callable[[str], Bare]], ...] = (
    (re.compile(r"-?[0-9]{1,12}\.[0-9]{1,3}(?![0-9.])"), Decimal),
    (re.compile(r"-?[0-9]{1,15}(?![0-9.])"), int),
    (re.compile(r'"(?:[ !#-\[\]-~]|\\["\\])*+"'), lambda text: re.sub(r"\\(.)", r"\1", text[1:-1])),
    (re.compile(r"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*"), str),
    (re.compile(r"\?[01]"), lambda text: text == "?1"),
    (
        re.compile(r":(?:[A-Za-z0-9+/]{4})*+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?:"),
        lambda text: b64decode(text[1:-1]),
    ),
)


def parse_list(field: str) -> list[Item] | None:
    """The members of a list of items; ``None`` when it is not one."""
    return _members(field, _Cursor.item)


def parse_dictionary(field: str) -> dict[str, Item] | None:
    """The members of a dictionary of items; ``None`` when it is not one. The last of a key wins."""
    members = _members(field, _Cursor.entry)
    return None if members is None else dict(members)


class _MalformedError(Exception):
    """The text is not a structured field."""


class _Cursor:
    """A place in a text that only moves forward."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def done(self) -> bool:
        return self.at == len(self.text)

    def skip(self, pattern: re.Pattern[str]) -> str | None:
        """What ``pattern`` matches here, which is then behind us; ``None`` if it does not."""
        found = pattern.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found.group()

    def bare(self) -> Bare:
        for pattern, value in _BARE:
            text = self.skip(pattern)
            if text is not None:
                return value(text)
        raise _MalformedError

    def key(self) -> str:
        key = self.skip(_KEY)
        if key is None:
            raise _MalformedError
        return key

    def params(self) -> dict[str, Bare]:
        params: dict[str, Bare] = {}
        while self.skip(_SEMICOLON):
            key = self.key()
            params[key] = self.bare() if self.skip(_EQUALS) else True
        return params

    def item(self) -> Item:
        value = self.bare()
        return Item(value, self.params())

    def entry(self) -> tuple[str, Item]:
        key = self.key()
        value = self.bare() if self.skip(_EQUALS) else True
        return key, Item(value, self.params())


def _members(field: str, member: Callable[[_Cursor], _Member]) -> list[_Member] | None:
    if len(field) > LONGEST_FIELD:
        return None
    cursor = _Cursor(field.strip(" "))
    members: list[_Member] = []
    try:
        while not cursor.done():
            if members and not cursor.skip(_COMMA):
                return None
            members.append(member(cursor))
    except _MalformedError:
        return None
    return members
