"""Events are frozen values that ``docs/events.md`` lists; the emitter tells listeners, and nothing
depends on them."""

from __future__ import annotations

import inspect
import multiprocessing
import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from governor import events
from governor.events import Emitter, Event, StateLost, TaskEvent

ROOT = Path(__file__).resolve().parents[2]

KINDS = [
    kind for _, kind in inspect.getmembers(events, inspect.isclass)
    if issubclass(kind, Event) and kind.kind
]  # fmt: skip

LOST = StateLost(1, "api")


def own_fields(kind: type[Event]) -> list[str]:
    base = TaskEvent if issubclass(kind, TaskEvent) else Event
    shared = {field.name for field in fields(base)}
    return [field.name for field in fields(kind) if field.name not in shared]


def documented() -> dict[str, tuple[str, list[str]]]:
    """Of each event in the page's tables its class and fields: code that no parenthesis holds."""
    found = {}
    text = (ROOT / "docs/events.md").read_text(encoding="utf-8")
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 4 or not cells[0].startswith("`"):
            continue
        named = re.sub(r"\([^()]*(?:\([^()]*\)[^()]*)*\)", "", cells[2])
        found[cells[0].strip("`")] = (cells[1].strip("`"), re.findall(r"`(\w+)`", named))
    return found


def test_the_page_lists_what_the_code_has() -> None:
    """Each event stands in the table with its class and its fields, in their order."""
    assert documented() == {kind.kind: (kind.__name__, own_fields(kind)) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_cannot_be_changed(kind: type[Event]) -> None:
    """Several listeners hear the same value; it has slots, because many are made."""
    event = kind(*range(len(fields(kind))))
    assert not hasattr(event, "__dict__")
    with pytest.raises(FrozenInstanceError):
        event.at = 2  # type: ignore[misc]


def test_listeners_hear_until_they_are_ended() -> None:
    """Each of several hears every event; ending one leaves the others."""
    emitter, first, second = Emitter(), list[Event](), list[Event]()
    end = emitter.listen(first.append)
    emitter.listen(second.append)
    emitter.emit(LOST)
    end()
    emitter.emit(LOST)
    assert (len(first), len(second)) == (1, 2)


def test_without_a_listener_there_is_nothing_to_tell() -> None:
    """Call sites ask this before they make an event; it is true again when the last has ended."""
    emitter = Emitter()
    assert not emitter.listeners
    emitter.listen(print)()
    assert not emitter.listeners


def test_a_listener_that_raises_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The next one hears the event, and the log tells of the first failure only."""
    emitter, heard = Emitter(), list[Event]()

    def fail(_: Event) -> None:
        raise ZeroDivisionError

    emitter.listen(fail)
    emitter.listen(heard.append)
    emitter.emit(LOST)
    emitter.emit(LOST)
    assert heard == [LOST, LOST]
    assert [record.message for record in caplog.records] == [
        "A listener failed on the event 'state_lost'"
    ]


def test_a_forked_child_has_no_listeners() -> None:
    """A lock that the parent's listener holds at the fork would never come free in the child."""
    emitter = Emitter()
    emitter.listen(print)
    context: Any = multiprocessing.get_context("fork")
    pipe, end = context.Pipe()
    child = context.Process(target=lambda: end.send(len(emitter.listeners)))
    child.start()
    assert pipe.recv() == 0
    child.join()
    assert emitter.listeners
