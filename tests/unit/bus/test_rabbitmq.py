"""What of the RabbitMQ bus needs no broker: the URL, the frames, the queues."""

from __future__ import annotations

from collections.abc import Iterator
from struct import pack, unpack_from
from types import SimpleNamespace
from typing import Any

import pytest
from amqp import Message, UnexpectedFrame
from amqp.method_framing import frame_handler
from amqp.serialization import dumps
from hypothesis import given
from hypothesis import strategies as st

from bigmarket.bus.rabbitmq.endpoint import endpoint_of
from bigmarket.bus.rabbitmq.frames import Address, Arrival, NotUnderstood, delivery_handler, tasks_of
from bigmarket.bus.rabbitmq.topology import BACKOFF_MS, queues, retry_queue
from bigmarket.errors import BadInput
from bigmarket.outbox.task import ATTEMPTS_MAX, Task

TOPIC = "send_award"
TASK = Task("01HX", "ann", TOPIC, b'{"award":1}', attempts=2)


def frames_of(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    while data:
        kind, channel, size = unpack_from(">BHI", data, 0)
        assert data[7 + size] == 0xCE
        yield kind, channel, data[7 : 7 + size]
        data = data[8 + size :]


def delivered(packed: bytes, *, tag: int = 7) -> list[tuple[int, int, bytes]]:
    """The frames by which the broker would deliver what was published."""
    _, *content = frames_of(packed)
    method = pack(">HH", 60, 60) + dumps("sLbss", ("q", tag, False, "", "q"))
    return [(1, 1, method), *content]


def arrival_of(packed: bytes) -> Arrival:
    arrivals: list[Arrival] = []
    handle = delivery_handler(SimpleNamespace(bytes_recv=0), lambda *_: None, arrived=arrivals.append)
    ready = [handle(frame) for frame in delivered(packed)]
    assert ready == [False] * (len(ready) - 1) + [True]
    return arrivals[0]


def arrival_with(body: bytes = b"{}", **properties: Any) -> Arrival:
    packed = Message(body, **properties)._serialize_properties()
    return Arrival(1, "q", pack(">HHQ", 60, 0, len(body)) + packed, body)


@pytest.mark.parametrize(
    ("url", "address", "login", "vhost", "tls"),
    [
        ("amqp://localhost", "localhost:5672", ("guest", "guest"), "/", False),
        ("amqps://ann:p%40ss@mq.example:5999/shop", "mq.example:5999", ("ann", "p@ss"), "shop", True),
        ("amqp://ann:x@[::1]/%2Fa", "[::1]:5672", ("ann", "x"), "/a", False),
        ("amqps://mq.example/", "mq.example:5671", ("guest", "guest"), "/", True),
    ],
)
def test_a_url_is_read(url: str, address: str, login: tuple[str, str], vhost: str, tls: bool) -> None:
    endpoint = endpoint_of(url)
    assert (endpoint.address, (endpoint.user, endpoint.password)) == (address, login)
    assert (endpoint.vhost, endpoint.tls) == (vhost, tls)


def test_an_endpoint_shows_no_password() -> None:
    endpoint = endpoint_of("amqp://ann:sesame@mq.example/shop")
    assert "sesame" not in f"{endpoint} {endpoint!r}"
    assert str(endpoint) == "mq.example:5672, vhost shop"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://a:secret@b",
        "amqp://",
        "amqp://a:secret@b:port/",
        "amqp://a:secret@b/?heartbeat=1",
        "amqp://[secret",
    ],
)
def test_a_wrong_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(BadInput) as refusal:
        endpoint_of(url)
    assert "secret" not in str(refusal.value)


TEXT = st.characters(codec="utf-8")
TASKS = st.builds(
    Task,
    st.text(TEXT, min_size=1, max_size=60),
    st.text(TEXT, min_size=1),
    st.just(TOPIC),
    st.text(TEXT, min_size=1, max_size=20_000).map(str.encode),
    st.integers(0, 2**31 - 1),
)


@given(TASKS, st.text(max_size=300))
def test_what_is_packed_is_understood(task: Task, reason: str) -> None:
    arrival = arrival_of(Address("p.q", topic=TOPIC).pack(task, reason=reason))
    assert tasks_of(arrival, topic=TOPIC) == [task]
    assert (arrival.delivery_tag, arrival.consumer_tag) == (7, "q")


