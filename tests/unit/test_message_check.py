"""Check of each message, field by field; nothing of Celery's raises because of a message that
passes, from its strategy to the end of the body."""

from __future__ import annotations

import json
import logging
import pickle
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.app import trace
from celery.worker import state
from celery.worker.consumer import Consumer
from hypothesis import HealthCheck, given, settings
from kombu.message import Message

from governor.worker.message_check import MOST_DEPTH, MOST_TEXT, MOST_VALUES, problem_of
from tests.malformed_messages import EXAMPLES, Sent, body, deep, malformed, sound

ZONE = Celery(set_as_current=False).timezone
TASK = "known"
KNOWN = {TASK}


def message(sent: Sent, **options: Any) -> Message:
    """The message as kombu makes it of what a broker holds."""
    properties = {"delivery_info": {"exchange": "", "routing_key": "celery"}, **sent.properties}
    return Message(
        sent.body, content_type=sent.content_type, content_encoding=sent.content_encoding,
        headers=sent.headers, properties=properties, delivery_info=properties["delivery_info"],
        accept={"application/json"}, postencode="utf-8", **options,
    )  # fmt: skip


def problem(sent: Sent) -> str | None:
    return problem_of(message(sent), KNOWN, ZONE)


def with_headers(**headers: Any) -> Sent:
    return sound(TASK, **headers)


def with_body(found: Any) -> Sent:
    return Sent(sound(TASK).headers, found)


def with_properties(**properties: Any) -> Sent:
    return Sent(sound(TASK).headers, body(), properties)


def nested(levels: int) -> Any:
    return json.loads("[" * levels + "]" * levels)


SIGNATURE = {"task": "other", "args": [], "kwargs": {}, "options": {}}

# a message that Celery's own producers send, or that its workers run all the same
SOUND = [
    sound(TASK),
    with_headers(retries=3),
    with_headers(retries=None),
    with_headers(eta="2026-01-01T00:00:00+00:00", expires="2026-01-01T00:00:00"),
    with_headers(timelimit=[10, 5.5]),
    with_headers(timelimit=None),
    with_headers(stamped_headers=["tenant"], stamps={"tenant": ["a"]}),
    with_headers(group="g", group_index=3, root_id="r", parent_id="p", shadow="other name"),
    with_headers(argsrepr="x" * 10_000),
    with_headers(traceparent="00-1-2-01", baggage={"a": {"b": {"c": [1]}}}),
    with_headers(governor={"v": 1, "upstream": "api"}),
    with_headers(governor=5),
    with_headers(**{f"h{number}": number for number in range(5_000)}),
    with_headers(x="y" * 100_000),
    with_headers(x=nested(MOST_DEPTH)),
    with_headers(id="Ünïcödé"),
    with_body(body([1, "two"], {"three": 3})),
    with_body(body(callbacks=[SIGNATURE], errbacks=[SIGNATURE], chain=[SIGNATURE])),
    with_body(body(chord=SIGNATURE)),
    with_body(body(errbacks=["other"])),
    with_body(b"[[], {}, null]"),
    with_body(deep(300)),
    with_body(body([[{}] * 10_000])),
    with_properties(priority=9, correlation_id="c", reply_to="r", delivery_mode=2),
    Sent({}, json.dumps({"task": TASK, "id": "1", "args": [1], "kwargs": {"a": 1}}).encode()),
    Sent({}, json.dumps({"task": TASK, "id": "1"}).encode()),
    Sent({"task": TASK}, json.dumps({"id": "1", "args": [1], "kwargs": {}}).encode()),
]

# a message that is left to Celery, which notices by itself that it names no task, or cannot be read
LEFT = [
    sound("unknown", retries="abc"),
    with_body(b"{{{"),
    with_body(deep(5_000)),
    Sent(sound(TASK).headers, body(), content_type="application/x-python-serialize"),
    Sent({}, b"[]"),
    Sent({}, b'{"task": [1]}'),
    Sent({}, b'{"no": "task"}'),
]

