"""One connection as a client meets it: hot requests, others, both in turn, sent ahead, cut off, or never read."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from bigmarket.api import hot, server
from bigmarket.api.connection import BoundedConnection
from bigmarket.api.hot import HotRequest
from serving import DRAW, Served, install_small, serving
from support import assert_healthy, count, give
from v1_examples import KEY, stuck
from waiting import eventually

V1 = "/api/v1/raffle"
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
ORDERS = "SELECT count(*) FROM user_raffle_order"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, lanes=1, draw_deadline_seconds=20) as running:
        install_small(running.world)
        give(running.world.stores.config, "ann", "bob")
        yield running


class Wire:
    """A raw connection; answers are read one by one, in the order in which they come."""

    def __init__(self, served: Served) -> None:
        host, port = served.url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self._read = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> bytes:
        """The next line."""
        return self._until(b"\r\n")

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        first, *lines = self._until(b"\r\n\r\n").decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        body = self._of(int(headers["content-length"]))
        return int(first.split()[1]), headers, body

    def code(self) -> tuple[int, str]:
        """Status and code of the next answer."""
        status, _, body = self.answer()
        return status, json.loads(body).get("code", "no envelope")

    def ended(self) -> bool:
        """Whether the server has closed it, with nothing more to say."""
        return not self._read and self.socket.recv(1) == b""

    def silent(self, *, seconds: float = 0.1) -> bool:
        """Whether nothing comes for so long."""
        self.socket.settimeout(seconds)
        try:
            self._read += self.socket.recv(1)
        except TimeoutError:
            return not self._read
        finally:
            self.socket.settimeout(10)
        return False

    def close(self) -> None:
        self.socket.close()

    def _until(self, end: bytes) -> bytes:
        while end not in self._read:
            self._more()
        found, _, self._read = self._read.partition(end)
        return found + end

    def _of(self, length: int) -> bytes:
        while len(self._read) < length:
            self._more()
        found, self._read = self._read[:length], self._read[length:]
        return found

    def _more(self) -> None:
        more = self.socket.recv(65_536)
        if not more:
            raise EOFError
        self._read += more


@pytest.fixture
def wire(served: Served) -> Iterator[Wire]:
    with closing(Wire(served)) as connected:
        yield connected


def draw(user_id: str, *headers: str, version: str = "1.1", path: str = DRAW) -> bytes:
    """A draw's bytes."""
    body = json.dumps({"userId": user_id, "activityId": 1}).encode()
    lines = [
        f"POST {path} HTTP/{version}",
        "host: x",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


# --- in turn ------------------------------------------------------------------------------------------------------


def test_requests_sent_ahead_are_answered_in_their_order(wire: Wire) -> None:
    cold = f"POST {V1}/strategy/random_raffle HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode()
    wire.send(draw("ann") + HEALTH + draw(" ") + cold + draw("eve") + draw("bob") + HEALTH)
    codes = [wire.code() for _ in range(7)]
    assert codes == [
        (200, "0000"),
        (200, "no envelope"),
        (200, "0002"),
        (400, "0002"),
        (200, "ERR_BIZ_006"),
        (200, "0000"),
        (200, "no envelope"),
    ]


def test_what_is_quick_does_not_overtake_a_draw(served: Served, wire: Wire) -> None:
    with stuck(served, queued=0):
        wire.send(draw("ann") + HEALTH + draw(""))
        assert wire.silent()
    assert [wire.code() for _ in range(3)] == [(200, "0000"), (200, "no envelope"), (200, "0002")]


def test_the_order_is_kept_by_waiting(served: Served, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above sees answers that overtake: here a request counts as answered as soon as it is there."""
    monkeypatch.setattr(HotRequest, "response_complete", property(lambda _: True, lambda _, __: None))
    with stuck(served, queued=0):
        wire.send(draw("ann") + HEALTH)
        assert wire.code() == (200, "no envelope")


def test_thousands_sent_ahead_are_all_answered(served: Served, wire: Wire) -> None:
    number = 3000
    with stuck(served, queued=0), ThreadPoolExecutor(1) as pool:
        sending = pool.submit(wire.send, draw("ann") + draw("") * number)
        assert wire.silent()
    assert wire.code() == (200, "0000")
    assert {wire.code() for _ in range(number)} == {(200, "0002")}
    sending.result(10)


def test_no_answer_takes_the_place_of_another(served: Served, wire: Wire) -> None:
    with stuck(served, queued=0):
        wire.send(draw("ann") + b"\x00 this is not HTTP\r\n\r\n")
        assert wire.silent()
    status, headers, _ = wire.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert wire.ended()
    with closing(Wire(served)) as other:
        other.send(b"\x00 this is not HTTP\r\n\r\n")
        assert other.line() == b"HTTP/1.1 400 Bad Request\r\n"


# --- a client that goes, or does not read -------------------------------------------------------------------------


def test_what_a_client_that_is_gone_had_sent_ahead_is_not_begun(served: Served, wire: Wire) -> None:
    with stuck(served, queued=0):
        wire.send(draw("ann") + draw("bob"))
        eventually(lambda: served.world.lanes.lanes[0].waiting == 1)
        wire.close()
        time.sleep(0.1)
    eventually(lambda: count(served.world.stores.config, ORDERS) == 1)
    assert served.draw("bob").json()["code"] == "0000"  # the only draw that bob has
    assert_healthy(served.world.stores.config)


def test_a_client_that_reads_no_answers_is_not_read_any_more(served: Served, wire: Wire) -> None:
    requests = draw("") * 20
    sent = sent_unread(wire, requests, limit=64 << 20)
    assert sent < 16 << 20
    whole = sent // len(draw(""))
    assert {wire.code() for _ in range(whole)} == {(200, "0002")}, "it gets every answer once it reads"
    assert served.client.get("/healthz").is_success


def test_it_is_the_full_pipe_that_stops_reading(served: Served, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above sees a server that reads on for ever."""
    monkeypatch.setattr(BoundedConnection, "pause_writing", lambda _: None)
    limit = 24 << 20
    assert sent_unread(wire, draw("") * 20, limit=limit) >= limit
    del served


def sent_unread(wire: Wire, requests: bytes, *, limit: int) -> int:
    """Bytes that the server takes from a client that reads nothing, at most about ``limit``."""
    wire.socket.settimeout(1)
    sent = 0
    try:
        while sent < limit:
            sent += wire.socket.send(requests[sent % len(requests) :])
    except TimeoutError:
        pass
    finally:
        wire.socket.settimeout(10)
    return sent


# --- heads and bodies ---------------------------------------------------------------------------------------------


def test_a_connection_is_kept_or_closed_as_the_client_says(served: Served) -> None:
    for request, kept in (
        (draw("eve"), True),
        (draw("eve", "connection: keep-alive"), True),
        (draw("eve", "connection: close"), False),
        (draw("eve", version="1.0"), False),
        (draw("eve", "connection: keep-alive", version="1.0"), False),
    ):
        with closing(Wire(served)) as one:
            one.send(request)
            status, headers, _ = one.answer()
            assert (status, headers.get("connection")) == (200, None if kept else "close")
            assert headers["content-type"] == "application/json"
            assert headers["date"].endswith("GMT")
            assert "server" not in headers
            if kept:
                one.send(draw("eve"))
                assert one.code() == (200, "ERR_BIZ_006")
            else:
                assert one.ended()


def test_an_idle_connection_is_closed_and_a_busy_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 0.3)
    monkeypatch.setattr("bigmarket.api.connection.HEAD_SECONDS", 0.2)
    with serving(tmp_path, lanes=1, draw_deadline_seconds=20) as served:
        install_small(served.world)
        with stuck(served, queued=0), closing(Wire(served)) as idle, closing(Wire(served)) as busy:
            busy.send(draw("eve"))
            idle.send(draw(""))
            assert idle.code() == (200, "0002")
            asked = time.monotonic()
            assert idle.ended()
            assert 0.2 < time.monotonic() - asked < 2
            assert busy.silent(seconds=0.5)
            served.world.lanes.lanes[0]._desk._store.answering.set()  # type: ignore[attr-defined]
            assert busy.code() == (200, "ERR_BIZ_006")


def test_a_path_may_be_written_in_other_ways(wire: Wire) -> None:
    for path in (DRAW.replace("draw", "dr%61w"), f"{DRAW}?x=1", f"http://x{DRAW}", f"{DRAW}#x"):
        wire.send(draw("eve", path=path))
        assert wire.code() == (200, "ERR_BIZ_006"), path
    for path in (f"{DRAW}/", f"{DRAW}%2f", f"/{DRAW}"):
        wire.send(draw("eve", path=path))
        assert wire.code() == (404, "0001"), path


def test_a_client_that_asks_first_is_told_to_go_on_or_refused_before_the_body(served: Served, wire: Wire) -> None:
    head, _, body = draw("ann", "expect: 100-continue").partition(b"\r\n\r\n")
    wire.send(head + b"\r\n\r\n")
    assert (wire.line(), wire.line()) == (b"HTTP/1.1 100 Continue\r\n", b"\r\n")
    wire.send(body)
    assert wire.code() == (200, "0000")
    wire.send(f"POST {DRAW} HTTP/1.1\r\nhost: x\r\ncontent-length: 9999\r\nexpect: 100-continue\r\n\r\n".encode())
    assert wire.code() == (413, "0002")
    del served


def test_strangers_are_refused_before_their_body_comes(tmp_path: Path) -> None:
    with serving(tmp_path, server_keys=KEY) as served, closing(Wire(served)) as wire:
        head, _, body = draw("ann").partition(b"\r\n\r\n")
        wire.send(head + b"\r\n\r\n")
        assert wire.code() == (401, "0008")
        wire.send(body + draw("ann", f"authorization: Bearer {KEY}"))
        assert wire.code() == (200, "0001")


@pytest.mark.parametrize("chunk", [1, 100, 5000])
def test_a_body_in_chunks_is_bounded_and_what_is_over_is_dropped(wire: Wire, chunk: int) -> None:
    whole = b'{"userId":"eve","activityId":1' + b" " * 5000 + b"}"
    wire.send(chunked(whole, chunk) + draw("eve"))
    assert [wire.code(), wire.code()] == [(413, "0002"), (200, "ERR_BIZ_006")]
    wire.send(chunked(whole.replace(b" ", b""), chunk))
    assert wire.code() == (200, "ERR_BIZ_006")


def test_the_bound_is_what_keeps_large_bodies_out(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above sees a body that is read whole."""
    monkeypatch.setattr(hot, "HOT_BYTES_MAX", 1 << 20)
    wire.send(chunked(b'{"userId":"eve","activityId":1' + b" " * 5000 + b"}", 100))
    assert wire.code() == (200, "ERR_BIZ_006")


def chunked(body: bytes, size: int) -> bytes:
    """A draw with this body, in chunks of that many bytes."""
    head = f"POST {DRAW} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return head.encode() + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


# --- the end, and Redis -------------------------------------------------------------------------------------------


def test_a_server_that_stops_says_so_to_those_it_cannot_wait_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "DRAIN_SECONDS", 0.2)
    release = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        with serving(tmp_path, lanes=1, draw_deadline_seconds=20) as served:
            install_small(served.world)
            give(served.world.stores.config, "ann")
            held = threading.Event()

            def hold() -> None:
                with served.world.stores.config.writing():
                    held.set()
                    release.wait(10)

            pool.submit(hold)
            assert held.wait(10)
            url = served.url
            waiting = pool.submit(httpx.post, url + DRAW, json={"userId": "ann", "activityId": 1}, timeout=10)
            eventually(lambda: served.world.lanes.lanes[0]._queue.empty() and served.world.lanes.lanes[0]._began > 0)
            threading.Timer(2, release.set).start()
        answer = waiting.result(10)
    assert (answer.status_code, answer.headers["bigmarket-outcome"]) == (503, "unknown")
    assert answer.headers["connection"] == "close"


def test_redis_counts_hot_calls_too(tmp_path: Path, redis_url: str) -> None:
    limits = {"rate_limit_user": "2/1h", "rate_limit_address": "off", "redis": redis_url}
    with serving(tmp_path, **limits) as served, closing(Wire(served)) as wire:
        install_small(served.world)
        served.world.turn("rateLimiterSwitch", "open")
        user = f"redis-{time.monotonic_ns()}"
        wire.send(draw(user) + draw("") + draw(user) + draw(user) + HEALTH)
        codes = [wire.code()[1] for _ in range(5)]
    assert codes == ["ERR_BIZ_006", "0002", "ERR_BIZ_006", "0005", "no envelope"]
