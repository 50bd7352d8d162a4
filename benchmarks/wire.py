"""The bytes that a store puts on the wire, taken down on their way to the server."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit


class Wire:
    """Passes connections on to a server, and keeps what the client sends.

    Args:
        url: of the server; :attr:`url` is the one to give to a client.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname or "127.0.0.1", parts.port or 6379)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}{parts.path}"
        self._taken = bytearray()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def sent(self, call: Callable[[], object]) -> bytes:
        """Take down what a client sends for this call, which returns once it has its reply."""
        self._taken.clear()
        call()
        return bytes(self._taken)

    @staticmethod
    def packed(*words: str) -> bytes:
        """A command as Redis reads it."""
        parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
        return "".join([f"*{len(words)}\r\n", *parts]).encode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for end in [self._listener, *self._sockets]:
            # A thread may be reading from it: closing alone would not wake it.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                threading.Thread(target=self._up, args=(client, server), daemon=True).start()
                threading.Thread(target=self._down, args=(server, client), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                self._taken += data
                server.sendall(data)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
