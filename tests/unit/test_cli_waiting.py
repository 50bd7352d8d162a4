"""``governor waiting`` on a store in memory: what is shown, what is steered, and the exit codes."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery
from celery.backends.cache import _DUMMY_CLIENT_CACHE
from celery.exceptions import TaskRevokedError
from click.testing import CliRunner, Result

from governor import Breaker, GovernedTask, Governor, Limit, Upstream
from governor.admission.lanes import Lanes, group_of, rank_of
from governor.cli import waiting as waiting_module
from governor.cli.environment import Environment
from governor.cli.limits import limits
from governor.clock import SECOND
from governor.errors import StoreUnavailable
from governor.messages.message import attempt_id, pack
from governor.operations.limit_status import FOREVER
from governor.operations.parking_status import tasks_ahead
from governor.policy.breaker import BreakerPolicy
from governor.policy.outcome import Outcome
from governor.policy.parking_values import (
    Arrival,
    Lane,
    LaneView,
    LotView,
    ParkedTask,
    ReleaseAsk,
    Steering,
)
from governor.policy.settlement import Settlement
from governor.ports import Change, MessageCopy
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock
from governor.testing.conformance_parking import FAST, group, lane, task
from governor.worker import publisher as messages_module

WHY = ("--why", "sent twice")


def message(task_id: str, **more: Any) -> MessageCopy:
    """A message as a worker parks it."""
    headers = {
        "id": task_id, "task": "charge", "retries": 0, "root_id": task_id,
        "argsrepr": "('a', 'password=hunter2')", "kwargsrepr": "{}", **more,
    }  # fmt: skip
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": more.get("chord")}
    return MessageCopy(
        json.dumps([["a"], {}, embed]).encode(), headers,
        {"content_type": "application/json", "content_encoding": "utf-8"}, "", "celery",
    )  # fmt: skip


class People:
    """An application with a store of parking lots, and a command line."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock.wall)
        self.app = Celery(
            "people", broker="memory://", backend="cache+memory://", set_as_current=False
        )
        self.app.conf.governor_redis_url = "redis://127.0.0.1:1/0"
        self.governor = Governor(self.app, clock=self.clock, store=self.store)
        payments = Upstream(
            "payments",
            Limit("1000/s", burst=1000, margin=0),
            Limit("1/s", per="account", margin=0),
            fair_by="account", weights={"big": 3}, breaker=Breaker(),
        )  # fmt: skip
        mail = Upstream("mail", Limit("1/s"), parking="broker")

        @self.app.task(shared=False, base=GovernedTask, upstream=payments, name="charge")
        def charge(account: str) -> None: ...

        @self.app.task(shared=False, base=GovernedTask, upstream=mail, name="send")
        def send() -> None: ...

        self.store.settle(Settlement("payments"))
        self.clock.advance(3600 * SECOND)

    def park(self, task_id: str, account: str = "a", rank: int = 0, **more: Any) -> Lane:
        governance = self.governor.governance("charge")
        assert governance is not None
        plan = governance.plan
        buckets = [charge.bucket for charge in plan.charges((account,), {})]
        found, _ = Lanes(str).of(plan, "celery", buckets, account, rank)
        payload = more.pop("payload", None) or pack(message(task_id))
        named = attempt_id("m", more.pop("retries", 0))
        arrival = Arrival(task_id, found, (1, 1), payload, message=named, **more)
        self.store.lots.park("payments", [arrival])
        return found

    def release(self, room: int = 1) -> list[str]:
        governance = self.governor.governance("charge")
        assert governance is not None
        groups = (group_of(governance.plan, "celery"),)
        version = self.store.in_force("payments").version
        token = f"t{self.clock.wall()}"
        ask = ReleaseAsk("payments", groups, room, 0, 60 * SECOND, token, version)
        return [ticket.entry for ticket in self.store.lots.release(ask).tickets]

    def gone(self, task_id: str) -> None:
        self.store.lots.steer("payments", Steering("cancel", (task_id,)))

    def pause(self, until: int = FOREVER) -> None:
        self.store.change(Change("payments", "pause", "", str(until), "ann@host", "incident 7"))

    def run(self, *arguments: str, command: Any = waiting_module.waiting, **more: Any) -> Result:
        environment = Environment(self.app, None)
        return CliRunner().invoke(command, list(arguments), obj=environment, **more)

    def json(self, *arguments: str) -> Any:
        result = self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def state(self, task_id: str) -> str:
        return str(self.app.AsyncResult(task_id).state)

    def log(self) -> list[dict[str, str]]:
        return [dict(record) for record in self.store.look("payments", ()).log]


