"""The declaration of an upstream: its limits, and what happens when it is unwell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from governor.clock import SECOND, micros
from governor.errors import DeclarationError
from governor.policy.adaptive import WHOLE, AdaptivePolicy
from governor.policy.breaker import BreakerPolicy
from governor.policy.limits import NAME, Rule

StoreDown = Literal["closed", "open", "local"]

_PROBE = 30 * SECOND
"""A probe that was not heard of for so long counts as lost."""


class Breaker:
    """Stops calling an upstream that fails; tasks wait meanwhile, and spend no retry.

    A call fails when the upstream could not be reached, did not answer in time or answered with
    5xx, or when its exception is one of the task's ``Retry(on=…)``.

    Args:
        failures: so many failures among the latest ``of`` calls open the breaker.
        of: the latest calls that count.
        open_for: seconds until the first probe; doubled each time a probe fails, up to 16 times.
        ramp: after the probe so many calls at a time must have succeeded, in steps of two.

    Raises:
        DeclarationError: naming the field and the remedy.
    """

    __slots__ = ("policy",)

    def __init__(
        self, failures: int = 10, *, of: int = 20, open_for: float = 30.0, ramp: int = 8
    ) -> None:
        _integer("of", of, 1, 1_000)
        _integer("failures", failures, 1, of)
        _integer("ramp", ramp, 1, 1_024)
        _seconds("open_for", open_for, 0.1, 3_600)
        self.policy = BreakerPolicy(failures, of, micros(open_for), ramp, _PROBE)

    def __repr__(self) -> str:
        return f"Breaker({self.policy.failures}, of={self.policy.of})"


class Adaptive:
    """Lowers the rates of an upstream when it drops calls, and raises them again, up to what is
    declared, while calls have to wait.

    Args:
        floor: the smallest share of the declared rates, above 0 and below 1.
        cut: what a drop leaves of the rates.
        recovery: seconds of pressure in which the whole declared rate comes back from nothing.

    Raises:
        DeclarationError: naming the field and the remedy.
    """

    __slots__ = ("policy",)

    def __init__(self, floor: float = 0.1, *, cut: float = 0.7, recovery: float = 60.0) -> None:
        for field, value in (("floor", floor), ("cut", cut)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
                raise DeclarationError(field, f"{value!r} is no share", "Give one between 0 and 1")
        _seconds("recovery", recovery, 1, 86_400)
        self.policy = AdaptivePolicy(
            floor=max(math.ceil(floor * WHOLE), WHOLE // 20),
            cut=max(int(cut * WHOLE), 1),
            step=max(int(WHOLE / recovery), 1),
        )

    def __repr__(self) -> str:
        return f"Adaptive(floor={self.policy.floor / WHOLE:.2g})"


def _integer(field: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise DeclarationError(field, f"{value!r} is out of range", f"Give {low} to {high}")


def _seconds(field: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise DeclarationError(field, f"{value!r} is no span", f"Give {low:g} to {high:g} seconds")


class Upstream:
    """A third-party API as the fleet sees it.

    Args:
        name: unique in the fleet; all its keys share the hash tag ``{name}``.
        limits: every one of them must allow a call.
        max_wait: seconds a task may wait for its slot in total, over all deferrals; beyond
            it the task becomes a dead letter (``deferral_budget_exhausted``).
        breaker: stops calling while the upstream fails; none by default.
        adaptive: lowers the declared rates while the upstream drops calls; not by default.
        store_down: what happens while the limiter store does not answer. ``"closed"``: tasks
            wait. ``"open"``: they call unlimited. ``"local"``: each worker enforces its
            share of the limits by itself. Tasks that are not idempotent wait in any case.

    Raises:
        DeclarationError: naming the field and the remedy.
    """

    __slots__ = ("adaptive", "breaker", "limits", "max_wait", "name", "store_down")

    def __init__(
        self,
        name: str,
        *limits: Rule,
        max_wait: float = 3600.0,
        breaker: Breaker | None = None,
        adaptive: Adaptive | None = None,
        store_down: StoreDown = "closed",
    ) -> None:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise DeclarationError(
                "upstream", f"{name!r} is not a name", "Use letters, digits and . _ - (64 at most)"
            )
        if not 0 < max_wait <= 30 * 86_400:
            raise DeclarationError(
                "max_wait", f"{max_wait!r} is not a wait", "Give seconds, at most 30 days"
            )
        check_limits(limits)
        if breaker is not None and not isinstance(breaker, Breaker):
            raise DeclarationError("breaker", f"{breaker!r} is no Breaker", "Write Breaker()")
        if adaptive is not None and not isinstance(adaptive, Adaptive):
            raise DeclarationError("adaptive", f"{adaptive!r} is no Adaptive", "Write Adaptive()")
        if store_down not in {"closed", "open", "local"}:
            raise DeclarationError(
                "store_down", f"{store_down!r} is no policy", 'Give "closed", "open" or "local"'
            )
        self.name = name
        self.breaker = None if breaker is None else breaker.policy
        self.adaptive = None if adaptive is None else adaptive.policy
        self.store_down = store_down
        self.limits = limits
        self.max_wait = micros(max_wait)

    def __repr__(self) -> str:
        return f"Upstream({', '.join([repr(self.name), *map(repr, self.limits)])})"


def check_limits(limits: Sequence[object]) -> None:
    """Refuse what is not a limit, and two limits that would share one bucket.

    Raises:
        DeclarationError: naming the field and the remedy.
    """
    if not isinstance(limits, list | tuple):
        raise DeclarationError(
            "limits", f"{limits!r} is not a list", 'Write limits=[Limit("100/s")]'
        )
    seen: dict[str, Rule] = {}
    for limit in limits:
        if not isinstance(limit, Rule):
            raise DeclarationError("limits", f"{limit!r} is not a Limit", 'Write Limit("100/s")')
        if limit.key in seen:
            raise DeclarationError(
                "limits",
                f"{limit!r} and {seen[limit.key]!r} count the same calls over the same period",
                'Keep the stricter, or give each a name=, like Limit("100/s", name="reads")',
            )
        seen[limit.key] = limit
