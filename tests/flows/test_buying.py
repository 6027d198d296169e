"""Users buy draws with their credits, now or later: in process, through a broker, on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bigmarket.activity.exchange import Exchanged
from bigmarket.app import World
from bigmarket.cli.running import run
from bigmarket.credit.model import CreditShort
from bigmarket.errors import Trouble
from bigmarket.settings import load_settings
from bigmarket.storage.campaigns import write_campaign
from bigmarket.storage.doctor import examine
from bigmarket.storage.queries import account_of, credit_account_of
from faults.processes import environment
from flows.broker import broker_settings
from purchases import FEW, PLENTY, PRICE, SOLD, shop
from support import NOON
from waiting import eventually

WAIT = 20.0


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now_ms = NOON

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["in process", "through a broker"])
def world(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[World]:
    with ExitStack() as stack:
        through = stack.enter_context(broker_settings(tmp_path)) if request.param == "through a broker" else {}
        running = World(
            load_settings(environment(tmp_path, order_minutes=5, draw_deadline_seconds=20, **through)), clock=clock
        )
        with running.stores.config.writing() as connection:
            write_campaign(connection, shop())
        running.arm(1)
        yield stack.enter_context(running)


def buy(world: World, user: str, sku: int = PLENTY, request_id: str | None = None) -> Exchanged:
    return world.exchanges.ask(user, sku, request_id, timeout_seconds=WAIT)


def give(world: World, user: str, cents: int, no: str) -> None:
    world.adjust_credits(user, amount_cents=cents, reason="test", out_business_no=no)


def draws(world: World, user: str) -> int:
    with world.stores.of(user).reading() as connection:
        found = account_of(connection, user, 1)
    return found.total_left if found else 0


def balance(world: World, user: str) -> int:
    with world.stores.of(user).reading() as connection:
        found = credit_account_of(connection, user)
    return found.available_cents if found else 0


def assert_healthy(world: World, clock: Clock) -> None:
    """Every promise holds as soon as what is in the broker has come out."""
    eventually(lambda: all(shard.backlog().waiting == 0 for shard in world.stores.shards))
    eventually(lambda: all(finding.ok for finding in examine(world.stores, now_ms=clock(), grace_ms=0)))


def test_a_user_buys_draws_and_draws(world: World, clock: Clock) -> None:
    with pytest.raises(CreditShort):
        buy(world, "ann")
    give(world, "ann", 250, "gift")
    bought = buy(world, "ann", request_id="once")
    assert draws(world, "ann") == bought.counts.total, "they are there at once"
    assert buy(world, "ann", request_id="once") == bought._replace(repeated=True)
    assert world.lanes.ask("ann", 1, None, timeout_seconds=WAIT).user_id == "ann"
    assert (balance(world, "ann"), draws(world, "ann")) == (250 - PRICE, bought.counts.total - 1)
    assert_healthy(world, clock)


def test_an_order_is_placed_and_paid_from_outside(world: World, clock: Clock) -> None:
    give(world, "ann", 250, "gift")
    order = world.place_order("ann", sku=FEW, out_business_no="shop-1")
    give(world, "ann", -order.pay_cents, "shop-1")
    eventually(lambda: draws(world, "ann") == order.counts.total)
    assert world.place_order("ann", sku=FEW, out_business_no="shop-1").state == "completed"
    assert_healthy(world, clock)


def test_an_order_that_nobody_pays_expires(world: World, clock: Clock) -> None:
    orders = [world.place_order(f"u{n}", sku=FEW, out_business_no=f"shop-{n}") for n in range(5)]
    give(world, "ann", 250, "gift")
    clock.now_ms += 5 * 60_000
    (job,) = [job for job in world.work.schedule.jobs if job.name == "unpaid-orders"]
    world.work.schedule.run(job)
    eventually(lambda: world.place_order("u0", sku=FEW, out_business_no="shop-0").state == "expired")
    assert buy(world, "ann", FEW).counts == orders[0].counts
    assert_healthy(world, clock)


def test_many_users_at_once(world: World, clock: Clock) -> None:
    users = [f"u{number}" for number in range(40)]

    def shop_around(user: str) -> int:
        give(world, user, 3 * PRICE, f"gift-{user}")
        world.place_order(user, sku=PLENTY, out_business_no=f"shop-{user}")
        bought = 0
        for number in range(5):
            try:
                bought += not buy(world, user, request_id=f"r{number}").repeated
            except (CreditShort, Trouble):
                continue
        return bought

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(shop_around, users)) <= {0, 1, 2, 3}
    for user in users:
        assert draws(world, user) == 10 * (3 - balance(world, user) // PRICE)
    assert_healthy(world, clock)


# --- the command line ---------------------------------------------------------------------------------------------


def test_credits_and_orders_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shop.yaml").write_text(SOLD.replace("2027-01-01", "2099-01-01"), encoding="utf-8")

    def bigmarket(*arguments: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert run(["--home", str(tmp_path / "home"), *arguments, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    bigmarket("apply", str(tmp_path / "shop.yaml"), "--yes")
    bigmarket("armory", "1")
    ann = ("--user", "ann")
    gift = ("credits", "adjust", *ann, "--amount", "6.50", "--reason", "sorry", "--out-business-no", "case-1")
    assert bigmarket(*gift) | {"order_id": ""} == {
        "order_id": "", "amount": "6.50", "out_business_no": "case-1", "reason": "sorry", "repeated": False,
        "user_id": "ann", "available": "6.50", "account_status": "open",
    }  # fmt: skip
    assert bigmarket(*gift)["repeated"] is True
    for amount in ("1.005", "much", "NaN", "1e40"):
        refused = bigmarket(
            "credits", "adjust", *ann, f"--amount={amount}", "--reason", "x", "--out-business-no", "y", code=1
        )
        assert refused["error"]["code"] == "bad_input"

    placed = bigmarket("place", *ann, "--sku", str(FEW), "--out-business-no", "shop-1")
    assert (placed["state"], placed["price"], placed["repeated"]) == ("wait_pay", "2.50", False)
    bought = bigmarket("exchange", *ann, "--sku", str(PLENTY), "--request-id", "once")
    assert (bought["draws"], bought["paid"], bought["repeated"]) == (10, "1.00", False)
    assert bigmarket("exchange", *ann, "--sku", str(PLENTY), "--request-id", "once")["repeated"] is True
    assert bigmarket("exchange", *ann, "--sku", str(FEW))["order_id"] == placed["order_id"]
    refused = bigmarket("exchange", "--user", "bob", "--sku", str(FEW), code=1)
    assert refused["error"]["code"] == "credit_short"

    assert bigmarket("credits", "close", *ann)["account_status"] == "close"
    assert bigmarket("exchange", *ann, "--sku", str(PLENTY), code=1)["error"]["code"] == "credit_account_closed"
    assert bigmarket("credits", "open", *ann)["account_status"] == "open"

    orders = bigmarket("orders", *ann)["orders"]
    assert {(order["sku"], order["price"], order["state"]) for order in orders} == {
        (FEW, "2.50", "completed"), (PLENTY, "1.00", "completed"),
    }  # fmt: skip
    shown = bigmarket("credits", "show", *ann)
    assert shown["available"] == "3.00"
    assert sorted(order["amount"] for order in shown["orders"]) == ["-1.00", "-2.50", "6.50"]
    assert bigmarket("credits", "show", "--user", "nobody", code=1)["error"]["code"] == "not_found"
    bigmarket("doctor")


def test_credits_and_orders_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shop.yaml").write_text(SOLD.replace("2027-01-01", "2099-01-01"), encoding="utf-8")

    def bigmarket(*arguments: str) -> str:
        capsys.readouterr()
        assert run(["--home", str(tmp_path / "home"), *arguments]) == 0
        return capsys.readouterr().out

    bigmarket("apply", str(tmp_path / "shop.yaml"), "--yes")
    bigmarket("armory", "1")
    ann = ("--user", "ann")
    assert "ann has no orders" in bigmarket("orders", *ann)
    given = bigmarket("credits", "adjust", *ann, "--amount", "5", "--reason", "a gift", "--out-business-no", "case-1")
    assert "5.00 credits given to ann" in given
    assert "waits for 2.50 credits" in bigmarket("place", *ann, "--sku", str(FEW), "--out-business-no", "shop-1")
    assert "ann bought 10 draws for 1.00 credits" in bigmarket("exchange", *ann, "--sku", str(PLENTY))
    listed = bigmarket("orders", *ann)
    assert "wait_pay" in listed
    assert "completed" in listed
    shown = bigmarket("credits", "show", *ann)
    assert "ann has 4.00 credits" in shown
    assert "a gift" in shown
