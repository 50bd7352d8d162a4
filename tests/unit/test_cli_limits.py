"""``governor limits`` on a store in memory: what is shown, what is changed, and the exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from governor import (
    Adaptive,
    Breaker,
    Concurrency,
    GovernedTask,
    Governor,
    Limit,
    Quota,
    Upstream,
    Window,
)
from governor.admission.limits_in_force import LimitsInForce
from governor.cli import limits as limits_module
from governor.cli import limits_view
from governor.cli.environment import Environment
from governor.cli.main import governor as command_line
from governor.clock import SECOND
from governor.errors import StoreUnavailable, UpstreamStateError
from governor.policy.decision import Admit, Answer, Ask
from governor.policy.outcome import Outcome
from governor.policy.settlement import Settlement
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock

HOUR = 3600 * SECOND
WHY = ("--reason", "incident 7")


class People:
    """An application with every kind of limit, its store, and a command line."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock.wall)
        self.app = Celery("people", broker="memory://", set_as_current=False)
        self.app.conf.governor_redis_url = "redis://127.0.0.1:1/0"
        self.governor = Governor(self.app, clock=self.clock, store=self.store)
        payments = Upstream(
            "payments",
            Limit("100/s", burst=20, margin=0),
            Limit("25/s", burst=5, per="account", margin=0),
            Window(10, per_seconds=60, margin=0),
            Quota(1000, each="day"),
            Concurrency(4),
            breaker=Breaker(),
            adaptive=Adaptive(),
        )
        quiet = Upstream("quiet", Limit("1/s", name="all"), store_down="local")

        @self.app.task(
            shared=False, base=GovernedTask, upstream=payments, name="charge",
            limits=[Limit("2/s", burst=2, margin=0, name="slow"),
                    Limit("9/s", per="account", name="careful")],
        )  # fmt: skip
        def charge(account: str) -> None: ...

        @self.app.task(shared=False, base=GovernedTask, upstream=quiet, name="ping")
        def ping() -> None: ...

        self.store.settle(Settlement("payments"))
        self.clock.advance(HOUR)

    def run(self, *arguments: str, **options: Any) -> Result:
        environment = Environment(self.app, None)
        return CliRunner().invoke(limits_module.limits, list(arguments), obj=environment, **options)

    def json(self, *arguments: str) -> Any:
        result = self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def limit(self, name: str, *arguments: str) -> dict[str, Any]:
        (upstream,) = self.json("payments", *arguments)
        return next(limit for limit in upstream["limits"] if limit["name"] == name)

    def call(self, account: str = "a") -> Answer:
        """Ask for a call as a worker does: with the changes in force."""
        in_force = LimitsInForce(self.store)
        in_force.refresh("payments")
        governance = self.governor.governance("charge")
        assert governance is not None
        plan = in_force.plan(governance.plan)
        charges = tuple(
            charge.dated(self.clock.wall()) if hasattr(charge, "dated") else charge
            for charge in plan.charges((account,), {})
        )
        return self.store.admit(
            Ask(
                "payments", charges, 0, 0, 0, HOUR, holder="h", lease=HOUR,
                version=in_force.version("payments"),
                not_before=in_force.not_before("payments", charges),
            )
        )  # fmt: skip

    def known(self, changes: int) -> None:
        assert self.store.in_force("payments").version == changes


@pytest.fixture
def people() -> Iterator[People]:
    made = People()
    yield made
    made.app.close()


# ---------------------------------------------------------------------------- looking


