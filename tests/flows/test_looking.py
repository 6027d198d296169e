"""The calls that only read, over HTTP: they see what was drawn, beside everything else that goes on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

from bigmarket.errors import Trouble
from databases import Databases
from serving import Served, install_small, placed, serving
from support import give
from waiting import eventually

STRATEGY, ACTIVITY = "/api/v1/raffle/strategy", "/api/v1/raffle/activity"
AWARDS = f"{STRATEGY}/query_raffle_award_list"
TIERS = f"{STRATEGY}/query_raffle_strategy_rule_weight"
ACCOUNT = f"{ACTIVITY}/query_user_activity_account"
SKUS = f"{ACTIVITY}/query_sku_product_list_by_activity_id"
CAR = 4  # opens with the second draw of a day
USERS = 200


@pytest.fixture(params=["sqlite", "mysql-split"])
def served(request: pytest.FixtureRequest, tmp_path: Path, databases: Databases) -> Iterator[Served]:
    with placed(databases, request.param) as place, serving(tmp_path, draw_deadline_seconds=20, **place) as running:
        install_small(running.world)
        yield running


def asked(served: Served, path: str, user: str) -> Any:
    answer = served.client.post(path, json={"userId": user, "activityId": 1})
    assert (answer.status_code, answer.json()["code"]) == (200, "0000"), answer.text
    return answer.json()["data"]


def test_a_draw_that_was_answered_is_seen_by_every_call(served: Served) -> None:
    give(served.world.stores.config, "ann")
    for drawn in range(4):
        assert asked(served, ACCOUNT, "ann")["totalCountSurplus"] == 10 - drawn
        assert [tier["userActivityAccountTotalUseCount"] for tier in asked(served, TIERS, "ann")] == [drawn, drawn]
        (car,) = (award for award in asked(served, AWARDS, "ann") if award["awardId"] == CAR)
        assert (car["waitUnLockCount"], car["isAwardUnlock"]) == (max(0, 2 - drawn), drawn >= 2)
        assert served.draw("ann").json()["code"] == "0000"


def test_hundreds_at_once_each_see_their_own(served: Served) -> None:
    users = [f"user-{number:03}" for number in range(USERS)]
    give(served.world.stores.config, *users[::2])
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda user: asked(served, ACCOUNT, user)["totalCount"], users))
    assert found == [10, 0] * (USERS // 2)


def test_what_is_sold_is_told_by_get_and_post(served: Served) -> None:
    before = served.client.get(SKUS, params={"activityId": 1}).json()["data"]
    assert served.client.post(SKUS, params={"activityId": 1}).json()["data"] == before
    give(served.world.stores.config, "ann", "bob", sku=12)
    after = served.client.get(SKUS, params={"activityId": 1}).json()["data"]
    left = {sku["sku"]: sku["stockCountSurplus"] for sku in before}
    assert {sku["sku"]: sku["stockCountSurplus"] for sku in after} == left | {12: left[12] - 2}


def test_other_methods_are_refused_with_those_that_are_allowed(served: Served) -> None:
    for path, allowed in ((SKUS, "GET, POST"), (ACCOUNT, "POST"), (AWARDS, "POST")):
        refused = served.client.put(path)
        assert (refused.status_code, refused.headers["allow"]) == (405, allowed)


def test_looking_costs_nothing_of_a_users_limit_and_goes_on_while_draws_are_off(tmp_path: Path) -> None:
    with serving(tmp_path, rate_limit_user="2/1h", rate_limit_address="off") as served:
        install_small(served.world)
        give(served.world.stores.config, "ann")
        served.world.turn("rateLimiterSwitch", "open")
        for _ in range(5):
            asked(served, ACCOUNT, "ann")
        assert [served.draw("ann").json()["code"] for _ in range(3)] == ["0000", "0000", "0005"]
        assert asked(served, ACCOUNT, "ann")["totalCountSurplus"] == 8
        served.world.turn("degradeSwitch", "open")
        assert served.draw("bob").json()["code"] == "0004"
        assert asked(served, ACCOUNT, "bob")["totalCount"] == 0


@contextmanager
def held(served: Served) -> Iterator[Event]:
    """The lane of looks at accounts begins nothing until the block ends; the event says that it has work."""
    (lane,) = served.world.accounts.lanes
    desk, begun, release = lane._desk, Event(), Event()
    opened = desk.open

    def open_later() -> Any:
        begun.set()
        release.wait(10)
        return opened()

    desk.open = open_later  # type: ignore[misc]
    try:
        yield begun
    finally:
        desk.open = opened  # type: ignore[misc]
        release.set()


def test_a_full_queue_refuses_looks_at_once_and_late_ones_have_spent_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, queue_max=2, draw_deadline_seconds=0.3) as served, ThreadPoolExecutor(3) as pool:
        install_small(served.world)

        def look() -> httpx.Response:
            return httpx.post(served.url + ACCOUNT, json={"userId": "ann", "activityId": 1}, timeout=10)

        with held(served) as begun:
            waiting = [pool.submit(look)]
            assert begun.wait(10)
            waiting += [pool.submit(look) for _ in range(2)]
            late = [answer.result() for answer in waiting]
            eventually(lambda: served.world.accounts.lanes[0].waiting == 2)
            refused = look()
        for answer, why in ((refused, "Too many account looks are waiting"), (late[0], "The account look is late")):
            assert (answer.status_code, answer.json()["code"]) == (503, "0006")
            assert why in answer.json()["info"]
            assert "nothing was spent" in answer.json()["info"]
            assert answer.headers["bigmarket-outcome"] == "none"
            assert answer.headers["retry-after"] == "1"
        eventually(lambda: served.world.accounts.lanes[0].waiting == 0)
        assert asked(served, ACCOUNT, "ann")["totalCount"] == 0


def test_a_database_that_is_gone_is_503_and_comes_back(served: Served) -> None:
    def gone() -> Any:
        raise Trouble("The database does not answer; nothing was spent.")

    desks = [(lane, lane._desk, lane._desk.open) for lane in served.world.accounts.lanes]
    for _, desk, _ in desks:
        desk.open = gone  # type: ignore[misc]
    answer = served.client.post(AWARDS, json={"userId": "ann", "activityId": 1})
    assert (answer.status_code, answer.json()["code"]) == (503, "0001")
    assert answer.headers["bigmarket-outcome"] == "none"
    for _, desk, opened in desks:
        desk.open = opened  # type: ignore[misc]
    assert len(asked(served, AWARDS, "ann")) == 4


def test_lanes_of_looks_are_counted_by_kind(served: Served) -> None:
    asked(served, ACCOUNT, "ann")
    served.client.get(SKUS, params={"activityId": 1})
    told = served.client.get("/metrics").text
    assert 'bigmarket_lane_answers_total{answer="made",kind="account look"} 1.0' in told
    assert 'bigmarket_lane_answers_total{answer="made",kind="shelf look"} 1.0' in told
    assert 'bigmarket_request_seconds_count{call="query_user_activity_account"} 1.0' in told
