"""Representations of arguments whose size is bounded whatever the argument is.

``repr()`` of a 100 MB list takes seconds and of a deeply nested one recurses until it fails.
Here containers are walked, not rendered whole: so many levels, elements and characters.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import Any
from uuid import UUID

DEEPEST = 6
MOST_ELEMENTS = 50
LONGEST_LEAF = 1_000
LONGEST_WHOLE = 8_000
"""Characters of one rendered ``args`` or ``kwargs``."""

# Searched beyond LONGEST_LEAF, so that a secret across the cut is still recognised.
_MARGIN = 200
_MORE = "…"
# Python refuses to print integers of more than 4,300 digits.
_LONGEST_INTEGER_BITS = 4_096
_PLAIN = (bool, float, complex, date, time, timedelta, Decimal, Fraction, UUID)


class Renderer:
    """A rendering of one call's arguments.

    Args:
        secret_key: whether a value under this name is hidden.
        text: takes the secrets out of a text.
        hidden: what stands for a hidden value.
    """

    def __init__(
        self, secret_key: Callable[[str], bool], text: Callable[[str], str], hidden: str
    ) -> None:
        self._secret_key = secret_key
        self._text = text
        self._hidden = repr(hidden)
        self._left = 0

    def whole(self, value: Any) -> str:
        """``value`` in at most :data:`LONGEST_WHOLE` characters."""
        self._left = LONGEST_WHOLE
        return _cut(self._safely(value, DEEPEST), LONGEST_WHOLE)

    def positional(self, args: Any, names: Sequence[str]) -> str:
        """``args`` as a tuple; each is hidden when the parameter of its name is secret."""
        if not isinstance(args, (tuple, list)):
            return self.whole(args)
        self._left = LONGEST_WHOLE
        parts = [
            self._named(names[i] if i < len(names) else None, value, DEEPEST - 1)
            for i, value in enumerate(islice(args, MOST_ELEMENTS))
        ]
        inside = _joined(parts, len(args))
        return _cut(f"({inside},)" if len(args) == 1 else f"({inside})", LONGEST_WHOLE)

    def _named(self, name: object, value: Any, depth: int) -> str:
        # Nothing and a flag say nothing, and are worth seeing under any name.
        if value is not None and not isinstance(value, bool):
            if isinstance(name, bytes):
                name = name[:LONGEST_LEAF].decode("latin-1")
            if isinstance(name, str) and self._secret_key(name[:LONGEST_LEAF]):
                return self._hidden
        return self._safely(value, depth)

    def _safely(self, value: Any, depth: int) -> str:
        if self._left <= 0:
            return _MORE
        try:
            rendered = self._render(value, depth)
        except BaseException as broken:  # noqa: BLE001 - a stranger's code; the placeholder says so
            rendered = f"<{type(value).__name__}: {type(broken).__name__} when shown>"
        self._left -= len(rendered)
        return rendered

    def _render(self, value: Any, depth: int) -> str:
        if value is None or isinstance(value, _PLAIN):
            return self._leaf(repr(value))
        if isinstance(value, str):
            return repr(self._leaf(str.__getitem__(value, slice(LONGEST_LEAF + _MARGIN))))
        if isinstance(value, (bytes, bytearray)):
            shown = bytes(memoryview(value)[: LONGEST_LEAF + _MARGIN]).decode("latin-1")
            return "b" + repr(self._leaf(shown))
        if isinstance(value, int):
            bits = int.bit_length(value)
            if bits > _LONGEST_INTEGER_BITS:
                return f"<int of {bits} bits>"
            return self._leaf(repr(value))
        if isinstance(value, (dict, list, tuple, set, frozenset, deque, Mapping)):
            return self._container(value, depth)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [field.name for field in dataclasses.fields(value) if field.repr]
            return self._fields(value, ((name, getattr(value, name)) for name in names), depth)
        return self._leaf(repr(value))

    def _container(self, value: Any, depth: int) -> str:
        if depth <= 0:
            return f"<{type(value).__name__} of {len(value)}>"
        if isinstance(value, Mapping):
            pairs = dict.items(value) if isinstance(value, dict) else value.items()
            parts = [
                f"{self._safely(key, depth - 1)}: {self._named(key, each, depth - 1)}"
                for key, each in islice(pairs, MOST_ELEMENTS)
            ]
            return f"{{{_joined(parts, len(value))}}}"
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return self._fields(value, zip(value._fields, value, strict=False), depth)
        # ("password", "hunter2") is a pair as headers and forms are written.
        pair = isinstance(value, (tuple, list)) and len(value) == 2
        first = value[0] if pair else None
        parts = [
            self._named(first if i == 1 else None, each, depth - 1)
            for i, each in enumerate(islice(value, MOST_ELEMENTS))
        ]
        inside = _joined(parts, len(value))
        if isinstance(value, list):
            return f"[{inside}]"
        if isinstance(value, tuple):
            return f"({inside},)" if len(value) == 1 else f"({inside})"
        if isinstance(value, set) and parts:
            return f"{{{inside}}}"
        return f"{type(value).__name__}([{inside}])"

    def _fields(self, value: Any, fields: Iterable[tuple[str, Any]], depth: int) -> str:
        if depth <= 0:
            return f"<{type(value).__name__}>"
        parts = [
            f"{name}={self._named(name, each, depth - 1)}"
            for name, each in islice(fields, MOST_ELEMENTS)
        ]
        return f"{type(value).__name__}({', '.join(parts)})"

    def _leaf(self, text: str) -> str:
        return _cut(self._text(text[: LONGEST_LEAF + _MARGIN]), LONGEST_LEAF)


def _joined(parts: list[str], count: int) -> str:
    return ", ".join([*parts, _MORE] if count > len(parts) else parts)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + _MORE
