"""Which declared limit a report is about, and what it corrects."""

from __future__ import annotations

import pytest

from governor.clock import SECOND
from governor.headers.report import QuotaReport
from governor.policy import report_match
from governor.policy.adjustment import Adjustment
from governor.policy.limits import Concurrency, Limit, Quota, Rule, Window
from governor.testing.clock import START

HOUR = 3_600 * SECOND
DAY = 24 * HOUR


def report(limit: int | None, window: int | None = None, **said: object) -> QuotaReport:
    said = {"remaining": 1, **said}
    return QuotaReport("test", limit=limit, window=window, **said)  # type: ignore[arg-type]


def read(limits: list[Rule], *reports: QuotaReport, now: int = START) -> list[report_match.Said]:
    meters = [report_match.Meter(limit, limit, limit.key) for limit in limits]
    return list(report_match.read(meters, reports, now))


MINUTE = Window(100, per_seconds=60)
SECONDLY = Limit("10/s", burst=40)
DAILY = Quota(5000)
ALL: list[Rule] = [MINUTE, SECONDLY, DAILY, Concurrency(7)]
BURST, RATE = Limit("2/s", burst=40), Limit("300/min", burst=5)

# the limits, what the upstream reports, the limit it is about
MATCHES: list[tuple[list[Rule], QuotaReport, Rule | None]] = [
    # a window's number, and no word about its span
    (ALL, report(100), MINUTE),
    # its number and its span
    (ALL, report(100, 60 * SECOND), MINUTE),
    # its number and nearly its span
    (ALL, report(100, 55 * SECOND), MINUTE),
    # its number over another span, which happens to be the rate of a bucket
    (ALL, report(100, 10 * SECOND), SECONDLY),
    # its number over a span that is nobody's
    (ALL, report(100, 30 * SECOND), None),
    # so many calls that the log keeps them in groups: the number it keeps is meant
    ([Window(5001, per_seconds=60), BURST], report(5001), Window(5001, per_seconds=60)),
    # a bucket by its size
    (ALL, report(40, kind="bucket"), SECONDLY),
    # a bucket of another size
    (ALL, report(41, kind="bucket"), None),
    # a rate over a longer window
    (ALL, report(600, 60 * SECOND), SECONDLY),
    # the number of a rate, and no word about its period
    ([RATE, MINUTE], report(300), RATE),
    # a rate is not told from a number of another period
    (ALL, report(600, 30 * SECOND), None),
    # a quota by its number
    (ALL, report(5000), DAILY),
    # a quota that ends at the midnight at which ours does
    (ALL, report(5000, reset_after=DAY - 60 * SECOND), DAILY),
    # the number of the quota, but a window that starts over in a minute
    (ALL, report(5000, reset_after=60 * SECOND), None),
    # the number of the quota over an hour
    (ALL, report(5000, HOUR), None),
    # two limits that one number fits: who knows which?
    ([MINUTE, Window(100, per_seconds=3600)], report(100), None),
    # of those two, the span tells
    ([MINUTE, Window(100, per_seconds=3600)], report(100, 60 * SECOND), MINUTE),
    # the only limit there is: nothing else can be meant
    ([RATE], report(77), RATE),
    # the only one beside a concurrency limit, of which nobody reports
    ([MINUTE, Concurrency(7)], report(None, remaining=0), MINUTE),
    # the only limit is a quota: it would be gone for its whole period over another's number
    ([DAILY], report(None, remaining=0), None),
    # tokens are no calls
    ([RATE], report(300, unit="tokens"), None),
    # the upstream does not say how much is left
    ([RATE], report(300, remaining=None), None),
    # no limit declared
    ([], report(100), None),
]


@pytest.mark.parametrize(("limits", "said", "about"), MATCHES)
def test_which_limit_a_report_is_about(
    limits: list[Rule], said: QuotaReport, about: Rule | None
) -> None:
    """A report is about the one limit with its numbers, or about the only limit."""
    buckets = [each.adjustment.charge.bucket for each in read(limits, said)]
    assert buckets == ([] if about is None else [about.key])


def test_two_unknown_reports_are_about_nothing() -> None:
    """With several reports nobody knows which of them the only limit is."""
    assert read([RATE], report(77), report(78)) == []


TENTH = SECOND // 10
# a limit, what is reported, what is used at least, tolerance, reset
USED: list[tuple[Rule, QuotaReport, int, int, int]] = [
    # a window: what is not left is used; five in a hundred are noise
    (MINUTE, report(100, remaining=30, reset_after=SECOND), 70, 5, SECOND),
    # nothing left of it: exactly, until its reset
    (MINUTE, report(100, remaining=0, reset_after=SECOND), 100, 0, SECOND),
    # as many as are on their way within the margin stay noise
    (Window(1000, per_seconds=10), report(1000, remaining=0), 1000, 5, 0),
    # no more than remains is left of a window that is declared smaller, or larger
    (MINUTE, report(2000, remaining=90), 10, 5, 0),
    (MINUTE, report(50, remaining=10), 90, 5, 0),
    # a quota, whole until its end
    (DAILY, report(5000, remaining=4000), 1000, 250, 0),
    (DAILY, report(5000, remaining=0), 5000, 0, 0),
    # a bucket: of the declared burst, less one, for what remains is rounded down
    (SECONDLY, report(40, remaining=10, kind="bucket"), 29, 2, 0),
    # more remains than the burst
    (RATE, report(300, remaining=200), 0, 2, 0),
    # nothing is left of a bucket: all of it is used, and it leaks
    (SECONDLY, report(40, remaining=0, kind="bucket", reset_after=4 * SECOND), 40, 2, 4 * SECOND),
    # twenty a second and more are on their way within the margin
    (Limit("100/s", burst=20), report(20, remaining=0, kind="bucket"), 20, 5, 0),
    # nothing is left of a window that the rate is meant for: nothing leaks before its reset
    (SECONDLY, report(600, 60 * SECOND, remaining=0, reset_after=9 * SECOND), 129, 2, 9 * SECOND),
    # that reset is rounded up to whole seconds: one may be nothing
    (SECONDLY, report(600, 60 * SECOND, remaining=0, reset_after=SECOND), 40, 2, SECOND),
]  # fmt: skip


@pytest.mark.parametrize(("limit", "said", "used", "tolerance", "reset"), USED)
def test_what_is_used(
    limit: Rule, said: QuotaReport, used: int, tolerance: int, reset: int
) -> None:
    """What is used at least, by what remains, and by how much the counts may differ."""
    ((found),) = read([limit], said)
    assert found == report_match.Said(
        Adjustment(limit.charge_on(limit.key, 1), 0, used, tolerance, reset), said.remaining == 0
    )


def test_a_bad_reset_does_not_stop_a_fleet_for_long() -> None:
    """A month until the reset counts as a day."""
    (found,) = read([RATE], report(None, remaining=0, reset_after=30 * DAY))
    assert found.adjustment.used is not None
    assert DAY - SECOND < found.adjustment.used * RATE.rate.interval() < DAY + 2 * SECOND


def test_the_numbers_in_force_are_corrected() -> None:
    """The declared numbers tell which limit is meant; those in force say what is used of it."""
    changed = MINUTE.with_numbers({"most": 50})
    (found,) = report_match.read(
        [report_match.Meter(MINUTE, changed, "w60")], [report(100, remaining=20)], 0
    )
    assert found.adjustment.charge == changed.charge_on("w60", 1)
    assert found.adjustment.used == 30
