"""Dead letters in real databases: one row for each death, one dispatch for each replay."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, Select, text
from sqlalchemy.engine import make_url

from governor.clock import SECOND
from governor.deadletter import reading, schema
from governor.deadletter.engine import bounded, bounded_engine
from governor.deadletter.history import row_counts
from governor.deadletter.models import DEAD_LETTERS, State
from governor.deadletter.reading import Filters
from governor.deadletter.repository import LEASE, SqlDeadLetters
from governor.deadletter.transitions import Transitions
from governor.errors import (
    Changed,
    ConfigurationError,
    DatabaseUnavailable,
    ReplayRefused,
    RowRefused,
    UnknownDeadLetter,
)
from governor.operations.replay import replay_message
from governor.ports import MessageCopy, Reason
from tests.deaths import BODY, DEAD_AT, death, message
from tests.servers.fault_proxy import Fault, FaultProxy
from tests.servers.pooler import Pooler

if TYPE_CHECKING:
    from tests.servers.postgres import PrivatePostgres

NOW = DEAD_AT + 3600 * SECOND


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = bounded_engine(database_url, timeout=10)
    schema.upgrade(made)
    yield made
    made.dispose()


@pytest.fixture
def letters(engine: Engine) -> SqlDeadLetters:
    return SqlDeadLetters(
        engine, redact=lambda said: said.replace("s3cret", "[hidden]"), timeout=10
    )


def count(engine: Engine, table: str = "governor_dead_letters") -> int:
    with bounded(engine, write=False) as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


# ---------------------------------------------------------------------------- recording


def test_one_death_written_twice_is_one_row(letters: SqlDeadLetters, engine: Engine) -> None:
    """The second write of a death returns the first id and changes nothing."""
    first = letters.record(death())
    again = letters.record(death(reason=Reason.WORKER_LOST, exc_message="other"))
    assert again == first
    assert letters.get(first).reason is Reason.RETRIES_EXHAUSTED
    assert count(engine) == count(engine, "governor_dead_letter_audit") == 1


def test_another_attempt_is_another_death(letters: SqlDeadLetters, engine: Engine) -> None:
    """The same task id with another delivery has a row of its own."""
    assert letters.record(death(delivery=0)) != letters.record(death(delivery=1))
    assert count(engine) == 2


@pytest.mark.parametrize("stamped", [True, False])
def test_another_message_is_another_death(
    letters: SqlDeadLetters, engine: Engine, stamped: bool
) -> None:
    """Two messages that die under one task id and attempt are two rows, also when the first is
    resolved; each of them written twice is one. Unstamped ones are told apart by their bodies."""

    def dies(number: int) -> str:
        governed = {"governor": {"v": 1, "mid": f"message-{number}"}} if stamped else {}
        body = BODY if stamped else b"%d" % number
        return letters.record(death(message=message(headers=governed, body=body)))

    first = dies(1)
    claim = letters.claim_replay(first, 1, NOW, "me", "why")
    letters.replay_succeeded(claim.replay_task_id, NOW)
    second = dies(2)
    assert len({first, second, dies(1), dies(2)}) == 2
    assert count(engine) == 2


def test_messages_without_a_task_id(letters: SqlDeadLetters, engine: Engine) -> None:
    """The same junk is one row, other junk another one."""
    junk = death(None, reason=Reason.UNDECODABLE, message=message("", body=b"\xff"))
    other = death(None, reason=Reason.UNDECODABLE, message=message("", body=b"\xfe"))
    assert letters.record(junk) == letters.record(junk)
    assert letters.record(other) != letters.record(junk)
    assert count(engine) == 2


def test_many_writers_of_one_death_make_one_row(letters: SqlDeadLetters, engine: Engine) -> None:
    """Twenty threads that record the same death at once all get the id of one row."""
    together = threading.Barrier(4)

    def write(_number: int) -> str:
        together.wait(10)
        return letters.record(death())

    with ThreadPoolExecutor(4) as pool:
        ids = set(pool.map(write, range(20)))
    assert len(ids) == 1
    assert count(engine) == 1


def test_the_message_comes_back_exactly(letters: SqlDeadLetters) -> None:
    """Body, headers and properties of a claim equal those that were recorded."""
    exact = message(
        body=bytes(range(256)) * 10,
        headers={
            "big": 2**70,
            "when": datetime(2025, 6, 1, 0, 0, 0, 1, UTC),
            "bytes": b"\x00\xff",
            "nested": {"a": [1, {"b": None}], "d": Decimal("1.10")},
            "nul": "\0 and half \ud800",
        },
        exchange="ex",
        routing_key="rk",
        queue=None,
    )
    row_id = letters.record(death(message=exact))
    assert letters.claim_replay(row_id, 1, NOW, "me", "why").message == exact


def test_hostile_texts_are_stored(letters: SqlDeadLetters) -> None:
    """NUL, lone surrogates and SQL in every text are stored inert."""
    nasty = "'; DROP TABLE governor_dead_letters; --\0\ud800\x1b[2J"
    row_id = letters.record(
        death(
            nasty,
            task_name=nasty,
            tenant=nasty,
            exc_type=nasty,
            exc_message=nasty,
            traceback=nasty,
            hostname=nasty,
            idempotency_key=nasty,
            limit_keys=[nasty],
            attempt_log=[{nasty: nasty}],
            message=message(nasty, exchange=nasty, routing_key=nasty, queue=nasty),
        )
    )
    assert letters.record(death(nasty)) == row_id
    assert "DROP TABLE" in str(letters.get(row_id).exc_message)
    assert not letters.list(Filters(task_name="' OR '1'='1"))


def test_nothing_unredacted_is_in_the_database(letters: SqlDeadLetters, engine: Engine) -> None:
    """A secret in a text of a death, or of an audit reason, is in no text column."""
    row_id = letters.record(
        death(exc_message="s3cret", traceback="s3cret", attempt_log=[{"e": "s3cret"}])
    )
    letters.claim_replay(row_id, 1, NOW, "me", "because s3cret")
    with bounded(engine, write=False) as connection:
        for table in ("governor_dead_letters", "governor_dead_letter_audit"):
            for row in connection.execute(text(f"SELECT * FROM {table}")):
                assert "s3cret" not in repr(row)


# ---------------------------------------------------------------------------- reading


def test_groups(letters: SqlDeadLetters) -> None:
    """Groups count rows in state dead by cause, largest first, with their newest text."""
    for number in range(3):
        letters.record(
            death(f"a{number}", dead_at=DEAD_AT + number, exc_message=f"order {number} late")
        )
    letters.record(death("b", reason=Reason.WORKER_LOST, dead_at=DEAD_AT + 9))
    gone = letters.record(death("a9", dead_at=DEAD_AT + 9))
    letters.claim_replay(gone, 1, NOW, "me", "why")
    large, small = letters.groups()
    assert (large.count, large.first_dead_at, large.last_dead_at) == (3, DEAD_AT, DEAD_AT + 2)
    assert large.exc_message == "order 2 late"
    assert (small.count, small.reason) == (1, Reason.WORKER_LOST)
    assert [group.reason for group in letters.groups(since=DEAD_AT + 3)] == [Reason.WORKER_LOST]
    assert letters.groups(since=NOW) == ()


FILTERS = [
    # which filter, the task ids it finds
    ({}, ["c", "b", "a"]),  # everything, newest first
    ({"task_name": "other"}, ["b"]),
    ({"tenant": "acme"}, ["c", "a"]),
    ({"reason": Reason.WORKER_LOST}, ["c"]),
    ({"since": DEAD_AT + SECOND}, ["c", "b"]),
    ({"states": [State.DEAD]}, ["c", "b", "a"]),
    ({"states": [State.REPLAYED, State.RESOLVED]}, []),
    ({"tenant": "acme", "since": DEAD_AT + SECOND}, ["c"]),  # all that are given must match
]


def test_list_and_count(letters: SqlDeadLetters) -> None:
    """Every filter that is set must match, and the newest come first."""
    letters.record(death("a"))
    letters.record(death("b", task_name="other", tenant=None, dead_at=DEAD_AT + SECOND))
    letters.record(death("c", reason=Reason.WORKER_LOST, dead_at=DEAD_AT + 2 * SECOND))
    for given, expected in FILTERS:
        filters = Filters(**given)  # type: ignore[arg-type]
        assert [found.task_id for found in letters.list(filters)] == expected, given
        assert letters.count(filters) == len(expected)
    assert [found.task_id for found in letters.list(Filters(), limit=1)] == ["c"]


PLANS = [
    # question, the index that answers it
    (reading.group_sizes(None), "ix_governor_dl_group"),
    (reading.group_sizes(DEAD_AT), "ix_governor_dl_group"),
    (row_counts(None, None), "Index Only Scan using ix_governor_dl_counts"),
    (
        reading.columns("id")
        .where(reading.in_state(State.REPLAYING))
        .where(DEAD_LETTERS.c.lease_until <= NOW),
        "ix_governor_dl_lease",
    ),
]


@pytest.mark.postgres
@pytest.mark.parametrize(("query", "index"), PLANS)
def test_indexes_are_used(postgres_url: str, query: Select[Any], index: str) -> None:
    """The questions for which there is an index are answered by it, also by a plan that
    PostgreSQL made without knowing the parameters."""
    engine = bounded_engine(postgres_url)
    schema.upgrade(engine)
    with bounded(engine, write=False) as connection:
        # One row needs no index; and a prepared statement gets a generic plan in the end.
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        connection.execute(text("SET LOCAL plan_cache_mode = force_generic_plan"))
        compiled = query.compile(connection)
        numbered = str(compiled)
        for number, name in enumerate(compiled.params, 1):
            numbered = numbered.replace(f"%({name})s", f"${number}")
        connection.exec_driver_sql(f"PREPARE question AS {numbered}")
        given = ", ".join(repr(value) for value in compiled.params.values())
        run = f"EXECUTE question({given})" if given else "EXECUTE question"
        plan = connection.exec_driver_sql(f"EXPLAIN {run}").all()
    engine.dispose()
    assert index in repr(plan)


def test_an_unknown_id(letters: SqlDeadLetters) -> None:
    """What is not there is said, with its id."""
    with pytest.raises(UnknownDeadLetter, match="nope"):
        letters.get("nope")
    with pytest.raises(UnknownDeadLetter):
        letters.claim_replay("nope", 1, NOW, "me", "why")


# ---------------------------------------------------------------------------- replaying


def test_from_death_to_resolved(letters: SqlDeadLetters) -> None:
    """Claim, publish, success: three edges, each with its audit row."""
    row_id = letters.record(death())
    claim = letters.claim_replay(row_id, 1, NOW, "ann", "bank is back")
    assert letters.get(row_id).state is State.REPLAYING
    assert letters.mark_replayed(claim, NOW + 1, "ann") is State.REPLAYED
    letters.replay_succeeded(claim.replay_task_id, NOW + 2)
    done = letters.get(row_id)
    assert (done.state, done.version, done.replay_count) == (State.RESOLVED, 4, 1)
    assert done.expires_at is not None
    assert [(e.action, e.to_state, e.actor) for e in letters.audit(row_id)] == [
        ("died", "dead", "worker"),
        ("replay_claimed", "replaying", "ann"),
        ("replay_published", "replayed", "ann"),
        ("replay_succeeded", "resolved", "worker"),
    ]


def test_only_one_of_two_operators_gets_the_claim(letters: SqlDeadLetters) -> None:
    """Of many claims of one version exactly one succeeds."""
    row_id = letters.record(death())
    together = threading.Barrier(4)

    def claim(number: int) -> str | None:
        together.wait(10)
        try:
            return letters.claim_replay(row_id, 1, NOW, f"operator {number}", "w").replay_task_id
        except Changed:
            return None

    with ThreadPoolExecutor(4) as pool:
        won = [found for found in pool.map(claim, range(4)) if found]
    assert len(won) == 1
    assert letters.get(row_id).replay_count == 1


def test_a_claim_from_an_old_preview_is_refused(letters: SqlDeadLetters) -> None:
    """A row that was replayed or resolved since it was read is not replayed again."""
    row_id = letters.record(death())
    claim = letters.claim_replay(row_id, 1, NOW, "me", "why")
    letters.mark_replayed(claim, NOW, "me")
    for version in (1, 2, 3):
        with pytest.raises(Changed):
            letters.claim_replay(row_id, version, NOW, "me", "why")


def test_a_row_that_is_dead_again_is_not_the_one_seen(letters: SqlDeadLetters) -> None:
    """A row that was claimed and released since the preview is dead, and changed."""
    row_id = letters.record(death())
    letters.claim_replay(row_id, 1, NOW, "other", "why")
    letters.release_expired(NOW + LEASE)
    assert letters.get(row_id).state is State.DEAD
    with pytest.raises(Changed):
        letters.claim_replay(row_id, 1, NOW + LEASE, "me", "why")


def test_an_edge_holds_only_for_the_row_it_read(letters: SqlDeadLetters, engine: Engine) -> None:
    """A change computed from an old reading of the row changes nothing and writes no audit."""
    row_id = letters.record(death())
    edges = Transitions(str)
    with bounded(engine, write=False) as connection:
        old = edges.locked(connection, row_id)
    letters.claim_replay(row_id, 1, NOW, "other", "why")
    with pytest.raises(Changed):
        with bounded(engine, write=True) as connection:
            edges.move(connection, old, State.RESOLVED, NOW, actor="me", action="test")
    assert letters.get(row_id).state is State.REPLAYING
    assert [entry.action for entry in letters.audit(row_id)] == ["died", "replay_claimed"]


LEASES = [
    # idempotent, state after the lease
    (True, State.DEAD),  # sending it once more is harmless
    (False, State.NEEDS_REVIEW),  # it may have been sent: a person decides
    (None, State.NEEDS_REVIEW),  # nothing declared is not idempotent
]


@pytest.mark.parametrize(("idempotent", "after"), LEASES)
def test_a_claim_whose_operator_died(
    letters: SqlDeadLetters, idempotent: bool | None, after: State
) -> None:
    """When the lease is over the row is free again if idempotent, and under review if not."""
    row_id = letters.record(death(idempotent=idempotent))
    first = letters.claim_replay(row_id, 1, NOW, "me", "why", confirm_not_idempotent=True)
    assert letters.release_expired(NOW + LEASE - 1) == 0
    assert letters.release_expired(NOW + LEASE) == 1
    assert letters.release_expired(NOW + LEASE) == 0
    found = letters.get(row_id)
    assert (found.state, found.lease_until) == (after, None)
    if not idempotent:
        with pytest.raises(ReplayRefused):
            letters.claim_replay(row_id, found.version, NOW + LEASE, "me", "why")
    again = letters.claim_replay(
        row_id, found.version, NOW + LEASE, "me", "why", confirm_not_idempotent=True
    )
    # The same task id: the worker's claim drops whichever copy comes second.
    assert again.replay_task_id == first.replay_task_id


def test_a_never_started_task_whose_replay_may_have_been_sent(letters: SqlDeadLetters) -> None:
    """Safe before its first replay; after one that may have been sent it must be confirmed."""
    row_id = letters.record(death(reason=Reason.UNKNOWN_TASK, idempotent=None, began=False))
    assert letters.get(row_id).replay_verdict == "safe"
    claim = letters.claim_replay(row_id, 1, NOW, "me", "why")
    assert letters.release_claim(claim, NOW, "me", "broker away") is State.NEEDS_REVIEW
    assert letters.get(row_id).replay_verdict == "needs_confirmation"


def test_a_late_mark_is_kept(letters: SqlDeadLetters) -> None:
    """A publish confirmed after the lease was released still makes the row replayed."""
    row_id = letters.record(death())
    claim = letters.claim_replay(row_id, 1, NOW, "me", "why")
    letters.release_expired(NOW + LEASE)
    assert letters.mark_replayed(claim, NOW + LEASE, "me") is State.REPLAYED


EARLY = ["replaying", "dead", "needs_review"]


@pytest.mark.parametrize("state", EARLY)
def test_a_success_seen_before_the_mark_resolves(letters: SqlDeadLetters, state: str) -> None:
    """A fast worker resolves the row from any state; the late mark does not undo it."""
    row_id = letters.record(death(idempotent=state == "dead"))
    claim = letters.claim_replay(row_id, 1, NOW, "me", "why", confirm_not_idempotent=True)
    if state != "replaying":
        letters.release_expired(NOW + LEASE)
    assert letters.get(row_id).state == state
    letters.replay_succeeded(claim.replay_task_id, NOW + LEASE)
    assert letters.mark_replayed(claim, NOW + LEASE, "me") is State.RESOLVED
    assert letters.get(row_id).state is State.RESOLVED


def test_a_success_of_an_ordinary_task_changes_nothing(
    letters: SqlDeadLetters, engine: Engine
) -> None:
    """Not every task is a replay."""
    letters.record(death())
    letters.replay_succeeded("task-1", NOW)
    assert count(engine, "governor_dead_letter_audit") == 1


def replay_of(letters: SqlDeadLetters, row_id: str) -> tuple[str, MessageCopy]:
    letter = letters.get(row_id)
    claim = letters.claim_replay(row_id, letter.version, NOW, "me", "why")
    sent = replay_message(
        claim.message,
        replay_task_id=claim.replay_task_id,
        dead_letter_id=row_id,
        idempotency_key=claim.idempotency_key,
    )
    letters.mark_replayed(claim, NOW, "me")
    return claim.replay_task_id, sent


def test_a_replay_of_a_replay(letters: SqlDeadLetters) -> None:
    """A replay that dies has a row of the next generation; its success resolves the lineage,
    and the idempotency key is the first run's all along."""
    first = letters.record(death())
    first_replay, sent = replay_of(letters, first)
    second = letters.record(death(first_replay, message=sent))
    found = letters.get(second)
    assert (found.origin_id, found.generation) == (first, 1)
    assert found.idempotency_key == "task-1"
    assert letters.audit(first)[-1].action == "replay_died"
    second_replay, sent = replay_of(letters, second)
    third = letters.record(death(second_replay, message=sent))
    assert (letters.get(third).origin_id, letters.get(third).generation) == (first, 2)
    assert letters.get(third).idempotency_key == "task-1"
    third_replay, _sent = replay_of(letters, third)
    letters.replay_succeeded(third_replay, NOW)
    assert {letters.get(row).state for row in (first, second, third)} == {State.RESOLVED}


