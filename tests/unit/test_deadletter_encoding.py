"""Headers and properties as text, and back."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governor.deadletter.encoding import Lost, decode, encode

EXACT = [
    # What JSON holds by itself.
    ({"a": [1, 2.5, None, True, "x"]}, "plain values"),
    ({"n": 2**63, "m": -(2**64)}, "integers beyond 64 bits"),
    ({"b": b"\x00\xff", "e": b""}, "bytes"),
    ({"f": math.inf, "g": -math.inf}, "floats JSON has no word for"),
    ({"t": datetime(2025, 6, 1, 12, 0, 0, 123456, UTC)}, "an aware time to the microsecond"),
    ({"t": datetime(2025, 6, 1, tzinfo=timezone(timedelta(hours=5, minutes=45)))}, "an offset"),
    ({"t": datetime(2025, 6, 1)}, "a naive time stays naive"),
    ({"d": date(2025, 6, 1), "t": time(1, 2, 3)}, "dates and times of day"),
    ({"d": timedelta(days=-1, microseconds=7)}, "durations, negative ones too"),
    ({"d": Decimal("1.10")}, "decimals keep their zeros"),
    ({"u": UUID(int=5)}, "UUIDs"),
    ({"t": (1, (2, [3]))}, "tuples stay tuples, inside too"),
    ({1: "a", None: "b", b"k": {"deep": {2: 3}}}, "keys that are no text"),
    ({"!bytes": "not a tag"}, "a user's key that looks like ours"),
    ({"nul": "\x00", "half": "\ud800", "esc": "\x1b[2J"}, "characters databases refuse"),
    ({}, "nothing"),
]


@pytest.mark.parametrize(("value", "words"), EXACT, ids=[words for _value, words in EXACT])
def test_values_come_back_exactly(value: object, words: str) -> None:
    """What is encoded as exact decodes to an equal value of the same type."""
    encoded = encode(value)
    assert encoded.exact, words
    assert encoded.text.isascii()
    back = decode(encoded.text)
    assert back == value
    assert repr(back) == repr(value)  # True is not 1, a tuple is not a list


def test_an_integer_beyond_pythons_digit_limit() -> None:
    """An integer that Python refuses to print in decimal is kept all the same."""
    assert decode(encode(-(10**5000)).text) == -(10**5000)


def test_nan_comes_back() -> None:
    """NaN, which is not equal to itself, is kept."""
    assert math.isnan(decode(encode({"x": math.nan}).text)["x"])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=4).map(tuple)
            | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
        ),
        max_leaves=20,
    )
)
def test_any_nesting_comes_back(value: object) -> None:
    """Whatever a header nests comes back with the same repr."""
    encoded = encode(value)
    assert encoded.exact
    assert repr(decode(encoded.text)) == repr(value)


def test_what_cannot_be_kept_is_named_and_stays_lost() -> None:
    """A value of an unknown type makes the text inexact, also after a round trip."""
    encoded = encode({"odd": object(), "fine": 1})
    assert not encoded.exact
    back = decode(encoded.text)
    assert back == {"odd": Lost("object"), "fine": 1}
    assert not encode(back).exact


def test_extreme_depth_is_no_error() -> None:
    """Headers 100,000 levels deep are recorded as not kept, without a RecursionError."""
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert not encode({"deep": deep}).exact
    while deep:  # taken apart by hand: its own destructor would recurse
        deep = deep.pop()  # type: ignore[assignment]


@pytest.mark.parametrize("text", ['{"!later":1}', "[1", ""])
def test_an_unknown_encoding_is_refused(text: str) -> None:
    """A text of another schema is an error, never a wrong value."""
    with pytest.raises(ValueError):
        decode(text)
