"""``governor dead`` on a SQLite file: what is shown, what is replayed, and the exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from governor import Governor
from governor.cli import dead_view
from governor.cli.dead import dead
from governor.cli.environment import Environment
from governor.clock import SystemClock
from governor.deadletter import schema
from governor.deadletter.engine import bounded_engine
from governor.deadletter.models import State
from governor.deadletter.repository import SqlDeadLetters
from governor.deadletter.spill import Spill
from governor.errors import DatabaseUnavailable
from governor.events import Event, TaskReplayed
from governor.ports import MessageCopy, Reason
from tests.deaths import BODY, DEAD_AT, death, message


class People(Environment):
    """The environment of an application, with a broker that is a list."""

    def __init__(self, folder: Path) -> None:
        app = Celery("people", broker="memory://", set_as_current=False)
        app.conf.governor_redis_url = "redis://127.0.0.1:1/0"
        app.conf.governor_spill_dir = str(folder / "spill")
        Governor(app)
        super().__init__(app, f"sqlite:///{folder / 'dead.sqlite'}")
        self.sent: list[MessageCopy] = []
        self.fail: Callable[[MessageCopy], None] = lambda _message: None
        engine = bounded_engine(self.database_url())
        schema.upgrade(engine)
        engine.dispose()
        self.letters = super().dead_letters()

    def dead_letters(self) -> SqlDeadLetters:
        return self.letters

    def publisher(self) -> Callable[[MessageCopy], None]:
        def publish(sent: MessageCopy) -> None:
            self.fail(sent)
            self.sent.append(sent)

        return publish

    def run(self, *arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(dead, list(arguments), obj=self, **options)


@pytest.fixture
def env(tmp_path: Path) -> Iterator[People]:
    made = People(tmp_path)
    yield made
    made.letters.close()


# ---------------------------------------------------------------------------- reading


def test_groups(env: People) -> None:
    """Groups come largest first, as lines of fields and as JSON."""
    for number in range(3):
        env.letters.record(death(f"a{number}"))
    env.letters.record(death("b", reason=Reason.WORKER_LOST))
    plain = env.run("groups")
    assert plain.exit_code == 0
    header, first, second = plain.stdout.splitlines()
    assert header.split("\t")[:4] == ["fingerprint", "count", "task", "reason"]
    assert first.split("\t")[1:4] == ["3", "billing.charge", "retries_exhausted"]
    assert second.split("\t")[1] == "1"
    found = json.loads(env.run("groups", "--json").stdout)
    assert [group["count"] for group in found] == [3, 1]
    assert found[0]["last_dead_at"] == "2025-06-15T15:06:40.000+00:00"


def test_nothing_to_show(env: People) -> None:
    """No match is exit code 4, and valid JSON all the same."""
    assert env.run("groups").exit_code == 4
    assert env.run("list").exit_code == 4
    empty = env.run("groups", "--json")
    assert (empty.exit_code, json.loads(empty.stdout)) == (4, [])
    unknown = env.run("show", "nope")
    assert unknown.exit_code == 4
    assert "nope" in unknown.stderr


def test_since(env: People) -> None:
    """An age limits what is shown; what is no age is a usage error naming the option."""
    env.letters.record(death())  # in 2025
    env.letters.record(death("new", dead_at=SystemClock().wall()))
    (group,) = json.loads(env.run("groups", "--since", "24h", "--json").stdout)
    assert group["count"] == 1
    wrong = env.run("groups", "--since", "yesterday")
    assert wrong.exit_code == 2
    assert "--since" in wrong.stderr
    assert "24h" in wrong.stderr


def test_list_filters(env: People) -> None:
    """Each filter of the command reaches the query."""
    env.letters.record(death("a", upstream="bank"))
    env.letters.record(death("b", task_name="other", tenant="b", reason=Reason.WORKER_LOST))
    for option in (
        ("--task", "other"),
        ("--tenant", "b"),
        ("--reason", "worker_lost"),
        ("--state", "dead", "--task", "other"),
    ):
        (found,) = json.loads(env.run("list", *option, "--json").stdout)
        assert found["task_id"] == "b", option
    (found,) = json.loads(env.run("list", "--upstream", "bank", "--json").stdout)
    assert found["task_id"] == "a"
    group = found["fingerprint"]
    assert len(json.loads(env.run("list", "--group", group, "--json").stdout)) == 1
    assert env.run("list", "--state", "resolved").exit_code == 4


def test_a_list_that_was_cut_says_so(env: People) -> None:
    """When there are more than the limit, the total is named."""
    for number in range(3):
        env.letters.record(death(f"a{number}"))
    assert "2 of 3 shown" in env.run("list", "--limit", "2").stderr


def test_show(env: People) -> None:
    """One dead letter is shown with its verdict, hash, texts and audit trail, not its body."""
    row_id = env.letters.record(
        death(traceback="Traceback\n  File x", attempt_log=[{"n": 1, "error": "e"}])
    )
    plain = env.run("show", row_id)
    assert plain.exit_code == 0
    for said in (row_id, "the task type is declared idempotent", "Traceback", "n=1", "died"):
        assert said in plain.stdout
    found = json.loads(env.run("show", row_id, "--json").stdout)
    assert found["payload_size"] == len(BODY)
    assert found["audit"][0]["action"] == "died"
    assert "acct_1" not in plain.stdout


def test_nothing_from_the_database_controls_the_terminal(env: People) -> None:
    """Escape sequences, C1 controls and direction marks are shown as text, in every view."""
    nasty = "\x1b[2J\x9b31m\x07\r\u202eevil\x7f [red]"
    row_id = env.letters.record(
        death(
            task_name=nasty,
            tenant=nasty,
            exc_type=nasty,
            exc_message=nasty,
            traceback=nasty + "\n" + nasty,
            hostname=nasty,
            attempt_log=[{nasty: nasty}],
            message=message(queue=nasty, routing_key=nasty, exchange=nasty),
        )
    )
    outputs = [
        env.run(*arguments)
        for arguments in (
            ("groups",),
            ("list",),
            ("show", row_id),
            ("list", "--json"),
            ("replay", row_id, "--dry-run"),
        )
    ]
    for found in outputs:
        assert found.exit_code == 0, found.output
        for control in "\x1b\x9b\x07\r\u202e":
            assert control not in found.output
    assert "\\x1b[2J\\x9b31m" in outputs[0].stdout


def test_a_terminal_gets_a_table(
    env: People, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal rows are drawn, and markup in them is text."""
    env.letters.record(death(task_name="[red]\x1b[2Jx"))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERM", "xterm")
    dead_view.groups(env.letters.groups())
    drawn = capsys.readouterr().out
    assert "[red]\\x1b[2Jx" in drawn
    assert "\x1b[2J" not in drawn
    assert "\t" not in drawn


