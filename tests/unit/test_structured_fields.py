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
        ("100", [Item(100, {})]),  # an integer
        ("-7", [Item(-7, {})]),  # a negative one
        ("1.5", [Item(Decimal("1.5"), {})]),  # a decimal
        ("  1 ,\t2  ", [Item(1, {}), Item(2, {})]),  # space around members
        ('"a b"', [Item("a b", {})]),  # a string
        (r'"say \"so\" \\"', [Item('say "so" \\', {})]),  # its two escapes
        ("per-min/x", [Item("per-min/x", {})]),  # a token
        ("?1, ?0", [Item(True, {}), Item(False, {})]),  # booleans
        (":aGk=:", [Item(b"hi", {})]),  # bytes
        ("100;w=60;  fast", [Item(100, {"w": 60, "fast": True})]),  # parameters, one without value
        ("1;a=1;a=2", [Item(1, {"a": 2})]),  # a parameter twice: the last one
        ('"x";pk=:aGk=:,"y"', [Item("x", {"pk": b"hi"}), Item("y", {})]),  # no space is needed
        ("999999999999999", [Item(999_999_999_999_999, {})]),  # the largest integer
        ("9999999999999999", None),  # one digit more
        ("1.2345", None),  # too many decimals
        ("1.", None),  # none
        ("1,", None),  # a comma too many
        (",1", None),  # in front
        ("1 2", None),  # none between
        ("1 ;w=2", None),  # a space before a parameter
        ("1;W=2", None),  # a capital in a key
        ("1;w=", None),  # a key without its value
        ('"open', None),  # an open string
        (r'"\n"', None),  # an escape that is none
        ('"ü"', None),  # beyond ASCII
        ("?2", None),  # no boolean
        (":aGk:", None),  # bytes without their padding
        ("(1 2)", None),  # an inner list, which nobody needs here
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
        ("limit=100, reset=5", {"limit": Item(100, {}), "reset": Item(5, {})}),  # two members
        ("a=1;w=2", {"a": Item(1, {"w": 2})}),  # with a parameter
        ("a, b;x", {"a": Item(True, {}), "b": Item(True, {"x": True})}),  # without a value
        ("a=1, a=2", {"a": Item(2, {})}),  # a key twice: the last one
        ("a=1 b=2", None),  # no comma
        ("Limit=100", None),  # a capital
        ('"a"=1', None),  # a string for a key
        ("a=", None),  # no value
    ],
)
def test_a_dictionary(field: str, members: dict[str, Item] | None) -> None:
    """A dictionary of items is read whole, or not at all."""
    assert parse_dictionary(field) == members


@given(st.one_of(st.text(), st.text('abc=;,"\\:?-.0129 \t')))
def test_no_text_raises(field: str) -> None:
    """Whatever is sent is members or nothing."""
    assert isinstance(parse_list(field), list | None)
    assert isinstance(parse_dictionary(field), dict | None)


@pytest.mark.timeout(5)
@pytest.mark.parametrize("start", ['"', ":", "a;" * 1000, '"\\', "1;w=1," * 300])
def test_a_hostile_field_takes_no_time(start: str) -> None:
    """The longest field that is looked at is read in linear time."""
    for filling in ("a", "\\", "A=", ",", " ", "1"):
        field = (start + filling * LONGEST_FIELD)[:LONGEST_FIELD]
        parse_list(field)
        parse_dictionary(field)
