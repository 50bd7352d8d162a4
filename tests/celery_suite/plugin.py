"""A pytest plugin that puts a governor on every app that Celery's own tests create.

The variant stands in ``$CELERY_SUITE_VARIANT``; see :data:`tests.celery_suite.outcomes.VARIANTS`.
What became of each test is appended to ``$CELERY_SUITE_OUTCOMES``.
"""

from __future__ import annotations

import os
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from governor import GovernedTask, Governor, Limit, Upstream
from tests.celery_suite.outcomes import Outcome

VARIANT = os.environ.get("CELERY_SUITE_VARIANT", "plain")

PATIENCE = 6
"""Celery's tests wait so many times longer for a result: the machine may be busy."""

MADE_OF_MOCKS = "t/unit/worker/"
"""There Celery's tests put workers together from mocks, with no pool and no connection, and never
end them. Their apps are governed but for the worker's step, which the integration tests show."""

_of_mocks = False

RATES = {"slow": Limit("20/s", burst=1)}
FAST = Limit("10000/s", burst=1000)

upstream = Upstream("celery", RATES.get(VARIANT, FAST))


class IdempotentTask(GovernedTask):
    """The base class of every task whose declaration names no other."""

    abstract = True
    upstream = upstream
    idempotent = True


def govern_every_app() -> None:
    """From now on, each new app has a governor, as if its author had written ``Governor(app)``."""
    folder = os.environ["CELERY_SUITE_FOLDER"]
    conf: dict[str, Any] = {
        "governor_redis_url": os.environ["CELERY_SUITE_LIMITER"],
        "governor_database_url": f"sqlite:///{folder}/dead.sqlite",
        "governor_spill_dir": f"{folder}/spill",
    }
    if VARIANT == "routed":
        conf |= {"governor_routes": {"*": upstream.name}, "governor_upstreams": [upstream]}
    else:
        Celery.task_cls = IdempotentTask
    create = Celery.__init__

    @wraps(create)
    def create_governed(app: Celery, *args: Any, **kwargs: Any) -> None:
        create(app, *args, **kwargs)
        app.add_defaults(conf)
        steps = set(app.steps["consumer"])
        Governor(app)
        if _of_mocks:
            app.steps["consumer"] = steps

    Celery.__init__ = create_governed


class Recorder:
    """Writes down what became of each test, as soon as it is known: a run may be killed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outcome = Outcome.PASSED

    def _append(self, outcome: Outcome, test: str) -> None:
        with self._path.open("a") as file:
            file.write(f"{outcome} {test}\n")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._outcome = Outcome.PASSED
        self._append(Outcome.STARTED, nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._outcome = Outcome.FAILED
        elif report.skipped and self._outcome is Outcome.PASSED:
            self._outcome = Outcome.SKIPPED

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._append(self._outcome, nodeid)


def pytest_configure(config: pytest.Config) -> None:
    if path := os.environ.get("CELERY_SUITE_OUTCOMES"):
        config.pluginmanager.register(Recorder(Path(path)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note where the apps of a test are to be used."""
    global _of_mocks
    _of_mocks = item.nodeid.startswith(MADE_OF_MOCKS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lengthen the time-outs that the modules of Celery's integration tests declare."""
    modules = {item.module for item in items if isinstance(item, pytest.Function)}
    for module in modules:
        if isinstance(getattr(module, "TIMEOUT", None), int):
            module.TIMEOUT *= PATIENCE


if VARIANT != "plain":
    govern_every_app()
