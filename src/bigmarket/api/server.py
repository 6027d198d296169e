"""``serve`` and ``work``: one process, one event loop, the World's threads beside it; drains on SIGTERM, ends with 0.

supervisor.py makes several processes of it.
"""

from __future__ import annotations

import gc
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
import uvicorn
from anyio import to_thread

from bigmarket.api.application import build_app, build_work_app
from bigmarket.api.connection import SPARE, bounded
from bigmarket.api.limits import Limits
from bigmarket.api.listening import listening, url_of, warn_if_open
from bigmarket.api.snapshots import Snapshots
from bigmarket.api.waiting import Waiting
from bigmarket.app import World
from bigmarket.lanes import set_futures
from bigmarket.logs import set_up_logs
from bigmarket.settings import Settings

log = structlog.get_logger(__name__)

BACKLOG = 2048
CONNECTIONS_MAX = 4096
FILES_MAX = 256  # that the process needs for itself: databases, broker, logs
KEEP_ALIVE_SECONDS = 75
DRAIN_SECONDS = 2  # for requests in flight; then the World drains its lanes and its relay
SWITCH_SECONDS = 0.0005  # how long a thread keeps the interpreter from others that want it
COLD_THREADS = 8  # as many as the store has readers

Ready = Callable[[str], None]


def serve(settings: Settings, *, ready: Ready | None = None) -> int:
    """Serve until SIGTERM or SIGINT; ``ready`` is called with the URL once draws are taken. Returns the exit code.

    Raises ``Trouble``, with the fix, when the address cannot be listened on or the store cannot be opened.
    """
    set_up_logs(log_format=settings.log_format, log_level=settings.log_level)
    with listening(settings) as listener:
        warn_if_open(settings)
        run(settings, listener, ready=ready)
    return 0


def work(settings: Settings, *, ready: Ready | None = None) -> int:
    """Relay, consume and run jobs until SIGTERM or SIGINT, without draws; health and metrics are served.

    Returns the exit code. Raises as ``serve``.
    """
    set_up_logs(log_format=settings.log_format, log_level=settings.log_level)
    with listening(settings) as listener:
        run(settings.model_copy(update={"work": True}), listener, ready=ready, draws=False)
    return 0


def run(
    settings: Settings,
    listener: socket.socket,
    *,
    ready: Ready | None = None,
    draws: bool = True,
    snapshots: Snapshots | None = None,
) -> None:
    """A World and its server on ``listener``, until a signal stops them; ``snapshots`` are other workers' metrics."""
    waiting = Waiting(deadline_seconds=settings.draw_deadline_seconds) if draws else None
    hand_over = waiting.hand_over if waiting is not None else set_futures
    with World(settings, hand_over=hand_over, draws=draws) as world:
        server = Server(world, waiting, ready=ready, snapshots=snapshots)
        with _stopped_by_signals(server), _frozen():
            server.run(sockets=[listener])


class Server(uvicorn.Server):
    """uvicorn around a World; says when it is ready, and leaves the signals to ``run``.

    ``waiting`` is where the lanes answer to; None for a World that does not draw.
    """

    def __init__(
        self,
        world: World,
        waiting: Waiting | None,
        *,
        ready: Ready | None = None,
        snapshots: Snapshots | None = None,
    ) -> None:
        self._waiting = waiting
        self._ready = ready
        self._limits = Limits.of(world.settings)
        self.url = url_of(world.settings)
        app, hot = (
            (build_work_app(world), None)
            if waiting is None
            else build_app(world, waiting=waiting, limits=self._limits, snapshots=snapshots)
        )
        super().__init__(
            uvicorn.Config(
                app,
                interface="asgi3",
                loop="auto",  # uvloop where there is one
                http=bounded(connections_max(), hot),
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        to_thread.current_default_thread_limiter().total_tokens = COLD_THREADS
        if self._waiting is not None:
            self._waiting.start()
        await super().startup(sockets)
        if self.started:
            log.info("working" if self._waiting is None else "serving", url=self.url)
            if self._ready is not None:
                self._ready(self.url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what is in flight, then let go."""
        await super().shutdown(sockets)
        if self._waiting is not None:
            self._waiting.give_up()
        await self._limits.close()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn would raise the signal again at the end, before the World has drained."""
        yield


def connections_max() -> int:
    """Connections served at once: what the process may have open, at most ``CONNECTIONS_MAX``."""
    try:
        import resource  # noqa: PLC0415  Unix only
    except ImportError:
        return CONNECTIONS_MAX // 8
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + SPARE + FILES_MAX
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return max(16, min(CONNECTIONS_MAX, soft - SPARE - FILES_MAX))


@contextmanager
def _stopped_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """SIGTERM and SIGINT let the server drain; a second SIGINT does not wait for requests in flight."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def _frozen() -> Iterator[None]:
    """What is loaded by now stays out of every garbage collection, and threads take turns more often.

    A busy loop would keep a lane waiting for a whole switch interval after each of its round trips.
    """
    gc.collect()
    gc.freeze()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()
