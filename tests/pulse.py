"""The machine's pulse: whether it stood still while a test ran.

Two cores that are shared with others stop now and then, for a second at worst, and so do their disks. A test whose
deadline passed meanwhile says nothing of the code. So a process of its own, which only the machine can hold up, wakes
``BEAT_SECONDS`` after its last beat and makes that durable; a beat that is late by ``STILL_SECONDS`` is a stall.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from struct import Struct
from time import monotonic, sleep
from typing import NamedTuple, Self

BEAT_SECONDS = 0.05
STILL_SECONDS = 0.2
ANSWER_SECONDS = 10.0  # for the next beat to come


class Beat(NamedTuple):
    """When the newest beat was, and when the newest stall ended; by ``monotonic()``."""

    at: float
    stall_ended_at: float


_RECORD = Struct("=dd")


class Pulse:
    """Feels the pulse while it is entered; ``begin`` says from when on stalls count."""

    def __init__(self) -> None:
        self._running = ExitStack()
        self._path = Path()
        self._since = 0.0
        self.pid = 0

    def __enter__(self) -> Self:
        folder = self._running.enter_context(tempfile.TemporaryDirectory(prefix="pulse-"))
        self._path = Path(folder, "beat")
        self._path.write_bytes(_RECORD.pack(0.0, 0.0))
        command = [sys.executable, __file__, str(self._path)]
        beating = subprocess.Popen(command, process_group=0)  # noqa: S603  this very file
        self._running.callback(beating.wait)
        self._running.callback(beating.kill)
        self.pid = beating.pid
        self._await_beat()
        return self

    def __exit__(self, *_: object) -> None:
        self.pid = 0
        self._running.close()

    def begin(self) -> None:
        """A test begins."""
        self._since = monotonic()

    def stood_still(self) -> bool:
        """Whether the machine did, since ``begin``; False where nobody feels its pulse."""
        return bool(self.pid) and self._await_beat().stall_ended_at > self._since

    def _await_beat(self) -> Beat:
        """The next one."""
        asked_at = monotonic()
        while monotonic() < asked_at + ANSWER_SECONDS:
            beat = Beat(*_RECORD.unpack(self._path.read_bytes()))
            if beat.at > asked_at:
                return beat
            sleep(BEAT_SECONDS)
        raise TimeoutError(f"{self.pid}, which feels the machine's pulse, does not beat")


def _beat(path: str) -> None:
    """Beat until whoever started this process is gone."""
    parent = os.getppid()
    record = os.open(path, os.O_WRONLY)
    beat = Beat(monotonic(), 0.0)
    while os.getppid() == parent:
        sleep(BEAT_SECONDS)
        os.pwrite(record, _RECORD.pack(*beat), 0)
        os.fdatasync(record)
        now = monotonic()
        late = now - beat.at - BEAT_SECONDS
        beat = Beat(now, now if late > STILL_SECONDS else beat.stall_ended_at)


if __name__ == "__main__":
    _beat(sys.argv[1])