@pytest.fixture
def people() -> Iterator[People]:
    _DUMMY_CLIENT_CACHE.clear()  # results in memory are the process's
    made = People()
    yield made
    made.app.close()


# ---------------------------------------------------------------------------- looking


def test_how_many_wait_and_how_fast_they_leave(people: People) -> None:
    """Each upstream says how many are parked and released, since when, the rate and the drain."""
    for n in range(8):
        people.park(f"t{n}", f"account{n}")
    assert len(people.release(4)) == 4
    people.clock.advance(2 * SECOND)
    views = {view["upstream"]: view for view in people.json()}
    payments = views["payments"]
    assert (payments["waiting"], payments["released"]) == (4, 4)
    assert payments["oldest_since"] == "2026-01-01T01:00:00.000+00:00"
    assert (payments["released_per_second"], payments["drain_seconds"]) == (2.0, 2.0)
    assert payments["held_up"] is None
    assert (views["mail"]["parking"], views["mail"]["waiting"]) == ("broker", 0)
    plain = people.run("payments").stdout
    assert "payments\t4\t4\t2 s\t2/s\t2 s\tthey are released" in plain
    assert "mail" not in plain
    assert "wait in the broker" in people.run("mail").stdout


def test_a_rate_nobody_knows(people: People) -> None:
    """While nothing was released lately the drain time is unknown, not infinite and not zero."""
    people.park("t")
    (view,) = people.json("payments")
    assert (view["released_per_second"], view["drain_seconds"]) == (None, None)
    assert "\t–\tunknown\tnothing was released lately" in people.run("payments").stdout


def test_an_upstream_that_is_held_up(people: People) -> None:
    """Paused or with an open breaker it says so instead of a drain time."""
    people.park("t")
    people.pause()
    assert "paused\tpaused (ann@host: incident 7)" in people.run("payments").stdout
    (view,) = people.json("payments")
    assert view["held_up"] == {"by": "pause", "until": None}
    assert view["drain_seconds"] is None
    people.store.change(Change("payments", "resume", "", "", "ann", "over"))
    policy = BreakerPolicy(1, 4, 60 * SECOND, 8, SECOND)
    people.store.settle(Settlement("payments", outcome=Outcome.FAILED, breaker=policy))
    assert "breaker open\tbreaker open until" in people.run("payments").stdout
    assert people.json("payments")[0]["held_up"]["by"] == "breaker"


