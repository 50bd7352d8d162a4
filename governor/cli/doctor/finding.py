"""The result of a look at one part of an installation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        remedy: what to do; empty when all is well.
    """

    check: str
    level: Level
    message: str
    remedy: str = ""
