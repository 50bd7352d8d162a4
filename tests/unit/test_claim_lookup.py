"""Claims as the writer of dead letters reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from governor import GovernedTask, Governor, Limit, Upstream
from governor.clock import SECOND
from governor.errors import StoreUnavailable
from governor.keys import body_id
from governor.policy.decision import Ask, ClaimAsk
from governor.policy.settlement import ClaimAction, Settlement
from governor.ports import Reason
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock
from governor.worker.claim_lookup import ClaimLookup
from tests.deaths import message

STAMPED = message("t", headers={"governor": {"v": 1, "mid": "m", "upstream": "api"}})
FOREIGN = message("t")


class World:
    """A claim lookup over a store of which the test is the master."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock.monotonic)
        self.app = Celery("app", broker="memory://", set_as_current=False)
        self.app.conf.governor_redis_url = "redis://nowhere"
        self.governor = Governor(self.app, clock=self.clock, store=self.store)
        api = Upstream("api", Limit("10/s"))

        def body() -> None: ...

        for name, idempotent in (("once", False), ("again", True)):
            self.app.task(
                name=name, shared=False, base=GovernedTask, upstream=api, idempotent=idempotent
            )(body)
        self.lookup = ClaimLookup(self.governor)

    def claim(self, mid: str = "m", token: str = "first", attempt: int = 0) -> ClaimAsk:
        claim = ClaimAsk("t", attempt, mid, token, 30 * SECOND, 3600 * SECOND)
        self.store.admit(Ask("api", (), 0, 0, 0, 0, claim=claim))
        return claim

    def began(
        self, copy: Any = STAMPED, *, task: str = "once", reason: Reason = Reason.EXPIRED,
        own: str = "second", redelivered: bool = False,
    ) -> bool | None:  # fmt: skip
        return self.lookup.began(reason, copy, task, "t", 0, own, redelivered)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.app.close()


@pytest.mark.parametrize("task", ["once", "unknown"])
def test_a_claimed_message_has_begun(world: World, task: str) -> None:
    """While another delivery holds the claim, and after it has ended or was buried, the message
    has begun; this is so for a task that the worker does not know."""
    assert world.began(task=task) is False
    claim = world.claim()
    assert world.began(task=task) is True
    world.store.settle(Settlement("api", "first", ClaimAction.FINISH, claim))
    assert world.began(task=task) is True


def test_what_was_claimed_otherwise_says_nothing(world: World) -> None:
    """Another message, another attempt, and a claim of the dying delivery's own, whose body it has
    not begun, are no beginning of this message."""
    world.claim(mid="another")
    world.claim(attempt=1)
    world.claim(token="second")
    assert world.began() is False
    assert world.began(own="") is True


def test_a_message_without_an_id_is_looked_up_by_its_body(world: World) -> None:
    """A message that no governor has stamped has the claim that its worker took."""
    world.claim(mid=body_id(FOREIGN.body))
    assert world.began(FOREIGN) is True


@pytest.mark.parametrize(("redelivered", "expected"), [(False, False), (True, None)])
def test_a_task_of_no_known_upstream(
    world: World, redelivered: bool, expected: bool | None
) -> None:
    """Without an upstream no claim can be looked at: a first delivery has not begun, and of a
    later one it is not known."""
    assert world.began(FOREIGN, task="unknown", redelivered=redelivered) is expected


@pytest.mark.parametrize(
    ("task", "reason"), [("again", Reason.EXPIRED), ("once", Reason.NOT_IDEMPOTENT)]
)
def test_where_nothing_depends_on_it_nothing_is_asked(
    world: World, task: str, reason: Reason
) -> None:
    """An idempotent task, and a death whose body has run, need no question."""
    world.claim()
    assert world.began(task=task, reason=reason) is None


def test_a_store_that_is_away_is_asked_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an answer it is not known, and the deaths of the next seconds do not wait for one."""
    asked: list[str] = []

    def away(upstream: str, *_: object) -> None:
        asked.append(upstream)
        raise StoreUnavailable("away")

    monkeypatch.setattr(world.store, "claimed_by", away)
    assert [world.began() for _ in range(3)] == [None] * 3
    assert asked == ["api"]
    world.clock.advance(5 * SECOND)
    assert world.began() is None
    assert len(asked) == 2
