"""Buckets, whose they are, and what happens to those who call too often. Redis is real, or said to be missing."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from ipaddress import ip_network

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis.connection import parse_url
from structlog.testing import capture_logs

from bigmarket.api import buckets as module
from bigmarket.api import redis_buckets
from bigmarket.api.auth import ANYBODY, SERVER, Caller
from bigmarket.api.buckets import Buckets
from bigmarket.api.errors import RateLimited, headers_of
from bigmarket.api.limits import Limits, address_of
from bigmarket.api.redis_buckets import RedisBuckets
from bigmarket.errors import ConfigurationInvalid
from bigmarket.settings import load_settings
from bigmarket.switches import Rate, Switches
from proxy import Proxy


class Clock:
    """A clock that tests turn, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# --- buckets in memory --------------------------------------------------------------------------------------------


def test_a_bucket_empties_and_fills_up() -> None:
    clock = Clock()
    buckets = Buckets(clock=clock)
    two_a_second = [("ann", Rate(2, 1))]
    assert [buckets.take(two_a_second) for _ in range(2)] == [0, 0]
    assert buckets.take(two_a_second) == pytest.approx(0.5, rel=1e-3)
    assert buckets.take([("bob", Rate(2, 1))]) == 0
    clock.now += 0.5
    assert buckets.take(two_a_second) == 0
    assert buckets.take(two_a_second) == pytest.approx(0.5, rel=1e-3)
    clock.now += 3600
    assert [buckets.take(two_a_second) > 0 for _ in range(3)] == [False, False, True]


def test_one_is_taken_from_all_or_from_none() -> None:
    buckets = Buckets(clock=Clock())
    ann, home = ("ann", Rate(1, 10)), ("home", Rate(2, 10))
    assert buckets.take([home, ann]) == 0
    assert buckets.take([home, ann]) == pytest.approx(10, rel=1e-3)
    assert buckets.take([home]) == 0
    assert buckets.take([home]) == pytest.approx(5, rel=1e-3)


@given(st.integers(1, 50), st.integers(1, 100), st.lists(st.floats(0, 20), max_size=60))
def test_no_more_pass_than_the_rate_says(calls: int, seconds: int, pauses: list[float]) -> None:
    clock = Clock()
    buckets = Buckets(clock=clock)
    passed: list[float] = []
    for pause in pauses:
        clock.now += pause
        wait = buckets.take([("ann", Rate(calls, seconds))])
        if wait == 0:
            passed.append(clock.now)
        else:
            clock.now += wait * (1 + 1e-9)
            assert buckets.take([("ann", Rate(calls, seconds))]) == 0, "it may pass when it was told it may"
            passed.append(clock.now)
    for index, first in enumerate(passed):  # in any window: what the bucket holds, and what came in meanwhile
        for number, last in enumerate(passed[index:], start=1):
            assert number <= calls + (last - first) * calls / seconds + 1e-3


def test_only_so_many_buckets_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUCKETS_MAX", 10)
    buckets = Buckets(clock=Clock())
    for number in range(100):
        buckets.take([(f"user {number}", Rate(1, 10))])
        buckets.take([("busy", Rate(100, 1000))])
    assert len(buckets._full_at) == 10
    assert "busy" in buckets._full_at


# --- addresses ----------------------------------------------------------------------------------------------------


def called(peer: str | None, *forwarded: str) -> tuple[str | None, list[tuple[bytes, bytes]]]:
    """The peer and the headers of a call."""
    headers = [(b"x-forwarded-for", line.encode("latin-1")) for line in forwarded]
    return peer, [(b"host", b"x"), *headers]


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("9.9.9.9", (), "9.9.9.9"),
        ("9.9.9.9", ("1.1.1.1",), "9.9.9.9"),  # no proxy of ours: its word counts nothing
        ("10.0.0.1", ("1.1.1.1",), "1.1.1.1"),
        ("10.0.0.1", ("6.6.6.6, 1.1.1.1",), "1.1.1.1"),  # what the client made up stands to the left
        ("10.0.0.1", ("6.6.6.6", "1.1.1.1, 10.2.3.4"), "1.1.1.1"),
        ("10.0.0.1", ("6.6.6.6, nonsense",), "10.0.0.1"),
        ("10.0.0.1", ("",), "10.0.0.1"),
        ("10.0.0.1", ("10.0.0.2, 10.0.0.3",), "10.0.0.2"),
        ("10.0.0.1", ("1.1.1.1:4711",), "1.1.1.1"),
        ("::ffff:10.0.0.1", ("1.1.1.1",), "1.1.1.1"),
        ("::1", ("[2001:db8:1:2:3::4]:80",), "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", (), "2001:db8:1:2::/64"),
        ("10.0.0.1", (", ".join(["1.1.1.1"] + ["10.0.0.9"] * 500),), "10.0.0.9"),  # so many and no more are read
        ("10.0.0.1", ("\xff\xfe",), "10.0.0.1"),
        (None, ("1.1.1.1",), "unknown"),
        ("/run/socket", (), "unknown"),
    ],
)
def test_where_a_call_comes_from(peer: str | None, forwarded: tuple[str, ...], address: str) -> None:
    assert address_of(*called(peer, *forwarded), [ip_network("10.0.0.0/8"), ip_network("::1")]) == address


