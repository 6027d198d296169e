"""From the draw over HTTP through MariaDB and RabbitMQ to the winner, in processes of their own.

The machine's servers are used, with a database and queues of each test's own.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from amqp import Message
from sqlalchemy import text

from bigmarket.activity.campaign import parse_campaign
from bigmarket.app import World, broker_depths, broker_prefixes, now_ms
from bigmarket.award.message import SEND_AWARD
from bigmarket.bus.rabbitmq.endpoint import endpoint_of
from bigmarket.bus.rabbitmq.link import Link
from bigmarket.bus.rabbitmq.topology import BACKOFF_MS, queues
from bigmarket.jobs.consumers import CONSUMERS
from bigmarket.outbox.task import Task
from bigmarket.settings import Settings, load_settings
from bigmarket.storage.campaigns import write_campaign
from bigmarket.storage.installation import Stores
from databases import Databases
from faults.load import Connection, Load, Log, asks_of
from faults.processes import ServerProcess, WorkProcess, environment, free_port, run_cli
from faults.verdict import SKU, assert_delivered, assert_kept, rush
from flows.broker import BROKER, BROKER_URL, delete_queues
from proxy import Proxy
from support import count
from waiting import eventually

DRAWS_EACH = 50
EXIT_SECONDS = 10.0
SINGLE = "  - {sku: 12, stock: 1, total_count: 1, month_count: 1, day_count: 1}\n"


@pytest.fixture(scope="module", autouse=True)
def broker() -> None:
    try:
        socket.create_connection(BROKER, timeout=1.0).close()
    except OSError:
        pytest.skip("RabbitMQ does not answer on 127.0.0.1:5672")


@dataclass(frozen=True)
class Site:
    """An installation: where its data is, how its processes are set, and its stores as this process sees them."""

    home: Path
    given: dict[str, Any]
    stores: Stores
    users: list[str]

    @property
    def settings(self) -> Settings:
        return load_settings(environment(self.home, **self.given))

    def server(self, **more: object) -> ServerProcess:
        return ServerProcess(self.home, **self.given, work=False, **more)

    def work(self, **more: object) -> WorkProcess:
        return WorkProcess(self.home, **self.given, **more)

    def bigmarket(self, *arguments: str) -> Any:
        """A command's JSON."""
        ran = run_cli(self.home, *arguments, "--json", **self.given)
        assert ran.stdout, ran.stderr
        return json.loads(ran.stdout)

    def owed(self) -> int:
        """Awards that a task shall deliver and has not."""
        query = "SELECT COUNT(*) FROM user_award_record WHERE award_id = 1 AND award_state = 'create'"
        return sum(count(shard, query) for shard in self.stores.shards)

    def outbox(self) -> int:
        """Tasks in the stores."""
        return sum(count(shard, "SELECT COUNT(*) FROM task") for shard in self.stores.shards)


@contextmanager
def site(databases: Databases, home: Path, *, users: int, shards: int = 1, port: int = BROKER[1]) -> Iterator[Site]:
    """An armed installation on ``shards`` new databases, its users credited; its queues are deleted afterwards."""
    home.mkdir()
    with ExitStack() as stack:
        urls = [stack.enter_context(databases.bare()) for _ in range(shards)]
        prefix = f"test-{uuid.uuid4().hex[:12]}."
        given = {"database": urls[0], "broker": BROKER_URL.format(port=port), "broker_prefix": prefix}
        given |= {"shards": ",".join(urls)} if shards > 1 else {}
        settings = load_settings(environment(home, **given))
        stack.callback(delete_queues, settings)
        world = World(settings)
        stack.callback(world.stores.close)
        with world.stores.config.writing() as connection:
            write_campaign(connection, parse_campaign(rush().replace("skus:\n", f"skus:\n{SINGLE}")))
        world.arm(1)
        names = [f"u{number:04}" for number in range(users)]
        for name in names:
            world.recharge(name, sku=SKU, out_business_no=f"first-{name}")
        assert {world.stores.routing.shard_of(name) for name in names} == set(range(shards)), "every shard has users"
        yield Site(home, given, world.stores, names)


def draw(one: Site, port: int, *, draws: int) -> Log:
    """Draws of all users in turn, until so many are acknowledged."""
    rng = random.Random(1)
    load = Load([port], asks_of(one.users, each=DRAWS_EACH, rng=rng), clients=16, rng=rng)

    async def run() -> Log:
        async with load.running() as log:
            await log.more_draws(draws)
        return log

    return asyncio.run(run())