def test_four_numbers_of_every_limit(people: People) -> None:
    """After a call each limit shows what is left of it, in seconds; nothing is ever -1."""
    assert isinstance(people.call(), Admit)
    views = {view["upstream"]: view for view in people.json("--key", "account=a")}
    payments, quiet = views["payments"], views["quiet"]
    numbers = {
        limit["name"]: [limit[n] for n in ("limit", "remaining", "retry_after", "reset_after")]
        for limit in payments["limits"]
    }
    assert numbers == {
        "100/s": [20, 19, None, 0.01],
        "25/s per account": [5, 4, None, 0.04],
        "10 in any 60 s": [10, 9, None, 60.0],
        "1000 each day": [1000, 999, None, 82_800.0],
        "4 in flight": [4, 3, None, 3600.0],
        "slow": [2, 1, None, 0.5],
        "careful": [1, 0, 0.111112, 0.111112],
    }
    own = payments["limits"][5]
    assert (own["task"], own["kind"], own["changed"]) == ("charge", "Limit", None)
    assert payments["breaker"] == {"state": "closed", "failures": 0, "of": 0, "until": None}
    assert payments["adaptive"] == {"share": 1.0}
    assert payments["pauses"] == []
    assert payments["store"] == {"reachable": True, "problem": None, "when_down": "closed"}
    assert quiet["breaker"] is quiet["adaptive"] is None


def test_a_limit_per_argument_needs_its_value(people: People) -> None:
    """Without a value the numbers are null, and the table says which argument to give."""
    limit = people.limit("25/s per account")
    assert (limit["value"], limit["limit"], limit["remaining"]) == (None, None, None)
    plain = people.run("payments").stdout
    assert "give --key account=…" in plain
    assert "give" not in people.run("payments", "--key", "account=b").stdout
    assert people.call("b")
    assert people.limit("25/s per account", "--key", "account=b")["remaining"] == 4
    assert people.limit("25/s per account", "--key", "account=c")["remaining"] == 5


def test_an_upstream_that_is_unwell(people: People) -> None:
    """Its breaker, its share and its own pause are shown; the share counts in the numbers."""
    policy = people.governor.upstreams["payments"]
    for _ in range(10):
        people.clock.advance(2 * SECOND)
        people.store.settle(
            Settlement(
                "payments", outcome=Outcome.FAILED, pause=60 * SECOND,
                breaker=policy.breaker, adaptive=policy.adaptive,
            )
        )  # fmt: skip
    (view,) = people.json("payments")
    assert view["breaker"]["state"] == "open"
    assert view["adaptive"]["share"] == 0.1006
    assert view["pauses"][0]["why"] == "the upstream said so"
    assert view["pauses"][0]["by"] is None
    assert people.limit("100/s")["limit"] == 2
    plain = people.run("payments").stdout
    for said in ("open until", "10% of the rates", "the upstream said so"):
        assert said in plain


