"""Calls at 100/s into a limiter that nobody here wrote: nginx ``limit_req`` with a small burst.

Each of eight processes waits for its limiter's permission, by the limiter's own way of waiting,
and then calls nginx, which answers 429 to what is too much. The quota used is what nginx let
through, as a share of its rate, after the first second. The governor is asked at its store, in a
direct loop that sleeps until its slot; there is no Celery on either side.

    python -m benchmarks.pacing_strict --seconds 8
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from rich.table import Table

from benchmarks.figures import delivered
from benchmarks.fleet import main, wait_until
from benchmarks.ours import Ours
from benchmarks.peers import Peer, available
from benchmarks.processes import Barrier, together
from governor.testing.child_process import ChildProcess
from governor.testing.redis_server import PrivateRedis

RATE = 100
BURST = 5

_PROCESSES = 8
_SKIP = 1.0

_CONFIG = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log error;
events {{ worker_connections 256; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    limit_req_zone $server_port zone=calls:1m rate={rate}r/s;
    limit_req_status 429;
    server {{
        listen 127.0.0.1:{port};
        root {folder};
        location / {{
            limit_req zone=calls burst={burst} nodelay;
            # A return in this location would answer before the limit is looked at.
            try_files /nothing @ok;
        }}
        location @ok {{ return 200; }}
    }}
}}
"""


class Nginx:
    """A private nginx with one limit, on a free port of this machine.

    Raises:
        SystemExit: nginx is not on PATH.
    """

    def __init__(self, folder: Path, rate: int, burst: int) -> None:
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            sys.exit("nginx is not on PATH. Install it, for example your system's nginx-light")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        config = folder / "nginx.conf"
        config.write_text(_CONFIG.format(folder=folder, port=self.port, rate=rate, burst=burst))
        log = folder / "nginx.out"
        self._process = ChildProcess([program, "-p", str(folder), "-c", str(config)], log=log)
        wait_until(self._answers, log, timeout=10)
        self._prove(burst)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.stop()

    def _prove(self, burst: int) -> None:
        """See it refuse, once: a limit that does not count would praise everybody."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        statuses = [call(connection) for _ in range(10 * (burst + 1))]
        connection.close()
        if http.client.OK not in statuses or http.client.TOO_MANY_REQUESTS not in statuses:
            raise RuntimeError(f"nginx does not limit: {sorted(set(statuses))}")

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def call(connection: http.client.HTTPConnection) -> int:
    """One call; its status."""
    connection.request("GET", "/")
    response = connection.getresponse()
    response.read()
    return response.status


def measure(seconds: int) -> dict[str, Any]:
    """Quota used and rejections, by limiter."""
    others, skipped = available()
    kinds: list[type[Peer]] = [Ours, *others]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="governor-bench-")))
        server = stack.enter_context(PrivateRedis(folder))
        nginx = stack.enter_context(Nginx(folder, RATE, BURST))
        found = {kind.name: paced(server.url, nginx.port, kind, seconds) for kind in kinds}
    return {
        "rate": RATE,
        "burst": BURST,
        "processes": _PROCESSES,
        "load_after": round(os.getloadavg()[0], 2),
        "limiters": found,
        "waits": {kind.name: kind.waits for kind in kinds},
        "skipped": skipped,
    }


def paced(url: str, port: int, kind: type[Peer], seconds: int) -> dict[str, float]:
    """Call as the limiter allows; what nginx made of it."""

    def work(_number: int, barrier: Barrier) -> list[tuple[float, int]]:
        peer = kind()
        peer.setup(url, RATE, BURST, f"pacing {kind.name}".replace(" ", "-"))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.connect()
        calls = []
        barrier.wait(60)
        deadline = time.monotonic() + _SKIP + seconds + 0.2
        while time.monotonic() < deadline:
            peer.acquire()
            moment = time.monotonic()
            calls.append((moment, call(connection)))
        return calls

    everyone = together(_PROCESSES, work, timeout=60 + 3 * seconds)
    calls = [made for one in everyone for made in one]
    passed = [moment for moment, status in calls if status == http.client.OK]
    rejected = sum(status == http.client.TOO_MANY_REQUESTS for _, status in calls)
    if len(passed) + rejected != len(calls):
        raise RuntimeError(f"nginx answered {sorted({status for _, status in calls})}")
    return {
        "calls": len(calls),
        "quota_used": round(delivered(passed, rate=RATE, skip=_SKIP, seconds=seconds), 4),
        "rejected": rejected,
        "rejected_share": round(rejected / len(calls), 5),
    }


def bars(figures: dict[str, Any]) -> Mapping[str, bool]:
    ours = figures["limiters"][Ours.name]
    return {
        "at least 99 % of the quota used": ours["quota_used"] >= 0.99,
        "at most 0.1 % rejected": ours["rejected_share"] <= 0.001,
    }


def tables(record: Mapping[str, Any]) -> Iterable[Table]:
    """One row for each limiter."""
    table = Table(
        title=f"{record['rate']} calls/s into nginx limit_req burst={record['burst']}, "
        f"{record['processes']} processes, load {record['load_before']} to {record['load_after']}"
    )
    table.add_column("")
    for name in ("quota used", "rejected", "calls"):
        table.add_column(name, justify="right")
    table.add_column("how it waits")
    for kind, one in record["limiters"].items():
        shares = (f"{100 * one['quota_used']:.1f} %", f"{100 * one['rejected_share']:.2f} %")
        table.add_row(kind, *shares, str(one["calls"]), record["waits"][kind])
    for sentence in record["skipped"]:
        table.add_row("", "", "", "", sentence)
    yield table


if __name__ == "__main__":
    main(__doc__, {"seconds": 8}, measure, bars, quick={"seconds": 1}, tables=tables)