def test_what_is_drawn_over_http_reaches_its_winner(databases: Databases, tmp_path: Path) -> None:
    with site(databases, tmp_path / "home", users=30) as one, one.server() as server, one.work() as work:
        log = draw(one, server.port, draws=30 * DRAWS_EACH)
        one.bigmarket("recharge", "--user", "a latecomer", "--sku", "12", "--out-business-no", "the only one")
        eventually(lambda: one.owed() + one.outbox() == 0, seconds=30)
        assert_delivered(*one.stores.shards)
        assert_kept(log, *one.stores.shards)
        assert one.bigmarket("doctor")["ok"]
        assert not sum(broker_depths(one.settings).values())
        won = count(one.stores.config, "SELECT COUNT(*) FROM user_award_record WHERE award_id = 1")
        assert work.metric("bigmarket_consumed_total")[""] >= won > 0
        eventually(lambda: work.metric("bigmarket_sku_sold_out_total")[""] == 1, seconds=10)
        assert not log.troubles


def test_every_shard_has_its_own_relay_and_queues(databases: Databases, tmp_path: Path) -> None:
    with site(databases, tmp_path / "home", users=30, shards=2) as one, one.server() as server, one.work():
        log = draw(one, server.port, draws=600)
        eventually(lambda: one.owed() + one.outbox() == 0, seconds=30)
        for shard in one.stores.shards:
            completed = "SELECT COUNT(*) FROM user_award_record WHERE award_id = 1 AND award_state = 'completed'"
            assert count(shard, completed) == count(shard, "SELECT COUNT(*) FROM user_credit_order") > 0
        assert not log.changed
        assert one.bigmarket("doctor")["ok"]
        assert len(broker_depths(one.settings)) == 2 * len(queues("", CONSUMERS, backoff_ms=BACKOFF_MS))


def test_without_the_broker_draws_go_on_and_afterwards_everything_arrives(
    databases: Databases, tmp_path: Path
) -> None:
    port = free_port()
    with site(databases, tmp_path / "home", users=30, port=port) as one, one.server() as server, one.work() as work:
        draw(one, server.port, draws=300)
        eventually(lambda: work.metric("bigmarket_relay_stalled") == {"": 1.0}, seconds=20)
        log = draw(one, server.port, draws=300)
        assert not log.troubles, "nobody who draws notices"
        assert one.owed() == one.outbox() > 0, "what was won waits"
        for process in (server, work):
            assert json.loads(process.get("/readyz"))["ready"]
        assert "delivery in trouble" in work.log
        assert count(one.stores.config, "SELECT COUNT(*) FROM task WHERE state = 'parked'") == 0
        back = Proxy(BROKER, port=port)
        try:
            since = time.monotonic()
            eventually(lambda: one.owed() + one.outbox() == 0, seconds=20)
            print(f"drained {time.monotonic() - since:.1f} s after the broker came")
            assert_delivered(*one.stores.shards)
            eventually(lambda: work.metric("bigmarket_relay_stalled") == {"": 0.0}, seconds=5)
            assert "delivery goes on" in work.log
        finally:
            back.close()


@pytest.mark.parametrize("silent", [False, True])
def test_without_the_broker_processes_still_end_in_time(
    databases: Databases, tmp_path: Path, *, silent: bool
) -> None:
    proxy = Proxy(BROKER)
    with (
        site(databases, tmp_path / "home", users=4, port=proxy.port) as one,
        one.server() as server,
        one.work() as work,
    ):
        if silent:
            proxy.silence()
        else:
            proxy.close()
        draw(one, server.port, draws=100)
        eventually(lambda: work.metric("bigmarket_relay_stalled") == {"": 1.0}, seconds=20)
        for process in (work, server):
            process.signal(signal.SIGTERM)
            assert process.wait(seconds=EXIT_SECONDS) == 0
        assert one.owed() == one.outbox() > 0
        proxy.close()


def test_a_broker_that_falls_silent_costs_no_award(databases: Databases, tmp_path: Path) -> None:
    proxy = Proxy(BROKER)
    try:
        with (
            site(databases, tmp_path / "home", users=30, port=proxy.port) as one,
            one.server() as server,
            one.work(),
        ):
            draw(one, server.port, draws=200)
            proxy.silence()
            log = draw(one, server.port, draws=400)
            assert not log.troubles
            proxy.cut()
            draw(one, server.port, draws=100)
            proxy.restore()
            eventually(lambda: one.owed() + one.outbox() == 0, seconds=30)
            assert_delivered(*one.stores.shards)
            assert one.bigmarket("doctor")["ok"]
    finally:
        proxy.close()


