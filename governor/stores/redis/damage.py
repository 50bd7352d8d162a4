"""Finds out which key of an upstream is wrong, once the server or a script has stumbled over it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from governor import keys
from governor.clock import SECOND
from governor.errors import UpstreamStateError
from governor.policy.decision import AnyCharge, LeaseCharge, QuotaCharge, WindowCharge
from governor.stores.redis.resp import Refused

FAR = 100 * 365 * 86_400 * SECOND
"""Microseconds ahead at which nothing is charged or paused: an instant so far away is garbage."""

_TYPES = {
    ":set": "hash", ":log": "stream", ":line": "string", ":c:": "string", ":@lot": "hash",
    ":@lanes": "hash", ":@flows": "hash", ":@groups": "hash", ":@out": "zset", ":@beside": "zset",
    ":@r:": "zset", ":@w:": "zset", ":@s:": "set", ":@q:": "list",
}  # fmt: skip
"""By how a key's name goes on after the upstream's, or how it ends."""

_NUMBER = r"\d{1,16}"
_METER = rf"{_NUMBER}(\|{_NUMBER})?"
_QUOTA = rf"{_NUMBER}(\|{_NUMBER}){{3}}"
_CLAIM = r"[dx]|.*\|\d{1,16}"
_FIELDS = {
    "breaker": rf"[01]+|o\|{_NUMBER}\|\d+|h(\|\d+){{3}}\|{_NUMBER}\|\d+",
    "adaptive": rf"\d+\|{_NUMBER}\|{_NUMBER}\|[01]",
    "released": r"\d+\|\d+\|\d+",
}
"""Of the upstream's state; its other fields are numbers, or meters."""

Ask = Callable[..., list[Any]]
"""Sends plain commands about an upstream; what is refused is returned."""


def damage(
    ask: Ask,
    prefix: str,
    upstream: str,
    names: Sequence[str],
    *,
    charges: Sequence[AnyCharge],
    said: str,
) -> UpstreamStateError:
    """The error that names the key, and what to do about it.

    Args:
        names: keys that were touched, the upstream's state among them.
        charges: what was to be charged, or looked at.
        said: the server's words, for want of a better explanation.
    """
    state = keys.state_key(prefix, upstream)
    buckets = {keys.bucket_key(prefix, upstream, charge.bucket): charge for charge in charges}
    everything = [*dict.fromkeys([state, *names, *buckets])]
    kinds = [_text(kind) for kind in ask(*(("TYPE", name) for name in everything))]
    time = ask(("TIME",))[0]
    own = {f"b:{charge.bucket}" for charge in charges}
    latest = FAR + (int(time[0]) * SECOND if isinstance(time, list) else 0)
    for name, kind in zip(everything, kinds, strict=True):
        charge = buckets.get(name)
        part = charge.bucket if charge is not None else _part(name, state, buckets)
        wanted = _type(name.removeprefix(state), charge)
        if kind is None or kind == "none":
            continue
        if wanted is not None and kind != wanted:
            problem = f"is of type {kind}, not {wanted}"
            return UpstreamStateError(upstream, problem, _remedy(name), key=name, part=part)
        for field, text, pattern in _texts(ask, name, kind, state, charge):
            if field.startswith("b:") and own and field not in own:
                continue  # another limit's; these calls are none of its
            if not _is_sound(text, pattern, latest):
                where = f"holds {text[:40]!r}"
                remedy = _remedy(name)
                if field:
                    where, remedy = f"field {field} {where}", f'Run HDEL "{name}" "{field}"'
                    part = field[2:] if field in own else ""
                return UpstreamStateError(upstream, where, remedy, key=name, part=part)
    return UpstreamStateError(
        upstream, f"the server says {said!r}", f"Look at {state} and the keys that begin so",
        key=state,
    )  # fmt: skip


def _type(rest: str, charge: AnyCharge | None) -> str | None:
    if not rest:
        return "hash"
    if isinstance(charge, WindowCharge):
        return "list"
    if isinstance(charge, LeaseCharge):
        return "zset"
    if charge is not None:
        return "string"
    return next(
        (kind for part, kind in _TYPES.items() if rest.startswith(part) or rest.endswith(part)),
        None,
    )


def _part(name: str, state: str, buckets: dict[str, AnyCharge]) -> str:
    """Name the part that a key other than a bucket's belongs to: its bucket for a window's line,
    the claim itself for a claim's."""
    charge = buckets.get(name.removesuffix(":line"))
    if charge is not None:
        return charge.bucket
    rest = name.removeprefix(f"{state}:")
    return rest if rest.startswith("c:") else ""


def _texts(
    ask: Ask, name: str, kind: str, state: str, charge: AnyCharge | None
) -> Iterator[tuple[str, str, str]]:
    """Read the texts of a key that can be checked: field, text, and the pattern of such texts."""
    rest = name.removeprefix(state)
    if name == state or rest == ":@flows":
        found = ask(("HGETALL", name))[0]
        if isinstance(found, list):
            for field, value in zip(found[::2], found[1::2], strict=True):
                text = _text(field) or ""
                # The finish tags of flows may grow beyond any instant.
                pattern = r"\d+(\.\d+)?" if rest else _FIELDS.get(text, _METER)
                yield text, _text(value) or "", pattern
    elif rest.startswith(":@") or rest in {":set", ":log"}:
        return
    elif kind == "string":
        pattern = _QUOTA if isinstance(charge, QuotaCharge) else _METER
        pattern = _CLAIM if rest.startswith(":c:") else pattern
        yield "", _text(ask(("GET", name))[0]) or "", pattern
    elif kind == "list":
        values = ask(("LRANGE", name, "0", "-1"))[0]
        for value in values if isinstance(values, list) else ():
            yield "", _text(value) or "", _METER


def _is_sound(text: str, pattern: str, latest: int) -> bool:
    if re.fullmatch(pattern, text, re.DOTALL) is None:
        return False
    if pattern not in {_METER, _QUOTA}:
        return True
    return all(int(number) <= latest for number in text.split("|"))


def _remedy(name: str) -> str:
    if ":@" in name:
        # Parked tasks may be in it.
        return f'Move it away: RENAME "{name}" "{name}.broken"'
    return f'Run DEL "{name}"'


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return None if value is None or isinstance(value, Refused) else str(value)
