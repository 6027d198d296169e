"""More than a process serves: it says so quickly, keeps its memory, and serves those it can."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bigmarket.api import connection, server
from serving import DRAW, Served, install_small, serving
from support import assert_healthy, count, give
from v1_examples import stuck
from waiting import eventually

SERVED, TOLD = 64, 32  # connections that are served; that are told that they are too many
CROWD = 300
BODY = json.dumps({"userId": "ann", "activityId": 1}).encode()
HEAD = f"POST {DRAW} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n"
REQUEST = HEAD.encode() + BODY


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", SERVED)
    monkeypatch.setattr(connection, "SPARE", TOLD)
    with serving(tmp_path, queue_max=20, lanes=1) as running:
        install_small(running.world)
        give(running.world.stores.config, "ann")
        yield running


def test_connections_beyond_the_bound_are_told_or_dropped_and_the_others_served(served: Served) -> None:
    with ExitStack() as stack:
        crowd = [stack.enter_context(closing(connected(served))) for _ in range(SERVED + TOLD + 50)]
        answers = Counter(asked(one) for one in crowd)
        assert answers[503, "0006"] == TOLD
        assert answers[0, "dropped"] == 50
        assert answers[200, "0000"] == 10
        assert answers[200, "ERR_BIZ_006"] == SERVED - 10
        assert asked(crowd[0]) == (200, "ERR_BIZ_006"), "whoever was served goes on to be"
    eventually(lambda: served.client.get("/healthz").is_success)
    assert_healthy(served.world.stores.config)


def test_a_crowd_at_a_stuck_lane_is_refused_at_once(served: Served) -> None:
    memory = resident_mb(served)
    with stuck(served, queued=20) as waiting:
        answers, usual = asyncio.run(crowd_of(served, CROWD))
        assert answers == {(503, "0006"): CROWD}
        assert usual < 0.5
    assert len(waiting) == 21
    assert count(served.world.stores.config, "SELECT count(*) FROM user_raffle_order WHERE user_id = 'ann'") == 0
    assert resident_mb(served) - memory < 20
    assert served.draw("ann").json()["code"] == "0000"


async def crowd_of(served: Served, size: int) -> tuple[Counter[tuple[int, str]], float]:
    """What so many requests are answered, ``SERVED`` / 2 at a time, and how long that usually takes, in seconds."""
    host, port = served.url.removeprefix("http://").split(":")
    turns = asyncio.Semaphore(SERVED // 2)
    answers: Counter[tuple[int, str]] = Counter()
    took = []

    async def one() -> None:
        async with turns:
            reader, writer = await asyncio.open_connection(host, int(port))
            started = time.monotonic()
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(length_of(head))
            took.append(time.monotonic() - started)
            answers[int(head.split()[1]), json.loads(body)["code"]] += 1
            writer.close()

    await asyncio.gather(*(one() for _ in range(size)))
    return answers, median(took)


def test_a_head_without_end_is_not_read(served: Served) -> None:
    with closing(connected(served)) as endless:
        endless.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n")
        sent = 0
        with pytest.raises(OSError):  # noqa: PT011  reset or broken, as the system has it
            while sent < 1 << 24:
                sent += endless.send(b"x-more: " + b"y" * 4000 + b"\r\n")
        assert sent < 1 << 22
    with closing(connected(served)) as large:  # while a large body is no head
        large.sendall(
            b"POST /api/v1/raffle/strategy/random_raffle HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: 200000\r\n\r\n" + b" " * 200_000
        )
        assert answer_of(large) == (400, "0002")


def test_a_connection_without_a_request_is_closed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.05)
    for sent in (b"", b"POST / HTTP/1.1\r\nx-slow: "):
        with closing(connected(served)) as silent:
            silent.sendall(sent)
            assert silent.recv(1) == b""
    with closing(connected(served)) as busy:
        assert asked(busy) == (200, "0000")
        time.sleep(0.1)
        assert asked(busy) == (200, "0000")


def connected(served: Served) -> socket.socket:
    host, port = served.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def asked(one: socket.socket) -> tuple[int, str]:
    """Status and code of a draw over this connection."""
    try:
        one.sendall(REQUEST)
        return answer_of(one)
    except (OSError, EOFError):
        return 0, "dropped"


def answer_of(one: socket.socket) -> tuple[int, str]:
    received = b""
    while b"\r\n\r\n" not in received or len(received.partition(b"\r\n\r\n")[2]) < length_of(received):
        more = one.recv(65_536)
        if not more:
            raise EOFError
        received += more
    return int(received.split()[1]), json.loads(received.partition(b"\r\n\r\n")[2])["code"]


def length_of(head: bytes) -> int:
    return int(head.lower().partition(b"content-length: ")[2].split()[0])


def resident_mb(served: Served) -> float:
    """Memory of the server, which is this process."""
    families = text_string_to_metric_families(served.client.get("/metrics").text)
    (family,) = [family for family in families if family.name == "process_resident_memory_bytes"]
    return float(family.samples[0].value) / 1e6
