"""RabbitMQ for tests: settings with queues of their own, which are deleted afterwards."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bigmarket.app import broker_prefixes
from bigmarket.bus.rabbitmq.endpoint import endpoint_of
from bigmarket.bus.rabbitmq.link import Link
from bigmarket.bus.rabbitmq.topology import BACKOFF_MS, queues
from bigmarket.jobs.consumers import CONSUMERS
from bigmarket.settings import Settings, load_settings
from faults.processes import environment

BROKER = ("127.0.0.1", 5672)
BROKER_URL = "amqp://guest:guest@127.0.0.1:{port}/"


@contextmanager
def broker_settings(home: Path) -> Iterator[dict[str, str]]:
    """Settings of a broker with queues of its own. Skips the test when nobody answers there."""
    try:
        socket.create_connection(BROKER, timeout=1.0).close()
    except OSError:
        pytest.skip("RabbitMQ does not answer on 127.0.0.1:5672")
    url = BROKER_URL.format(port=BROKER[1])
    given = {"broker": url, "broker_prefix": f"test-{uuid.uuid4().hex[:12]}."}
    try:
        yield given
    finally:
        delete_queues(load_settings(environment(home, **given)))


def delete_queues(settings: Settings) -> None:
    """Delete every queue that these settings name."""
    link = Link(endpoint_of(BROKER_URL.format(port=BROKER[1])), name="test clean-up")
    for prefix in broker_prefixes(settings):
        for queue in queues(prefix, CONSUMERS, backoff_ms=BACKOFF_MS):
            link._channel.queue_delete(queue)
    link.close()
