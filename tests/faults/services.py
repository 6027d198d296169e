"""A database server and a broker of the tests' own, free to be killed and frozen.

They are the installed programs on spare loopback ports with folders of their own; the machine's shared servers are
never touched.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import closing
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import amqp
import pymysql
import pytest

from faults.processes import free_port

START_SECONDS = 60.0
STOP_SECONDS = 30.0
PROBE_SECONDS = 2.0
#: RabbitMQ 3.10 keeps a new quorum queue's registration in memory for up to half a second, confirmed messages or not:
#: killed before that, it comes back with a queue that never has a leader again. A test waits so long after declaring.
DECLARED_SECONDS = 1.0
SERVER_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/lib/rabbitmq/bin")  # where PATH often does not lead


def program(name: str) -> str | None:
    """Where an installed program is; None when it is not installed."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), *SERVER_FOLDERS)))


class Service(ABC):
    """A server process on the data in ``folder``; it may be killed, frozen and started again, its port stays.

    As a context it starts, waits until it is ready, and is killed at the end, whatever happened.
    """

    title: ClassVar[str]
    programs: ClassVar[tuple[str, ...]]

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def missing(cls) -> list[str]:
        """The programs it needs that are not installed here."""
        return [name for name in cls.programs if program(name) is None]

    @classmethod
    def available(cls) -> bool:
        """Whether everything it needs is installed."""
        return not cls.missing()

    @classmethod
    def require(cls) -> None:
        """Skip the test, loudly, when a program is missing."""
        if names := cls.missing():
            pytest.skip(f"FAULTS OF {cls.title.upper()} ARE NOT TESTED: {', '.join(names)} is not installed")

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is not None:
            sys.stderr.write(f"--- what {self.title} on port {self.port} said last ---\n{self.log[-4000:]}\n")

    @property
    def pid(self) -> int:
        """The id of the server itself, not of a script around it."""
        assert self._process is not None, "start() was called"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives, be it frozen."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """Everything the server has said, over all its lives."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Begin to start on the data that is there; ``wait_ready`` waits until it answers."""
        assert not self.running
        self._prepare()
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  an installed server
                self._command(),
                env=self._environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is for the tests, which then kill it
            )

    def wait_ready(self, *, seconds: float = START_SECONDS) -> float:
        """Wait until a client can log in. Returns the seconds that took."""
        started = time.monotonic()
        while not self.answers():
            assert self.running, f"{self.title} ended by itself:\n{self.log[-4000:]}"
            assert time.monotonic() < started + seconds, (
                f"{self.title} is not up after {seconds} s:\n{self.log[-4000:]}"
            )
            time.sleep(0.02)
        return time.monotonic() - started

    @abstractmethod
    def answers(self) -> bool:
        """Whether a client can log in now."""

    def kill(self) -> None:
        """kill -9, frozen or not: no handler runs, nothing is flushed. Does nothing when it is gone already."""
        if self.running:
            self.signal(signal.SIGKILL)
            self.wait()

    def stop(self, *, seconds: float = STOP_SECONDS) -> int:
        """Shut it down in order (SIGTERM). Returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds=seconds)

    def pause(self) -> None:
        """Freeze it: connections stay open, the kernel accepts new ones, nobody answers."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after ``pause``."""
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None, "start() was called"
        self._process.send_signal(number)

    def wait(self, *, seconds: float = STOP_SECONDS) -> int:
        """Wait for the end. Returns the exit code."""
        assert self._process is not None, "start() was called"
        return self._process.wait(seconds)

    def close(self) -> None:
        """Kill it and whatever was started beside it."""
        self.kill()

    @abstractmethod
    def _prepare(self) -> None:
        """Make what a start needs, if it is not there yet."""

    @abstractmethod
    def _command(self) -> list[str]: ...

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)