# a message that nothing can be made of, and what its row says
MALFORMED = [
    (with_headers(id=None), "header id: missing"),
    (with_headers(id=5), "header id: int where text belongs"),
    (with_headers(id="\ud800"), "header id: a lone surrogate, which no encoding has"),
    (with_headers(id="x" * 2_000), "header id: longer than 1024 characters"),
    (with_headers(root_id=[]), "header root_id: a list where text belongs"),
    (with_headers(group={}), "header group: a mapping where text belongs"),
    (with_headers(task=[1]), "header task: a list where text belongs"),
    (with_headers(task="\ud800"), "header task: a lone surrogate, which no encoding has"),
    (with_headers(shadow=5), "header shadow: int where text belongs"),
    (with_headers(argsrepr=[1]), "header argsrepr: a list where text belongs"),
    (with_headers(retries="abc"), "header retries: 'abc' is no number of retries"),
    (with_headers(retries=[1]), "header retries: a list is no number of retries"),
    (with_headers(retries=float("nan")), "header retries: nan is no number of retries"),
    (with_headers(retries=float("inf")), "header retries: inf is no number of retries"),
    (with_headers(retries=-1), "header retries: -1 is no number of retries"),
    (with_headers(retries=2**63), "header retries: int is no number of retries"),
    (with_headers(retries=True), "header retries: True is no number of retries"),
    (with_headers(group_index="1"), "header group_index: '1' where a whole number belongs"),
    (
        with_headers(replaced_task_nesting="x"),
        "header replaced_task_nesting: 'x' where a whole number belongs",
    ),
    (
        with_headers(eta="9999-12-31T23:59:59-14:00"),
        "header eta: '9999-12-31T23:59:59-14:00' is no time that can be waited for (OverflowError)",
    ),
    (with_headers(eta="x"), "header eta: 'x' is no time that can be waited for (ValueError)"),
    (with_headers(eta=5), "header eta: 5 is no time that can be waited for (TypeError)"),
    (
        with_headers(expires=""),
        "header expires: '' is no time that can be waited for (AttributeError)",
    ),
    (with_headers(timelimit=5), "header timelimit: 5 where two numbers of seconds belong"),
    (with_headers(timelimit="x"), "header timelimit: 'x' where two numbers of seconds belong"),
    (with_headers(timelimit=[1]), "header timelimit: a list where two numbers of seconds belong"),
    (
        with_headers(timelimit=[float("nan"), None]),
        "header timelimit: a list where two numbers of seconds belong",
    ),
    (with_headers(stamped_headers=5), "header stamped_headers: 5 where a list of names belongs"),
    (
        with_headers(stamped_headers=[[]]),
        "header stamped_headers: a list where a list of names belongs",
    ),
    (with_headers(stamps=[1]), "header stamps: a list where a mapping belongs"),
    (with_headers(headers=5), "header headers: int where a mapping belongs"),
    (with_headers(callbacks=5), "header callbacks: int where a list of signatures belongs"),
    (with_headers(get=1), "header get: task.request needs the name for itself"),
    (with_headers(_children=1), "header _children: task.request needs the name for itself"),
    (
        with_headers(x=list(range(100_000))),
        f"headers: more than {MOST_VALUES} values",
    ),
    (
        with_headers(**{f"h{number}": 0 for number in range(100_000)}),
        f"headers: more than {MOST_VALUES} values",
    ),
    (with_headers(x="y" * 10**6), f"headers: more than {MOST_TEXT} characters"),
    (with_headers(**{"y" * 10**6: 1}), f"headers: more than {MOST_TEXT} characters"),
    (with_headers(x=nested(MOST_DEPTH + 1)), f"headers: nested deeper than {MOST_DEPTH} levels"),
    (with_properties(priority="high"), "property priority: 'high' where a whole number belongs"),
    (with_properties(priority=[1]), "property priority: a list where a whole number belongs"),
    (with_properties(reply_to=5), "property reply_to: int where text belongs"),
    (with_properties(correlation_id={}), "property correlation_id: a mapping where text belongs"),
    (with_properties(delivery_mode="x"), "property delivery_mode: 'x' is neither 1 nor 2"),
    (with_properties(delivery_mode=[]), "property delivery_mode: a list is neither 1 nor 2"),
    (
        with_properties(delivery_info={"exchange": [1]}),
        "delivery_info exchange: a list where text belongs",
    ),
    (
        Sent(sound(TASK).headers, body(), content_type=[1]),
        "property content_type: a list where text belongs",
    ),
    (
        Sent(sound(TASK).headers, body(), content_encoding=5),
        "property content_encoding: int where text belongs",
    ),
    (with_body(b""), "body: bytes where arguments, keyword arguments and options belong"),
    (with_body(b"[]"), "body: a list where arguments, keyword arguments and options belong"),
    (with_body(b"5"), "body: int where arguments, keyword arguments and options belong"),
    (
        with_body(b'{"a": 1}'),
        "body: a mapping where arguments, keyword arguments and options belong",
    ),
    (with_body(b'["abc", {}, {}]'), "body: arguments are text, and should be a list"),
    (with_body(b"[[], 1, {}]"), "body: keyword arguments are int, and should be a mapping"),
    (with_body(b'[[], {}, "abc"]'), "body: options are text, and should be a mapping"),
    (with_body(body(governor_run=1)), "body: 'governor_run' is no option of a task"),
    (with_body(body(id="x")), "body: 'id' is no option of a task"),
    (with_body(body(callbacks="x")), "body callbacks: text where a list of signatures belongs"),
    (with_body(body(callbacks=["x"])), "body callbacks: a list where a list of signatures belongs"),
    (with_body(body(chain=[1])), "body chain: a list where a list of signatures belongs"),
    (with_body(body(chord="x")), "body chord: text where a signature belongs"),
    (with_body(deep(900)), "body: nested deeper than 500 levels"),
    (
        Sent({}, json.dumps({"task": TASK, "id": "1", "retries": "x"}).encode()),
        "field retries: 'x' is no number of retries",
    ),
    (
        Sent({}, json.dumps({"task": TASK, "id": "1", "args": 5}).encode()),
        "body: arguments are int, and should be a list",
    ),
    (
        Sent({"task": TASK}, json.dumps({"id": [], "args": []}).encode()),
        "header id: missing",
    ),
]


