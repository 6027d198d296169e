"""Plays the recorded requests of ``contract/v1/*.json`` against servers that are set up for them.

A recording names its ``server``:

* ``usual``     activity 1 open and armed, 2 closed, 3 over, 4 not armed, 5 like 1;
* ``keyed``     the same, but calls need a server key;
* ``overfull``  the same, but its one lane is stuck and its queue is full.

``before`` are requests made first, ``credits`` are skus given to users first.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bigmarket.draw import Drawn, DrawTx
from bigmarket.lanes import DrawStore
from serving import DRAW, Served, eventually, install_small, serving
from support import give

RECORDINGS = Path(__file__).parent / "contract" / "v1"
KEY = "a-server-key-of-this-test-0123456789"


def recordings() -> list[Path]:
    """Every recorded example."""
    return sorted(RECORDINGS.glob("*.json"))


@contextmanager
def stage(home: Path, name: str, **settings: object) -> Iterator[Served]:
    """The server that recordings ask for by ``name``."""
    more: dict[str, object] = {"keyed": {"server_keys": KEY}, "overfull": {"queue_max": 1, "lanes": 1}}.get(name, {})
    with serving(home, **settings, **more) as served:
        install_small(served.world)
        install_small(served.world, activity_id=2, state="close")
        install_small(served.world, activity_id=3, end="2026-02-01 00:00:00")
        install_small(served.world, activity_id=4, armed=False)
        install_small(served.world, activity_id=5)
        if name == "overfull":
            with stuck(served, queued=1):
                yield served
        else:
            yield served


class SlowToBegin:
    """A store whose draw transactions do not begin before they are let."""

    def __init__(self, store: DrawStore) -> None:
        self.store = store
        self.asked, self.answering = threading.Event(), threading.Event()

    @contextmanager
    def drawing(self) -> Iterator[DrawTx]:
        self.asked.set()
        assert self.answering.wait(20)
        with self.store.drawing() as tx:
            yield tx

    def find_draws(self, draws: Sequence[Drawn]) -> Mapping[str, Drawn]:
        return self.store.find_draws(draws)


@contextmanager
def stuck(served: Served, *, queued: int) -> Iterator[list[httpx.Response]]:
    """Let the database keep the only lane waiting: one draw in its hands, ``queued`` in its queue; their answers."""
    answers: list[httpx.Response] = []

    def draw(number: int) -> None:
        body = {"userId": f"queued{number}", "activityId": 1}
        answers.append(httpx.post(served.url + DRAW, json=body, timeout=10))

    threads = [threading.Thread(target=draw, args=(number,)) for number in range(queued + 1)]
    (lane,) = served.world.lanes.lanes
    store = SlowToBegin(lane._store)
    lane._store = store
    try:
        threads[0].start()
        assert store.asked.wait(10)
        for thread in threads[1:]:
            thread.start()
        eventually(lambda: lane.waiting == queued)
        yield answers
    finally:
        lane._store = store.store
        store.answering.set()
    for thread in threads:
        thread.join(10)


def play(served: Served, recording: dict[str, Any]) -> httpx.Response:
    """The answer to the recorded request."""
    for user_id, sku in recording.get("credits", []):
        give(served.world.stores.config, user_id, sku=sku)
    for request in recording.get("before", []):
        send(served.client, request)
    return send(served.client, recording["request"])


def send(client: httpx.Client, request: dict[str, Any]) -> httpx.Response:
    """One recorded request: ``json`` is a body to encode, ``content`` one to send as it is."""
    content = request["content"].encode() if "content" in request else None
    return client.request(
        request["method"],
        request["path"],
        json=request.get("json"),
        content=content,
        headers=request.get("headers"),
    )


def answer_of(response: httpx.Response, *, headers: list[str]) -> dict[str, Any]:
    """What a recording keeps of an answer: status, body, and the ``headers`` it is about."""
    return {
        "status": response.status_code,
        "headers": {name: response.headers.get(name) for name in headers},
        "json": json.loads(response.content),
    }
