"""``serve``: one process, one event loop, the World's threads beside it; drains on SIGTERM and ends with 0."""

from __future__ import annotations

import gc
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import structlog
import uvicorn
from anyio import to_thread

from bigmarket.api.application import build_app
from bigmarket.api.draw_route import Waiting
from bigmarket.app import World
from bigmarket.errors import Trouble
from bigmarket.logs import set_up_logs
from bigmarket.settings import Settings

log = structlog.get_logger(__name__)

BACKLOG = 2048
CONNECTIONS_MAX = 4096
KEEP_ALIVE_SECONDS = 75
DRAIN_SECONDS = 2  # for requests in flight; then the World drains its lanes and its relay
COLD_THREADS = 8  # as many as the store has readers

Ready = Callable[[str], None]


def serve(settings: Settings, *, ready: Ready | None = None) -> int:
    """Serve until SIGTERM or SIGINT; ``ready`` is called with the URL once draws are taken. Returns the exit code.

    Raises ``Trouble``, with the fix, when the address cannot be listened on or the store cannot be opened.
    """
    set_up_logs(log_format=settings.log_format, log_level=settings.log_level)
    with listening(settings) as listener:
        waiting = Waiting(deadline_seconds=settings.draw_deadline_seconds)
        with World(settings, hand_over=waiting.hand_over) as world:
            server = Server(world, waiting, ready=ready)
            _warn_if_open(settings)
            with _stopped_by_signals(server), _frozen():
                server.run(sockets=[listener])
    return 0


@contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """The socket to listen on: the address is ours from now on, but nobody is let in before the server is ready."""
    with ExitStack() as opened:
        try:
            listener = opened.enter_context(_bound(settings.host, settings.port))
        except OSError as error:
            where = f"{settings.host}, port {settings.port}"
            raise Trouble(f"Cannot listen on {where}: {error.strerror}. {_fix(error, settings.port)}") from error
        yield listener


def _bound(host: str, port: int) -> socket.socket:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def _fix(error: OSError, port: int) -> str:
    if isinstance(error, socket.gaierror):
        return "Set BIGMARKET_HOST to an address of this machine."
    if isinstance(error, PermissionError):
        return "Set BIGMARKET_PORT to a port above 1023."
    return f"Stop what uses it, or set BIGMARKET_PORT to another port, such as {port % 65_535 + 1}."


class Server(uvicorn.Server):
    """uvicorn around a World; says when it is ready, and leaves the signals to ``serve``."""

    def __init__(self, world: World, waiting: Waiting, *, ready: Ready | None = None) -> None:
        settings = world.settings
        self._waiting = waiting
        self._ready = ready
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.url = f"http://{host}:{settings.port}"
        super().__init__(
            uvicorn.Config(
                build_app(world, waiting=waiting),
                interface="asgi3",
                loop="auto",  # uvloop where there is one
                http="httptools",
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                limit_concurrency=connections_max(),
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        to_thread.current_default_thread_limiter().total_tokens = COLD_THREADS
        self._waiting.start()
        await super().startup(sockets)
        if self.started:
            log.info("serving", url=self.url, docs=f"{self.url}/docs")
            if self._ready is not None:
                self._ready(self.url)

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
    wanted = CONNECTIONS_MAX + 512
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return CONNECTIONS_MAX if soft == resource.RLIM_INFINITY else max(16, min(CONNECTIONS_MAX, soft - 128))


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
    """What is loaded by now stays out of every garbage collection.

    Other thresholds and another switch interval were measured too and made no difference.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _warn_if_open(settings: Settings) -> None:
    if not settings.server_keys:
        log.warning(
            "THE API IS OPEN: anyone on this machine can draw for any user and arm activities. "
            "Set BIGMARKET_SERVER_KEYS to change that.",
            listens_on=settings.host,
        )
