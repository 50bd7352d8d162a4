"""The limiter store within one process: the specification at work.

For tests, and for a single process that needs no Redis. Safe between threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

from governor.policy.admission import DONE, Bucket, UpstreamState, decide
from governor.policy.decision import Answer, Ask, ClaimAsk
from governor.ports import ClaimAction, Settled


class MemoryStore:
    """Keeps every upstream's state in dictionaries.

    Args:
        now: the store's clock, microseconds. It must be shared by all users of the store.
    """

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._lock = Lock()
        self._since: dict[str, int] = {}
        self._pause: dict[str, int] = {}
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._claims: dict[tuple[str, str, int], tuple[str, int]] = {}

    def admit(self, ask: Ask) -> Answer:
        with self._lock:
            now = self._now()
            claim = None
            if ask.claim is not None:
                claim = self._claim(ask.upstream, ask.claim, now)
            state = UpstreamState(
                since=min(self._since.setdefault(ask.upstream, now), now),
                pause=self._pause.get(ask.upstream, 0),
                buckets={
                    charge.bucket: bucket
                    for charge in ask.charges
                    if (bucket := self._buckets.get((ask.upstream, charge.bucket))) is not None
                },
                claim=claim,
            )
            answer, effects = decide(ask, state, now)
            for name, written in effects.buckets.items():
                self._buckets[ask.upstream, name] = written
            if ask.claim is not None and effects.claim is not None:
                self._write_claim(ask.upstream, ask.claim, effects.claim, now)
            return answer

    def admit_many(self, asks: Sequence[Ask]) -> Sequence[Answer]:
        return [self.admit(ask) for ask in asks]

    def settle(
        self,
        upstream: str,
        claim: ClaimAsk | None = None,
        action: ClaimAction | None = None,
        pause: int = 0,
    ) -> Settled:
        with self._lock:
            now = self._now()
            self._since.setdefault(upstream, now)
            if claim is not None and self._holds(upstream, claim, now):
                value = {
                    ClaimAction.FINISH: DONE,
                    ClaimAction.RELEASE: "",
                    ClaimAction.RENEW: f"{claim.token}|{now + claim.lease}",
                }[action or ClaimAction.RENEW]
                self._write_claim(upstream, claim, value, now)
            if pause > 0:
                self._pause[upstream] = max(self._pause.get(upstream, 0), now + pause)
            return Settled(now, self._pause.get(upstream, 0))

    def close(self) -> None:
        """Nothing to give back."""

    def _claim(self, upstream: str, claim: ClaimAsk, now: int) -> str | None:
        value, expires = self._claims.get((upstream, claim.task_id, claim.attempt), (None, 0))
        return value if expires > now else None

    def _holds(self, upstream: str, claim: ClaimAsk, now: int) -> bool:
        value = self._claim(upstream, claim, now)
        return value is not None and value.rpartition("|")[0] == claim.token

    def _write_claim(self, upstream: str, claim: ClaimAsk, value: str, now: int) -> None:
        key = (upstream, claim.task_id, claim.attempt)
        if value:
            self._claims[key] = (value, now + claim.keep)
        else:
            self._claims.pop(key, None)
