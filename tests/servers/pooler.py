"""A connection pooler before PostgreSQL, as strict as PgBouncer where it pools transactions.

It refuses startup parameters that it does not know, and gives each transaction another server
connection: what a session has set or prepared is gone with its first transaction.
"""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from typing import Self

_KNOWN = {"user", "database", "client_encoding", "datestyle", "timezone",
          "standard_conforming_strings", "application_name"}  # fmt: skip
_SSL_OR_GSS = {80877103, 80877104}


class Pooler:
    """A pooler on a free port of 127.0.0.1 in threads of its own.

    Attributes:
        port: where clients connect.
        refused: startup parameters that were.
        used: server connections.
    """

    def __init__(self, port: int) -> None:
        self._behind = ("127.0.0.1", port)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.refused: list[str] = []
        self.used = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            start = _startup(client)
            while struct.unpack("!i", start[4:8])[0] in _SSL_OR_GSS:
                client.sendall(b"N")
                start = _startup(client)
            words = start[8:].rstrip(b"\0").split(b"\0")
            unknown = {word.decode() for word in words[::2]} - _KNOWN
            if unknown:
                self.refused += unknown
                text = f"unsupported startup parameter: {unknown.pop()}"
                fields = f"SFATAL\0C08P01\0M{text}\0\0".encode()
                client.sendall(b"E" + struct.pack("!i", 4 + len(fields)) + fields)
                return
            server, hello = self._server(start)
            client.sendall(hello)
            try:
                while (message := _message(client))[:1] != b"X":
                    server.sendall(message)
                    if message[:1] not in b"QS":
                        continue
                    while (reply := _message(server))[:1] != b"Z":
                        client.sendall(reply)
                    if reply[5:6] == b"I":
                        server.close()
                        server, _ = self._server(start)
                    client.sendall(reply)
            finally:
                server.close()

    def _server(self, start: bytes) -> tuple[socket.socket, bytes]:
        server = socket.create_connection(self._behind)
        server.sendall(start)
        hello = b""
        while True:
            message = _message(server)
            hello += message
            if message[:1] == b"Z":
                self.used += 1
                return server, hello


def _startup(client: socket.socket) -> bytes:
    head = _exactly(client, 4)
    return head + _exactly(client, struct.unpack("!i", head)[0] - 4)


def _message(peer: socket.socket) -> bytes:
    head = _exactly(peer, 5)
    return head + _exactly(peer, struct.unpack("!i", head[1:])[0] - 4)


def _exactly(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = peer.recv(size - len(data))
        if not more:
            raise ConnectionResetError
        data += more
    return data
