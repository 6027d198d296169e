"""The reference's flow over HTTP, a program: Starlette on uvicorn, a pool of threads, each with its own connections.

Written as one would write it with care but without batching: two processes, kept connections to the database and to
the broker, the message of each draw published with a confirm (quorum queue, persistent) before its task is marked as
done. Nobody consumes the messages, in its favour. Its settings come from the environment."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from queue import SimpleQueue

import uvicorn
from amqp import Connection, Message  # type: ignore[import-untyped]
from anyio.to_thread import current_default_thread_limiter
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from bigmarket.bus.rabbitmq.endpoint import endpoint_of
from naive_draw import ReferenceFlow

PROCESSES = 2
CONNECTIONS = 64  # in all, as many as the core's baseline has
DATABASE, BROKER, QUEUE, PORT = (f"REFERENCE_{name}" for name in ("DATABASE", "BROKER", "QUEUE", "PORT"))

flows: SimpleQueue[ReferenceFlow] = SimpleQueue()


@asynccontextmanager
async def pool(_app: Starlette) -> AsyncIterator[None]:
    """As many connections as threads, opened before the first request."""
    mine = CONNECTIONS // PROCESSES
    current_default_thread_limiter().total_tokens = mine
    for _number in range(mine):
        flows.put(ReferenceFlow(os.environ[DATABASE], publish=publisher(os.environ[BROKER], os.environ[QUEUE])))
    yield


def publisher(broker: str, queue: str) -> Callable[[str], None]:
    """Sends a message on a connection of its own and waits for the confirm; without a broker it does nothing."""
    if not broker:
        return lambda _: None
    at = endpoint_of(broker)
    connection = Connection(
        at.address, userid=at.user, password=at.password, virtual_host=at.vhost, confirm_publish=True
    )
    connection.connect()
    channel = connection.channel()

    def publish(text: str) -> None:
        message = Message(text.encode(), delivery_mode=2, content_type="application/json")
        channel.basic_publish(message, routing_key=queue, mandatory=True)

    return publish


async def draw(request: Request) -> JSONResponse:
    """One draw."""
    asked = await request.json()
    award_id = await run_in_threadpool(_draw, asked["userId"])
    return JSONResponse({"code": "0000", "info": "ok", "data": {"awardId": award_id, "awardIndex": award_id - 100}})


def _draw(user: str) -> int:
    flow = flows.get()
    try:
        return flow.draw(user)
    finally:
        flows.put(flow)


async def ready(_: Request) -> PlainTextResponse:
    """It is up."""
    return PlainTextResponse("ok")


app = Starlette(
    routes=[Route("/api/v1/raffle/activity/draw", draw, methods=["POST"]), Route("/readyz", ready)], lifespan=pool
)

if __name__ == "__main__":
    uvicorn.run(
        "reference_server:app",
        port=int(os.environ[PORT]),
        workers=PROCESSES,
        timeout_worker_healthcheck=60,  # they have connections to open first
        log_level="error",
        access_log=False,
        loop="uvloop",
        http="httptools",
    )