def test_an_upstream_whose_data_is_broken(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken upstream is told apart from a store that is away, with its key and the remedy;
    others are shown."""
    look = people.store.look

    def broken(upstream: str, charges: Any) -> Any:
        if upstream == "quiet":
            raise UpstreamStateError(upstream, "is a list", 'Run DEL "k"', key="k")
        return look(upstream, charges)

    monkeypatch.setattr(people.store, "look", broken)
    shown = people.run("show")
    assert shown.exit_code == 6
    assert "broken" in shown.stdout
    assert 'k: is a list. Run DEL "k".' in shown.stderr
    stores = {
        view["upstream"]: view["store"] for view in json.loads(people.run("show", "--json").stdout)
    }
    assert stores["quiet"]["reachable"]
    assert "is a list" in stores["quiet"]["problem"]
    assert stores["payments"]["problem"] is None


def test_a_store_that_is_away(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is declared is shown all the same, with what happens meanwhile; exit code 6."""

    def away(*_: Any) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(people.store, "look", away)
    shown = people.run("quiet")
    assert shown.exit_code == 6
    assert "not reachable: each worker enforces its share" in shown.stdout
    (view,) = json.loads(people.run("quiet", "--json").stdout)
    assert view["store"] == {"reachable": False, "problem": None, "when_down": "local"}
    assert view["limits"][0]["limit"] is None
    assert people.run("log", "quiet").exit_code == 6


def test_watching_ends_with_ctrl_c(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits are drawn until Ctrl-C, which is exit code 130 and no traceback."""

    class Clock:
        def sleep(self, _: int) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(limits_module, "SystemClock", Clock)
    watched = people.run("payments", "--watch")
    assert watched.exit_code == 130
    assert "100/s" in watched.stdout
    assert people.run("--watch", "--json").exit_code == 2


def test_names_that_do_not_exist(people: People) -> None:
    """An unknown upstream or limit is exit code 4, and names those there are."""
    for arguments in (["nobody"], ["log", "nobody"], ["pause", "nobody", *WHY]):
        unknown = people.run(*arguments)
        assert unknown.exit_code == 4
        assert "payments" in unknown.stderr
    unknown = people.run("set", "payments", "nothing", "--rate", "1/s", *WHY)
    assert unknown.exit_code == 4
    assert "100/s, 25/s per account" in unknown.stderr


def test_as_a_command_of_the_command_line(people: People) -> None:
    """It is there under ``governor``, with and without the word ``show``."""
    for words in (["limits"], ["limits", "show"], ["limits", "show", "payments"]):
        found = CliRunner().invoke(command_line, words, obj=people)
        assert found.exit_code == 0, found.output
        assert "100/s" in found.stdout


def test_without_upstreams(monkeypatch: pytest.MonkeyPatch) -> None:
    """An application without upstreams is told so, with exit code 4."""
    # Shared tasks of other tests would belong to it.
    monkeypatch.setattr("celery._state._on_app_finalizers", set())
    app = Celery("empty", broker="memory://", set_as_current=False)
    app.conf.governor_redis_url = "redis://127.0.0.1:1/0"
    Governor(app, store=MemoryStore(FakeClock().wall))
    found = CliRunner().invoke(limits_module.limits, ["--json"], obj=Environment(app, None))
    assert (found.exit_code, json.loads(found.stdout)) == (4, [])
    app.close()


# spans in microseconds, and how people read them
SPANS = [
    (None, "–"),
    (0, "0 s"),
    (12_345, "0.0123 s"),
    (90 * SECOND, "90 s"),
    (125 * SECOND, "2 min 5 s"),
    (7200 * SECOND, "2 h"),
    (90 * HOUR, "3 d 18 h"),
]


@pytest.mark.parametrize(("micros", "said"), SPANS)
def test_spans_for_people(micros: int | None, said: str) -> None:
    """Seconds while they are few, then two units."""
    assert limits_view.span(micros) == said


# ---------------------------------------------------------------------------- numbers


def test_setting_numbers(people: People) -> None:
    """The next decision is made with the new numbers; what was declared stays visible."""
    done = people.run("set", "payments", "100/s", "--rate", "50/s", "--yes", *WHY)
    assert done.exit_code == 0, done.output
    assert "100/s: rate: 100/s → 50/s" in done.stdout
    assert "next decision" in done.stderr
    limit = people.limit("100/s")
    assert limit["in_force"] == {"rate": "50/s", "burst": 20}
    assert limit["declared"] == {"rate": "100/s", "burst": 20}
    assert limit["changed"]["why"] == "incident 7"
    assert "@" in limit["changed"]["by"]
    assert people.store.in_force("payments").values == {"s": '{"rate": "50/s"}'}
    assert isinstance(people.call(), Admit)
    assert people.limit("100/s")["reset_after"] == 0.02
    assert "declared rate 100/s" in people.run("payments").stdout


def test_setting_one_number_keeps_the_others_that_were_set(people: People) -> None:
    """A second change of a limit adds to the first."""
    people.run("set", "payments", "s", "--rate", "50/s", "--yes", *WHY)
    people.run("set", "payments", "s", "--burst", "3", "--yes", *WHY)
    assert people.limit("100/s")["in_force"] == {"rate": "50/s", "burst": 3}
    again = people.run("set", "payments", "s", "--burst", "3", "--yes", *WHY)
    assert again.exit_code == 0
    assert "already" in again.stderr
    people.known(2)


def test_every_kind_can_be_set(people: People) -> None:
    """Windows, quotas and leases have their most; a task's own limits are set by name."""
    for name in ("10 in any 60 s", "1000 each day", "4 in flight"):
        assert people.run("set", "payments", name, "--most", "2", "--yes", *WHY).exit_code == 0
        assert people.limit(name)["limit"] == 2
    assert people.run("set", "payments", "slow", "--burst", "1", "--yes", *WHY).exit_code == 0
    assert people.limit("slow")["limit"] == 1
    assert people.limit("slow")["key"].startswith("t.")


# arguments of set, what the error names
WRONG = [
    # another kind's number, and the ones it has
    (["100/s", "--most", "5"], ["most", "rate or burst"]),
    # no rate
    (["100/s", "--rate", "fast"], ["rate", "100/s"]),
    # no number of calls
    (["100/s", "--burst", "0"], ["burst", "1 or more"]),
    (["4 in flight", "--most", "-1"], ["most", "1 to"]),
    # no number at all
    (["100/s"], ["--rate or --burst"]),
]


@pytest.mark.parametrize(("arguments", "named"), WRONG)
def test_wrong_numbers_are_refused(people: People, arguments: list[str], named: list[str]) -> None:
    """Nothing is written; the error names the field and the remedy, exit code 2."""
    refused = people.run("set", "payments", *arguments, "--yes", *WHY)
    assert refused.exit_code == 2
    for word in named:
        assert word in refused.stderr
    people.known(0)


def test_a_reason_must_be_given(people: People) -> None:
    """A change without a reason is a usage error."""
    for reason in ([], ["--reason", " "]):
        for change in (["pause", "payments"], ["set", "payments", "s", "--burst", "1", "--yes"]):
            refused = people.run(*change, *reason)
            assert refused.exit_code == 2
            assert "--reason" in refused.stderr
    people.known(0)


def test_nobody_there_to_ask(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --yes set asks; without a terminal nothing is changed."""
    arguments = ("set", "payments", "s", "--rate", "50/s", *WHY)
    refused = people.run(*arguments)
    assert refused.exit_code == 2
    assert "100/s → 50/s" in refused.stderr
    people.known(0)
    monkeypatch.setattr("click.confirm", lambda *_, **__: True)

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(limits_module, "sys", type("sys", (), {"stdin": Terminal()}))
    assert people.run(*arguments).exit_code == 0
    people.known(1)


def test_an_ambiguous_name(people: People) -> None:
    """Two limits of one name are told apart by their keys."""
    other = Upstream("twice", Limit("5/s"))

    @people.app.task(
        shared=False, base=GovernedTask, upstream=other, name="t", limits=[Limit("5/s")]
    )
    def task() -> None: ...

    refused = people.run("set", "twice", "5/s", "--rate", "4/s", "--yes", *WHY)
    assert refused.exit_code == 2
    (view,) = people.json("twice")
    mine = view["limits"][1]["key"]
    assert mine in refused.stderr
    assert people.run("set", "twice", mine, "--rate", "4/s", "--yes", *WHY).exit_code == 0
    assert list(people.store.in_force("twice").values) == [mine]


def test_resetting_one_limit(people: People) -> None:
    """The declared numbers are in force again; a limit that is as declared is exit code 4."""
    people.run("set", "payments", "s", "--rate", "50/s", "--yes", *WHY)
    done = people.run("reset", "payments", "100/s", *WHY)
    assert done.exit_code == 0
    assert "50/s → 100/s" in done.stdout
    assert people.limit("100/s")["changed"] is None
    assert people.run("reset", "payments", "100/s", *WHY).exit_code == 4
    assert people.run("reset", "quiet", *WHY).exit_code == 4


def test_resetting_an_upstream(people: People) -> None:
    """Everything is as declared: numbers, breaker, share, paused keys."""
    policy = people.governor.upstreams["payments"]
    people.run("set", "payments", "s", "--rate", "50/s", "--yes", *WHY)
    people.run("pause", "payments", "--key", "account=a", *WHY)
    for _ in range(10):
        people.store.settle(
            Settlement("payments", outcome=Outcome.FAILED, breaker=policy.breaker,
                       adaptive=policy.adaptive)
        )  # fmt: skip
    done = people.run("reset", "payments", *WHY)
    for said in ("50/s → 100/s", "breaker: open until", "→ closed", "70% of", "paused → not"):
        assert said in done.stdout
    (view,) = people.json("payments")
    assert view["breaker"]["state"] == "closed"
    assert view["adaptive"] == {"share": 1.0}
    assert view["pauses"] == []


# ---------------------------------------------------------------------------- pauses


def test_pausing_and_resuming(people: People) -> None:
    """Nobody is admitted until the pause is over or ended; who and why is shown."""
    done = people.run("pause", "payments", "--for", "10m", *WHY)
    assert done.exit_code == 0
    assert "payments: not paused → paused until 2026-01-01 01:10:00 UTC" in done.stdout
    (view,) = people.json("payments")
    (paused,) = view["pauses"]
    assert (paused["key"], paused["why"]) == (None, "incident 7")
    assert paused["until"].startswith("2026-01-01T01:10:00")
    assert not isinstance(people.call(), Admit)
    ended = people.run("resume", "payments", "--reason", "over")
    assert "→ not paused" in ended.stdout
    assert isinstance(people.call(), Admit)
    assert people.run("resume", "payments", *WHY).exit_code == 4


def test_a_pause_is_over_by_itself(people: People) -> None:
    """After its end it is neither in force nor shown."""
    people.run("pause", "payments", "--until", "2026-01-01T02:30:00+01:00", *WHY)
    assert people.json("payments")[0]["pauses"]
    people.clock.advance(HOUR // 2)
    assert people.json("payments")[0]["pauses"] == []
    assert isinstance(people.call(), Admit)


def test_adaptive_rates_resume_at_their_floor(people: People) -> None:
    """Who waited meanwhile does not meet the upstream all at once; the end of a key's pause changes
    no rates."""
    people.run("pause", "payments", "--key", "account=a", *WHY)
    people.run("resume", "payments", "--key", "account=a", *WHY)
    assert people.json("payments")[0]["adaptive"] == {"share": 1.0}
    people.run("pause", "payments", *WHY)
    people.run("resume", "payments", *WHY)
    assert people.json("payments")[0]["adaptive"]["share"] == 0.1006


def mail(people: People) -> None:
    """A task whose upstream keeps a reserve and has bursts, one for each account."""
    declared = Upstream(
        "mail",
        Limit("10/s", burst=10, margin=0),
        Limit("10/s", burst=6, per="account", margin=0),
        reserve=0.1,
        urgent=(9,),
    )

    @people.app.task(shared=False, base=GovernedTask, upstream=declared, name="send")
    def send(account: str) -> None: ...

    people.store.settle(Settlement("mail"))
    people.clock.advance(HOUR)


def sent(people: People, account: str, *, urgent: bool) -> int:
    """How many of ten calls go at once."""
    governance = people.governor.governance("send")
    assert governance is not None
    in_force = LimitsInForce(people.store)
    in_force.refresh("mail")
    plan = governance.plan if urgent else governance.plan.leaving_reserve()
    charges = in_force.plan(plan).charges((account,), {})
    asked = Ask("mail", charges, 0, 0, 0, 0, version=in_force.version("mail"))
    return sum(isinstance(people.store.admit(asked), Admit) for _ in range(10))


# of ten calls, one each fifth of a second, those that go at 5/s, and less the reserve
@pytest.mark.parametrize(("urgent", "calls"), [(True, 10), (False, 9)])
def test_a_pause_saves_up_no_burst(people: People, urgent: bool, calls: int) -> None:
    """A resumed upstream delivers its rate, that which is in force, from the first call on; so does
    what leaves its reserve."""
    mail(people)
    people.run("set", "mail", "10/s", "--rate", "5/s", "--yes", *WHY)
    people.run("pause", "mail", *WHY)
    people.clock.advance(HOUR)
    people.run("resume", "mail", *WHY)
    went = []
    for account in "abcdefghij":
        went.append(sent(people, account, urgent=urgent))
        people.clock.advance(SECOND // 5)
    assert (went[0], max(went), sum(went)) == (1, 1, calls)


def test_a_pause_of_a_key_saves_up_no_burst(people: People) -> None:
    """The buckets of a resumed key have none; others keep theirs."""
    mail(people)
    people.run("pause", "mail", "--key", "account=a", *WHY)
    people.clock.advance(HOUR)
    people.run("resume", "mail", "--key", "account=a", *WHY)
    assert [sent(people, account, urgent=True) for account in "ab"] == [1, 6]


def test_pausing_one_key(people: People) -> None:
    """Only calls of that value wait; its bucket is found as a worker finds it."""
    done = people.run("pause", "payments", "--key", "account=a", "--for", "10m", *WHY)
    assert "payments, account=a: not paused → paused until" in done.stdout
    assert not isinstance(people.call("a"), Admit)
    assert isinstance(people.call("b"), Admit)
    (view,) = people.json("payments")
    (paused,) = view["pauses"]
    assert paused["key"].startswith("25/s per account (")
    assert paused["why"] == "incident 7"
    assert people.run("resume", "payments", *WHY).exit_code == 4
    assert people.run("resume", "payments", "--key", "account=b", *WHY).exit_code == 4
    assert people.run("resume", "payments", "--key", "account=a", *WHY).exit_code == 0
    assert people.json("payments")[0]["pauses"] == []


def test_a_pause_without_an_end(people: People) -> None:
    """It lasts until it is ended, and the command says what becomes of the tasks."""
    done = people.run("pause", "payments", *WHY)
    assert "not paused → paused\n" in done.stdout
    assert "dead letter" in done.stderr
    assert people.json("payments")[0]["pauses"][0]["until"] is None
    people.clock.advance(24 * 365 * HOUR)
    assert people.json("payments")[0]["pauses"]
    assert "dead letter" not in people.run("pause", "payments", "--for", "5m", *WHY).stderr


# arguments of pause, what the error names
WRONG_PAUSES = [
    # both ends
    (["--for", "1m", "--until", "2026-01-01T00:00:00Z"], "not both"),
    # an end that is over
    (["--until", "2025-01-01T00:00:00Z"], "later time"),
    (["--for", "0s"], "later time"),
    # no zone: whose midnight?
    (["--until", "2027-01-01T00:00:00"], "zone"),
    (["--until", "tomorrow"], "zone"),
    (["--for", "long"], "15m"),
    # no limit is per region
    (["--key", "region=eu"], "account=…"),
    (["--key", "acme"], "account=acme"),
]


@pytest.mark.parametrize(("arguments", "named"), WRONG_PAUSES)
def test_wrong_pauses_are_refused(people: People, arguments: list[str], named: str) -> None:
    """Nothing is written; the error says what to give, exit code 2."""
    refused = people.run("pause", "payments", *arguments, *WHY)
    assert refused.exit_code == 2
    assert named in refused.stderr
    people.known(0)


def test_an_upstream_without_keys(people: People) -> None:
    """Where no limit is per an argument, the whole upstream is what can be paused."""
    refused = people.run("pause", "quiet", "--key", "account=a", *WHY)
    assert refused.exit_code == 2
    assert "whole upstream" in refused.stderr


def test_a_longer_pause_of_the_upstream_is_its_own(people: People) -> None:
    """When the upstream prolongs a person's pause, what is shown is the upstream's."""
    people.run("pause", "payments", "--for", "1m", *WHY)
    people.store.settle(Settlement("payments", pause=300 * SECOND))
    assert people.json("payments")[0]["pauses"][0]["why"] == "the upstream said so"


# ---------------------------------------------------------------------------- the log


def test_the_log(people: People) -> None:
    """Every change is kept with its time, its author and its reason, newest first."""
    assert people.run("log", "payments").exit_code == 4
    people.run("set", "payments", "slow", "--rate", "1/s", "--yes", *WHY)
    people.clock.advance(SECOND)
    people.run("pause", "payments", "--for", "1m", "--reason", "a\tnew\x1b[31m one")
    pause, change = people.json("log", "payments")
    assert (pause["what"], pause["of"]) == ("pause", "payments")
    assert (change["what"], change["of"], change["why"]) == ("set", "slow of charge", "incident 7")
    assert change["at"].startswith("2026-01-01T01:00:00")
    lines = people.run("log", "payments").stdout.splitlines()
    assert lines[0].split("\t") == ["at", "by", "what", "of", "value", "why"]
    assert lines[1].split("\t")[4] == "paused until 2026-01-01 01:01:01 UTC"
    assert lines[2].split("\t")[4] == "rate 1/s"
    assert "\x1b" not in lines[1]