class MariaDbProcess(Service):
    """mariadbd, durable unless told otherwise; ``root`` without a password. ``options`` go to it as they are."""

    title = "MariaDB"
    programs = ("mariadbd", "mariadb-install-db")

    def __init__(
        self, folder: Path, *, flush_at_commit: int = 1, buffer_pool_mib: int = 128, options: tuple[str, ...] = ()
    ) -> None:
        super().__init__(folder)
        self._options = (
            f"--innodb-flush-log-at-trx-commit={flush_at_commit}",
            f"--innodb-buffer-pool-size={buffer_pool_mib}M",
            *options,
        )

    def url(self, database: str) -> str:
        """Where SQLAlchemy finds a database of it."""
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """Make an empty database. Returns its URL."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE `{name}`")
        return self.url(name)

    def connect(self, database: str | None = None, *, seconds: float = PROBE_SECONDS) -> pymysql.Connection:
        """A client that gives up on an answer after ``seconds``."""
        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user="root",
            database=database,
            connect_timeout=seconds,
            read_timeout=seconds,
            write_timeout=seconds,
        )

    def answers(self) -> bool:
        """Whether a client can log in now."""
        try:
            self.connect().close()
        except (pymysql.MySQLError, OSError):
            return False
        return True

    def _prepare(self) -> None:
        data = self.folder / "data"
        if not data.exists():
            shutil.copytree(_empty_mariadb(), data)

    def _command(self) -> list[str]:
        return [
            _installed("mariadbd"),
            *_MARIADB_BASICS,
            f"--datadir={self.folder / 'data'}",
            f"--tmpdir={self.folder}",
            f"--pid-file={self.folder / 'pid'}",
            f"--socket={_short_socket(self.port)}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--skip-networking=OFF",
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",
            "--collation-server=utf8mb4_bin",
            *self._options,
        ]


# The machine's own configuration is for the machine's own server; a server that root starts stays root.
_MARIADB_BASICS = (
    "--no-defaults",
    *(("--user=root",) if os.geteuid() == 0 else ()),
    "--innodb-log-file-size=32M",
    "--aria-log-file-size=8M",
)


@cache
def _empty_mariadb() -> Path:
    """A data folder as the installer leaves it: made once per test run, then copied."""
    folder = _scratch() / "empty-mariadb"
    made = subprocess.run(  # noqa: S603  an installed program
        [
            _installed("mariadb-install-db"),
            *_MARIADB_BASICS,
            f"--datadir={folder}",
            "--skip-test-db",
            "--skip-name-resolve",
            "--auth-root-authentication-method=normal",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


class RabbitProcess(Service):
    """One RabbitMQ node without plugins, known to nobody: own node name, cookie, home and name server (epmd)."""

    title = "RabbitMQ"
    programs = ("rabbitmq-server", "erl", "epmd")

    def __init__(self, folder: Path, *, configuration: str = "") -> None:
        super().__init__(folder)
        self._dist_port = free_port()
        self._epmd_port = free_port()
        self._epmd: subprocess.Popen[bytes] | None = None
        self._configuration = configuration

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def connect(self, *, seconds: float = PROBE_SECONDS, confirms: bool = True) -> amqp.Connection:
        """A client, logged in, that gives up on an answer after ``seconds``."""
        connection = amqp.Connection(
            f"127.0.0.1:{self.port}",
            confirm_publish=confirms,
            connect_timeout=seconds,
            read_timeout=seconds,
            write_timeout=seconds,
        )
        connection.connect()
        return connection

    def answers(self) -> bool:
        """Whether a client can log in now; RabbitMQ opens its port last of all."""
        try:
            self.connect().close()
        except (amqp.AMQPError, OSError):
            return False
        return True

    def known_nodes(self, *, port: int | None = None) -> str:
        """What a name server says, by default its own, when asked which nodes it knows."""
        with socket.create_connection(("127.0.0.1", port or self._epmd_port), timeout=PROBE_SECONDS) as connection:
            connection.sendall(b"\x00\x01n")
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
        return answer[4:].decode()

    def close(self) -> None:
        """Kill it and its name server."""
        super().close()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None

    def _prepare(self) -> None:
        (self.folder / "home").mkdir(exist_ok=True)
        (self.folder / "plugins").write_text("[].\n")
        (self.folder / "env.conf").touch()
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.default = 127.0.0.1:{self.port}\n"
            "vm_memory_high_watermark.absolute = 512MB\n"
            "disk_free_limit.absolute = 50MB\n"
            "raft.wal_max_size_bytes = 32000000\n"
            f"log.console = true\nlog.file = false\n{self._configuration}\n"
        )
        if self._epmd is None:
            self._epmd = subprocess.Popen(  # noqa: S603  an installed program
                [_installed("epmd"), "-address", "127.0.0.1", "-port", str(self._epmd_port)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _command(self) -> list[str]:
        return [_rabbitmq_server()]

    def _environment(self) -> dict[str, str]:
        own = {
            "HOME": self.folder / "home",  # the cookie is made there
            "ERL_EPMD_PORT": self._epmd_port,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_FLAGS": "",
            "RABBITMQ_NODENAME": f"bigmarket-{self.port}@localhost",
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": self._dist_port,
            "RABBITMQ_MNESIA_BASE": self.folder / "data",
            "RABBITMQ_LOG_BASE": self.folder / "logs",
            "RABBITMQ_SCHEMA_DIR": self.folder / "schema",
            "RABBITMQ_GENERATED_CONFIG_DIR": self.folder / "generated",
            "RABBITMQ_PID_FILE": self.folder / "pid",
            "RABBITMQ_CONF_ENV_FILE": self.folder / "env.conf",
            "RABBITMQ_CONFIG_FILE": self.folder / "rabbitmq.conf",
            "RABBITMQ_CONFIG_FILES": self.folder / "conf.d",
            "RABBITMQ_ADVANCED_CONFIG_FILE": self.folder / "advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": self.folder / "plugins",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}",
            # Only in the mode for a terminal does the start script become the server, so that our child is it.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
        }
        others = {
            name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_", "NOTIFY_"))
        }
        return others | {name: str(value) for name, value in own.items()}


def _rabbitmq_server() -> str:
    """The start script itself: the one of that name in PATH may be a wrapper that becomes another user first."""
    own = program("/usr/lib/rabbitmq/bin/rabbitmq-server")
    return own or _installed("rabbitmq-server")


def _installed(name: str) -> str:
    path = program(name)
    assert path is not None, f"{name} is not installed; require() skips the test"
    return path


@cache
def _scratch() -> Path:
    """A folder for this test run, with a short name."""
    folder = Path(tempfile.mkdtemp(prefix="bigmarket-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _short_socket(port: int) -> Path:
    """Unix sockets have room for about 100 characters of path, which a test's folder may exceed."""
    return _scratch() / f"{port}.sock"