@given(st.lists(TASKS, max_size=200), st.integers(1, 64 << 10))
def test_what_is_folded_is_understood_in_order(tasks: list[Task], room: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bigmarket.bus.rabbitmq.frames.FOLD_BYTES_MAX", room)
        messages = [arrival_of(packed) for packed in Address("p.q", topic=TOPIC).fold(tasks)]
    folded = [tasks_of(arrival, topic=TOPIC) for arrival in messages]
    assert [task for some in folded for task in some] == tasks
    assert all(len(some) == 1 or len(some) <= 64 for some in folded)
    assert all(len(some) == 1 or sum(len(task.message) for task in some) <= room for some in folded)


def test_one_task_alone_travels_as_it_is() -> None:
    address = Address("p.q", topic=TOPIC)
    assert list(address.fold([TASK])) == [address.pack(TASK)]
    assert list(address.fold([])) == []
    assert [len(list(address.fold([TASK] * n))) for n in (2, 64, 65, 129)] == [1, 1, 2, 3]


@pytest.mark.parametrize(
    "body", [b"{", b"{}", b"[]", b'[["m","ann",0]]', b'[["","ann",0,"{}"]]', b'[["m","ann",-1,"{}"]]', b"\xff"]
)
def test_a_list_that_is_none_is_not_understood(body: bytes) -> None:
    kind = "application/vnd.bigmarket.tasks+json"
    with pytest.raises(NotUnderstood, match="no list of tasks"):
        tasks_of(arrival_with(body, message_id="m", content_type=kind, type=TOPIC), topic=TOPIC)


def test_the_library_reads_our_frames() -> None:
    found: list[tuple[Any, ...]] = []
    handle = frame_handler(SimpleNamespace(bytes_recv=0), lambda *args: found.append(args))
    for frame in delivered(Address("p.q", topic=TOPIC).pack(TASK, reason="ValueError: no")):
        handle(frame)
    ((_, _, _, message),) = found
    assert message.body == TASK.message
    assert message.properties == {
        "content_type": "application/json",
        "application_headers": {"user_id": "ann", "attempts": 2, "reason": "ValueError: no"},
        "delivery_mode": 2,
        "message_id": "01HX",
        "type": TOPIC,
    }


def test_the_method_says_mandatory_default_exchange_and_queue() -> None:
    (kind, channel, payload), *_ = frames_of(Address("p.q", topic=TOPIC).pack(TASK))
    assert (kind, channel, payload) == (1, 1, pack(">HH", 60, 40) + dumps("Bssbb", (0, "", "p.q", True, False)))


def test_repacking_keeps_strange_properties() -> None:
    strange = arrival_with(b"?", app_id="other", application_headers={"n": 1.5})
    assert arrival_of(Address("p.q", topic=TOPIC).repack(strange))[2:] == strange[2:]


def test_ids_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadInput):
        Address("p.q", topic=TOPIC).pack(TASK._replace(message_id="é" * 128))


@pytest.mark.parametrize(
    ("arrival", "why"),
    [
        (arrival_with(application_headers={"user_id": "ann"}, type=TOPIC), "message id"),
        (arrival_with(message_id="m", type=TOPIC), "user_id"),
        (arrival_with(message_id="m", application_headers={"user_id": 5}, type=TOPIC), "user_id"),
        (arrival_with(message_id="m", application_headers={"user_id": "ann"}, type="other"), "topic"),
        (arrival_with(message_id="m", application_headers={"user_id": "ann"}), "topic"),
        (arrival_with(message_id="m", application_headers={"user_id": "a", "attempts": -1}, type=TOPIC), "attempts"),
        (
            arrival_with(message_id="m", application_headers={"user_id": "a", "attempts": True}, type=TOPIC),
            "attempts",
        ),
        (arrival_with(b"", message_id="m", application_headers={"user_id": "ann"}, type=TOPIC), "body"),
        (Arrival(1, "q", pack(">HHQH", 60, 0, 1, 0x0080) + b"\x02\xff\xff", b"x"), "properties"),
        (Arrival(1, "q", b"", b"x"), "properties"),
    ],
)
def test_a_message_that_is_none_of_ours_says_why(arrival: Arrival, why: str) -> None:
    with pytest.raises(NotUnderstood, match=why):
        tasks_of(arrival, topic=TOPIC)


def test_a_heartbeat_inside_a_delivery_is_no_part_of_it() -> None:
    arrivals: list[Arrival] = []
    connection = SimpleNamespace(bytes_recv=0)
    handle = delivery_handler(connection, lambda *_: None, arrived=arrivals.append)
    first, *rest = delivered(Address("p.q", topic=TOPIC).pack(TASK))
    for frame in [first, (8, 0, b""), *rest, first, *rest]:
        handle(frame)
    assert [arrival.body for arrival in arrivals] == [TASK.message] * 2
    assert connection.bytes_recv == 7


def test_frames_out_of_order_break_the_connection() -> None:
    first, _, body = delivered(Address("p.q", topic=TOPIC).pack(TASK))
    for wrong in (first, body):
        handle = delivery_handler(SimpleNamespace(bytes_recv=0), lambda *_: None, arrived=lambda _: None)
        handle(first)
        with pytest.raises(UnexpectedFrame):
            handle(wrong)


def test_every_attempt_but_the_last_has_its_wait() -> None:
    assert len(BACKOFF_MS) == ATTEMPTS_MAX - 1
    assert list(BACKOFF_MS) == sorted(BACKOFF_MS)
    assert retry_queue("t", wait_ms=1_000) == "t.retry.1s"
    assert retry_queue("t", wait_ms=50) == "t.retry.0.05s"


def test_all_queues_are_quorum_bounded_and_lose_nothing_on_the_way() -> None:
    declared = queues("p.", ["a", "b"], backoff_ms=BACKOFF_MS)
    assert len(declared) == 2 * (2 + len(BACKOFF_MS))
    for name, arguments in declared.items():
        assert arguments["x-queue-type"] == "quorum"
        assert arguments["x-overflow"] == "reject-publish"
        assert arguments["x-max-length"]
        if not name.endswith(".parked"):
            assert arguments["x-dead-letter-strategy"] == "at-least-once"
            assert arguments["x-dead-letter-routing-key"] in declared