# ---------------------------------------------------------------------------- replaying


def test_replay(env: People) -> None:
    """A confirmed replay publishes the same body under the claimed id and marks the row."""
    row_id, heard = env.letters.record(death()), list[Event]()
    env.events().listen(heard.append)
    done = env.run("replay", row_id, "--reason", "bank is back", "--yes", "--json")
    assert done.exit_code == 0, done.output
    (sent,) = env.sent
    (told,) = heard
    assert isinstance(told, TaskReplayed)
    assert (told.task_id, told.dead_letter) == (sent.headers["id"], row_id)
    letter = env.letters.get(row_id)
    assert json.loads(done.stdout)["replayed"] == {row_id: letter.replay_task_id}
    assert (letter.state, sent.headers["id"]) == (State.REPLAYED, letter.replay_task_id)
    assert sent.body == BODY
    assert sent.headers["governor"]["replay_of"] == row_id
    assert sent.headers["governor"]["idem"] == "task-1"
    claimed = env.letters.audit(row_id)[1]
    assert claimed.reason == "bank is back"
    assert "@" in claimed.actor


def test_preview(env: People) -> None:
    """Before acting: how many, of which tasks and tenants, and what will be refused and why."""
    env.letters.record(death("a"))
    env.letters.record(death("b", tenant="b"))
    env.letters.record(death("c", idempotent=False))
    said = env.run("replay", "--task", "billing.charge", "--dry-run")
    assert said.exit_code == 0
    assert "2 to replay" in said.stderr
    assert "tasks: billing.charge 2" in said.stderr
    assert "acme 1" in said.stderr
    assert "b 1" in said.stderr
    assert "1 refused" in said.stderr
    assert "the call may have happened" in said.stderr
    assert not env.sent
    assert env.letters.get(env.letters.groups()[0].newest_id).version == 1


USAGE = [
    # arguments that make no sense, and a word of the answer
    (["replay"], "--group"),  # replay what?
    (["replay", "ID", "--task", "x", "--reason", "r"], "--group"),  # two selections
    (["replay", "ID"], "--reason"),  # why?
    (["replay", "ID", "--reason", "  "], "--reason"),  # a blank is no reason
    (["replay", "--task", "x", "--limit", "0", "--reason", "r"], "--limit"),
]