# --- who is limited -----------------------------------------------------------------------------------------------

STRICT = Switches(limited=True, user_rate=Rate(2, 60), address_rate=Rate(3, 60))


async def spend(limits: Limits, caller: Caller, *, peer: str, user_id: str | None) -> None:
    """One call."""
    asking = limits.spend(STRICT, *called(peer), caller, user_id=user_id)
    if asking is not None:
        await asking


def spent(limits: Limits, caller: Caller, *, times: int, user_id: str | None, peer: str = "9.9.9.9") -> list[bool]:
    """Whether each of so many calls passed."""

    async def calls() -> list[bool]:
        passed = []
        for _ in range(times):
            try:
                await spend(limits, caller, peer=peer, user_id=user_id)
            except RateLimited:
                passed.append(False)
            else:
                passed.append(True)
        return passed

    return asyncio.run(calls())


def test_users_and_addresses_have_limits_of_their_own() -> None:
    limits = Limits()
    assert spent(limits, ANYBODY, times=3, user_id="ann") == [True, True, False]
    assert spent(limits, ANYBODY, times=2, user_id="bob") == [True, False]  # the third of the address
    assert spent(limits, Caller("bob"), times=2, user_id="bob", peer="8.8.8.8") == [True, False]
    assert spent(limits, ANYBODY, times=4, user_id=None, peer="7.7.7.7") == [True, True, True, False]


def test_who_is_refused_learns_when_to_come_back() -> None:
    limits = Limits()
    assert spent(limits, ANYBODY, times=2, user_id="ann") == [True, True]
    with pytest.raises(RateLimited) as refused:
        asyncio.run(spend(limits, ANYBODY, peer="9.9.9.9", user_id="ann"))
    assert 20 <= refused.value.retry_seconds <= 30
    assert (b"retry-after", b"%d" % refused.value.retry_seconds) in headers_of(refused.value, b"")


def test_a_server_of_ours_has_users_and_no_address() -> None:
    limits = Limits()
    for number in range(10):
        assert spent(limits, SERVER, times=3, user_id=f"user {number}") == [True, True, False]
    assert spent(limits, SERVER, times=10, user_id=None) == [True] * 10


# --- Redis --------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked_at(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Redis, with names of this test's own in it; it is waited for, however slow the machine is."""
    prefix = f"bigmarket:test:{os.getpid()}:{time.monotonic_ns()}:"
    monkeypatch.setattr(redis_buckets, "PREFIX", prefix)
    monkeypatch.setattr(redis_buckets, "TIMEOUT_SECONDS", 10.0)
    yield redis_url
    with redis.Redis.from_url(redis_url) as client:
        if left := client.keys(f"{prefix}*"):
            client.delete(*left)


def takes(url: str, *drafts: Sequence[tuple[str, Rate]]) -> list[float | None]:
    async def ask() -> list[float | None]:
        buckets = RedisBuckets(url)
        try:
            return [await buckets.take(draft) for draft in drafts]
        finally:
            await buckets.close()

    return asyncio.run(ask())


def test_buckets_in_redis_empty_and_fill_up(asked_at: str) -> None:
    slow, fast = [("ann", Rate(2, 600))], [("bob", Rate(1, 2))]
    first, second, third = takes(asked_at, slow, slow, slow)
    assert (first, second) == (0, 0)
    assert third == pytest.approx(300, abs=10)
    assert [wait == 0 for wait in takes(asked_at, fast, fast)] == [True, False]
    time.sleep(2.1)
    assert takes(asked_at, fast) == [0]
    with redis.Redis.from_url(asked_at) as client:
        lives = [client.pttl(key) for key in client.keys(f"{redis_buckets.PREFIX}*")]
    assert all(0 < life <= 600_000 for life in lives), "no bucket is kept once it is full"


