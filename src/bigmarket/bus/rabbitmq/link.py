"""One connection to the broker with one channel, for one thread; every wait on it is bounded."""

from __future__ import annotations

import functools
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ssl import SSLWantReadError
from typing import Any, NoReturn

from amqp import (  # type: ignore[import-untyped]
    AccessRefused,
    AMQPError,
    Connection,
    NotFound,
    PreconditionFailed,
    UnexpectedFrame,
)
from amqp.transport import SSLTransport, TCPTransport  # type: ignore[import-untyped]

from bigmarket.bus.rabbitmq.endpoint import Endpoint
from bigmarket.bus.rabbitmq.frames import CHANNEL, Arrival, Frame, delivery_handler
from bigmarket.bus.rabbitmq.topology import Arguments
from bigmarket.errors import Trouble

CONNECT_SECONDS = 3.0
IO_SECONDS = 5.0  # a read, a write, an answer to a method
CONFIRM_SECONDS = 5.0
CLOSE_SECONDS = 1.0
WINDOW_MESSAGES = 256  # unconfirmed at a time

_READ_BYTES = 65_536
_FRAME_MAX_BYTES = 131_072
_NOTHING_YET = (TimeoutError, BlockingIOError, SSLWantReadError)


class Link:
    """``alive`` turns False for good with the first failure; ``arrivals`` are deliveries not yet taken."""

    def __init__(self, endpoint: Endpoint, *, name: str, confirms: bool = False, heartbeat_seconds: int = 0) -> None:
        """Connect as ``name``; heartbeats need ``tick`` about every second. Raises ``Trouble``."""
        self.arrivals: deque[Arrival] = deque()
        self.alive = True
        self._endpoint = endpoint
        self._confirms = confirms
        self._published = 0  # the broker numbers what is published on a channel from 1
        self._unconfirmed: set[int] = set()
        self._refused = 0
        self._unroutable = ""
        self._blocked = False
        self._connection = _Connection(
            endpoint.address,
            userid=endpoint.user,
            password=endpoint.password,
            login_method="PLAIN",
            virtual_host=endpoint.vhost,
            ssl={"server_hostname": endpoint.host} if endpoint.tls else False,
            client_properties={"product": "bigmarket", "connection_name": name},
            connect_timeout=CONNECT_SECONDS,
            heartbeat=heartbeat_seconds,
            frame_handler=functools.partial(delivery_handler, arrived=self.arrivals.append),
            frame_max=_FRAME_MAX_BYTES,
            on_blocked=self._on_blocked,
            on_unblocked=self._on_unblocked,
            socket_settings=_SOCKET_SETTINGS,
        )
        with self._guarded():
            self._connection.connect()
            self._connection.sock.settimeout(IO_SECONDS)
            self._channel = self._connection.channel(CHANNEL)
            self._channel.events["basic_return"].add(self._on_return)
            self._channel.events["basic_ack"].add(self._on_ack)
            self._channel.events["basic_nack"].add(self._on_nack)
            if confirms:
                self._channel.confirm_select()

    def declare(self, queues: Mapping[str, Arguments]) -> None:
        """Create the queues that are missing. Raises ``Trouble``, also when one exists with other arguments."""
        for name, arguments in queues.items():
            with self._guarded():
                try:
                    self._channel.queue_declare(name, durable=True, auto_delete=False, arguments=dict(arguments))
                except PreconditionFailed as fault:
                    self._lose(
                        f"queue {name} exists with other properties ({fault.reply_text}). Only in the quorum queue"
                        " that bigmarket declares is what is confirmed durable: empty that queue and delete it, or"
                        " choose another queue prefix"
                    )

    def depth(self, queue: str) -> int | None:
        """Messages ready in the queue, without those a consumer holds; None when there is no such queue."""
        with self._guarded():
            try:
                return int(self._channel.queue_declare(queue, passive=True).message_count)
            except NotFound:
                return None

    def publish(self, messages: Sequence[bytes]) -> None:
        """Send packed messages and wait until the broker has confirmed them all.

        Raises ``Trouble``; any of them may then have been sent. After a refusal because a queue is full the link
        stays alive.
        """
        for start in range(0, len(messages), WINDOW_MESSAGES):
            window = messages[start : start + WINDOW_MESSAGES]
            if self._confirms:
                self._unconfirmed.update(range(self._published + 1, self._published + len(window) + 1))
            with self._guarded():
                self._connection.transport.write(b"".join(window))
                self._connection.bytes_sent += len(window)
            self._published += len(window)
            self._confirmed()

    def consume(self, queue: str, *, tag: str, prefetch: int) -> None:
        """Have the queue's messages delivered to ``arrivals`` under ``tag``, at most ``prefetch`` unsettled."""
        with self._guarded():
            self._channel.basic_qos(0, prefetch, a_global=False)
            self._channel.basic_consume(queue, consumer_tag=tag)

    def ack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        """Settle a delivery, or all unsettled ones up to it."""
        with self._guarded():
            self._channel.basic_ack(delivery_tag, multiple=multiple)

    def reject(self, delivery_tag: int) -> None:
        """Send a delivery to its queue's dead letters."""
        with self._guarded():
            self._channel.basic_reject(delivery_tag, requeue=False)

    def read(self, seconds: float) -> bool:
        """Take in what has arrived, waiting up to ``seconds`` for the first of it; whether there was anything."""
        with self._guarded():
            return self._dispatch() or (self._connection.transport.receive(seconds) and self._dispatch())

    def tick(self) -> None:
        """Send a heartbeat if one is due. Raises ``Trouble`` when the broker's have stopped."""
        with self._guarded():
            self._connection.heartbeat_tick()

    def close(self) -> None:
        """Say goodbye within ``CLOSE_SECONDS``; the broker takes unsettled deliveries back."""
        if self.alive:
            self.alive = False
            with suppress(AMQPError, OSError):
                self._connection.sock.settimeout(CLOSE_SECONDS)
                self._connection.close()
            self._connection.collect()

    def _dispatch(self) -> bool:
        found = False
        take = self._connection.transport.take_frame
        handle = self._connection.on_inbound_frame
        while (frame := take()) is not None:
            handle(frame)
            found = True
        return found

    def _confirmed(self) -> None:
        deadline = time.monotonic() + CONFIRM_SECONDS
        while self._unconfirmed:
            left_seconds = deadline - time.monotonic()
            if left_seconds <= 0:
                self._lose(f"no confirmation within {CONFIRM_SECONDS:g} s")
            self.read(left_seconds)
        if self._confirms and self._unroutable:
            self._lose(f"queue {self._unroutable} is gone")
        if self._refused:
            refused, self._refused = self._refused, 0
            raise Trouble(f"RabbitMQ at {self._endpoint} refused {refused} messages: a queue is full.")

    def _on_ack(self, delivery_tag: int, multiple: bool) -> None:
        if multiple:
            self._unconfirmed = {number for number in self._unconfirmed if number > delivery_tag}
        else:
            self._unconfirmed.discard(delivery_tag)

    def _on_nack(self, delivery_tag: int, multiple: bool) -> None:
        before = len(self._unconfirmed)
        self._on_ack(delivery_tag, multiple)
        self._refused += before - len(self._unconfirmed)

    def _on_return(self, _fault: Exception, _exchange: str, routing_key: str, _message: object) -> None:
        self._unroutable = routing_key

    def _on_blocked(self, _reason: str) -> None:
        self._blocked = True

    def _on_unblocked(self) -> None:
        self._blocked = False

    def _lose(self, why: str) -> NoReturn:
        self.alive = False
        self._connection.collect()
        blocked = " (it had said that it is short of memory or disk and takes nothing)" if self._blocked else ""
        raise Trouble(f"RabbitMQ at {self._endpoint}: {why}{blocked}.")

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Any failure of the library or the network ends the link, and is Trouble."""
        if not self.alive:
            raise Trouble(f"RabbitMQ at {self._endpoint}: the connection is closed.")
        try:
            yield
        except AccessRefused:
            self._lose("access refused; check user, password and the user's rights on the vhost")
        except TimeoutError:
            self._lose("no answer in time")
        except Trouble:
            raise
        except Exception as fault:  # noqa: BLE001  whatever the library stumbles over is no message's fault
            self._lose(f"{type(fault).__name__}: {fault}")


class _ReadsAhead:
    """A transport that reads what has arrived in one go and cuts the frames out of memory."""

    sock: Any
    _read_ahead = b""
    _at = 0

    def take_frame(self) -> Frame | None:
        """The next frame that has arrived whole: type, channel, payload."""
        data, at = self._read_ahead, self._at
        if len(data) - at < 8:
            return None
        kind, channel, size = struct.unpack_from(">BHI", data, at)
        end = at + 7 + size
        if size > _FRAME_MAX_BYTES:
            raise UnexpectedFrame(f"frame of {size} bytes")
        if len(data) <= end:
            return None
        if data[end] != 0xCE:
            raise UnexpectedFrame("frame without an end")
        self._at = end + 1
        return kind, channel, data[at + 7 : end]

    def receive(self, seconds: float) -> bool:
        """Read once what arrives within ``seconds``; whether anything did."""
        sock = self.sock
        sock.settimeout(seconds)
        try:
            self._receive()
        except _NOTHING_YET:
            return False
        finally:
            sock.settimeout(IO_SECONDS)
        return True

    def read_frame(self) -> Frame:
        """Wait for a frame, as the library does while it waits for an answer."""
        while (frame := self.take_frame()) is None:
            self._receive()
        return frame

    def _receive(self) -> None:
        data = self.sock.recv(_READ_BYTES)
        if not data:
            raise ConnectionResetError("the broker closed the connection")
        self._read_ahead = self._read_ahead[self._at :] + data
        self._at = 0


class _TcpTransport(_ReadsAhead, TCPTransport):  # type: ignore[misc]
    pass


class _TlsTransport(_ReadsAhead, SSLTransport):  # type: ignore[misc]
    pass


class _Connection(Connection):  # type: ignore[misc]
    def Transport(self, host: str, connect_timeout: float, ssl: Any = False, *args: Any, **kwargs: Any) -> Any:  # noqa: N802
        transport = _TlsTransport if ssl else _TcpTransport
        read_timeout, write_timeout = args or (None, None)
        return transport(
            host,
            connect_timeout=connect_timeout,
            ssl=ssl,
            read_timeout=read_timeout,
            write_timeout=write_timeout,
            **kwargs,
        )


# The library would give a connection up after one second without an acknowledgement from the network.
_SOCKET_SETTINGS = {socket.TCP_USER_TIMEOUT: int(IO_SECONDS * 1_000)} if hasattr(socket, "TCP_USER_TIMEOUT") else None
