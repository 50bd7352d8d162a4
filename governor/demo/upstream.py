"""The stand-in third-party API: a real HTTP server with quotas of its own.

It runs in a process of its own (``python -m governor.demo.upstream --config JSON --ledger
PATH``) and knows nothing of the governor: it counts calls with the code below, answers 429
with ``Retry-After`` over quota, fails now and then, and writes a ledger line when a call
begins and another when it ends. The ledger, not our own counters, says what happened.

A call names itself by three headers: ``X-Task-Id``, ``Idempotency-Key``, ``X-Account``.
The same idempotency key has the same effect once: a repetition is answered from memory.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Protocol

_SECOND_NS = 1_000_000_000


class UpstreamQuota(Protocol):
    """One rule of the API, for one account or for all."""

    def wait(self, now: int) -> float:
        """Seconds until one more call is allowed at ``now`` (nanoseconds); 0: now."""
        ...

    def take(self, now: int) -> None:
        """Count one call."""
        ...


class TokenBucket:
    """``burst`` tokens, refilled at ``rate`` a second; a call takes one."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at: int | None = None

    def wait(self, now: int) -> float:
        if self._at is not None:
            gained = (now - self._at) / _SECOND_NS * self._rate
            self._tokens = min(self._burst, self._tokens + gained)
        self._at = now
        # A billionth of a token is the float's rounding, not a call too many.
        return 0.0 if self._tokens >= 1 - 1e-9 else (1 - self._tokens) / self._rate

    def take(self, now: int) -> None:
        self._tokens -= 1


class FixedWindow:
    """At most ``count`` calls in each ``seconds`` by the clock."""

    def __init__(self, count: int, seconds: float) -> None:
        self._count = count
        self._length = int(seconds * _SECOND_NS)
        self._window = -1
        self._used = 0

    def wait(self, now: int) -> float:
        window = now // self._length
        if window != self._window:
            self._window, self._used = window, 0
        if self._used < self._count:
            return 0.0
        return ((window + 1) * self._length - now) / _SECOND_NS

    def take(self, now: int) -> None:
        self._used += 1


class SlidingWindow:
    """At most ``count`` calls in any ``seconds``."""

    def __init__(self, count: int, seconds: float) -> None:
        self._count = count
        self._length = int(seconds * _SECOND_NS)
        self._calls: deque[int] = deque()

    def wait(self, now: int) -> float:
        while self._calls and self._calls[0] <= now - self._length:
            self._calls.popleft()
        if len(self._calls) < self._count:
            return 0.0
        return (self._calls[0] + self._length - now) / _SECOND_NS

    def take(self, now: int) -> None:
        self._calls.append(now)


def make_quota(rule: Mapping[str, Any]) -> UpstreamQuota:
    """A fresh counter for a rule of the configuration.

    Raises:
        ValueError: the rule's ``kind`` is none of bucket, fixed, sliding.
    """
    match rule["kind"]:
        case "bucket":
            return TokenBucket(rule["rate"], rule["burst"])
        case "fixed":
            return FixedWindow(rule["count"], rule["seconds"])
        case "sliding":
            return SlidingWindow(rule["count"], rule["seconds"])
        case other:
            raise ValueError(f"kind: {other!r} is no quota; use bucket, fixed or sliding")


