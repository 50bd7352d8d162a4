"""The shape of the code, as rules that fail: what may import what, what reads a clock, how large a
module is, how often a name is declared, and that each module has a test.

Layers are checked by ``lint-imports`` (``pyproject.toml``), exhaustively: a new module belongs in
one. A list of exceptions below holds reasons; an exception that is no longer needed fails too.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = ROOT / "governor"

PURE = ("policy", "headers", "keys.py", "errors.py")
"""Places whose modules compute and do nothing else."""

ARITHMETIC = {
    "__future__", "collections", "copy", "dataclasses", "datetime", "decimal", "difflib", "email",
    "enum", "fractions", "functools", "hashlib", "inspect", "itertools", "json", "math", "re",
    "sysconfig", "traceback", "types", "typing", "zoneinfo",
}  # fmt: skip
"""The standard library's modules that pure code may import: none reads a clock, a file, the
network, chance or the environment while a decision is made."""

PURE_LIBRARIES = {
    "click": "an error that ends a command is one of its own, so that the sentence alone is shown",
    "tenacity": "its strategies are arithmetic; its loop, which sleeps, is not used",
    "http_sf": "parses structured fields of RFC 9651",
}

CELERY = {
    "worker": "the interface to Celery",
    "demo": "runs Celery apps and workers of its own",
    "calls.py": "an upstream is called in a task, whose app it asks for",
    "http.py": "its transports take the app they belong to",
    "governor.py": "the composition root: it is made for one app",
    "producer": "the publish hook",
    "redis_address.py": "reads a broker's address as kombu does",
    "redaction/argument_reprs.py": "argument reprs look as Celery's own do",
    "cli/environment.py": "finds the app as `celery -A` does",
}
"""Where Celery, kombu and billiard are imported: a folder or a module, and why."""

CLOCKS = {
    "clock.py": "the reader of clocks",
    "demo": "measures the governor from outside",
}

READS_A_CLOCK = {
    "time": {
        "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns",
        "localtime", "gmtime",
    },
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}  # fmt: skip

MOST_LINES = {"worker": 300, "": 400}

DRIVEN_BY = {
    "admission/blocking.py": "unit/test_calls.py",
    "admission/corrections.py": "unit/test_http.py",
    "calls.py": "unit/test_calls.py",
    "cli/dead_replay.py": "unit/test_cli_dead.py",
    "cli/demo.py": "acceptance/test_demo.py",
    "cli/doctor/application.py": "integration/test_doctor.py",
    "cli/doctor/dead_letters.py": "integration/test_doctor.py",
    "cli/doctor/finding.py": "integration/test_doctor.py",
    "cli/doctor/store.py": "integration/test_doctor.py",
    "cli/doctor/workers.py": "integration/test_doctor.py",
    "cli/limits_json.py": "unit/test_cli_limits.py",
    "cli/options.py": "unit/test_cli_limits.py",
    "cli/printing.py": "unit/test_cli_waiting.py",
    "cli/waiting_json.py": "unit/test_cli_waiting.py",
    "cli/waiting_view.py": "unit/test_cli_waiting.py",
    "deadletter/recording.py": "integration/test_deadletter_repository.py",
    "demo/broker.py": "acceptance/test_demo.py",
    "demo/worker.py": "acceptance/test_demo.py",
    "demo/workload.py": "acceptance/test_demo.py",
    "events/emitter.py": "unit/test_telemetry.py",
    "events/tasks.py": "unit/test_telemetry.py",
    "events/upstreams.py": "unit/test_telemetry.py",
    "governor.py": "unit/test_eager.py",
    "headers/http_message.py": "unit/test_dialects.py",
    "headers/ietf.py": "unit/test_dialects.py",
    "operations/explain.py": "unit/test_cli_explain.py",
    "operations/limit_changes.py": "unit/test_cli_limits.py",
    "operations/parking_changes.py": "unit/test_cli_waiting.py",
    "operations/upstream_gauges.py": "unit/test_fleet_gauges.py",
    "producer/stamp.py": "unit/test_argument_reprs.py",
    "stores/memory_parking.py": "unit/test_memory_store.py",
    "stores/redis/damage.py": "integration/test_store_damage.py",
    "stores/redis/news.py": "integration/test_redis_store.py",
    "stores/redis/parking.py": "integration/test_redis_lot.py",
    "stores/redis/wire.py": "integration/test_redis_store.py",
    "stores/redis/wire_parking.py": "integration/test_redis_lot.py",
    "testing/conformance_claims.py": "unit/test_memory_store.py",
    "testing/conformance_harness.py": "unit/test_memory_store.py",
    "testing/conformance_rates.py": "unit/test_memory_store.py",
    "testing/conformance_upstream.py": "unit/test_memory_store.py",
    "testing/conformance_windows.py": "unit/test_memory_store.py",
    "worker/asking.py": "unit/test_dispatcher_claims.py",
    "worker/body.py": "unit/test_body.py",
    "worker/body_check.py": "unit/test_message_check.py",
    "worker/bootstep.py": "integration/test_worker.py",
    "worker/declaration_check.py": "unit/test_declarations.py",
    "worker/description.py": "unit/test_dispatcher_claims.py",
    "worker/entrance.py": "unit/test_message_check.py",
    "worker/envelopes.py": "unit/test_message_check.py",
    "worker/handover.py": "unit/test_every_end.py",
    "worker/ownership.py": "unit/test_every_end.py",
    "worker/pace.py": "unit/test_prefetch.py",
    "worker/reception.py": "unit/test_message_check.py",
    "worker/resending.py": "unit/test_every_end.py",
    "worker/revocation.py": "unit/test_cli_waiting.py",
    "worker/value_check.py": "unit/test_message_check.py",
    "worker/waiting.py": "unit/test_dispatcher_simulated.py",
}
"""Modules that no test imports: which test module drives each, through what it does import."""

PRONOUNS = ("Who", "Whoever", "What", "Whatever", "Those", "Whether", "It")


Code = Mapping[str, str]
"""Sources by their path within the package."""


@cache
def governor() -> Code:
    """The whole package."""
    return {str(path.relative_to(CODE)): path.read_text() for path in sorted(CODE.rglob("*.py"))}


@cache
def parsed(source: str) -> ast.Module:
    return ast.parse(source)


def imports(source: str) -> Iterator[str]:
    """The dotted names that a module imports, wherever in it."""
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def place(path: str, places: Iterable[str]) -> str | None:
    """The one of these folders and modules that a module is, or is in."""
    return next((at for at in places if path == at or path.startswith(f"{at}/")), None)


# ------------------------------------------------------------------ the checks: path, what is there


def imported_by_pure_code(code: Code) -> set[tuple[str, str]]:
    """The packages that pure modules import."""
    return {
        (path, name.partition(".")[0])
        for path, source in code.items()
        if place(path, PURE)
        for name in imports(source)
    }


def importers_of_celery(code: Code) -> set[tuple[str, str]]:
    """The modules that import Celery or one of its libraries."""
    packages = {"celery", "kombu", "billiard", "amqp", "vine"}
    return {
        (path, name)
        for path, source in code.items()
        for name in imports(source)
        if name.partition(".")[0] in packages
    }


def readers_of_clocks(code: Code) -> set[tuple[str, str]]:
    """The modules that read a clock of the machine."""
    return {
        (path, f"line {node.lineno}")
        for path, source in code.items()
        for node in ast.walk(parsed(source))
        if reads_a_clock(node)
    }


def reads_a_clock(node: ast.AST) -> bool:
    """Tell whether this is ``time.monotonic`` or the like, or takes it out of its module."""
    match node:
        case ast.Attribute(value=ast.Name(id=owner) | ast.Attribute(attr=owner), attr=name):
            return name in READS_A_CLOCK.get(owner, ())
        case ast.ImportFrom(module="time", names=names):
            return any(each.name in READS_A_CLOCK["time"] for each in names)
        case _:
            return False


def declared_twice(code: Code) -> set[tuple[str, str]]:
    """Names of classes that several modules declare, or one twice."""
    found = [
        (path, node.name)
        for path, source in code.items()
        for node in ast.walk(parsed(source))
        if isinstance(node, ast.ClassDef)
    ]
    often = Counter(name for _, name in found)
    return {(path, name) for path, name in found if often[name] > 1}


def too_long(code: Code) -> set[tuple[str, str]]:
    """Modules longer than they may be."""
    return {
        (path, f"{length} lines")
        for path, source in code.items()
        if (length := source.count("\n")) > MOST_LINES.get(path.partition("/")[0], MOST_LINES[""])
    }


def without_subject(code: Code) -> set[tuple[str, str]]:
    """Docstrings of modules, classes, functions and constants whose first sentence has no noun."""
    return {
        (path, f"line {node.lineno}: {text.strip().splitlines()[0]}")
        for path, source in code.items()
        for node in ast.walk(parsed(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(text := node.value.value, str) and text.strip()
        if text.split()[0].rstrip(",:;.'’s") in PRONOUNS
    }


# ------------------------------------------------------------------ the rules


def test_policy_is_pure() -> None:
    """Decisions and readings import nothing that acts: no Redis, Celery or SQL, no clock, no
    chance, no file."""
    allowed = ARITHMETIC | PURE_LIBRARIES.keys() | {"governor"}
    used = imported_by_pure_code(governor())
    assert {each for each in used if each[1] not in allowed} == set()
    assert allowed - {name for _, name in used} == set(), "allowed, and not needed"


def test_celery_is_imported_at_the_edges() -> None:
    """Celery and kombu appear only in the places named above, each of which does import them."""
    found = importers_of_celery(governor())
    assert {each for each in found if place(each[0], CELERY) is None} == set()
    assert CELERY.keys() - {place(path, CELERY) for path, _ in found} == set(), "not needed"


def test_only_the_clock_reads_a_clock() -> None:
    """Time is an argument: whatever needs it asks a ``Clock``, which tests replace."""
    found = readers_of_clocks(governor())
    assert {each for each in found if place(each[0], CLOCKS) is None} == set()
    assert CLOCKS.keys() - {place(path, CLOCKS) for path, _ in found} == set(), "not needed"


def test_no_class_name_is_declared_twice() -> None:
    """A name means one thing in the whole package."""
    assert declared_twice(governor()) == set()


def test_modules_are_short() -> None:
    """A module of the worker has at most 300 lines, another one 400."""
    assert too_long(governor()) == set()


def test_docstrings_have_a_subject() -> None:
    """The first sentence of a docstring names what it is about, or is an imperative."""
    assert without_subject(governor()) == set()


def test_every_module_has_a_test() -> None:
    """A test imports each module, or a test module named above drives it."""
    imported = {
        name for path in (ROOT / "tests").rglob("*.py") for name in imports(path.read_text())
    }
    names = {
        path: "governor." + path.removesuffix(".py").replace("/", ".")
        for path in governor()
        if Path(path).name != "__init__.py"
    }
    untested = {path for path, name in names.items() if name not in imported}
    assert untested - DRIVEN_BY.keys() == set()
    assert DRIVEN_BY.keys() - untested == set(), "imported by a test, or gone"
    assert {at for at in DRIVEN_BY.values() if not (ROOT / "tests" / at).exists()} == set()


FAULTS = [
    # A client of Redis, imported where it is needed only.
    (imported_by_pure_code, "policy/new.py", "def f():\n    import redis\n", "redis"),
    # Chance.
    (imported_by_pure_code, "headers/new.py", "from random import random\n", "random"),
    # A connection of kombu in a store.
    (importers_of_celery, "stores/new.py", "from kombu import Connection\n", "kombu"),
    # The wall clock, a monotonic clock, and a clock taken out of its module.
    (readers_of_clocks, "policy/new.py", "now = datetime.datetime.now(UTC)\n", "line 1"),
    (readers_of_clocks, "policy/new.py", "import time\nnow = time.monotonic()\n", "line 2"),
    (readers_of_clocks, "policy/new.py", "from time import monotonic as now\n", "line 1"),
    # A class of a name that exists.
    (declared_twice, "policy/new.py", "class Limit: ...\n", "Limit"),
    # One line too many, in the worker and elsewhere.
    (too_long, "worker/new.py", "x = 1\n" * 301, "301 lines"),
    (too_long, "policy/new.py", "x = 1\n" * 401, "401 lines"),
    # A function, a module and a constant that are not named.
    (
        without_subject,
        "policy/new.py",
        'def f():\n    """Whether it goes."""\n',
        "line 2: Whether it",
    ),
    (without_subject, "policy/new.py", '"""What it costs."""\n', "line 1: What it costs."),
    (without_subject, "policy/new.py", 'X = 1\n"""It is one."""\n', "line 2: It is one."),
]


@pytest.mark.parametrize(("check", "path", "source", "found"), FAULTS)
def test_each_check_finds_its_fault(
    check: Callable[[Code], set[tuple[str, str]]], path: str, source: str, found: str
) -> None:
    """A module with the fault in it, added to the package, is found."""
    before = check(governor())
    after = check({**governor(), path: source})
    assert any(at == path and found in what for at, what in after - before)
