"""One connection to the limiter store, on which commands are sent as they were packed.

redis-py opens it: addresses, TLS, authentication, the database. Its own sending and reading of a
command is left out, because it was measured to take a quarter of the time of a decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_CHUNK = 4_096


@dataclass(frozen=True, slots=True)
class Refused:
    """What the server said instead of executing a command.

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

    def exchange(self, commands: Sequence[bytes]) -> list[Any]:
        """Send the commands and read a reply for each: ``int``, ``bytes``, ``list``, ``None`` or
        :class:`Refused`.

        Raises:
            OSError: not within the socket's timeout, or the server has gone.
        """
        self._socket.sendall(commands[0] if len(commands) == 1 else b"".join(commands))
        data = self._receive()
        if len(commands) == 1 and data[-2:] == b"\r\n":
            # The two replies of a decision, which are short.
            if data[:1] == b":":
                return [int(data[1:-2])]
            if data[:5] == b"*5\r\n:" and data.count(b"\r\n:") == data.count(b"\r\n") - 1 == 5:
                return [[int(number) for number in data[5:-2].split(b"\r\n:")]]
        replies: list[Any] = []
        at = 0
        while len(replies) < len(commands):
            try:
                reply, at = _parsed(data, at)
            except IndexError:
                data = data[at:] + self._receive()
                at = 0
            else:
                replies.append(reply)
        return replies

    def close(self) -> None:
        """Close it; nothing that is still on its way will be read."""
        self._connection.disconnect()

    def _receive(self) -> bytes:
        data: bytes = self._socket.recv(_CHUNK)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        return data


def _parsed(data: bytes, at: int) -> tuple[Any, int]:
    """The reply that begins at ``at``, and where the next one does.

    Raises:
        IndexError: it has not arrived as a whole.
    """
    end = data.find(b"\r\n", at)
    if end < 0:
        raise IndexError(at)
    line, after = data[at + 1 : end], end + 2
    match data[at : at + 1]:
        case b":":
            return int(line), after
        case b"$":
            size = int(line)
            if size < 0:
                return None, after
            if len(data) < after + size + 2:
                raise IndexError(at)
            return data[after : after + size], after + size + 2
        case b"*":
            items = []
            for _ in range(int(line)):
                item, after = _parsed(data, after)
                items.append(item)
            return items, after
        case b"-":
            code, _, text = line.decode(errors="replace").partition(" ")
            return Refused(code, text), after
        case b"+":
            return line, after
        case kind:
            raise ConnectionError(f"the server does not speak version 2 of its protocol: {kind!r}")
