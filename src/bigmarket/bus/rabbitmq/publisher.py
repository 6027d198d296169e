"""Publishes tasks, each confirmed by the broker before the call returns."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from bigmarket.bus.rabbitmq.endpoint import Endpoint, endpoint_of
from bigmarket.bus.rabbitmq.frames import Address
from bigmarket.bus.rabbitmq.link import Link
from bigmarket.bus.rabbitmq.topology import Arguments, queues
from bigmarket.errors import NotFound, Trouble
from bigmarket.outbox.task import Task


class Sender:
    """Sends packed messages over a link that is opened, with its queues, when it is needed.

    The link has no heartbeats, since nobody would send them between two calls: the broker would take an idle
    publisher for dead. The network's keep-alive keeps it open, and one that was closed meanwhile is replaced.
    """

    def __init__(self, endpoint: Endpoint, *, name: str, queues: Mapping[str, Arguments], confirms: bool) -> None:
        self._endpoint = endpoint
        self._name = name
        self._queues = queues
        self._confirms = confirms
        self._link: Link | None = None

    def send(self, messages: Sequence[bytes]) -> None:
        """Send all and wait until each is confirmed. Raises ``Trouble``; any may have been sent by then."""
        self._opened().publish(messages)

    def close(self) -> None:
        """Close the link; the next ``send`` opens another."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _opened(self) -> Link:
        if self._link is not None:
            with suppress(Trouble):
                self._link.read(0)
                return self._link
        self._link = None
        link = Link(self._endpoint, name=self._name, confirms=self._confirms)
        link.declare(self._queues)
        self._link = link
        return link


class RabbitPublisher:
    """Used by one thread; connects with the first ``publish``.

    ``confirms=False`` loses messages without a word, and is there for the test that must see it.
    """

    def __init__(self, url: str, *, prefix: str, topics: Collection[str], confirms: bool = True) -> None:
        self._addresses = {topic: Address(f"{prefix}{topic}", topic=topic) for topic in topics}
        self._sender = Sender(
            endpoint_of(url), name="bigmarket publisher", queues=queues(prefix, topics), confirms=confirms
        )

    def publish(self, tasks: Sequence[Task]) -> None:
        """Publish all, persistent and mandatory, and wait until each is confirmed, at most 5 s per 256 messages.

        Raises NotFound for a topic without a queue and BadInput for a message id over 255 bytes, both before anything
        is sent. Raises ``Trouble`` when the broker cannot be reached, does not confirm in time, refuses because a
        queue is full, or lost a queue: then any of the tasks may have been sent and may be sent again. After a lost
        queue the next call declares the queues anew.
        """
        topics: dict[str, list[Task]] = {}
        for task in tasks:
            topics.setdefault(task.topic, []).append(task)
        self._sender.send([m for topic, some in topics.items() for m in self._address(topic).fold(some)])

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._sender.close()

    def _address(self, topic: str) -> Address:
        try:
            return self._addresses[topic]
        except KeyError:
            raise NotFound(f"No queue for topic {topic!r}.") from None
