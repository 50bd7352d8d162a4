"""The documentation says what the code does: its examples run, its tables are the code's."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from celery import Celery
from celery._state import _set_current_app

from governor import (
    Adaptive,
    Breaker,
    Concurrency,
    DeclarationError,
    GovernedTask,
    Governor,
    Limit,
    Quota,
    Retry,
    Throttled,
    Upstream,
    Window,
    __version__,
)
from governor.cli import dead, limits, waiting, waiting_work
from governor.cli.main import governor as command_line
from governor.clock import SECOND, micros, seconds
from governor.deadletter.models import State
from governor.errors import ConfigurationError
from governor.headers.dialects import DIALECTS
from governor.policy.decision import Admit, Ask, Reservation, Wait
from governor.policy.plan import CallPlan
from governor.policy.rate import Rate
from governor.policy.settlement import Settlement
from governor.ports import Reason
from governor.settings import PREFIX, Settings, load
from governor.stores.memory import MemoryStore
from governor.testing.clock import FakeClock
from governor.worker.lifecycle import TRANSITIONS, RequestState
from tests.integration.fleet import wait_until
from tests.servers.worker_process import WorkerProcess

ROOT = Path(__file__).resolve().parents[2]
RECORDS = sorted(ROOT.glob("docs/adr/0*.md"))
TEMPLATES = sorted(ROOT.glob(".github/**/*.md"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *TEMPLATES])
LOCAL_REDIS = "redis://localhost:6379/0"

_FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.M | re.S)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    found = _FENCE.findall(read(page))
    return [textwrap.dedent(code) for _, name, code in found if name == language]


def section(page: str, heading: str) -> str:
    """The text under one heading, up to the next of the same level or above."""
    level = heading.partition(" ")[0]
    _, found, rest = read(page).partition(f"\n{heading}\n")
    assert found, f"{page} has no heading {heading!r}"
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.M)[0]


def table(text: str) -> dict[str, list[str]]:
    """The first table: each row's first cell, without its backticks, and the other cells."""
    rows: dict[str, list[str]] = {}
    for line in text.splitlines():
        if not line.startswith("|"):
            if rows:
                break
            continue
        first, *rest = [cell.strip() for cell in line.strip("|").split("|")]
        if not set(first) <= set("-: "):
            rows[first.strip("`")] = rest
    return dict(list(rows.items())[1:])


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


