"""Replies of the limiter store are read as they arrive."""

from __future__ import annotations

from typing import Any

import pytest

from governor.stores.redis.resp import Connection, Refused

REPLIES = (
    b"*4\r\n$3\r\na\r\n\r\n:-7\r\n*0\r\n$-1\r\n"
    b"+OK\r\n-NOSCRIPT none such\r\n$0\r\n\r\n:12\r\n*2\r\n*1\r\n:1\r\n$2\r\n\r\n\r\n"
)
READ = [[b"a\r\n", -7, [], None], b"OK", Refused("NOSCRIPT", "none such"), b"", 12, [[1], b"\r\n"]]


class Server:
    """A connection of redis-py's whose server sends a reply in pieces."""

    def __init__(self, data: bytes, piece: int) -> None:
        self._sock = self
        self.data = data
        self.piece = piece
        self.received = 0

    def connect(self) -> None: ...

    def sendall(self, _: bytes) -> None: ...

    def recv(self, most: int) -> bytes:
        self.received += 1
        size = min(self.piece, most)
        found, self.data = self.data[:size], self.data[size:]
        return found


def exchange(server: Any, commands: int) -> list[Any]:
    return Connection(server).exchange([b"?"] * commands)


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 20, 1000])
def test_replies_in_pieces_are_the_same_replies(piece: int) -> None:
    """Wherever a reply is cut, what is read is the same."""
    assert exchange(Server(REPLIES, piece), len(READ)) == READ


def test_a_server_that_goes_away_in_the_middle() -> None:
    """A reply that never comes to its end is an error, not half a reply."""
    with pytest.raises(ConnectionResetError):
        exchange(Server(REPLIES[:-4], 5), len(READ))


@pytest.mark.timeout(20)
def test_a_long_reply_is_looked_at_once() -> None:
    """A reply of two hundred thousand parts takes no longer for arriving in many pieces."""
    items = [str(n).encode() for n in range(200_000)]
    parts = b"".join(b"$%d\r\n%s\r\n" % (len(item), item) for item in items)
    server = Server(b"*%d\r\n%s" % (len(items), parts), 16_384)
    assert exchange(server, 1) == [items]
    assert server.received > 100
