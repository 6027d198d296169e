"""``serve`` with several workers: a parent that starts them, restarts those that die, and stops them all together.

Each worker listens on a socket of its own with SO_REUSEPORT, and the kernel spreads connections over them: of 16
opened at once one worker of two got 6 and the other 10, where with one socket for all the first took all 16. A worker
that dies takes its socket along, so that nobody is sent to it until the next one is up.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import BinaryIO

import structlog

from bigmarket.api.listening import SPREADS, bound, listening, url_of, warn_if_open
from bigmarket.api.snapshots import Snapshots
from bigmarket.app import open_stores
from bigmarket.errors import Trouble
from bigmarket.logs import set_up_logs
from bigmarket.settings import Settings

log = structlog.get_logger(__name__)

TICK_SECONDS = 1.0
EARLY_SECONDS = 10.0  # who dies sooner than that after its start dies early
EARLY_DEATHS_MAX = 5  # in a row, of one worker; then the service gives up
BACKOFF_MIN_SECONDS = 0.25
BACKOFF_MAX_SECONDS = 4.0
STOP_SECONDS = 12.0  # a worker needs ten at most; then it is killed


@dataclass
class Worker:
    """One of the processes; ``restart_at`` (monotonic) is set while it is down."""

    name: str
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    early_deaths: int = 0
    ready: bool = False
    said: bytes = field(default=b"", repr=False)


class Supervisor:
    """Keeps ``settings.workers`` workers running until it is told to stop; ``ready`` is called once all are up."""

    def __init__(self, settings: Settings, *, ready: Callable[[str], None] | None, folder: Path) -> None:
        self._settings = settings
        self._ready = ready
        self._folder = folder
        self._snapshots = Snapshots(folder, name="supervisor")
        self._workers = [Worker(str(index)) for index in range(settings.workers)]
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []
        self._restarts = 0

    def run(self) -> int:
        """Returns the exit code. Raises ``Trouble`` when a worker dies again and again."""
        with self._reserved_port() as self._common, self._hearing_signals():
            try:
                while not self._signals:
                    self._turn()
            finally:
                drained = self._stop()
        log.info("stopped", workers=len(self._workers))
        return 0 if drained else 1

    def _turn(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.process is None and worker.restart_at <= now:
                self._start(worker)
        self._tell_metrics()
        waits = [worker.restart_at - now for worker in self._workers if worker.process is None]
        self._listen(max(0.0, min([TICK_SECONDS, *waits])))

    def _start(self, worker: Worker) -> None:
        """Start the process with a socket, its settings, and pipes that tell each of the other's end."""
        with bound(self._settings, shared=True) if SPREADS else nullcontext(self._common) as listener:
            arguments = [str(listener.fileno()), worker.name, str(self._folder)]
            worker.process = subprocess.Popen(  # noqa: S603  our own program
                [sys.executable, "-m", "bigmarket.api.worker", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[listener.fileno()],
                process_group=0,  # Ctrl-C in the terminal is for the parent, which then stops the workers
            )
        worker.started_at, worker.ready, worker.said = time.monotonic(), False, b""
        pipes = _pipes(worker.process)
        self._selector.register(pipes[1], selectors.EVENT_READ, worker)
        try:
            pipes[0].write(self._settings.model_dump_json().encode() + b"\n")
            pipes[0].flush()
        except BrokenPipeError:
            log.warning("worker died at once", worker=worker.name)

    def _listen(self, seconds: float) -> None:
        """Wait for what the workers say, their ends and signals."""
        for key, _ in self._selector.select(seconds):
            worker: Worker | None = key.data
            said = os.read(key.fd, 4096)
            if worker is None:  # a signal; its handler has noted it
                continue
            worker.said += said
            if not said:
                self._bury(worker)
            elif not worker.ready and b"\n" in worker.said:
                worker.ready = True
                self._say_ready()

    def _bury(self, worker: Worker) -> None:
        """A worker's stdout ended, and so does the worker. Raises ``Trouble`` when that happens too often."""
        code = self._reap(worker)
        if self._signals:
            return
        lived = time.monotonic() - worker.started_at
        worker.early_deaths = worker.early_deaths + 1 if lived < EARLY_SECONDS else 1
        if worker.early_deaths >= EARLY_DEATHS_MAX:
            raise Trouble(
                f"Worker {worker.name} ended {EARLY_DEATHS_MAX} times soon after its start, the last time "
                f"{_ending(code)}. Its reason is in the log above."
            )
        pause = min(BACKOFF_MAX_SECONDS, BACKOFF_MIN_SECONDS * 2 ** (worker.early_deaths - 1))
        worker.restart_at = time.monotonic() + pause
        self._restarts += 1
        log.error("worker ended", worker=worker.name, how=_ending(code), restarts_in_seconds=pause)

    def _reap(self, worker: Worker) -> int:
        process = worker.process
        assert process is not None
        stdin, stdout = _pipes(process)
        self._selector.unregister(stdout)
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:  # it closed its stdout but lives on
            process.kill()
            code = process.wait()
        stdout.close()
        with suppress(BrokenPipeError):
            stdin.close()
        worker.process = None
        return code

    def _say_ready(self) -> None:
        if self._ready is not None and all(worker.ready for worker in self._workers):
            ready, self._ready = self._ready, None
            url = url_of(self._settings)
            log.info("serving", url=url, workers=len(self._workers))
            ready(url)

    def _stop(self) -> bool:
        """Let all workers drain; whether each ended by itself, with 0."""
        self._send(signal.SIGTERM)
        give_up_at = time.monotonic() + STOP_SECONDS
        codes = []
        told = len(self._signals)
        while running := [worker for worker in self._workers if worker.process is not None]:
            if time.monotonic() >= give_up_at:
                log.error("workers did not drain in time; they are killed", workers=[w.name for w in running])
                self._send(signal.SIGKILL)
            for key, _ in self._selector.select(TICK_SECONDS):
                if not os.read(key.fd, 4096) and key.data is not None:
                    worker: Worker = key.data
                    code = self._reap(worker)
                    unready = code == -signal.SIGTERM and not worker.ready  # told while it was still starting
                    codes.append(0 if unready else code)
            if len(self._signals) > told:
                told = len(self._signals)
                self._send(signal.Signals(self._signals[-1]))
        return not any(codes)

    def _send(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.process is not None:
                worker.process.send_signal(number)

    def _tell_metrics(self) -> None:
        name = "bigmarket_worker_restarts_total"
        text = f"# HELP {name} Workers started anew after they ended by themselves.\n# TYPE {name} counter\n"
        self._snapshots.write(f"{text}{name} {self._restarts}\n".encode())

    @contextmanager
    def _reserved_port(self) -> Iterator[socket.socket]:
        """Make sure that the port is free, and keep others from taking it while no worker listens."""
        with listening(self._settings):
            pass
        with bound(self._settings, shared=SPREADS) as listener:
            yield listener

    @contextmanager
    def _hearing_signals(self) -> Iterator[None]:
        """Note SIGTERM and SIGINT and wake the loop; in a thread nobody can stop it but its workers' end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, _: FrameType | None) -> None:
            self._signals.append(number)

        with ExitStack() as undone:
            wake, woken = socket.socketpair()
            undone.enter_context(wake)
            undone.enter_context(woken)
            wake.setblocking(False)
            self._selector.register(woken, selectors.EVENT_READ, None)
            undone.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(wake.fileno()))
            for number in (signal.SIGTERM, signal.SIGINT):
                undone.callback(signal.signal, number, signal.signal(number, note))
            yield


def supervise(settings: Settings, *, ready: Callable[[str], None] | None = None) -> int:
    """Serve with several workers until SIGTERM or SIGINT. Returns the exit code.

    Raises ``Trouble`` when the stores cannot be opened, the address cannot be listened on, or a worker dies again and
    again.
    """
    set_up_logs(log_format=settings.log_format, log_level=settings.log_level)
    warn_if_open(settings)
    if any(url.startswith("sqlite:") for url in settings.shard_urls):
        log.warning("several workers on SQLite, which has one writer, draw no faster and wait for each other")
    open_stores(settings).close()  # say what is wrong once, not in every worker
    with tempfile.TemporaryDirectory(prefix="bigmarket-") as folder:
        return Supervisor(settings, ready=ready, folder=Path(folder)).run()


def _pipes(process: subprocess.Popen[bytes]) -> tuple[BinaryIO, BinaryIO]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout  # type: ignore[return-value]  # they are made for bytes


def _ending(code: int) -> str:
    return f"with exit code {code}" if code >= 0 else f"by signal {signal.Signals(-code).name}"
