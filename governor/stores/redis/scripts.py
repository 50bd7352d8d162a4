"""Loads the Lua scripts that ship beside this module."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A script's source, and the digest Redis caches it under."""

    source: bytes
    sha: str


@cache
def load(name: str) -> Script:
    """The script ``lua/<name>.lua``."""
    return made(_source(name))


@cache
def of_lot(name: str, function: str = "") -> Script:
    """The script ``lua/<name>.lua`` of the parking lot, with ``lua/lib.lua`` before it, and the
    script ``lua/<function>.lua`` as a function of its keys and arguments."""
    head = b""
    if function:
        called = b"local function %b(KEYS, ARGV)\n" % function.encode()
        head = called + _source(function) + b"\nend\n"
    return made(_source("lib") + head + _source(name))


def made(source: bytes) -> Script:
    """A script of this source."""
    # Redis names cached scripts by SHA-1; nothing here relies on it being secure.
    return Script(source, sha1(source, usedforsecurity=False).hexdigest())


def _source(name: str) -> bytes:
    return (files(__package__) / "lua" / f"{name}.lua").read_bytes()
