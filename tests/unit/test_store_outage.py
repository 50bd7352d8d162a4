"""Outages of the limiter store that a worker knows of, for all upstreams or for one."""

from __future__ import annotations

import logging
import pickle

import pytest

from governor.clock import SECOND
from governor.errors import StoreUnavailable, UpstreamStateError
from governor.events import Emitter
from governor.testing.clock import FakeClock
from governor.worker.store_outage import StoreOutage

BROKEN = UpstreamStateError(
    "stripe", "holds a list, not a hash", "DEL gov:{stripe}", key="gov:{stripe}"
)
ONE_BUCKET = UpstreamStateError("stripe", "is no meter", key="gov:{stripe}:s:acct", part="s:acct")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(0)


@pytest.fixture
def outage(clock: FakeClock) -> StoreOutage:
    return StoreOutage(clock, Emitter())


def test_no_reply_concerns_every_upstream(outage: StoreOutage, clock: FakeClock) -> None:
    """A store that does not answer is asked about no upstream for a second."""
    outage.failed(StoreUnavailable())
    assert outage.until("stripe") == outage.until("other") == clock.monotonic() + SECOND
    assert outage.on("stripe")
    assert outage.on("other")
    outage.answered("other")
    assert not outage.on("stripe")


def test_a_refusal_about_one_upstream_concerns_that_upstream(
    outage: StoreOutage, clock: FakeClock
) -> None:
    """The upstream whose data is broken is asked about again after a second; others at once."""
    outage.failed(BROKEN)
    assert outage.until("stripe", ["s"]) == clock.monotonic() + SECOND
    assert outage.on("stripe")
    assert outage.until("other", ["s"]) == 0
    assert not outage.on("other")
    outage.answered("other")
    assert outage.on("stripe")
    outage.answered("stripe")
    assert not outage.on("stripe")


def test_a_bucket_that_is_broken_concerns_its_calls(outage: StoreOutage) -> None:
    """Garbage in one account's bucket leaves the other accounts of its upstream alone."""
    outage.failed(ONE_BUCKET)
    assert outage.on("stripe", ["m", "s:acct"])
    assert not outage.on("stripe", ["m", "s:other"])
    assert not outage.on("stripe")
    outage.answered("stripe", ["m", "s:other"])
    assert outage.on("stripe", ["s:acct"])
    outage.answered("stripe", ["m", "s:acct"])
    assert not outage.on("stripe", ["s:acct"])


def test_an_answer_about_one_upstream_says_that_the_store_is_there(outage: StoreOutage) -> None:
    """A refusal is an answer: the outage of the store as a whole is over."""
    outage.failed(StoreUnavailable())
    outage.failed(BROKEN)
    assert not outage.on("other")


def test_an_outage_is_logged_once_with_its_names(
    outage: StoreOutage, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has one line for each outage, which names upstream, key and remedy."""
    caplog.set_level(logging.WARNING, "governor")
    for _ in range(5):
        outage.failed(BROKEN)
        clock.advance(SECOND)
    (line,) = caplog.messages
    assert "stripe" in line
    assert "gov:{stripe}: holds a list, not a hash. DEL gov:{stripe}" in line
    outage.answered("stripe")
    assert caplog.messages[1:] == ["The limiter store's data of stripe can be used again"]
    clock.advance(SECOND)
    outage.failed(BROKEN)
    assert len(caplog.messages) == 3


def test_the_error_survives_a_process_border() -> None:
    """A pool child's error arrives with its names."""
    error = pickle.loads(pickle.dumps(ONE_BUCKET))
    assert str(error) == str(ONE_BUCKET)
    assert (error.upstream, error.key, error.part) == ("stripe", ONE_BUCKET.key, "s:acct")