@pytest.mark.parametrize(("arguments", "said"), USAGE)
def test_usage(env: People, arguments: list[str], said: str) -> None:
    """A wrong command is exit code 2 and names what is wrong."""
    found = env.run(*arguments)
    assert found.exit_code == 2
    assert said in found.stderr


def test_without_a_terminal_and_without_yes(env: People) -> None:
    """When nobody can be asked, nothing is replayed."""
    row_id = env.letters.record(death())
    refused = env.run("replay", row_id, "--reason", "r")
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    assert not env.sent
    assert env.letters.get(row_id).state is State.DEAD


@pytest.mark.parametrize(("answer", "sent"), [("y\n", 1), ("n\n", 0), ("\n", 0)])
def test_asking(env: People, monkeypatch: pytest.MonkeyPatch, answer: str, sent: int) -> None:
    """At a terminal the answer decides, and no answer is no."""
    row_id = env.letters.record(death())
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _self: True)
    found = env.run("replay", row_id, "--reason", "r", input=answer)
    assert len(env.sent) == sent
    assert found.exit_code == (0 if sent else 2)


def test_without_an_application(env: People) -> None:
    """Publishing needs the application; looking at the preview does not."""
    row_id = env.letters.record(death())
    nameless = Environment(None, env.database_url())
    replay = ["replay", row_id, "--reason", "r", "--yes"]
    assert CliRunner().invoke(dead, [*replay, "--dry-run"], obj=nameless).exit_code == 0
    missing = CliRunner().invoke(dead, replay, obj=nameless)
    assert missing.exit_code == 2
    assert "-A" in missing.stderr
    assert env.letters.get(row_id).version == 1


def test_not_idempotent(env: People) -> None:
    """Refused by default, allowed when confirmed, and the reason is required either way."""
    row_id = env.letters.record(death(idempotent=False, reason=Reason.NOT_IDEMPOTENT))
    refused = env.run("replay", row_id, "--reason", "r", "--yes")
    assert refused.exit_code == 3
    assert "--confirm-not-idempotent" in refused.stderr
    assert env.run("replay", row_id, "--confirm-not-idempotent", "--yes").exit_code == 2
    assert not env.sent
    allowed = env.run("replay", row_id, "--reason", "r", "--yes", "--confirm-not-idempotent")
    assert allowed.exit_code == 0
    assert len(env.sent) == 1


def test_impossible(env: People) -> None:
    """What cannot be replayed is refused, whatever is confirmed."""
    row_id = env.letters.record(death(reason=Reason.UNDECODABLE))
    found = env.run("replay", row_id, "--reason", "r", "--yes", "--confirm-not-idempotent")
    assert found.exit_code == 3
    assert not env.sent


def test_some_refused_some_replayed(env: People) -> None:
    """A group is replayed as far as policy allows; the rest makes the exit code 1."""
    env.letters.record(death("a"))
    env.letters.record(death("b", idempotent=False))
    found = env.run("replay", "--task", "billing.charge", "--reason", "r", "--yes")
    assert found.exit_code == 1
    assert len(env.sent) == 1


def test_nothing_matched(env: People) -> None:
    """No row to replay is exit code 4; one of several ids missing is a failed item."""
    assert env.run("replay", "--task", "x", "--reason", "r", "--yes").exit_code == 4
    assert env.run("replay", "nope", "--reason", "r", "--yes").exit_code == 4
    row_id = env.letters.record(death())
    some = env.run("replay", row_id, "nope", "--reason", "r", "--yes")
    assert some.exit_code == 1
    assert "nope: no such dead letter" in some.stderr
    assert len(env.sent) == 1


def test_already_replayed(env: People) -> None:
    """A second replay of the same row changes nothing: exit code 5."""
    row_id = env.letters.record(death())
    assert env.run("replay", row_id, "--reason", "r", "--yes").exit_code == 0
    again = env.run("replay", row_id, "--reason", "r", "--yes")
    assert again.exit_code == 5
    assert "is replayed" in again.stderr
    assert len(env.sent) == 1


def test_changed_since_the_preview(env: People) -> None:
    """A row another operator took between preview and action is left to them."""
    first = env.letters.record(death("a"))
    second = env.letters.record(death("b", dead_at=DEAD_AT + 1))

    def other_operator(_message: MessageCopy) -> None:
        if env.letters.get(second).state is State.DEAD:
            env.letters.claim_replay(second, 1, SystemClock().wall(), "other", "mine")

    env.fail = other_operator
    found = env.run("replay", first, second, "--reason", "r", "--yes")
    assert found.exit_code == 5
    assert second in found.stderr
    assert len(env.sent) == 1


