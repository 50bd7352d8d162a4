"""The exporter's gauges on a store in memory: their values, and which are absent when."""

from __future__ import annotations

import math
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families

from governor import Adaptive, Breaker, Concurrency, GovernedTask, Governor, Limit, Upstream, Window
from governor.admission.lanes import Lanes
from governor.cli.exporter import exporter
from governor.clock import SECOND
from governor.deadletter.history import DeadCount
from governor.deadletter.spill import Backlog
from governor.errors import ConfigurationError, DatabaseUnavailable, StoreUnavailable
from governor.operations import fleet_gauges
from governor.operations.fleet_gauges import GAUGES, FleetGauges
from governor.operations.limit_status import FOREVER, LimitStatusReader
from governor.operations.parking_status import ParkedTasks
from governor.policy.admission import UpstreamState
from governor.policy.breaker import Closed, HalfOpen, Open, state_of
from governor.policy.decision import Ask
from governor.policy.parking_values import Arrival
from governor.policy.settlement import Settlement
from governor.ports import Change
from governor.stores.memory import MemoryStore
from governor.telemetry import exporter as telemetry
from governor.testing.clock import FakeClock

HOUR = 3600 * SECOND


class Fleet:
    """An application, its store, and what its database and its spill folder say."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock.wall)
        self.app = Celery("fleet", broker="memory://", set_as_current=False)
        self.app.conf.governor_redis_url = "redis://127.0.0.1:1/0"
        self.governor = Governor(self.app, clock=self.clock, store=self.store)
        shop = Upstream(
            "shop",
            Limit("100/s", burst=20, margin=0),
            Limit("5/s", per="account", margin=0),
            Window(600, per_seconds=60, margin=0, name="minute"),
            Concurrency(4),
            breaker=Breaker(), adaptive=Adaptive(), fair_by="account", max_wait=600,
        )  # fmt: skip
        quiet = Upstream("quiet", Limit("1/s"))

        @self.app.task(
            shared=False, base=GovernedTask, upstream=shop, name="order",
            limits=[Limit("100/s", burst=5, margin=0)],
        )  # fmt: skip
        def order(account: str) -> None: ...

        @self.app.task(shared=False, base=GovernedTask, upstream=quiet, name="ping")
        def ping() -> None: ...

        self.dead: Sequence[DeadCount] | Exception = ()
        self.spilled: Backlog | Exception = Backlog(0, 0, 0)
        self.store.settle(Settlement("shop"))
        self.clock.advance(HOUR)
        plans = [self.plan("order"), self.plan("ping")]
        self.standing = LimitStatusReader(self.store, self.governor.upstreams, plans, self.clock)
        self.gauges = FleetGauges(
            upstreams=self.standing.names(),
            parked=ParkedTasks(self.store, self.standing, str),
            count_dead=lambda: answer(self.dead),
            backlog=lambda: answer(self.spilled),
            tasks={"order", "ping"},
            clock=self.clock,
        )

    def plan(self, task: str) -> Any:
        governance = self.governor.governance(task)
        assert governance is not None
        return governance.plan

    def park(self, task_id: str, account: str) -> None:
        plan = self.plan("order")
        buckets = [charge.bucket for charge in plan.charges((account,), {})]
        lane, _ = Lanes(str).of(plan, "celery", buckets, account, 0)
        self.store.lots.park("shop", [Arrival(task_id, lane, (1,) * len(buckets), b"")])

    def call(self, cost: int = 1) -> None:
        charges = self.plan("order").charges(("a",), {})[:1]
        for _ in range(cost):
            self.store.admit(Ask("shop", charges, 0, 0, 0, HOUR))

    def read(self) -> dict[str, float]:
        """The samples as Prometheus knows them."""
        return values(telemetry.text(self.gauges.read))


def answer(known: Any) -> Any:
    if isinstance(known, Exception):
        raise known
    return known


def values(text: str) -> dict[str, float]:
    """The samples of a text, each by its name and labels."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    made = Fleet()
    yield made
    made.app.close()


def test_what_is_left_of_the_limits(fleet: Fleet) -> None:
    """Limits without per= have their numbers; one of a single task is named after it."""
    fleet.call(5)
    found = fleet.read()
    assert found["governor_limit_size{limit=100/s,upstream=shop}"] == 20
    assert found["governor_limit_remaining{limit=100/s,upstream=shop}"] == 15
    assert found["governor_limit_used_ratio{limit=100/s,upstream=shop}"] == 0.25
    assert found["governor_limit_rate{limit=100/s,upstream=shop}"] == 100
    assert found["governor_limit_rate{limit=minute,upstream=shop}"] == 10
    assert found["governor_limit_size{limit=100/s of order,upstream=shop}"] == 5
    assert found["governor_limit_remaining{limit=4 in flight,upstream=shop}"] == 4
    assert "governor_limit_rate{limit=4 in flight,upstream=shop}" not in found
    assert not [name for name in found if "account" in name]


