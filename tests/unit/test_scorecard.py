"""A month in figures: each computed by hand, and shown by ``governor scorecard``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from governor import GovernedTask, Governor, Limit, Retry, Upstream, keys
from governor.cli.environment import Environment
from governor.cli.scorecard import scorecard as command
from governor.clock import SECOND
from governor.deadletter import schema
from governor.deadletter.engine import bounded_engine
from governor.deadletter.history import DeadCount, Episode
from governor.deadletter.repository import SqlDeadLetters
from governor.errors import ConfigurationError, StoreUnavailable
from governor.operations.scorecard import (
    Deaths,
    Month,
    Resolution,
    TaskType,
    deaths,
    resolution,
    task_types,
)
from governor.policy.parking_values import Arrival, Lane, Steering
from governor.ports import Change, Reason
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock
from tests.deaths import death

DAY = 86_400 * SECOND
NOVEMBER = Month.named("2026-11")
START = NOVEMBER.since

# ---------------------------------------------------------------------------- figures


def test_a_month() -> None:
    """It lasts from its first instant in UTC to the next month's, over a year's end too."""
    assert NOVEMBER.before - NOVEMBER.since == 30 * DAY
    december = Month.named("2026-12")
    assert december.since == NOVEMBER.before
    assert december.before == Month.named("2027-01").since
    assert Month.at(NOVEMBER.before - 1) == NOVEMBER
    assert Month.at(NOVEMBER.before) == december


@pytest.mark.parametrize(
    "name", ["2026-13", "2026-00", "2026-1", "november", "0000-01", "9999-12", ""]
)
def test_what_is_no_month(name: str) -> None:
    """The error says how a month is written."""
    with pytest.raises(ConfigurationError, match="Write it like 2026-11"):
        Month.named(name)


def test_deaths_are_added_up_over_their_states() -> None:
    """A death counts whatever has become of its row; the largest number comes first."""
    assert deaths(
        [
            DeadCount("dead", "rejected", "a", 1),
            DeadCount("resolved", "rejected", "a", 2),
            DeadCount("dead", "expired", None, 1),
            DeadCount("replayed", "expired", "b", 5),
        ]
    ) == (Deaths("expired", "b", 5), Deaths("rejected", "a", 3), Deaths("expired", None, 1))


RESOLUTIONS: list[tuple[Sequence[tuple[int, int | None]], Resolution]] = [
    # no group
    ([], Resolution(0, None, 0, None)),
    # one day, and three: two on the average
    ([(START, START + DAY), (START, START + 3 * DAY)], Resolution(2, 2 * DAY, 0, None)),
    # began before the month, ended in it: all of it counts
    ([(START - 9 * DAY, START + DAY)], Resolution(1, 10 * DAY, 0, None)),
    # ended in the last instant before the month
    ([(START - 9 * DAY, START - 1)], Resolution(0, None, 0, None)),
    # ended in the month's first instant
    ([(START - DAY, START)], Resolution(1, DAY, 0, None)),
    # two are not resolved; the older one began before the month
    ([(START + DAY, None), (START - DAY, None)], Resolution(0, None, 2, START - DAY)),
]


@pytest.mark.parametrize(("spans", "expected"), RESOLUTIONS)
def test_the_time_to_resolution(
    spans: Sequence[tuple[int, int | None]], expected: Resolution
) -> None:
    """The mean is over the groups whose last row was resolved in the month."""
    assert resolution(NOVEMBER, [Episode("f", *span) for span in spans]) == expected


# ---------------------------------------------------------------------------- the command


def body() -> None:
    """The body of every task here."""


class Shop:
    """An application, its store and its database."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock(START)
        self.store = MemoryStore(self.clock.wall)
        self.app = Celery("shop", broker="memory://", set_as_current=False)
        self.database = f"sqlite:///{folder / 'dead.sqlite'}"
        self.app.conf.governor_redis_url = "redis://127.0.0.1:1/0"
        self.app.conf.governor_database_url = self.database
        self.app.conf.governor_routes = {"vendor.*": "shop"}
        self.governor = Governor(self.app, clock=self.clock, store=self.store)
        shop = Upstream("shop", Limit("5/s"))
        for name, options in {
            "silent": {},
            "once": {"idempotent": False},
            "often": {"idempotent": True},
            "retried": {"idempotent": True, "retry": Retry(on=OSError)},
        }.items():
            self.app.task(
                body, shared=False, base=GovernedTask, upstream=shop, name=name, **options
            )
        self.app.task(body, shared=False, name="vendor.sync")
        self.app.task(body, shared=False, name="plain")
        for shared in [name for name in self.app.tasks if name.startswith("pytest_celery.")]:
            self.app.tasks.unregister(shared)  # of a plugin of the tests
        engine = bounded_engine(self.database)
        schema.upgrade(engine)
        self.letters = SqlDeadLetters(engine, redact=str)

    def change(self, what: Any, by: str = "ann@host") -> None:
        self.store.change(Change("shop", what, "", "0", by, "why"))

    def types(self) -> tuple[TaskType, ...]:
        return task_types(self.app.tasks, self.governor.governance, GovernedTask)

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(command, list(arguments), obj=Environment(self.app, None))

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    yield made
    made.letters.close()
    made.app.close()