def test_in_redis_too_one_is_taken_from_all_or_from_none(asked_at: str) -> None:
    ann, home = ("ann", Rate(1, 600)), ("home", Rate(2, 600))
    answers = takes(asked_at, [home, ann], [home, ann], [home], [home])
    assert [answer == 0 for answer in answers] == [True, False, True, False]


def test_many_at_once_take_no_more_than_there_is(asked_at: str) -> None:
    async def ask() -> list[float | None]:
        several = [RedisBuckets(asked_at) for _ in range(4)]
        try:
            for buckets in several:
                await buckets.take([("warm", Rate(100, 60))])  # connected, the script known
            return await asyncio.gather(*(several[number % 4].take([("ann", Rate(10, 600))]) for number in range(60)))
        finally:
            for buckets in several:
                await buckets.close()

    answers = asyncio.run(ask())
    assert answers.count(0) == 10


def test_limits_hold_across_processes_while_redis_answers(asked_at: str) -> None:
    one, other = Limits(redis_url=asked_at), Limits(redis_url=asked_at)

    async def both() -> list[bool]:
        passed = []
        for limits in (one, other, one, other):
            try:
                await spend(limits, ANYBODY, peer="9.9.9.9", user_id="ann")
            except RateLimited:
                passed.append(False)
            else:
                passed.append(True)
        await one.close()
        await other.close()
        return passed

    assert asyncio.run(both()) == [True, True, False, False]


def _nobody() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"redis://127.0.0.1:{taken.getsockname()[1]}/0"


def test_without_redis_memory_decides_at_once_and_one_warning_a_minute_says_so() -> None:
    limits = Limits(redis_url=_nobody())
    started = time.monotonic()
    with capture_logs() as logs:
        assert spent(limits, ANYBODY, times=50, user_id="ann") == [True, True] + [False] * 48
    assert time.monotonic() - started < 1
    assert [line["log_level"] for line in logs] == ["warning"]
    assert "Redis is in trouble" in logs[0]["event"]


@contextmanager
def proxied(url: str) -> Iterator[tuple[Proxy, str]]:
    """A network to Redis that can fail, and the URL at its near end."""
    target = parse_url(url)
    proxy = Proxy((target.get("host", "127.0.0.1"), target.get("port", 6379)))
    with closing(proxy):
        yield proxy, f"redis://127.0.0.1:{proxy.port}/{target.get('db', 0)}"


def test_a_redis_that_hangs_costs_one_call_the_time_out_and_the_others_nothing(
    asked_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_buckets, "TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(redis_buckets, "PAUSE_SECONDS", 60.0)
    with proxied(asked_at) as (proxy, url):
        proxy.silence()
        started = time.monotonic()
        assert takes(url, *([[("ann", Rate(1, 60))]] * 20)) == [None] * 20
        assert 0.5 <= time.monotonic() - started < 20 * 0.5, "one of them waited"


def test_redis_is_asked_again_after_a_pause(asked_at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_buckets, "PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(redis_buckets, "TIMEOUT_SECONDS", 0.5)
    with proxied(asked_at) as (proxy, url):

        async def ask() -> tuple[float | None, float | None, list[float | None]]:
            buckets = RedisBuckets(url)
            draft = [("ann", Rate(50, 60))]
            before = await buckets.take(draft)
            proxy.silence()
            during = await buckets.take(draft)
            proxy.restore()
            after = []
            for _ in range(10):
                await asyncio.sleep(0.15)
                after.append(await buckets.take(draft))
            await buckets.close()
            return before, during, after

        before, during, after = asyncio.run(ask())
    assert (before, during) == (0, None)
    assert 0 in after


def test_settings_name_redis_and_proxies() -> None:
    settings = load_settings(
        {"BIGMARKET_REDIS": "redis://:secret-of-ours@cache:6379/3", "BIGMARKET_TRUSTED_PROXIES": "10.0.0.0/8, ::1"}
    )
    assert [str(network) for network in settings.proxy_networks] == ["10.0.0.0/8", "::1/128"]
    for name, value in (
        ("REDIS", "cache:6379"),
        ("REDIS", "redis://cache/"),
        ("REDIS", "redis://:password@cache/"),
        ("REDIS", "redis://127.0.0.1/name"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("TRUSTED_PROXIES", "proxy"),
    ):
        with pytest.raises(ConfigurationInvalid, match=f"BIGMARKET_{name}"):
            load_settings({f"BIGMARKET_{name}": value})
