"""The RabbitMQ bus against a broker on 127.0.0.1:5672; every test has queues of its own."""

from __future__ import annotations

import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from amqp import Message

from bigmarket.bus.rabbitmq import ConsumerStats, RabbitConsumer, RabbitParking, RabbitPublisher, queue_depths
from bigmarket.bus.rabbitmq.consumer import UNFOLD_DELIVERIES, Delivery
from bigmarket.bus.rabbitmq.endpoint import endpoint_of
from bigmarket.bus.rabbitmq.link import Link
from bigmarket.bus.rabbitmq.topology import BACKOFF_MS as DEFAULT_BACKOFF_MS
from bigmarket.bus.rabbitmq.topology import DELIVERIES_MAX, queues
from bigmarket.errors import NotFound, StorageFull, Trouble
from bigmarket.outbox.task import ATTEMPTS_MAX, Task
from certificates import self_signed
from proxy import Proxy
from waiting import eventually

BROKER = ("127.0.0.1", 5672)
URL = "amqp://guest:guest@127.0.0.1:5672/"
AWARD, REBATE = "send_award", "send_rebate"
TOPICS = (AWARD, REBATE)
BACKOFF_MS = (20, 30, 40, 50)
WAIT = 15.0


@pytest.fixture(scope="module", autouse=True)
def broker() -> None:
    try:
        socket.create_connection(BROKER, timeout=1.0).close()
    except OSError:
        pytest.skip("RabbitMQ does not answer on 127.0.0.1:5672")


@pytest.fixture
def prefix() -> Iterator[str]:
    unique = f"test-{uuid.uuid4().hex[:12]}."
    yield unique
    link = Link(endpoint_of(URL), name="test clean-up")
    for queue in queues(unique, TOPICS, backoff_ms=[*BACKOFF_MS, *DEFAULT_BACKOFF_MS]):
        channel_of(link).queue_delete(queue)
    link.close()


@pytest.fixture
def publisher(prefix: str) -> Iterator[RabbitPublisher]:
    opened = RabbitPublisher(URL, prefix=prefix, topics=TOPICS)
    yield opened
    opened.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    opened = Proxy(BROKER)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigmarket.bus.rabbitmq.consumer.PAUSE_MIN_SECONDS", 0.01)
    monkeypatch.setattr("bigmarket.bus.rabbitmq.consumer.PAUSE_MAX_SECONDS", 0.05)
    monkeypatch.setattr("bigmarket.bus.rabbitmq.consumer.IDLE_SECONDS", 0.05)


