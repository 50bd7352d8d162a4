"""Revocation of parked tasks: they leave the lots, and Celery announces them as it does others."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from celery.worker.state import revoked as revoked_tasks

from governor.clock import SECOND
from governor.errors import StoreUnavailable
from governor.governor import Governor
from governor.log_lines import LOG
from governor.policy.parking_values import Steering, Ticket
from governor.worker.adoption import Deliver
from governor.worker.event_loop import Loop
from governor.worker.known_lot import KnownLot
from governor.worker.store_outage import StoreOutage

_LOOK_EVERY_US = SECOND
"""The worker looks so often for task ids that it newly knows as revoked."""


class ParkingRevocations:
    """Search of one worker's lots for revoked tasks, on its loop.

    Args:
        lots: those that it releases from, by upstream.
    """

    def __init__(
        self,
        governor: Governor,
        loop: Loop,
        outage: StoreOutage,
        lots: Mapping[str, KnownLot],
        deliver: Deliver,
    ) -> None:
        self._store = governor.store
        self._clock = governor.clock
        self._loop = loop
        self._outage = outage
        self._lots = lots
        self._deliver = deliver
        self._look_at: int | None = None
        self._revoked: set[str] = set()

    def stop(self) -> None:
        """Look no more."""
        self._look_at = None

    def look_later(self) -> None:
        """Look for revoked tasks, again and again while tasks wait in the lots."""
        if self._look_at is None:
            moment = self._clock.monotonic() + _LOOK_EVERY_US
            self._look_at = moment
            self._loop.at(moment, partial(self._look, moment))

    def _look(self, moment: int) -> None:
        """Take tasks out of the lots that were revoked since the last look, and deliver them."""
        if self._look_at != moment:
            return
        self._look_at = None
        lots = [lot for lot in self._lots.values() if lot.waiting]
        if not lots:
            return
        self.look_later()
        revoked = set(revoked_tasks)
        fresh = revoked - self._revoked
        if not fresh:
            return
        sought = [self._take_out(lot.upstream.name, tuple(fresh)) for lot in lots]
        if all(sought):
            # Otherwise they are sought again at the next look.
            self._revoked = revoked

    def _take_out(self, upstream: str, task_ids: tuple[str, ...]) -> bool:
        """Take tasks out of one lot and deliver them; tell whether the lot answered."""
        if self._clock.monotonic() < self._outage.until(upstream):
            return False
        try:
            taken = self._store.lots.steer(upstream, Steering("revoke", task_ids))
        except StoreUnavailable as exc:
            self._outage.failed(exc)
            return False
        except Exception:
            LOG.exception("The lot of %s was not searched for revoked tasks", upstream)
            return False
        self._outage.answered(upstream)
        for payload in taken:
            self._deliver(upstream, Ticket("", 0, "", payload, 0, late=True))
        return True
