"""A private RabbitMQ: own node name, ports, name daemon (epmd), data folder and cookie.

The machine's own RabbitMQ service, running or not, is neither used nor disturbed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import uuid
from pathlib import Path
from typing import Self

from governor.testing.child_process import ChildProcess

# Debian's command on PATH switches to the service's user and folders; this one does not.
_DEBIAN_PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"
_READY = "Server startup complete"
_START_SECONDS = 60.0
_START_ATTEMPTS = 3


def missing() -> str | None:
    """Why there can be no RabbitMQ here, or ``None``."""
    if _program() is None:
        return "RabbitMQ is not installed: install the package rabbitmq-server"
    if _erlang("epmd") is None or _erlang("erl_call") is None:
        return "Erlang lacks epmd or erl_call: install the package erlang-base"
    return None


class PrivateRabbitMQ:
    """A RabbitMQ server on 127.0.0.1, started by the constructor (3 to 8 s).

    Args:
        directory: an existing folder for everything it writes.

    Raises:
        AssertionError: it did not start; carries its log.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.log_path = directory / "rabbitmq.log"
        self._cookie = uuid.uuid4().hex
        (directory / "enabled_plugins").write_text("[].\n")
        (directory / "rabbitmq.conf").write_text("log.console = true\nlog.console.level = info\n")
        cookie = directory / ".erlang.cookie"
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)
        for attempt in range(_START_ATTEMPTS):
            self.port, self._epmd_port, distribution_port = _free_ports(3)
            self._node = f"governor{self.port}@localhost"
            self._env = self._environment(distribution_port)
            try:
                self._epmd = self._start_epmd()
                try:
                    self.start()
                except BaseException:
                    self._epmd.kill()
                    raise
            except _PortTakenError:
                if attempt == _START_ATTEMPTS - 1:
                    raise
            else:
                return

    def url(self, vhost: str = "/") -> str:
        """URL of a virtual host."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{'' if vhost == '/' else vhost}"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.running

    def log(self) -> str:
        """What the server wrote since its last start."""
        return self.log_path.read_bytes()[self._seen :].decode(errors="replace")

    def add_vhost(self) -> str:
        """A new, empty virtual host open to everybody; returns its name."""
        name = f"v{uuid.uuid4().hex[:12]}"
        self.call(
            f'ok = rabbit_vhost:add(<<"{name}">>, <<"test">>),'
            f'ok = rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>,'
            '<<".*">>, <<".*">>, <<".*">>, <<"test">>).'
        )
        return name

    def delete_vhost(self, name: str) -> None:
        """Remove a virtual host with its queues; its connections are closed."""
        self.call(f'rabbit_vhost:delete(<<"{name}">>, <<"test">>).')

    def call(self, erlang: str) -> str:
        """Evaluate Erlang in the server and return what it printed.

        Raises:
            AssertionError: the expression failed; carries its error.
        """
        done = subprocess.run(
            [str(_erlang("erl_call")), "-sname", self._node, "-c", self._cookie, "-e"],
            input=erlang + "\n",
            env=self._env,
            text=True,
            capture_output=True,
            timeout=30,
            check=False,
        )
        answer = done.stdout + done.stderr
        assert answer.startswith("{ok,"), f"{erlang}\n{answer}"
        return answer

    def start(self) -> None:
        """Start the server after :meth:`kill`; durable data are kept."""
        self._seen = self.log_path.stat().st_size if self.log_path.exists() else 0
        self._process = ChildProcess([str(_program())], log=self.log_path, env=self._env)
        deadline = time.monotonic() + _START_SECONDS
        while _READY not in self.log():
            if not self._process.running or time.monotonic() > deadline:
                self._process.kill()
                taken = "eaddrinuse" in self.log()
                raise (_PortTakenError if taken else AssertionError)(
                    f"RabbitMQ did not start. Its log:\n{self.log()}"
                )
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL the server."""
        self._process.kill()

    def restart(self) -> None:
        """End the server in order, if it runs, and start it again; durable data are kept."""
        self._process.stop(timeout=30)
        self.start()

    def stop(self) -> None:
        """End the server and its name daemon."""
        # Its data are not needed again: an orderly end would only take seconds more.
        self._process.kill()
        self._epmd.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _environment(self, distribution_port: int) -> dict[str, str]:
        folder = self._directory
        return {
            **{name: value for name, value in os.environ.items() if "RABBITMQ" not in name},
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "no-such-file"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_LOGS": "-",
            # The script becomes the server instead of guarding it: one process to signal.
            "RUNNING_UNDER_SYSTEMD": "true",
            # Idle schedulers sleep: the tests share their cores with it.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none",
        }

    def _start_epmd(self) -> ChildProcess:
        """The name daemon, as our child: Erlang would start one that outlives the server."""
        log = self._directory / "epmd.log"
        epmd = ChildProcess(
            [str(_erlang("epmd")), "-port", str(self._epmd_port), "-address", "127.0.0.1"],
            log=log,
            env=self._env,
        )
        deadline = time.monotonic() + 10
        while not _listens(self._epmd_port):
            if not epmd.running or time.monotonic() > deadline:
                epmd.kill()
                raise _PortTakenError(f"epmd did not start:\n{log.read_text()}")
            time.sleep(0.01)
        return epmd


class _PortTakenError(AssertionError):
    """Another process listens on a port we had chosen."""


def _program() -> str | None:
    if os.access(_DEBIAN_PROGRAM, os.X_OK):
        return _DEBIAN_PROGRAM
    return shutil.which("rabbitmq-server")


def _erlang(name: str) -> str | None:
    """A program of Erlang's, which are not all on PATH."""
    if found := shutil.which(name):
        return found
    erl = shutil.which("erl")
    return shutil.which(name, path=str(Path(erl).resolve().parent)) if erl else None


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
