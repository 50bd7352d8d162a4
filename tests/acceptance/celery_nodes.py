"""pytest-celery's containers as plain local processes: no Docker, everything else stock.

pytest-celery drives an object of the Docker client's through its own container classes. The
classes stay; the object underneath is one of ours, with the few members they use.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_celery import CeleryWorkerContainer, RabbitMQContainer, RedisContainer

from governor.testing.redis_server import PrivateRedis
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.servers.worker_process import CeleryProcess


class _Local:
    """What differs for a process: its port is open under its real number, here."""

    ports: Any

    def get_addr(self, port: str) -> tuple[str, int]:
        return "127.0.0.1", self.ports[port][0]

    def get_open_tcp_ports(self) -> list[str]:
        """The container-side numbers of the ports that answer."""
        return [port.split("/")[0] for port in self.ports if _listens(self.ports[port][0])]


class LocalRedisContainer(_Local, RedisContainer):
    """Stock Redis container over a private server."""


class LocalRabbitMQContainer(_Local, RabbitMQContainer):
    """Stock RabbitMQ container over a virtual host of a private server."""

    @property
    def vhost(self) -> str:
        return self.attrs["Config"]["VirtualHost"]


class LocalWorkerContainer(_Local, CeleryWorkerContainer):
    """Stock worker container over a worker process."""


class _Process(ABC):
    """The members of a Docker container that pytest-celery uses, over a process.

    Args:
        name: what the node is called in messages.
        host: host (and port) other nodes reach it at.
        port: real port by its number inside a container.
        env: added to our environment.
        cwd: working directory.
    """

    def __init__(
        self,
        name: str,
        host: str,
        port: Mapping[str, int],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._cwd = cwd
        # `celery` and `python` are those of our own environment.
        programs = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        self._env = {**os.environ, "PATH": os.pathsep.join(programs), **(env or {})}
        self.id = uuid.uuid4().hex
        self.name = name
        ports = {inside: [{"HostPort": str(real)}] for inside, real in port.items()}
        self.attrs: dict[str, Any] = {
            "Config": {"Hostname": host, "Env": []},
            "NetworkSettings": {"Networks": {"local": {"IPAddress": "127.0.0.1"}}, "Ports": ports},
            "HostConfig": {"PortBindings": None},
        }

    @property
    def status(self) -> str:
        return "running" if self._running() else "exited"

    def reload(self) -> None:
        """The state is always read live."""

    def kill(self, signal: str | int | None = None) -> None:
        """Send a signal, by default SIGKILL, which ends the node's children too."""
        number = _signal_number(signal)
        if number == _signal_number("SIGKILL"):
            self._kill()
        else:
            self._signal(number)

    @abstractmethod
    def restart(self, timeout: float = 10) -> None:
        """End the node in order, in ``timeout`` seconds at most, and start it again."""

    @abstractmethod
    def logs(self) -> bytes:
        """Everything the node logged, earlier starts included."""

    def exec_run(self, command: str | Sequence[str]) -> tuple[int, bytes]:
        """Run a command where the node runs; its exit code and output."""
        words = shlex.split(command) if isinstance(command, str) else list(command)
        done = subprocess.run(
            words, env=self._env, cwd=self._cwd, capture_output=True, check=False, timeout=60
        )
        return done.returncode, done.stdout + done.stderr

    @abstractmethod
    def remove(self) -> None:
        """End the node for good."""

    @abstractmethod
    def _running(self) -> bool: ...

    @abstractmethod
    def _kill(self) -> None: ...

    @abstractmethod
    def _signal(self, number: int) -> None: ...


class RedisProcess(_Process):
    """A private Redis as a container."""

    def __init__(self, server: PrivateRedis) -> None:
        super().__init__("redis", f"127.0.0.1:{server.port}", {"6379/tcp": server.port})
        self._server = server

    def restart(self, timeout: float = 10) -> None:
        self._server.restart()

    def logs(self) -> bytes:
        return self._server.log().encode()

    def remove(self) -> None:
        self._server.stop()

    def _running(self) -> bool:
        return self._server.running

    def _kill(self) -> None:
        self._server.kill()

    def _signal(self, number: int) -> None:
        os.kill(self._server.pid, number)


class RabbitMQProcess(_Process):
    """A new virtual host of a private RabbitMQ as a container."""

    def __init__(self, server: PrivateRabbitMQ) -> None:
        super().__init__("rabbitmq", f"127.0.0.1:{server.port}", {"5672/tcp": server.port})
        self._server = server
        self.attrs["Config"]["VirtualHost"] = self._vhost = server.add_vhost()

    def restart(self, timeout: float = 10) -> None:
        self._server.restart()

    def logs(self) -> bytes:
        return self._server.log_path.read_bytes()

    def remove(self) -> None:
        """Only the virtual host goes: the server serves the next test."""
        if not self._server.running:
            self._server.start()
        self._server.delete_vhost(self._vhost)

    def _running(self) -> bool:
        return self._server.running

    def _kill(self) -> None:
        self._server.kill()

    def _signal(self, number: int) -> None:
        os.kill(self._server.pid, number)


class WorkerNode(_Process):
    """A worker process as a container.

    Args:
        command: ``celery -A … worker …`` as pytest-celery composes it.
        env: the worker's own variables, as pytest-celery composes them.
        path: folders for the import path; the first is the working directory.
        directory: folder for its log.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        *,
        path: Sequence[Path],
        directory: Path,
    ) -> None:
        python_path = {"PYTHONPATH": os.pathsep.join(map(str, path))}
        super().__init__("worker", "localhost", {}, env={**env, **python_path}, cwd=path[0])
        # The node is addressed as name@id; %h would be this machine's name.
        words = [word.replace("%h", self.id[:12]) for word in command]
        self.process = CeleryProcess(
            words,
            name=words[words.index("-n") + 1],
            directory=directory,
            env=self._env,
            cwd=path[0],
        )

    def restart(self, timeout: float = 10) -> None:
        if self._running():
            self.process.terminate(timeout)
        self.process.start()

    def logs(self) -> bytes:
        return self.process.log_path.read_bytes()

    def remove(self) -> None:
        self.process.kill()

    def _running(self) -> bool:
        return self.process.running

    def _kill(self) -> None:
        self.process.kill()

    def _signal(self, number: int) -> None:
        self.process.signal(number)


def write_volume(content: Mapping[str, bytes], directory: Path) -> Path:
    """Write the files pytest-celery would put into the worker's volume."""
    for name, data in content.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory


def _signal_number(name: str | int | None) -> int:
    if isinstance(name, int):
        return name
    return int(signal.Signals[name or "SIGKILL"])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
