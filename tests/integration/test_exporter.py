"""``governor exporter`` on a real Redis and a real database, as Prometheus sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner

from governor import Breaker, GovernedTask, Governor, Limit, Upstream
from governor.admission.lanes import Lanes
from governor.cli.main import governor as command
from governor.clock import SECOND
from governor.deadletter.repository import SqlDeadLetters
from governor.policy.parking_values import Arrival
from governor.policy.settlement import Settlement
from governor.stores.redis.store import RedisStore
from tests.deaths import death
from tests.integration.fleet import ROOT, wait_until, watched_dead_letters
from tests.servers.fault_proxy import Fault, FaultProxy
from tests.unit.test_fleet_gauges import values

pytestmark = pytest.mark.redis

APP = """
import json, os
from celery import Celery
from governor import GovernedTask, Governor, Limit, Upstream

app = Celery("exported")
app.conf.update(json.loads(os.environ["CONF"]))
Governor(app)
shop = Upstream("shop", Limit("5/s", name="all"))


@app.task(base=GovernedTask, upstream=shop, name="order")
def order(): ...
"""


class Exported:
    """An application on a Redis with something of everything, and its exporter."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        self.database = f"sqlite:///{folder / 'dead.sqlite'}"
        self.letters: SqlDeadLetters = watched_dead_letters(self.database)
        self.conf = {
            "broker_url": redis_url,
            "governor_database_url": self.database,
            "governor_spill_dir": str(folder / "spill"),
        }
        self.app = Celery("exported", set_as_current=False)
        self.app.conf.update(self.conf)
        self.governor = Governor(self.app)
        shop = Upstream("shop", Limit("5/s", name="all"), Limit("1/s", per="account", name="one"),
                        breaker=Breaker(), fair_by="account")  # fmt: skip

        @self.app.task(shared=False, base=GovernedTask, upstream=shop, name="order")
        def order(account: str) -> None: ...

        self.governor.store.settle(Settlement("shop", pause=600 * SECOND))

    def park(self, account: str) -> None:
        governance = self.governor.governance("order")
        assert governance is not None
        buckets = [charge.bucket for charge in governance.plan.charges((account,), {})]
        lane, _ = Lanes(str).of(governance.plan, "celery", buckets, account, 0)
        self.governor.store.lots.park("shop", [Arrival(account, lane, (1, 1), b"")])

    def once(self) -> tuple[int, dict[str, float]]:
        """The exit code of ``--once``, and its metrics."""
        done = CliRunner().invoke(command, ["exporter", "--once"], obj=self)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, values(done.stdout)

    def close(self) -> None:
        self.governor.store.close()
        self.governor.dead_letters.close()
        self.letters.close()
        self.app.close()


@pytest.fixture
def exported(redis_url: str, tmp_path: Path) -> Iterator[Exported]:
    made = Exported(redis_url, tmp_path)
    yield made
    made.close()


def test_once_prints_the_metrics(exported: Exported) -> None:
    """Gauges of Redis, the database and the spill folder are printed, with bounded labels only."""
    exported.park("acme")
    exported.park("globex")
    exported.letters.record(death("t1", task_name="order"))
    exported.letters.record(death("t2", task_name="nowhere"))
    exported.governor.spill.append(death("t3"))
    code, found = exported.once()
    assert code == 0
    assert found["governor_store_up{}"] == found["governor_database_up{}"] == 1
    assert found["governor_parked_tasks{upstream=shop}"] == 2
    assert found["governor_parked_tenants{upstream=shop}"] == 2
    assert found["governor_parked_oldest_age_seconds{upstream=shop}"] >= 0
    assert found["governor_paused{upstream=shop}"] == 1
    ends_in = found["governor_pause_end_timestamp_seconds{upstream=shop}"] - time.time()
    assert 0 < ends_in <= 600
    assert found["governor_breaker_state{state=closed,upstream=shop}"] == 1
    assert found["governor_limit_rate{limit=all,upstream=shop}"] == 5
    dead = {name: value for name, value in found.items() if "dead_letters" in name}
    assert dead == {
        "governor_dead_letters{reason=retries_exhausted,state=dead,task=order}": 1,
        "governor_dead_letters{reason=retries_exhausted,state=dead,task=other}": 1,
    }
    assert found["governor_spill_pending{}"] == 1
    assert not [name for name in found if "acme" in name or "limit=one" in name]


def test_a_redis_that_is_away(exported: Exported, caplog: pytest.LogCaptureFixture) -> None:
    """The store is down and its gauges are absent; the database's are there."""
    exported.governor.store.close()
    exported.governor.__dict__["store"] = RedisStore("redis://127.0.0.1:1/0")
    code, found = exported.once()
    assert code == 6
    assert found["governor_store_up{}"] == 0
    assert found["governor_database_up{}"] == 1
    assert not [name for name in found if "parked" in name or "limit" in name]
    assert "did not answer for shop" in caplog.text


def test_a_redis_that_hangs(exported: Exported, redis_url: str) -> None:
    """A Redis that takes connections and answers nothing costs a scrape its budget, not more."""
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    with FaultProxy("127.0.0.1", port) as proxy:
        proxy.fault = Fault.BLACK_HOLE
        exported.governor.store.close()
        exported.governor.__dict__["store"] = RedisStore(f"redis://127.0.0.1:{proxy.port}/0")
        began = time.monotonic()
        code, found = exported.once()
        assert time.monotonic() - began < 5
    assert code == 6
    assert found["governor_store_up{}"] == 0


def test_a_database_without_tables(
    exported: Exported, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The database is down, and the remedy is said."""
    exported.app.conf.governor_database_url = f"sqlite:///{tmp_path / 'empty.sqlite'}"
    exported.governor.__dict__.pop("settings", None)
    code, found = exported.once()
    assert code == 6
    assert found["governor_database_up{}"] == 0
    assert "governor db upgrade" in caplog.text


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),  # Ctrl-C
        (signal.SIGTERM, 0),  # an orchestrator
    ],
)
def test_it_serves_until_it_is_stopped(
    exported: Exported, tmp_path: Path, number: int, code: int
) -> None:
    """Prometheus scrapes it over HTTP; a signal ends it at once, without a traceback."""
    (tmp_path / "exported.py").write_text(APP, encoding="utf-8")
    environment = os.environ | {"CONF": json.dumps(exported.conf), "PYTHONPATH": str(ROOT)}
    governor = Path(sys.executable).with_name("governor")
    arguments: list[Any] = [governor, "-A", "exported", "exporter", "--address", "127.0.0.1"]
    with subprocess.Popen(
        [*arguments, "--port", "0"], env=environment, cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            port = said.partition(" port ")[2].partition(",")[0]
            text = wait_until(lambda: scraped(port))
            assert values(text)["governor_store_up{}"] == 1
            process.send_signal(number)
            assert process.wait(20) == code
            assert process.stderr.read() == ""
        finally:
            process.kill()


def scraped(port: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        return str(answer.read().decode())
