"""A request changes from one state to another as the table says, and takes the prefetch window and
the gauges along."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from itertools import product
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from governor.admission.call import Call
from governor.events import Emitter, Event, TransitionRefused
from governor.messages.header import Header
from governor.testing.clock import FakeClock
from governor.worker.lifecycle import (
    ENDED,
    TRANSITIONS,
    WAITING,
    IllegalTransition,
    Lifecycle,
    RequestState,
)
from governor.worker.parked_message import ParkedMessage
from governor.worker.request import Delivery, GovernedRequest


class Request(SimpleNamespace):
    """As much of a request as is looked at."""

    __hash__ = object.__hash__


def request_in(state: RequestState, message: Any = None) -> Any:
    return Request(
        state=state, name="call", id="one", message=message, call=SimpleNamespace(upstream="api")
    )


def lifecycle() -> tuple[Lifecycle, Mock, list[Event]]:
    consumer, events, heard = Mock(), Emitter(), list[Event]()
    events.listen(heard.append)
    return Lifecycle(consumer, events, FakeClock(0)), consumer.qos, heard


@pytest.mark.parametrize(("before", "to"), list(product(RequestState, RequestState)))
def test_only_what_the_table_allows(before: RequestState, to: RequestState) -> None:
    """Any other transition fails in tests; staying is none."""
    states, _, _ = lifecycle()
    request = request_in(before)
    if to is before or to in TRANSITIONS[before]:
        states.move(request, to)
        assert request.state is to
    else:
        with pytest.raises(IllegalTransition):
            states.move(request, to)


def test_in_production_an_illegal_transition_is_logged_and_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker goes on, and a request that has ended stays where it is."""
    monkeypatch.setattr(Lifecycle, "strict", False)
    states, _, heard = lifecycle()
    request = request_in(RequestState.GONE)
    states.move(request, RequestState.QUEUED)
    assert request.state is RequestState.GONE
    assert heard == [TransitionRefused(0, "one", "call", "api", "gone", "queued")]
    assert "from gone to queued" in caplog.text
    request = request_in(RequestState.HELD)
    states.move(request, RequestState.RUNNING)
    assert request.state is RequestState.RUNNING


def test_every_state_but_the_last_ones_leads_on() -> None:
    """A request gets to an end from everywhere."""
    reached = set(ENDED)
    while more := {s for s, to in TRANSITIONS.items() if to & reached} - reached:
        reached |= more
    assert reached == set(RequestState)
    assert {state for state, to in TRANSITIONS.items() if not to} == ENDED


def test_the_prefetch_window_is_wider_by_what_is_held() -> None:
    """A held request widens the window by one, however often it is held, until it moves on."""
    states, qos, _ = lifecycle()
    request = request_in(RequestState.RECEIVED)
    for state in (
        RequestState.HELD,
        RequestState.HELD,
        RequestState.QUEUED,
        RequestState.HELD,
        RequestState.GONE,
    ):
        states.move(request, state)
    assert qos.increment_eventually.call_count == 2
    assert qos.decrement_eventually.call_count == 2


def test_a_new_connection_begins_with_a_window_of_its_own() -> None:
    """A window that was widened on the last connection is not narrowed on the new one."""
    states, qos, _ = lifecycle()
    request = request_in(RequestState.HELD)
    states.move(request_in(RequestState.RECEIVED), RequestState.HELD)
    states.window_is_new()
    states.move(request, RequestState.RETURNED)
    assert not qos.decrement_eventually.called


def test_a_parked_message_takes_no_part_of_the_window() -> None:
    """A message that came out of the lot, not from the broker, widens no window."""
    states, qos, _ = lifecycle()
    states.move(request_in(RequestState.RECEIVED, Mock(spec=ParkedMessage)), RequestState.HELD)
    assert not qos.increment_eventually.called


def test_requests_that_wait_are_counted() -> None:
    """The gauge goes up and down with the states that people call waiting."""
    states, _, _ = lifecycle()
    request = request_in(RequestState.RECEIVED)
    seen = []
    for state in (
        RequestState.QUEUED,
        RequestState.HELD,
        RequestState.QUEUED,
        RequestState.RUNNING,
        RequestState.HELD,
        RequestState.DYING,
    ):
        states.move(request, state)
        seen.append(states.waiting["api"])
        assert seen[-1] == int(state in WAITING)
    assert seen == [1, 1, 1, 0, 1, 0]


def changing(kind: type) -> list[str]:
    """List the fields of ``kind`` that something may change after it is made: those of a tuple and
    of a frozen dataclass do not, and no ``Final`` one, which mypy sees to."""
    if issubclass(kind, tuple):
        return []
    if is_dataclass(kind):
        frozen = kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
        return (
            [] if frozen else [f.name for f in fields(kind) if not str(f.type).startswith("Final")]
        )
    return list(vars(kind).get("__annotations__", {}))


def test_little_changes_in_a_request() -> None:
    """At most twenty fields say where a request, its call and its header are, counted together."""
    found = {kind.__name__: changing(kind) for kind in (GovernedRequest, Call, Header, Delivery)}
    assert "state" in found["GovernedRequest"]
    assert sum(map(len, found.values())) <= 20, found
