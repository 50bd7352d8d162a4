"""Lookup of a dying message's claim, which tells whether another delivery of it had begun."""

from __future__ import annotations

from governor.clock import SECOND
from governor.deadletter.verdict import NEVER_STARTED
from governor.errors import DeclarationError, StoreUnavailable
from governor.governor import Governor
from governor.keys import message_id
from governor.messages.header import NAME, Header
from governor.policy.plan import Governance
from governor.ports import MessageCopy, Reason

_STORE_AGAIN = 5 * SECOND
"""How long a store that did not answer is not asked: dead letters do not wait for it one by one."""


class ClaimLookup:
    """Lookup of claims for the writer of dead letters, in its thread."""

    def __init__(self, governor: Governor) -> None:
        self._governor = governor
        self._away_until = 0

    def began(  # noqa: PLR0917 - what is known of one death
        self, reason: Reason, copy: MessageCopy, task: str | None, task_id: str | None,
        delivery: int, own: str, redelivered: bool,
    ) -> bool | None:  # fmt: skip
        """Tell whether the body of a message had begun, where the verdict on its death needs it.

        Args:
            own: the token of the dying delivery, if its own body has not begun.
            redelivered: the broker says that it had handed out the message before.

        Returns:
            ``None`` when it is not known, or of no consequence.
        """
        if reason not in NEVER_STARTED or task_id is None:
            return None
        governance = self._governance(task)
        if governance is not None and governance.idempotent:
            return None
        if governance is not None:
            upstream = governance.plan.upstream.name
        else:
            upstream = Header.from_message(copy.headers).upstream
        if not upstream:
            # No limiter key can be named. What is handed out for the first time has not begun.
            return None if redelivered else False
        now = self._governor.clock.monotonic()
        if now < self._away_until:
            return None
        message = message_id(copy.headers.get(NAME), copy.body)
        try:
            claimant = self._governor.store.claimed_by(upstream, task_id, delivery, message)
        except StoreUnavailable:
            self._away_until = self._governor.clock.monotonic() + _STORE_AGAIN
            return None
        return claimant is not None and (not claimant or claimant != own)

    def _governance(self, task: str | None) -> Governance | None:
        try:
            return None if task is None else self._governor.governance(task)
        except DeclarationError:
            return None