REFUSED = [
    # change, confirmed, is it replayed?
    ({}, False, True),
    ({"idempotent": False}, False, False),  # refused by default
    ({"idempotent": False}, True, True),  # allowed when confirmed
    ({"reason": Reason.UNDECODABLE}, True, False),  # never
    ({"message": message(headers={"odd": object()})}, True, False),  # not exact
]


@pytest.mark.parametrize(("changes", "confirmed", "allowed"), REFUSED)
def test_policy(
    letters: SqlDeadLetters, changes: dict[str, Any], confirmed: bool, allowed: bool
) -> None:
    """What may have happened needs a confirmation, what cannot be sent needs more."""
    row_id = letters.record(death(**changes))
    if allowed:
        letters.claim_replay(row_id, 1, NOW, "me", "w", confirm_not_idempotent=confirmed)
        return
    with pytest.raises(ReplayRefused, match=row_id):
        letters.claim_replay(row_id, 1, NOW, "me", "w", confirm_not_idempotent=confirmed)
    assert letters.get(row_id).version == 1


def test_a_damaged_body_is_not_sent(letters: SqlDeadLetters, engine: Engine) -> None:
    """A body that no longer has its hash is refused."""
    row_id = letters.record(death())
    with bounded(engine, write=True) as connection:
        connection.execute(text("UPDATE governor_dead_letters SET payload_sha256 = 'other'"))
    with pytest.raises(ReplayRefused, match="hash"):
        letters.claim_replay(row_id, 1, NOW, "me", "why")