def test_the_rate_is_the_one_in_force(fleet: Fleet) -> None:
    """A changed rate, and the share of rates that adapt, are in the gauge."""
    fleet.store.change(Change("shop", "set", "s", '{"rate": "50/s", "burst": 10}', "ann", "why"))
    found = fleet.read()
    assert found["governor_limit_rate{limit=100/s,upstream=shop}"] == 50
    assert found["governor_limit_size{limit=100/s,upstream=shop}"] == 10
    assert found["governor_adaptive_share{upstream=shop}"] == 1


def test_what_is_parked(fleet: Fleet) -> None:
    """Depth, lanes, fairness keys, and the age of the task that waits longest."""
    fleet.park("t1", "a")
    fleet.clock.advance(30 * SECOND)
    fleet.park("t2", "b")
    fleet.park("t3", "b")
    fleet.clock.advance(10 * SECOND)
    found = fleet.read()
    assert found["governor_parked_tasks{upstream=shop}"] == 3
    assert found["governor_parked_oldest_age_seconds{upstream=shop}"] == 40
    assert found["governor_parked_lanes{upstream=shop}"] == 2
    assert found["governor_parked_tenants{upstream=shop}"] == 2
    assert found["governor_parked_ready_tasks{upstream=shop}"] == 3
    assert found["governor_max_wait_seconds{upstream=shop}"] == 600
    assert found["governor_release_rate{upstream=shop}"] == 0
    assert found["governor_parked_oldest_age_seconds{upstream=quiet}"] == 0


def test_pauses(fleet: Fleet) -> None:
    """A pause has its end, one without an end has +Inf, and paused keys are only counted."""
    until = fleet.clock.wall() + HOUR
    fleet.store.change(Change("shop", "pause", "", str(until), "ann", "why"))
    fleet.store.change(Change("quiet", "pause", "", str(FOREVER), "ann", "why"))
    fleet.store.change(Change("shop", "pause", "pause:s.account:x", str(until), "ann", "why"))
    found = fleet.read()
    assert found["governor_paused{upstream=shop}"] == 1
    assert found["governor_pause_end_timestamp_seconds{upstream=shop}"] == until / SECOND
    assert found["governor_pause_end_timestamp_seconds{upstream=quiet}"] == math.inf
    assert found["governor_paused_keys{upstream=shop}"] == 1
    fleet.store.change(Change("shop", "resume", "", "", "ann", "why"))
    found = fleet.read()
    assert found["governor_paused{upstream=shop}"] == 0
    assert "governor_pause_end_timestamp_seconds{upstream=shop}" not in found


@pytest.mark.parametrize(
    ("breaker", "state"),
    [(Closed(), "closed"), (Open(5, 1), "open"), (HalfOpen(1, 1, 0, 9, 1), "half_open")],
)
def test_the_state_of_a_breaker(breaker: Any, state: str) -> None:
    """Each state has its word."""
    assert state_of(breaker) == state


