"""Limits kept in the broker's Redis, however that is reached: TLS, sentinels, a socket."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from governor import Governor
from governor.errors import StoreUnavailable
from governor.policy.settlement import Settlement
from governor.ports import Change
from governor.stores.redis.store import RedisStore
from governor.testing.child_process import ChildProcess
from governor.testing.redis_server import PrivateRedis, find_server

pytestmark = pytest.mark.redis


@contextlib.contextmanager
def governed(**conf: Any) -> Iterator[Governor]:
    """The governor of an app whose limiter is its broker."""
    app = Celery("borrower", set_as_current=False)
    app.conf.update(governor_timeout=5, **conf)
    governor = Governor(app)
    try:
        yield governor
    finally:
        governor.store.close()
        app.close()


def works(governor: Governor) -> None:
    """The store decides, and news are heard over a connection of their own."""
    store = governor.store
    heard: list[tuple[str, str]] = []
    came = threading.Event()

    def hear(*news: str) -> None:
        heard.append((news[0], news[1]))
        came.set()

    stop = store.listen(hear)
    try:
        assert came.wait(10)
        assert store.settle(Settlement("api")).now
        came.clear()
        store.change(Change("api", "set", "s", "{}", "ann", "why"))
        assert came.wait(10)
        assert heard[-1] == ("api", "change")
    finally:
        stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that no authority has signed, and its key, in one file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("a certificate needs the command openssl")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", "key.pem", "-out", "certificate.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    both = folder / "both.pem"
    both.write_bytes((folder / "key.pem").read_bytes() + (folder / "certificate.pem").read_bytes())
    return both


@pytest.fixture
def tls_port(redis_server: PrivateRedis, redis_url: str, certificate: Path) -> Iterator[int]:
    """The port of a server that speaks TLS and passes on to the Redis."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(client, server_side=True) as secure:
            with socket.create_connection(("127.0.0.1", redis_server.port)) as plain:
                back = threading.Thread(target=pump, args=(plain, secure), daemon=True)
                back.start()
                pump(secure, plain)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def test_what_the_broker_does_about_certificates_holds(tls_port: int, certificate: Path) -> None:
    """The URL's and ``broker_use_ssl``'s TLS options reach the limiter store: where the broker
    verifies nothing it does not, where the broker knows the authority it does."""
    url = f"rediss://127.0.0.1:{tls_port}/0"
    known = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": str(certificate)}
    for conf in (
        {"broker_url": f"{url}?ssl_cert_reqs=CERT_NONE"},
        {"broker_url": url, "broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_NONE}},
        {"broker_url": url.replace("rediss", "redis"), "broker_use_ssl": known},
        {"governor_redis_url": f"{url}?ssl_cert_reqs=CERT_NONE", "broker_url": "memory://"},
    ):
        with governed(**conf) as governor:
            works(governor)


def test_a_certificate_that_is_not_trusted_is_called_that(tls_port: int) -> None:
    """The limiter store verifies where the broker does, and says what is wrong."""
    url = f"rediss://127.0.0.1:{tls_port}/0?ssl_cert_reqs=required"
    with governed(broker_url=url) as governor:
        with pytest.raises(StoreUnavailable, match="SSLCertVerificationError"):
            governor.store.settle(Settlement("api"))


def test_a_socket_in_the_file_system(tmp_path: Path) -> None:
    """A broker that is reached over a socket is the limiter too."""
    path = tmp_path / "s"
    command = [*find_server(), "--port", "0", "--unixsocket", str(path), "--save", ""]
    server = ChildProcess(command, log=tmp_path / "log")
    try:
        wait_for(path.exists)
        with governed(broker_url=f"redis+socket://{path}?virtual_host=3") as governor:
            works(governor)
        with redis.Redis(unix_socket_path=str(path), db=3) as client:
            assert client.exists("gov:{api}")
    finally:
        server.stop()


def test_sentinels_name_the_primary_after_a_failover(tmp_path: Path) -> None:
    """Limits are kept in the primary that the sentinels name, and in the next one when that is
    gone."""
    with contextlib.ExitStack() as stack:
        first, second = (
            stack.enter_context(PrivateRedis(folder(tmp_path, name))) for name in ("a", "b")
        )
        with redis.Redis.from_url(second.url) as client:
            client.replicaof("127.0.0.1", first.port)
            wait_for(lambda: client.info("replication")["master_link_status"] == "up")
        sentinel = stack.enter_context(one_sentinel(tmp_path, first.port))
        conf = {
            "broker_url": f"sentinel://127.0.0.1:1;sentinel://127.0.0.1:{sentinel}/0",
            "broker_transport_options": {"master_name": "mymaster"},
        }
        with governed(**conf) as governor:
            works(governor)
            first.kill()
            with pytest.raises(StoreUnavailable):
                governor.store.settle(Settlement("api"))
            assert isinstance(governor.store, RedisStore)
            wait_for(lambda: settled(governor.store))
        with redis.Redis.from_url(second.url) as client:
            assert client.info("replication")["role"] == "master"


def settled(store: Any) -> bool:
    try:
        return bool(store.settle(Settlement("api")).now)
    except StoreUnavailable:
        return False


@contextlib.contextmanager
def one_sentinel(tmp_path: Path, port: int) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        own = int(probe.getsockname()[1])
    conf = tmp_path / "sentinel.conf"
    conf.write_text(
        f"port {own}\nbind 127.0.0.1\ndir {tmp_path}\n"
        f"sentinel monitor mymaster 127.0.0.1 {port} 1\n"
        "sentinel down-after-milliseconds mymaster 500\n"
        "sentinel failover-timeout mymaster 2000\n"
    )
    server = ChildProcess([*find_server(), str(conf), "--sentinel"], log=tmp_path / "sentinel.log")
    try:
        with redis.Redis(port=own) as client:
            wait_for(lambda: knows_a_replica(client))
        yield own
    finally:
        server.stop()


def knows_a_replica(client: redis.Redis) -> bool:
    try:
        return client.sentinel_masters()["mymaster"]["num-slaves"] == 1
    except redis.RedisError:
        return False


def folder(tmp_path: Path, name: str) -> Path:
    made = tmp_path / name
    made.mkdir()
    return made


def wait_for(look: Any) -> None:
    deadline = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
