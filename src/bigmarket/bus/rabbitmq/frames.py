"""The AMQP 0-9-1 frames that travel once per message, packed and unpacked here; all others are the library's.

Packing a message this way costs a tenth of building and serialising the library's objects, and a whole batch leaves
in one write. Tasks that leave together share messages (decision 20): what a broker costs, it costs per message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from struct import pack, unpack_from
from typing import Any, NamedTuple

import msgspec
from amqp import UnexpectedFrame  # type: ignore[import-untyped]
from amqp.method_framing import frame_handler  # type: ignore[import-untyped]
from amqp.serialization import decode_properties_basic, loads  # type: ignore[import-untyped]

from bigmarket.errors import BadInput
from bigmarket.outbox.task import Task

CHANNEL = 1  # the only one of a connection

_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_END = b"\xce"
_BASIC = 60
_PUBLISH = 40
_DELIVER = pack(">HH", _BASIC, 60)
_BODY_MAX = 4096 - 8  # every peer takes frames of 4096 bytes, whatever was negotiated
_SHORT_MAX = 255
_PROPERTIES = 0x8000 | 0x2000 | 0x1000 | 0x0080 | 0x0020  # content_type, headers, delivery_mode, message_id, type
_ONE = "application/json"  # a task's message; its attempts and user id are headers
_SEVERAL = "application/vnd.bigmarket.tasks+json"  # [[message id, user id, attempts, message], ...]

FOLD_TASKS_MAX = 64  # in one message
FOLD_BYTES_MAX = 64 << 10  # of their own messages; a larger one goes alone

Frame = tuple[int, int, bytes]


class Arrival(NamedTuple):
    """A message as the broker delivered it; ``header`` is its content header, not yet read."""

    delivery_tag: int
    consumer_tag: str
    header: bytes
    body: bytes


class NotUnderstood(ValueError):
    """A message that is none of ours; the text says why."""


class Address:
    """Packs messages of one topic for one queue: persistent, mandatory, on the default exchange."""

    def __init__(self, queue: str, *, topic: str) -> None:
        self.queue = queue
        method = pack(">HHHB", _BASIC, _PUBLISH, 0, 0) + _short(queue) + b"\x01"
        self._method = _frame(_METHOD, method)
        self._topic = _short(topic)

    def pack(self, task: Task, *, reason: str = "") -> bytes:
        """The frames of one task alone; ``reason`` is why it failed before. Raises BadInput: message id too long."""
        user_id = task.user_id.encode()
        table = b"\x07user_idS%b%b\x08attemptsI%b" % (pack(">I", len(user_id)), user_id, pack(">i", task.attempts))
        if reason:
            text = reason.encode(errors="replace")
            table += b"\x06reasonS%b%b" % (pack(">I", len(text)), text)
        return self._message(task.message, content_type=_ONE, table=table, message_id=task.message_id)

    def fold(self, tasks: Sequence[Task]) -> Iterator[bytes]:
        """The frames of all tasks, in order, as few messages as may be. Raises BadInput: message id too long."""
        for some in _folds(tasks):
            if len(some) == 1:
                yield self.pack(some[0])
                continue
            body = _encode([(t.message_id, t.user_id, t.attempts, t.message.decode()) for t in some])
            yield self._message(body, content_type=_SEVERAL, table=b"", message_id=some[0].message_id)

    def _message(self, body: bytes, *, content_type: str, table: bytes, message_id: str) -> bytes:
        properties = b"%b%b%b%b\x02%b%b" % (
            pack(">H", _PROPERTIES),
            _short(content_type),
            pack(">I", len(table)),
            table,
            _short(message_id),
            self._topic,
        )
        header = pack(">HHQ", _BASIC, 0, len(body)) + properties
        return self._method + _frame(_HEADER, header) + _body(body)

    def repack(self, arrival: Arrival) -> bytes:
        """The frames of a message with the properties it came with."""
        return self._method + _frame(_HEADER, arrival.header) + _body(arrival.body)


def properties_of(arrival: Arrival) -> dict[str, Any]:
    """The message's properties, headers under ``application_headers``. Raises NotUnderstood."""
    try:
        return dict(decode_properties_basic(arrival.header, 12)[0])
    except Exception as fault:  # whatever a stranger's bytes lead to
        raise NotUnderstood(f"its properties cannot be read ({type(fault).__name__})") from fault