def test_after_a_pause_they_leave_at_the_rate(people: People) -> None:
    """However long the upstream was paused, no burst of parked tasks leaves when it is resumed."""
    for n in range(5):
        people.park(f"t{n}", f"account{n}")
    people.run("pause", "payments", "--reason", "incident 7", command=limits)
    people.clock.advance(3600 * SECOND)
    people.run("resume", "payments", "--reason", "over", command=limits)
    for _ in range(3):
        assert len(people.release(5)) == 1
        people.clock.advance(SECOND // 1_000)


def test_who_takes_turns(people: People) -> None:
    """By tenant: tasks, share of the turns by weight, and what of its own holds it up."""
    for n in range(5):
        people.park(f"b{n}", "big")
    people.park("s0", "small")
    people.park("s1", "small", rank=9)
    assert len(people.release(2)) == 2
    people.release(9)  # finds both at their own limit
    (view,) = people.json("payments", "--by", "tenant")
    big, small = view["tenants"]
    assert (big["tenant"], big["waiting"], big["lanes"], big["weight"]) == ("big", 4, 1, 3)
    assert (big["share"], small["share"]) == (0.75, 0.25)
    assert big["blocked_by"] == "1/s per account"
    assert big["blocked_until"] == "2026-01-01T01:00:01.000+00:00"
    plain = people.run("payments", "--by", "tenant").stdout
    assert "75% (weight 3)\t–\tunknown\tfor 1 s (1/s per account)" in plain
    (view,) = people.json("payments", "--by", "lane")
    assert {one["lane"][:3] for one in view["lanes"]} == {"000", "009"}
    few = people.run("payments", "--by", "lane", "--limit", "1")
    assert "1 of 2 shown" in few.stderr


def test_how_fast_each_tenant_is_likely_to_leave(people: People) -> None:
    """The upstream's rate is shared by weight among the tenants that nothing of their own holds up;
    of the others nothing is expected, nor of anybody while the upstream is paused."""

    def told() -> dict[str, tuple[float | None, float | None]]:
        (view,) = people.json("payments", "--by", "tenant")
        return {
            one["tenant"]: (one["rate_estimate"], one["drain_seconds_estimate"])
            for one in view["tenants"]
        }

    for n in range(4):
        found = people.park(f"big{n}", "big")
        people.park(f"small{n}", "small")
    assert told() == {"big": (None, None), "small": (None, None)}
    assert len(people.release(9)) == 2
    people.clock.advance(SECOND // 2)
    people.park("late0", "late")
    people.park("late1", "late")
    assert people.release(9) == ["late0"]  # and the next of it is held up
    people.clock.advance(SECOND // 2)
    people.release(0)  # finds that the others' time has come
    older = replace(found, buckets=("s", "old"), group="old", flow="old", tenant="old")
    people.store.lots.park("payments", [Arrival("u", older, (1, 1), b"")])
    assert told() == {
        "big": (2.25, 1.333333), "small": (0.75, 4.0), "late": (None, None), "old": (None, None),
    }  # fmt: skip
    plain = people.run("payments", "--by", "tenant").stdout
    assert "(weight 3)\t2.25/s\t1.33 s\t\n" in plain
    assert "(weight 1)\t–\tunknown\tfor 0.5 s" in plain
    people.pause()
    assert {*told().values()} == {(None, None)}


def test_without_names_keys_are_called_by_their_digests(people: People) -> None:
    """A lane without a tenant is called by the limits that are its own, not by an argument."""
    found = people.park("t", "a")
    people.store.lots.park("payments", [
        Arrival("u", replace(found, tenant="", flow="x"), (1, 1), b"")
    ])  # fmt: skip
    called = {one["tenant"] for one in people.json("payments", "--by", "tenant")[0]["tenants"]}
    assert called == {"a", f"1/s per account ({found.buckets[1].partition(':')[2]})"}


def test_watching_ends_with_ctrl_c(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lots are drawn until Ctrl-C, which is exit code 130 and no traceback."""

    class Clock:
        def sleep(self, _: int) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(waiting_module, "SystemClock", Clock)
    people.park("t", "small")
    for by in ([], ["--by", "tenant"]):
        watched = people.run("payments", "--watch", *by)
        assert watched.exit_code == 130
        assert "payments" in watched.stdout
    assert "small" in watched.stdout
    assert people.run("--watch", "--json").exit_code == 2


def test_a_store_that_is_away(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is exit code 6, also when only the lots do not answer."""

    def away(*_: Any) -> None:
        raise StoreUnavailable

    for part in (people.store.lots, people.store):
        monkeypatch.setattr(part, "view" if part is people.store.lots else "look", away)
        shown = people.run("payments")
        assert shown.exit_code == 6
        assert "not reachable" in shown.stdout
    people.park("t")
    assert people.run("show", "t").exit_code == 6
    unknown = people.run("nobody")
    assert unknown.exit_code == 4
    assert "payments" in unknown.stderr


# ---------------------------------------------------------------------------- one task


def test_where_a_task_stands(people: People) -> None:
    """Lane, position, who takes turns with it, since when, until when, and an estimate."""
    for n in range(3):
        people.park(f"t{n}", "small", max_wait=600 * SECOND)
    people.park("b", "big")
    assert len(people.release(2)) == 2
    people.clock.advance(SECOND)
    for n in range(3):
        people.park(f"b{n}", "big")
    found = people.json("show", "t2")
    assert (found["upstream"], found["task"], found["tenant"]) == ("payments", "charge", "small")
    assert (found["position"], found["in_lane"]) == (2, 2)
    assert (found["lanes"], found["tenants"]) == (2, 2)
    assert found["ahead"] == 4
    assert found["since"] == "2026-01-01T01:00:00.000+00:00"
    assert found["deadline"] == "2026-01-01T01:10:00.000+00:00"
    assert found["release_estimate"] == "2026-01-01T01:00:03.500+00:00"
    plain = people.run("show", "t2").stdout
    for said in (
        "It is parked: charge",
        "position     2 of 2 in its lane; 2 lanes of 2 tenants take turns",
        "(in 2.5 s). An estimate: about 4 tasks before it, 2/s released lately",
    ):
        assert said in plain
    people.park("late", "small", give_up_at=people.clock.wall() + 1)
    assert "after its deadline" in people.run("show", "late").stdout


def test_arguments_are_shown_without_secrets(people: People) -> None:
    """The message tells the arguments; a producer that hides nothing is not believed."""
    people.park("t")
    assert people.json("show", "t")["arguments"] == "('a', 'password=[redacted]') {}"


def test_a_message_that_nobody_can_read(people: People) -> None:
    """It is shown all the same, as what it is."""
    people.park("t", payload=b"\xff")
    shown = people.run("show", "t")
    assert shown.exit_code == 0
    assert "its message cannot be read" in shown.stdout
    assert people.json("show", "t")["task"] is None


def test_a_later_attempt_is_found(people: People) -> None:
    """A task that waits for its third attempt is found by its id."""
    people.park("t", retries=2)
    assert people.json("show", "t")["position"] == 1


# what holds everything up, what is said of it
HELD = [(FOREVER, "not while the upstream is paused"), (0, "unknown: nothing was released lately")]


@pytest.mark.parametrize(("until", "said"), HELD)
def test_no_estimate_without_a_rate(people: People, until: int, said: str) -> None:
    """While nothing is released there is no estimate, and the reason is said."""
    people.park("t")
    if until:
        people.pause(until)
    assert people.json("show", "t")["release_estimate"] is None
    assert said in people.run("show", "t").stdout


def test_no_estimate_before_its_lane_may_go(people: People) -> None:
    """However fast others are released, a task is not expected before a limit of its own allows."""
    people.park("t0")
    people.park("t1")
    assert people.release() == ["t0"]
    assert people.release() == []
    found = people.json("show", "t1")
    assert found["release_estimate"] == found["blocked_until"] == "2026-01-01T01:00:01.000+00:00"
    assert "blocked: for 1 s (1/s per account)" in people.run("show", "t1").stdout


def test_a_lane_whose_limits_nobody_declares(people: People) -> None:
    """What was parked under limits that were taken away since is shown as what nobody releases."""
    to = people.park("t")
    assert people.json("show", "t")["blocked_by"] is None
    older = replace(to, buckets=("s", "old"), group="old")
    people.store.lots.park("payments", [Arrival("u", older, (1, 1), b"")])
    assert people.json("show", "u")["blocked_by"] == "no task declares its limits any more"
    assert "any more" in people.run("payments", "--by", "lane").stdout


def test_a_released_task_is_not_parked_any_more(people: People) -> None:
    """It says that it is released, and how to stop it."""
    people.park("t")
    assert people.release() == ["t"]
    found = people.json("show", "t")
    assert (found["released"], found["position"], found["release_estimate"]) == (True, None, None)
    assert "celery -A APP control revoke t" in people.run("show", "t").stdout


def test_a_task_that_is_not_parked(people: People) -> None:
    """Exit code 4, and who else may know it."""
    unknown = people.run("show", "t")
    assert unknown.exit_code == 4
    assert "governor explain t" in unknown.stderr


# ---------------------------------------------------------------------------- the estimate

OWN = lane(FAST, "own")


def view(*lanes: LaneView) -> LotView:
    return LotView(0, sum(each.waiting for each in lanes), 0, (10, SECOND), lanes)


def line(flow: str, waiting: int, *, blocked: int = 0, **more: Any) -> LaneView:
    return LaneView(lane(FAST, flow, **more), waiting, 0, blocked)


# the lots, a position in the lane "own", tasks ahead of it
AHEAD = [
    # alone: those before it
    ([line("own", 5)], 4, 3),
    # as many turns of the other as its own, and one more when the other's turn is next
    ([line("own", 5), line("other", 9)], 4, 6),
    ([line("other", 9), line("own", 5)], 4, 7),
    # no more than the other has
    ([line("own", 5), line("other", 2)], 4, 5),
    # a weight is turns
    ([line("own", 5), line("other", 99, weight=3)], 4, 12),
    # who is held up by a limit of its own takes none
    ([line("own", 5), line("other", 99, blocked=5)], 4, 3),
    # the more urgent of the same key go first, the less urgent do not
    ([line("own", 5), line("own", 2, rank=9)], 1, 0),
]


@pytest.mark.parametrize(("lanes", "position", "ahead"), AHEAD)
def test_tasks_ahead(lanes: list[LaneView], position: int, ahead: int) -> None:
    """Those before it in its lane, and the turns that the others have meanwhile."""
    entry = ParkedTask("t", OWN, 0, 0, (1,), position, b"")
    assert tasks_ahead(view(*lanes), entry) == ahead


def test_the_more_urgent_of_the_same_key_go_first() -> None:
    """A task behind a more urgent lane of its own key waits for all of it."""
    late = lane(FAST, "own", rank=9)
    entry = ParkedTask("t", late, 0, 0, (1,), 1, b"")
    assert tasks_ahead(view(line("own", 5), LaneView(late, 1, 0, 0)), entry) == 5


def test_the_estimate_is_the_order_of_release() -> None:
    """As many are released before a task as it was told, when nothing else arrives."""
    clock = FakeClock()
    store = MemoryStore(clock.wall)
    store.settle(Settlement("api"))
    clock.advance(3600 * SECOND)
    for name, number, weight in (("a", 9, 1), ("b", 30, 2), ("c", 2, 1)):
        to = lane(FAST, name, weight=weight)
        store.lots.park("api", [task(f"{name}{n}", to) for n in range(number)])
    (found,) = store.lots.find("api", "a5")
    told = tasks_ahead(store.lots.view("api"), found)
    ask = ReleaseAsk("api", (group(FAST),), 100, 0, SECOND, "t")
    order = [ticket.entry for ticket in store.lots.release(ask).tickets]
    assert abs(order.index("a5") - told) <= 2


def test_a_rank_is_a_priority_turned_as_the_broker_has_it() -> None:
    """RabbitMQ's highest and Redis's lowest priority are the first rank, and back again."""
    assert [rank_of(p, high_first=True) for p in (255, 9, 0, -1)] == [0, 246, 255, 255]
    assert [rank_of(p, high_first=False) for p in (0, 9, 300)] == [0, 9, 255]
    assert rank_of(rank_of(7, high_first=True), high_first=True) == 7


# ---------------------------------------------------------------------------- cancelling


def test_cancelling_takes_out_and_revokes(people: People) -> None:
    """The task is gone, its result says REVOKED, and the log says who and why."""
    people.park("t0")
    people.park("t1")
    done = people.run("cancel", "t0", *WHY, "--yes")
    assert done.exit_code == 0, done.output
    assert "1 cancelled" in done.stdout
    assert "charge 1" in done.stderr
    assert (people.state("t0"), people.state("t1")) == ("REVOKED", "PENDING")
    with pytest.raises(TaskRevokedError):
        people.app.AsyncResult("t0").get()
    assert people.json("payments")[0]["waiting"] == 1
    (record,) = people.log()
    assert (record["what"], record["target"], record["why"]) == ("cancel", "t0", "sent twice")
    assert "@" in record["by"]


def test_a_chord_hears_of_a_cancelled_member(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a worker meets a revoked member, the chord's part returns, and it fails."""
    heard: list[Any] = []
    monkeypatch.setattr(
        type(people.app.backend), "on_chord_part_return",
        lambda _, request, state, result: heard.append((request.id, request.group, state)),
    )  # fmt: skip
    body = people.app.signature("charge", ("body",))
    people.park("t", payload=pack(message("t", group="g", chord=dict(body))))
    assert people.run("cancel", "t", *WHY, "--yes").exit_code == 0
    assert heard == [("t", "g", "REVOKED")]


def test_a_result_nobody_wants_is_not_written(people: People) -> None:
    """A task published with ignore_result leaves no result when it is cancelled."""
    people.park("t", payload=pack(message("t", ignore_result=True)))
    assert people.run("cancel", "t", *WHY, "--yes").exit_code == 0
    assert people.state("t") == "PENDING"


# messages nobody can read
UNREADABLE = [
    # not even as a parked message
    b"\xff",
    # its body is not what its content type says
    pack(replace(message("t"), body=b"{")),
    # its content type is not accepted
    pack(replace(message("t"), properties={"content_type": "application/x-python-serialize",
                                           "content_encoding": "binary"})),
    # no task message
    pack(replace(message("t"), body=b"[1]")),
]  # fmt: skip


@pytest.mark.parametrize("payload", UNREADABLE)
def test_an_unreadable_message_is_cancelled_all_the_same(people: People, payload: bytes) -> None:
    """It is taken out and its result revoked; that no chord hears of it is said, exit code 1."""
    people.park("t", payload=payload)
    done = people.run("cancel", "t", *WHY, "--yes")
    assert done.exit_code == 1
    assert "1 cancelled" in done.stdout
    assert "t: its message cannot be read: a chord" in done.stderr
    assert people.state("t") == "REVOKED"
    assert people.json("payments")[0]["waiting"] == 0


def test_a_result_backend_that_is_away(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task is taken out; that its result is not written is said, without the address."""

    def away(*_: Any, **__: Any) -> None:
        raise ConnectionError("redis://:secret@host")

    monkeypatch.setattr(type(people.app.backend), "mark_as_revoked", away)
    people.park("t")
    done = people.run("cancel", "t", *WHY, "--yes")
    assert done.exit_code == 1
    assert "its result could not be written (ConnectionError)" in done.stderr
    assert "secret" not in done.output


def test_who_watches_events_hears_of_it(people: People) -> None:
    """A task-revoked event is sent of each cancelled task as a worker sends it, but not of a type
    that sends none."""
    with people.app.connection() as connection:
        queue = people.app.events.Receiver(connection).queue(connection.default_channel)
        queue.declare()
        for task_id in ("t0", "t1", "t2"):
            people.park(task_id)
        people.run("cancel", "t0", "t1", *WHY, "--yes")
        people.app.tasks["charge"].send_events = False
        assert people.run("cancel", "t2", *WHY, "--yes").exit_code == 0
        heard = []
        while (sent := queue.get(no_ack=True)) is not None:
            heard.append(sent.payload)
    assert [(event["type"], event["uuid"]) for event in heard] == [
        ("task-revoked", "t0"), ("task-revoked", "t1")
    ]  # fmt: skip


def test_a_broker_that_does_not_answer(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for any longer than a publish may take: the task is cancelled, and that no
    event was sent is said beside what else was in the way."""
    monkeypatch.setattr(messages_module, "BUDGET", SECOND // 20)
    people.app.conf.broker_connection_timeout = 60
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        people.app.conf.broker_url = f"amqp://guest:secret@127.0.0.1:{silent.getsockname()[1]}"
        people.park("t0")
        people.park("t1", payload=b"\xff")
        done = people.run("cancel", "t0", "t1", *WHY, "--yes")
    assert done.exit_code == 1
    assert "2 cancelled" in done.stdout
    assert [people.state(task_id) for task_id in ("t0", "t1")] == ["REVOKED", "REVOKED"]
    assert time.monotonic() - began < 30
    said = sorted(line for line in done.stderr.splitlines() if "task-revoked event" in line)
    assert [line.partition(":")[0] for line in said] == ["t0", "t1"]
    assert "its message cannot be read" in said[1]
    assert "secret" not in done.output


def test_a_released_task_is_not_cancelled(people: People) -> None:
    """It is left alone, and the command that stops it is named; others are cancelled."""
    people.park("t0")
    people.park("t1")
    assert people.release() == ["t0"]
    alone = people.run("cancel", "t0", *WHY, "--yes")
    assert alone.exit_code == 4
    both = people.run("cancel", "t0", "t1", "t9", *WHY, "--yes")
    assert both.exit_code == 1
    assert "t0 is released already: stop it with celery -A APP control revoke t0" in both.stderr
    assert "t9 is not parked" in both.stderr
    assert [people.state(t) for t in ("t0", "t1")] == ["PENDING", "REVOKED"]


def test_a_task_released_between_the_look_and_the_deed(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What left its lane meanwhile is not cancelled, and that is said."""
    people.park("t")
    monkeypatch.setattr(waiting_module.waiting_view, "preview", lambda _: people.release())
    done = people.run("cancel", "t", *WHY, "--yes")
    assert done.exit_code == 1
    assert "0 cancelled" in done.stdout
    assert "released meanwhile" in done.stderr
    assert people.state("t") == "PENDING"


def test_cancelling_asks_first(people: People) -> None:
    """Without --yes and nobody to ask nothing is done; and a reason must be given."""
    people.park("t")
    refused = people.run("cancel", "t", *WHY)
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    for why in ([], ["--why", " "]):
        assert people.run("cancel", "t", *why, "--yes").exit_code == 2
    assert people.json("payments")[0]["waiting"] == 1


def test_ctrl_c_ends_between_two_hundreds(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was taken out has its result, the rest still waits, and both are said; code 130."""
    ids = [f"t{n}" for n in range(150)]
    for task_id in ids:
        people.park(task_id)
    backend = people.app.backend
    mark = backend.mark_as_revoked

    def interrupted(*args: Any, **more: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        mark(*args, **more)

    monkeypatch.setattr(backend, "mark_as_revoked", interrupted)
    monkeypatch.setattr(type(people.app), "backend", property(lambda _: backend))
    for task_type in people.app.tasks.values():
        monkeypatch.setattr(task_type, "backend", backend, raising=False)
    before = signal.getsignal(signal.SIGINT)
    done = people.run("cancel", *ids, *WHY, "--yes")
    assert done.exit_code == 130
    assert "100 cancelled" in done.stdout
    assert people.json("payments")[0]["waiting"] == 50
    assert {people.state(task_id) for task_id in ids[:100]} == {"REVOKED"}
    assert signal.getsignal(signal.SIGINT) is before


def test_what_was_done_for_programs(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --json stdout is one object: what was done, what was not and why, and what could not be
    done besides; everything else is on stderr."""
    for task_id in ("t0", "t1", "t2"):
        people.park(task_id)
    people.park("t3", payload=b"\xff")
    assert people.release() == ["t0"]
    monkeypatch.setattr(waiting_module.waiting_view, "preview", lambda _: people.gone("t1"))
    done = people.run("cancel", "t0", "t1", "t2", "t3", "t9", *WHY, "--yes", "--json")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told["done"] == ["t2", "t3"]
    assert list(told["not_done"]) == ["t0", "t9", "t1"]
    assert told["not_done"]["t1"] == "t1: it waits there already, or was released meanwhile"
    assert list(told["problems"]) == ["t3"]
    nothing = people.run("cancel", "t9", *WHY, "--json")
    assert nothing.exit_code == 4
    assert json.loads(nothing.stdout)["not_done"]["t9"].startswith("t9 is not parked")


def test_a_question_is_not_json(people: People) -> None:
    """A refused question leaves stdout empty, also with --json."""
    people.park("t")
    refused = people.run("cancel", "t", *WHY, "--json")
    assert (refused.exit_code, refused.stdout) == (2, "")


# ---------------------------------------------------------------------------- front and move


@pytest.mark.parametrize("what", [("front",), ("move", "--priority", "1")])
def test_what_was_steered_for_programs(people: People, what: tuple[str, ...]) -> None:
    """With --json stdout is one object here too."""
    people.park("t0", rank=5)
    told = people.json(*what, "t0", *WHY)
    assert told == {"done": ["t0"], "not_done": {}, "problems": {}}


def test_to_the_front(people: People) -> None:
    """The tasks named stand first in their lane, in the order in which they were named."""
    for n in range(5):
        people.park(f"t{n}")
    done = people.run("front", "t4", "t2", *WHY)
    assert done.exit_code == 0, done.output
    positions = [people.json("show", f"t{n}")["position"] for n in range(5)]
    assert positions == [3, 4, 2, 5, 1]
    assert people.log()[0]["what"] == "front"


def test_every_attempt_and_message_of_a_task_is_found(people: People) -> None:
    """A task is found by its id at whatever attempt, and when several messages of it wait: all of
    them are shown, and cancelled."""
    people.park("late", retries=25)
    assert people.json("show", "late")["position"] == 1
    for n in range(3):
        people.park("t", "small", retries=n, payload=pack(message("t", body=b"%d" % n)))
    shown = people.json("show", "t")
    assert [one["position"] for one in (shown, *shown["others"])] == [1, 2, 3]
    assert people.run("show", "t").stdout.count("small") == 3
    done = people.run("cancel", "t", "late", "--yes", *WHY)
    assert done.exit_code == 0, done.output
    assert "4 cancelled." in done.stdout
    assert not people.store.lots.view("payments").waiting


def test_to_another_priority(people: People) -> None:
    """A moved task keeps its limits and its tenant, and has the other rank."""
    before = people.park("t", "big", rank=5)
    done = people.run("move", "t", "--priority", "1", *WHY)
    assert done.exit_code == 0, done.output
    (found,) = people.store.lots.find("payments", "t")
    assert found.lane == replace(before, rank=1)
    again = people.run("move", "t", "--priority", "1", *WHY)
    assert again.exit_code == 1
    assert "waits there already" in again.stderr


def test_to_another_tenant(people: People) -> None:
    """It takes the other tenant's turns with its weight, and keeps its own limits."""
    before = people.park("t", "small")
    big = people.park("u", "big")
    assert people.run("move", "t", "--tenant", "big", *WHY).exit_code == 0
    (found,) = people.store.lots.find("payments", "t")
    assert (found.lane.flow, found.lane.weight, found.lane.tenant) == (big.flow, 3, "big")
    assert (found.lane.group, found.lane.buckets) == (before.group, before.buckets)


def test_where_nobody_takes_turns_by_name(people: People) -> None:
    """A tenant of an upstream without fair_by is refused with the field and the remedy."""
    people.store.lots.park("mail", [task("t", lane(FAST))])
    refused = people.run("move", "t", "--tenant", "big", *WHY)
    assert refused.exit_code == 2
    assert "tenant: in mail no tenants take turns" in refused.stderr
    assert "fair_by" in refused.stderr
    nowhere = people.run("move", "t", *WHY)
    assert nowhere.exit_code == 2
    assert "--priority" in nowhere.stderr


def test_the_log_is_readable(people: People) -> None:
    """What was done to parked tasks stands in the upstream's log with the tasks and the lane."""
    for task_id in ("t0", "t1"):
        people.park(task_id)
    people.run("front", "t1", *WHY)
    people.run("move", "t0", "--priority", "9", *WHY)
    people.run("cancel", "t0", "t1", *WHY, "--yes")
    told = people.run("log", "payments", command=limits).stdout.splitlines()
    cancelled, moved, fronted = (line.split("\t")[2:] for line in told[1:])
    assert cancelled == ["cancel", "t0, t1", "", "sent twice"]
    assert moved[:2] == ["move", "t0"]
    assert moved[2].startswith("to lane 009")
    assert fronted == ["front", "t1", "", "sent twice"]
    records = json.loads(people.run("log", "payments", "--json", command=limits).stdout)
    assert records[0]["of"] == "t0, t1"
