"""Messages that nothing can be made of, through the consumers of real workers in every pool: each
is one row and is acknowledged, and sound tasks run."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from governor.deadletter.encoding import decode_mapping
from tests import malformed_messages as messages
from tests.integration.fleet import Fleet, wait_until
from tests.integration.fleet import fleet as fleet_of
from tests.malformed_messages import EXAMPLES, QUEUE, Sent, sound

pytestmark = [pytest.mark.redis, pytest.mark.worker]

MODULE = "tests.integration.malformed_app"
POOLS = ["prefork", "threads", "gevent", "solo"]
GOVERNED, ONCE, UNGOVERNED = (
    f"{MODULE}.{name}" for name in ("governed", "governed_once", "ungoverned")
)
TASKS = [GOVERNED, ONCE, UNGOVERNED, "another.task"]

AT_ONCE = 50


class Arena:
    """A worker, and messages that are put into its queue as they are."""

    def __init__(self, fleet: Fleet, pool: str) -> None:
        self.fleet = fleet
        self.worker = fleet.worker(pool)
        self._redis = redis.Redis.from_url(fleet.broker_url)
        self._database = fleet.directory / "dead.sqlite"
        self._seen = 0

    def send(self, *sent: Sent) -> None:
        self._redis.lpush(QUEUE, *[each.envelope() for each in sent])

    def send_raw(self, *envelopes: str) -> None:
        self._redis.lpush(QUEUE, *[each.encode("utf-8", "surrogateescape") for each in envelopes])

    def left(self) -> int:
        """Messages that are in the queue, or with the worker and not acknowledged."""
        return self._redis.llen(QUEUE) + self._redis.hlen("unacked")

    def settled(self, ended: Callable[[], bool], timeout: float = 60) -> None:
        """Wait until messages have ended, and nothing is left of them in the broker. A worker takes
        a message out of the queue before it notes that it has it."""
        try:
            wait_until(lambda: (ended(), self.left()), lambda seen: seen == (True, 0), timeout)
        except AssertionError as stuck:
            raise AssertionError(f"{stuck}: {self.worker.log()[-5_000:]}") from None

    def dead(self, number: int) -> list[tuple[Any, str, str]]:
        """Wait for so many further dead letters."""
        found: list[tuple[Any, str, str]] = []

        def are_there() -> bool:
            found.extend(self.rows())
            return len(found) >= number

        self.settled(are_there)
        assert len(found) == number
        return found

    def ran(self) -> list[Any]:
        """The numbers of the messages whose bodies ran."""
        return [line["number"] for line in self.fleet.ledger()]

    def rows(self) -> list[tuple[Any, str, str]]:
        """Number, reason and text of each new dead letter."""
        with closing(sqlite3.connect(self._database, timeout=10)) as database:
            found = database.execute(
                "SELECT rowid, payload_headers, reason, exc_message FROM governor_dead_letters"
                " WHERE rowid > ? ORDER BY rowid",
                (self._seen,),
            ).fetchall()
        self._seen = max([self._seen, *[row[0] for row in found]])
        return [
            (decode_mapping(headers or "{}").get("number"), reason, text)
            for _, headers, reason, text in found
        ]

    def good_tasks_run(self, timeout: float = 60) -> None:
        """Twenty sound tasks, of each kind, run; and nothing is left in the broker."""
        good = [
            sound([GOVERNED, ONCE, UNGOVERNED][number % 3], 10**9 + number) for number in range(20)
        ]
        self.send(*good)
        wanted = {10**9 + number for number in range(20)}
        self.settled(lambda: wanted <= set(filter(_is_number, self.ran())), timeout)
        assert not self.rows()
        assert self.worker.running

    def close(self) -> None:
        self._redis.close()


def _is_number(value: Any) -> bool:
    return isinstance(value, int)


@pytest.fixture
def make_arena(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Arena]]:
    made: list[Arena] = []

    def make(pool: str, conf: dict[str, Any] | None = None, **env: str) -> Arena:
        database = f"sqlite:///{tmp_path / 'dead.sqlite'}"
        fleet = Fleet(
            tmp_path, redis_url, redis_url, database, module=MODULE,
            conf=conf, **env,
        )  # fmt: skip
        made.append(Arena(fleet, pool))
        return made[-1]

    yield make
    for arena in made:
        arena.fleet.close()
        arena.close()


@pytest.mark.timeout(60 + EXAMPLES)
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@pytest.mark.parametrize("pool", POOLS)
def test_whatever_comes_is_a_row_or_runs(make_arena: Callable[..., Arena], pool: str) -> None:
    """Of arbitrary headers, properties and bodies each message runs or is one row and is
    acknowledged, and twenty sound tasks run afterwards."""
    arena = make_arena(pool)
    _each_message_ends(arena, EXAMPLES // len(POOLS))
    arena.good_tasks_run()


@pytest.mark.timeout(60 + EXAMPLES)
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@pytest.mark.parametrize("parking", ["store", "broker"])
def test_whatever_waits_is_a_row_or_runs(make_arena: Callable[..., Arena], parking: str) -> None:
    """The same where messages that pass have to wait, in the parking lot or in the broker."""
    arena = make_arena("prefork", {"governor_hold": 0}, RATE="50/s", BURST="1", PARKING=parking)
    _each_message_ends(arena, EXAMPLES // len(POOLS))
    arena.good_tasks_run()
    assert arena.fleet.stats("parked" if parking == "store" else "deferred")


def _each_message_ends(arena: Arena, examples: int) -> None:
    first = 0

    @settings(
        max_examples=max(1, examples // AT_ONCE), deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip
    @given(st.lists(messages.malformed(TASKS), min_size=AT_ONCE, max_size=AT_ONCE))
    def each_ends(batch: list[Sent]) -> None:
        nonlocal first
        numbers = range(first, first + len(batch))
        first += len(batch)
        for sent, number in zip(batch, numbers, strict=True):
            sent.headers["number"] = number
        by_celery = {sent.headers["number"] for sent in batch if _is_ended_by_celery(sent)}
        before = len(arena.ran())
        dead: list[Any] = []

        def unended() -> set[int]:
            dead.extend(number for number, *_ in arena.rows())
            return set(numbers) - by_celery - {*dead, *filter(_is_number, arena.ran()[before:])}

        arena.send(*batch)
        arena.settled(lambda: not unended())
        ran = arena.ran()[before:]
        assert not unended()
        assert len(dead) == len(set(dead))
        assert len(ran) == len(set(ran))

    each_ends()


def _is_ended_by_celery(sent: Sent) -> bool:
    """An ungoverned task that has expired is Celery's to end: it is revoked."""
    return sent.headers.get("task") == UNGOVERNED and bool(sent.headers.get("expires"))


