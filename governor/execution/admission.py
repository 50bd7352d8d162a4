"""Asks the store for one task's admission and keeps what the answer means for the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from governor.clock import Clock
from governor.execution.header import Header
from governor.policy.decision import Admit, Answer, Ask, Charge, ClaimAsk, Wait
from governor.policy.plan import CallPlan
from governor.ports import LimiterStore
from governor.settings import Settings
from governor.telemetry.stats import Stats

_LINGER = 10
"""A task whose turn has come is held up to so many times ``governor_hold``, within the broker's
patience."""


@dataclass(slots=True)
class Call:
    """One governed execution on its way to its admission.

    Attributes:
        charges: what it takes from each limit.
        header: what is known about the message; replaced as answers come in.
        claim: for a non-idempotent task, its claim on (task id, attempt).
        slot: monotonic microseconds of the slot held, once an answer named one.
        settled: the held slot covers everything: no second question is needed at it.
    """

    plan: CallPlan
    charges: tuple[Charge, ...]
    header: Header
    claim: ClaimAsk | None = None
    slot: int | None = None
    settled: bool = False

    @property
    def upstream(self) -> str:
        return self.plan.upstream.name


def charges_of(
    plan: CallPlan, header: Header, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Charge, ...]:
    """The charges the header names, or else those computed from the arguments.

    Raises:
        DeclarationError: a cost function failed.
    """
    if header.upstream == plan.upstream.name:
        found = plan.charges_named(header.limits)
        if found is not None:
            return found
    return plan.charges(args, kwargs)


class Admission:
    """The one way to ask: in the worker's gate, in a late body, in a direct call."""

    def __init__(self, store: LimiterStore, settings: Settings, clock: Clock, stats: Stats) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._stats = stats

    def ask(self, call: Call, patience: int | None = None) -> Answer:
        """Ask once. The call's header and slot are brought up to date with the answer.

        Args:
            patience: of a caller that blocks, instead of the task's own.

        Raises:
            StoreUnavailable: no answer in time.
        """
        return self.ask_many([call], patience)[0]

    def ask_many(self, calls: Sequence[Call], patience: int | None = None) -> Sequence[Answer]:
        """Ask for several calls in one round trip, in this order.

        Raises:
            StoreUnavailable: no complete answer in time.
        """
        started = self._clock.monotonic()
        answers = self._store.admit_many([self._question(call, patience) for call in calls])
        ended = self._clock.monotonic()
        self._stats.decided(ended - started, len(calls))
        for call, answer in zip(calls, answers, strict=True):
            _note(call, answer, ended)
        return answers

    def _question(self, call: Call, patience: int | None) -> Ask:
        # A caller that blocks is there at its slot, however far away.
        hold = max(self._settings.hold, self._settings.grace) if patience is None else patience
        header = call.header
        return Ask(
            upstream=call.upstream,
            charges=call.charges,
            grace=self._settings.grace,
            hold=hold,
            linger=max(hold, min(_LINGER * hold, self._settings.max_countdown)),
            max_wait=call.plan.upstream.max_wait if patience is None else patience,
            give_up_at=header.give_up_at if patience is None else None,
            reserved=header.reserved,
            claim=call.claim,
        )

    def good_until(self, call: Call) -> int:
        """Monotonic instant after which an admitted body must ask afresh."""
        assert call.slot is not None
        return call.slot + self._settings.grace


def _note(call: Call, answer: Answer, now: int) -> None:
    """Bring ``call`` up to date with its answer, heard at monotonic microseconds ``now``."""
    header = call.header
    if header.first is None:
        call.header = header = replace(
            header, first=answer.now, give_up_at=answer.now + call.plan.upstream.max_wait
        )
    if isinstance(answer, Wait):
        call.header = replace(header, reserved=answer.reserved)
        call.slot = now + answer.until - answer.now
        paid = {r.bucket for r in answer.reserved if r.paid and r.slot == answer.until}
        # Nothing is left to ask at the slot; a claim is taken there.
        call.settled = call.claim is None and paid.issuperset(c.bucket for c in call.charges)
    elif isinstance(answer, Admit):
        call.header = replace(header, reserved=())
        call.slot = now - (answer.now - answer.slot)
        call.settled = call.claim is None
