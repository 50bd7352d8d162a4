"""The emitter: it tells the listeners of this process what happens."""

from __future__ import annotations

import os
from collections.abc import Callable
from weakref import WeakSet

from governor.events.tasks import Event
from governor.log_lines import LOG

Listener = Callable[[Event], object]


class Emitter:
    """Tells listeners of events.

    Whoever emits asks ``if events.listeners:`` first, so that an event nobody hears is not made.

    Attributes:
        listeners: those of this process. A forked child begins with none: what they write to, a
            port or a lock, is the parent's.
    """

    __slots__ = ("__weakref__", "_failed", "listeners")

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()
        self._failed: list[Listener] = []
        _of_this_process.add(self)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with every event from now on, in the thread in which it happens.

        Returns:
            what ends it.
        """
        self.listeners = (*self.listeners, listener)

        def end() -> None:
            self.listeners = tuple(one for one in self.listeners if one is not listener)

        return end

    def emit(self, event: Event) -> None:
        """Tell every listener. One that raises is logged the first time, and stops nothing."""
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - a listener is anybody's code
                if not any(one is listener for one in self._failed):
                    self._failed.append(listener)
                    LOG.exception("A listener failed on the event %r", event.kind)


_of_this_process: WeakSet[Emitter] = WeakSet()


def _forked() -> None:
    for emitter in _of_this_process:
        emitter.listeners = ()


os.register_at_fork(after_in_child=_forked)
