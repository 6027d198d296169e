"""RabbitMQ as the bus: confirmed publishing, batched consuming, and the broker's parking queues.

Every connection belongs to one thread. ``publisher`` and ``consumer`` are the two ends, ``parking`` is for a person,
``topology`` says which queues there are, ``link`` is the one place that talks to the client library.
"""

from bigmarket.bus.rabbitmq.consumer import ConsumerStats, RabbitConsumer
from bigmarket.bus.rabbitmq.parking import ParkedMessage, RabbitParking, queue_depths
from bigmarket.bus.rabbitmq.publisher import RabbitPublisher

__all__ = ["ConsumerStats", "ParkedMessage", "RabbitConsumer", "RabbitParking", "RabbitPublisher", "queue_depths"]