@dataclass
class Effects:
    """What consumers did: ``done`` in order, ``parked`` with reasons; some ids are poison, some in trouble."""

    poison: set[str] = field(default_factory=set)
    troubled: set[str] = field(default_factory=set)
    trouble: Trouble | None = None
    tried: list[Task] = field(default_factory=list)
    done: list[Task] = field(default_factory=list)
    parked: list[tuple[Task, str]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def handle(self, tasks: Sequence[Task]) -> None:
        ids = {task.message_id for task in tasks}
        self.tried += tasks
        if self.trouble is not None:
            raise self.trouble
        if ids & self.poison:
            raise ValueError("no such award")
        if ids & self.troubled:
            raise Trouble("locked")
        self.done += tasks
        self.batches.append(len(tasks))

    def park(self, task: Task, reason: str) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.parked.append((task, reason))

    @property
    def ids(self) -> list[str]:
        return sorted(task.message_id for task in self.done)


@pytest.fixture
def effects() -> Effects:
    return Effects()


@pytest.fixture
def consuming(prefix: str, effects: Effects) -> Iterator[Callable[..., RabbitConsumer]]:
    """Starts consumers that are stopped at the end."""
    started: list[RabbitConsumer] = []

    def start(url: str = URL, **options: Any) -> RabbitConsumer:
        options = {"handle": effects.handle, "park": effects.park, "backoff_ms": BACKOFF_MS} | options
        started.append(
            RabbitConsumer(url, prefix=prefix, topics=TOPICS, now_ms=lambda: time.time_ns() // 1_000_000, **options)
        )
        started[-1].start()
        return started[-1]

    yield start
    for consumer in started:
        assert consumer.stop(timeout_seconds=WAIT)


def tasks_of(count: int, *, topic: str = AWARD) -> list[Task]:
    return [Task(f"{topic}-{n:05d}", f"user-{n}", topic, f'{{"n":{n}}}'.encode()) for n in range(count)]


def depth(prefix: str, name: str) -> int:
    return queue_depths(URL, prefix, TOPICS, backoff_ms=BACKOFF_MS).get(name, 0)


def channel_of(link: Link) -> Any:
    return link._channel


def publish_raw(prefix: str, *messages: Message, topic: str = AWARD) -> None:
    """Messages that our publisher would never send."""
    link = Link(endpoint_of(URL), name="test stranger")
    link.declare(queues(prefix, TOPICS))
    for message in messages:
        channel_of(link).basic_publish(message, routing_key=f"{prefix}{topic}")
    link.close()


def via(proxy: Proxy) -> str:
    return f"amqp://guest:guest@127.0.0.1:{proxy.port}/"


def test_what_is_confirmed_arrives_unchanged(
    publisher: RabbitPublisher, effects: Effects, consuming: Callable[..., RabbitConsumer], prefix: str
) -> None:
    sent = [*tasks_of(700), *tasks_of(50, topic=REBATE)]
    sent[3] = sent[3]._replace(user_id="玩家", message=b"x" * 300_000)
    publisher.publish(sent)
    assert depth(prefix, AWARD) == 1 + 1 + 11  # messages: what comes before the large one, that one, 64 in each
    consumer = consuming()
    eventually(lambda: len(effects.done) >= 750)
    assert sorted(effects.done) == sorted(sent)
    assert [task for task in effects.done if task.topic == AWARD] == sent[:700]
    assert max(effects.batches) <= 256
    assert consumer.stop(timeout_seconds=WAIT)
    assert consumer.stats() == ConsumerStats(consumed=750, failed=0, parked=0, troubles=0)
    assert set(queue_depths(URL, prefix, TOPICS, backoff_ms=BACKOFF_MS).values()) == {0}


def test_nothing_and_unknown_topics(publisher: RabbitPublisher) -> None:
    publisher.publish([])
    with pytest.raises(NotFound):
        publisher.publish([*tasks_of(1), Task("m", "ann", "elsewhere", b"{}")])


def test_a_lost_queue_is_trouble_and_comes_back(publisher: RabbitPublisher, prefix: str) -> None:
    publisher.publish(tasks_of(1))
    link = Link(endpoint_of(URL), name="test vandal")
    channel_of(link).queue_delete(f"{prefix}{AWARD}")
    link.close()
    with pytest.raises(Trouble, match="is gone"):
        publisher.publish(tasks_of(10))
    publisher.publish(tasks_of(10))
    assert depth(prefix, AWARD) == 1


def test_teeth_without_confirms_a_lost_queue_goes_unnoticed(prefix: str) -> None:
    reckless = RabbitPublisher(URL, prefix=prefix, topics=TOPICS, confirms=False)
    reckless.publish(tasks_of(1))
    link = Link(endpoint_of(URL), name="test vandal")
    channel_of(link).queue_delete(f"{prefix}{AWARD}")
    link.close()
    reckless.publish(tasks_of(10))
    reckless.publish(tasks_of(10))
    reckless.close()
    assert depth(prefix, AWARD) == 0


def test_a_full_queue_is_trouble_until_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
    prefix: str,
    effects: Effects,
    consuming: Callable[..., RabbitConsumer],
) -> None:
    monkeypatch.setattr("bigmarket.bus.rabbitmq.topology.LENGTH_MAX", 5)
    publisher = RabbitPublisher(URL, prefix=prefix, topics=TOPICS)
    with pytest.raises(Trouble, match="full"):
        for task in tasks_of(100):
            publisher.publish([task])
    link = publisher._sender._link
    assert link is not None
    assert link.alive
    consuming()
    eventually(lambda: len(effects.done) >= 5)
    eventually(lambda: accepted(publisher))
    publisher.close()


def accepted(publisher: RabbitPublisher) -> bool:
    try:
        publisher.publish(tasks_of(1))
    except Trouble:
        return False
    return True


def test_a_queue_that_is_not_ours_is_refused_with_what_to_do(publisher: RabbitPublisher, prefix: str) -> None:
    link = Link(endpoint_of(URL), name="test predecessor")
    channel_of(link).queue_declare(f"{prefix}{AWARD}", durable=True, auto_delete=False)
    link.close()
    with pytest.raises(Trouble, match=r"empty that queue and delete it") as trouble:
        publisher.publish(tasks_of(1))
    assert f"{prefix}{AWARD}" in str(trouble.value)


def test_a_publisher_outlives_its_connection(prefix: str, proxy: Proxy) -> None:
    publisher = RabbitPublisher(via(proxy), prefix=prefix, topics=TOPICS)
    publisher.publish(tasks_of(5))
    proxy.cut()
    time.sleep(0.05)
    publisher.publish(tasks_of(5))  # an idle connection that broke is replaced before anything is sent
    link = publisher._sender._link
    assert link is not None
    proxy.silence()
    threading.Timer(0.2, proxy.cut).start()
    with pytest.raises(Trouble):
        publisher.publish(tasks_of(5))
    proxy.restore()
    publisher.publish(tasks_of(5))
    publisher.close()
    assert depth(prefix, AWARD) == 4  # the message whose confirmation was lost had arrived


def test_no_confirmation_in_time_is_trouble(prefix: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigmarket.bus.rabbitmq.link.CONFIRM_SECONDS", 0.2)
    publisher = RabbitPublisher(via(proxy), prefix=prefix, topics=TOPICS)
    publisher.publish(tasks_of(1))
    proxy.silence()
    started = time.monotonic()
    with pytest.raises(Trouble, match=r"no confirmation within 0\.2 s"):
        publisher.publish(tasks_of(1))
    assert time.monotonic() - started < WAIT
    proxy.restore()
    publisher.publish(tasks_of(1))
    publisher.close()


def test_a_broker_that_never_answers_is_trouble(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigmarket.bus.rabbitmq.link.CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"amqp://guest:guest@127.0.0.1:{mute.getsockname()[1]}/"
        started = time.monotonic()
        with pytest.raises(Trouble, match="no answer in time"):
            RabbitPublisher(url, prefix=prefix, topics=TOPICS).publish(tasks_of(1))
        assert time.monotonic() - started < WAIT


@pytest.mark.parametrize(
    "url",
    [
        "amqp://guest:sesame@127.0.0.1:5672/",
        "amqp://guest:sesame@127.0.0.1:9/",
        "amqp://guest:guest@127.0.0.1:5672/no-such-vhost",
    ],
)
def test_no_way_in_is_trouble_that_names_the_place_but_no_password(url: str, prefix: str) -> None:
    with pytest.raises(Trouble) as trouble:
        RabbitPublisher(url, prefix=prefix, topics=TOPICS).publish(tasks_of(1))
    assert "127.0.0.1" in str(trouble.value)
    assert "sesame" not in repr(trouble.value)


def test_poison_is_parked_with_its_reason_and_neighbours_are_delivered_once(
    publisher: RabbitPublisher, effects: Effects, consuming: Callable[..., RabbitConsumer], prefix: str
) -> None:
    sent = tasks_of(100)
    effects.poison = {sent[40].message_id}
    publisher.publish(sent)
    consumer = consuming()
    eventually(lambda: bool(effects.parked) and len(effects.done) >= 99)
    assert effects.parked == [(sent[40]._replace(attempts=ATTEMPTS_MAX), "ValueError: no such award")]
    assert effects.done == [*sent[:40], *sent[41:]]
    attempts = [task.attempts for task in effects.tried if task.message_id in effects.poison]
    assert sorted(set(attempts)) == list(range(ATTEMPTS_MAX))
    assert consumer.stop(timeout_seconds=WAIT)
    assert consumer.stats() == ConsumerStats(consumed=99, failed=ATTEMPTS_MAX - 1, parked=1, troubles=0)
    assert set(queue_depths(URL, prefix, TOPICS, backoff_ms=BACKOFF_MS).values()) == {0}


def test_trouble_counts_against_no_message_and_parks_nothing(
    publisher: RabbitPublisher, effects: Effects, consuming: Callable[..., RabbitConsumer], prefix: str
) -> None:
    sent = tasks_of(100)
    effects.trouble = StorageFull("full")
    publisher.publish(sent)
    consumer = consuming()
    eventually(lambda: consumer.stats().troubles >= 30)
    effects.trouble = None
    eventually(lambda: len(effects.done) >= 100)
    assert effects.ids == [task.message_id for task in sent]
    assert {task.attempts for task in effects.done} == {0}
    assert effects.parked == []
    assert depth(prefix, f"{AWARD}.parked") == 0


def test_only_what_is_settled_is_acknowledged_in_trouble(
    publisher: RabbitPublisher, effects: Effects, consuming: Callable[..., RabbitConsumer]
) -> None:
    def handle(tasks: Sequence[Task]) -> None:
        if len(effects.done) >= 5:
            raise Trouble("locked")
        if len(tasks) > 1:
            raise ValueError("something in here")
        effects.handle(tasks)

    one_by_one(publisher, tasks_of(50))
    consumer = consuming(handle=handle)
    eventually(lambda: consumer.stats().troubles >= 1)
    assert consumer.stop(timeout_seconds=WAIT)
    assert len(effects.done) == 5
    consuming()
    eventually(lambda: len(effects.done) >= 50)
    assert effects.ids == [task.message_id for task in tasks_of(50)]


def one_by_one(publisher: RabbitPublisher, tasks: Sequence[Task]) -> None:
    """Each in a message of its own."""
    for task in tasks:
        publisher.publish([task])


def test_a_message_is_acknowledged_when_all_its_tasks_are_settled(
    publisher: RabbitPublisher, effects: Effects, consuming: Callable[..., RabbitConsumer], prefix: str
) -> None:
    def handle(tasks: Sequence[Task]) -> None:
        if len(effects.done) >= 70:
            raise Trouble("locked")
        if len(tasks) > 1:
            raise ValueError("something in here")
        effects.handle(tasks)

    sent = tasks_of(200)
    publisher.publish(sent)
    consumer = consuming(handle=handle)
    eventually(lambda: consumer.stats().troubles >= 1)
    assert consumer.stop(timeout_seconds=WAIT)
    assert effects.done == sent[:70]
    eventually(lambda: depth(prefix, AWARD) == 3)  # the first of four, with 64 tasks, is done
    consuming()
    eventually(lambda: len(effects.done) >= 70 + 136)
    assert effects.done[70:] == sent[64:]  # six come again, which does no harm; none is missing


def test_teeth_a_message_acknowledged_with_its_first_task_loses_the_others(
    publisher: RabbitPublisher,
    effects: Effects,
    consuming: Callable[..., RabbitConsumer],
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "bigmarket.bus.rabbitmq.consumer.Delivery", lambda tag, task, _last: Delivery(tag, task, last=True)
    )

    def handle(tasks: Sequence[Task]) -> None:
        if effects.done:
            raise Trouble("locked")
        if len(tasks) > 1:
            raise ValueError("something in here")
        effects.handle(tasks)

    publisher.publish(tasks_of(20))
    consumer = consuming(handle=handle)
    eventually(lambda: consumer.stats().troubles >= 1)
    assert consumer.stop(timeout_seconds=WAIT)
    assert depth(prefix, AWARD) == 0
    assert len(effects.done) == 1


def test_a_message_that_loses_its_consumers_is_taken_apart(
    publisher: RabbitPublisher, effects: Effects, consuming: Callable[..., RabbitConsumer], prefix: str
) -> None:
    sent = tasks_of(30)
    publisher.publish(sent)
    lose_consumers(prefix, times=UNFOLD_DELIVERIES)
    gate = threading.Event()

    def handle(tasks: Sequence[Task]) -> None:
        assert gate.wait(WAIT)
        effects.handle(tasks)

    consuming(handle=handle, prefetch=1)
    eventually(lambda: depth(prefix, AWARD) >= 28)  # one in hand, as only one may be
    gate.set()
    eventually(lambda: len(effects.done) >= 30)
    assert effects.ids == [task.message_id for task in sent]
    assert depth(prefix, f"{AWARD}.parked") == 0


def lose_consumers(prefix: str, *, times: int) -> None:
    """Have the queue's first message delivered so often to somebody who dies of it."""
    for _ in range(times):
        dying = Link(endpoint_of(URL), name="test dying")
        dying.consume(f"{prefix}{AWARD}", tag="t", prefetch=1)
        eventually(lambda link=dying: link.read(0.1) and bool(link.arrivals))
        dying.close()


def test_tasks_that_were_parked_together_are_settled_one_by_one(
    publisher: RabbitPublisher, effects: Effects, consuming: Callable[..., RabbitConsumer], prefix: str
) -> None:
    sent = tasks_of(5)
    publisher.publish(sent)
    lose_consumers(prefix, times=DELIVERIES_MAX + 1)
    parking = RabbitParking(URL, prefix=prefix, topics=TOPICS)
    eventually(lambda: parking.count() == 1)
    assert [parked.message_id for parked in parking.list()] == [task.message_id for task in sent]
    eventually(lambda: parking.count() == 1)
    assert parking.drop(sent[1].message_id) == 1
    assert parking.redrive(sent[3].message_id) == 1
    assert [parked.message_id for parked in parking.list()] == [sent[n].message_id for n in (0, 2, 4)]
    assert {parked.reason for parked in parking.list()} == {
        "delivered 20 times, and every time its consumer was lost"
    }
    eventually(lambda: parking.count() == 3)
    consuming()
    eventually(lambda: effects.done == [sent[3]])
    assert parking.redrive() == 3
    eventually(lambda: len(effects.done) == 4)


def test_what_a_lost_connection_delivered_is_forgotten(
    publisher: RabbitPublisher, effects: Effects, prefix: str
) -> None:
    consumer = RabbitConsumer(
        URL, prefix=prefix, topics=TOPICS, handle=effects.handle, park=effects.park, now_ms=lambda: 0
    )
    publisher.publish(tasks_of(10))
    effects.trouble = Trouble("locked")
    with pytest.raises(Trouble, match="locked"):
        consumer._turn()
    assert len(consumer._inbox) == 10
    assert consumer._link is not None
    consumer._link._connection.sock.shutdown(socket.SHUT_RDWR)
    with pytest.raises(Trouble, match="RabbitMQ at"):
        consumer._turn()
    effects.trouble = None
    while len(effects.done) < 10:
        consumer._turn()
    consumer._turn()
    assert effects.ids == [task.message_id for task in tasks_of(10)]
    consumer._disconnect()
    assert depth(prefix, AWARD) == 0


def test_a_message_that_troubles_the_machinery_does_not_hold_up_the_rest(
    publisher: RabbitPublisher, effects: Effects, consuming: Callable[..., RabbitConsumer]
) -> None:
    sent = tasks_of(100)
    effects.troubled = {sent[0].message_id}
    publisher.publish(sent)
    consuming()
    eventually(lambda: len(effects.done) >= 99)
    effects.troubled.clear()
    eventually(lambda: len(effects.done) >= 100)
    assert effects.ids == [task.message_id for task in sent]
    assert effects.done[-1].attempts == 0


def test_a_parking_lot_in_trouble_loses_nothing(
    publisher: RabbitPublisher, effects: Effects, consuming: Callable[..., RabbitConsumer]
) -> None:
    full = [StorageFull("full")] * 3

    def park(task: Task, reason: str) -> None:
        if full:
            raise full.pop()
        effects.park(task, reason)

    doomed = tasks_of(1)[0]
    effects.poison = {doomed.message_id}
    publisher.publish([doomed])
    consuming(park=park)
    eventually(lambda: len(effects.parked) == 1)
    assert effects.parked[0][0].attempts == ATTEMPTS_MAX


def test_a_consumer_outlives_its_connection(
    publisher: RabbitPublisher, effects: Effects, consuming: Callable[..., RabbitConsumer], proxy: Proxy
) -> None:
    cuts = 3

    def handle(tasks: Sequence[Task]) -> None:
        nonlocal cuts
        effects.handle(tasks)
        if cuts:
            cuts -= 1
            proxy.cut()
            time.sleep(0.02)

    sent = tasks_of(500)
    publisher.publish(sent)
    consumer = consuming(via(proxy), handle=handle)
    eventually(lambda: len(set(effects.ids)) == 500)
    assert len(effects.done) > 500  # what was handled but not acknowledged came again
    assert consumer.stats().troubles >= 3
    assert effects.parked == []


def test_a_consumer_starts_before_its_broker_and_survives_a_lost_queue(
    publisher: RabbitPublisher, effects: Effects, consuming: Callable[..., RabbitConsumer], prefix: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        port = placeholder.getsockname()[1]
    consumer = consuming(f"amqp://guest:guest@127.0.0.1:{port}/")
    eventually(lambda: consumer.stats().troubles >= 2)
    assert consumer.stop(timeout_seconds=WAIT)

    consumer = consuming()
    publisher.publish(tasks_of(1))
    eventually(lambda: len(effects.done) == 1)
    link = Link(endpoint_of(URL), name="test vandal")
    channel_of(link).queue_delete(f"{prefix}{AWARD}")
    link.close()
    eventually(lambda: consumer.stats().troubles >= 1)
    eventually(lambda: accepted(publisher))
    eventually(lambda: len(effects.done) >= 2)


def test_heartbeats_keep_an_idle_consumer_and_find_a_dead_broker(
    consuming: Callable[..., RabbitConsumer], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigmarket.bus.rabbitmq.consumer.HEARTBEAT_SECONDS", 1)
    consumer = consuming(via(proxy))
    time.sleep(3.5)
    assert consumer.stats().troubles == 0
    proxy.silence()
    eventually(lambda: consumer.stats().troubles >= 1)
    proxy.restore()


def test_what_a_dead_consumer_held_is_delivered_again(
    publisher: RabbitPublisher, effects: Effects, consuming: Callable[..., RabbitConsumer], prefix: str
) -> None:
    sent = tasks_of(20)
    publisher.publish(sent)
    dying = Link(endpoint_of(URL), name="test dying")
    dying.consume(f"{prefix}{AWARD}", tag="t", prefetch=20)
    eventually(lambda: dying.read(0.1) or len(dying.arrivals) == 20)
    dying._connection.sock.close()
    consuming()
    eventually(lambda: len(effects.done) >= 20)
    assert effects.ids == [task.message_id for task in sent]


def test_a_message_that_kills_its_consumers_ends_up_parked(
    publisher: RabbitPublisher, effects: Effects, consuming: Callable[..., RabbitConsumer], prefix: str
) -> None:
    deadly = tasks_of(1)[0]
    publisher.publish([deadly._replace(attempts=3)])
    lose_consumers(prefix, times=DELIVERIES_MAX + 1)
    parking = RabbitParking(URL, prefix=prefix, topics=TOPICS)
    eventually(lambda: parking.count() == 1)
    (parked,) = parking.list()
    assert (parked.message_id, parked.topic, parked.message) == (f"{AWARD}-00000", AWARD, b'{"n":0}')
    assert parked.reason == "delivered 20 times, and every time its consumer was lost"
    assert parking.redrive() == 1
    assert parking.count() == 0
    consuming()
    eventually(lambda: effects.done == [deadly])


def test_what_is_not_understood_is_parked_listed_redriven_and_dropped(
    publisher: RabbitPublisher, effects: Effects, consuming: Callable[..., RabbitConsumer], prefix: str
) -> None:
    sent = tasks_of(10)
    publisher.publish(sent[:5])
    publish_raw(
        prefix,
        Message(b"hello"),
        Message(b"{}", message_id="stray", type=AWARD, application_headers={"user_id": "ann", "attempts": "many"}),
        Message(b"\xff\xfe", message_id=b"\xff\xff", type=AWARD),
    )
    publisher.publish(sent[5:])
    consumer = consuming()
    eventually(lambda: len(effects.done) == 10 and consumer.stats().parked == 3)
    assert consumer.stop(timeout_seconds=WAIT)
    parking = RabbitParking(URL, prefix=prefix, topics=TOPICS)
    eventually(lambda: parking.count() == 3)
    for _ in range(2):  # listing takes nothing away
        listed = sorted(parking.list(), key=lambda parked: parked.message)
        assert [parked.message for parked in listed] == [b"hello", b"{}", b"\xff\xfe"]
        assert [parked.message_id for parked in listed] == ["", "stray", ""]
        assert listed[0].reason == "not understood: it has no message id"
        assert (listed[1].user_id, listed[1].reason) == ("ann", "not understood: its attempts header is no count")
        assert "properties cannot be read" in listed[2].reason
        eventually(lambda: parking.count() == 3)
    assert len(parking.list(2)) == 2
    eventually(lambda: parking.count() == 3)

    assert parking.redrive("nobody") == 0
    eventually(lambda: parking.count() == 3)
    assert parking.redrive("stray") == 1
    eventually(lambda: parking.count() == 2)
    assert depth(prefix, AWARD) == 1
    consumer = consuming()
    eventually(lambda: parking.count() == 3)  # still not understood, so parked again
    assert consumer.stop(timeout_seconds=WAIT)
    assert parking.drop("stray") == 1
    eventually(lambda: parking.count() == 2)
    assert parking.drop() == 2
    assert parking.count() == 0
    assert parking.list() == []
    assert parking.drop() == 0


def test_stop_is_bounded_and_leaves_the_rest_to_the_broker(
    publisher: RabbitPublisher, effects: Effects, consuming: Callable[..., RabbitConsumer], prefix: str
) -> None:
    gate = threading.Event()

    def handle(tasks: Sequence[Task]) -> None:
        assert gate.wait(4 * WAIT)
        effects.handle(tasks)

    one_by_one(publisher, tasks_of(200))
    consumer = consuming(handle=handle, prefetch=10)
    eventually(lambda: depth(prefix, AWARD) == 190)
    started = time.monotonic()
    assert not consumer.stop(timeout_seconds=0.1)
    assert time.monotonic() - started < WAIT, "while a message is still being handled"
    gate.set()
    assert consumer.stop(timeout_seconds=WAIT)
    assert len(effects.done) == 10
    eventually(lambda: depth(prefix, AWARD) == 190)


def test_a_consumer_that_never_ran_can_be_stopped(prefix: str, effects: Effects) -> None:
    consumer = RabbitConsumer(
        URL, prefix=prefix, topics=TOPICS, handle=effects.handle, park=effects.park, now_ms=lambda: 0
    )
    assert consumer.stop(timeout_seconds=0.1)


def test_depths_leave_out_queues_that_do_not_exist(prefix: str, publisher: RabbitPublisher) -> None:
    assert queue_depths(URL, prefix, TOPICS) == {}
    one_by_one(publisher, tasks_of(3, topic=REBATE))
    assert queue_depths(URL, prefix, TOPICS) == {AWARD: 0, f"{AWARD}.parked": 0, REBATE: 3, f"{REBATE}.parked": 0}


def test_tls_is_verified(prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = self_signed(tmp_path, "localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    proxy = Proxy(BROKER, tls=context)
    url = f"amqps://guest:guest@localhost:{proxy.port}/"
    with pytest.raises(Trouble, match="certificate verify failed"):
        RabbitPublisher(url, prefix=prefix, topics=TOPICS).publish(tasks_of(1))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    publisher = RabbitPublisher(url, prefix=prefix, topics=TOPICS)
    publisher.publish(tasks_of(300))
    publisher.publish(tasks_of(300))
    publisher.close()
    with pytest.raises(Trouble, match="certificate verify failed"):
        RabbitPublisher(url.replace("localhost", "127.0.0.1"), prefix=prefix, topics=TOPICS).publish(tasks_of(1))
    proxy.close()
    assert depth(prefix, AWARD) == 10  # five messages each
