"""Renews what running executions hold: the claims of non-idempotent ones, and their places under
concurrency limits.

A thread of its own does it: a worker whose loop is busy must not look dead.
"""

from __future__ import annotations

import logging
import threading

from governor.clock import Clock, seconds
from governor.errors import StoreUnavailable
from governor.ports import LimiterStore, Settlement

_log = logging.getLogger("governor")


class Holdings:
    """What this process's running executions hold."""

    def __init__(self, store: LimiterStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[str, tuple[Settlement, int]] = {}
        self._thread: threading.Thread | None = None
        self._some = threading.Event()

    def add(self, renewal: Settlement) -> None:
        """Settle this renewal every third of its lease, until its holder is removed."""
        due = self._clock.monotonic() + renewal.lease // 3
        with self._lock:
            self._held[renewal.holder] = (renewal, due)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, args=(renewal.lease,), name="governor-claims", daemon=True
                )
                self._thread.start()
        self._some.set()

    def remove(self, holder: str) -> None:
        """Let it be: it is finished, released, or left to run out."""
        with self._lock:
            self._held.pop(holder, None)
            if not self._held:
                self._some.clear()

    def renew(self, now: int) -> None:
        """Renew what is due at monotonic microseconds ``now``."""
        with self._lock:
            due = [renewal for renewal, moment in self._held.values() if moment <= now]
        for renewal in due:
            try:
                self._store.settle(renewal)
            except StoreUnavailable as exc:
                _log.error("%s A claim or a place was not renewed", exc)
                continue
            with self._lock:
                if renewal.holder in self._held:
                    self._held[renewal.holder] = (renewal, now + renewal.lease // 3)

    def _run(self, lease: int) -> None:
        pause = threading.Event()
        while True:
            self._some.wait()
            pause.wait(seconds(lease // 9))
            self.renew(self._clock.monotonic())