def test_what_is_parked_is_listed_redriven_and_dropped_wherever_it_lies(databases: Databases, tmp_path: Path) -> None:
    with site(databases, tmp_path / "home", users=4) as one:
        with one.server() as server:
            draw(one, server.port, draws=40)
        tasks = one.stores.config.due_tasks(now_ms() + 60_000, limit=4)
        for task in tasks:
            park(one, task)  # a dead letter, as when its consumers died of it
        one.stores.config.finish_tasks([task.message_id for task in tasks])
        publish(one, f"{SEND_AWARD}.parked", Message(b"from a stranger"))
        kept, dropped, *_ = [task.message_id for task in tasks]

        found = one.bigmarket("parked", "list")["parked"]
        assert {(each["where"], each["message_id"]) for each in found} == {
            ("broker", ""),
            *(("broker", task.message_id) for task in tasks),
        }
        assert one.bigmarket("parked", "drop", dropped) == {"dropped": 1}
        state = f"SELECT COUNT(*) FROM user_award_record WHERE order_id = '{dropped}' AND award_state = 'fail'"
        assert count(one.stores.config, state) == 1
        assert one.bigmarket("parked", "redrive", kept) == {"redriven": 1}
        assert one.bigmarket("parked", "redrive", "nowhere")["error"]["code"] == "not_found"
        assert one.bigmarket("parked", "drop", "--all")["error"]["code"] == "usage", "nobody can be asked"
        assert one.bigmarket("parked", "drop", "--all", "--yes") == {"dropped": 3}
        assert one.bigmarket("parked", "list") == {"parked": []}
        with one.work():
            eventually(lambda: one.owed() + one.outbox() == 0, seconds=30)
        failed = "SELECT COUNT(*) FROM user_award_record WHERE award_state = 'fail'"
        assert count(one.stores.config, failed) == 3


def test_without_the_broker_the_stores_are_dealt_with_and_the_broker_complained_of(
    databases: Databases, tmp_path: Path
) -> None:
    with site(databases, tmp_path / "home", users=2, port=free_port()) as one:
        assert one.bigmarket("parked", "list").keys() == {"error", "parked"}
        redriven = one.bigmarket("parked", "redrive", "--all")
        assert redriven["redriven"] == 0
        assert redriven["error"]["retryable"]


def park(one: Site, task: Task) -> None:
    body = Message(
        task.message,
        message_id=task.message_id,
        type=task.topic,
        delivery_mode=2,
        application_headers={"user_id": task.user_id, "attempts": task.attempts},
    )
    publish(one, f"{task.topic}.parked", body)


def publish(one: Site, queue: str, message: Message) -> None:
    link = Link(endpoint_of(BROKER_URL.format(port=BROKER[1])), name="test stranger")
    (prefix,) = broker_prefixes(one.settings)
    link.declare(queues(prefix, CONSUMERS))
    link._channel.basic_publish(message, routing_key=f"{prefix}{queue}")
    link.close()


def test_a_change_is_seen_by_every_process_within_a_second(databases: Databases, tmp_path: Path) -> None:
    with site(databases, tmp_path / "home", users=2) as one, one.server() as first, one.server() as second:
        assert asyncio.run(codes(one, first, second)) == {"0000"}
        closed = tmp_path / "closed.yaml"
        closed.write_text(rush().replace('end: "2099-01-01 00:00:00"', 'end: "2099-01-01 00:00:00", state: close'))
        assert one.bigmarket("apply", str(closed), "--yes")["written"]
        armed = one.bigmarket("armory", "1")
        assert armed["activity_id"] == 1

        def seconds_until(*, closed: bool) -> float:
            """Until both say so; an open one may also say that the user has no draw left."""

            def agreed() -> bool:
                told = asyncio.run(codes(one, first, second))
                return told == {"ERR_BIZ_003"} if closed else "ERR_BIZ_003" not in told

            return eventually(agreed, seconds=20)

        took = [seconds_until(closed=True)]
        for state in ("open", "close", "open"):
            with one.stores.config.writing() as connection:
                connection.execute(text("UPDATE raffle_activity SET state = :state"), {"state": state})
            took.append(seconds_until(closed=state == "close"))
        assert min(took) < 1.0, "whatever else the machine does"


async def codes(one: Site, *servers: ServerProcess) -> set[str]:
    """What a draw is answered with by each server."""
    found = set()
    for server in servers:
        connection = await Connection.open(server.port)
        body = json.dumps({"userId": one.users[0], "activityId": 1}).encode()
        found.add((await connection.request("POST", "/api/v1/raffle/activity/draw", body)).code)
        await connection.close()
    return found
