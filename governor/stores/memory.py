"""The limiter store within one process: the specification at work.

For tests, for a worker whose Redis is away, and for a single process that needs no Redis. Safe
between threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from threading import Lock

from governor.errors import StoreUnavailable
from governor.policy import adaptive
from governor.policy.adjustment import Adjustment, adjusted
from governor.policy.admission import (
    UpstreamState,
    decide,
)
from governor.policy.breaker import state_of
from governor.policy.decision import (
    Answer,
    AnyCharge,
    Ask,
    ClaimAsk,
)
from governor.policy.settlement import (
    ClaimAction,
    Settled,
    Settlement,
    claim_after,
    holds_leases,
    settle,
)
from governor.ports import Change, InForce, Look
from governor.stores.memory_parking import MemoryLots


class MemoryStore:
    """A limiter store that keeps every upstream's state in dictionaries.

    Args:
        now: the store's clock, microseconds. It must be shared by all users of the store.
    """

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._lock = Lock()
        self._states: dict[str, UpstreamState] = {}
        self._claims: dict[tuple[str, str, int, str], tuple[str, int]] = {}
        self._changes: dict[str, dict[str, str]] = {}
        self._log: dict[str, list[Mapping[str, str]]] = {}
        self._heard: list[Callable[[str, str], None]] = []
        self.lots = MemoryLots(
            now, self._lock, self._decide, self._version, self._record, self._tell
        )

    def admit(self, ask: Ask) -> Answer:
        with self._lock:
            return self._decide(ask, self._now())

    def _decide(self, ask: Ask, now: int) -> Answer:
        state = self._state(ask.upstream, now)
        seen = replace(state, since=min(state.since, now))
        if ask.lane is not None:
            queued = self.lots.queued(ask.upstream, ask.lane.group, ask.lane.name)
            seen = replace(seen, queued=queued)
        if ask.claim is not None:
            seen = replace(seen, claim=self._claim(ask.upstream, ask.claim, now))
        answer, effects = decide(ask, seen, now)
        self._states[ask.upstream] = replace(
            state,
            meters={**state.meters, **effects.meters},
            breaker=state.breaker if effects.breaker is None else effects.breaker,
            share=state.share if effects.share is None else effects.share,
        )
        if ask.claim is not None and effects.claim is not None:
            self._write_claim(ask.upstream, ask.claim, effects.claim, now)
        return answer

    def admit_many(self, asks: Sequence[Ask]) -> Sequence[Answer | StoreUnavailable]:
        return [self.admit(ask) for ask in asks]

    def settle(self, settlement: Settlement) -> Settled:
        with self._lock:
            now = self._now()
            upstream, claim = settlement.upstream, settlement.claim
            state = self._state(upstream, now)
            holds = claim is None or self._holds(upstream, settlement, now)
            if claim is not None and holds:
                self._write_claim(upstream, claim, claim_after(settlement, now), now)
            after, news = settle(state, settlement, now)
            self._states[upstream] = after
            for what in news:
                self._tell(upstream, what)
            lost = settlement.action is ClaimAction.RENEW and not (
                holds and holds_leases(state, settlement)
            )
            return Settled(now, after.pause, after.since, state_of(after.breaker), lost)

    def adjust(self, upstream: str, adjustments: Sequence[Adjustment]) -> None:
        with self._lock:
            now = self._now()
            state = self._state(upstream, now)
            meters = dict(state.meters)
            for each in adjustments:
                bucket = each.charge.bucket
                meters[bucket] = adjusted(meters.get(bucket), each, min(state.since, now), now)
            self._states[upstream] = replace(state, meters=meters)

    def claimed_by(self, upstream: str, task_id: str, attempt: int, message: str) -> str | None:
        with self._lock:
            value = self._claimed(upstream, task_id, attempt, message, self._now())
            return None if value is None else value.rpartition("|")[0]

    def change(self, change: Change) -> InForce:
        with self._lock:
            now = self._now()
            state = self._state(change.upstream, now)
            changes = self._changes.setdefault(change.upstream, {})
            if change.target:
                if change.what in {"set", "pause"}:
                    changes[change.target] = change.value
                else:
                    changes.pop(change.target, None)
            elif change.what in {"pause", "resume"}:
                paused = change.what == "pause"
                state = replace(state, pause=int(change.value) if paused else 0)
                if change.value and not paused:
                    state = replace(state, share=adaptive.Share(int(change.value), now, now))
            else:
                changes.clear()
                fresh = UpstreamState(state.since)
                state = replace(state, breaker=fresh.breaker, share=fresh.share)
            self._states[change.upstream] = replace(state, version=state.version + 1)
            record = {
                "at": str(now), "what": change.what, "target": change.target,
                "value": change.value, "by": change.by, "why": change.why,
            }  # fmt: skip
            self._record(change.upstream, record)
            self._tell(change.upstream, "change")
            return InForce(state.version + 1, dict(changes))

    def in_force(self, upstream: str) -> InForce:
        with self._lock:
            return InForce(self._version(upstream), dict(self._changes.get(upstream, {})))

    def look(self, upstream: str, charges: Sequence[AnyCharge]) -> Look:
        with self._lock:
            now = self._now()
            state = self._states.get(upstream, UpstreamState(now))
            wanted = {charge.bucket for charge in charges}
            meters = {bucket: m for bucket, m in state.meters.items() if bucket in wanted}
            state = replace(state, since=min(state.since, now), meters=meters)
            in_force = InForce(state.version, dict(self._changes.get(upstream, {})))
            return Look(now, state, in_force, tuple(self._log.get(upstream, ())))

    def log(self, upstream: str, since: int) -> Sequence[Mapping[str, str]]:
        with self._lock:
            return [one for one in self._log.get(upstream, ()) if int(one["at"]) >= since]

    def listen(self, heard: Callable[[str, str], None]) -> Callable[[], None]:
        self._heard.append(heard)
        return partial(self._heard.remove, heard)

    def close(self) -> None:
        """Nothing to give back."""

    def _record(self, upstream: str, record: Mapping[str, str]) -> None:
        self._log.setdefault(upstream, []).insert(0, record)

    def _version(self, upstream: str) -> int:
        state = self._states.get(upstream)
        return 0 if state is None else state.version

    def _tell(self, upstream: str, what: str) -> None:
        for heard in self._heard:
            heard(upstream, what)

    def _state(self, upstream: str, now: int) -> UpstreamState:
        return self._states.setdefault(upstream, UpstreamState(now))

    def _claim(self, upstream: str, claim: ClaimAsk, now: int) -> str | None:
        return self._claimed(upstream, claim.task_id, claim.attempt, claim.message, now)

    def _claimed(
        self, upstream: str, task_id: str, attempt: int, message: str, now: int
    ) -> str | None:
        value, expires = self._claims.get((upstream, task_id, attempt, message), (None, 0))
        return value if expires > now else None

    def _holds(self, upstream: str, settlement: Settlement, now: int) -> bool:
        assert settlement.claim is not None
        value = self._claim(upstream, settlement.claim, now)
        return value is not None and value.rpartition("|")[0] == settlement.holder

    def _write_claim(self, upstream: str, claim: ClaimAsk, value: str, now: int) -> None:
        key = (upstream, claim.task_id, claim.attempt, claim.message)
        if value:
            self._claims[key] = (value, now + claim.keep)
        else:
            self._claims.pop(key, None)
