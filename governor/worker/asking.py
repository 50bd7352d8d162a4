"""Questions to the limiter store: a request's admission, together with those of the next of its
kind."""

from __future__ import annotations

from governor.admission.call import Call
from governor.errors import StoreUnavailable
from governor.governor import Governor
from governor.policy.decision import Admit, Answer
from governor.policy.settlement import Settlement
from governor.worker.known_upstreams import KnownUpstreams
from governor.worker.pace import Pace
from governor.worker.prefetch import Prefetch
from governor.worker.recorder import Recorder
from governor.worker.store_outage import ASK_AGAIN, StoreOutage


class Asking:
    """Asks for the admissions of one worker."""

    def __init__(
        self,
        governor: Governor,
        outage: StoreOutage,
        recorder: Recorder,
        prefetch: Prefetch,
        pace: Pace,
    ) -> None:
        self._admission = governor.admission
        self._clock = governor.clock
        self._outage = outage
        self._recorder = recorder
        self._prefetch = prefetch
        self._pace = pace

    def ask(self, call: Call, now: int) -> Answer | None:
        """Ask for a call's admission at monotonic microseconds ``now``.

        Returns:
            ``None`` when there is no answer, and the upstream's ``store_down`` gives none.
        """
        if now < self._outage.until(call.upstream, call.parts()):
            return self._admission.without_store(call)
        advance = self._prefetch.question(call, self._pace.within(self._prefetch.span), now)
        asked = [call, advance[0]] if advance else [call]
        answer, *others = self._admission.ask_many(asked)
        if isinstance(answer, StoreUnavailable):
            self._outage.failed(answer)
        else:
            self._outage.answered(call.upstream, call.parts())
            self._recorder.catch_up()
        if not isinstance(answer, Admit):
            self._prefetch.pressed(call.upstream, now)
        if advance:
            self._prefetch.answered(*advance, others[0], now)
            self._recorder.unused(advance[0])
        if isinstance(answer, StoreUnavailable):
            return self._admission.without_store(call)
        return answer

    def again_at(self, call: Call) -> int:
        """Find the monotonic microsecond at which to ask for a call of which nothing is known."""
        now = self._clock.monotonic()
        until = self._outage.until(call.upstream, call.parts())
        return until if until > now else now + ASK_AGAIN


def announce(governor: Governor, outage: StoreOutage, known: KnownUpstreams) -> None:
    """Make the upstreams known to the store: from now on their buckets earn their burst.

    Raises:
        DeclarationError: a declaration cannot work; the worker ends before it takes a message.
    """
    for name in governor.app.tasks:
        governor.governance(name)
    for upstream in governor.upstreams:
        if governor.clock.monotonic() < outage.until(upstream):
            continue
        try:
            known.settled(upstream, governor.store.settle(Settlement(upstream)))
        except StoreUnavailable as exc:
            outage.failed(exc)
