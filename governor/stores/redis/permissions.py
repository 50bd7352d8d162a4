"""Least permissions of a Redis user, by role: the words of its ACL."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from governor import keys
from governor.stores.redis.resp import Refused
from governor.stores.redis.scripts import load

Role = Literal["worker", "producer", "operator"]
"""A worker; a process that only publishes; a person with ``governor limits`` and ``waiting``. A
process that makes calls outside a worker does what a worker does."""

_SCRIPTS: dict[Role, Sequence[str]] = {
    "worker": ("lib", "admit", "settle", "adjust", "park", "release", "steer", "overdue"),
    "producer": (),
    "operator": ("lib", "change", "steer"),
}
_DAMAGE = ("TYPE", "TIME", "HGETALL", "GET", "LRANGE")
_PLAIN: dict[Role, Sequence[str]] = {
    "worker": ("EXISTS", "GET", "HGET", "HGETALL", "HVALS", "TIME", "ZADD", "PSUBSCRIBE", "PING"),
    "producer": ("TIME", "HMGET"),
    "operator": (
        "GET", "HGET", "HGETALL", "HMGET", "LINDEX", "LLEN", "LPOS", "LRANGE", "TIME", "XREVRANGE",
        "ZCARD", "ZRANGE", "ZRANGEBYLEX",
    ),
}  # fmt: skip
"""Commands sent without a script; see store.py and parking.py."""

_WORD = re.compile(rb"'([A-Z]{3,})'")
_NO_COMMANDS = {"WITHSCORES", "MAXLEN", "LIMIT", "WRONGTYPE"}


def commands(role: Role) -> tuple[str, ...]:
    """The commands that this role needs, those that its scripts call among them."""
    found = {*_PLAIN[role], *_DAMAGE}
    for name in _SCRIPTS[role]:
        found |= {word.decode() for word in _WORD.findall(load(name).source)} - _NO_COMMANDS
        found |= {"EVALSHA", "EVAL"}
    return tuple(sorted(found))


def acl(role: Role, prefix: str = keys.DEFAULT_PREFIX) -> str:
    """The words that ``ACL SETUSER`` needs for this role, beside a name and a password."""
    return words(commands(role), prefix)


def words(allowed: Sequence[str], prefix: str) -> str:
    """The words that allow these commands on the governor's keys and channels."""
    places = [f"~{prefix}:*", f"&{keys.channel(prefix, '*')}"]
    return " ".join([*places, *(f"+{command.lower()}" for command in allowed)])


def missing(reply: Any) -> tuple[str, ...] | None:
    """The commands that the user may not run, of a reply to :data:`PROBE`; ``None`` for a server
    before version 7, which cannot say it."""
    if isinstance(reply, Refused) or reply is None:
        return None
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in reply)


PROBE = """
if not redis.acl_check_cmd then return nil end
local missing = {}
for i = 1, #ARGV do
  local command, word = ARGV[i], KEYS[1]
  if command == 'PSUBSCRIBE' or command == 'PUBLISH' then word = KEYS[2] end
  local bare = command == 'TIME' or command == 'PING'
  local allowed
  if command == 'EVAL' or command == 'EVALSHA' then
    allowed = redis.acl_check_cmd(command, '', '1', word)
  elseif bare then
    allowed = redis.acl_check_cmd(command)
  else
    allowed = redis.acl_check_cmd(command, word, word, word)
  end
  if not allowed then missing[#missing + 1] = command end
end
return missing
"""
"""Asks whether the user may run the commands in ARGV on the key, and on the channel, in KEYS.
Executes none of them."""
