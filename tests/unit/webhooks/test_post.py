"""One POST, against real sockets."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from bigmarket.webhooks.address import Allowed, read_url
from bigmarket.webhooks.post import BODY_BYTES_MAX, NoReply, Poster, Reply
from certificates import self_signed
from receiver import Call, Receiver, Say, receiving

LOOPBACK = Allowed(networks=(ipaddress.ip_network("127.0.0.0/8"),))
NOW = 1_790_000_000_000


def post(url: str, poster: Poster) -> Reply:
    target = read_url(
        url, allowed=Allowed(hosts=(*poster.allowed.hosts, "crm.test"), networks=poster.allowed.networks)
    )
    return poster.post(target, headers={"content-type": "application/json"}, body=b'{"a": 1}', now_ms=NOW)


def saying(say: Say) -> Callable[[Call, int], Say]:
    return lambda _call, _before: say


def test_a_call_arrives_as_it_was_meant() -> None:
    with receiving(saying(Say(201, {"Retry-After": "7"}, b"thank\x00 you \xe2\x80\xae"))) as receiver:
        assert post(receiver.url, Poster(allowed=LOOPBACK)) == Reply(201, "thank you", 7_000)
    (call,) = receiver.calls
    assert call.raw == b'{"a": 1}'
    assert call.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert "transfer-encoding" not in call.headers


@pytest.mark.parametrize(
    ("header", "wait_ms"),
    [
        ("120", 120_000),
        ("Mon, 21 Sep 2026 14:14:00 GMT", 40_000),
        ("soon", 0),
        ("Mon, 21 Sep 2026 14:14:00 +99999999999999", 0),
        ("Mon, 21 Sep 99999999999 14:14:00 GMT", 0),
        ("-5", 0),
        ("9" * 400, 999_999_999_000),
    ],
)
def test_retry_after_is_read(header: str, wait_ms: int) -> None:
    with receiving(saying(Say(503, {"Retry-After": header}))) as receiver:
        assert post(receiver.url, Poster(allowed=LOOPBACK)).wait_ms == wait_ms


def test_redirects_are_not_followed() -> None:
    with receiving() as other, receiving(saying(Say(302, {"Location": other.url}))) as receiver:
        assert post(receiver.url, Poster(allowed=LOOPBACK)).status == 302
    assert not other.calls


def test_a_huge_body_is_not_read() -> None:
    with receiving(saying(Say(200, body=b"x" * 65_536, repeat=1_000, pause_seconds=0.05))) as receiver:
        began = time.monotonic()
        assert post(receiver.url, Poster(allowed=LOOPBACK, total_seconds=60)).excerpt == "x" * 120
        assert time.monotonic() - began < 20
    assert BODY_BYTES_MAX < 65_536


def test_a_body_that_trickles_is_given_up() -> None:
    with receiving(saying(Say(200, body=b"x", repeat=1_000, pause_seconds=0.05))) as receiver:
        began = time.monotonic()
        assert post(receiver.url, Poster(allowed=LOOPBACK, total_seconds=0.5)).status == 200
        assert time.monotonic() - began < 20


def test_headers_that_trickle_are_given_up() -> None:
    def trickle(connection: socket.socket) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nx: " + b"y" * 1_000:
            connection.send(bytes([byte]))
            time.sleep(0.02)

    with listening(trickle) as port, pytest.raises(NoReply, match="no answer in time"):
        post(f"http://127.0.0.1:{port}/", Poster(allowed=LOOPBACK, total_seconds=0.3))


def test_no_answer_is_told() -> None:
    with receiving(saying(Say(wait_seconds=3))) as receiver, pytest.raises(NoReply, match="no answer in time"):
        post(receiver.url, Poster(allowed=LOOPBACK, total_seconds=1.5))


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 50_000])
def test_what_is_not_http_is_told(answer: bytes) -> None:
    def say(connection: socket.socket) -> None:
        hear_out(connection)
        connection.sendall(answer)

    with listening(say) as port, pytest.raises(NoReply, match="ProtocolError"):
        post(f"http://127.0.0.1:{port}/", Poster(allowed=LOOPBACK))


def test_nobody_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(NoReply, match="ConnectError"):
        post(f"http://127.0.0.1:{port}/", Poster(allowed=LOOPBACK))


def test_a_name_that_cannot_be_looked_up_is_told() -> None:
    def fails(*_: object) -> Sequence[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(NoReply, match="Name or service not known"):
        post("https://crm.test/", Poster(allowed=LOOPBACK, resolve=fails))


def test_the_second_address_is_tried_when_the_first_does_not_answer() -> None:
    with receiving() as receiver:
        poster = Poster(allowed=LOOPBACK, resolve=lambda *_: ["127.0.0.77", "127.0.0.1"])
        assert post(f"http://crm.test:{receiver.port}/", poster).status == 200


# --- the guard ----------------------------------------------------------------------------------------------------


def test_a_private_address_is_never_connected_to() -> None:
    with receiving() as receiver:
        poster = Poster(allowed=Allowed(), resolve=lambda *_: ["127.0.0.1"])
        with pytest.raises(NoReply, match=r"leads to 127\.0\.0\.1, which is loopback"):
            post(f"http://crm.test:{receiver.port}/", poster)
    assert not receiver.calls


def test_the_name_is_looked_up_once_so_it_cannot_lead_elsewhere_afterwards() -> None:
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    asked: list[str] = []

    def rebinding(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        return next(answers)

    with receiving() as receiver:
        assert post(f"http://crm.test:{receiver.port}/", Poster(allowed=LOOPBACK, resolve=rebinding)).status == 200
    assert asked == ["crm.test"]
    assert receiver.calls[0].headers["host"] == f"crm.test:{receiver.port}"


def test_without_the_guard_the_call_would_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigmarket.webhooks.address.fault_of", lambda *_, **__: None)
    with receiving() as receiver:
        post(f"http://crm.test:{receiver.port}/", Poster(allowed=Allowed(), resolve=lambda *_: ["127.0.0.1"]))
    assert receiver.calls, "so it is the guard that keeps it away"


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as proxy, receiving() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        post(receiver.url, Poster(allowed=LOOPBACK))
    assert receiver.calls
    assert not proxy.calls


# --- TLS ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for crm.test, and its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = self_signed(folder, "crm.test")
    both = folder / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    return both


def test_the_certificate_is_verified_for_the_name_though_an_address_is_connected_to(certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))

    def poster(context: ssl.SSLContext | None) -> Poster:
        return Poster(allowed=LOOPBACK, resolve=lambda *_: ["127.0.0.1"], context=context)

    with tls_server(certificate) as port:
        assert post(f"https://crm.test:{port}/", poster(trusting)).status == 204
        with pytest.raises(NoReply, match="Hostname mismatch"):
            post(f"https://other.test:{port}/", poster(trusting))
        with pytest.raises(NoReply, match=r"self-signed|unable to get local issuer"):
            post(f"https://crm.test:{port}/", poster(None))


@contextmanager
def tls_server(certificate: Path) -> Iterator[int]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as stream:
            hear_out(stream)
            stream.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with listening(answer) as port:
        yield port


def hear_out(connection: socket.socket) -> None:
    """Read the whole request: what is closed with something unread loses its answer."""
    heard = b""
    while not heard.endswith(b'{"a": 1}'):
        heard += connection.recv(65_536)


@contextmanager
def listening(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """A bare server: ``handle`` is given each connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        stopping = threading.Event()

        def run() -> None:
            while not stopping.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                connection.settimeout(5)
                try:
                    with connection:
                        handle(connection)
                except OSError:
                    pass  # the other side went away

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            stopping.set()
            thread.join(10)


def test_a_receiver_knows_a_call_that_is_not_ours() -> None:
    with receiving() as receiver:
        post(receiver.url, Poster(allowed=LOOPBACK))
    assert isinstance(receiver, Receiver)
    assert not receiver.calls[0].genuine
