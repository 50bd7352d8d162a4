"""Renewal of what running calls hold: their leases under concurrency limits.

A thread of its own does it, one for each process, from the first lease on.
"""

from __future__ import annotations

import os
import threading
from weakref import WeakSet

from governor.clock import Clock, seconds
from governor.errors import StoreUnavailable
from governor.events import Emitter, LeaseExpired
from governor.log_lines import LOG
from governor.policy.settlement import Settlement
from governor.ports import LimiterStore


class LeaseRenewal:
    """The leases of this process's running calls, renewed until the calls end."""

    def __init__(self, store: LimiterStore, clock: Clock, events: Emitter) -> None:
        self._store = store
        self._clock = clock
        self._events = events
        self._start()
        _of_this_process.add(self)

    def _start(self) -> None:
        self._some = threading.Condition()
        self._held: dict[str, tuple[Settlement, int]] = {}
        self._lost: set[str] = set()
        self._thread: threading.Thread | None = None
        self._resting = False

    def add(self, renewal: Settlement) -> None:
        """Settle this renewal every third of its lease, until its holder is removed."""
        with self._some:
            due = self._clock.monotonic() + renewal.lease // 3
            self._held[renewal.holder] = (renewal, due)
            self._resting = False
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="governor-lease-renewal", daemon=True
                )
                self._thread.start()
            self._some.notify()

    def remove(self, holder: str) -> None:
        """Renew a holder's leases no more: they are given back, or left to run out."""
        with self._some:
            self._held.pop(holder, None)
            self._lost.discard(holder)

    def renew(self, now: int) -> None:
        """Renew what is due at monotonic microseconds ``now``."""
        with self._some:
            due = [renewal for renewal, moment in self._held.values() if moment <= now]
        for renewal in due:
            try:
                settled = self._store.settle(renewal)
            except StoreUnavailable as exc:
                LOG.error("%s A lease was not renewed", exc)
                continue
            with self._some:
                held = renewal.holder in self._held
                if held:
                    self._held[renewal.holder] = (renewal, now + renewal.lease // 3)
                # What has been given back meanwhile is not lost.
                lost = held and settled.lost and renewal.holder not in self._lost
                if lost:
                    self._lost.add(renewal.holder)
            if lost and self._events.listeners:
                wall = self._clock.wall()
                self._events.emit(LeaseExpired(wall, renewal.upstream, renewal.holder))

    def rest(self) -> None:
        """End the thread while nothing is held; the next lease starts another."""
        with self._some:
            thread, self._resting = self._thread, True
            self._some.notify()
        if thread is not None and not self._held:
            thread.join(1.0)

    def _run(self) -> None:
        some = self._some
        while some is self._some:
            with some:
                while not self._held:
                    if self._resting:
                        self._thread = None
                        return
                    some.wait()
                shortest = min(renewal.lease for renewal, _ in self._held.values())
                some.wait(seconds(shortest // 9))
            self.renew(self._clock.monotonic())


_of_this_process: WeakSet[LeaseRenewal] = WeakSet()


def _forked() -> None:
    """Start anew in a forked process: the thread, and what was held, stayed with the parent."""
    for renewal in _of_this_process:
        renewal._start()


os.register_at_fork(after_in_child=_forked)
