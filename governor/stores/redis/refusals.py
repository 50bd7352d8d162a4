"""Refusals of the limiter's server, and their reach: the whole store, or one upstream."""

from __future__ import annotations

import re
from typing import Literal

from governor.stores.redis.resp import Refused

Concern = Literal["store", "upstream"]

CONCERN: dict[str, Concern] = {
    # Something is wrong with what is kept for the upstream, or with where it is kept.
    "WRONGTYPE": "upstream",
    "SCRIPT": "upstream",
    "KEY": "upstream",
    "CROSSSLOT": "upstream",
    "TRYAGAIN": "upstream",
    # The server serves nobody, or nobody like us.
    "BUSY": "store",
    "CLUSTERDOWN": "store",
    "LOADING": "store",
    "MASTERDOWN": "store",
    "MISCONF": "store",
    "NOAUTH": "store",
    "NOPERM": "store",
    "NOREPLICAS": "store",
    "OOM": "store",
    "READONLY": "store",
}
"""By code; what is not here concerns the store. ``SCRIPT`` is a script of ours that failed on what
it has read, ``KEY`` a key or channel that the user may not touch."""

_IN_SCRIPT = re.compile(r"@?user_script: ?\d+: ?(?:@\w+: ?\d+: ?)?-?([A-Z]{3,})?\b")


def code(refused: Refused) -> str:
    """The code of a refusal. A server before version 7 wraps those of commands in scripts."""
    text = refused.text
    if refused.code == "NOPERM" or "ACL failure" in text or "user executing the script" in text:
        return "KEY" if re.search(r"\b(key|keys|channel)\b", text) else "NOPERM"
    if refused.code == "CLUSTERDOWN" and "slot" in text:
        return "TRYAGAIN"  # the others' slots may be served
    if refused.code == "ERR" and (found := _IN_SCRIPT.search(text)):
        return found[1] if found[1] in CONCERN else "SCRIPT"
    return refused.code


def concern(refused: Refused) -> Concern:
    """Whom a refusal concerns."""
    return CONCERN.get(code(refused), "store")
