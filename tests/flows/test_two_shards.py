"""A campaign on two shards of four tables each, over HTTP and on the command line: nobody notices."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import structlog

from bigmarket.activity.campaign import parse_campaign
from bigmarket.app import KIND_CHECKS
from bigmarket.cli.running import run
from bigmarket.settings import PREFIX
from bigmarket.storage.campaigns import write_campaign
from bigmarket.storage.doctor import examine
from serving import Served, serving
from support import NOON, SMALL
from waiting import eventually

RAFFLE = "/api/v1/raffle"
CAR, LAMP = 4, 3
LAYOUT = {"tables_per_shard": 4}


def shards_in(folder: Path) -> str:
    return f"sqlite:///{folder}/first.db,sqlite:///{folder}/second.db"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, shards=shards_in(tmp_path), work=True, **LAYOUT) as running:
        with running.world.stores.config.writing() as connection:
            write_campaign(connection, parse_campaign(SMALL, kinds=KIND_CHECKS))
        yield running


def ask(served: Served, path: str, **body: object) -> Any:
    answer = served.client.post(f"{RAFFLE}/{path}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (200, "0000"), answer.text
    return answer.json()["data"]


def test_a_campaign_on_two_shards(served: Served) -> None:
    assert served.client.get(f"{RAFFLE}/activity/armory", params={"activityId": 1}).json()["data"] is True
    world = served.world
    names = [f"user-{n}" for n in range(16)]
    assert {world.stores.routing.shard_of(name) for name in names} == {0, 1}
    for name in names:
        world.recharge(name, sku=11, out_business_no=f"gift-{name}")
    wheel = ask(served, "strategy/query_raffle_award_list", userId=names[0], activityId=1)
    assert [award["awardId"] for award in wheel] == [1, 2, 3, 4]

    with ThreadPoolExecutor(8) as pool:  # everybody's fifth draw is guaranteed the car, of which there is one
        requests = [f"spin-{n}" for n in range(6) for _ in names]
        answers = list(pool.map(served.draw_patiently, names * 6, requests))
    assert {(a.status_code, a.json()["code"]) for a in answers} == {(200, "0000")}
    won = Counter(answer.json()["data"]["awardId"] for answer in answers)
    assert won[CAR] == 1
    assert won[LAMP] <= 3

    account = ask(served, "activity/query_user_activity_account", userId=names[0], activityId=1)
    assert (account["totalCount"], account["totalCountSurplus"]) == (10, 4)
    assert ask(served, "strategy/random_raffle", strategyId=9)["awardId"] != CAR, "it is gone everywhere"
    eventually(lambda: all(shard.backlog().waiting == 0 for shard in world.stores.shards), seconds=10)
    assert not [finding for finding in examine(world.stores, now_ms=NOON, grace_ms=0) if not finding.ok]


def test_a_repeated_request_is_answered_by_its_shard(served: Served) -> None:
    served.world.arm(1)
    for name in ("user-1", "user-2", "user-3"):
        served.world.recharge(name, sku=11, out_business_no=name)
        first = served.draw(name, requestId="spin")
        again = served.draw(name, requestId="spin")
        assert first.json()["data"] == again.json()["data"]
        assert first.headers["bigmarket-order-id"] == again.headers["bigmarket-order-id"]


Bigmarket = Callable[..., Any]


@pytest.fixture
def bigmarket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Bigmarket]:
    """Runs a command line on such an installation; its JSON, and the exit code in ``exit``."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BIGMARKET_HOME", str(tmp_path))
    monkeypatch.setenv("BIGMARKET_SHARDS", shards_in(tmp_path))
    monkeypatch.setenv("BIGMARKET_TABLES_PER_SHARD", "4")
    level, handlers = logging.root.level, logging.root.handlers[:]

    def call(*arguments: str) -> Any:
        capsys.readouterr()
        code = run([*arguments, "--json"])
        return {**json.loads(capsys.readouterr().out), "exit": code}

    yield call
    structlog.reset_defaults()
    logging.root.handlers[:], logging.root.level = handlers, level


def test_the_command_line_on_two_shards(tmp_path: Path, bigmarket: Bigmarket) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(SMALL.replace("2027-01-01", "2099-01-01"))
    assert bigmarket("apply", "--yes", str(file))["exit"] == 0
    assert bigmarket("armory", "1")["changed"]
    for user in ("xiaofuge", "user001"):  # in different shards
        assert bigmarket("recharge", "--user", user, "--sku", "11", "--out-business-no", user)["exit"] == 0
        drawn = bigmarket("draw", "--user", user, "--activity", "1", "--times", "2")["draws"]
        explained = bigmarket("explain", drawn[0]["order_id"])
        assert (explained["user_id"], explained["matches"]) == (user, True)
        odds = {row["award_id"]: row["chance"] for row in bigmarket("odds", "1", "--user", user)["odds"]}
        assert odds[2] != "0", "the third draw is guaranteed a mug or a lamp, wherever they are"
    assert bigmarket("doctor")["ok"]
    assert bigmarket("epochs", "1")["epochs"][0]["open"]
    assert bigmarket("parked", "list")["parked"] == []


def test_a_wrong_layout_is_explained(bigmarket: Bigmarket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bigmarket("demo")
    monkeypatch.setenv("BIGMARKET_SHARDS", ",".join(reversed(shards_in(tmp_path).split(","))))
    refused = bigmarket("doctor")
    assert refused["exit"] != 0
    assert "set up for another layout" in refused["error"]["message"]
