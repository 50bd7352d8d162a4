"""The comparison of Celery's own tests, plain and governed, must find a difference."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.celery_suite.outcomes import (
    Exemption,
    Outcome,
    read_exemptions,
    read_outcomes,
    regressions,
    unused,
)

PASSED, FAILED, SKIPPED, STARTED = Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED, Outcome.STARTED


@pytest.mark.parametrize("outcome", [FAILED, SKIPPED, STARTED, None])
def test_what_passes_plain_must_pass_governed(outcome: Outcome | None) -> None:
    """A test that fails, is skipped, takes its process along or does not run at all differs."""
    governed = {} if outcome is None else {"a": outcome}
    assert regressions({"a": PASSED, "b": FAILED}, governed, "routed", []) == ["a"]


def test_an_exemption_is_for_its_variant() -> None:
    """A test that is exempt in one variant is not exempt in another."""
    exempt = [Exemption("t/x.py::a[1]", "routed", "why")]
    plain, governed = {"t/x.py::a[1]": PASSED}, {"t/x.py::a[1]": FAILED}
    assert not regressions(plain, governed, "routed", exempt)
    assert regressions(plain, governed, "slow", exempt) == ["t/x.py::a[1]"]


def test_an_exemption_that_is_not_needed_is_named() -> None:
    """A pattern under which every test passes may go; one of another variant is not judged."""
    every, other = Exemption("t/*", "*", "why"), Exemption("t/*", "slow", "why")
    assert unused({"t/a": PASSED}, "routed", [every, other]) == [every]
    assert not unused({"t/a": PASSED, "t/b": FAILED}, "routed", [every])


def test_the_last_line_about_a_test_counts(tmp_path: Path) -> None:
    """A test that only started is known as such: its process ended with it."""
    path = tmp_path / "outcomes"
    assert not read_outcomes(path)
    path.write_text("started t/a.py::one[x y]\npassed t/a.py::one[x y]\nstarted t/a.py::two\n")
    assert read_outcomes(path) == {"t/a.py::one[x y]": PASSED, "t/a.py::two": STARTED}


def test_the_table_of_exceptions_is_read() -> None:
    """Each row names a test, a variant that there is, and a reason."""
    table = "| test | variant | reason |\n|---|---|---|\n| `t/a.py::b` | routed | so it is |\n"
    assert read_exemptions(table) == [Exemption("t/a.py::b", "routed", "so it is")]
    with pytest.raises(ValueError, match="No variant"):
        read_exemptions("| `t/a.py::b` | fast | so it is |")
    here = Path(__file__).parents[1] / "celery_suite" / "exceptions.md"
    read_exemptions(here.read_text())
