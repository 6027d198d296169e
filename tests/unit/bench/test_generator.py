"""The generator against a tiny server whose behavior is known."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from generator import Ask, Generator, Plan, Tally, dump, load
from histogram import Histogram

ASK = Ask("draw", "/draw", '{"userId":"user%07d"}')
GOOD = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"code":"0000"}'
BUSY = b'HTTP/1.1 503 Busy\r\ncontent-length: 15\r\nretry-after: 1\r\n\r\n{"code":"0006"}'
STALL_SECONDS = 1.0

Respond = Callable[[bytes], list[bytes]]


@contextmanager
def tiny_server(respond: Respond) -> Iterator[int]:
    """A port where every request is answered by the parts that ``respond`` gives, none ends the connection."""
    listening = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def serve(sock: socket.socket) -> None:
        with sock, suppress(ConnectionResetError):
            while (request := sock.recv(4096)) and (parts := respond(request)):
                for part in parts:
                    sock.sendall(part)
                    time.sleep(0.001 if len(parts) > 1 else 0)

    def accept() -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(sock,)))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        accepting.join()
        for thread in threads:
            thread.join()


def stalling() -> Respond:
    """Answers at once, but nothing between half a second after the first request and ``STALL_SECONDS`` later."""
    began: list[float] = []

    def respond(_: bytes) -> list[bytes]:
        now = time.monotonic()
        began.append(now) if not began else None
        left = began[0] + 0.5 + STALL_SECONDS - now
        if 0 < left < STALL_SECONDS:
            time.sleep(left)
        return [GOOD]

    return respond


def seen(tally: Tally) -> Histogram:
    return next(iter(tally.latencies.values()))


def test_a_stall_is_charged_with_every_request_that_was_due_in_it() -> None:
    with tiny_server(stalling()) as port:
        tally = Generator(Plan(port, [ASK], 10, connections=4, seconds=3, rate=200, poisson=False)).run()
    assert sum(tally.answers.values()) == 600
    assert seen(tally).quantile_ms(0.75) > 50  # a third of the requests was due in the stall
    assert seen(tally).quantile_ms(0.90) > 500
    assert seen(tally).longest > STALL_SECONDS * 0.9


def test_a_closed_loop_omits_what_it_did_not_send_in_a_stall() -> None:
    with tiny_server(stalling()) as port:
        tally = Generator(Plan(port, [ASK], 10, connections=4, seconds=3)).run()
    assert sum(tally.answers.values()) > 600
    assert seen(tally).quantile_ms(0.99) < 500  # four of thousands: the stall does not show
    assert seen(tally).longest > STALL_SECONDS * 0.9


def test_requests_that_wait_for_a_connection_count_from_when_they_were_due() -> None:
    def respond(_: bytes) -> list[bytes]:
        time.sleep(0.02)
        return [GOOD]

    with tiny_server(respond) as port:  # one connection serves 50 a second, 100 are due
        tally = Generator(Plan(port, [ASK], 10, connections=1, seconds=1, rate=100, poisson=False)).run()
    assert sum(tally.answers.values()) == 100
    assert seen(tally).longest > 0.8
    assert tally.since_sent["200"].longest < 0.4  # the answer itself was quick
    assert tally.served < 60  # while it was measured


def test_what_no_connection_took_is_unsent_and_its_wait_is_counted() -> None:
    def respond(_: bytes) -> list[bytes]:
        time.sleep(0.1)
        return [GOOD]

    plan = Plan(0, [ASK], 10, connections=1, seconds=1, rate=100, poisson=False, drain_seconds=0.2)
    with tiny_server(respond) as port:
        tally = Generator(Plan(**{**plan.__dict__, "port": port})).run()
    assert tally.unsent > 70
    assert tally.unanswered == 1
    assert tally.latencies["any", "unsent"].total == tally.unsent


def test_answers_are_counted_by_status_and_code_and_503_must_say_when_to_come_again() -> None:
    replies = [GOOD, BUSY, BUSY.replace(b"retry-after: 1\r\n", b"")]

    def respond(request: bytes) -> list[bytes]:
        return [replies[int(request[-4:-2]) % 3]]

    with tiny_server(respond) as port:
        tally = Generator(Plan(port, [ASK], 30, connections=2, seconds=0.5, rate=300)).run()
    good, busy = tally.answers["draw", "200", "0000"], tally.answers["draw", "503", "0006"]
    assert good > 10
    assert busy > tally.without_retry_after > 10
    assert 10 < tally.served <= good  # the last may come after the end


def test_an_answer_may_come_in_pieces() -> None:
    with tiny_server(lambda _: [GOOD[:7], GOOD[7:40], GOOD[40:]]) as port:
        tally = Generator(Plan(port, [ASK], 10, connections=2, seconds=0.3, rate=100, poisson=False)).run()
    assert tally.answers == {("draw", "200", "0000"): 30}


def test_a_connection_that_the_server_ends_is_replaced_and_told() -> None:
    answered = iter(range(10**6))

    def respond(_: bytes) -> list[bytes]:
        return [] if next(answered) % 10 == 9 else [GOOD]

    with tiny_server(respond) as port:
        tally = Generator(Plan(port, [ASK], 10, connections=1, seconds=0.5, rate=100, poisson=False)).run()
    assert tally.broken == 5
    assert sum(tally.answers.values()) == 45


def test_a_mixture_has_the_shares_of_its_weights_and_gives_users_one_turn() -> None:
    users: list[bytes] = []

    def respond(request: bytes) -> list[bytes]:
        if b"/sign" in request:
            users.append(request[request.index(b"user=") + 5 :][:7])
        return [GOOD]

    asks = [Ask("draw", "/draw", '{"userId":"user%07d"}', weight=9), Ask("sign", "/sign?user=%07d", once=True)]
    with tiny_server(respond) as port:
        tally = Generator(Plan(port, asks, 10, connections=1, seconds=1, rate=500, first_user=70)).run()
    assert sorted(users) == [b"%07d" % number for number in range(70, 70 + len(users))]
    assert 0.05 < len(users) / sum(tally.answers.values()) < 0.15


def test_a_tally_survives_its_journey_as_json() -> None:
    with tiny_server(lambda _: [GOOD]) as port:
        tally = Generator(Plan(port, [ASK], 10, 2, 0.3, rate=100, slice_seconds=0.1)).run()
    assert load(json.dumps(dump(tally))) == tally
    assert sum(found.total for found in tally.slices.values()) == sum(tally.answers.values())


def test_a_generator_that_was_late_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = time.perf_counter
    monkeypatch.setattr(Generator, "_receive", lambda *_: time.sleep(0.05))
    with tiny_server(lambda _: [GOOD]) as port:
        plan = Plan(port, [ASK], 10, connections=1, seconds=0.5, rate=100, poisson=False, drain_seconds=0)
        started = clock()
        tally = Generator(plan).run()
    assert clock() - started < 2
    assert tally.lag.quantile_ms(0.99) > 20


def test_quantiles_are_right_within_one_percent() -> None:
    histogram = Histogram()
    for number in range(1, 100_001):
        histogram.add(number / 1e6)
    for quantile in (0.001, 0.5, 0.95, 0.99, 1.0):
        assert histogram.quantile_ms(quantile) == pytest.approx(quantile * 100, rel=0.01)