LONG = "9999-12-31T23:59:59-14:00"

# what is wrong with it, the message's headers, properties and body, what its row says
MALFORMED: list[tuple[str, dict[str, Any], str]] = [
    ("retries that are text", {"headers": {"retries": "abc"}}, "header retries: 'abc'"),
    ("retries that are a list", {"headers": {"retries": [1]}}, "header retries: a list"),
    ("retries that are NaN", {"headers": {"retries": float("nan")}}, "header retries: nan"),
    ("infinite retries", {"headers": {"retries": float("inf")}}, "header retries: inf"),
    ("a priority of text", {"properties": {"priority": "high"}}, "property priority: 'high'"),
    ("an infinite priority", {"properties": {"priority": float("inf")}}, "property priority: inf"),
    ("an argument nested 900 deep", {"body": messages.deep(900)}, "body: nested deeper than 500"),
    ("a time limit that is a number", {"headers": {"timelimit": 5}}, "header timelimit: 5"),
    ("a time limit that is text", {"headers": {"timelimit": "x"}}, "header timelimit: 'x'"),
    (
        "a header of many items",
        {"headers": {"x": list(range(100_000))}},
        "headers: more than 10000 values",
    ),
    ("an ETA beyond all time", {"headers": {"eta": LONG}}, f"header eta: '{LONG}'"),
    ("an expiry beyond all time", {"headers": {"expires": LONG}}, f"header expires: '{LONG}'"),
    ("a lone surrogate as id", {"headers": {"id": "\ud800"}}, "header id: a lone surrogate"),
    ("no id", {"headers": {"id": None}}, "header id: missing"),
    ("an id that is a list", {"headers": {"id": [1]}}, "header id: a list"),
    ("stamps that are a number", {"headers": {"stamped_headers": 5}}, "header stamped_headers: 5"),
    ("arguments that are text", {"body": messages.body("ab")}, "body: arguments are text"),
    ("options that are text", {"body": b'[[], {}, "abc"]'}, "body: options are text"),
    ("callbacks that are a number", {"body": messages.body(callbacks=5)}, "body callbacks: int"),
    ("a chord that is a list", {"body": messages.body(chord=[1])}, "body chord: a list"),
    (
        "a body that admits itself",
        {"body": messages.body(governor_run={"until": 1 << 62})},
        "body: 'governor_run' is no option",
    ),
    ("a header that hides a method", {"headers": {"get": 1}}, "header get: task.request needs"),
    ("a content type of another type", {"content_type": [1]}, "property content_type: a list"),
]


