"""Three times what a slow store can do: whoever is let in is served soon, and the others are told at once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from bigmarket.desks import DrawDesk, DrawStore
from bigmarket.draw import DrawTx
from serving import DRAW, Served, install_small, serving
from support import assert_healthy, count, give
from waiting import eventually

BATCH = 10
BATCH_SECONDS = 0.1  # that the store takes for each: 100 draws a second and no more
DEADLINE_SECONDS = 8.0  # so a draw waits for at most 2.8 s, and is let in if it has to expect less than 1 s
CAPACITY = BATCH / BATCH_SECONDS
SECONDS = 4.0
DRAWS = int(3 * CAPACITY * SECONDS)
USERS = 900  # with ten draws each
CONNECTIONS = 400


class SlowStore:
    """A store of which every transaction takes its time."""

    def __init__(self, store: DrawStore) -> None:
        self._store = store
        self.find_draws = store.find_draws

    @contextmanager
    def drawing(self) -> Iterator[DrawTx]:
        time.sleep(BATCH_SECONDS)
        with self._store.drawing() as tx:
            yield tx


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, lanes=1, batch_max=BATCH, draw_deadline_seconds=DEADLINE_SECONDS) as served:
        install_small(served.world)
        give(served.world.stores.config, *(f"u{number}" for number in range(USERS)))
        (lane,) = served.world.lanes.lanes
        lane._desk = DrawDesk(SlowStore(lane._desk._store), live=lane._desk._live)
        yield served


class Answered(NamedTuple):
    """An answer, and how long it took from the moment for which its request was planned."""

    seconds: float
    code: str
    retry_after: str | None


def test_who_is_let_in_is_served_soon_and_the_others_are_told_at_once(slow: Served) -> None:
    answers = asyncio.run(open_loop(slow, rate=3 * CAPACITY))
    made = [one for one in answers if one.code == "0000"]
    refused = [one for one in answers if one.code == "0006"]
    assert len(made) + len(refused) == DRAWS
    assert len(made) > 0.7 * CAPACITY * SECONDS
    assert slowest_of(made) < 2
    assert slowest_of(refused) < 0.5
    assert {one.retry_after for one in refused} == {"1"}
    assert count(slow.world.stores.config, "SELECT count(*) FROM user_raffle_order") == len(made)
    assert_healthy(slow.world.stores.config)
    eventually(lambda: slow.world.lanes.lanes[0].waiting == 0)
    assert slow.draw("u0").json()["code"] == "0000", "it is over as soon as the crowd is"


def test_the_door_is_what_keeps_the_wait_short(slow: Served) -> None:
    """The test above sees a lane that lets in whoever comes, and then serves or refuses them late."""
    slow.world.lanes.lanes[0]._wait_seconds = 60.0
    answers = asyncio.run(open_loop(slow, rate=3 * CAPACITY))
    assert slowest_of(answers) > 2


def slowest_of(answers: list[Answered]) -> float:
    """What 99 of 100 took at most, in seconds."""
    return sorted(one.seconds for one in answers)[int(len(answers) * 0.99)]


async def open_loop(served: Served, *, rate: float) -> list[Answered]:
    """``DRAWS``, ``rate`` a second whatever becomes of those before."""
    host, port = served.url.removeprefix("http://").split(":")
    idle: asyncio.LifoQueue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.LifoQueue()
    for _ in range(CONNECTIONS):
        idle.put_nowait(await asyncio.open_connection(host, int(port)))
    began = time.monotonic() + 0.1
    answers: list[Answered] = []

    async def one(number: int) -> None:
        planned = began + number / rate
        await asyncio.sleep(planned - time.monotonic())
        connection = await idle.get()
        reader, writer = connection
        body = json.dumps({"userId": f"u{number % USERS}", "activityId": 1}).encode()
        head = f"POST {DRAW} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        writer.write(head.encode() + b"\r\n\r\n" + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        envelope = json.loads(await reader.readexactly(int(headers["content-length"])))
        now = time.monotonic()
        answers.append(Answered(now - planned, envelope["code"], headers.get("retry-after")))
        idle.put_nowait(connection)

    await asyncio.gather(*(one(number) for number in range(DRAWS)))
    while not idle.empty():
        idle.get_nowait()[1].close()
    return answers
