"""Heads that come again go past the parser, and nobody can tell: the same bytes get the same answers, however cut."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from uvicorn import Config
from uvicorn.server import ServerState

from bigmarket.api import hot as hot_module
from bigmarket.api.auth import Caller, Callers
from bigmarket.api.connection import BoundedConnection, bounded
from bigmarket.api.hot import HotCall, HotCalls, Reply, Words
from bigmarket.api.limits import Limits
from bigmarket.api.tokens import Tokens
from bigmarket.api.waiting import Waiting
from bigmarket.lanes import LaneSet
from bigmarket.switches import Switches

LOOP = asyncio.new_event_loop()
PATH = "/echo"


class Echo:
    """Lanes that answer at once with what they were asked."""

    noun, writes = "echo", True

    def crowded(self) -> bool:
        return False

    def submit(self, user_id: str, *asked: object, reply: Any) -> None:
        reply.settle((user_id, *asked))


class Pipe:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, _: str) -> None:
        return None

    def pause_reading(self) -> None:
        raise AssertionError("every request is answered before the next")

    def resume_reading(self) -> None:
        pass


def read(_: Caller, fields: Mapping[bytes, bytes], query: bytes, body: bytes) -> Words:
    return "ann", dict(fields), query, body


def reply(words: Words) -> Reply:
    said = repr(words).encode()
    return Reply(200, b"content-length: %d\r\n" % len(said), said)


def echoing() -> HotCalls:
    call = HotCall("echo", cast("LaneSet[Any]", Echo()), read, reply, lambda _: False, methods=("POST", "GET"))
    world = cast("Any", SimpleNamespace(live=SimpleNamespace(switches=Switches())))
    callers = Callers((), cast("Tokens", SimpleNamespace(used=False)))
    return HotCalls(
        {PATH: call}, world=world, waiting=Waiting(deadline_seconds=1), callers=callers, limits=Limits(), origins=()
    )


@pytest.fixture(scope="module")
def config() -> Config:
    return Config("bigmarket.api.connection:overfull", log_config=None, access_log=False)


def told(config: Config, hot: HotCalls, chunks: list[bytes]) -> tuple[bytes, bool]:
    """What a new connection answers to these chunks, and whether it was closed."""
    connection = bounded(16, hot)(config=config, server_state=ServerState(), app_state={}, _loop=LOOP)
    pipe = Pipe()
    connection.connection_made(cast("asyncio.Transport", pipe))
    for chunk in chunks:
        if not pipe.closed:
            connection.data_received(chunk)
    connection._timer.cancel()
    return pipe.written, pipe.closed


def ask(body: bytes = b"", *headers: str, path: str = PATH, method: str = "POST", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "host: x", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def parts(body: bytes, *headers: str) -> bytes:
    """A request whose body comes in chunks of HTTP."""
    lines = [f"POST {PATH} HTTP/1.1", "host: x", "transfer-encoding: chunked", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


GET = f"GET {PATH}?a=1 HTTP/1.1\r\nhost: x\r\n\r\n".encode()
WHOLE = [
    ask(b"one"),
    ask(b"two"),
    ask(b"four", "authorization: me"),
    ask(),
    GET,
    ask(ask(b"one")),  # a body that is a request
    ask(GET),
    ask(b"\r\n\r\n"),
    parts(b"one"),
    parts(ask(b"one")),
    b"\r\n\r\n" + ask(b"one"),
    b"\r\n" + GET,
    ask(b"one", path=f"{PATH}?query"),
    ask(b"one", "expect: 100-continue"),
    ask(b"one", "connection: close"),
    ask(b"one", version="1.0"),
    ask(b"one", "upgrade: h2c", "connection: upgrade"),
    f"POST {PATH} HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\none".encode(),
    f"POST {PATH} HTTP/1.1\nhost: x\ncontent-length: 3\n\none".encode(),
    f"POST {PATH} HTTP/1.1\r\nhost: x\r\n folded\r\ncontent-length: 3\r\n\r\none".encode(),
    f"GET {PATH} HTTP/1.1\r\nx: {'y' * 3000}\r\n\r\n".encode(),
    b"nonsense\r\n\r\n",
    ask(b"x" * 5000),
]


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Requests, one chunk each, some of them cut or glued to the next."""
    chunks: list[bytes] = []
    for request in draw(st.lists(st.sampled_from(WHOLE), min_size=1, max_size=6)):
        how = draw(st.sampled_from(("whole", "whole", "cut", "glued")))
        if how == "glued" and chunks:
            chunks[-1] += request
        elif how == "cut":
            at = draw(st.integers(1, len(request) - 1))
            chunks += [request[:at], request[at:]]
        else:
            chunks.append(request)
    return chunks


