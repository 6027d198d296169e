"""Server processes that tests may kill, stop and starve: the real command, a real port, a real file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.request import urlopen

SERVE = ("-m", "bigmarket", "serve")
WORK = ("-m", "bigmarket", "work")
START_SECONDS = 120.0  # a server of Python starts in one, on a machine that has nothing else to do
STOP_SECONDS = 30.0


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def environment(home: Path, **settings: object) -> dict[str, str]:
    """This process's environment with only these settings of ours."""
    values = {"home": home, "log_format": "json", **settings}
    ours = {f"BIGMARKET_{name.upper()}": str(value) for name, value in values.items()}
    return {name: value for name, value in os.environ.items() if not name.startswith("BIGMARKET_")} | ours


def run_cli(home: Path, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """One command of the command line, to its end."""
    command = [sys.executable, "-m", "bigmarket", *arguments]
    return subprocess.run(  # noqa: S603  our own program
        command, env=environment(home, **settings), capture_output=True, text=True, timeout=60, check=False
    )


class OurProcess:
    """A program of ours on ``home``; it may be started, killed and started again. As a context it starts.

    ``command`` are the interpreter's arguments; stderr goes to ``errors_to``, by default into the log.
    """

    def __init__(
        self,
        home: Path,
        name: str,
        *,
        command: Sequence[str],
        before_exec: Callable[[], None] | None = None,
        errors_to: Path | None = None,
        **settings: object,
    ) -> None:
        self.name = name
        self._command = [sys.executable, *command]
        self._environment = environment(home, **settings)
        self._before_exec = before_exec
        self._log = home.parent / f"{home.name}-{name}.log"
        self._errors_to = errors_to or self._log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.kill()
        if kind is not None:
            sys.stderr.write(f"--- what {self.name} said last ---\n{self.log[-4000:]}\n")

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._process is not None, "start() was called"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """Everything the process has written to stdout and stderr, over all its lives."""
        return self._log.read_text(errors="replace")

    def start(self) -> None:
        """Begin to start; ``wait_ready`` waits until it does its work."""
        assert not self.running
        with self._log.open("ab") as log, self._errors_to.open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603  our own program
                self._command,
                env=self._environment,
                stdout=log,
                stderr=errors,
                preexec_fn=self._before_exec,  # noqa: PLW1509  no other thread runs here
            )

    def wait_ready(self, *, seconds: float = START_SECONDS) -> None:
        """Wait until it does its work."""
        deadline = time.monotonic() + seconds
        while not self.answers():
            assert self.running, f"{self.name} ended by itself:\n{self.log[-4000:]}"
            assert time.monotonic() < deadline, f"{self.name} is not up after {seconds} s:\n{self.log[-4000:]}"
            time.sleep(0.01)

    def answers(self) -> bool:
        """Whether it does its work now, as far as can be seen from outside."""
        return self.running

    def kill(self) -> None:
        """kill -9: no handler runs, nothing is flushed."""
        self.signal(signal.SIGKILL)
        self.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to a process that may be gone already."""
        assert self._process is not None, "start() was called"
        self._process.send_signal(number)

    def wait(self, *, seconds: float = STOP_SECONDS) -> int:
        """Wait for the end. Returns the exit code."""
        assert self._process is not None, "start() was called"
        return self._process.wait(seconds)


class ServerProcess(OurProcess):
    """``serve`` on a port of its own; ``command`` may name a server with a protection switched off."""

    def __init__(
        self,
        home: Path,
        *,
        command: Sequence[str] = SERVE,
        before_exec: Callable[[], None] | None = None,
        errors_to: Path | None = None,
        **settings: object,
    ) -> None:
        self.port = free_port()
        super().__init__(
            home,
            f"serve-{self.port}",
            command=command,
            before_exec=before_exec,
            errors_to=errors_to,
            port=self.port,
            **settings,
        )

    def answers(self) -> bool:
        """Whether it serves HTTP now; the port takes connections long before."""
        try:
            self.get("/healthz")
        except OSError:
            return False
        return True

    def get(self, path: str) -> str:
        """The body of an answer. Raises OSError, also for an error status."""
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as answer:
            body: bytes = answer.read()
        return body.decode()

    def metric(self, name: str) -> dict[str, float]:
        """The samples of a metric, by their labels as they are written."""
        lines = [line.rpartition(" ") for line in self.get("/metrics").splitlines()]
        return {
            labels[len(name) :].strip("{}"): float(value)
            for labels, _, value in lines
            if labels == name or labels.startswith(name + "{")
        }

    def accepts(self) -> bool:
        """Whether the port takes a connection now."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False


class WorkProcess(ServerProcess):
    """``work``: it relays, consumes and runs jobs, and tells of its health at a port of its own."""

    def __init__(self, home: Path, *, command: Sequence[str] = WORK, **settings: object) -> None:
        super().__init__(home, command=command, **settings)