@pytest.mark.parametrize("sent", SOUND)
def test_a_sound_message_passes(sent: Sent) -> None:
    """A message that Celery runs has no problem."""
    assert problem(sent) is None


@pytest.mark.parametrize("sent", LEFT)
def test_what_celery_notices_by_itself_passes(sent: Sent) -> None:
    """A message of an unknown task, and one that cannot be decoded, is Celery's to name."""
    assert problem(sent) is None


@pytest.mark.parametrize(("sent", "told"), MALFORMED)
def test_a_malformed_message_is_told_by_its_field(sent: Sent, told: str) -> None:
    """The problem names the field and what is wrong with it, on one short line."""
    assert problem(sent) == told
    assert len(told) < 120


class PlainWorker:
    """Celery's own consumer up to the end of a body, without a governor: its handler, strategy,
    request, pickling for a process, tracer, and what it does with the result."""

    def __init__(self) -> None:
        app = Celery("plain", broker="memory://", backend="cache+memory://", set_as_current=False)

        @app.task(name=TASK, shared=False, acks_late=True)
        def known(*args: Any, **kwargs: Any) -> None:
            self.ran += 1

        self.ran = 0
        self.ended: list[str] = []
        self.app = app
        self.known = app.tasks
        consumer: Any = SimpleNamespace(
            app=app, hostname="plain@host", connection_errors=(OSError,), event_dispatcher=None,
            disable_rate_limits=True, task_buckets={}, strategies={}, on_task_message=set(),
            _maximum_prefetch_restored=True, restart_count=0, loop=None,
            timer=SimpleNamespace(call_at=lambda eta, run, given, **_: eta + 0.5 and run(*given)),
            qos=SimpleNamespace(increment_eventually=int, decrement_eventually=int),
            controller=SimpleNamespace(state=state), pool=self, apply_eta_task=self.run,
            on_task_request=self.run, _limit_task=None, _limit_post_eta=None,
            _restore_prefetch_count_after_connection_restart=lambda *_: None,
            call_soon_ack=lambda call, *args: call(*args),
        )  # fmt: skip
        for name in ("on_unknown_message", "on_unknown_task", "on_invalid_task", "on_decode_error"):
            setattr(consumer, name, lambda *_: self.ended.append("hook"))
        trace.setup_worker_optimizations(app, "plain@host")
        Consumer.update_strategies(consumer)
        self.handle = Consumer.create_task_handler(consumer)

    def run(self, request: Any) -> None:
        request.execute_using_pool(self)

    def apply_async(
        self,
        target: Any,
        args: Any,
        callback: Any,
        accept_callback: Any,
        soft_timeout: Any,
        timeout: Any,
        **_: Any,
    ) -> None:
        for limit in (soft_timeout, timeout):
            assert limit is None or limit + 0.5 > limit
        accept_callback(1, 0.0)
        callback(target(*pickle.loads(pickle.dumps(args))))


@pytest.fixture(scope="module")
def plain() -> Any:
    worker = PlainWorker()
    yield worker
    trace.reset_worker_optimizations(worker.app)


@pytest.mark.timeout(120 + EXAMPLES // 100)
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(sent=malformed([TASK]))
def test_what_passes_makes_nothing_raise(plain: PlainWorker, sent: Sent) -> None:
    """A message without a problem goes through Celery's consumer, and to the end of its body,
    without an exception, and is let go once."""
    ended = plain.ended = []
    channel = SimpleNamespace(
        no_ack_consumers=None,
        basic_ack=lambda *_, **__: ended.append("ack"),
        basic_reject=lambda *_, **__: ended.append("reject"),
    )
    found = message(sent, channel=channel)
    if found.errors or problem_of(found, plain.known, ZONE) is not None:
        return
    logging.disable()
    try:
        with warnings.catch_warnings():
            # Of a body whose callback cannot be sent, which is a failure like others.
            warnings.simplefilter("ignore", RuntimeWarning)
            plain.handle(found)
    finally:
        logging.disable(logging.NOTSET)
    assert len(ended) == 1