CONNECTIONS = st.lists(streams(), min_size=1, max_size=4)


@given(connections=CONNECTIONS)
@example(connections=[[ask(b"one")], [ask(ask(b"one"))[: -len(ask(b"one"))], ask(b"one")]])
@example(connections=[[ask(b"one")], [ask(b"one")[:-1], b"e", ask(b"one")]])
@example(connections=[[b"\r\n" + GET], [b"\r\n", GET], [GET + GET], [GET]])
def test_the_same_bytes_get_the_same_answers(config: Config, connections: list[list[bytes]]) -> None:
    learning = echoing()
    for chunks in connections * 2:  # what was learned a moment ago is used
        assert told(config, learning, chunks) == told(config, echoing(), chunks)


def test_a_head_that_came_before_goes_past_the_parser(config: Config) -> None:
    hot = echoing()
    first = told(config, hot, [ask(b"one")])
    assert list(hot._known) == [ask(b"one")[:-3]]
    assert hot.recall(ask(b"two")) == (next(iter(hot._known.values()))[0], b"two")
    assert told(config, hot, [ask(b"one")]) == first
    assert [hot.recall(data) for data in (ask(b"four"), ask(b"one") + b"x", ask(b"one")[:-1], b"", b"one")] == [
        None
    ] * 5


def test_a_body_that_looks_like_a_request_is_seen_where_the_place_is_not_asked_for(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first test sees it when known heads are taken for requests wherever they stand."""
    inner = ask(b"one")
    chunks = [ask(inner)[: -len(inner)], inner]
    hot = echoing()
    told(config, hot, [inner])
    assert told(config, hot, chunks) == told(config, echoing(), chunks)
    monkeypatch.setattr(BoundedConnection, "_between", property(lambda _: True, lambda _, __: None))
    with pytest.raises(AssertionError, match="answered before the next"):
        told(config, hot, chunks)


@pytest.mark.parametrize(
    "data",
    [
        parts(b"one"),
        ask(b"one", "expect: 100-continue"),
        ask(b"one", "connection: close"),
        ask(b"one", version="1.0"),
        ask(b"one", "upgrade: h2c", "connection: upgrade"),
        ask(b"one", f"x: {'y' * hot_module.KNOWN_BYTES_MAX}"),
        b"\r\n\r\n" + ask(b"one"),
        ask(b"one") + ask(b"one"),
    ],
)
def test_what_is_not_learned(config: Config, data: bytes) -> None:
    hot = echoing()
    told(config, hot, [data])
    assert not hot._known


def test_no_users_token_is_kept(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    hot = echoing()
    monkeypatch.setattr(hot.callers, "admit", lambda _, shown: Caller("ann") if shown else Caller(keyed=True))
    told(config, hot, [ask(b"one", "authorization: Bearer of-ann")])
    assert not hot._known
    told(config, hot, [ask(b"one")])
    assert len(hot._known) == 1


def test_so_many_heads_are_kept_and_no_more(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_module, "KNOWN_MAX", 3)
    hot = echoing()
    for number in range(10):
        told(config, hot, [ask(b"one", f"x: {number}")])
        assert 1 <= len(hot._known) <= 3