# ---------------------------------------------------------------------------- faults


def test_without_tables(database_url: str) -> None:
    """A database nobody upgraded is unavailable, and the remedy is named."""
    letters = SqlDeadLetters(database_url, redact=str)
    with pytest.raises(DatabaseUnavailable, match="governor db upgrade"):
        letters.record(death())
    letters.close()


def test_a_locked_database_keeps_nobody_waiting(engine: Engine, database_url: str) -> None:
    """While another transaction holds what a write needs, the write gives up in time."""
    letters = SqlDeadLetters(database_url, redact=str, timeout=0.5)
    with bounded(engine, write=True, timeout=20) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("LOCK TABLE governor_dead_letters"))
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            letters.record(death())
        # SQLite alone would have waited 5 s, PostgreSQL until the lock is gone.
        assert time.monotonic() - started < 4
    assert letters.record(death())
    letters.close()


HOSTILE: dict[str, dict[str, Any]] = {
    "surrogates in the header": {
        "headers": {"governor": {"v": 1, "idem": "\ud800", "replay_of": "\udfff"}}
    },
    "surrogates everywhere": dict.fromkeys(
        ["task_id", "task_name", "upstream", "tenant", "exc_type", "exc_message", "traceback",
         "hostname", "trace_id", "idempotency_key"], "a\ud800\0b"
    ),
    "names that are too long": dict.fromkeys(
        ["task_id", "task_name", "tenant", "exc_type", "hostname", "trace_id"], "\U0001f600" * 9_000
    ),
    "no texts": {"exchange": None, "routing_key": 5, "idempotent": "yes", "hostname": object()},
    "numbers": {"delivery": 2**70, "deferrals": -(2**70), "dead_at": 2**70, "http_status": 2**20},
}  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_whatever_a_death_says_it_has_a_row(
    letters: SqlDeadLetters, hostile: dict[str, Any]
) -> None:
    """No value of a message or an exception keeps a death from being written, once."""
    parts = {"headers", "exchange", "routing_key"}
    copy = message(**{k: v for k, v in hostile.items() if k in parts})
    dead = death(message=copy, **{k: v for k, v in hostile.items() if k not in parts})
    row_id = letters.record(dead)
    assert letters.record(dead) == row_id
    assert letters.get(row_id).payload_sha256
    letters.replay_succeeded("\ud800", NOW)
    assert letters.of_task("\ud800") == ()


