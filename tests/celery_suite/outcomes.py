"""Outcomes of Celery's own tests in each variant, and the differences that may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path

VARIANTS = {
    "plain": "Celery alone",
    "idempotent": "every task has a base class with an upstream and idempotent=True",
    "routed": 'governor_routes = {"*": …}: every task is governed by its name',
    "slow": "as idempotent, at 20/s with a burst of 1",
}


class Outcome(StrEnum):
    """How a test ended; one that only started ended with its process."""

    STARTED = "started"
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Exemption:
    """A test that may fail in a variant, and why.

    Attributes:
        test: its id, or a pattern of ids.
        variant: one of :data:`VARIANTS`, or ``*`` for all.
        reason: why the difference is meant to be.
    """

    test: str
    variant: str
    reason: str

    def covers(self, test: str, variant: str) -> bool:
        """Tell whether this test may fail in this variant."""
        # Brackets are parameters of a test, not a pattern.
        pattern = self.test.replace("[", "[[]")
        return self.variant in {"*", variant} and fnmatchcase(test, pattern)


def read_outcomes(path: Path) -> dict[str, Outcome]:
    """Read what the plugin wrote; of several lines about a test, the last one counts."""
    lines = path.read_text().splitlines() if path.exists() else []
    pairs = (line.split(" ", 1) for line in lines)
    return {test: Outcome(outcome) for outcome, test in pairs}


def read_exemptions(text: str) -> list[Exemption]:
    """Read the table of ``exceptions.md``: test, variant, reason.

    Raises:
        ValueError: a row has no reason, or names an unknown variant.
    """
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("| `") or len(cells) != 3:
            continue
        test, variant, reason = cells
        if variant not in {"*", *VARIANTS} or not reason:
            raise ValueError(f"No variant, or no reason: {line}")
        found.append(Exemption(test.strip("`"), variant, reason))
    return found


def regressions(
    plain: Mapping[str, Outcome],
    governed: Mapping[str, Outcome],
    variant: str,
    exemptions: Iterable[Exemption],
) -> list[str]:
    """List the tests that pass plain, do not pass governed, and are not exempt."""
    exempt = list(exemptions)
    return [
        test
        for test, outcome in plain.items()
        if outcome is Outcome.PASSED
        and governed.get(test) is not Outcome.PASSED
        and not any(exemption.covers(test, variant) for exemption in exempt)
    ]


def unused(
    governed: Mapping[str, Outcome], variant: str, exemptions: Iterable[Exemption]
) -> list[Exemption]:
    """List the exemptions of a variant under which every test passed: they may go."""
    return [
        exemption
        for exemption in exemptions
        if exemption.variant in {"*", variant}
        and (covered := [o for t, o in governed.items() if exemption.covers(t, variant)])
        and all(outcome is Outcome.PASSED for outcome in covered)
    ]
