"""A worker of ``serve`` with several: ``python -m bigmarket.api.worker LISTENER NAME FOLDER``, run by supervisor.py.

It inherits the socket to listen on, reads its settings from the first line of stdin, and says ``ready`` on stdout.
stdin stays open as long as the supervisor lives: when it ends, so does the worker, draining as on SIGTERM.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from pathlib import Path

import structlog

from bigmarket.api.server import run
from bigmarket.api.snapshots import Snapshots
from bigmarket.errors import BigmarketError
from bigmarket.logs import set_up_logs
from bigmarket.settings import Settings

log = structlog.get_logger(__name__)

READY = "ready"


def main(arguments: list[str]) -> int:
    """Serve until told to stop. Returns the exit code."""
    listener_fd, name, folder = arguments
    settings = Settings.model_validate_json(sys.stdin.readline())
    set_up_logs(log_format=settings.log_format, log_level=settings.log_level)
    threading.Thread(target=_follow_supervisor, name="supervisor", daemon=True).start()
    snapshots = Snapshots(Path(folder), name=name)
    try:
        with socket.socket(fileno=int(listener_fd)) as listener:
            run(settings, listener, ready=_say_ready, snapshots=snapshots)
    except BigmarketError as error:
        log.critical("worker cannot serve", worker=name, code=error.code, reason=str(error))
        return 1
    return 0


def _say_ready(_: str) -> None:
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()


def _follow_supervisor() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
