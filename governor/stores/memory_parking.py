"""Parking lots within one process: the specification at work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from governor.policy.decision import Answer, Ask
from governor.policy.parking_lot import Lot
from governor.policy.parking_values import (
    Arrival,
    LotView,
    Overdue,
    ParkedTask,
    Parking,
    ReleaseAsk,
    Released,
    Steering,
)


class MemoryLots:
    """The parking lots of a :class:`~governor.stores.memory.MemoryStore`, whose parts it is given.

    Args:
        now: the store's clock.
        lock: the store's lock.
        decide: the store's admission, at an instant.
        version: of the limits in force.
        record: keeps what a person did.
        tell: tells those who listen.
    """

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        now: Callable[[], int],
        lock: AbstractContextManager[bool],
        decide: Callable[[Ask, int], Answer],
        version: Callable[[str], int],
        record: Callable[[str, Mapping[str, str]], None],
        tell: Callable[[str, str], None],
    ) -> None:
        self._now = now
        self._lock = lock
        self._decide = decide
        self._version = version
        self._record = record
        self._tell = tell
        self._lots: dict[str, Lot] = {}

    def queued(self, upstream: str, group: str, lane: str) -> bool:
        """Tell whether others wait there already. The store's lock is held."""
        return self._lot(upstream).queued(group, lane)

    def park(self, upstream: str, arrivals: Sequence[Arrival]) -> Parking:
        with self._lock:
            lot = self._lot(upstream)
            before = lot.waiting
            parking = lot.park(arrivals, self._now())
            if parking.waiting and not before:
                self._tell(upstream, "lot")
            return parking

    def release(self, ask: ReleaseAsk) -> Released:
        with self._lock:
            now = self._now()
            version = self._version(ask.upstream)
            return self._lot(ask.upstream).release(
                ask, now, lambda question: self._decide(question, now), version
            )

    def overdue(self, upstream: str, groups: Sequence[str], at: int, lease: int) -> Overdue:
        with self._lock:
            return self._lot(upstream).overdue(groups, at, lease, self._now())

    def renew(self, upstream: str, entries: Sequence[str], lease: int) -> None:
        with self._lock:
            self._lot(upstream).renew(entries, self._now() + lease)

    def steer(self, upstream: str, steering: Steering) -> Sequence[bytes]:
        with self._lock:
            lot = self._lot(upstream)
            before = lot.waiting
            done = lot.steer(steering.what, steering.entries, steering.to)
            if steering.why and done:
                self._record(
                    upstream,
                    {
                        "at": str(self._now()), "what": steering.what,
                        "target": " ".join(lot.steered),
                        "value": "" if steering.to is None else steering.to.name,
                        "by": steering.by, "why": steering.why,
                    },
                )  # fmt: skip
            if done and (steering.why or (lot.waiting and not before)):
                self._tell(upstream, "lot")
            return done

    def find(self, upstream: str, task_id: str) -> Sequence[ParkedTask]:
        with self._lock:
            return self._lot(upstream).find(task_id)

    def groups(self, upstream: str) -> Mapping[str, str]:
        with self._lock:
            return self._lot(upstream).groups()

    def view(self, upstream: str) -> LotView:
        with self._lock:
            return self._lot(upstream).view(self._now())

    def waiting(self, upstream: str) -> tuple[int, int, int]:
        with self._lock:
            lot = self._lot(upstream)
            return lot.waiting, *lot.pace(self._now())

    def _lot(self, upstream: str) -> Lot:
        return self._lots.setdefault(upstream, Lot())
