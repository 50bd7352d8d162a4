"""The fingerprint that groups deaths.

It is made of the task, the reason, the chain of exception types, the last frame of the user's
own code (module and function; a line number would split the group at every release) and the
class of the HTTP status. The message's text is used only when there is no such frame, without
what varies in it: quoted texts, addresses, and every word with a digit in it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from governor.ports import Reason

FINGERPRINT_VERSION = 2
"""Counted up when deaths group in another way, so that groups of two versions are not mixed."""

_VARIABLE = re.compile(
    r"""
    (?<!\w)(?P<quote>["'`])(?:(?!(?P=quote)).){0,400}?(?P=quote)(?!\w)
    | “[^”]{0,400}” | ‘[^’]{0,400}’ | «[^»]{0,400}»
    | \b[a-z][a-z0-9+.-]{0,20}://\S+                       # URLs
    | [^\s@<>()\[\],;]{1,64}@[^\s@<>()\[\],;]+            # e-mail addresses
    | \b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b
    | \b[0-9a-f]{12,}\b
    | (?<![\w-])[\w-]*\d[\w.:-]*                         # numbers, ids, dates, machines
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_READ, _COMPARED = 4_000, 300


def fingerprint(
    *,
    task_name: str | None,
    reason: Reason,
    exc_chain: Sequence[str] = (),
    last_frame: tuple[str, str] | None = None,
    http_status: int | None = None,
    exc_message: str | None = None,
) -> str:
    """32 hexadecimal digits, equal for deaths with the same cause."""
    parts = [
        str(FINGERPRINT_VERSION),
        task_name or "",
        reason.value,
        ">".join(exc_chain),
        ":".join(last_frame) if last_frame else "",
        f"{http_status // 100}xx" if http_status else "",
    ]
    if last_frame is None and exc_message:
        parts.append(_same_words(exc_message))
    joined = "\0".join(parts).encode("utf-8", "backslashreplace")
    return hashlib.sha256(joined).hexdigest()[:32]


def _same_words(message: str) -> str:
    """The message without what varies from one death to the next of the same cause."""
    return " ".join(_VARIABLE.sub("#", message[:_READ]).split())[:_COMPARED]
