"""A TCP proxy that misbehaves on demand, between a client and a server.

::

    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        client = redis.Redis(port=proxy.port)
        proxy.fault = Fault.LOST_REPLY      # the command is executed, its reply never comes
        ...
        proxy.fault = Fault.NONE
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from enum import Enum, auto
from typing import Any, Self


class Fault(Enum):
    """What the proxy does; a change takes effect at once, on open connections too."""

    NONE = auto()
    BLACK_HOLE = auto()
    """Connections are taken, bytes vanish in both directions."""
    LOST_REPLY = auto()
    """Requests reach the server, replies vanish."""
    RESET = auto()
    """Connections are reset: open ones now, new ones as soon as they open."""
    REFUSE = auto()
    """Nobody listens; open connections are reset."""


class FaultProxy:
    """A proxy on a free port of 127.0.0.1 in a thread of its own.

    Args:
        host, port: the server behind it.

    Attributes:
        port: where clients connect.
        latency: seconds each reply is kept back; may be changed at any time.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._fault = Fault.NONE
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.latency = 0.0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self._listen())

    @property
    def fault(self) -> Fault:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._run(self._change(fault))

    def stop(self) -> None:
        """Reset all connections and end."""
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _change(self, fault: Fault) -> None:
        self._fault = fault
        if fault in (Fault.RESET, Fault.REFUSE):
            self._reset_all()
        if fault is Fault.REFUSE and self._server is not None:
            self._server.close()
            self._server = None
        elif fault is not Fault.REFUSE and self._server is None:
            await self._listen()

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        self._reset_all()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _reset_all(self) -> None:
        for writer in self._writers:
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._fault in (Fault.RESET, Fault.REFUSE):
            _reset(writer)
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:  # the server is down: so are we
            _reset(writer)
            return
        pair = {writer, server_writer}
        self._writers |= pair
        try:
            await asyncio.gather(
                self._pump(reader, server_writer, lost=(Fault.BLACK_HOLE,)),
                self._pump(
                    server_reader,
                    writer,
                    lost=(Fault.BLACK_HOLE, Fault.LOST_REPLY),
                    replies=True,
                ),
            )
        except (ConnectionError, asyncio.CancelledError):
            pass  # one side is gone; the other follows
        finally:
            self._writers -= pair
            for each in pair:
                each.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        lost: tuple[Fault, ...],
        replies: bool = False,
    ) -> None:
        while data := await reader.read(65_536):
            if replies and self.latency:
                await asyncio.sleep(self.latency)
            if self._fault not in lost:
                writer.write(data)
                await writer.drain()
        raise ConnectionResetError  # end of stream: close both sides


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN: the peer's next read fails rather than ends."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
