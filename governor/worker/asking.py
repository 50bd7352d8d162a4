"""Questions to the limiter store: a request's admission, together with others that will want theirs
soon. One question for several costs no more than a question for one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from governor.admission.call import Call
from governor.errors import StoreUnavailable
from governor.governor import Governor
from governor.policy.decision import Admit, Answer
from governor.policy.settlement import Settlement
from governor.worker.known_upstreams import KnownUpstreams
from governor.worker.lifecycle import RequestState
from governor.worker.pace import Pace
from governor.worker.prefetch import Prefetch
from governor.worker.queue import RequestQueue, Step
from governor.worker.recorder import Recorder
from governor.worker.request import GovernedRequest
from governor.worker.store_outage import ASK_AGAIN, StoreOutage


class Asking:
    """Asks for the admissions of one worker.

    Args:
        step: does one step of a request's life.
        act: does what follows from the answer about a queued request that was asked about ahead.
    """

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        governor: Governor,
        outage: StoreOutage,
        recorder: Recorder,
        queue: RequestQueue,
        prefetch: Prefetch,
        pace: Pace,
        step: Step,
        act: Callable[[GovernedRequest, Call, Answer], object],
    ) -> None:
        self._admission = governor.admission
        self._clock = governor.clock
        self._grace = governor.settings.grace
        self._outage = outage
        self._recorder = recorder
        self._queue = queue
        self._prefetch = prefetch
        self._pace = pace
        self._step = step
        self._act = act

    def ask(self, call: Call, now: int) -> Answer | None:
        """Ask for a call's admission at monotonic microseconds ``now``.

        Returns:
            ``None`` when there is no answer, and the upstream's ``store_down`` gives none.
        """
        if now < self._outage.until(call.upstream, call.parts()):
            return self._admission.without_store(call)
        advance = self._prefetch.question(call, self._pace.within(self._prefetch.span), now)
        ahead = [] if advance else self._ahead()
        asked = [call, advance[0]] if advance else [call, *(other for _, other in ahead)]
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
        self._act_ahead(ahead, others)
        if isinstance(answer, StoreUnavailable):
            return self._admission.without_store(call)
        return answer

    def again_at(self, call: Call) -> int:
        """Find the monotonic microsecond at which to ask for a call of which nothing is known."""
        now = self._clock.monotonic()
        until = self._outage.until(call.upstream, call.parts())
        return until if until > now else now + ASK_AGAIN

    def _ahead(self) -> list[tuple[GovernedRequest, Call]]:
        """Find queued requests likely to get a pool slot within half the grace; their admission is
        asked for in the same round trip.

        Excluded: requests with a claim, a lease or a breaker (admission would say that the body
        begins), and requests with a lane (the second must not go while the first waits).
        """
        found: list[tuple[GovernedRequest, Call]] = []
        for request in self._queue.upcoming(self._pace.within(self._grace // 2)):
            if (call := request.call) is None:
                continue
            plain = call.claim is None and not call.leases and call.lane is None
            plain = plain and call.plan.upstream.breaker is None
            if plain and not call.covered and request.state is RequestState.QUEUED:
                found.append((request, call))
        return found

    def _act_ahead(
        self,
        ahead: Sequence[tuple[GovernedRequest, Call]],
        answers: Sequence[Answer | StoreUnavailable],
    ) -> None:
        for (request, call), answer in zip(ahead, answers, strict=False):
            if isinstance(answer, StoreUnavailable):
                # The request asks when it has its pool slot.
                self._outage.failed(answer)
            # A request that is admitted stays in its queue, and needs not ask when it has its slot.
            elif not isinstance(answer, Admit):
                self._queue.remove_new(request)
                self._step(request, self._act, call, answer)


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