def test_what_people_changed(shop: Shop) -> None:
    """Changes of limits in the month count by upstream and kind; those of parked tasks do not."""
    shop.clock.advance(-DAY)
    shop.change("set")  # in October
    shop.clock.advance(2 * DAY)
    shop.change("set")
    shop.change("set", by="bob@host")
    shop.change("pause")
    lane = Lane("g", ("s",), "f")
    shop.store.lots.park("shop", [Arrival("t", lane, (1,), b"")])
    shop.store.lots.steer("shop", Steering("front", ("t",), by="ann@host", why="urgent"))
    shop.clock.advance(30 * DAY)
    shop.change("reset")  # in December
    found = shop.json("--month", "2026-11")
    assert found["changes"] == [
        {"upstream": "shop", "change": "pause", "times": 1, "people": 1},
        {"upstream": "shop", "change": "set", "times": 2, "people": 2},
    ]
    assert found["changes_missing"] == []


def test_more_changes_than_are_kept(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the log may have lost some, the scorecard says so."""
    monkeypatch.setattr(keys, "RECORDS_KEPT", 2)
    shop.change("set")
    assert shop.json()["changes_missing"] == []
    shop.change("set")
    assert shop.json()["changes_missing"] == ["shop"]
    assert "more was recorded than is kept" in shop.run().stderr


def test_what_died(shop: Shop) -> None:
    """Deaths of the month count by reason and task, and open groups by when they began."""
    shop.letters.record(death("a", task_name="once", dead_at=START))
    shop.letters.record(death("b", task_name="once", dead_at=START + DAY))
    shop.letters.record(death("c", reason=Reason.EXPIRED, dead_at=NOVEMBER.before))
    found = shop.json("--month", "2026-11")
    assert found["deaths"] == [{"reason": "retries_exhausted", "task": "once", "rows": 2}]
    assert found["resolution"] == {
        "resolved": 0,
        "mean_seconds": None,
        "open": 1,
        "oldest_open_since": "2026-11-01T00:00:00.000+00:00",
    }


def test_what_task_types_declare(shop: Shop) -> None:
    """A declared idempotency is one that the type itself states; an idempotent type needs a policy,
    and a type that only a route governs declares nothing."""
    types = {each.name: each for each in shop.types()}
    declared = {name: (each.idempotency, each.contract) for name, each in types.items()}
    assert declared == {
        "silent": (False, False),
        "once": (True, True),
        "often": (True, False),
        "retried": (True, True),
        "vendor.sync": (False, False),
        "plain": (False, False),
    }
    found = shop.json()["task_types"]
    assert found["governed"] == 5
    assert found["other"] == 1
    assert found["with_idempotency"] == 3
    assert found["share"] == 0.4
    assert found["without_contract"] == ["often", "silent", "vendor.sync"]


def test_an_idempotency_declared_by_a_base_class(shop: Shop) -> None:
    """A base class of the application's own may declare it."""

    class Careful(GovernedTask):
        idempotent = False

    upstream = shop.governor.upstreams["shop"]
    shop.app.task(body, shared=False, base=Careful, upstream=upstream, name="careful")
    found = {each.name: each for each in shop.types()}
    assert found["careful"].contract


def test_for_people(shop: Shop) -> None:
    """The tables have the same figures, and stderr names what a type lacks."""
    shop.letters.record(death("a", task_name="once", dead_at=START))
    shop.change("set")
    done = shop.run()
    assert done.exit_code == 0, done.output
    assert "shop\tset\t1\t1" in done.stdout
    assert "retries_exhausted\tonce\t1" in done.stdout
    assert "declare what a failure leads to\t2 (40%)" in done.stdout
    assert "often: declares no retry policy" in done.stderr
    assert "silent: declares no idempotency" in done.stderr
    assert "vendor.sync: declares no upstream of its own" in done.stderr


def test_exit_codes(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong month is usage; a store or a database that is away is 6."""
    wrong = shop.run("--month", "11")
    assert wrong.exit_code == 2
    assert "Write it like 2026-11" in wrong.stderr
    nowhere = Environment(shop.app, "sqlite:////nowhere/at/all.sqlite")
    assert CliRunner().invoke(command, [], obj=nowhere).exit_code == 6

    def away(*_: Any) -> Any:
        raise StoreUnavailable("no answer")

    monkeypatch.setattr(shop.store, "log", away)
    assert shop.run().exit_code == 6