def tasks_of(arrival: Arrival, *, topic: str) -> list[Task]:
    """The tasks that a message of ``topic`` carries, at least one. Raises NotUnderstood."""
    properties = properties_of(arrival)
    if not properties.get("message_id"):
        raise NotUnderstood("it has no message id")
    if properties.get("type") != topic:
        raise NotUnderstood("its type is not the queue's topic")
    if not arrival.body:
        raise NotUnderstood("its body is empty")
    if properties.get("content_type") == _SEVERAL:
        return _unfolded(arrival.body, topic=topic)
    headers = properties.get("application_headers") or {}
    user_id, attempts = headers.get("user_id"), headers.get("attempts", 0)
    if not user_id or not isinstance(user_id, str):
        raise NotUnderstood("it has no user_id header")
    if type(attempts) is not int or attempts < 0:
        raise NotUnderstood("its attempts header is no count")
    return [Task(properties["message_id"], user_id, topic, arrival.body, attempts)]


def deliveries_of(arrival: Arrival) -> int:
    """How often the broker has delivered the message before, as quorum queues count. Raises NotUnderstood."""
    headers = properties_of(arrival).get("application_headers") or {}
    count = headers.get("x-delivery-count", 0)
    return count if isinstance(count, int) else 0


def _folds(tasks: Sequence[Task]) -> Iterator[Sequence[Task]]:
    """The tasks in pieces that fit into a message each."""
    start = room = 0
    for place, task in enumerate(tasks):
        room -= len(task.message)
        if room < 0 or place - start == FOLD_TASKS_MAX:
            if place > start:
                yield tasks[start:place]
            start, room = place, FOLD_BYTES_MAX - len(task.message)
    if tasks:
        yield tasks[start:]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[tuple[str, str, int, str]]).decode


def _unfolded(body: bytes, *, topic: str) -> list[Task]:
    try:
        rows = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise NotUnderstood("its body is no list of tasks") from fault
    tasks = [Task(message_id, user, topic, message.encode(), n) for message_id, user, n, message in rows]
    if not tasks or not all(t.message_id and t.user_id and t.message and t.attempts >= 0 for t in tasks):
        raise NotUnderstood("its body is no list of tasks")
    return tasks


def delivery_handler(
    connection: Any, callback: Callable[..., None], *, arrived: Callable[[Arrival], None]
) -> Callable[[Frame], bool]:
    """A frame handler for the library's connection: deliveries go to ``arrived``, all else the library's way.

    Properties stay packed, so that a message with unreadable ones can still be rejected rather than break the
    connection of its neighbours.
    """
    others = frame_handler(connection, callback)
    method = header = b""
    body: list[bytes] = []
    missing = 0

    def on_frame(frame: Frame) -> bool:
        nonlocal method, header, missing
        kind, _, payload = frame
        if kind == _METHOD and not method and payload.startswith(_DELIVER):
            connection.bytes_recv += 1
            method = payload
            return False
        if not method or kind == _HEARTBEAT:
            return bool(others(frame))
        connection.bytes_recv += 1
        if kind == _HEADER and not header:
            header = payload
            (missing,) = unpack_from(">Q", payload, 4)
        elif kind == _BODY and header:
            body.append(payload)
            missing -= len(payload)
        else:
            raise UnexpectedFrame(f"frame of type {kind} inside a delivery")
        if missing > 0:
            return False
        (consumer_tag, delivery_tag), _ = loads("sL", method, 4)
        arrival = Arrival(delivery_tag, consumer_tag, header, b"".join(body))
        method = header = b""
        body.clear()
        arrived(arrival)
        return True

    return on_frame


def _frame(kind: int, payload: bytes) -> bytes:
    return pack(">BHI", kind, CHANNEL, len(payload)) + payload + _END


def _body(body: bytes) -> bytes:
    if len(body) <= _BODY_MAX:
        return _frame(_BODY, body) if body else b""
    return b"".join(_frame(_BODY, body[at : at + _BODY_MAX]) for at in range(0, len(body), _BODY_MAX))


def _short(text: str) -> bytes:
    data = text.encode()
    if len(data) > _SHORT_MAX:
        raise BadInput(f"A message's id, type and queue have at most {_SHORT_MAX} bytes each.")
    return pack(">B", len(data)) + data