@pytest.mark.postgres
def test_a_database_without_unicode_has_the_row_in_ascii(postgres_server: PrivatePostgres) -> None:
    """Texts that the database's encoding lacks are escaped, and the row says so."""
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(
        host="127.0.0.1", port=postgres_server.port, user="postgres", autocommit=True
    ) as connection:
        connection.execute(
            "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        )
    engine = bounded_engine(postgres_server.url("latin"), timeout=10)
    schema.upgrade(engine)
    letters = SqlDeadLetters(engine, redact=str, timeout=10)
    found = letters.get(letters.record(death(exc_message="price in ₽", tenant="日本")))
    letters.close()
    postgres_server.drop_database("latin")
    assert found.exc_message == "price in \\u20bd"
    assert found.tenant == "\\u65e5\\u672c"
    assert "ASCII" in (found.truncated or "")


def test_a_row_the_database_refuses(letters: SqlDeadLetters, engine: Engine) -> None:
    """A constraint of the database that no row can meet is told apart from an absence."""
    with bounded(engine, write=True) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(
                text("ALTER TABLE governor_dead_letters ADD CHECK (tenant <> 'acme')")
            )
        else:
            connection.execute(
                text(
                    "CREATE TRIGGER no_acme BEFORE INSERT ON governor_dead_letters "
                    "BEGIN SELECT RAISE(ABORT, 'no acme') WHERE NEW.tenant = 'acme'; END"
                )
            )
    with pytest.raises(RowRefused, match="refuses the row of task") as caught:
        letters.record(death())
    assert str(death().task_id) in str(caught.value)
    assert letters.record(death(tenant="other"))


def test_a_fork_opens_its_own_connections(letters: SqlDeadLetters, engine: Engine) -> None:
    """Parent and forked child write at the same time without mixing up each other's answers."""
    letters.record(death("before"))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for number in range(100):
                letters.record(death(f"child-{number}"))
            code = 0
        finally:
            os._exit(code)
    for number in range(100):
        letters.record(death(f"parent-{number}"))
    assert os.waitpid(child, 0)[1] == 0
    assert count(engine) == 201


@pytest.mark.postgres
@pytest.mark.parametrize("pooled", [False, True])
def test_the_urls_options_hold(
    postgres_server: PrivatePostgres, postgres_url: str, pooled: bool
) -> None:
    """With a schema of its own in the URL the tables are there, and rows are written, through a
    pooler too."""
    psycopg = pytest.importorskip("psycopg")
    name = make_url(postgres_url).database
    with psycopg.connect(
        host="127.0.0.1", port=postgres_server.port, user="postgres", dbname=name, autocommit=True
    ) as connection:
        connection.execute("CREATE SCHEMA gov")
    with Pooler(postgres_server.port) as pooler:
        port = pooler.port if pooled else postgres_server.port
        url = f"postgresql://postgres@127.0.0.1:{port}/{name}?options=-csearch_path%3Dgov"
        engine = bounded_engine(url, timeout=10)
        schema.upgrade(engine)
        letters = SqlDeadLetters(engine, redact=str, timeout=10)
        for number in range(8):  # a driver prepares what it sends for the sixth time
            letters.record(death(task_id=str(number)))
        assert letters.count(Filters()) == 8
        assert schema.check(engine).good
        letters.close()
        assert pooler.refused == []
        assert (pooler.used > 8) is pooled
    with psycopg.connect(
        host="127.0.0.1", port=postgres_server.port, user="postgres", dbname=name
    ) as connection:
        found = connection.execute(
            "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename LIKE 'governor%'"
        )
        assert found.fetchall() == [("gov",)]


@pytest.mark.postgres
def test_an_exhausted_pool_keeps_nobody_waiting(postgres_url: str) -> None:
    """When every connection is taken, a write gives up in time."""
    engine = bounded_engine(postgres_url)
    schema.upgrade(engine)
    letters = SqlDeadLetters(engine, redact=str)
    with ExitStack() as taken:
        for _ in range(4):
            taken.enter_context(engine.connect())
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            letters.record(death())
        # SQLAlchemy alone would have waited 30 s.
        assert time.monotonic() - started < 10
    assert letters.record(death())
    letters.close()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """A damaged or missing SQLite file is an unavailable database, so the death is spilled."""
    (tmp_path / "junk").write_bytes(b"not a database" * 1000)
    for path in (tmp_path / "junk", tmp_path / "no folder" / "file"):
        letters = SqlDeadLetters(f"sqlite:///{path}", redact=str)
        with pytest.raises(DatabaseUnavailable):
            letters.record(death())
        letters.close()


@pytest.mark.postgres
@pytest.mark.parametrize("fault", [Fault.BLACK_HOLE, Fault.LOST_REPLY, Fault.REFUSE, Fault.RESET])
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "new"])
def test_a_server_that_stops_answering(postgres_url: str, fault: Fault, connected: bool) -> None:
    """Whatever the network does, the call ends within its time, and works again after."""
    from sqlalchemy.engine import make_url

    direct = make_url(postgres_url)
    assert direct.host
    assert direct.port
    engine = bounded_engine(postgres_url, timeout=10)
    schema.upgrade(engine)
    with FaultProxy(direct.host, direct.port) as proxy:
        letters = SqlDeadLetters(direct.set(port=proxy.port), redact=str)
        if connected:
            letters.record(death("before"))
        proxy.fault = fault
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            letters.record(death("during"))
        # Without a bound it would have waited as long as the network is patient.
        assert time.monotonic() - started < 20
        proxy.fault = Fault.NONE
        row_id = letters.record(death("during"))
        assert letters.record(death("during")) == row_id
        letters.close()
    assert count(engine) == 1 + connected
    engine.dispose()


URLS = [
    ("sqlite://", "in-memory"),  # lost with its process
    ("sqlite:///:memory:", "in-memory"),
    ("mysql://me@db/app", "not supported"),
    ("nonsense", "not a database URL"),
]


@pytest.mark.parametrize(("url", "said"), URLS)
def test_databases_that_cannot_work(url: str, said: str) -> None:
    """A URL the governor cannot use is refused at once, with what to write instead."""
    with pytest.raises(ConfigurationError, match=said):
        SqlDeadLetters(url, redact=str)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@127.0.0.1:1/app",
        "postgresql://me@127.0.0.1:1/app?password=s3cret",
        "postgresql://127.0.0.1:1/app?user=me&password=s3cret&sslpassword=s3cret",
    ],
)
def test_an_error_does_not_tell_the_password(url: str) -> None:
    """The database is named without its password, wherever that stands in its URL."""
    letters = SqlDeadLetters(url, redact=str)
    with pytest.raises(DatabaseUnavailable) as caught:
        letters.record(death())
    assert "s3cret" not in str(caught.value)
    assert "127.0.0.1:1/app" in str(caught.value)
