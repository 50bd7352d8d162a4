"""One connection to the limiter store, on which commands are sent as they were packed.

redis-py opens it: addresses, TLS, authentication, the database. Its own sending and reading of a
command is left out, because it was measured to take a quarter of the time of a decision.
"""

from __future__ import annotations

import _socket
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from governor.clock import SECOND

_CHUNK = 4_096

_LONG_CHUNK = 65_536
"""Of a reply that did not fit into one."""

_INTEGER, _BULK, _ARRAY, _ERROR, _STATUS = b":$*-+"


@dataclass(frozen=True, slots=True)
class Refused:
    """The server's error instead of a command's result.

    Attributes:
        code: the first word, like ``NOSCRIPT``.
        text: the rest.
    """

    code: str
    text: str


class Connection:
    """A connection that is open.

    Args:
        connection: redis-py's, not yet connected; version 2 of the protocol.

    Raises:
        redis.RedisError, OSError: it cannot be opened.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        try:
            connection.connect()
        except BaseException:
            connection.disconnect()
            raise
        self._socket = connection._sock
        _leave_timeouts_to_the_kernel(self._socket)

    def exchange(self, commands: Sequence[bytes]) -> list[Any]:
        """Send the commands and read a reply for each: ``int``, ``bytes``, ``list``, ``None`` or
        :class:`Refused`.

        Raises:
            OSError: not within the socket's timeout, or the server has gone.
        """
        self._socket.sendall(commands[0] if len(commands) == 1 else b"".join(commands))
        data = self._receive()
        if len(commands) == 1 and data[-2:] == b"\r\n":
            # The two replies of a decision, which are short. int() ignores the end of a line.
            if data[0] == _INTEGER:
                return [int(data[1:])]
            if data[:5] == b"*5\r\n:":
                numbers = data.split(b"\r\n:")
                if len(numbers) == 6:
                    return [[*map(int, numbers[1:])]]
        elif data[-2:] == b"\r\n" and data[0] == _INTEGER:
            # Several decisions, all of them "now": this takes a quarter of the time of a parser.
            numbers = data[1:].split(b"\r\n:")
            if len(numbers) == len(commands) == data.count(b"\r\n"):
                return [*map(int, numbers)]
        replies: list[Any] = []
        at = 0
        try:
            while len(replies) < len(commands):
                reply, at = _parsed(data, at)
                replies.append(reply)
        except IndexError:
            arriving = _Arriving(data[at:], self._receive)
            while len(replies) < len(commands):
                replies.append(arriving.reply())
        return replies

    def close(self) -> None:
        """Close it; nothing that is still on its way will be read."""
        self._connection.disconnect()

    def _receive(self, most: int = _CHUNK) -> bytes:
        try:
            data: bytes = self._socket.recv(most)
        except BlockingIOError as exc:
            raise TimeoutError("no reply in time") from exc
        if not data:
            raise ConnectionResetError("the server closed the connection")
        return data


def _leave_timeouts_to_the_kernel(connected: Any) -> None:
    """Python waits for a socket with a timeout by asking before each call whether it would block:
    two system calls more for a decision. TLS, and the sockets of greenlets, stay as they are."""
    if sys.platform != "linux" or type(connected) is not socket.socket:
        return
    timeout = connected.gettimeout()
    # Where greenlets have put theirs in its place, socket.socket is not Python's own.
    if not timeout or not isinstance(connected, _socket.socket):
        return
    seconds, rest = divmod(round(timeout * SECOND), SECOND)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connected.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", seconds, rest))
    connected.settimeout(None)


class _Arriving:
    """Replies that have not arrived as a whole: each byte is looked at once, however many pieces
    they come in.

    Args:
        data: what is there already.
        receive: waits for more, at most so many bytes.
    """

    def __init__(self, data: bytes, receive: Callable[[int], bytes]) -> None:
        self._data = bytearray(data)
        self._at = 0
        self._receive = receive

    def reply(self) -> Any:
        """The next one."""
        line = self._line()
        kind = line[0]
        if kind == _ARRAY:
            return [self.reply() for _ in range(int(line[1:]))]
        if kind != _BULK or line[1:] == b"-1":
            return _parsed(line + b"\r\n", 0)[0]
        size = int(line[1:])
        self._wait_for(self._at + size + 2)
        found = bytes(self._data[self._at : self._at + size])
        self._at += size + 2
        return found

    def _line(self) -> bytes:
        searched = self._at
        while (end := self._data.find(b"\r\n", searched)) < 0:
            searched = max(self._at, len(self._data) - 1)
            self._wait_for(len(self._data) + 1)
        line = bytes(self._data[self._at : end])
        self._at = end + 2
        return line

    def _wait_for(self, length: int) -> None:
        while len(self._data) < length:
            self._data += self._receive(_LONG_CHUNK)


def _parsed(data: bytes, at: int) -> tuple[Any, int]:
    """The reply that begins at ``at``, and where the next one does.

    Raises:
        IndexError: it has not arrived as a whole.
    """
    end = data.find(b"\r\n", at)
    if end < 0:
        raise IndexError(at)
    kind, line, after = data[at], data[at + 1 : end], end + 2
    if kind == _INTEGER:
        return int(line), after
    if kind == _BULK:
        size = int(line)
        if size < 0:
            return None, after
        if len(data) < after + size + 2:
            raise IndexError(at)
        return data[after : after + size], after + size + 2
    if kind == _ARRAY:
        items = []
        for _ in range(int(line)):
            item, after = _parsed(data, after)
            items.append(item)
        return items, after
    if kind == _ERROR:
        code, _, text = line.decode(errors="replace").partition(" ")
        return Refused(code, text), after
    if kind == _STATUS:
        return line, after
    raise ConnectionError(f"the server does not speak version 2 of its protocol: {data[:1]!r}")
