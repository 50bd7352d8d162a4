"""Messages that a broker may hand to a worker, most of which no producer of Celery's would send."""

from __future__ import annotations

import base64
import json
import os
import zlib
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from hypothesis import strategies as st

QUEUE = "celery"

EXAMPLES = int(os.environ.get("GOVERNOR_MALFORMED_EXAMPLES", "2000"))
"""Messages of each property test."""


@dataclass(frozen=True)
class Sent:
    """One message as it is published.

    Attributes:
        body: bytes, or any value that a broker which keeps JSON may hold.
    """

    headers: dict[str, Any]
    body: Any
    properties: dict[str, Any] = field(default_factory=dict)
    content_type: Any = "application/json"
    content_encoding: Any = "utf-8"

    def envelope(self) -> str:
        """The message as kombu keeps it in a list of Redis."""
        body, encoding = self.body, {}
        if isinstance(body, bytes):
            body, encoding = base64.b64encode(body).decode(), {"body_encoding": "base64"}
        route = {"exchange": "", "routing_key": QUEUE}
        properties = {"delivery_info": route, "priority": 0, **encoding, **self.properties}
        return json.dumps(
            {
                "body": body,
                "content-type": self.content_type,
                "content-encoding": self.content_encoding,
                "headers": self.headers,
                "properties": {**properties, "delivery_tag": str(uuid4())},
            }
        )


def sound(task: str, /, number: int = 0, **headers: Any) -> Sent:
    """A message as Celery sends it; ``headers`` are set beside or instead of its own."""
    own = {
        "lang": "py", "task": task, "id": str(uuid4()), "shadow": None, "eta": None,
        "expires": None, "group": None, "group_index": None, "retries": 0,
        "timelimit": [None, None], "root_id": None, "parent_id": None, "argsrepr": "()",
        "kwargsrepr": "{}", "origin": "gen1@host", "ignore_result": False,
        "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {}, "number": number,
    }  # fmt: skip
    return Sent({**own, **headers}, body([]))


def body(args: Any = (), kwargs: Any = None, **embed: Any) -> bytes:
    """The body of a message of protocol 2."""
    embedded = {"callbacks": None, "errbacks": None, "chain": None, "chord": None, **embed}
    return json.dumps([args, {} if kwargs is None else kwargs, embedded]).encode()


def deep(levels: int) -> bytes:
    """The body of a task whose argument is a list nested so deep."""
    return b'[["x", %s%s], {}, {}]' % (b"[" * levels, b"]" * levels)


_NAMES = [
    "id", "task", "root_id", "parent_id", "group", "group_index", "shadow", "retries", "timelimit",
    "argsrepr", "kwargsrepr", "origin", "lang", "ignore_result", "replaced_task_nesting",
    "stamped_headers", "stamps", "callbacks", "errbacks", "chain", "chord", "headers", "governor",
    "governor_run", "hostname", "delivery_info", "args", "kwargs", "is_eager", "called_directly",
    "get", "update", "_get_custom_headers", "as_execution_options", "_children", "children",
    "correlation_id", "reply_to", "properties", "redelivered", "compression", "loglevel", "utc",
    "taskset", "x-death", "meth", "errors", "__class__", "__dict__",
]  # fmt: skip
_PROPERTIES = [
    "priority", "correlation_id", "reply_to", "delivery_mode", "expiration", "message_id", "type",
    "app_id", "timestamp", "user_id", "content_type",
]  # fmt: skip

_NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([2**31, 2**53, 2**63, 2**64, -1, 10**30])
)
_TEXT = st.one_of(
    st.text(st.characters(), max_size=12),
    st.sampled_from(
        ["", "abc", "\ud800", "a\0b", "a\nb\x1b[31mc", "x" * 3_000, "{}", "null", "1", "\u202e"]
    ),
)
_LEAVES = st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXT)
VALUES = st.one_of(
    _LEAVES,
    st.recursive(
        _LEAVES,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(_TEXT, inner, max_size=4)
        ),
        max_leaves=8,
    ),
    st.integers(1, 300).map(lambda levels: json.loads("[" * levels + "]" * levels)),
)

