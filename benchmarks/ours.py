"""The governor as the comparisons ask it: below Celery, at its store and at its admission.

Everything that knows what a question to the store is made of is on this page.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from celery import Celery

from benchmarks.peers import Peer
from governor import Governor
from governor.admission.admission import AdmissionService
from governor.admission.call import Call
from governor.clock import SECOND
from governor.messages.header import Header
from governor.policy.decision import Admit, Ask, ClaimAsk, Wait
from governor.policy.limits import Limit, Rule
from governor.policy.plan import CallPlan
from governor.policy.upstream import Breaker, UpstreamDeclaration
from governor.settings import load
from governor.stores.redis.store import RedisStore

_PATIENCE = 30 * 86_400
"""Seconds a question may be made to wait: none of a benchmark is refused for that."""

_HOLD = 15 * SECOND
"""Of a process that stays where it is until its slot, whatever that takes."""


def plan_of(name: str, limits: Sequence[Rule], *, breaker: bool = False) -> CallPlan:
    """Calls of an upstream of their own."""
    breaks = Breaker() if breaker else None
    return CallPlan.of(
        "benchmark", UpstreamDeclaration(name, *limits, max_wait=_PATIENCE, breaker=breaks)
    )


def ask_of(plan: CallPlan, *, hold: int | None = None, claimed: bool = False) -> Ask:
    """The question a worker asks for one call, with the default settings.

    Args:
        hold: microseconds, if not the default.
        claimed: of a task that is not idempotent.
    """
    claim = ClaimAsk("task", 0, "0123456789ab", "delivery", 30 * SECOND, 86_400 * SECOND)
    settings = load({"broker_url": "redis://127.0.0.1"}, [])
    hold = settings.hold if hold is None else hold
    return Ask(
        upstream=plan.upstream.name,
        charges=plan.charges((), {"account": "acct_1"}),
        grace=settings.grace,
        hold=hold,
        linger=10 * hold,
        max_wait=plan.upstream.max_wait,
        claim=claim if claimed else None,
        holder="delivery",
        lease=30 * SECOND,
        breaker=plan.upstream.breaker,
    )


def store_of(url: str) -> RedisStore:
    """The store. Its timeout is for benchmarks on busy machines."""
    return RedisStore(url, timeout=30 * SECOND)


def admission_of(url: str) -> AdmissionService:
    """The admission of a worker, with its own store."""
    app = Celery("benchmark", broker=url, set_as_current=False)
    return Governor(app, store=store_of(url)).admission


def asked_at_admission(
    admission: AdmissionService, plan: CallPlan, batch: int = 1
) -> Callable[[], object]:
    """Ask for new calls, as the worker's dispatcher does."""
    charges = plan.charges((), {"account": "acct_1"})
    header = Header(upstream=plan.upstream.name)
    if batch == 1:
        return lambda: admission.ask(Call(plan, charges, header))
    return lambda: admission.ask_many([Call(plan, charges, header) for _ in range(batch)])


class Ours(Peer):
    """A task at a time in each process, which keeps its place and comes when it was told to."""

    name = "governor"
    setting = "one leaky bucket, rate and burst as told, the default margin of 50 ms"
    waits = "sleeps until the slot it was told"
    several = "three limits in one atomic call"

    def setup(self, redis_url: str, rate: float, burst: int, key: str) -> None:
        self.burst = burst
        self._store = store_of(redis_url)
        self._new = ask_of(plan_of(key, [Limit(f"{rate:g}/s", burst=burst)]), hold=_HOLD)
        self._grace = self._new.grace / SECOND
        self._forget()

    def close(self) -> None:
        """Close the connection; a process that ends needs not."""
        self._store.close()

    def try_acquire(self) -> bool:
        now = time.monotonic()
        if now < self._slot:
            return False
        if self._paid and now <= self._slot + self._grace:
            self._forget()
            return True
        answer = self._store.admit(self._ask)
        heard = time.monotonic()
        if isinstance(answer, Admit):
            self._forget()
            return True
        assert isinstance(answer, Wait), answer
        self._slot = heard + (answer.until - answer.now) / SECOND
        paid = {r.bucket for r in answer.reserved if r.paid and r.slot == answer.until}
        self._paid = paid.issuperset(charge.bucket for charge in self._ask.charges)
        self._ask = replace(self._new, reserved=answer.reserved)
        return False

    def acquire(self) -> None:
        while not self.try_acquire():
            time.sleep(max(0.0, self._slot - time.monotonic()))

    def _forget(self) -> None:
        self._ask, self._slot, self._paid = self._new, 0.0, False
