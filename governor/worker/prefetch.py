"""Prefetch of admissions: a task's question asks for the next few of its kind too.

A worker whose tasks end within milliseconds spends a tenth of its time on waiting for answers.
One question for several costs no more than a question for one.

What is not used within half the grace is lost to the limit, which matters only where tasks wait
for it. So a question asks for no more than leaks out again in that time, which is nothing at a slow
limit. It asks for nothing in advance for a second after a request had to wait, and for a few times
half the grace after most of what was in hand was lost.

What is left is not given back. A bucket leaks it meanwhile; to take back more than has not leaked
out yet would let a call through that the limit forbids, and after half the grace that is nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from governor.admission.call import Call
from governor.clock import SECOND
from governor.errors import StoreUnavailable
from governor.messages.header import Header
from governor.policy.decision import Admit, Answer, AnyCharge, Charge

_REFUSAL_BACKOFF_US = SECOND
"""Microseconds without a question in advance after a request had to wait, or one was refused."""

_LOSS_BACKOFF_SPANS = 5
"""Times half the grace without a question in advance after most of what was in hand was lost."""


@dataclass(slots=True)
class _Hand:
    """Admissions in hand for one upstream.

    Attributes:
        charges: those of a single call: of each in hand, and of the last one that asked.
        asked: the question that brought them.
        number: how many it brought.
        left: how many of them are unused.
        not_before: monotonic microseconds before which no more are asked for.
    """

    charges: tuple[AnyCharge, ...]
    asked: Call | None = None
    number: int = 0
    left: int = 0
    not_before: int = 0


class Prefetch:
    """Admissions that one worker has in hand.

    Args:
        grace: microseconds after its slot at which a body may still start.
    """

    def __init__(self, grace: int) -> None:
        self.span = grace // 2
        self._hands: dict[str, _Hand] = {}

    def take(self, call: Call, now: int) -> bool:
        """Admit ``call`` at monotonic microseconds ``now`` out of what is in hand for its kind."""
        hand = self._hands.get(call.upstream)
        if hand is None or not hand.left or call.claim is not None or call.header.reserved:
            return False
        same = hand.charges == call.charges
        if not same and not _is_plain(call):
            return False
        assert hand.asked is not None
        assert hand.asked.slot is not None
        if now > hand.asked.slot + self.span or not same:
            if 2 * hand.left > hand.number:
                hand.not_before = max(hand.not_before, now + _LOSS_BACKOFF_SPANS * self.span)
            hand.left = 0
            return False
        hand.left -= 1
        call.slot = hand.asked.slot
        if call.header.first is None:
            known = hand.asked.header
            call.header = call.header._replace(first=known.first, give_up_at=known.give_up_at)
        return True

    def question(self, call: Call, expected: int, now: int) -> tuple[Call, int] | None:
        """Make the question to ask together with ``call``; return it and for how many calls it is.

        Args:
            expected: how many are likely to come within ``span``.
        """
        hand = self._hands.get(call.upstream)
        if hand is None:
            hand = self._hands[call.upstream] = _Hand(call.charges)
        if not _is_plain(call):
            return None
        if hand.charges != call.charges:
            # Nothing is known of what comes next.
            hand.charges = call.charges
            return None
        plain = [charge for charge in call.charges if isinstance(charge, Charge)]
        for charge in plain:
            room = min(self.span, charge.capacity - charge.interval)
            expected = min(expected, room // charge.interval)
        if not expected or now < hand.not_before:
            return None
        charges = tuple(
            replace(c, interval=expected * c.interval, cost=expected * c.cost) for c in plain
        )
        # It is asked for now or not at all.
        ahead = Call(call.plan, charges, Header(), lane=call.lane, deadline=0, version=call.version)
        return ahead, expected

    def answered(
        self, call: Call, number: int, answer: Answer | StoreUnavailable, now: int
    ) -> None:
        """Keep what was admitted by the answer to a question for so many calls."""
        hand = self._hands[call.upstream]
        # Where the limits have changed meanwhile, less was charged than was asked for.
        whole = all(
            had.cost == number * one.cost
            for had, one in zip(call.charges, hand.charges, strict=True)
        )
        if isinstance(answer, Admit) and whole:
            hand.asked = call
            hand.number = hand.left = number
        else:
            hand.not_before = now + _REFUSAL_BACKOFF_US

    def pressed(self, upstream: str, now: int) -> None:
        """Note that a request had to wait, at monotonic microseconds ``now``."""
        if hand := self._hands.get(upstream):
            hand.not_before = now + _REFUSAL_BACKOFF_US

    def drop(self, upstream: str) -> None:
        """Drop what is in hand: the upstream is paused."""
        if hand := self._hands.get(upstream):
            hand.left = 0


def _is_plain(call: Call) -> bool:
    """Tell whether a call is like any other of its kind: without a claim, which is taken when the
    body begins, and with nothing held in a limit."""
    return (
        call.claim is None
        and not call.header.reserved
        and all(isinstance(charge, Charge) for charge in call.charges)
    )
