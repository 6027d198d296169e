"""Crowds over HTTP: ten thousand users sign in, and the same request comes two hundred times at once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bigmarket.activity.campaign import parse_campaign
from databases import Databases
from faults.load import Connection, Reply
from serving import Served, placed, serving
from support import NOON, assert_healthy, count, install
from waiting import eventually

USERS = 10_000
CONNECTIONS = 64
DUPLICATES = 200
BUYERS, AFFORDED = 50, 10

CAMPAIGN = """
activity:
  {activity_id: 1, name: crowd, time_zone: Asia/Shanghai, begin: "2026-01-01 00:00:00", end: "2027-01-01 00:00:00"}
skus:
  - {sku: 11, stock: 20000, total_count: 2, month_count: 2, day_count: 2}
  - {sku: 12, stock: 20000, price: 1, total_count: 3, month_count: 3, day_count: 3}
strategy:
  strategy_id: 9
  name: crowd
  awards: [{award_id: 1, title: nothing, rate: "1", sort: 1}]
awards:
  - {award_id: 1, kind: nothing}
rebates:
  - {behavior: sign, type: sku, sku: 11}
  - {behavior: sign, type: integral, credits: 10}
"""


class Request:
    """A call, as ``Connection`` sends it."""

    def __init__(self, name: str, **asked: object) -> None:
        signs = name == "calendar_sign_rebate"
        self.path = f"/api/v1/raffle/activity/{name}" + (f"?userId={asked['userId']}" if signs else "")
        self.body = b"" if signs else json.dumps(asked).encode()


@pytest.fixture(params=["sqlite", "mysql"])
def served(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[Served]:
    with placed(databases, request.param) as place, serving(tmp_path, work=True, **place) as running:
        install(running.world.stores.config, parse_campaign(CAMPAIGN))
        running.world.live.refresh()
        yield running


@asynccontextmanager
async def open_connections(served: Served, number: int) -> AsyncIterator[list[Connection]]:
    port = urlsplit(served.url).port
    assert port is not None
    connections = [await Connection.open(port) for _ in range(number)]
    try:
        yield connections
    finally:
        for connection in connections:
            await connection.close()


def send(served: Served, requests: Sequence[Request], *, connections: int) -> list[Reply]:
    """The answers to ``requests``, which so many connections send, each as fast as it is answered.

    Whoever is refused because of the others, as may be on a slow machine, asks again.
    """
    waiting = list(reversed(requests))
    answers: list[Reply] = []
    refused: list[Request] = []

    async def work(connection: Connection) -> None:
        while waiting:
            request = waiting.pop()
            reply = await connection.request("POST", request.path, request.body)
            if reply.status == 503 and len(refused) < len(requests):
                refused.append(request)
                await asyncio.sleep(0.1)
                waiting.append(request)
            else:
                answers.append(reply)

    async def run() -> None:
        async with open_connections(served, connections) as open_ones, asyncio.TaskGroup() as group:
            for connection in open_ones:
                group.create_task(work(connection))

    asyncio.run(run())
    return answers


def at_once(served: Served, request: Request, times: int) -> Counter[str]:
    """The codes that ``request`` gets when so many connections send it at the same moment."""
    return Counter(reply.code for reply in send(served, [request] * times, connections=times))


def settled(served: Served) -> None:
    """Wait until everything earned is given."""
    eventually(lambda: count(served.world.stores.config, "SELECT COUNT(*) FROM task") == 0, seconds=20)


def draws_left(served: Served, user_id: str) -> int:
    asked = {"userId": user_id, "activityId": 1}
    answer = served.client.post("/api/v1/raffle/activity/query_user_activity_account", json=asked)
    return int(answer.json()["data"]["totalCountSurplus"])


def credits_left(served: Served, user_id: str) -> float:
    answer = served.client.post(f"/api/v1/raffle/activity/query_user_credit_account?userId={user_id}")
    return float(answer.json()["data"])


def test_ten_thousand_users_sign_in(served: Served) -> None:
    requests = [Request("calendar_sign_rebate", userId=f"u{number:05}") for number in range(USERS)]
    answers = send(served, requests, connections=CONNECTIONS)
    assert Counter(reply.code for reply in answers) == {"0000": USERS}
    settled(served)
    store = served.world.stores.config
    assert count(store, "SELECT COUNT(*) FROM user_behavior") == USERS
    assert count(store, "SELECT COUNT(*) FROM user_behavior_rebate_order WHERE state = 'completed'") == 2 * USERS
    assert count(store, "SELECT COUNT(*) FROM raffle_activity_account WHERE total_count = 2") == USERS
    assert count(store, "SELECT COUNT(*) FROM user_credit_account WHERE available_cents = 1000") == USERS
    assert_healthy(store, now_ms=NOON)


def test_two_hundred_duplicates_change_the_state_once(served: Served) -> None:
    assert at_once(served, Request("calendar_sign_rebate", userId="ann"), DUPLICATES) == {
        "0000": 1,
        "0003": DUPLICATES - 1,
    }
    settled(served)
    assert (draws_left(served, "ann"), credits_left(served, "ann")) == (2, 10)

    bought = Request("credit_pay_exchange_sku", userId="ann", sku=12, requestId="buy")
    assert at_once(served, bought, DUPLICATES) == {"0000": DUPLICATES}
    assert (draws_left(served, "ann"), credits_left(served, "ann")) == (5, 9)

    drawn = send(
        served, [Request("draw", userId="ann", activityId=1, requestId="spin")] * DUPLICATES, connections=DUPLICATES
    )
    assert Counter(reply.code for reply in drawn) == {"0000": DUPLICATES}
    assert len({reply.won for reply in drawn}) == 1
    assert draws_left(served, "ann") == 4
    settled(served)
    assert_healthy(served.world.stores.config, now_ms=NOON)


def test_fifty_exchanges_with_credits_for_ten_deliver_ten(served: Served) -> None:
    served.world.adjust_credits("bob", amount_cents=AFFORDED * 100, reason="a test", out_business_no="bob")
    codes = at_once(served, Request("credit_pay_exchange_sku", userId="bob", sku=12), BUYERS)
    assert codes == {"0000": AFFORDED, "ERR_CREDIT_001": BUYERS - AFFORDED}
    settled(served)
    assert (draws_left(served, "bob"), credits_left(served, "bob")) == (3 * AFFORDED, 0)
    orders = "SELECT COUNT(*) FROM raffle_activity_order WHERE state"
    assert count(served.world.stores.config, f"{orders} = 'completed'") == AFFORDED
    assert count(served.world.stores.config, f"{orders} <> 'completed'") == 0
    assert_healthy(served.world.stores.config, now_ms=NOON)
