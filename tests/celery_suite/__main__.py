"""Run Celery's own tests plain and governed; end with 1 if a governor makes one fail.

::

    scripts/test-celery                                  # everything: more than an hour
    scripts/test-celery --part integration --variant routed --reuse-plain -- -k chord
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from governor.deadletter import schema
from governor.deadletter.engine import bounded_engine
from governor.testing.redis_server import PrivateRedis
from tests.celery_suite import environment
from tests.celery_suite.outcomes import (
    VARIANTS,
    Exemption,
    Outcome,
    read_exemptions,
    read_outcomes,
    regressions,
    unused,
)

PARTS = {
    "unit": ("t/unit",),
    "integration": ("t/integration/test_tasks.py", "t/integration/test_canvas.py"),
}
EXCEPTIONS = Path(__file__).with_name("exceptions.md")
LIMIT = "300"
"""Seconds after which a test counts as hanging."""

AGAIN = 2
"""Reruns of a failed test, by itself: Celery's own tests are not free of chance (upstream they have
up to five reruns), and a test that fails through a governor fails again."""


def run(name: str, variant: str, tests: list[str], more: list[str]) -> dict[str, Outcome]:
    """Run tests of Celery's in one variant, on servers of their own."""
    outcomes = environment.FOLDER / f"{name}.outcomes"
    outcomes.unlink(missing_ok=True)
    with (
        TemporaryDirectory(prefix="celery-suite-") as folder,
        PrivateRedis(_made(folder, "broker")) as broker,
        PrivateRedis(_made(folder, "limiter")) as limiter,
        (environment.FOLDER / f"{name}.log").open("w") as log,
    ):
        database = bounded_engine(f"sqlite:///{folder}/dead.sqlite")
        schema.upgrade(database)
        database.dispose()
        env = {
            **os.environ,
            "PYTHONPATH": str(environment.ROOT),
            "CELERY_SUITE_VARIANT": variant,
            "CELERY_SUITE_LIMITER": limiter.url,
            "CELERY_SUITE_FOLDER": folder,
            "CELERY_SUITE_OUTCOMES": str(outcomes),
            "TEST_BROKER": broker.url,
            "TEST_BACKEND": broker.url,
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(broker.port),
        }
        command = [
            str(environment.PYTHON), "-m", "pytest", "-v", "-rfE",
            "--continue-on-collection-errors",
            "-p", "no:cacheprovider", "-p", "tests.celery_suite.plugin", "--timeout", LIMIT,
            *more, *tests,
        ]  # fmt: skip
        subprocess.run(
            command, cwd=environment.SOURCE, env=env, stdout=log, stderr=log, check=False
        )
    return read_outcomes(outcomes)


def _made(folder: str, name: str) -> Path:
    made = Path(folder) / name
    made.mkdir()
    return made


def compare(
    part: str, variant: str, plain: dict[str, Outcome], more: list[str],
    exemptions: list[Exemption],
) -> bool:  # fmt: skip
    """Run a part in a variant, say what differs from plain, and whether nothing does."""
    governed = run(f"{part}-{variant}", variant, list(PARTS[part]), more)
    failed = regressions(plain, governed, variant, exemptions)
    doubted = failed
    for number in range(1, AGAIN + 1):
        if not doubted:
            break
        again = run(f"{part}-{variant}-again-{number}", variant, doubted, [])
        doubted = [test for test in doubted if again.get(test) is not Outcome.PASSED]
    _say(part, variant, governed)
    for test in failed:
        print(f"    {'FAILS' if test in doubted else 'passed when run again'}: {test}", flush=True)
    for exemption in unused(governed, variant, exemptions):
        print(f"    exception not needed: {exemption.test} ({exemption.variant})", flush=True)
    return not doubted


def _say(part: str, variant: str, outcomes: dict[str, Outcome]) -> None:
    count = list(outcomes.values()).count
    figures = ", ".join(f"{count(each)} {each}" for each in Outcome if count(each))
    print(f"{part}, {variant} ({VARIANTS[variant]}): {figures or 'nothing ran'}", flush=True)


def main() -> int:
    """Compare what the command line asks for."""
    governed = [name for name in VARIANTS if name != "plain"]
    parser = argparse.ArgumentParser(
        prog="scripts/test-celery",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--variant", action="append", choices=governed)
    parser.add_argument(
        "--reuse-plain", action="store_true", help="take the plain outcomes of the last run"
    )
    parser.add_argument("pytest", nargs="*", help="further arguments of pytest, after --")
    asked = parser.parse_args()
    environment.prepare()
    exemptions = read_exemptions(EXCEPTIONS.read_text())
    clean = True
    for part in asked.part or PARTS:
        kept = environment.FOLDER / f"{part}-plain.outcomes"
        if asked.reuse_plain and kept.exists():
            plain = read_outcomes(kept)
        else:
            plain = run(f"{part}-plain", "plain", list(PARTS[part]), asked.pytest)
        _say(part, "plain", plain)
        for variant in asked.variant or governed:
            clean &= compare(part, variant, plain, asked.pytest, exemptions)
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
