"""Names of argument values, and of the buckets and lanes that are made of them."""

from __future__ import annotations

import enum
import json
import math
from collections import OrderedDict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import kombu.serialization
import pytest
from celery import Celery
from hypothesis import given, settings
from hypothesis import strategies as st

from governor import DeclarationError, GovernedTask, Governor, Limit, Upstream
from governor.keys import digest, name_of
from governor.messages.header import NAME, Header
from governor.policy.plan import CallPlan

AN_ID = UUID("12345678-1234-5678-1234-567812345678")
SURROGATE = "a\ud800b"


class Plan(str, enum.Enum):  # noqa: UP042 - its text is not its value
    PRO = "pro"


class Text(enum.StrEnum):
    PRO = "pro"


class Plain(enum.Enum):
    PRO = "pro"


class Number(enum.IntEnum):
    SEVEN = 7


class Pair(namedtuple("Pair", "left right")):
    __slots__ = ()


class Says:
    """Tells JSON what it is."""

    def __json__(self) -> list[str]:
        return ["pro"]


class Account:
    """Has no text of its own."""


# values that are one account, however they were sent
SAME: list[list[Any]] = [
    ["pro", Plan.PRO, Text.PRO, Plain.PRO, b"pro", bytearray(b"pro")],
    [7, "7", Number.SEVEN, 7.0, Decimal(7)],
    [[1, "a"], (1, "a"), Pair(1, "a"), ["1", "a"]],
    [["pro"], (Plan.PRO,), Says()],
    [{"a": 1, "b": [2]}, OrderedDict(b=(2,), a=1)],
    [{7: "x", None: "y", True: "z", 1.5: "w"}, {"7": "x", "null": "y", "true": "z", "1.5": "w"}],
    [AN_ID, str(AN_ID)],
    [Decimal("1.50"), "1.50"],
    [date(2026, 3, 1), "2026-03-01"],
    [datetime(2026, 3, 1, 9, tzinfo=UTC), "2026-03-01T09:00:00+00:00"],
    [frozenset({"a", "b"}), {"b", "a"}],
    [None, "None"],
    [0.0, -0.0, 0],
    [PurePosixPath("/a/b"), "/a/b"],
    [timedelta(hours=1), "1:00:00"],
]


@pytest.mark.parametrize("values", SAME)
def test_one_value_has_one_name(values: list[Any]) -> None:
    """A value that serializers deliver as different types has one name."""
    assert len({name_of(value) for value in values}) == 1


# values that are not one account
DIFFERENT: list[list[Any]] = [
    [["a,b"], ["a", "b"], "a,b", ["a", ["b"]]],
    [True, 1, "true", 1.5],
    [[1, 2], [2, 1], [12]],
    [{"a": 1}, {"a": 2}, {"b": 1}, ["a", 1]],
    ["Plan.PRO", Plan.PRO],
]


@pytest.mark.parametrize("values", DIFFERENT)
def test_different_values_have_different_names(values: list[Any]) -> None:
    """Two accounts never share a bucket because of how their values are written."""
    assert len({name_of(value) for value in values}) == len(values)


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def _circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


class Broken:
    def __str__(self) -> str:
        raise RuntimeError


NAMELESS = [
    Account(), Account, len, lambda: None, [Account()], {"a": Account()}, _nested(100_000),
    _circular(), iter(()), Broken(),
]  # fmt: skip


@pytest.mark.parametrize("value", NAMELESS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("field", ["per", "fair_by"])
def test_a_value_without_a_name_is_refused(value: Any, field: str) -> None:
    """A value whose text holds its address would be another account in each process."""
    limit = Limit("1/s", per="account" if field == "per" else None)
    upstream = Upstream("api", limit, fair_by="account" if field == "fair_by" else None)
    app = Celery("app", broker="memory://", set_as_current=False)
    app.conf.governor_redis_url = "redis://unused"
    Governor(app)

    @app.task(base=GovernedTask, upstream=upstream, shared=False)
    def pay(account: Any) -> None: ...

    with pytest.raises(DeclarationError, match="account") as caught:
        pay.apply_async((value,), serializer="pickle")
    assert caught.value.field == field
    assert caught.value.remedy


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.text(alphabet=st.characters())
    | st.sampled_from([Plan.PRO, Text.PRO, Number.SEVEN])
)
JSON_KEYS = st.text() | st.integers() | st.booleans() | st.none() | st.floats()
OFFSETS = st.builds(lambda m: timezone(timedelta(minutes=m)), st.integers(-1_439, 1_439))
RICH = (
    SCALARS
    | st.binary()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.datetimes()
    | st.datetimes(timezones=OFFSETS)
    | st.times()
)


def _containers(leaves: Any, keys: Any) -> Any:
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner, max_size=4)
        ),
        max_leaves=8,
    )


PICKLED = _containers(
    RICH | st.sampled_from([Plain.PRO, Fraction(1, 3)]) | st.frozensets(SCALARS), JSON_KEYS
)
SENT = {
    "json": _containers(RICH, JSON_KEYS),
    "pickle": PICKLED,
    "msgpack": _containers(st.none() | st.booleans() | st.text() | st.binary(), st.text()),
    "yaml": _containers(st.none() | st.booleans() | st.text() | st.dates(), st.text()),
}


@pytest.mark.parametrize("serializer", SENT)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_name_survives_the_serializer(serializer: str, data: st.DataObject) -> None:
    """Producer and worker name the same bucket, whatever the serializer made of the value."""
    value = data.draw(SENT[serializer])
    try:
        content_type, encoding, body = kombu.serialization.dumps(value, serializer)
    except (kombu.exceptions.SerializerNotInstalled, kombu.exceptions.EncodeError):
        return
    delivered = kombu.serialization.loads(body, content_type, encoding, accept=[content_type])
    assert name_of(delivered) == name_of(value)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters()) | PICKLED)
def test_a_name_can_be_sent_anywhere(value: Any) -> None:
    """A name is text that Redis, AMQP, a terminal and a log take."""
    name = name_of(value)
    name.encode()
    assert name_of(name) == name
    assert len(digest(name)) == 11


def test_what_had_a_name_keeps_it() -> None:
    """Texts and numbers are their own names, so that --key account=acme finds their bucket."""
    assert [name_of(value) for value in ("acme", 7, "Ünï", math.inf)] == ["acme", "7", "Ünï", "inf"]
    assert digest("acct-1") == digest(name_of("acct-1"))


def test_a_lone_surrogate_is_a_tenant() -> None:
    """A tenant's name that no text encoding knows is escaped on the message and from there on."""
    upstream = Upstream("api", Limit("1/s"), fair_by="account", weights={SURROGATE: 3})
    plan = CallPlan.of("pay", upstream)
    tenant = plan.tenant((), {"account": SURROGATE})
    assert tenant == r"a\ud800b"
    assert upstream.weights == {tenant: 3}
    header = Header(upstream="api", fair=tenant).to_message()
    assert json.loads(json.dumps(header, ensure_ascii=False).encode()) == header
    # That of a producer that did not know: the worker names it anew.
    assert Header.from_message({NAME: {"v": 1, "fair": SURROGATE}}).fair is None


def test_a_clock_time_is_named_as_it_is_sent() -> None:
    """Times are named as JSON sends them."""
    assert name_of(time(9, 30)) == "09:30:00"