@pytest.mark.parametrize("pool", POOLS)
def test_each_malformed_message_is_one_row(make_arena: Callable[..., Arena], pool: str) -> None:
    """Two copies of each message whose field has a shape that nothing can work with are two rows
    that name the field, of governed and of ungoverned task types, and sound tasks run."""
    arena = make_arena(pool)
    sent = []
    for task in (GOVERNED, ONCE, UNGOVERNED):
        for number, (_, changes, _) in enumerate(MALFORMED):
            for _copy in range(2):
                base = sound(task, number, copy=len(sent))
                headers = {**base.headers, **changes.get("headers", {})}
                if headers["id"] == "\ud800":
                    headers["id"] += str(len(sent))
                rest = {name: value for name, value in changes.items() if name != "headers"}
                sent.append(Sent(**{**vars(base), **rest, "headers": headers}))
    arena.send(*sent)
    rows = arena.dead(len(sent))
    assert not arena.ran()
    for number, (what, _, text) in enumerate(MALFORMED):
        found = [row for row in rows if row[0] == number]
        assert len(found) == 6, what
        for _, reason, told in found:
            assert reason == "invalid_message", what
            assert told.startswith(text), what
    arena.good_tasks_run()


@pytest.mark.parametrize("pool", POOLS)
def test_a_broken_governor_header_is_as_none(make_arena: Callable[..., Arena], pool: str) -> None:
    """A task whose governor header cannot be read runs: everything is computed from its
    arguments. Of an unknown task it is one row."""
    arena = make_arena(pool)
    broken: list[Any] = [
        5, "x", [], {"v": 1, "idem": "\ud800"}, {"v": 1, "fair": "\ud800"},
        {"v": 1, "first": 10**30}, {"v": 1, "limits": 5}, {"v": 1, "slots": [[1]]}, {"v": [1]},
        {"v": 1, "give_up_at": "x"},
    ]  # fmt: skip
    sent = [
        sound(task, number, governor=header)
        for number, header in enumerate(broken)
        for task in (GOVERNED, ONCE, "another.task")
    ]
    arena.send(*sent)
    arena.settled(lambda: len(arena.ran()) == 2 * len(broken))
    assert sorted(arena.ran()) == sorted([*range(len(broken))] * 2)
    rows = arena.dead(len(broken))
    assert sorted(number for number, *_ in rows) == list(range(len(broken)))
    assert {reason for _, reason, _ in rows} == {"unknown_task"}
    assert "CRITICAL" not in arena.worker.log()
    arena.good_tasks_run()


def test_a_message_cannot_forge_lines_of_the_log(make_arena: Callable[..., Arena]) -> None:
    """Newlines and escapes in a task's name and id are escaped where the governor logs them."""
    arena = make_arena("prefork")
    forged = "x\n[2026-01-01 00:00:00: ERROR] forged\x1b[31m"
    arena.send(sound(forged, id=forged), sound(GOVERNED, id=f"{forged}2", retries="x"))
    arena.dead(2)
    ours = [line for line in arena.worker.log().splitlines() if "is dead" in line]
    assert len(ours) == 2
    assert all(r"\n[2026-01-01 00:00:00: ERROR] forged\x1b[31m" in line for line in ours)