def test_one_state_of_a_breaker_is_1(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state that the breaker is in is 1, the others are 0; without a breaker there are none."""
    look = fleet.store.look
    opened = Open(fleet.clock.wall() + HOUR, 1)

    def with_open_breaker(upstream: str, charges: Any) -> Any:
        found = look(upstream, charges)
        state: UpstreamState = replace(found.state, breaker=opened)
        return replace(found, state=state)

    monkeypatch.setattr(fleet.store, "look", with_open_breaker)
    found = fleet.read()
    states = {name: value for name, value in found.items() if "breaker" in name}
    assert states == {
        "governor_breaker_state{state=closed,upstream=shop}": 0,
        "governor_breaker_state{state=open,upstream=shop}": 1,
        "governor_breaker_state{state=half_open,upstream=shop}": 0,
    }


def test_the_dead(fleet: Fleet) -> None:
    """Rows are counted by reason, task and state; unknown tasks share a label."""
    fleet.dead = (
        DeadCount("dead", "rejected", "order", 3),
        DeadCount("resolved", "rejected", "order", 2),
        DeadCount("dead", "unknown_task", "made.up", 4),
        DeadCount("dead", "unknown_task", None, 1),
    )
    found = {name: value for name, value in fleet.read().items() if "dead_letters" in name}
    assert found == {
        "governor_dead_letters{reason=rejected,state=dead,task=order}": 3,
        "governor_dead_letters{reason=rejected,state=resolved,task=order}": 2,
        "governor_dead_letters{reason=unknown_task,state=dead,task=other}": 5,
    }


def test_what_is_spilled(fleet: Fleet) -> None:
    """Files that wait, and files that a person must look at, are counted apart."""
    fleet.spilled = Backlog(3, 2, 1)
    found = fleet.read()
    assert found["governor_spill_pending{}"] == 3
    assert found["governor_spill_set_aside{why=refused}"] == 2
    assert found["governor_spill_set_aside{why=broken}"] == 1


def test_a_store_that_is_away(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """governor_store_up is 0, what the store knows is absent, and the rest is there."""

    def away(*_: Any) -> Any:
        raise StoreUnavailable("no answer")

    monkeypatch.setattr(fleet.store, "look", away)
    found = fleet.read()
    assert found["governor_store_up{}"] == 0
    assert found["governor_upstream_up{upstream=shop}"] == 0
    assert not [name for name in found if "parked" in name or "limit" in name or "pause" in name]
    assert found["governor_database_up{}"] == 1
    assert fleet.gauges.problems == ("The limiter store did not answer for quiet, shop",)


def test_no_upstream_is_asked_about_after_the_budget(fleet: Fleet) -> None:
    """Once the time for the store is over, the upstreams left are not asked about, and are down."""
    look, asked = fleet.store.look, []

    def slow(upstream: str, charges: Any) -> Any:
        asked.append(upstream)
        fleet.clock.advance(fleet_gauges.STORE_BUDGET)
        return look(upstream, charges)

    fleet.store.look = slow  # type: ignore[method-assign]
    found = fleet.read()
    assert asked == ["quiet"]
    assert found["governor_upstream_up{upstream=quiet}"] == 1
    assert found["governor_upstream_up{upstream=shop}"] == 0
    assert found["governor_store_up{}"] == 0
    assert found["governor_scrape_duration_seconds{source=store}"] == 3


def test_an_upstream_whose_state_cannot_be_read(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is down by itself: the store is up, and the other upstreams are read."""
    look = fleet.store.look

    def garbled(upstream: str, charges: Any) -> Any:
        if upstream == "shop":
            raise ValueError("garbage")
        return look(upstream, charges)

    monkeypatch.setattr(fleet.store, "look", garbled)
    found = fleet.read()
    assert found["governor_store_up{}"] == 1
    assert found["governor_upstream_up{upstream=shop}"] == 0
    assert found["governor_parked_tasks{upstream=quiet}"] == 0
    (problem,) = fleet.gauges.problems
    assert "shop" in problem


def test_a_database_and_a_folder_that_are_away(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """governor_database_up is 0 and there are no dead letters; each problem is logged once."""
    fleet.dead = DatabaseUnavailable("the database is away")
    fleet.spilled = PermissionError(13, "Permission denied")
    for _ in range(2):
        found = fleet.read()
    assert found["governor_database_up{}"] == 0
    assert found["governor_store_up{}"] == 1
    assert not [name for name in found if "dead_letters" in name or "spill_pending" in name]
    assert [record.message for record in caplog.records] == [
        "Exporter: the database is away",
        "Exporter: The spill folder cannot be read: Permission denied",
    ]


def test_every_gauge_occurs(fleet: Fleet) -> None:
    """The list of gauges is the list of what is served, and each name is served once."""
    fleet.dead = (DeadCount("dead", "rejected", "order", 3),)
    fleet.store.change(Change("shop", "pause", "", str(FOREVER), "ann", "why"))
    served = [
        family.name for family in text_string_to_metric_families(telemetry.text(fleet.gauges.read))
    ]
    assert sorted(served) == sorted(gauge.name for gauge in GAUGES)


# ---------------------------------------------------------------------------- the command


def run(fleet: Fleet, *arguments: str) -> Result:
    class Environment:
        def fleet_gauges(self) -> FleetGauges:
            return fleet.gauges

    return CliRunner().invoke(exporter, list(arguments), obj=Environment())


def test_once(fleet: Fleet) -> None:
    """--once prints the metrics on stdout, and says in its exit code that a source is away."""
    done = run(fleet, "--once")
    assert done.exit_code == 0, done.output
    assert values(done.stdout)["governor_store_up{}"] == 1
    fleet.dead = DatabaseUnavailable("the database is away")
    done = run(fleet, "--once")
    assert done.exit_code == 6
    assert values(done.stdout)["governor_database_up{}"] == 0


def test_without_prometheus_client(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    done = run(fleet, "--once")
    assert done.exit_code == 2
    assert "pip install 'celery-governor[prometheus]'" in done.stderr


def test_a_port_that_is_taken(fleet: Fleet) -> None:
    """The error names the port, and the one who listens there goes on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port}: .*in use"):
            telemetry.serve(fleet.gauges.read, "127.0.0.1", port)
