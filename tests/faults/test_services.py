"""The servers that fault tests hurt are their own, keep what they promised through kill -9, and stall when frozen."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import amqp
import pymysql
import pytest
from sqlalchemy import create_engine, text

from faults.services import DECLARED_SECONDS, MariaDbProcess, RabbitProcess, Service

pytestmark = pytest.mark.faults

SHARED_PORTS = {3306, 5672, 4369, 25672}  # where a machine's own MariaDB, RabbitMQ and epmd listen
PATIENCE_SECONDS = 0.5
NO_HANG_SECONDS = 4.0
QUEUE = "kept"


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDbProcess]:
    MariaDbProcess.require()
    with MariaDbProcess(tmp_path_factory.mktemp("mariadb")) as server:
        yield server


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitProcess]:
    RabbitProcess.require()
    with RabbitProcess(tmp_path_factory.mktemp("rabbit")) as server:
        yield server


def _kill_and_start(server: Service) -> None:
    killed = server.pid
    server.kill()
    assert not server.running
    assert not server.answers()
    server.start()
    seconds = server.wait_ready()
    assert server.pid != killed
    print(f"{server.title}: ready {seconds:.1f} s after kill -9")


def test_mariadb_keeps_what_was_committed(mariadb: MariaDbProcess) -> None:
    engine = create_engine(mariadb.create_database("kept"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (id INT PRIMARY KEY) ENGINE=InnoDB"))
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO t VALUES (1), (2)"))
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO t VALUES (3)"))  # never committed
        _kill_and_start(mariadb)
        connection.invalidate()
    with engine.connect() as connection:
        assert connection.scalars(text("SELECT id FROM t ORDER BY id")).all() == [1, 2]
    engine.dispose()


def test_a_frozen_mariadb_makes_clients_time_out(mariadb: MariaDbProcess) -> None:
    connection = mariadb.connect(seconds=PATIENCE_SECONDS)
    mariadb.pause()
    try:
        assert mariadb.running
        started = time.monotonic()
        with pytest.raises(pymysql.OperationalError), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        with pytest.raises(pymysql.OperationalError):
            mariadb.connect(seconds=PATIENCE_SECONDS)
        assert time.monotonic() - started < NO_HANG_SECONDS
    finally:
        mariadb.resume()
        with suppress(pymysql.Error):
            connection.close()
    mariadb.wait_ready(seconds=NO_HANG_SECONDS)


def test_mariadb_is_the_tests_own_and_as_durable_as_asked(mariadb: MariaDbProcess, tmp_path: Path) -> None:
    assert mariadb.port not in SHARED_PORTS
    assert _variables(mariadb, "port", "datadir") == (mariadb.port, f"{mariadb.folder}/data/")
    durable = ("innodb_flush_log_at_trx_commit", "innodb_doublewrite")
    assert _variables(mariadb, *durable) == (1, 1)
    with MariaDbProcess(tmp_path / "careless", flush_at_commit=2) as careless:
        assert careless.port != mariadb.port
        assert _variables(careless, *durable) == (2, 1)
        assert careless.stop() == 0


def _variables(server: MariaDbProcess, *names: str) -> tuple[object, ...]:
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(f'@@GLOBAL.{name}' for name in names)}")
        return tuple(cursor.fetchone() or ())


def test_rabbitmq_keeps_what_was_confirmed(rabbit: RabbitProcess) -> None:
    with rabbit.connect() as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
        for number in range(20):
            message = amqp.Message(f"m{number}", delivery_mode=2)
            channel.basic_publish(message, routing_key=QUEUE, mandatory=True, confirm_timeout=5)
        time.sleep(DECLARED_SECONDS)
        _kill_and_start(rabbit)
        connection.collect()
    assert _take(rabbit, QUEUE) == [f"m{number}" for number in range(20)]


def _take(server: RabbitProcess, queue: str) -> list[str]:
    """Everything that is in the queue."""
    taken = []
    with server.connect(seconds=10) as connection:  # after a restart the queue elects its leader first
        channel = connection.channel()
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            body = message.body
            taken.append(body if isinstance(body, str) else body.decode())
    return taken


def test_a_frozen_rabbitmq_makes_clients_time_out(rabbit: RabbitProcess) -> None:
    connection = rabbit.connect()
    channel = connection.channel()
    channel.queue_declare("frozen", durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
    rabbit.pause()
    try:
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            channel.basic_publish(
                amqp.Message("m", delivery_mode=2), routing_key="frozen", confirm_timeout=PATIENCE_SECONDS
            )
        with pytest.raises(OSError):  # noqa: PT011  whichever way the connection gives up
            rabbit.connect(seconds=PATIENCE_SECONDS)
        assert time.monotonic() - started < NO_HANG_SECONDS
    finally:
        rabbit.resume()
        connection.collect()
    rabbit.wait_ready(seconds=NO_HANG_SECONDS)
    assert _take(rabbit, "frozen") in ([], ["m"])  # nobody was told


def test_rabbitmq_is_the_tests_own(rabbit: RabbitProcess) -> None:
    assert rabbit.port not in SHARED_PORTS
    with rabbit.connect() as connection:
        assert str(rabbit.port) in connection.server_properties["cluster_name"]
    assert (rabbit.folder / "home" / ".erlang.cookie").exists()
    assert f"bigmarket-{rabbit.port}" in rabbit.known_nodes()
    with suppress(ConnectionRefusedError):
        assert f"bigmarket-{rabbit.port}" not in rabbit.known_nodes(port=4369)


def test_nothing_is_left_running(tmp_path: Path) -> None:
    MariaDbProcess.require()
    server = MariaDbProcess(tmp_path)
    with pytest.raises(RuntimeError, match="a test failed"), server:
        server.pause()
        raise RuntimeError("a test failed")
    assert not server.running
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    MariaDbProcess.require()
    server = MariaDbProcess(tmp_path, options=("--no-such-option",))
    with pytest.raises(AssertionError, match="no-such-option"), server:
        pass
    assert not server.running


def test_a_missing_program_skips_the_test_and_is_named() -> None:
    class Absent(MariaDbProcess):
        programs = ("no-such-server",)

    assert not Absent.available()
    with pytest.raises(pytest.skip.Exception, match="MARIADB ARE NOT TESTED: no-such-server"):
        Absent.require()