# None of them lies in the future: a message that waits is not at its end.
_TIMES = st.one_of(
    st.sampled_from([
        "2020-01-01T00:00:00", "2020-01-01T00:00:00+00:00", "9999-12-31T23:59:59-14:00",
        "0001-01-01T00:00:00+14:00", "9999-12-31T24:00", "", "x", "2020-13-01", "\ud800",
    ]),
    VALUES.filter(lambda value: not isinstance(value, str)),
)  # fmt: skip

_TENANTS = st.one_of(VALUES, st.just("acme"))
_LIMITS = st.lists(st.one_of(st.none(), _NUMBERS, _TEXT), max_size=3)
_SIGNATURES = st.one_of(
    VALUES,
    st.lists(st.fixed_dictionaries({"task": VALUES}), max_size=2),
    st.fixed_dictionaries({"task": VALUES}),
)
_GOVERNOR = st.fixed_dictionaries(
    {"v": st.one_of(st.just(1), VALUES)},
    optional={
        name: st.one_of(VALUES, st.lists(VALUES, max_size=3))
        for name in ("upstream", "limits", "mid", "idem", "of", "give_up_at", "first", "deferrals",
                     "throttles", "slots", "began", "replay_of", "fair")
    },
)  # fmt: skip

_HEADERS = st.one_of(
    st.tuples(st.sampled_from(_NAMES), VALUES),
    st.tuples(_TEXT, VALUES),
    st.tuples(st.sampled_from(["eta", "expires"]), _TIMES),
    st.tuples(st.just("governor"), _GOVERNOR),
    st.tuples(st.just("timelimit"), _LIMITS),
    st.tuples(st.just("stamped_headers"), st.lists(VALUES, max_size=2)),
    st.tuples(st.sampled_from(["callbacks", "errbacks", "chain", "chord"]), _SIGNATURES),
)
_BODIES = st.one_of(
    st.binary(max_size=20),
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.lists(VALUES, min_size=3, max_size=3).map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda args, kwargs, embed: json.dumps([args, kwargs, embed]).encode(),
        st.one_of(VALUES, st.lists(_TENANTS, max_size=3)),
        st.one_of(VALUES, st.dictionaries(st.sampled_from(["tenant", "a", "self"]), _TENANTS)),
        st.one_of(
            VALUES,
            st.dictionaries(
                st.sampled_from([*_NAMES, "callbacks", "errbacks", "chain", "chord"]),
                _SIGNATURES, max_size=2,
            ),
        ),
    ),
    st.sampled_from([300, 495, 500, 700, 900, 950, 2_000]).map(deep),
    st.dictionaries(
        st.sampled_from(["task", "id", "args", "kwargs", "retries", "eta", "utc", "callbacks"]),
        VALUES,
    ).map(lambda value: json.dumps(value).encode()),
)  # fmt: skip
_TYPES = st.one_of(
    st.sampled_from([
        "application/json", "application/data", "application/text", "text/plain",
        "application/x-python-serialize", "application/x-yaml", "application/x-msgpack",
    ]),
    VALUES,
)  # fmt: skip


@st.composite
def malformed(draw: st.DrawFn, tasks: list[str]) -> Sent:
    """A sound message after up to four changes, each of one header, property or of the body."""
    sent = sound(draw(st.sampled_from(tasks)))
    for what in draw(st.lists(st.sampled_from("hhhhhdpbbc"), max_size=4)):
        headers = dict(sent.headers)
        if what == "h":
            name, value = draw(_HEADERS)
            headers[name] = value
            sent = replace(sent, headers=headers)
        elif what == "d":
            headers.pop(draw(st.sampled_from(["id", "task", "retries", "argsrepr"])), None)
            sent = replace(sent, headers=headers)
        elif what == "p":
            name = draw(st.sampled_from([*_PROPERTIES, "delivery_info"]))
            value = draw(VALUES)
            if name == "delivery_info":
                value = {"exchange": value, "routing_key": draw(VALUES)}
            sent = replace(sent, properties={**sent.properties, name: value})
        elif what == "b":
            sent = replace(sent, body=draw(st.one_of(_BODIES, VALUES)))
        elif draw(st.booleans()):
            sent = replace(sent, content_type=draw(_TYPES))
        elif draw(st.booleans()) and isinstance(sent.body, bytes):
            headers["compression"] = "application/x-gzip"
            sent = replace(sent, headers=headers, body=zlib.compress(sent.body))
        else:
            sent = replace(sent, content_encoding=draw(VALUES))
    return sent
