"""Structured fields (RFC 9651): lists and dictionaries of items, all or nothing."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governor.headers.structured_fields import LONGEST_FIELD, Item, parse_dictionary, parse_list


@pytest.mark.parametrize(
    ("field", "items"),
    [
        ("", []),  # nothing
        ("  1 ,\t-2.5  ", [Item(1, {}), Item(Decimal("-2.5"), {})]),  # numbers, space around them
        (r'"say \"so\"", x/y', [Item('say "so"', {}), Item("x/y", {})]),  # a string and a token
        ("100;w=60;  fast", [Item(100, {"w": 60, "fast": True})]),  # parameters, one without value
        (":aGk:", [Item(b"hi", {})]),  # bytes without their padding, which need none
        ("1,", None),  # a comma too many
        ("9999999999999999", None),  # a digit more than an integer may have
        ('"ü"', None),  # beyond ASCII
        ("\ud800", None),  # what no encoding has
        ("@99999999999999", None),  # a date beyond the calendar
        ("1, (1 2)", None),  # an inner list, which nobody needs here
        ("limit=100, remaining=50", None),  # a dictionary
        ("1, " * 1000 + "1", None),  # longer than is looked at
    ],
)
def test_a_list(field: str, items: list[Item] | None) -> None:
    """A list of items is read whole, or not at all."""
    assert parse_list(field) == items


@pytest.mark.parametrize(
    ("field", "members"),
    [
        ("", {}),  # nothing
        ("a=1;w=2, b", {"a": Item(1, {"w": 2}), "b": Item(True, {})}),  # with a parameter; bare
        ("a=1, a=2", {"a": Item(2, {})}),  # a key twice: the last one
        ("a=1, b=(1 2)", None),  # an inner list
        ("Limit=100", None),  # a capital
    ],
)
def test_a_dictionary(field: str, members: dict[str, Item] | None) -> None:
    """A dictionary of items is read whole, or not at all."""
    assert parse_dictionary(field) == members


@given(st.one_of(st.text(), st.text('abc=;,"\\:?@%()-.0129 \t')))
def test_no_text_raises(field: str) -> None:
    """Whatever is sent is members or nothing."""
    assert isinstance(parse_list(field), list | None)
    assert isinstance(parse_dictionary(field), dict | None)


@pytest.mark.timeout(5)
@pytest.mark.parametrize("start", ['"', ":", "a;" * 1000, '"\\', "1;w=1," * 300, "(", '%"', "@1"])
def test_a_hostile_field_takes_no_time(start: str) -> None:
    """The longest field that is looked at is read in linear time."""
    for filling in ("a", "\\", "A=", ",", " ", "1"):
        field = (start + filling * LONGEST_FIELD)[:LONGEST_FIELD]
        parse_list(field)
        parse_dictionary(field)
