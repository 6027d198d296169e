"""kill -9 while users sign in and buy draws: each behavior earns once, each purchase is nothing or everything."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from bigmarket.activity.campaign import parse_campaign
from bigmarket.app import now_ms
from bigmarket.storage.migrate import migrate
from faults.load import Connection, Reply
from faults.processes import ServerProcess
from faults.verdict import broken, opened
from support import count, install
from waiting import eventually

pytestmark = pytest.mark.faults

USERS = 600
KILLS = 3
CLIENTS = 24
PRICE = 4  # of 10 that a sign-in earns, so that the third purchase is refused
BACK_SECONDS = 45.0

CAMPAIGN = f"""
activity:
  {{activity_id: 1, name: earn, time_zone: Asia/Shanghai, begin: "2020-01-01 00:00:00", end: "2099-01-01 00:00:00"}}
skus:
  - {{sku: 11, stock: 1000000, total_count: 3, month_count: 3, day_count: 3}}
  - {{sku: 12, stock: 1000000, total_count: 5, month_count: 5, day_count: 5, price: {PRICE}}}
strategy:
  strategy_id: 9
  name: earn
  awards: [{{award_id: 1, title: points, rate: "1", sort: 1}}]
awards:
  - {{award_id: 1, kind: nothing}}
rebates:
  - {{behavior: sign, type: sku, sku: 11}}
  - {{behavior: sign, type: integral, credits: 10}}
"""


class Customer:
    """Signs in, then buys until the credits are gone; repeats whatever got no answer."""

    def __init__(self, user_id: str, port: int) -> None:
        self.user_id = user_id
        self.bought: set[str] = set()
        self._port = port
        self._connection: Connection | None = None

    async def live(self) -> None:
        """The whole day."""
        await self._until("calendar_sign_rebate", {"userId": self.user_id}, {"0000", "0003"})
        for number in range(3):
            asked = {"userId": self.user_id, "sku": 12, "requestId": f"buy{number}"}
            codes = {"0000"} if number < 2 else {"ERR_CREDIT_001"}
            await self._until("credit_pay_exchange_sku", asked, codes)
            if number < 2:
                self.bought.add(f"buy{number}")
        await self._hang_up()

    async def _hang_up(self) -> None:
        if self._connection is not None:
            await self._connection.close()
        self._connection = None

    async def _until(self, name: str, asked: dict[str, object], codes: set[str]) -> None:
        """Ask until the answer is one of ``codes``: the credits of a sign-in come a moment after it."""
        async with asyncio.timeout(BACK_SECONDS * (KILLS + 1)):
            while (await self._ask(name, asked)) not in codes:
                await asyncio.sleep(0.05)

    async def _ask(self, name: str, asked: dict[str, object]) -> str:
        path, body = f"/api/v1/raffle/activity/{name}", json.dumps(asked).encode()
        if name == "calendar_sign_rebate":
            path, body = f"{path}?userId={asked['userId']}", b""
        try:
            if self._connection is None:
                self._connection = await Connection.open(self._port)
            reply: Reply = await self._connection.request("POST", path, body)
        except (OSError, EOFError, TimeoutError):
            await self._hang_up()
            return "none"
        return reply.code


async def _day(server: ServerProcess, customers: list[Customer], rng: random.Random) -> None:
    queue = list(customers)

    async def work() -> None:
        while queue:
            await queue.pop().live()

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(work())
        for kill in range(1, KILLS + 1):
            async with asyncio.timeout(60):
                while len(queue) > USERS * (KILLS + 1 - kill) / (KILLS + 1):
                    await asyncio.sleep(rng.uniform(0.005, 0.03))
            server.kill()
            server.start()


def test_kills_while_users_earn_leave_nothing_half_done(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with opened(home) as store:
        migrate(store)
        install(store, parse_campaign(CAMPAIGN), now_ms=now_ms())
    with ServerProcess(home) as server:
        customers = [Customer(f"u{number:04}", server.port) for number in range(USERS)]
        asyncio.run(_day(server, customers, random.Random(20261121)))
        with opened(home) as store:
            eventually(lambda: count(store, "SELECT COUNT(*) FROM task") == 0, seconds=BACK_SECONDS)
    with opened(home) as store:
        assert broken(store) == []
        assert count(store, "SELECT COUNT(*) FROM user_behavior") == USERS
        rebates = "SELECT COUNT(*) FROM user_behavior_rebate_order WHERE state = 'completed'"
        assert count(store, rebates) == 2 * USERS
        for sku, each in ((11, 1), (12, 2)):
            orders = f"SELECT COUNT(*) FROM raffle_activity_order WHERE sku = {sku} AND state = 'completed'"
            assert count(store, orders) == each * USERS
        assert all(customer.bought == {"buy0", "buy1"} for customer in customers)
        left = (10 - 2 * PRICE) * 100
        assert count(store, f"SELECT COUNT(*) FROM user_credit_account WHERE available_cents = {left}") == USERS
        assert count(store, "SELECT COUNT(*) FROM raffle_activity_account WHERE total_count = 13") == USERS
