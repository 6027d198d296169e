"""What a caller sees when the machinery does not keep up: quick refusals, honest unknowns, no lost answer."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx
import pytest

from bigmarket.api import application, health
from bigmarket.api.server import listening
from bigmarket.errors import Trouble
from bigmarket.settings import load_settings
from serving import DRAW, Served, free_port, install_small, serving
from support import assert_healthy, count, give
from v1_examples import stuck
from waiting import eventually

USED = "SELECT total_count - total_count_surplus FROM raffle_activity_account WHERE user_id = '{}'"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, queue_max=2) as running:
        install_small(running.world)
        give(running.world.stores.config, "ann")
        yield running


def test_a_full_queue_is_refused_at_once_and_nothing_is_spent(served: Served) -> None:
    took = []
    with stuck(served, queued=2) as answers:
        for _ in range(5):
            started = time.monotonic()
            refused = served.draw("ann", requestId="patient")
            took.append(time.monotonic() - started)
            assert (refused.status_code, refused.json()["code"]) == (503, "0006")
            assert refused.headers["bigmarket-outcome"] == "none"
            assert refused.headers["retry-after"] == "1"
            assert "nothing was spent" in refused.json()["info"]
    assert median(took) < 0.25, "one may meet a machine that stalls"
    assert [answer.json()["code"] for answer in answers] == ["ERR_BIZ_006"] * 3  # those who waited had no draws
    assert count(served.world.stores.config, USED.format("ann")) == 0
    assert served.draw("ann", requestId="patient").json()["code"] == "0000"
    assert count(served.world.stores.config, USED.format("ann")) == 1


def test_a_late_draw_is_unknown_until_it_is_repeated(tmp_path: Path) -> None:
    with serving(tmp_path, draw_deadline_seconds=0.1) as served:
        install_small(served.world)
        give(served.world.stores.config, "ann")
        with served.world.stores.config.writing():
            late = served.draw("ann", requestId="slow")
            assert late.status_code == 503
            assert late.headers["bigmarket-outcome"] == "unknown"
            assert "requestId" in late.json()["info"]
            assert served.draw("ann").headers["bigmarket-outcome"] == "unknown"  # and its turn never comes
        eventually(lambda: count(served.world.stores.config, USED.format("ann")) == 1)
        settled = served.draw("ann", requestId="slow")
        assert settled.json()["code"] == "0000"
        assert count(served.world.stores.config, USED.format("ann")) == 1
        assert_healthy(served.world.stores.config)


def test_a_client_that_hangs_up_breaks_nothing(served: Served) -> None:
    turnstile = served.world.stores.config._turnstile  # type: ignore[attr-defined]
    body = b'{"userId":"ann","activityId":1}'
    head = f"POST {DRAW} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with served.world.stores.config.writing():
        with raw_connection(served) as hasty:
            hasty.sendall(head.encode() + body)
            eventually(lambda: bool(turnstile._waiting))
        with raw_connection(served) as hastier:
            hastier.sendall(head.encode() + body[:5])
    eventually(lambda: count(served.world.stores.config, USED.format("ann")) == 1)
    assert served.draw("ann").json()["code"] == "0000"


def test_a_body_that_does_not_come_is_not_waited_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("waiting", "v1.asking"):
        monkeypatch.setattr(f"bigmarket.api.{module}.READ_SECONDS", 0.05)
    for path in (DRAW, "/api/v1/raffle/strategy/random_raffle"):
        with raw_connection(served) as slow:
            slow.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{{".encode())
            assert slow.recv(100).startswith(b"HTTP/1.1 408 ")


def test_cold_requests_are_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "COLD_REQUESTS_MAX", 0)
    answer = served.client.get("/healthz")
    assert (answer.status_code, answer.json()["code"]) == (503, "0006")


def test_a_fault_of_ours_is_an_envelope_without_details(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("bigmarket.api.v1.asking.success", explode)
    monkeypatch.setattr("bigmarket.api.auth.clean_text", explode)
    for path, body in (
        (DRAW, {"userId": "ann", "activityId": 1}),
        ("/api/v1/raffle/strategy/random_raffle", {"strategyId": 9}),
    ):
        answer = served.client.post(path, json=body, headers={"origin": "https://shop.example"})
        assert (answer.status_code, answer.json()["code"]) == (500, "0001")
        assert answer.headers["bigmarket-outcome"] == "unknown"
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "secret" not in answer.text


def test_not_ready_says_why(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def readyz() -> tuple[int, str]:
        answer = served.client.get("/readyz")
        return answer.status_code, " ".join(answer.json()["reasons"])

    monkeypatch.setattr(health, "DISK_FREE_BYTES_MIN", 1 << 80)
    assert (readyz()[0], "disk" in readyz()[1]) == (503, True)
    monkeypatch.setattr(health, "DISK_FREE_BYTES_MIN", 0)
    monkeypatch.setattr(health, "LIVE_AGE_SECONDS_MAX", -1)
    assert "live configuration" in readyz()[1]
    monkeypatch.setattr(health, "LIVE_AGE_SECONDS_MAX", 5)
    monkeypatch.setattr(health, "LANE_STALL_SECONDS_MAX", 0)
    with stuck(served, queued=1):
        readyz()
        assert "Lane draw 0" in readyz()[1]
    eventually(lambda: readyz() == (200, ""))


def test_a_taken_port_is_named_with_the_fix(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = load_settings({"BIGMARKET_HOME": str(tmp_path), "BIGMARKET_PORT": str(port)})
        with pytest.raises(Trouble, match="BIGMARKET_PORT"), listening(settings):
            pass


SERVE = """
import sys
from bigmarket.api.server import serve
from bigmarket.settings import load_settings
sys.exit(serve(load_settings(), ready=lambda url: print(url, flush=True)))
"""


@contextmanager
def process(home: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process on ``home``, and its URL."""
    ours = {"BIGMARKET_HOME": str(home), "BIGMARKET_PORT": str(free_port()), "BIGMARKET_DRAW_DEADLINE_SECONDS": "20"}
    with subprocess.Popen(  # noqa: S603  our own server
        [sys.executable, "-c", SERVE],
        env={**os.environ, **ours},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            assert running.stdout is not None
            yield running, running.stdout.readline().strip()
        finally:
            running.kill()


def test_sigterm_answers_what_is_in_flight_and_ends_with_0(tmp_path: Path) -> None:
    with serving(tmp_path, clock=real_clock) as setting_up:
        install_small(setting_up.world)
        give(setting_up.world.stores.config, "ann", now_ms=real_clock())
    with (
        process(tmp_path) as (running, url),
        httpx.Client(base_url=url, timeout=20) as client,
        ThreadPoolExecutor(9) as pool,
    ):
        held = sqlite3.connect(tmp_path / "bigmarket.db", isolation_level=None)
        held.execute("BEGIN IMMEDIATE")

        def draw() -> str:
            return str(client.post(DRAW, json={"userId": "ann", "activityId": 1}).json()["code"])

        def queued() -> bool:
            return "\nbigmarket_lane_waiting 0.0" not in client.get("/metrics").text

        answers = [pool.submit(draw)]
        for _ in range(100):  # the lane holds the first; whatever comes next waits behind it
            if queued():
                break
            answers = [answer for answer in answers if not answer.done()]  # refused while a slow machine looked on
            if len(answers) < 9:
                answers.append(pool.submit(draw))
            threading.Event().wait(0.05)
        assert queued()
        running.send_signal(signal.SIGTERM)
        eventually(lambda: refuses(url))
        held.execute("ROLLBACK")
        assert [answer.result(10) for answer in answers] == ["0000"] * len(answers)
        assert running.wait(10) == 0
        assert running.stderr is not None
        assert "THE API IS OPEN" in running.stderr.read()


def refuses(url: str) -> bool:
    """Whether nobody listens there any more."""
    try:
        httpx.get(f"{url}/healthz")
    except httpx.TransportError:
        return True
    return False


def real_clock() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def raw_connection(served: Served) -> Iterator[socket.socket]:
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        yield connection