# ---------------------------------------------------------------------- examples


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_example_compiles_and_its_imports_resolve(page: Path) -> None:
    """Each Python block is Python, and what it imports from installed packages is there."""
    for code in blocks(name(page), "python"):
        for node in ast.walk(ast.parse(code, name(page))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


@pytest.mark.redis
def test_the_readme_example_runs(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's task waits for its slot in a real Redis and makes its call with its key."""
    sent: list[dict[str, Any]] = []

    def post(url: str, **options: Any) -> httpx.Response:
        sent.append({"url": url, **options})
        return httpx.Response(200, json={"id": f"ch_{len(sent)}"})

    monkeypatch.setattr(httpx, "post", post)
    (code,) = blocks("README.md", "python")
    assert LOCAL_REDIS in code
    module = run(code.replace(LOCAL_REDIS, redis_url))
    module["app"].conf.governor_timeout = 10
    charge = module["charge"]
    results = [charge.apply(("acct_1", 100), task_id=f"order-{n}").get() for n in range(2)]
    assert results == ["ch_1", "ch_2"]
    assert [call["headers"] for call in sent] == [
        {"Idempotency-Key": "order-0"},
        {"Idempotency-Key": "order-1"},
    ]
    module["app"].governor.store.close()


@pytest.mark.redis
def test_the_examples_of_calls_run(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples of calls inside a task and outside a worker call, with a real Redis."""
    monkeypatch.setattr(httpx, "get", lambda *_, **__: httpx.Response(200, json={"at": 1}))
    reply = {"text": "hello", "usage": {"total_tokens": 900}}
    monkeypatch.setattr(httpx, "post", lambda *_, **__: httpx.Response(200, json=reply))
    code = "\n".join(blocks("docs/calls.md", "python"))
    assert LOCAL_REDIS in code
    module = run(code.replace(LOCAL_REDIS, redis_url))
    app = module["app"]
    app.set_current()
    assert module["look_up"]("here", "k1") == {"at": 1}
    module["import_all"](["here", "there"], "k1")
    assert module["found"] == {"here": {"at": 1}, "there": {"at": 1}}
    assert module["suggest"]("here", "k1") == {"at": 1}
    assert module["answer"]("a" * 40) == module["outline"]("b" * 40) == "hello"
    for part in ("session", "reading", "client"):
        module[part].close()
    app.governor.store.close()
    _set_current_app(None)


def test_the_arguments_of_a_call_are_documented() -> None:
    """The table of ``Upstream.call`` has its arguments with their defaults."""
    parameters = dict(inspect.signature(Upstream.call).parameters)
    del parameters["self"]
    rows = table(read("docs/calls.md"))
    assert list(rows) == list(parameters)
    for argument, (default, _) in rows.items():
        expected = parameters[argument].default
        shown = {"none": None, "–": inspect.Parameter.empty}
        assert expected == (shown[default] if default in shown else float(default))


def test_the_kinds_of_limits_that_reports_feed_are_documented() -> None:
    """The table of how reports feed the limits has a row for each kind that can be corrected, and
    one for the only limit there is."""
    rows = table(section("docs/upstream-answers.md", "## How they feed the limits"))
    kinds = [kind.__name__ for kind in (Window, Limit, Quota)]
    assert [row.strip("`") for row in rows][:3] == kinds
    assert len(rows) == 4


@pytest.mark.redis
@pytest.mark.worker
@pytest.mark.timeout(400)  # a dozen processes one after another
def test_the_quickstart_works(redis_url: str, tmp_path: Path) -> None:
    """Followed step by step, the quickstart ends with one dead letter that was resolved."""
    code = blocks("docs/quickstart.md", "python")[0]
    assert LOCAL_REDIS in code
    code = code.replace(LOCAL_REDIS, redis_url)
    (tmp_path / "shop.py").write_text(code, encoding="utf-8")

    def governor(arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from governor.cli.main import main; main()"]
        return subprocess.run(
            [*command, *shlex.split(arguments)[1:]],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    said = commands("docs/quickstart.md")
    upgrade, doctor, groups, listed, preview, replay = (
        next(line for line in said if words in line)
        for words in ("db upgrade", "doctor", "dead groups", "dead list", "--dry-run", "--confirm")
    )
    assert governor(upgrade).returncode == 0
    assert governor(doctor).returncode == 0, governor(doctor).stdout
    with WorkerProcess("shop", redis_url, directory=tmp_path, cwd=tmp_path):
        order = "from shop import ship; [ship.delay(number) for number in (1, 13, 2)]"
        subprocess.run([sys.executable, "-c", order], cwd=tmp_path, check=True, timeout=60)
        found = wait_until(lambda: governor(f"{groups} --json"), lambda done: done.returncode == 0)
    (group,) = json.loads(found.stdout)
    assert (group["task_name"], group["reason"]) == ("shop.ship", Reason.NOT_IDEMPOTENT)
    assert governor(listed).returncode == 0
    refused = governor(preview)
    assert refused.returncode == dead.REFUSED, refused.stderr
    assert "order == 13" in code
    (tmp_path / "shop.py").write_text(code.replace("order == 13", "False"), encoding="utf-8")
    with WorkerProcess("shop", redis_url, directory=tmp_path, cwd=tmp_path):
        assert governor(f"{replay} --yes").returncode == dead.DONE
        resolved = listed.replace("--state dead", "--state resolved")
        wait_until(lambda: governor(resolved), lambda done: done.returncode == dead.DONE)
    assert governor(groups).returncode == dead.NOTHING_MATCHED


def test_the_quickstart_declares_what_works() -> None:
    """All blocks of the quickstart together make one app whose declarations hold."""
    code = "\n".join(blocks("docs/quickstart.md", "python"))
    module = run(code)
    app = module["app"]
    app.finalize()
    for task in ("ship", "track", "label"):
        assert app.governor.governance(f"documentation.{task}").plan.upstream.name == "courier"
    assert app.governor.governance("vendor.tasks.sync").idempotent is False


def run(code: str) -> dict[str, Any]:
    """Run a block as a module of its own; returns its names."""
    module: dict[str, Any] = {"__name__": "documentation"}
    exec(compile(code, "documentation", "exec"), module)  # the documentation is ours
    return module


# ---------------------------------------------------------------------- commands


def commands(page: str) -> list[str]:
    """The lines of a page's shell blocks, without comments."""
    lines = "\n".join(blocks(page, "sh")).splitlines()
    return [line.partition(" #")[0].strip() for line in lines if line.strip()]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_exists(page: Path) -> None:
    """Each ``governor`` command line in a shell block is one, with options that it has."""
    for line in commands(name(page)):
        words = shlex.split(line)
        if words[0] != "governor":
            continue
        command: click.Command = command_line
        known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
        for word in words[1:]:
            if isinstance(command, click.Group) and word in command.commands:
                command = command.commands[word]
                known |= {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
            elif word.startswith("-"):
                assert word in known, f"{line}: no option {word}"
        assert not isinstance(command, click.Group), f"{line}: no such command"


def test_every_script_named_is_there() -> None:
    """The scripts that pages name exist and can be run."""
    named = {found for page in PAGES for found in re.findall(r"scripts/[\w-]+", page.read_text())}
    assert {"scripts/demo", "scripts/test"} <= named
    for script in [*named, "worker.sh"]:
        assert (ROOT / script).stat().st_mode & 0o111, script


GUIDES = [("dead", "docs/dead-letters.md"), ("db", "docs/dead-letters.md"),
          ("limits", "docs/limits.md"), ("waiting", "docs/waiting.md")]  # fmt: skip


def test_every_operators_command_is_documented() -> None:
    """The operator's guides show each command of ``dead``, ``db``, ``limits`` and ``waiting``."""
    for group, page in GUIDES:
        shown = "\n".join(commands(page))
        found = command_line.commands[group]
        assert isinstance(found, click.Group)
        for command in found.commands:
            assert f"{group} {command}" in shown, f"governor {group} {command}"


# ---------------------------------------------------------------------- tables


def test_every_setting_is_documented() -> None:
    """The table of settings and the settings have the same names; what is computed is no row."""
    page = section("docs/configuration.md", "## Settings")
    documented = set(table(page))
    known = {PREFIX + field.name for field in fields(Settings)}
    assert documented <= known
    assert known - documented == {name for name in known - documented if f"`{name}`, " in page}


def durations() -> Iterator[tuple[str, str, float, float]]:
    for setting, (default, unit, _) in table(
        section("docs/configuration.md", "## Settings")
    ).items():
        span = re.match(r"seconds, ([\d.]+) to ([\d.]+)", unit)
        if span:
            yield setting, default, float(span[1]), float(span[2])


@pytest.mark.parametrize(("setting", "default", "low", "high"), list(durations()))
def test_a_setting_has_the_documented_default_and_range(
    setting: str, default: str, low: float, high: float
) -> None:
    """The documented default is used, the range's ends are taken, what is beyond is refused."""
    patient = {"visibility_timeout": 10 * high}

    def value(given: float | None) -> int:
        conf: dict[str, Any] = {"broker_url": LOCAL_REDIS, setting: given}
        if given is not None:
            conf["broker_transport_options"] = patient
        return int(getattr(load(conf, [setting]), setting.removeprefix(PREFIX)))

    if default[0].isdigit():
        assert value(None) == micros(float(default))
    else:
        assert value(None) == 1800 * SECOND  # half of the visibility timeout's default
    assert [value(low), value(high)] == [micros(low), micros(high)]
    for beyond in (low - 0.001, high + 0.001):
        with pytest.raises(ConfigurationError, match=setting):
            value(beyond)


# a heading of the configuration page, what it documents
OPTIONS: list[tuple[str, Any]] = [
    ("## `Governor(app)`", Governor),
    ("## `Limit`", Limit),
    ("## `Window`", Window),
    ("## `Quota`", Quota),
    ("## `Concurrency`", Concurrency),
    ("## `Upstream`", Upstream),
    ("## `Breaker`", Breaker),
    ("## `Adaptive`", Adaptive),
    ("## `Retry`", Retry),
    ("## `GovernedTask`", GovernedTask),
    ("## `Throttled`", Throttled),
]


@pytest.mark.parametrize(("heading", "documented"), OPTIONS)
def test_every_option_is_documented(heading: str, documented: Any) -> None:
    """The options and their defaults on the page are those of the code."""
    if documented is GovernedTask:
        options = {
            option.removesuffix("_policy"): getattr(GovernedTask, option)
            for option in GovernedTask.__annotations__
        }
    else:
        parameters = inspect.signature(documented).parameters
        options = {option: p.default for option, p in parameters.items()}
    rows = table(section("docs/configuration.md", heading))
    assert list(rows) == list(options)
    for option, (default, _) in rows.items():
        expected = options[option]
        if default == "–":
            assert expected is inspect.Parameter.empty
        elif default == "none":
            assert expected is None
        elif default.strip("`")[0] in "0123456789(F":
            assert ast.literal_eval(default.strip("`")) == expected


def test_every_reason_is_documented() -> None:
    """The table of reasons is the closed list, in its order."""
    rows = table(section("docs/dead-letters.md", "## Reasons"))
    assert list(rows) == [reason.value for reason in Reason]


def test_every_dialect_is_documented() -> None:
    """The dialects of rate-limit headers, and the headers they are told by, are the table's."""
    rows = table(section("docs/upstream-answers.md", "## Dialects"))
    headers: dict[str, list[str]] = {}
    alone = {f"{dialect.name}` *" if dialect.alone else dialect.name for dialect in DIALECTS}
    for dialect in DIALECTS:
        headers.setdefault(dialect.name, []).extend(dialect.headers)
    assert set(rows) == alone
    for row, (told_by, _) in rows.items():
        shown = re.findall(r"`([^`]+)`", told_by.lower())
        assert shown == headers[row.removesuffix("` *")]


def test_the_example_of_rate_headers_holds() -> None:
    """What the page says is read from its headers is."""
    (code,) = blocks("docs/upstream-answers.md", "python")
    run(code)


def test_every_state_is_documented() -> None:
    """The states of a dead letter are those of the table, and each is in the diagram."""
    text = section("docs/state-machine.md", "## A dead letter")
    assert set(table(text)) == {state.value for state in State}
    edges = re.findall(r"^    (\S+) --> (\S+):", text, re.M)
    assert {state for edge in edges for state in edge} - {"[*]"} == {s.value for s in State}


def test_every_transition_of_a_request_is_documented() -> None:
    """The diagram has the transitions of the table in the code, and no other."""
    text = section("docs/state-machine.md", "## A task in a worker")
    drawn = set(re.findall(r"^    (\w+) --> (\w+):", text.split("```")[1], re.M))
    assert drawn == {
        (before.value, after.value) for before, to in TRANSITIONS.items() for after in to
    }
    named = {word for row in table(text) for word in row.split(", ")}
    assert named == {state.value for state in RequestState}


# a page, a group of commands, the codes that it returns
EXIT_CODES: list[tuple[str, click.Group, tuple[int, ...]]] = [
    ("docs/dead-letters.md", dead.dead, (
        dead.DONE, dead.SOME_FAILED, dead.USAGE, dead.REFUSED, dead.NOTHING_MATCHED, dead.CHANGED,
        dead.UNREACHABLE)),
    ("docs/limits.md", limits.limits, (
        limits.DONE, limits.USAGE, limits.NOTHING_MATCHED, limits.UNREACHABLE, limits.INTERRUPTED)),
    ("docs/waiting.md", waiting.waiting, (
        waiting.DONE, waiting_work.SOME_FAILED, waiting.USAGE, waiting.NOTHING_MATCHED,
        waiting.UNREACHABLE, waiting.INTERRUPTED)),
]  # fmt: skip


@pytest.mark.parametrize(("page", "group", "codes"), EXIT_CODES)
def test_every_exit_code_is_documented(
    page: str, group: click.Group, codes: tuple[int, ...]
) -> None:
    """The exit codes of a group of commands are the ones the code returns."""
    rows = table(section(page, f"## Exit codes of `governor {group.name}`"))
    assert list(rows) == [str(code) for code in codes]
    told = " ".join((group.help or "").split())
    for code, (meaning,) in rows.items():
        assert f"{code} {re.split('[;:,]', meaning)[0]}" in told


def test_the_layers_are_the_enforced_ones() -> None:
    """CONTRIBUTING shows the layers that the linter enforces, in its order."""
    (contract,) = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    (shown,) = blocks("CONTRIBUTING.md", "text")
    assert shown.split("\n")[:-1] == contract["layers"]


def test_the_changelog_names_this_version() -> None:
    """The version in the code has its entry."""
    assert __version__ in read("CHANGELOG.md")


# ---------------------------------------------------------------------- figures of guarantees.md


def charge(limit: Limit) -> Any:
    (charge,) = CallPlan.of("task", Upstream("api", limit)).charges((), {})
    return charge


def test_the_figures_of_the_guarantees() -> None:
    """The numbers worked out on the page are what the code computes."""
    page = read("docs/guarantees.md")
    burst = charge(Limit("100/s", burst=20))
    assert burst.capacity // burst.interval == 15
    assert "lets 15 calls through at once" in page
    assert Rate.parse("7000/s").interval() == 143
    assert SECOND // 143 == 6993
    assert "kept as 143, which is 6993/s" in page
    clock = FakeClock()
    store = MemoryStore(clock.wall)
    slow = charge(Limit("10/day", burst=10))
    first, second = (
        store.admit(Ask("api", (slow,), 0, 0, 0, 30 * 86_400 * SECOND)) for _ in range(2)
    )
    assert isinstance(first, Wait)
    assert isinstance(second, Wait)
    assert seconds(first.until - first.now) == seconds(second.until - first.until) == 2.4 * 3600
    assert "its first slot 2.4 hours after" in page
    defaults = load({"broker_url": LOCAL_REDIS}, [])
    assert f"`governor_grace` ({defaults.grace // 1000} ms)" in page
    assert f"`governor_claim_lease` ({defaults.claim_lease // SECOND} s)" in page
    assert f"remembered for {defaults.claim_keep // 3600 // SECOND} hours" in page
    assert Upstream("api").max_wait == 3600 * SECOND
    with pytest.raises(DeclarationError, match="acks_late"):
        declare(acks_late=False)


def declare(**options: Any) -> GovernedTask:
    """A governed task type with these options, as Celery makes it."""
    body = {"name": "task", "run": lambda self: None, "upstream": Upstream("api"), **options}
    app = Celery("declared", set_as_current=False)
    task: GovernedTask = app.register_task(type("Declared", (GovernedTask,), body))
    return task


# what is lost while a hundred tasks wait, the losses that count as k
LOSSES = [
    # nothing
    ("nothing", 0),
    # one bucket is evicted: it looks idle
    ("bucket", 1),
    # the whole state: buckets start full
    ("everything", 0),
]


@pytest.mark.parametrize(("lost", "k"), LOSSES)
def test_the_overshoot_bound(lost: str, k: int) -> None:
    """In any window W, calls ≤ B(1+k) + rW + 1, and those charged ahead before a loss."""
    rate, burst = 10, 5
    one = charge(Limit("10/s", burst=burst, margin=0))
    clock = FakeClock()
    store = MemoryStore(clock.wall)
    calls: list[int] = []

    hold = SECOND

    def arrive(reserved: tuple[Reservation, ...] = ()) -> tuple[Reservation, ...]:
        answer = store.admit(
            Ask("api", (one,), 0, hold, 10 * hold, 3600 * SECOND, reserved=reserved)
        )
        if isinstance(answer, Admit):
            calls.append(answer.now)
            return ()
        assert isinstance(answer, Wait)
        return answer.reserved

    store.settle(Settlement("api"))
    clock.advance(60 * SECOND)
    waiting = [slot for _ in range(100) if (slot := arrive())]
    assert len(calls) == burst
    if lost == "everything":
        store = MemoryStore(clock.wall)
    elif lost == "bucket":
        store._states["api"] = replace(store._states["api"], meters={})
    waiting += [slot for _ in range(100) if (slot := arrive())]
    while waiting:
        waiting.sort(key=lambda held: held[0].slot, reverse=True)
        held = waiting.pop()
        clock.advance(max(0, held[0].slot - clock.wall()))
        if again := arrive(held):
            waiting.append(again)
    assert len(calls) == 200
    for start in calls:
        for window in (SECOND // 2, SECOND, 5 * SECOND, 30 * SECOND):
            made = sum(start <= call < start + window for call in calls)
            old = rate * hold / SECOND if lost != "nothing" else 0
            assert made <= burst * (1 + k) + rate * window / SECOND + 1 + old


# ---------------------------------------------------------------------- links and paths


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_resolves(page: Path) -> None:
    """Each relative link leads to a file of the project, and to a heading of it."""
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert ROOT in found.parents, target
        if anchor:
            assert anchor in anchors(found), target


def test_every_test_named_exists() -> None:
    """A guarantee that names the test which shows it names one that there is."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/*/test_*.py"))
    defined = set(re.findall(r"^ *def (test_\w+)\(", code, re.M))
    named = {found for page in PAGES for found in re.findall(r"`(test_\w+)`", page.read_text())}
    assert named
    assert named <= defined, named - defined


def test_the_readme_links_to_every_page() -> None:
    """Nobody has to look for a page."""
    linked = {target.partition("#")[0] for target in _LINK.findall(read("README.md"))}
    elsewhere = {*map(name, RECORDS), *map(name, TEMPLATES)}
    assert {name(page) for page in PAGES} - elsewhere - {"README.md"} <= linked


def test_the_index_links_to_every_decision_record() -> None:
    """The index lists the records, and each has the same headings."""
    assert RECORDS
    linked = set(_LINK.findall(read("docs/adr/README.md")))
    for record in RECORDS:
        assert record.name in linked
        found = re.findall(r"^## (.+)$", record.read_text(encoding="utf-8"), re.M)
        assert found == ["Context", "Decision", "Consequences", "What was measured"], record.name


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_path_of_a_machine(page: Path) -> None:
    """The documentation names no place that is only on somebody's machine."""
    text = page.read_text(encoding="utf-8")
    for place in {str(ROOT), str(ROOT.parent), str(Path.home())} - {"/"}:
        assert f"{place}/" not in text
        assert place not in text.split()
    assert not re.search(r"(?<![\w.])/(home|Users|root|tmp)/", text)