class Api:
    """One API of the stand-in: its quotas, its faults and its speed.

    Configuration keys (all but ``name`` and ``quotas`` may be left out): ``quotas`` (rules,
    each with ``per_account`` and ``path``, the first part of the path it counts),
    ``fast_ms`` and ``slow_ms`` (least and most), ``slow_share``, ``transient_share`` (answered
    500 or 502), ``unprovoked_share`` (429 or 503 with ``Retry-After``, under quota), ``refuses``
    (a field of the body, the value it must not have, the 4xx it brings).

    Verdicts: ``ok``, ``repeated`` (the same key again: answered, no second effect), ``refused``
    (4xx), ``transient`` (5xx); and two that mean the call did not happen: ``rejected`` (over
    quota) and ``throttled`` (unprovoked).

    A body may ask for its own slowness with ``work_ms``. Faults depend on the seed, the end of
    the task id and how often that task has called, never on the order of arrival: the same
    tasks meet the same faults.
    """

    def __init__(self, config: Mapping[str, Any], seed: int) -> None:
        self.name: str = config["name"]
        self._seed = seed
        self._rules: Sequence[Mapping[str, Any]] = config["quotas"]
        self._quotas: dict[tuple[int, str], UpstreamQuota] = {}
        self._fast: tuple[float, float] = tuple(config.get("fast_ms", (2, 5)))
        self._slow: tuple[float, float] = tuple(config.get("slow_ms", (50, 300)))
        self._slow_share: float = config.get("slow_share", 0.0)
        self._transient_share: float = config.get("transient_share", 0.0)
        self._unprovoked_share: float = config.get("unprovoked_share", 0.0)
        self._refuses: Mapping[str, Any] | None = config.get("refuses")
        self._attempts: Counter[str] = Counter()
        self._effects: set[str] = set()
        for rule in self._rules:
            make_quota(rule)  # a wrong rule is found at the start, not at the first call

    def decide(
        self,
        now: int,
        *,
        task_id: str,
        key: str,
        account: str,
        path: str,
        body: Mapping[str, Any],
    ) -> tuple[str, int, dict[str, str], float]:
        """Verdict, HTTP status, headers and seconds of work for one call. Not thread-safe."""
        self._attempts[task_id] += 1
        quotas = [
            self._quotas.setdefault((index, who), make_quota(rule))
            for index, rule in enumerate(self._rules)
            if rule.get("path") in (None, path.partition("/")[0])
            for who in (account if rule.get("per_account") else "",)
        ]
        wait = max((quota.wait(now) for quota in quotas), default=0.0)
        if wait > 0:
            return "rejected", 429, {"Retry-After": str(math.ceil(wait))}, 0.0
        for quota in quotas:
            quota.take(now)
        work = body["work_ms"] / 1000 if "work_ms" in body else self._work(task_id)
        if self._dice("unprovoked", task_id) < self._unprovoked_share:
            status = (429, 503)[int(self._dice("status", task_id) * 2)]
            return "throttled", status, {"Retry-After": "1"}, 0.0
        if self._dice("transient", task_id) < self._transient_share:
            status = (500, 502)[int(self._dice("status", task_id) * 2)]
            return "transient", status, {}, work
        if self._refuses and body.get(self._refuses["field"]) == self._refuses["value"]:
            return "refused", int(self._refuses["status"]), {}, work
        if key in self._effects:
            return "repeated", 200, {"Idempotent-Replayed": "true"}, 0.0
        if key:
            self._effects.add(key)
        return "ok", 200, {}, work

    def _work(self, task_id: str) -> float:
        slow = self._dice("slow", task_id) < self._slow_share
        least, most = self._slow if slow else self._fast
        return (least + (most - least) * self._dice("work", task_id)) / 1000

    def _dice(self, what: str, task_id: str) -> float:
        """A number in [0, 1)."""
        number = task_id.rpartition("-")[2]
        text = f"{self._seed}:{self.name}:{what}:{number}:{self._attempts[task_id]}"
        return int.from_bytes(blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


class LedgerFile:
    """Appends JSON lines, each in one write: a killed process leaves whole lines."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, **fields: object) -> None:
        os.write(self._file, (json.dumps(fields, separators=(",", ":")) + "\n").encode())


class StandIn(ThreadingHTTPServer):
    """The server. Its address is ``server_address``; ``serve_forever`` runs it."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, config: Mapping[str, Any], ledger: LedgerFile) -> None:
        seed = int(config.get("seed", 1))
        self._apis = {api["name"]: Api(api, seed) for api in config["apis"]}
        self._ledger = ledger
        self._lock = threading.Lock()
        self._calls = 0
        super().__init__(("127.0.0.1", 0), _Call)

    def begin(
        self, api: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any]
    ) -> tuple[int, int, dict[str, str], float] | None:
        """Decide one call and write that it began: its number, status, headers and work.

        ``None`` when there is no such API.
        """
        if api not in self._apis:
            return None
        task_id = headers.get("X-Task-Id", "")
        key = headers.get("Idempotency-Key", "")
        account = headers.get("X-Account", "")
        with self._lock:
            now = time.monotonic_ns()
            verdict, status, answer, work = self._apis[api].decide(
                now, task_id=task_id, key=key, account=account, path=path, body=body
            )
            self._calls += 1
            self._ledger.write(
                event="began",
                call=self._calls,
                task=task_id,
                key=key,
                api=api,
                account=account,
                verdict=verdict,
                status=status,
                mono=now // 1000,
                wall=time.time_ns() // 1000,
            )
            return self._calls, status, answer, work

    def end(self, call: int, *, answered: bool) -> None:
        """Write that a call ended; ``answered`` is false when the client had gone."""
        self._ledger.write(
            event="ended",
            call=call,
            answered=answered,
            mono=time.monotonic_ns() // 1000,
            wall=time.time_ns() // 1000,
        )

    def handle_error(self, request: object, client_address: object) -> None:
        # A client that dies between two calls is this server's daily business.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Call(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave in one packet
    server: StandIn
    _reasons: ClassVar[dict[int, str]] = {200: "done", 429: "too many requests"}

    def do_POST(self) -> None:
        try:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(raw or b"{}")
        except ValueError:
            self._answer(400, {}, "the body is not JSON")
            return
        api, _, path = self.path.strip("/").partition("/")
        headers = {name: value for name, value in self.headers.items() if value}
        begun = self.server.begin(api, path, _canonical(headers), body)
        if begun is None:
            self._answer(404, {}, "no such API")
            return
        call, status, answer, work = begun
        time.sleep(work)
        try:
            self._answer(status, answer, self._reasons.get(status, "failed"))
            answered = True
        except ConnectionError:
            answered = False
            self.close_connection = True
        self.server.end(call, answered=answered)

    def _answer(self, status: int, headers: Mapping[str, str], text: str) -> None:
        body = json.dumps({"status": status, "message": text}).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """The ledger is the log."""


def _canonical(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.title(): value for name, value in headers.items()}


def main() -> None:
    """Serve until SIGTERM. The ledger's first line says on which port."""
    parser = argparse.ArgumentParser(description="A stand-in third-party API with quotas.")
    parser.add_argument("--config", required=True, help="JSON: {seed, apis: [...]}")
    parser.add_argument("--ledger", required=True, type=Path, help="file the calls are written to")
    options = parser.parse_args()
    ledger = LedgerFile(options.ledger)
    with StandIn(json.loads(options.config), ledger) as server:
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ledger.write(event="listening", port=server.server_address[1])
        stop.wait()
        server.shutdown()


if __name__ == "__main__":
    main()