@pytest.mark.parametrize("pool", POOLS)
def test_an_exception_that_cannot_be_read_is_one_row(
    make_arena: Callable[..., Arena], pool: str
) -> None:
    """Of an exception whose text raises KeyboardInterrupt the row tells the type, and later deaths
    of the same worker are written."""
    arena = make_arena(pool)
    arena.send(*[sound(f"{MODULE}.unspeakable") for _ in range(4)])
    arena.dead(4)
    arena.send(sound(f"{MODULE}.fails"))
    assert [text for _, _, text in arena.dead(1)] == ["as others do"]
    types = [row.exc_type for row in arena.fleet.dead()]
    assert sorted(filter(None, types)) == ["ValueError", *[f"{MODULE}.Unspeakable"] * 4]
    arena.good_tasks_run()


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_a_broken_envelope_is_one_row(make_arena: Callable[..., Arena], pool: str) -> None:
    """Of an envelope in Redis that kombu can make no message of, the worker writes a row with the
    envelope, and goes on."""
    arena = make_arena(pool)
    whole = json.loads(sound(UNGOVERNED, 1).envelope())
    properties = whole["properties"]
    broken = [
        5,
        [1],
        {},
        {**whole, "headers": [1]},
        {**whole, "headers": "x"},
        {**whole, "properties": None},
        {**whole, "properties": {"delivery_tag": "a"}},
        {**whole, "properties": {**properties, "delivery_info": {}}},
        {**whole, "properties": {**properties, "delivery_tag": [1]}},
        {**whole, "properties": {**properties, "body_encoding": "rot13"}},
        {**whole, "body": 5},
        {**whole, "body": "not base64"},
    ]
    unreadable = [
        "{{{",
        "\udcff",
        json.dumps({**whole, "headers": {"__type__": "of a library", "__value__": 1}}),
        *[
            sound(UNGOVERNED, 1, x="@").envelope().replace('"@"', "[" * levels + "]" * levels)
            for levels in range(900, 1_100, 5)
        ],
    ]
    arena.send_raw(*map(json.dumps, broken), *unreadable)
    rows = arena.dead(len(broken) + len(unreadable))
    reasons = [reason for _, reason, _ in rows]
    assert set(reasons) == {"undecodable", "invalid_message"}
    assert reasons.count("undecodable") > len(broken)
    assert not arena.ran()
    arena.good_tasks_run()


def test_what_the_pool_cannot_be_given_is_one_row(make_arena: Callable[..., Arena]) -> None:
    """A message whose arguments cannot be pickled for a process is one row, of governed and of
    ungoverned task types, and takes no pool slot with it."""
    arena = make_arena("prefork", {"accept_content": ["json", "pickle"]}, C_FORCE_ROOT="1")
    once = b"((c%s\nOnce\n(tRt(d(dt." % MODULE.encode()
    sent = [
        Sent(sound(task, number).headers, once, content_type="application/x-python-serialize")
        for task in (GOVERNED, ONCE, UNGOVERNED)
        for number in range(4)
    ]
    arena.send(*sent)
    assert {reason for _, reason, _ in arena.dead(len(sent))} == {"invalid_message"}
    assert not arena.ran()
    arena.good_tasks_run()


NOT_IN_AMQP = {
    "a header of many items", "a lone surrogate as id", "retries that are NaN", "infinite retries",
}  # fmt: skip
"""Messages longer than a frame, or on which RabbitMQ itself fails."""


@pytest.mark.rabbitmq
def test_malformed_messages_of_rabbitmq_are_rows(
    tmp_path: Path, redis_url: str, rabbitmq_url: str
) -> None:
    """The same out of RabbitMQ: each message is one row, none is left in the queue when its worker
    has ended, and sound tasks run."""
    database = f"sqlite:///{tmp_path / 'dead.sqlite'}"
    with fleet_of(tmp_path, rabbitmq_url, redis_url, database, module=MODULE) as fleet:
        worker = fleet.worker("prefork")
        sent: list[Sent] = []
        for what, changes, _ in MALFORMED:
            if what in NOT_IN_AMQP or changes.keys() & {"properties", "content_type"}:
                continue
            for task in (GOVERNED, ONCE, UNGOVERNED):
                base = sound(task)
                headers = {**base.headers, **changes.get("headers", {})}
                sent.append(Sent(headers, changes.get("body", base.body)))
        good = [sound(task, number + 1) for number, task in enumerate((GOVERNED, ONCE, UNGOVERNED))]
        with fleet.app.connection_for_write() as connection:
            producer = connection.Producer()
            for each in [*sent, *good]:
                producer.publish(
                    each.body, headers=each.headers, content_type=each.content_type,
                    content_encoding=each.content_encoding, exchange="", routing_key=QUEUE,
                )  # fmt: skip
            wait_until(lambda: len(fleet.dead()) >= len(sent) and len(fleet.ledger()) == len(good))
            assert len(fleet.dead()) == len(sent)
            worker.terminate()
            queue = connection.default_channel.queue_declare(QUEUE, passive=True)
            assert queue.message_count == 0