@pytest.mark.parametrize(("idempotent", "state"), [(True, "dead"), (False, "needs_review")])
def test_a_publish_that_fails(env: People, idempotent: bool, state: str) -> None:
    """A failed publish is a failed item, its row free again only if a copy does no harm."""
    row_id = env.letters.record(death(idempotent=idempotent))

    def refuse(_message: MessageCopy) -> None:
        raise OSError("broker is away")

    env.fail = refuse
    command = ("replay", row_id, "--reason", "r", "--yes", "--confirm-not-idempotent")
    found = env.run(*command)
    assert found.exit_code == 1
    assert "broker is away" in found.stderr
    assert env.letters.get(row_id).state == state
    env.fail = lambda _message: None
    assert env.run(*command).exit_code == 0
    assert env.sent[0].headers["id"] == env.letters.get(row_id).replay_task_id


@pytest.mark.parametrize("published", [False, True], ids=["before", "after"])
def test_killed_around_the_publish(env: People, published: bool) -> None:
    """An operator killed between claim and mark leaves a row that is later replayed under
    the same task id: the worker sees one dispatch."""
    row_id = env.letters.record(death())
    ids: list[str] = []

    def killed(sent: MessageCopy) -> None:
        if published:
            ids.append(sent.headers["id"])
        raise KeyboardInterrupt

    env.fail = killed
    env.run("replay", row_id, "--reason", "r", "--yes")
    assert env.letters.get(row_id).state is State.REPLAYING
    env.fail = lambda _message: None
    early = env.run("replay", row_id, "--reason", "r", "--yes")
    assert early.exit_code == 5  # the lease still holds
    lease = env.letters.get(row_id).lease_until
    assert lease is not None
    assert env.letters.release_expired(lease) == 1
    assert env.run("replay", row_id, "--reason", "r", "--yes").exit_code == 0
    ids += [sent.headers["id"] for sent in env.sent]
    assert len(set(ids)) == 1


def test_the_limit_leaves_the_rest_and_says_so(env: People) -> None:
    """More than the limit is not replayed silently in part: what is left is named."""
    for number in range(3):
        env.letters.record(death(f"a{number}", dead_at=DEAD_AT + number))
    found = env.run("replay", "--task", "billing.charge", "--limit", "2", "--reason", "r", "--yes")
    assert "1 more match" in found.stderr
    assert len(env.sent) == 2


def test_an_unreachable_database(env: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command ends with 6 when the database is away."""

    def away(*_args: object, **_options: object) -> None:
        raise DatabaseUnavailable("no answer from db \x1b[2J")

    Spill(env.spill_dir(), redact=str).append(death())
    for method in ("groups", "list", "get", "release_expired", "record"):
        monkeypatch.setattr(env.letters, method, away)
    for arguments in (
        ("groups",),
        ("list",),
        ("show", "x"),
        ("replay", "x", "--reason", "r", "--yes"),
        ("replay", "x", "--dry-run"),
        ("drain-spill",),
    ):
        found = env.run(*arguments)
        assert found.exit_code == 6, arguments
        assert "no answer from db \\x1b[2J" in found.stderr


def test_the_database_goes_away_in_the_middle(env: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was replayed before is reported, and the exit code is 6."""
    first = env.letters.record(death("a"))
    second = env.letters.record(death("b", dead_at=DEAD_AT + 1))
    real = env.letters.claim_replay

    def claim(dead_letter_id: str, *args: Any, **options: Any) -> Any:
        if dead_letter_id == second:
            raise DatabaseUnavailable
        return real(dead_letter_id, *args, **options)

    monkeypatch.setattr(env.letters, "claim_replay", claim)
    found = env.run("replay", first, second, "--reason", "r", "--yes", "--json")
    assert found.exit_code == 6
    assert list(json.loads(found.stdout)["replayed"]) == [first]


def test_drain_spill(env: People) -> None:
    """Spilled deaths become rows; an empty folder is exit code 4, a broken file 1."""
    spill = Spill(env.spill_dir(), redact=str)
    assert env.run("drain-spill").exit_code == 4
    spill.append(death("a"))
    spill.append(death("b")).write_bytes(b"broken")
    found = env.run("drain-spill", "--json")
    assert found.exit_code == 1
    assert json.loads(found.stdout) == {"recorded": 1, "refused": 0, "broken": 1, "pending": 0}
    spill.append(death("c"))
    assert env.run("drain-spill").exit_code == 0


@pytest.mark.parametrize("command", [[], ["groups"], ["list"], ["show"], ["replay"]])
def test_help(env: People, command: list[str]) -> None:
    """Every command explains itself."""
    found = env.run(*command, "--help")
    assert found.exit_code == 0
    assert ("Exit codes" if not command else "Example") in found.stdout
