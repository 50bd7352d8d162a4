"""Renews the claims of non-idempotent executions while they run in this worker.

A thread of its own does it: a worker whose loop is busy must not look dead.
"""

from __future__ import annotations

import logging
import threading

from governor.clock import Clock, seconds
from governor.errors import StoreUnavailable
from governor.policy.decision import ClaimAsk
from governor.ports import ClaimAction, LimiterStore

_log = logging.getLogger("governor")


class RunningClaims:
    """The claims this worker holds."""

    def __init__(self, store: LimiterStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[str, tuple[str, ClaimAsk, int]] = {}
        self._thread: threading.Thread | None = None
        self._some = threading.Event()

    def add(self, upstream: str, claim: ClaimAsk) -> None:
        """Renew this claim every third of its lease until it is removed."""
        due = self._clock.monotonic() + claim.lease // 3
        with self._lock:
            self._held[claim.token] = (upstream, claim, due)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, args=(claim.lease,), name="governor-claims", daemon=True
                )
                self._thread.start()
        self._some.set()

    def remove(self, claim: ClaimAsk) -> None:
        """Let it be: it is finished, released, or left to run out."""
        with self._lock:
            self._held.pop(claim.token, None)
            if not self._held:
                self._some.clear()

    def renew(self, now: int) -> None:
        """Renew what is due at monotonic microseconds ``now``."""
        with self._lock:
            due = [held for held in self._held.values() if held[2] <= now]
        for upstream, claim, _ in due:
            try:
                self._store.settle(upstream, claim, ClaimAction.RENEW)
            except StoreUnavailable as exc:
                _log.error("%s A claim was not renewed", exc)
                continue
            with self._lock:
                if claim.token in self._held:
                    self._held[claim.token] = (upstream, claim, now + claim.lease // 3)

    def _run(self, lease: int) -> None:
        pause = threading.Event()
        while True:
            self._some.wait()
            pause.wait(seconds(lease // 9))
            self.renew(self._clock.monotonic())
